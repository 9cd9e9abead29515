"""The components of a subject's true and found label map, and how they overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3))
"""The 26 neighbours of a voxel."""


@dataclass
class LabelMaps:
    """
    The components of two label maps on one grid. Whatever touches, by 26 neighbours, is one component.

    Args:
        truth_voxel: centres of the M true ones, as continuous 0-based voxel indices.
        truth_size: their numbers of voxels.
        found_voxel: centres of the N found ones.
        found_size: their numbers of voxels.
        common: index of a true component, index of a found one, and the number of voxels that they have in common; an
            entry for each pair that has any.
        affine: 4 x 4, voxel to RAS mm.
    """

    truth_voxel: list[list[float]]
    truth_size: list[int]
    found_voxel: list[list[float]]
    found_size: list[int]
    common: list[list[int]]
    affine: list[list[float]]

    def places(self, which: str, unit: str = "mm") -> np.ndarray:
        """
        The centres of the "truth" or the "found" components.

        Args:
            which: "truth" or "found".
            unit: "mm" for RAS, or "voxel".

        Returns:
            (N, 3).
        """
        voxel = np.array(getattr(self, f"{which}_voxel"), dtype=float).reshape(-1, 3)
        affine = np.array(self.affine)
        return voxel if unit == "voxel" else voxel @ affine[:3, :3].T + affine[:3, 3]

    @property
    def voxel_mm3(self) -> float:
        """The volume of a voxel."""
        return float(abs(np.linalg.det(np.array(self.affine)[:3, :3])))


def compare_label_maps(truth: np.ndarray, found: np.ndarray, affine: np.ndarray) -> LabelMaps:
    """
    Find the components of two label maps and their overlaps.

    Args:
        truth: (i, j, k), 0 for background.
        found: (i, j, k), of the same shape.
        affine: 4 x 4, voxel to RAS mm.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> truth = np.zeros((8, 8, 4), dtype=int)
        >>> truth[1:3, 1, 1], truth[3, 2, 2] = 1, 2  # they touch at a corner
        >>> found = np.zeros((8, 8, 4), dtype=int)
        >>> found[2:4, 1, 1], found[7, 7, 3] = 1, 2
        >>> maps = compare_label_maps(truth, found, np.diag([0.5, 0.5, 2, 1]))
        >>> maps.truth_size, maps.found_size, maps.common
        ([3], [2, 1], [[0, 0, 1]])
        >>> maps.found_voxel, maps.voxel_mm3
        ([[2.5, 1.0, 1.0], [7.0, 7.0, 3.0]], 0.5)
    """
    if truth.shape != found.shape:
        raise ValueError(f"the label maps have the shapes {truth.shape} and {found.shape}; expected the same.")
    (true_parts, true_voxel, true_size), (parts, voxel, size) = _components(truth), _components(found)
    both = (true_parts > 0) & (parts > 0)
    pairs, voxels = np.unique(np.stack([true_parts[both], parts[both]], axis=1), axis=0, return_counts=True)
    common = [[int(a) - 1, int(b) - 1, int(n)] for (a, b), n in zip(pairs, voxels, strict=True)]
    return LabelMaps(true_voxel, true_size, voxel, size, common, np.asarray(affine, dtype=float).tolist())


def _components(label_map: np.ndarray) -> tuple[np.ndarray, list[list[float]], list[int]]:
    parts, number = ndimage.label(label_map > 0, TOUCHING)
    centres = ndimage.center_of_mass(parts > 0, parts, range(1, number + 1)) if number else []
    sizes = np.bincount(parts.ravel(), minlength=1)[1:]
    return parts, [[float(x) for x in centre] for centre in centres], sizes.tolist()
