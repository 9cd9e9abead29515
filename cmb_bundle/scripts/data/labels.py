"""Read the microbleeds of a subject as the annotator marked them: tables of points (Excel, CSV) and label maps.

Only this file deals with slice, x and y; its results are in voxels of the image and in RAS mm.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from ..errors import LabelError
from ..files import IMAGE_SUFFIXES
from ..geometry import corners_apart_mm, same_grid
from ..options import check_flags
from .label_files import Table, read_components, read_table
from .sheets import label_suffix

logger = logging.getLogger(__name__)

LARGE_MM = 20.0
"""A component of a label map that is longer is hardly a microbleed: those are up to 10 mm."""


@dataclass(frozen=True)
class LabelConvention:
    """How the numbers (slice, x, y) of a table map onto the array axes (i, j, k) of an image.

    By default i = x - 1, j = y - 1, k = slice - 1. A flip mirrors a column over the full extent of the image along
    its axis. The five options make 2^5 = 32 conventions, each with an exact inverse.

    Args:
        index_base: the number of the first slice, column and row: 1 or 0.
        swap_xy: x runs along the second array axis and y along the first.
        flip_x: x counts from the far end of its axis.
        flip_y: y counts from the far end of its axis.
        flip_slice: slices are counted from the far end.
    """

    index_base: int = 1
    swap_xy: bool = False
    flip_x: bool = False
    flip_y: bool = False
    flip_slice: bool = False

    def __post_init__(self) -> None:
        if self.index_base not in (0, 1):
            raise LabelError(f"index_base of the label convention is {self.index_base!r}; it must be 0 or 1.")
        names = ("swap_xy", "flip_x", "flip_y", "flip_slice")
        check_flags(**{f"{name} of the label convention": getattr(self, name) for name in names})

    def _axes(self, shape: Any) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The array axis, the extent and the mirror flag of each of the columns slice, x, y."""
        axes = [2, 1, 0] if self.swap_xy else [2, 0, 1]
        return axes, np.asarray(shape)[axes], np.array([self.flip_slice, self.flip_x, self.flip_y])

    def to_voxel(self, rows: Any, shape: Any) -> np.ndarray:
        """Map rows of a table to voxels.

        Args:
            rows: (N, 3) numbers slice, x, y.
            shape: the three extents of the image array, in voxels.

        Returns:
            (N, 3) 0-based continuous indices (i, j, k).
        """
        axes, extents, flips = self._axes(shape)
        indices = np.asarray(rows, dtype=float).reshape(-1, 3) - self.index_base
        voxel = np.empty_like(indices)
        voxel[:, axes] = np.where(flips, extents - 1 - indices, indices)
        return voxel

    def from_voxel(self, voxel: Any, shape: Any) -> np.ndarray:
        """Map voxels to rows of a table; the inverse of :py:meth:`to_voxel`.

        Args:
            voxel: (N, 3) 0-based continuous indices (i, j, k).
            shape: the three extents of the image array, in voxels.

        Returns:
            (N, 3) numbers slice, x, y.
        """
        axes, extents, flips = self._axes(shape)
        indices = np.asarray(voxel, dtype=float).reshape(-1, 3)[:, axes]
        return np.where(flips, extents - 1 - indices, indices) + self.index_base


@dataclass(frozen=True)
class Points:
    """Microbleeds of one subject; N is 0 for a subject without microbleeds.

    Args:
        voxel: (N, 3) 0-based continuous indices on the image's own grid.
        ras_mm: (N, 3) world coordinates in mm, RAS.
        diameter_mm: (N,) diameters in mm, NaN where unknown.
        notices: sentences on how the file was read, such as on hidden rows; they are logged, too.
    """

    voxel: np.ndarray
    ras_mm: np.ndarray
    diameter_mm: np.ndarray
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.voxel)


