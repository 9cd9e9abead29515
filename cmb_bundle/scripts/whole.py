"""Read images whole: a file that is damaged, or not as long as its header says, is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple
from nibabel.arrayproxy import ArrayProxy
from nibabel.volumeutils import apply_read_scaling

from .files import NIBABEL_SUFFIXES, check_gzip, unpacked

MOST_VOXELS = 2**28
"""Of one volume: more than any scan of a head has; a whole head at 0.25 mm has fewer."""
MOST_VALUES = 2**30
"""Of all volumes of a file."""
MOST_PACKED = 1100
"""How many bytes a byte of gzip can become, and some more."""
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
    length = check_gzip(path)
    if not path.name.lower().endswith(NIBABEL_SUFFIXES):
        _check_sizes(_sizes_of_itk(path))
        return
    image = nib.load(path)
    _check_sizes(image.shape)
    proxy, file = image.dataobj, Path(image.file_map["image"].filename)
    if not isinstance(proxy, ArrayProxy):
        return
    if file.resolve() != path.resolve():
        length = check_gzip(file)
    _check_length(image, length)


class WholeReader(NibabelReader):
    """MONAI's reader of NIfTI in a single file, which unpacks it once, and refuses what :func:`check_whole` refuses."""

    def read(self, data: str | PathLike, **kwargs: object) -> nib.spatialimages.SpatialImage:
        """
        Args:
            data: a path that ends in .nii or .nii.gz.

        Returns:
            the image, in memory.
        """
        self.filenames = ensure_tuple(data)  # which get_data goes through
        (path,) = self.filenames
        image = nib.load(path)
        _check_sizes(image.shape)
        proxy = image.dataobj
        needed = proxy.offset + math.prod(image.shape) * proxy.dtype.itemsize
        if needed > Path(path).stat().st_size * MOST_PACKED:  # no memory for what cannot be there
            _check_length(image, check_gzip(path))
        content = bytearray(needed)
        with unpacked(path) as stream:
            _check_length(image, _fill(content, stream))
        stored = np.frombuffer(content, proxy.dtype, math.prod(image.shape), proxy.offset).reshape(
            image.shape, order="F"
        )
        values = apply_read_scaling(stored, proxy.slope, proxy.inter)
        affine = image.affine if np.isfinite(image.affine).all() else np.eye(4)  # whose header is refused by others
        return correct_nifti_header_if_necessary(type(image)(values, affine, image.header))


def _fill(content: bytearray, stream: BinaryIO) -> int:
    """Read a stream to its end, of which ``content`` gets the beginning; return the bytes of it all."""
    view, length = memoryview(content), 0
    while length < len(content):
        number = stream.readinto(view[length : length + (1 << 24)])
        if not number:
            return length
        length += number
    while more := stream.read(1 << 24):
        length += len(more)
    return length


def _check_length(image: nib.spatialimages.SpatialImage, length: int) -> None:
    """Refuse an image whose file has other than ``length`` bytes, unpacked."""
    proxy = image.dataobj
    wanted, found = math.prod(image.shape) * proxy.dtype.itemsize, length - proxy.offset
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
