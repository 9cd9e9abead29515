"""What a paramagnetic sphere does to the phase around it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

PARTS = (np.arange(5) + 0.5) / 5 - 0.5
"""Where in the thickness of a slice the field is averaged over."""


class DipoleEvidence(nn.Module):
    """
    How much the phase at the centre of a patch looks like that about a small sphere of blood.

    Outside of a sphere in a main field along z, the field is shifted by ``(3 cos^2 - 1) (R / r)^3`` of a number that is
    positive for blood products and negative for calcium: only this sign tells the two apart. The evidence is the
    correlation of the patch with that pattern, over a shell about the sphere, where neither the blurred core nor
    distant veins matter. The sphere is at the patch's middle or half a voxel from it along each axis, where it fits
    best, whether as blood or as calcium. A floor below the deviation of the phase keeps noise from counting.

    The main field is taken to be along the third axis, as in axial slices; a tilt of 20 degrees lowers the evidence by
    a quarter.

    Args:
        patch_size: voxels of a patch along its three axes.
        spacing: voxel size along them, mm.
        radius_mm: of the sphere. With two thirds of it the evidence falls to 0.5 to 0.8, with twice the radius to 0.5.

    Example:
        >>> evidence = DipoleEvidence((24, 24, 8), (0.6, 0.6, 2.0))
        >>> field = evidence.pattern((0, 0, 0))[0][None, None].float()
        >>> bool(evidence(0.5 - 0.2 * field) > 0.9), bool(evidence(0.5 + 0.2 * field) < -0.9)  # blood, calcium
        (True, True)
    """

    __constants__ = ("floor",)  # for TorchScript
    floor: float = 0.05
    """Added to the sum of squares of the phase, in (units of pi)^2."""

    def __init__(self, patch_size: Sequence[int], spacing: Sequence[float], radius_mm: float = 1.2) -> None:
        super().__init__()
        self.patch_size, self.spacing, self.radius_mm = tuple(patch_size), tuple(spacing), float(radius_mm)
        patterns, shells = zip(*map(self.pattern, itertools.product((-0.5, 0, 0.5), repeat=3)), strict=True)
        # not saved with the weights: they follow from the arguments
        self.register_buffer("patterns", torch.stack(patterns).flatten(1).float(), persistent=False)
        self.register_buffer("shells", torch.stack(shells).flatten(1).float(), persistent=False)

    def pattern(self, offset: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The field about a sphere, of mean 0 in its shell, and the shell, 0 or 1: both of the patch's size.

        Args:
            offset: voxels from the patch's middle.
        """
        field = sum(self._field(offset, part) for part in PARTS) / len(PARTS)
        _, distance = self._places(offset, 0.0)
        shell = (distance > 0.8 * self.radius_mm) & (distance < 2.5 * self.radius_mm + 2)
        field = np.where(shell, field - field[shell].mean(), 0)
        return torch.as_tensor(field), torch.as_tensor(shell.astype(float))

    def _places(self, offset: Sequence[float], part: float) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the sphere's centre, mm, along the main field and in space; ``part`` of a slice off."""
        middle = [(size - 1) / 2 + o for size, o in zip(self.patch_size, offset, strict=True)]
        axes = [np.arange(size) - m for size, m in zip(self.patch_size, middle, strict=True)]
        axes[2] = axes[2] + part
        place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) * np.array(self.spacing)
        return place[..., 2], np.linalg.norm(place, axis=-1)

    def _field(self, offset: Sequence[float], part: float) -> np.ndarray:
        along, distance = self._places(offset, part)
        outside = np.maximum(distance, self.radius_mm)  # there is no division by 0 at the centre
        return (distance > self.radius_mm) * (3 * (along / outside) ** 2 - 1) * (self.radius_mm / outside) ** 3

    def forward(self, phase: Tensor) -> Tensor:
        """Correlate.

        Args:
            phase: (B, 1, *patch_size), complement phase in [0, 1]; 0 is background, or a missing phase.

        Returns:
            (B,) in [-1, 1]: towards 1 like blood, towards -1 like calcium, 0 without a phase.
        """
        values = ((1 - 2 * phase) * (phase > 0)).flatten(1).to(self.patterns.dtype)
        # sums of products, as mixed precision would round matrix products, whose differences are taken here
        sums = _sums(values, self.shells)
        number = self.shells.sum(dim=1)
        squares = _sums(values * values, self.shells) - sums * sums / number
        scale = ((squares.clamp(min=0) + self.floor) * (self.patterns * self.patterns).sum(dim=1)).sqrt()
        found = _sums(values, self.patterns) / scale
        return found.gather(1, found.abs().argmax(dim=1, keepdim=True)).squeeze(1)


def _sums(values: Tensor, weights: Tensor) -> Tensor:
    """(B, K) sums over (B, N) values by each of (K, N) weights."""
    return (values.unsqueeze(1) * weights).sum(dim=2)
