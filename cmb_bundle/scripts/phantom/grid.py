"""Axis-aligned grids in mm, and interpolation between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """An axis-aligned grid: position of voxel (0, 0, 0) in mm, voxel size in mm, number of voxels."""

    origin: tuple[float, float, float]
    step: tuple[float, float, float]
    shape: tuple[int, int, int]

    def axis(self, d: int) -> np.ndarray:
        """Positions in mm along axis d."""
        return self.origin[d] + self.step[d] * np.arange(self.shape[d])

    def index(self, points_mm: np.ndarray) -> np.ndarray:
        """Continuous voxel indices (n, 3) of points (n, 3) in mm."""
        return (points_mm - np.array(self.origin)) / np.array(self.step)

    def points(self) -> np.ndarray:
        """Positions of all voxels, float32 (3, i, j, k), in mm."""
        return np.stack(np.meshgrid(*(self.axis(d) for d in range(3)), indexing="ij")).astype(np.float32)


def covering(low: np.ndarray, high: np.ndarray, step: float) -> Grid:
    """The isotropic grid of a step whose voxel centres span the box from low to high (mm)."""
    shape = np.ceil((np.asarray(high) - low) / step).astype(int) + 1
    return Grid(tuple(map(float, low)), (step,) * 3, tuple(map(int, shape)))


def interpolation_matrix(source: Grid, positions: np.ndarray, d: int) -> np.ndarray:
    """Linear interpolation along axis d as a float32 matrix (positions, source voxels); the ends are repeated."""
    n = source.shape[d]
    x = np.clip((positions - source.origin[d]) / source.step[d], 0, n - 1)
    low = np.minimum(np.floor(x).astype(int), max(n - 2, 0))
    matrix = np.zeros((len(positions), n), np.float32)
    rows = np.arange(len(positions))
    matrix[rows, low] = 1 - (x - low)
    matrix[rows, np.minimum(low + 1, n - 1)] += x - low
    return matrix


def resample(volume: np.ndarray, source: Grid, axes: list[np.ndarray]) -> np.ndarray:
    """Linear interpolation of a volume at the crossings of three axes (mm); separable, so three matrix products."""
    wi, wj, wk = (interpolation_matrix(source, axes[d], d) for d in range(3))
    out = np.matmul(volume.astype(np.float32, copy=False), wk.T)
    out = np.matmul(wj, out)
    return np.tensordot(wi, out, axes=(1, 0))
