"""Writing files whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from filelock import FileLock, Timeout

from .errors import OutputError

try:
    from isal import igzip as gzip  # unpacks two to four times as fast
except ImportError:  # where the bundle is used without its installation
    import gzip

logger = logging.getLogger(__name__)

EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xls")
TABLE_SUFFIXES = (*EXCEL_SUFFIXES, ".csv", ".tsv", ".txt")
UNREAD_TABLES = (".ods", ".fods", ".numbers", ".xlsb", ".fcsv", ".mrk.json")
"""Forms in which points are saved and which are not read: of LibreOffice, of a Mac, of Excel, of 3D Slicer."""
NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh")
"""NIfTI and Analyze, also as two files, and FreeSurfer's MGH, which nibabel reads."""
IMAGE_SUFFIXES = (*NIBABEL_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
"""Those of ITK, besides; of two files, that of the header."""
UNREAD_SUFFIXES = (
    ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".img.gz", ".hdr.gz", ".mnc", ".par", ".head", ".zip", ".7z", ".tar",
    ".tar.gz", ".tgz", ".rar", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".tif", ".tiff", ".vtk", ".vti", ".mif",
    ".mif.gz", ".nii.z", ".mnc.gz", ".gipl", ".gipl.gz", ".vmr", ".rec", ".brik", ".brik.gz",
    *(f".nii{of}" for n in range(1, 10) for of in (f" ({n}).gz", f"({n}).gz", f".gz.{n}")),  # by browsers and wget
    *(f"{of}{left}" for of in (".nii.gz", ".nii")
      for left in (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".bak", ".gpg", ".lz4")),
)  # fmt: skip
"""Forms in which images lie in folders and which are not read; what a download or a copy that was stopped left."""

ENDING = 24
"""Letters of a name that its ending is among."""


def unpacked(path: str | PathLike) -> BinaryIO:
    """Open a file to read what is in it, whether it is packed by gzip or not."""
    with Path(path).open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else Path(path).open("rb")


OF_THE_SYSTEM = ("/proc", "/sys", "/dev")
"""Folders that hold no files, and some whose reading never ends."""


def walk(folder: str | PathLike, skip: Callable[[Path], bool] = lambda _: False) -> Iterator[tuple[Path, list[str]]]:
    """
    Go through a folder and those below it; what is hidden is left out.

    Links are followed, but not to a folder above; and those behind other links to each folder once only, since folders
    that are full of links to each other have no end of paths.

    Args:
        folder: where to start.
        skip: whether to leave a folder out, by its path.

    Yields:
        each folder, and the names of its files, sorted.
    """
    above: dict[Path, tuple[Path, ...]] = {Path(folder): ()}
    start = Path(folder).resolve()
    linked: set[Path] = set()  # by links that were met behind another one

    def is_left_out(path: Path, behind_a_link: bool) -> bool:
        if path.name.startswith(".") or str(path) in OF_THE_SYSTEM or skip(path):
            return True
        if not (behind_a_link and path.is_symlink()):
            return False
        target = path.resolve()
        known = target in linked
        linked.add(target)
        return known

    for where, folders, names in os.walk(folder, followlinks=True):
        real, before = Path(where).resolve(), above.pop(Path(where))
        behind = real != start / Path(where).relative_to(folder)
        folders[:] = [n for n in sorted(folders) if real not in before and not is_left_out(Path(where, n), behind)]
        if real not in before:
            above |= {Path(where, name): (*before, real) for name in folders}
            yield Path(where), sorted(name for name in names if not name.startswith("."))


def read_json(path: str | PathLike) -> object:
    """
    Read a JSON file in whatever encoding editors save it: UTF-8 with or without mark, UTF-16, or Windows-1252.

    Raises:
        OSError, ValueError or RecursionError: it cannot be read, or is no JSON.
    """
    content = Path(path).read_bytes()
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        return json.loads(content.decode("cp1252", errors="replace"))


def check_gzip(path: str | PathLike) -> int:
    """
    Read a gzip file to its end, where its checksum is; other files are left alone.

    Readers of images stop when they have the voxels, so that a damaged file passes for a whole one.

    Returns:
        its bytes, unpacked.

    Raises:
        OSError, EOFError or zlib.error: the file is damaged or cut off.
    """
    with unpacked(path) as stream:
        if not isinstance(stream, gzip.GzipFile):
            return os.fstat(stream.fileno()).st_size
        while stream.read(1 << 24):
            pass
        return stream.tell()


def sha256(path: str | PathLike) -> str | None:
    """
    The SHA-256 of a file in hexadecimal digits, by which others can tell whether theirs is the same.

    Returns:
        None for a file that is not there.
    """
    path = Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


ASIDE = re.compile(r"\.(?P<host>[0-9a-f]{8})(?P<process>[0-9a-f]{8})[0-9a-f]{16}\.(?P<name>.+)")
"""What is written aside: a dot, 32 hexadecimal digits that say by whom, and the name that it will get."""
LONGEST = 255
"""Bytes of a name, at most."""
OLD_SECONDS = 24 * 3600
"""What another computer wrote aside this long ago is taken as left over."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
OF_DISK = (*NO_SPACE, errno.EROFS)
"""Errors that every file on the same disk will meet."""
UNWRITABLE = (*OF_DISK, errno.EACCES, errno.EPERM)
"""Errors by which a folder, not a file, cannot be written to."""
EXCHANGE = 2
"""RENAME_EXCHANGE of Linux's renameat2."""


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def aside_of(path: Path) -> Path:
    """A name beside a path under which it can be written, and by which :func:`clear_leftovers` knows the writer.

    The end of the name tells what to write; of one that is as long as a name can be, only the end is kept.
    """
    mark = f".{_host()}{os.getpid():08x}{uuid.uuid4().hex[:16]}."
    fits = len(os.fsencode(mark + path.name)) <= LONGEST
    return path.with_name(mark + (path.name if fits else path.name[-ENDING:]))


def write_whole(path: str | os.PathLike, write: Callable[[Path], None]) -> Path:
    """
    Write a file aside, in the same folder, and rename it into place, so that nobody sees half of it.

    Args:
        path: the file; its folder is made where it is missing.
        write: called with the path to write to, which has the same ending.

    Raises:
        OutputError: the disk is full, or its folder cannot be written to; it names the file.
    """
    path = Path(path)
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        aside.replace(path)
    except OSError as error:
        raise_unwritable(error, path)
        raise
    finally:
        _remove(aside)
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

    Raises:
        OutputError: its folder cannot be made.

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
    _make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (NotImplementedError, OSError) as error:
        logger.warning(f"{path} cannot be locked ({error}): start nothing else that writes to {path.parent} meanwhile.")
    return lock


def raise_unwritable(error: OSError, path: str | os.PathLike) -> None:
    """Raise an :class:`OutputError` with the path, if an error says that its folder cannot be written to."""
    if error.errno not in UNWRITABLE:
        return
    what = "the disk is full" if error.errno in NO_SPACE else "its folder cannot be written to"
    advice = "Free space" if error.errno in NO_SPACE else "Change its permissions"
    raised = OutputError(
        f"{path} cannot be written: {what} ({error.strerror}). {advice}, or give another output_dir, and give the same "
        "command again."
    )
    raised.of_disk = error.errno in OF_DISK
    raise raised from error


def check_writable(folder: str | os.PathLike) -> None:
    """
    Make a folder where it is missing and write a file of 1 MiB to it for a moment, before hours of work for it begin.

    Raises:
        OutputError: it cannot be made or written to, or its disk is full.
    """
    aside = aside_of(Path(folder) / "check")
    _make_folder(aside.parent)
    try:
        aside.write_bytes(bytes(1 << 20))
    except OSError as error:
        raise_unwritable(error, folder)
        raise
    finally:
        _remove(aside)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_unwritable(error, folder)
        # a system's folder, as /proc, has no place for others and says ENOENT whoever asks
        raise OutputError(
            f"The folder {folder} cannot be made ({error.strerror}). Give another output_dir, in a folder that can be "
            "written to."
        ) from error


def replace_folder(new: Path, folder: Path) -> None:
    """
    Put a subject's new folder in the place of its old one, if any, in one step: whoever looks sees all of one of them.

    On file systems without such a step (NFS) the folder is absent for the moment between two renames; what a kill in
    that moment takes away comes back by :func:`clear_leftovers`. What is not the program's in the old folder is kept.

    Args:
        new: written as ``aside_of(folder) / folder.name``.
        folder: the place.
    """
    if not os.path.lexists(folder):
        new.rename(folder)
    elif not folder.is_dir() or folder.is_symlink():
        raise NotADirectoryError(f"{folder} is no folder; expected one for the results. Move it away.")
    elif _exchange(new, folder):
        _drain(new, folder)
    else:
        former = aside_of(folder)
        folder.rename(former)
        new.rename(folder)
        _drain(former, folder)


def is_result(subject: str, name: str) -> bool:
    """Whether a file in a subject's folder is by its name one of the program's."""
    return name.startswith(f"{subject}_cmb")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders' names in one step; whether that was possible."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # another system, or an old C library
        return False
    here = -100  # AT_FDCWD
    return rename(here, os.fsencode(one.absolute()), here, os.fsencode(other.absolute()), EXCHANGE) == 0


def _drain(former: Path, folder: Path) -> None:
    """Remove a folder that was replaced, after what is not the program's in it has moved on."""
    for path in former.iterdir():
        left = is_result(folder.name, path.name) or ASIDE.fullmatch(path.name)
        if not left and not os.path.lexists(folder / path.name):
            path.rename(folder / path.name)
    shutil.rmtree(former, ignore_errors=True)


def clear_leftovers(folder: str | os.PathLike) -> int:
    """
    Remove what killed runs left aside in a folder; of a subject's folder that was to be replaced, keep what is needed.

    What a process of this computer writes that still runs is left alone, and so is what another computer wrote within
    a day.

    Args:
        folder: of results; one that is absent has nothing left.

    Returns:
        how many were removed or put back.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     left = Path(folder, f".{_host()}{2**31 - 1:08x}{'0' * 16}.model.pt")  # of a process that is gone
        ...     left.touch()
        ...     clear_leftovers(folder), left.exists()
        (1, False)
    """
    folder, cleared = Path(folder), 0
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = ASIDE.fullmatch(path.name)
        if match is None or _is_alive(match, path):
            continue
        cleared += 1
        place, inner = folder / match["name"], path / match["name"]
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            continue
        if not inner.is_dir() and not os.path.lexists(place):  # the old one, when the new one did not get there
            path.rename(place)
            continue
        if place.is_dir():
            _drain(inner if inner.is_dir() else path, place)
        shutil.rmtree(path, ignore_errors=True)
    return cleared


def _is_alive(match: re.Match, path: Path) -> bool:
    if match["host"] != _host():
        try:
            return time.time() - path.lstat().st_mtime < OLD_SECONDS
        except OSError:
            return True
    try:
        os.kill(int(match["process"], 16), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return int(match["process"], 16) != os.getpid() and not _has_ended(int(match["process"], 16))


def _has_ended(process: int) -> bool:
    """Whether a process was killed, though its parent has not asked for its exit status yet (a zombie)."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or gone by now, which the next run sees
        return False
    return status.rpartition(")")[2].split()[0] in ("Z", "X")  # the name before it, in brackets, may hold spaces


def _remove(path: Path) -> None:
    with suppress(OSError):  # the folder is absent or cannot be written to, which was said
        path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: object) -> Path:
    """Write JSON, indented, whole; NaN is refused (ValueError), since JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_csv(path: str | os.PathLike, table: pd.DataFrame) -> Path:
    """Write a table as CSV without its index, whole."""
    return write_whole(path, lambda aside: table.to_csv(aside, index=False))
