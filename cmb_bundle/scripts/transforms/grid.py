"""The grid of a file: refused where no head can lie on it, before anything is resampled to it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import nibabel as nib
import numpy as np

from ..errors import SubjectError

EXTENT_MM = (5.0, 500.0)
"""Limits of the longest side of a grid: a head is 100 to 300 mm wide; what is smaller is a crop at best."""

VOXEL_MM = (0.15, 12.0)
"""Smallest and largest edge of a voxel: the finest scans of living people have 0.2 mm; no microbleed is 12 mm wide."""

SIZE_TOLERANCE = 0.02
"""Headers are rounded, and sforms may be sheared a little."""

MILLIMETRES = {"meter": 1000.0, "micron": 1e-3}

GUESSED = (
    "The header gives no orientation (sform and qform are 0): left and right, and where the findings lie in mm, are a "
    "guess."
)

GUESSED_ANALYZE = (
    "An Analyze header gives no orientation: left and right, and where the findings lie in mm, are a guess."
)


LOST = (
    "The header gives voxels of 1 x 1 x 1 mm from 0 on, as programs write that have lost the grid: sizes, left and "
    "right, and where the findings lie in mm, are most likely wrong."
)


def is_lost(affine: np.ndarray) -> bool:
    """
    Whether an affine is the one that programs write that know none, in RAS or, as of ITK's formats, in LPS.

    Example:
        >>> is_lost(np.eye(4)), is_lost(np.diag([-1.0, -1, 1, 1])), is_lost(np.diag([1.0, 1, 2, 1]))
        (True, True, False)
    """
    return np.array_equal(np.abs(affine), np.eye(4))


def problem_of_grid(shape: Sequence[int], affine: np.ndarray) -> str:
    """
    Say why no head can lie on a grid; empty where one can.

    Args:
        shape: (i, j, k).
        affine: (4, 4), voxel to mm.

    Example:
        >>> problem_of_grid((256, 256, 72), np.diag([0.9, 0.9, 2.0, 1.0]))
        ''
        >>> problem_of_grid((256, 256, 72), np.diag([9.0, 9.0, 20.0, 1.0]))
        'voxels of 9 x 9 x 20 mm, so that it is 2304 x 2304 x 1440 mm large'
    """
    affine = np.asarray(affine, dtype=float)
    if not np.isfinite(affine).all():
        return "an affine with values that are NaN or infinite"
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if min(edges) == 0 or abs(np.linalg.det(affine[:3, :3] / edges)) < 1e-3:
        return "an affine that is singular: it puts all voxels onto a plane, a line or a point"
    extent = edges * np.asarray(shape[:3])
    at_most, of_voxel = EXTENT_MM, VOXEL_MM
    if at_most[0] <= extent.max() <= at_most[1] and of_voxel[0] <= edges.min() and edges.max() <= of_voxel[1]:
        return ""
    voxels, size = (" x ".join(f"{value:.4g}" for value in values) for values in (edges, extent))
    return f"voxels of {voxels} mm, so that it is {size} mm large"


def check_grid(found: str, shape: Sequence[int], affine: np.ndarray) -> None:
    """
    Refuse a grid that no head can lie on.

    Args:
        found: the beginning of the message, which names the file.
        shape, affine: as of :func:`problem_of_grid`.

    Raises:
        SubjectError: the affine is not finite or singular, or the grid or its voxels are far too small or too large.
    """
    problem = problem_of_grid(shape, affine)
    if problem:
        raise SubjectError(
            f"{found} has {problem}. Expected the grid of a head: up to {EXTENT_MM[1]:g} mm large, with voxels of "
            f"{VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm. Correct the voxel size or the affine in its header, or convert it "
            "again from DICOM."
        )


def disagreements(header: nib.Nifti1Header) -> list[str]:
    """
    In what the sform of a header, which is used, differs from what its qform or its voxel size says, as sentences.

    They lie in different bytes, so that damage of one is seen here. A sform of another place, as after a registration,
    is no fault.

    Example:
        >>> header = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.diag([1.0, 1, 2, 1])).header
        >>> disagreements(header)
        []
        >>> header["pixdim"][3] = 3
        >>> disagreements(header)[0][:78]
        'The header gives two voxel sizes, 1 x 1 x 2 mm (sform, which was used) and 1 x'
    """
    if int(header["sform_code"]) == 0:
        return []
    sform, told = header.get_sform(), np.abs(np.asarray(header["pixdim"][1:4], dtype=float))
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    found = []
    if not (np.isfinite(told).all() and np.allclose(edges, told, rtol=SIZE_TOLERANCE)):
        sizes = [" x ".join(f"{value:.4g}" for value in values) for values in (edges, told)]
        found.append(
            f"The header gives two voxel sizes, {sizes[0]} mm (sform, which was used) and {sizes[1]} mm (pixdim): one "
            "of them is wrong."
        )
    if int(header["qform_code"]) > 0:
        try:
            axes = [nib.aff2axcodes(affine) for affine in (sform, header.get_qform())]
        except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
            return [*found, "The header's qform cannot be read; its sform was used."]
        if axes[0] != axes[1] and None not in axes[0]:
            names = ["".join(axis or "?" for axis in codes) for codes in axes]
            found.append(
                f"The header gives two orientations, {names[0]} (sform, which was used) and {names[1]} (qform): one of "
                "them is wrong, and with it left and right may be."
            )
    return found


def nifti_grid(path: str | PathLike) -> tuple[np.ndarray, list[str], list[str]]:
    """
    Read the affine of a file of nibabel's in mm: a NIfTI, an Analyze or an MGH file.

    Args:
        path: of the file.

    Returns:
        (4, 4), voxel to mm; sentences about how it was read; and warnings.

    Raises:
        ValueError: the header gives no voxel size.
    """
    image = nib.load(path)
    if not isinstance(image.header, nib.Nifti1Header):
        analyze = isinstance(image.header, nib.AnalyzeHeader)  # which has no orientation; MGH always has one
        return np.asarray(image.affine, dtype=float), [], [GUESSED_ANALYZE] if analyze else []
    with nib.openers.ImageOpener(image.file_map.get("header", image.file_map["image"]).filename) as stream:
        stored = type(image.header).from_fileobj(stream, check=False)  # as checked, a voxel size of 0 becomes 1
    notices, warnings = [], []
    if int(stored["sform_code"]) == 0 and (stored["pixdim"][1:4] == 0).any():
        raise ValueError("its header gives a voxel size of 0 and no sform")
    if int(stored["sform_code"]) == 0 and int(stored["qform_code"]) == 0:
        warnings.append(GUESSED)
    warnings += disagreements(image.header)
    affine = np.asarray(image.affine, dtype=float)
    unit = image.header.get_xyzt_units()[0]
    if unit in MILLIMETRES and problem_of_grid(image.shape, affine):
        affine = np.diag([*[MILLIMETRES[unit]] * 3, 1.0]) @ affine
        notices.append(f"The header gives lengths in {unit}s, which were read as such.")
    elif unit in MILLIMETRES:
        notices.append(f"The header says that lengths are in {unit}s; they fit a head in mm, and were read as mm.")
    return affine, notices, warnings
