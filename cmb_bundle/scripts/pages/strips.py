"""Pictures of a place in several slices, side by side in one small file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from ..geometry import to_voxel

LEAST_PHASE = 0.3
"""The window of a phase reaches at least so far, in rad, to both sides: noise is not blown up."""


def windowed(scan: Mapping) -> tuple[list[str], np.ndarray]:
    """
    Scale what was read of a scan to grey values.

    Args:
        scan: ``image`` (1, i, j, k), SWI or T2*-weighted magnitude; ``mask`` (1, i, j, k), the head; and ``phase``
            (1, i, j, k) in rad with paramagnetic positive, if any.

    Returns:
        the names of the channels, and (C, i, j, k) float32 in [0, 1]. The image is windowed between the percentiles 1
        and 99.5 of the head. Of a phase it is the complement, grey at 0, black from the 99.5th percentile of its
        absolute value in the head on: microbleeds are dark in both, what is diamagnetic is bright in it.

    Example:
        >>> image = np.arange(8.0).reshape(1, 2, 2, 2)
        >>> names, grey = windowed({"image": image, "mask": np.ones_like(image), "phase": image / 7 - 0.5})
        >>> names, grey.shape, grey[1].ravel().round(2).tolist()[::7]
        (['image', 'phase'], (2, 2, 2, 2), [1.0, 0.0])
    """
    image, mask = (np.asarray(scan[name][0], dtype=np.float32) for name in ("image", "mask"))
    head = mask > 0.5
    tissue = image[head & (image > 0)]
    low, high = np.percentile(tissue[::4], [1, 99.5]) if tissue.size else (0.0, 1.0)
    names, channels = ["image"], [(image - low) / max(high - low, 1e-6)]
    if scan.get("phase") is not None:
        phase = np.asarray(scan["phase"][0], dtype=np.float32)
        inside = np.abs(phase[head])
        reach = np.percentile(inside[::4], 99.5) if inside.size else 0.0
        reach = min(max(float(reach), LEAST_PHASE), math.pi)
        names.append("phase")
        channels.append((0.5 - phase / (2 * reach)) * head)
    return names, np.clip(np.stack(channels), 0, 1).astype(np.float32)


def cut_slices(
    volume: np.ndarray,
    affine: np.ndarray,
    ras_mm: Sequence[float],
    size_mm: float = 24.0,
    pixel_mm: float = 0.5,
    slices: int = 1,
) -> np.ndarray:
    """
    Cut a square out of the slice nearest to a place, and out of its neighbours.

    Args:
        volume: (C, i, j, k) in [0, 1], axes in RAS order.
        affine: (4, 4) voxel to RAS mm.
        ras_mm: the place, which becomes the middle of the pictures.
        size_mm: edge of the square.
        pixel_mm: size of its pixels; values are interpolated linearly in the plane, and 0 outside of the volume.
        slices: an odd number, the nearest slice in the middle; those beyond the volume are 0.

    Returns:
        (C, slices, height, width) uint8, from inferior to superior, in radiological view: patient's right is on the
        left and anterior up.

    Example:
        >>> volume = np.zeros((1, 9, 9, 3))
        >>> volume[0, 4, 4, 1], volume[0, 6, 4, 1] = 1.0, 0.6  # the second lies to the right of the first
        >>> cut_slices(volume, np.eye(4), (4, 4, 1), size_mm=5, pixel_mm=1)[0, 0, 2].tolist()
        [153, 0, 255, 0, 0]
        >>> cut_slices(volume, np.eye(4), (4, 4, 1), size_mm=5, pixel_mm=1, slices=3).max(axis=(0, 2, 3)).tolist()
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
    middle = int(np.clip(round(centre[2]), 0, volume.shape[3] - 1))
    cut = np.zeros((len(volume), slices, pixels, pixels), dtype=np.uint8)
    for number, k in enumerate(range(middle - slices // 2, middle + slices // 2 + 1)):
        if not 0 <= k < volume.shape[3]:
            continue
        for own, channel in zip(cut, volume, strict=True):
            found = ndimage.map_coordinates(np.asarray(channel[..., k], dtype=float), grid, order=1, cval=0.0)
            own[number] = np.clip(np.rint(found * 255), 0, 255)
    return cut


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
