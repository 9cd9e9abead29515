"""Places and grids in mm: what several rooms need to agree on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine

GRID_TOLERANCE = 0.1
"""Two grids are the same where no voxel is farther apart than this share of the smallest edge of a voxel: headers
written by different programs round differently, while a shift that matters to a microbleed is a whole voxel."""


def to_voxel(affine: np.ndarray, ras_mm: np.ndarray) -> np.ndarray:
    """
    Find where points in RAS mm lie on a grid.

    Args:
        affine: (4, 4), voxel to RAS mm.
        ras_mm: (..., 3).

    Returns:
        (..., 3) continuous 0-based voxel indices, float64; whole numbers are centres of voxels.

    Raises:
        numpy.linalg.LinAlgError: the affine has no inverse.

    Examples:
        >>> affine = np.diag([0.5, 0.5, 2.0, 1.0])
        >>> to_voxel(affine, [[5.0, 10.0, 7.0]]).tolist()
        [[10.0, 20.0, 3.5]]
    """
    return apply_affine(np.linalg.inv(np.asarray(affine, dtype=np.float64)), np.asarray(ras_mm, dtype=np.float64))


def corners_apart_mm(shape: Sequence[int], affine: np.ndarray, other_affine: np.ndarray) -> float:
    """
    Measure how far two affines put the same voxel apart, at most.

    Args:
        shape: (i, j, k) of the grid.
        affine: (4, 4), voxel to RAS mm.
        other_affine: (4, 4), the other.

    Returns:
        the largest distance in mm; it is that of a corner, since the difference of two affine maps is affine.
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, extent - 1) for extent in shape))])
    difference = np.asarray(affine, dtype=np.float64) - np.asarray(other_affine, dtype=np.float64)
    return float(np.linalg.norm(corners @ difference[:3].T, axis=1).max())


def same_grid(shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray) -> bool:
    """
    Tell whether two volumes lie on the same grid, to within a tenth of the first one's smallest voxel edge.

    Args:
        shape: (i, j, k) of the first.
        affine: (4, 4), its voxel to RAS mm.
        other_shape: (i, j, k) of the second.
        other_affine: (4, 4), its voxel to RAS mm.

    Examples:
        >>> affine, shifted = np.diag([0.5, 0.5, 2.0, 1.0]), np.diag([0.5, 0.5, 2.0, 1.0])
        >>> shifted[0, 3] = 0.04
        >>> same_grid((9, 9, 9), affine, (9, 9, 9), shifted)
        True
        >>> shifted[0, 3] = 0.06
        >>> same_grid((9, 9, 9), affine, (9, 9, 9), shifted)
        False
    """
    if tuple(shape) != tuple(other_shape):
        return False
    edge_mm = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0).min()
    return bool(corners_apart_mm(shape, affine, other_affine) <= GRID_TOLERANCE * edge_mm)


def suppressed_by(places_mm: np.ndarray, distance_mm: float, drop_at_distance: bool = False) -> np.ndarray:
    """
    Suppress greedily: go through places in order, and keep each that has no kept place near it.

    Args:
        places_mm: (N, 3) in mm, best first.
        distance_mm: a place nearer than this to a kept one is suppressed.
        drop_at_distance: whether one at exactly this distance is suppressed, too.

    Returns:
        (N,) int, -1 for a kept place; for a suppressed one the index of the nearest place kept before it, of equally
        near ones the first.

    Examples:
        >>> suppressed_by([[0, 0, 0], [2, 0, 0], [3, 0, 0]], 3.0).tolist()
        [-1, 0, -1]
        >>> suppressed_by([[0, 0, 0], [2, 0, 0], [3, 0, 0]], 3.0, drop_at_distance=True).tolist()
        [-1, 0, 0]
    """
    places = np.asarray(places_mm, dtype=np.float64).reshape(-1, 3)
    by = np.full(len(places), -1)
    kept = np.zeros(len(places), dtype=bool)
    for number, place in enumerate(places):
        before = np.flatnonzero(kept)
        apart = np.linalg.norm(places[before] - place, axis=1)
        nearest = apart.min(initial=np.inf)
        if nearest < distance_mm or (drop_at_distance and nearest == distance_mm):
            by[number] = before[apart.argmin()]
        else:
            kept[number] = True
    return by
