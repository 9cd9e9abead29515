"""Small pictures of the model's two channels around a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .records import Crop


def cut_crop(
    volume: np.ndarray, affine: np.ndarray, ras_mm: Sequence[float], size_mm: float = 24.0, pixel_mm: float = 0.5
) -> Crop:
    """
    Cut a square out of the slice nearest to a place.

    Args:
        volume: (2, i, j, k) in [0, 1], SWI and complement phase, axes in RAS order.
        affine: (4, 4) voxel to RAS mm.
        ras_mm: the place, which becomes the middle of the picture.
        size_mm: edge of the square.
        pixel_mm: size of its pixels; values are interpolated linearly in the plane, and 0 outside the volume.

    Returns:
        the picture in radiological view, patient's right on the left and anterior up.
    """
    affine = np.asarray(affine, dtype=float)
    centre = np.linalg.inv(affine) @ [*ras_mm, 1.0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    pixels = max(1, round(size_mm / pixel_mm))
    offset = (np.arange(pixels) - (pixels - 1) / 2) * pixel_mm
    i = centre[0] - offset[None, :] / spacing[0]  # columns from the patient's right to the left
    j = centre[1] - offset[:, None] / spacing[1]  # rows from anterior to posterior
    k = int(np.clip(round(centre[2]), 0, volume.shape[3] - 1))
    grid = np.broadcast_arrays(i, j)
    channels = [
        ndimage.map_coordinates(np.asarray(channel[..., k], dtype=float), grid, order=1, cval=0.0) for channel in volume
    ]
    return Crop(np.clip(np.rint(np.stack(channels) * 255), 0, 255).astype(np.uint8), float(size_mm))
