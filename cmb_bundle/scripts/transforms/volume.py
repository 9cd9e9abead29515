"""Refuse a volume that is no image of slices, and fill the background that is not finite."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ..errors import SubjectError
from .grid import check_grid
from .image_files import MODALITIES
from .notices import add_notice, add_warning
from .plausible import check_extremes, check_image, empty_slices, slice_ranges

MINIMUM_SLICES = 3
MOST_NUMBERS = 10
"""Slices that a sentence names."""
MOST_APART = 0.01
"""Share of the finite voxels that may lie apart from the others for NaN around them to count as background."""


def check_volume(d: dict, name: str, key: str, path, volume: MetaTensor) -> MetaTensor:
    """
    Refuse a volume that is not one 3D image, and turn NaN around the head into background.

    Args:
        d: the subject, for its notices.
        name: of the subject, for errors.
        key: ``phase``, whose background is its median; of any other, 0.
        path: where the volume comes from, for errors.
        volume: ``(1, i, j, k)``, with an affine from voxels to RAS mm; changed in place.

    Returns:
        the volume, with ``empty_slices`` in its meta data, see :func:`~.plausible.empty_slices`.

    Raises:
        SubjectError: it has another number of dimensions, fewer than three slices, a grid on which no head lies,
            values in the head that are not finite, the same value everywhere, or none of an SWI or magnitude.
    """
    found = f"{name}: the {MODALITIES[key]} {path}"
    if volume.ndim != 4 or volume.shape[0] != 1:
        size = tuple(volume.shape[1:]) + ((volume.shape[0],) if volume.shape[0] > 1 else ())
        raise SubjectError(
            f"{found} has {len(size)} dimensions, {' x '.join(map(str, size))}. Expected one 3D volume; "
            "save one echo or time point alone."
        )
    size = tuple(volume.shape[1:])
    if min(size) < MINIMUM_SLICES:
        raise SubjectError(
            f"{found} has {' x '.join(map(str, size))} voxels. Expected at least {MINIMUM_SLICES} slices."
        )
    check_grid(found, size, volume.affine.numpy())
    lows, highs = slice_ranges(volume.as_tensor()[0])
    low, high = float(lows.min()), float(highs.max())  # NaN if there is any
    if not math.isfinite(high - low):
        bad = ~torch.isfinite(volume)
        if not is_background(volume[0].numpy()):
            raise SubjectError(
                f"{found} has {int(bad.sum())} values that are NaN or infinite. Repair or export it again."
            )
        inside = volume[~bad]
        # of a phase, 0 may be any value; the middle one of the head is near the phase 0
        volume[bad] = float(inside.median()) if key == "phase" else 0.0
        share = f"{100 * float(bad.float().mean()):.0f} %"
        add_notice(d, f"The {MODALITIES[key]} is NaN around the head ({share} of it), which is taken as background.")
        low, high = float(inside.min()), float(inside.max())
        lows, highs = slice_ranges(volume.as_tensor()[0])
    if low == high:
        raise SubjectError(f"{found} has the value {low:g} everywhere. Expected an image; export it again.")
    if key != "phase":
        check_image(found, volume.as_tensor())
    else:
        check_extremes(found, volume.as_tensor())
    volume.meta["empty_slices"] = empty_slices(lows, highs)
    return volume


def is_background(values: np.ndarray) -> bool:
    """
    Whether the values that are not finite are NaN around a head, as a brain extraction leaves it, and not in it.

    They are where each piece of them, with the zeros that it touches, reaches a face of the array, and the finite
    values other than 0 are one piece but for 1 %.

    Args:
        values: (i, j, k).

    Example:
        >>> values = np.full((9, 9, 9), np.nan)
        >>> values[2:7, 2:7, 2:7] = 1.0
        >>> is_background(values)
        True
        >>> values[4, 4, 4] = np.nan
        >>> is_background(values)
        False
    """
    bad = ~np.isfinite(values)
    if not np.isnan(values[bad]).all():
        return False
    empty = bad | (values == 0)
    outside, _ = ndimage.label(empty)
    faces = np.concatenate([outside.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    if not np.isin(outside[bad], faces).all():
        return False
    parts, _ = ndimage.label(~empty, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    return bool(sizes.size and sizes.max() >= (1 - MOST_APART) * sizes.sum())


def warn_of_empty_slices(d: dict, keys: list[str]) -> None:
    """Name the slices that are empty between slices with signal, each once, and drop them from the meta data.

    Args:
        d: the subject, with volumes that :func:`check_volume` returned.
        keys: of the volumes, in the order in which they are looked at.
    """
    known: set[int] = set()
    for key in keys:
        empty = [k for k in d[key].meta.pop("empty_slices", ()) if k not in known] if key in d else []
        known |= set(empty)
        if empty:
            of = f"of the {MODALITIES[key]}'s {d[key].shape[-1]}"
            more = f" and {len(empty) - MOST_NUMBERS} more" if len(empty) > MOST_NUMBERS else ""
            shown = ", ".join(str(k + 1) for k in empty[:MOST_NUMBERS]) + more
            which = f"Slice {shown} {of} is" if len(empty) == 1 else f"Slices {shown} {of} are"
            add_warning(
                d,
                f"{which} empty between slices with signal: microbleeds there and on the slices beside are missed. "
                "Export or convert the scan again.",
            )
