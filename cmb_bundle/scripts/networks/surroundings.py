"""What lies around a candidate: whether it is in brain tissue, in a ventricle or at the skull."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .evidence import Evidence, means_of_parts

RADII_MM = (2.4, 6.0, 9.0, 17.0)
"""Edges of the rings in the plane of a slice. The lesion itself, within the first, is left to the convolutions."""

HEIGHTS_MM = (-13.0, -5.0, -1.0, 1.0, 5.0, 13.0)
"""Edges of the height above the candidate's slice."""

FRONT, BACK, SIDES = 2, 6, ((0, 4), (1, 3), (7, 5))
"""The eight parts of a ring, counted from the patient's right over the front; sides mirror each other."""


class Surroundings(Evidence):
    """
    Evidence for a microbleed from what lies around a candidate on SWI or T2*-weighted magnitude.

    A choroid plexus calcified in its ventricle, the pineal gland in its cistern, or an artery in a sulcus is as dark
    and round as a microbleed, but a microbleed has brain around it. The mean of SWI and the shares of bright and of
    dark voxels in rings about the candidate, as far as 17 mm, above it and below, each in eight parts, go through two
    hidden layers. What is to the left and to the right is put in order by its value, so that a mirrored head gives
    the same. Untrained, the evidence is 0.

    Args:
        patch_size: voxels of a patch along its three axes, which point to the right, the front and the top of the
            head; the candidate is voxel ``size // 2``. Rings that a patch does not reach are left out; parts are 0.
        spacing: their size, mm.
        hidden: units of the hidden layers.
        dropout: probability of dropout after each.

    Raises:
        ValueError: a patch is too small to hold a ring.

    Example:
        >>> around = Surroundings((60, 60, 14), (0.6, 0.6, 2.0))
        >>> around(torch.rand(2, 1, 60, 60, 14))  # not trained
        tensor([0., 0.])
        >>> in_fluid = torch.full((1, 1, 60, 60, 14), 0.9)
        >>> around.measure(in_fluid).view(3, -1).mean(dim=1).round(decimals=3)  # mean, bright and dark share
        tensor([0.9000, 1.0000, 0.0000])
    """

    __constants__ = ("bright", "dark", "blur")  # for TorchScript
    bright: float = 0.62
    """SWI above this is fluid, on T2*-weighted scans; tissue is 0.5."""
    dark: float = 0.35
    """SWI below this is bone, air or iron."""
    blur: float = 0.03
    """Width of both edges."""

    def __init__(
        self, patch_size: Sequence[int], spacing: Sequence[float], hidden: int = 64, dropout: float = 0.3
    ) -> None:
        right, front, up = ((torch.arange(n) - n // 2) * float(s) for n, s in zip(patch_size, spacing, strict=True))
        radius = torch.hypot(right[:, None], front)
        angle = torch.atan2(front.expand_as(radius), right[:, None].expand_as(radius))
        eighth = (angle / (torch.pi / 4)).round().long() % 8
        part, number = torch.zeros(tuple(patch_size), dtype=torch.long), 0
        for inner, outer in pairwise(RADII_MM):
            ring = (radius >= inner) & (radius < outer)
            for low, high in pairwise(HEIGHTS_MM):
                inside = ring[..., None] & (up > low) & (up < high)
                if inside.any():
                    part[inside] = 1 + number + eighth[..., None].expand_as(inside)[inside]
                    number += 8
        if number == 0:
            raise ValueError(f"patch_size is {tuple(patch_size)}; expected more than {RADII_MM[0]} mm to each side.")
        super().__init__(3 * number, hidden, dropout)
        self.number = number
        # not saved with the weights: they follow from the arguments; 0 is in no part
        self.register_buffer("part", part.flatten(), persistent=False)
        voxels = torch.bincount(part.flatten(), minlength=number + 1).clamp(min=1)  # a narrow patch lacks some parts
        self.register_buffer("voxels", voxels.float(), persistent=False)
        # saved, as other sizes can have as many parts, which mean something else
        self.register_buffer("patch_size", torch.tensor(tuple(patch_size)))
        self.register_buffer("middle", torch.tensor((FRONT, BACK)), persistent=False)
        self.register_buffer("one_side", torch.tensor([one for one, _ in SIDES]), persistent=False)
        self.register_buffer("other_side", torch.tensor([other for _, other in SIDES]), persistent=False)

    def measure(self, swi: Tensor) -> Tensor:
        """Look at the parts of the rings.

        Args:
            swi: (B, 1, *patch_size), in [0, 1], tissue at 0.5.

        Returns:
            (B, 3 n) for n parts: means, then shares of bright voxels, then of dark ones. Of each ring at each height
            the front, the back, and of each pair of sides the lower and the higher value.
        """
        values = swi.flatten(1).float()
        bright, dark = (values - self.bright) / self.blur, (self.dark - values) / self.blur
        found = [values, bright.sigmoid(), dark.sigmoid()]
        return torch.cat([self._means(of_voxels) for of_voxels in found], dim=1)

    def _means(self, values: Tensor) -> Tensor:
        parts = means_of_parts(values, self.part, self.voxels).unflatten(1, (-1, 8))
        middle = parts.index_select(2, self.middle)
        one, other = parts.index_select(2, self.one_side), parts.index_select(2, self.other_side)
        return torch.cat([middle, torch.minimum(one, other), torch.maximum(one, other)], dim=2).flatten(1)

    def forward(self, swi: Tensor) -> Tensor:
        """(B, 1, *patch_size), SWI in [0, 1], to (B,) evidence."""
        return self.judge(self.measure(swi))
