"""A map of regions in a scan's space, and what it says of a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import to_voxel
from .mars import CATEGORY, REGIONS

NEAR_MM = 2.0
"""Another region that is no farther than this is named too."""
REACH_MM = 25.0
"""How far around a place other regions are looked for."""
OUTSIDE_MM = 5.0
"""A place in no region, as in a sulcus, has the nearest one within this."""
MIDDLE_MM = 2.0
"""Nearer to the plane between the hemispheres than this, a side is not told."""
SIDE_NAMES = {-1: "left", 0: "middle", 1: "right", 2: "not known"}


@dataclass(frozen=True)
class Place:
    """
    Where a finding lies.

    Attributes:
        region: of the Microbleed Anatomical Rating Scale; None where it is farther than ``OUTSIDE_MM`` from all.
        side: "left", "right", "middle", or "not known" where the map does not tell.
        border_mm: distance to the nearest other region; None where there is none within ``REACH_MM``.
        neighbours: the other regions within ``NEAR_MM``, the nearest first.
    """

    region: str | None
    side: str
    border_mm: float | None
    neighbours: tuple[str, ...]

    @property
    def category(self) -> str | None:
        """The group of the region: "lobar", "deep" or "infratentorial"."""
        return CATEGORY.get(self.region)

    def entries(self) -> dict:
        """What a finding says in the JSON."""
        return {
            "region": self.region,
            "category": self.category,
            "side": self.side,
            "border_mm": self.border_mm,
            "neighbours": list(self.neighbours),
        }


@dataclass(frozen=True)
class RegionMap:
    """
    Regions on a grid.

    Args:
        region: uint8 (i, j, k), the place in ``REGIONS`` counted from 1; 0 is none.
        side: int8 (i, j, k), the keys of ``SIDE_NAMES``; it holds for the voxels around a region, too.
        affine: (4, 4), voxel to RAS mm, with axes at right angles.

    Example:
        >>> region = np.ones((20, 9, 9), np.uint8)  # frontal
        >>> region[12:] = 2  # parietal from x = 11.5 mm on
        >>> found = RegionMap(region, np.ones(region.shape, np.int8), np.eye(4)).locate((8, 4, 4))
        >>> found.region, found.side, found.border_mm, found.neighbours
        ('frontal', 'right', 3.5, ())
        >>> RegionMap(region, np.ones(region.shape, np.int8), np.eye(4)).locate((10, 4, 4)).neighbours
        ('parietal',)
    """

    region: np.ndarray
    side: np.ndarray
    affine: np.ndarray

    def locate(self, ras_mm) -> Place:
        """
        Find the region, the side and the neighbouring regions of a place.

        Voxels are taken as boxes, so that the distance to a region is that to its surface.

        Args:
            ras_mm: (3,).
        """
        voxel = to_voxel(self.affine, ras_mm)
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        shape = np.array(self.region.shape)
        nearest = np.clip(np.rint(voxel), 0, shape - 1).astype(int)
        side = SIDE_NAMES[int(self.side[tuple(nearest)])]
        reach = np.ceil(REACH_MM / spacing).astype(int)
        low, high = np.maximum(nearest - reach, 0), np.minimum(nearest + reach + 1, shape)
        box = self.region[tuple(map(slice, low, high))]
        outside = [
            (np.maximum(np.abs(np.arange(a, b) - v) - 0.5, 0) * s) ** 2
            for a, b, v, s in zip(low, high, voxel, spacing, strict=True)
        ]
        squared = outside[0][:, None, None] + outside[1][:, None] + outside[2]
        away = {int(n): float(np.sqrt(squared[box == n].min())) for n in np.unique(box) if n}
        order = sorted(away, key=lambda n: (away[n], n))
        if not order or away[order[0]] > OUTSIDE_MM:
            return Place(None, side, None, ())
        own, others = order[0], [n for n in order[1:] if away[n] <= REACH_MM]
        farther = {n: away[n] - away[own] for n in others}
        return Place(
            region=REGIONS[own - 1],
            side=side,
            border_mm=round(farther[others[0]], 2) if others else None,
            neighbours=tuple(REGIONS[n - 1] for n in others if farther[n] <= NEAR_MM),
        )
