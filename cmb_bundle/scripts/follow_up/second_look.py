"""A second look at a place where nothing was found: whether the image is dark there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..geometry import to_voxel

CORE_MM = 2.0
"""How far from the place the darkest spot is looked for: about what a registration errs and a centre is off."""
RING_MM = (5.0, 8.0)
"""Between these distances lie the surroundings, in the slice."""
STEP_MM = 0.5


def _offsets() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-RING_MM[1], RING_MM[1] + STEP_MM / 2, STEP_MM)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    points, radius = np.stack([x, y, z], -1), np.sqrt(x**2 + y**2 + z**2)
    return points[radius <= CORE_MM], points[(z == 0) & (radius >= RING_MM[0]) & (radius <= RING_MM[1])]


CORE, RING = _offsets()


def darkness(image: np.ndarray, affine: np.ndarray, ras_mm: Sequence[float]) -> float | None:
    """
    How much darker the darkest spot near a place is than its surroundings.

    Args:
        image: (i, j, k).
        affine: (4, 4), voxel to RAS mm.
        ras_mm: the place.

    Returns:
        0 for as bright as around it, 1 for black; None where there is no tissue around it in the image.

    Example:
        >>> image = np.full((40, 40, 9), 100.0)
        >>> image[20, 20, 4] = 30.0
        >>> darkness(image, np.eye(4), (20, 20, 4)), darkness(image, np.eye(4), (12, 20, 4))
        (0.7, 0.0)
    """
    core, ring = (
        ndimage.map_coordinates(image, to_voxel(affine, points + np.asarray(ras_mm)).T, order=1, cval=np.nan)
        for points in (CORE, RING)
    )
    if np.isnan(ring).mean() > 0.5 or np.isnan(core).all():
        return None
    around = float(np.nanmedian(ring))
    return round(1 - float(np.nanmin(core)) / around, 3) if around > 0 else None
