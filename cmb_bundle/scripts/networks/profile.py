"""How SWI and phase run from a candidate outwards: what the field of blood does to them, and what that of calcium."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .evidence import Evidence, means_of_parts

RADII_MM = (0.0, 0.5, 1.0, 1.6, 2.3, 3.4, 5.0, 7.5)
"""Edges of the rings in the plane of a slice."""

HEIGHTS_MM = (-7.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 7.0)
"""Edges of the height above the candidate's slice."""


class Profile(Evidence):
    """
    Evidence for a microbleed from the profiles of SWI and phase, where there is a phase.

    The field about a small lesion is the same all around the main field, which is along the third axis: means over
    rings in each slice keep what the phase tells of it, and few numbers remain. Of the phase they are divided by their
    root mean square, which is given by itself: filters, echo time and field strength change how large it is. Noise and
    vessels, which are not the same all around, are averaged out. :class:`~.dipole.DipoleEvidence` is one number of this
    kind; what filters and wraps make of a dipole, and how large on SWI a lesion of that field must be, is learned here.

    Args:
        patch_size: voxels of a patch along its three axes; the candidate is voxel ``size // 2``. Rings that a patch
            does not reach are left out.
        spacing: their size, mm.
        hidden: units of the hidden layers.
        dropout: probability of dropout after each.

    Example:
        >>> profile = Profile((24, 24, 8), (0.6, 0.6, 2.0))
        >>> swi, phase, measured = torch.full((1, 3, 24, 24, 8), 0.1).unbind(1)
        >>> [round(x, 2) for x in profile.measure(torch.stack([swi, phase, measured], dim=1))[0, [0, 49, 98]].tolist()]
        [0.1, 0.91, -2.21]
        >>> profile(torch.rand(2, 3, 24, 24, 8))  # not trained
        tensor([0., 0.])
    """

    __constants__ = ("least",)  # for TorchScript
    least: float = 0.01
    """Added to the root mean square of the phase, in units of pi."""

    def __init__(
        self, patch_size: Sequence[int], spacing: Sequence[float], hidden: int = 64, dropout: float = 0.3
    ) -> None:
        right, front, up = ((torch.arange(n) - n // 2) * float(s) for n, s in zip(patch_size, spacing, strict=True))
        radius = torch.hypot(right[:, None], front)
        part, number = torch.zeros(tuple(patch_size), dtype=torch.long), 0
        for inner, outer in pairwise(RADII_MM):
            ring = (radius >= inner) & (radius < outer)
            for low, high in pairwise(HEIGHTS_MM):
                inside = ring[..., None] & (up >= low) & (up < high)
                if inside.any():
                    number += 1
                    part[inside] = number
        super().__init__(2 * number + 1, hidden, dropout)
        # not saved with the weights: they follow from the arguments; 0 is in no ring
        self.register_buffer("part", part.flatten(), persistent=False)
        self.register_buffer("voxels", torch.bincount(part.flatten(), minlength=number + 1).float(), persistent=False)
        self.voxels.clamp_(min=1)

    def measure(self, seen: Tensor) -> Tensor:
        """Look at the rings.

        Args:
            seen: (B, 3, *patch_size), SWI, phase and where it was measured, see
                :meth:`~.classifier.ContextClassifier.standardise`.

        Returns:
            (B, 2 n + 1) for n rings: means of SWI; of the phase, in units of their root mean square; and its logarithm.
        """
        swi = means_of_parts(seen[:, 0].flatten(1).float(), self.part, self.voxels)
        phase = means_of_parts(seen[:, 1].flatten(1).float(), self.part, self.voxels)
        size = phase.square().mean(dim=1, keepdim=True).sqrt() + self.least
        return torch.cat([swi, phase / size, size.log()], dim=1)

    def forward(self, seen: Tensor) -> Tensor:
        """(B, 3, *patch_size), as :meth:`measure` takes it, to (B,) evidence: 0 without a phase."""
        has_phase = seen[:, 2].flatten(1).amax(dim=1)
        return self.judge(self.measure(seen)) * has_phase
