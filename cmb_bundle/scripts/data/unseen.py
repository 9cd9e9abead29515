"""Scans in folders in which nothing looks for them, and packed ones: they are said, not lost."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..dicom.reader import is_dicom
from ..files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, walk
from .bids import FOLDERS, is_part
from .names import DERIVED, PARCELLATION, ROLES, T2STAR, derived, parse_name

logger = logging.getLogger(__name__)

SCANS = ("image", "phase", "magnitude", "t2star")
PACKED = re.compile(r"\.(zip|7z|rar|tar|tar\.(gz|bz2|xz|zst)|tgz|dcm\.gz|ima\.gz)$", re.IGNORECASE)
"""Forms in which whole studies lie; their names need not say what is in them."""
OF_OTHER_USE = {
    *DERIVED, *FOLDERS, "label", "labels", "truth",
    "func", "dwi", "perf", "pet", "meg", "eeg", "ieeg", "beh", "micr", "nirs", "motion", "mrs",  # datatypes of BIDS
}  # fmt: skip
"""Folders that hold no scans to read, in lower case."""


def find_unseen(root: Path, looked_at: Iterable[Path], base: Path) -> dict[str, list[Path]]:
    """
    Find the images that lie deeper than is looked at, or beside the folder ``Data``, and that names say are scans.

    Packed files, which may hold scans, are logged, and so are copies with microbleeds put in, as ``implant.json``
    writes them, which are left out: they are the same subjects.

    Args:
        root: folder of the data set.
        looked_at: folders whose files are known.
        base: the folder that has the folders of the subjects.

    Returns:
        the paths by the name of the folder, directly in ``base``, that they are below; of a folder that is named
        after a kind, such as ``SWI``, by that of the next one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as made:
        ...     path = Path(made, "P1", "2024", "P1_swi.nii.gz")
        ...     path.parent.mkdir(parents=True)
        ...     path.touch()
        ...     found = find_unseen(Path(made), [Path(made), Path(made, "P1")], Path(made))
        >>> [(owner, path.name) for owner, (path,) in found.items()]
        [('P1', 'P1_swi.nii.gz')]
    """
    looked_at = set(looked_at)
    found: dict[str, list[Path]] = defaultdict(list)
    packed = []
    for folder, names in walk(root, _of_other_use):
        packed += [str((folder / name).relative_to(root)) for name in names if PACKED.search(name)]
        if folder in looked_at:
            continue
        parts = folder.relative_to(base if folder.is_relative_to(base) else root).parts
        of_a_kind = any(_is_kind(part) for part in parts)
        owner = next((part for part in parts if not _is_kind(part)), parts[0])
        found[owner] += [folder / name for name in names if _is_scan(folder / name, of_a_kind)]
    if packed:
        others = f" and {len(packed) - 5} others" if len(packed) > 5 else ""
        logger.warning("Not read, as they are packed; unpack them if they hold scans: %s%s",
                       ", ".join(packed[:5]), others)  # fmt: skip
    return {owner: paths for owner, paths in found.items() if paths}


def _of_other_use(folder: Path) -> bool:
    if (folder / "implant.json").is_file():
        logger.warning("Not read, as it is a copy with microbleeds put in: %s", folder)
        return True
    return folder.name.lower() in OF_OTHER_USE or is_part(folder)


def _is_kind(name: str) -> bool:
    return name.lower() in {*ROLES, *T2STAR} - {"label", "labels"}


def _is_scan(path: Path, of_a_kind: bool) -> bool:
    """Whether a file's name, or that of a folder that it is in, says that it is a scan."""
    ending = next((s for s in (*UNREAD_SUFFIXES, *IMAGE_SUFFIXES) if path.name.lower().endswith(s)), None)
    if ending is None:
        return False
    stem = path.name[: -len(ending)]
    if stem.endswith(PARCELLATION) or re.search(r"_cmb(_swi)?$", stem, re.IGNORECASE) or derived(stem):
        return False
    if not of_a_kind and parse_name(stem).role not in SCANS:
        return False
    return not (ending == ".img" and (path.with_suffix(".hdr").exists() or is_dicom(path)))
