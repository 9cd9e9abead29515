"""Evidence from what is measured of a patch, beside what convolutions see."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Evidence(nn.Module):
    """
    Two hidden layers from numbers that were measured to evidence for a microbleed, which is added to its logit.

    Untrained, the evidence is 0. It is fitted when the convolutions have been trained
    (:func:`~..training.evidence.fit_evidence`), and has no gradients before.

    Args:
        number: how many numbers.
        hidden: units of the hidden layers.
        dropout: probability of dropout after each.
    """

    def __init__(self, number: int, hidden: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(number))
        self.register_buffer("scale", torch.ones(number))
        self.layers = nn.Sequential(
            nn.Linear(number, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.requires_grad_(False)

    def untrained(self) -> dict[str, Tensor]:
        """The state in which the evidence is 0."""
        last = {f"layers.{len(self.layers) - 1}.{name}" for name in ("weight", "bias")}
        return {
            name: torch.zeros_like(value) if name in last else value.clone()
            for name, value in self.state_dict().items()
        }

    def judge(self, measured: Tensor) -> Tensor:
        """(B,) evidence from (B, number), to be added to the logit of a microbleed."""
        return self.layers((measured.to(self.mean) - self.mean) / self.scale)[:, 0]


def means_of_parts(values: Tensor, part: Tensor, voxels: Tensor) -> Tensor:
    """
    Means over parts of a patch; not by a product of matrices, which mixed precision would round.

    Args:
        values: (B, V) values of the voxels.
        part: (V,) which part each voxel is in, from 1 on; 0 for none.
        voxels: (n + 1,) voxels of each part.

    Returns:
        (B, n) means.
    """
    sums = torch.zeros(values.shape[0], voxels.shape[0], device=values.device).index_add(1, part, values)
    return (sums / voxels.float())[:, 1:]