def read_points(
    path: str | Path,
    shape: Any,
    affine: Any,
    convention: LabelConvention | None = None,
    join_mm: float = 3.0,
    subject: str | None = None,
) -> Points:
    """Read the microbleeds of one subject from a table of points or from a label map.

    In a table without a header row the columns are slice, x, y and optionally class; rows of class 0 are left
    out. A header row may name slice, x, y, class, diameter_mm and lesion in any order; other columns are not
    read, which a notice says of those that may judge a row. An empty sheet means a subject without
    microbleeds. A lesion that is listed on several slices becomes one point, at the mean of its rows and with
    the largest of their diameters: points on consecutive slices (along the third array axis) are joined,
    nearest first, each with at most one point on the slice above and one on the slice below. With a column
    lesion, only rows with the same lesion number are joined.

    A class is a number or a name (cmb, mimic); decimal commas are read. Rows of the class unsure are left out, with a
    notice; those that are undecided are no label. Without a class, a row that another column calls none is an error.
    A column subject, patient or the like says whose row each is.

    In a label map each connected component (26 neighbours, separately for each value) is a lesion at its
    centroid, with the diameter of a sphere of the same volume. Its axes may be turned over or permuted against those
    of the image. The convention does not apply to label maps.

    Args:
        path: .xlsx, .xlsm, .xls, .csv, .tsv, .txt, .nii, .nii.gz, .nrrd or .mha.
        shape: the three extents of the image array that the label belongs to.
        affine: 4 x 4, voxel to RAS mm, of that image.
        convention: what slice, x and y mean; default: 1-based, i = x - 1, j = y - 1, k = slice - 1.
        join_mm: points on consecutive slices closer than this in-plane distance, in mm, are one lesion. The
            default is about the median diameter of a microbleed on SWI (2.7 mm).
        subject: whose rows to read, of a table of several subjects.

    Returns:
        the points on the image's own grid.

    Raises:
        LabelError: if the file cannot be read, has other columns, has a point outside the image, is of another
            subject, of several readers or visits, or is a label map on another grid.
    """
    path = Path(path)
    convention = convention or LabelConvention()
    shape = tuple(int(extent) for extent in tuple(shape)[:3])
    affine = np.asarray(affine, dtype=float)
    if label_suffix(path) in IMAGE_SUFFIXES:
        voxel, diameter_mm, notices = _points_of_label_map(path, shape, affine)
    else:
        table = read_table(path, subject)
        voxel = convention.to_voxel(table.rows, shape)
        _check_inside(path, table, voxel, shape, convention)
        group = _chains(voxel, affine, join_mm) if table.lesion is None else table.lesion
        voxel, diameter_mm = _merge(voxel, table.diameter_mm, group)
        notices = table.notices
    for notice in notices:
        logger.warning(notice)
    return Points(voxel, voxel @ affine[:3, :3].T + affine[:3, 3], diameter_mm, notices)


def count_points(path: str | Path, subject: str | None = None) -> int:
    """Count the rows of a table (without those of class 0, before joining) or the components of a label map.

    Args:
        path: a label file as for :py:func:`read_points`; the image is not needed.
        subject: whose rows to count, of a table of several subjects.

    Returns:
        the number; 0 for a subject without microbleeds.

    Raises:
        LabelError: if the file cannot be read or has other columns.
    """
    path = Path(path)
    if label_suffix(path) in IMAGE_SUFFIXES:
        return int(read_components(path)[0].max(initial=0))
    return len(read_table(path, subject).rows)


def _check_inside(
    path: Path, table: Table, voxel: np.ndarray, shape: tuple[int, ...], convention: LabelConvention
) -> None:
    inside = _inside(voxel, shape)
    if inside.all():
        return
    worst = int(np.argmin(inside))
    fitting = [
        f"index_base={base}, swap_xy={swap}"
        for base, swap in itertools.product((1, 0), (False, True))
        if _inside(LabelConvention(base, swap).to_voxel(table.rows, shape), shape).all()
    ]
    hint = (
        f"Every point would be inside with {' or with '.join(fitting)}; then check flip_x, flip_y, flip_slice, too."
        if fitting
        else "No index_base, swap_xy or flip puts every point inside: the label seems to belong to another "
        "image, to an image that was resampled later, or to one whose slices do not run along the third axis."
    )
    raise LabelError(
        f"{path}: row {table.row_numbers[worst]} (slice, x, y = {_plain(table.rows[worst])}) is at voxel "
        f"{_plain(voxel[worst])}, outside the image of shape {shape} ({int((~inside).sum())} of {len(inside)} "
        f"points are), with {convention}. {hint}"
    )


def _inside(voxel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return ((voxel >= -0.5) & (voxel <= np.asarray(shape) - 0.5)).all(axis=1)


def _plain(numbers: np.ndarray) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"


def _chains(voxel: np.ndarray, affine: np.ndarray, join_mm: float) -> np.ndarray:
    """Group numbers (N,): the same for identical points and for points joined from slice to slice."""
    if not len(voxel):
        return np.zeros(0, dtype=int)
    unique, inverse = np.unique(voxel, axis=0, return_inverse=True)
    below, above, in_plane_mm = _near_pairs(unique, affine, join_mm)
    links: list[tuple[int, int]] = []
    lowers, uppers = set(), set()
    for pair in np.lexsort((above, below, in_plane_mm)):
        lower, upper = int(below[pair]), int(above[pair])
        if lower not in lowers and upper not in uppers:
            links.append((lower, upper))
            lowers.add(lower)
            uppers.add(upper)
    lower, upper = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (lower, upper)), shape=(len(unique), len(unique)))
    return connected_components(graph, directed=False)[1][inverse.reshape(-1)]


