"""Whether the file of an image is as long as its header says, told before its values are read into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import nibabel as nib
from nibabel.arrayproxy import ArrayProxy

from .files import NIBABEL_SUFFIXES, check_gzip

MOST_VOXELS = 2**28
"""Of one volume: more than any scan of a head has; a whole head at 0.25 mm has fewer."""
MOST_VALUES = 2**30
"""Of all volumes of a file."""
PADDING = 512
"""Bytes that may follow the values, as of programs that write whole blocks."""


def check_whole(path: str | PathLike) -> None:
    """
    Refuse the file of an image that is damaged, cut off, longer than its header says, or far larger than a scan.

    A header of which a size is damaged may ask for more memory than there is, or for fewer slices than there are.

    Args:
        path: an image of nibabel or of ITK.

    Raises:
        ValueError: its sizes are not those of a scan, or more values follow than its header says.
        Exception: it cannot be read; whatever its reader raises.

    Example:
        >>> import tempfile, numpy as np
        >>> path = Path(tempfile.mkdtemp(), "a.nii")
        >>> nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)), path)
        >>> check_whole(path)
        >>> _ = path.write_bytes(path.read_bytes() + bytes(4096))
        >>> check_whole(path)
        Traceback (most recent call last):
            ...
        ValueError: its header tells of 8 x 8 x 8 values, 512 bytes, and 4608 follow: a size in the header is damaged
    """
    path = Path(path)
    unpacked = check_gzip(path)
    if not path.name.lower().endswith(NIBABEL_SUFFIXES):
        _check_sizes(_sizes_of_itk(path))
        return
    image = nib.load(path)
    _check_sizes(image.shape)
    proxy, file = image.dataobj, Path(image.file_map["image"].filename)
    if not isinstance(proxy, ArrayProxy):
        return
    if file.resolve() != path.resolve():
        unpacked = check_gzip(file)
    wanted, found = math.prod(image.shape) * proxy.dtype.itemsize, unpacked - proxy.offset
    of_header = f"its header tells of {' x '.join(map(str, image.shape))} values, {wanted} bytes, and "
    if found < wanted:
        raise ValueError(f"{of_header}{max(0, found)} follow: it is cut off, or a size in the header is damaged")
    if found > wanted + PADDING and not isinstance(image, nib.MGHImage):  # of MGH, text may follow
        raise ValueError(f"{of_header}{found} follow: a size in the header is damaged")


def _check_sizes(sizes: Sequence[int]) -> None:
    if math.prod(sizes[:3]) > MOST_VOXELS or math.prod(sizes) > MOST_VALUES:
        raise ValueError(
            f"its header tells of {' x '.join(map(str, sizes))} values; expected at most {MOST_VOXELS} in a volume and "
            f"{MOST_VALUES} in all"
        )


def _sizes_of_itk(path: Path) -> list[int]:
    import itk

    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise ValueError("no reader knows its form")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return [int(reader.GetDimensions(axis)) for axis in range(reader.GetNumberOfDimensions())]
