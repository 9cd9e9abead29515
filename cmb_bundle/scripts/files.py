"""Writing files whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xls")
TABLE_SUFFIXES = (*EXCEL_SUFFIXES, ".csv", ".tsv", ".txt")
NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh")
"""NIfTI and Analyze, also as two files, and FreeSurfer's MGH, which nibabel reads."""
IMAGE_SUFFIXES = (*NIBABEL_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
"""Those of ITK, besides; of two files, that of the header."""
UNREAD_SUFFIXES = (
    ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".img.gz", ".hdr.gz", ".mnc", ".par", ".head", ".zip", ".7z", ".tar",
    ".tar.gz", ".tgz", ".rar", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".tif", ".tiff", ".vtk", ".vti", ".mif",
    ".mif.gz",
)  # fmt: skip
"""Forms in which images lie in folders and which are not read."""

ENDING = 24
"""Letters of a name that its ending is among."""


def check_gzip(path: str | PathLike) -> None:
    """
    Read a gzip file to its end, where its checksum is; other files are left alone.

    Readers of images stop when they have the voxels, so that a damaged file passes for a whole one.

    Raises:
        OSError, EOFError or zlib.error: the file is damaged or cut off.
    """
    with Path(path).open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return
        file.seek(0)
        with gzip.GzipFile(fileobj=file) as unpacked:
            while unpacked.read(1 << 24):
                pass


def sha256(path: str | PathLike) -> str | None:
    """
    The SHA-256 of a file in hexadecimal digits, by which others can tell whether theirs is the same.

    Returns:
        None for a file that is not there.
    """
    path = Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def write_whole(path: str | os.PathLike, write: Callable[[Path], None]) -> Path:
    """
    Write a file aside, in the same folder, and rename it into place, so that nobody sees half of it.

    Args:
        path: the file; its folder is made where it is missing.
        write: called with the path to write to, which has the same ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the end of the name tells what to write; the whole of it may be as long as a name can be
    aside = path.with_name(f".{uuid.uuid4().hex}.{path.name[-ENDING:]}")
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def take_lock(path: str | os.PathLike) -> FileLock | None:
    """
    Lock a file that stands for something that one process at a time may do.

    The system frees the lock of a process that has ended, however it ended.

    Args:
        path: the file; its folder is made where it is missing. What it holds means nothing.

    Returns:
        the lock, whose ``release()`` frees it; None if another process has it. On a file system without locks it is
        one that nobody holds, and a warning says so.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> lock = take_lock(path)
        >>> lock.is_locked
        True
        >>> take_lock(path) is None
        True
        >>> lock.release()
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (NotImplementedError, OSError) as error:
        logger.warning(f"{path} cannot be locked ({error}): start nothing else that writes to {path.parent} meanwhile.")
    return lock


def write_json(path: str | os.PathLike, content: object) -> Path:
    """Write JSON, indented, whole; NaN is refused (ValueError), since JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_csv(path: str | os.PathLike, table: pd.DataFrame) -> Path:
    """Write a table as CSV without its index, whole."""
    return write_whole(path, lambda aside: table.to_csv(aside, index=False))
