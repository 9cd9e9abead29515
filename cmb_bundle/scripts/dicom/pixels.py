"""Read the pixels of a DICOM volume: decoded by ITK, rescaled according to each slice's header."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import DicomError
from .reader import Volume, require

FARTHEST_INTERCEPT = 1e9
"""Beyond it a RescaleIntercept is damaged."""


def read_volume(volume: Volume) -> MetaTensor:
    """
    Read a volume in the form that MONAI's readers return.

    Args:
        volume: complete, as from :func:`~.reader.read_volumes`.

    Returns:
        (1, i, j, k) float32, with ``radians_per_unit`` in the meta data of a phase whose header gives it.

    Raises:
        DicomError: see :func:`read_pixels`.
    """
    pixels, radians_per_unit = read_pixels(volume)
    affine = torch.as_tensor(volume.affine, dtype=torch.float64)
    meta = {"original_affine": affine.clone(), "spatial_shape": np.array(volume.shape)}
    if radians_per_unit is not None:
        meta["radians_per_unit"] = radians_per_unit
    return MetaTensor(torch.as_tensor(pixels)[None], affine=affine, meta=meta)


def read_pixels(volume: Volume) -> tuple[np.ndarray, float | None]:
    """
    Read the pixels of a volume, rescaled according to the header of each slice.

    ITK decodes every transfer syntax that scanners write. It applies one rescaling to all frames of a file, which is
    undone here because each frame can have its own.

    Args:
        volume: complete, as from :func:`~.reader.read_volumes`.

    Returns:
        (i, j, k) float32; and, for a phase whose header gives it, the radians per unit (phase 0 is then at value 0).

    Raises:
        DicomError: a file cannot be decoded or has dimensions that differ from its header.
    """
    import itk

    image_type, stored = itk.Image[itk.D, 3], {}
    for file in dict.fromkeys(frame.file for frame in volume.frames):
        dicom_io = itk.GDCMImageIO.New()
        reader = itk.ImageFileReader[image_type].New(FileName=file, ImageIO=dicom_io)
        try:
            reader.Update()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise DicomError(f"{file} cannot be decoded ({reason}); copy or export it again.") from error
        header = require("pydicom").dcmread(file, defer_size=1024, force=True)
        _check_length(file, header)
        intercept = dicom_io.GetRescaleIntercept()
        if not abs(intercept) <= FARTHEST_INTERCEPT:  # beside it the pixels would be rounded away
            raise DicomError(
                f"{file} has a RescaleIntercept of {intercept:g}; no scanner writes that; export it again."
            )
        values = itk.array_from_image(reader.GetOutput())
        stored[file] = np.round((values - intercept) / dicom_io.GetRescaleSlope())
        padding = header.get("PixelPaddingValue")
        if isinstance(padding, int) and padding < 0:  # around what was measured, as -2000
            stored[file][stored[file] == padding] = 0
    pixels = np.empty(volume.shape, dtype=np.float32)
    for k, frame in enumerate(volume.frames):
        slices = stored[frame.file]
        if slices.shape[1:] != (volume.shape[1], volume.shape[0]) or frame.index >= len(slices):
            raise DicomError(f"{frame.file} has {slices.shape} pixels, which differs from its header; export it again.")
        offset = frame.unit[1] if frame.unit else 0.0
        pixels[:, :, k] = (slices[frame.index] * frame.slope + (frame.intercept - offset)).T
    units = {frame.unit[0] if frame.unit else None for frame in volume.frames}
    return pixels, units.pop() if len(units) == 1 else None


def _check_length(file: str, header: Any) -> None:
    """Refuse uncompressed pixels that are fewer than Rows, Columns and frames ask for; ITK pads them."""
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is not None and syntax.is_compressed:
        return
    samples = int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames") or 1)
    expected = samples * int(header.get("SamplesPerPixel", 1)) * int(header.BitsAllocated) // 8
    found = len(header.PixelData)
    if found < expected:
        raise DicomError(
            f"{file} has {found} bytes of pixels; its header asks for {expected}. Expected a whole file; copy or "
            "export it again."
        )
