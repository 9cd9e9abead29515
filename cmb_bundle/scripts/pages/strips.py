"""Pictures of a place in several slices, side by side in one small file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

from ..geometry import to_voxel

LEAST_PHASE = 0.3
"""The window of a phase reaches at least so far, in rad, to both sides: noise is not blown up."""


@dataclass(frozen=True)
class Channel:
    """
    A volume and how it becomes grey.

    Args:
        name: such as "SWI".
        values: (i, j, k), axes in RAS order.
        black, white: values that become black and white; the first may be the larger one.
    """

    name: str
    values: np.ndarray
    black: float = 0.0
    white: float = 1.0


def channels_of(scan: Mapping, contrast: str | None = None) -> list[Channel]:
    """
    Choose the grey values of what was read of a scan.

    Args:
        scan: ``image`` (1, i, j, k), SWI or T2*-weighted magnitude; ``mask`` (1, i, j, k), the head; and ``phase``
            (1, i, j, k) in rad with paramagnetic positive, if any.
        contrast: what was read, see :class:`~..transforms.load.LoadSubjectd`, for the name of the first.

    Returns:
        the image, black at the percentile 1 of the head and white at 99.5; and the phase, grey at 0 and black from the
        99.5th percentile of its absolute value in the head on: microbleeds are dark in both, what is diamagnetic is
        bright in the phase.

    Example:
        >>> image = np.arange(512.0).reshape(1, 8, 8, 8)
        >>> scan = {"image": image, "mask": np.ones_like(image), "phase": image / 512 - 0.5}
        >>> [(one.name, one.black < 10, one.white > 430) for one in channels_of(scan, "swi + phase")]
        [('SWI', True, True), ('phase', True, False)]
    """
    image, mask = (np.asarray(scan[name][0]) for name in ("image", "mask"))
    some = (slice(None, None, 2), slice(None, None, 2), slice(None, None, max(1, image.shape[2] // 32)))
    head = mask[some] > 0.5  # a part tells as much
    tissue = image[some][head & (image[some] > 0)]
    low, high = np.percentile(tissue, [1, 99.5]) if tissue.size else (0.0, 1.0)
    named = "T2*" if str(contrast).startswith("t2star") else "SWI"
    found = [Channel(named, image, float(low), float(max(high, low + 1e-6)))]
    if scan.get("phase") is not None:
        phase = np.asarray(scan["phase"][0])
        inside = np.abs(phase[some][head])
        reach = float(np.percentile(inside, 99.5)) if inside.size else 0.0
        reach = min(max(reach, LEAST_PHASE), math.pi)
        found.append(Channel("phase", phase, reach, -reach))
    return found


def cut_slices(
    channels: Sequence[Channel],
    affine: np.ndarray,
    ras_mm: Sequence[float],
    size_mm: float = 24.0,
    pixel_mm: float = 0.5,
    slices: int = 1,
) -> np.ndarray:
    """
    Cut a square out of the slice nearest to a place, and out of its neighbours.

    Args:
        channels: of one shape.
        affine: (4, 4) voxel to RAS mm.
        ras_mm: the place, which becomes the middle of the pictures.
        size_mm: edge of the square.
        pixel_mm: size of its pixels; values are interpolated linearly in the plane, and black outside of the volume.
        slices: an odd number, the nearest slice in the middle; those beyond the volume are black.

    Returns:
        (C, slices, height, width) uint8, from inferior to superior, in radiological view: patient's right is on the
        left and anterior up.

    Example:
        >>> volume = np.zeros((9, 9, 3))
        >>> volume[4, 4, 1], volume[6, 4, 1] = 1.0, 0.6  # the second lies to the right of the first
        >>> cut_slices([Channel("SWI", volume)], np.eye(4), (4, 4, 1), size_mm=5, pixel_mm=1)[0, 0, 2].tolist()
        [153, 0, 255, 0, 0]
        >>> cut = cut_slices([Channel("SWI", volume)], np.eye(4), (4, 4, 1), size_mm=5, pixel_mm=1, slices=3)
        >>> cut.max(axis=(0, 2, 3)).tolist()
        [0, 255, 0]
    """
    affine = np.asarray(affine, dtype=float)
    centre = to_voxel(affine, ras_mm)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    pixels = max(1, round(size_mm / pixel_mm))
    offset = (np.arange(pixels) - (pixels - 1) / 2) * pixel_mm
    i = centre[0] - offset[None, :] / spacing[0]  # columns from the patient's right to the left
    j = centre[1] - offset[:, None] / spacing[1]  # rows from anterior to posterior
    grid = np.broadcast_arrays(i, j)
    depth = channels[0].values.shape[2]
    middle = int(np.clip(round(centre[2]), 0, depth - 1))
    cut = np.zeros((len(channels), slices, pixels, pixels), dtype=np.uint8)
    for number, k in enumerate(range(middle - slices // 2, middle + slices // 2 + 1)):
        if not 0 <= k < depth:
            continue
        for own, channel in zip(cut, channels, strict=True):
            values = np.asarray(channel.values[..., k], dtype=float)
            grey = (values - channel.black) / (channel.white - channel.black)
            found = ndimage.map_coordinates(grey, grid, order=1, cval=0.0)
            own[number] = np.clip(np.rint(found * 255), 0, 255)
    return cut


def on_a_voxel(affine: np.ndarray, ras_mm: Sequence[float]) -> np.ndarray:
    """
    The centre (3,) in RAS mm of the voxel that a place lies in: pictures around it are not blurred where their pixels
    are as large as voxels.

    Example:
        >>> on_a_voxel(np.diag([0.5, 0.5, 2.0, 1.0]), (5.2, 10.0, 6.9)).tolist()
        [5.0, 10.0, 6.0]
    """
    return nib.affines.apply_affine(np.asarray(affine, dtype=float), np.rint(to_voxel(affine, ras_mm)))


def jpeg(cut: np.ndarray, quality: int = 88) -> str:
    """
    One grey JPEG in base64 of pictures: a row for each channel, a column for each slice.

    Args:
        cut: (C, slices, height, width) uint8.
        quality: of the JPEG; at 88 a picture has about a quarter of the bytes of a PNG.

    Example:
        >>> coded = jpeg(np.full((2, 3, 8, 8), 100, np.uint8))
        >>> Image.open(io.BytesIO(base64.b64decode(coded))).size
        (24, 16)
    """
    channels, slices, height, width = cut.shape
    sheet = cut.transpose(0, 2, 1, 3).reshape(channels * height, slices * width)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, format="JPEG", quality=quality, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