def _near_pairs(voxel: np.ndarray, affine: np.ndarray, join_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The pairs of points on consecutive slices that are less than a distance apart in the plane.

    A tree finds them slice by slice: a matrix of all points against all takes 24 bytes for each pair.
    """
    below, above = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)]
    in_plane = voxel[:, :2] @ affine[:3, :2].T
    on_slice = {number: np.flatnonzero(voxel[:, 2] == number) for number in np.unique(voxel[:, 2])}
    for number, lower in on_slice.items():
        upper = on_slice.get(number + 1)
        if upper is None or join_mm <= 0:
            continue
        near = KDTree(in_plane[upper]).query_ball_point(in_plane[lower], join_mm * (1 + 1e-6))
        below.append(np.repeat(lower, [len(ones) for ones in near]))
        above.append(upper[np.concatenate(near).astype(int)])
    lower, upper = np.concatenate(below), np.concatenate(above)
    # the distance from differences of indices, which do not depend on where on the grid the points are
    apart_mm = np.linalg.norm((voxel[upper] - voxel[lower])[:, :2] @ affine[:3, :2].T, axis=1)
    joined = apart_mm < join_mm
    return lower[joined], upper[joined], apart_mm[joined]


def _merge(voxel: np.ndarray, diameter_mm: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean voxel and the largest known diameter of each group, in the order of first appearance."""
    frame = pd.DataFrame(np.column_stack([voxel, diameter_mm])).groupby(np.asarray(group), sort=False)
    return frame[[0, 1, 2]].mean().to_numpy(dtype=float), frame[3].max().to_numpy(dtype=float)


def read_label_map(path: str | Path, shape: Any, affine: Any) -> np.ndarray | None:
    """Read a label map on the grid of its image.

    Args:
        path: of a label file; a table is none.
        shape: the three extents of the image array.
        affine: 4 x 4, voxel to RAS mm, of that image.

    Returns:
        (i, j, k), 0 for background and else the number of the component, as in :py:func:`read_points`; None for a
        table.

    Raises:
        LabelError: as :py:func:`read_points`.
    """
    path = Path(path)
    if label_suffix(path) not in IMAGE_SUFFIXES:
        return None
    return _components_on_grid(path, tuple(int(n) for n in shape), np.asarray(affine, dtype=float))[0]


def _components_on_grid(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The components of a label map, turned to the axes of its image, and sentences on how it was read."""
    components, own_affine = read_components(path)
    notices = []
    if not same_grid(shape, affine, components.shape, own_affine):
        turned, turned_affine = _turned_to(components, own_affine, affine)
        if not same_grid(shape, affine, turned.shape, turned_affine):
            apart_mm = corners_apart_mm(shape, affine, own_affine)
            raise LabelError(
                f"{path}: the label map is not on the grid of its image: shape {components.shape} and origin "
                f"{_plain(own_affine[:3, 3])} mm, image {shape} and {_plain(affine[:3, 3])} mm, corners up to "
                f"{apart_mm:.3g} mm apart. Resample it to the image with nearest-neighbour interpolation."
            )
        components = turned
        notices.append(f"The axes of {path.name} were turned to those of its image.")
    return components, notices


def _points_of_label_map(
    path: Path, shape: tuple[int, ...], affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    components, notices = _components_on_grid(path, shape, affine)
    numbers = np.arange(1, components.max(initial=0) + 1)
    centroids = ndimage.center_of_mass(components > 0, components, numbers) if len(numbers) else []
    voxel = np.array(centroids, dtype=float).reshape(-1, 3)
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    boxes = ndimage.find_objects(components)
    length_mm = np.array([max(edges_mm * [side.stop - side.start for side in box]) for box in boxes])
    large = np.flatnonzero(length_mm > LARGE_MM)
    if len(large):
        longest = large[length_mm[large].argmax()]
        notices.append(
            f"{path.name} has {len(large)} component(s) longer than {LARGE_MM:g} mm, which are hardly microbleeds: the "
            f"longest has {length_mm[longest]:.0f} mm, around the voxel {_plain(voxel[longest].round())}. They count "
            "as microbleeds; remove what is none."
        )
    volume_mm3 = np.bincount(components.ravel(), minlength=1)[1:] * abs(np.linalg.det(affine[:3, :3]))
    return voxel, np.cbrt(6 * volume_mm3 / np.pi), tuple(notices)


def _turned_to(array: np.ndarray, own_affine: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An array and its affine with the axes flipped and permuted to run nearly as those of another affine."""
    orientations = nib.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(own_affine), orientations.io_orientation(affine))
    turned_affine = own_affine @ orientations.inv_ornt_aff(turn, array.shape)
    return orientations.apply_orientation(array, turn), turned_affine
