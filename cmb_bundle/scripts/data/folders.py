"""Which role the files of a folder have, and whose they are, by their names and those of the folders."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..dicom.reader import dicom_files, is_dicom
from ..files import EXCEL_SUFFIXES, IMAGE_SUFFIXES, TABLE_SUFFIXES, UNREAD_SUFFIXES, UNREAD_TABLES
from .bids import find_bids, is_part
from .converted import take_converted
from .echoes import ECHO, ROLES_OF_ECHOES
from .names import (
    CHALLENGE_LABEL,
    DERIVED,
    NO_T2STAR,
    PARCELLATION,
    ROLES,
    T2STAR,
    WORD,
    ParsedName,
    derived,
    derived_words,
    leading_initials,
    parse_name,
    without_words,
)
from .unseen import find_unseen

logger = logging.getLogger(__name__)

SUFFIXES = {"label": (*TABLE_SUFFIXES, *IMAGE_SUFFIXES, *UNREAD_TABLES), "truth": (".json",)}
SPECIAL_FOLDERS = {"data": None, "label": "label", "labels": "label", "truth": "truth"}
OWN_OUTPUT = re.compile(r"_cmb(_swi)?$", re.IGNORECASE)
EXTRACTED = re.compile(r"[-_. ](bet|brain)$", re.IGNORECASE)
"""The end of a name of what a brain extraction left of a scan; "brain" may be a word of the scan's own name, too."""
OTHER_TEXT = re.compile(r"(readme|licen[sc]e|notes?)\b.*\.txt$", re.IGNORECASE)
"""Texts that lie beside labels and are none."""
MOST_NAMED = 5
"""Of files that are no scans of ours, a notice names this many."""
SCANS = {"image", "phase", "magnitude", "t2star"}
Derived = tuple[Path, str | None, str]
"""A file that was computed from a scan, its role by its name, and the subject whose folder it is in, if any."""


def scan_one_folder(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The files of each subject directly in a folder."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    _add_derived(found, _add_by_name(found, folder))
    _merge_echoes(found)
    return found


def scan_folder(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The files of each subject below a folder, by role."""
    if is_part(root):
        return find_bids(root)
    data = next((entry for entry in entries_of(root) if entry.is_dir() and entry.name.lower() == "data"), root)
    folders = {entry.name.lower(): entry for entry in (*entries_of(data), *entries_of(root)) if entry.is_dir()}
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    computed = _add_by_name(found, data)
    for folder in (entry for entry in entries_of(data) if entry.is_dir()):
        role = _role_of_folder(folder)
        if role in ("image", "phase", "magnitude", "t2star"):
            computed += _add_folder(found, folder, role, IMAGE_SUFFIXES)
        elif folder.name.lower() in DERIVED:
            logger.warning("%s was skipped: its name says that it holds no scans.", folder)
        elif folder.name.lower() not in SPECIAL_FOLDERS:
            computed += _add_by_name(found, folder, folder.name)
            if data is not root:
                found.setdefault(folder.name, defaultdict(list))
                if not found[folder.name] and holds_dicom(folder):
                    found[folder.name]["dicom"].append(folder)
    _add_derived(found, computed)
    _merge_echoes(found)
    looked_at = {root, data, *(entry for entry in entries_of(data) if entry.is_dir())}
    for name, paths in find_unseen(root, looked_at, data).items():
        found[name]["deeper"] += paths
    for name, files in find_bids(root).items():
        for role, paths in files.items():
            found[name][role] += paths
    for name, role in SPECIAL_FOLDERS.items():
        if role and name in folders:
            _add_folder(found, folders[name], role, SUFFIXES[role])
    named: dict[str, dict[str, list[Path]]] = defaultdict(dict)
    for name, files in found.items():
        # one in a form that is not read counts where there is no other
        read = [path for path in files.get("label", ()) if not suffix_of(path, UNREAD_TABLES)]
        files = files | ({"label": read} if read else {})
        for role, paths in files.items():
            named[_composed(name)].setdefault(role, []).extend(paths)
        named[_composed(name)]  # one without files, too
    return dict(named)


def _composed(name: str) -> str:
    """A name with each letter as one character: a Mac writes u and two dots for ü, in the name of the same subject."""
    return unicodedata.normalize("NFC", name)


def _role_of_folder(folder: Path) -> str | None:
    """The role that a folder is named after; gre is no such name, but often that of a subject's or a study's folder."""
    name = folder.name.lower()
    return "t2star" if name in T2STAR and name not in ("gre", "megre") else ROLES.get(name)


def folders_of(parent: Path, role: str) -> list[Path]:
    """The folders inside another that are named after a role."""
    return [entry for entry in entries_of(parent) if ROLES.get(entry.name.lower()) == role and entry.is_dir()]


def _add_folder(found: dict, folder: Path, role: str, suffixes: tuple[str, ...]) -> list[Derived]:
    """Add the files of a folder that holds a single role; they are named after their subjects."""
    computed = []
    for path in entries_of(folder):
        if role == "label" and OTHER_TEXT.match(path.name):
            continue
        if role not in SUFFIXES and stem_of(path).endswith(PARCELLATION):
            continue  # it says where a finding lies, and is looked for when that is asked
        if suffix_of(path, suffixes):
            if role not in SUFFIXES and (derived(stem_of(path)) or EXTRACTED.search(stem_of(path))):
                computed.append((path, role, ""))
            else:
                name = _id_of(path, role)
                short = parse_name(stem_of(path)).subject
                found[short if name not in found and short in found else name][role].append(path)
        elif suffixes is IMAGE_SUFFIXES and suffix_of(path, UNREAD_SUFFIXES):
            found[_id_of(path, role)]["unread"].append(path)
        elif suffixes is IMAGE_SUFFIXES and holds_dicom(path):
            found[path.name][role].append(path)
    return computed


def _add_by_name(found: dict, folder: Path, subject: str = "") -> list[Derived]:
    """Add the files of a folder by the words in their names: those of several subjects, or of a single one."""
    unnamed, tables, computed = [], [], []
    images = [
        path for path in entries_of(folder) if suffix_of(path, IMAGE_SUFFIXES) and not OWN_OUTPUT.search(stem_of(path))
    ]
    scans, left = take_converted(images)
    initials = () if subject else leading_initials([stem_of(path) for path in left])
    for scan, files in _best(scans, found[subject]).items() if subject and scans else scans.items():
        for role, paths in files.items():
            found[subject or scan][role] += paths
    for path in entries_of(folder):
        stem = stem_of(path)
        if path in images and path not in left:
            continue
        if suffix_of(path, UNREAD_SUFFIXES):
            name = parse_name(stem[len(subject) :] if stem.startswith(subject) else stem)
            of_spm = path.suffix.lower() == ".mat" and any((folder / f"{stem}{s}").exists() for s in (".hdr", ".img"))
            if name.role not in (None, "label") and not derived(stem) and not of_spm:
                found[subject or name.subject or folder.name]["unread"].append(path)
            continue
        own_output = OWN_OUTPUT.search(stem) and not (CHALLENGE_LABEL.search(stem) or suffix_of(path, EXCEL_SUFFIXES))
        if not suffix_of(path, (*IMAGE_SUFFIXES, *TABLE_SUFFIXES, *UNREAD_TABLES)) or own_output:
            continue
        if stem.endswith(PARCELLATION) or stem == "dseg":
            continue
        own = stem[len(subject) :] if stem.startswith(subject) else stem
        name = ParsedName(stem, None, "") if stem in initials else parse_name(own)
        if name.role == "label":
            found[subject or name.subject or folder.name]["label"].append(path)
        elif suffix_of(path, (".txt",)):
            continue  # a protocol or a note, as lies beside many scans
        elif suffix_of(path, (*TABLE_SUFFIXES, *UNREAD_TABLES)):
            tables.append(path)
        elif derived(own) or (name.role and EXTRACTED.search(own)):
            computed.append((path, name.role, subject))
        elif name.role in (None, "t2star"):
            unnamed.append((path, name))
        else:
            found[subject or name.subject or folder.name][name.role].append(path)

    for path, name in sorted(unnamed, key=lambda one: one[1].role is None):
        stem = stem_of(path)
        if name.role == "t2star" and not subject and "phase" in found.get(stem, {}):
            found[stem]["magnitude"].append(path)  # a_gre beside a_gre_phase
            continue
        if name.role == "t2star":
            found[subject or ECHO.sub("", name.subject) or folder.name]["t2star"].append(path)
        else:
            near = [other for other, files in found.items() if stem.startswith(f"{other}_") and set(files) != {"other"}]
            found[subject or max(near, key=len, default=stem)]["other"].append(path)
    for path in tables:
        for owner in dict.fromkeys((without_words(stem_of(path)), parse_name(stem_of(path)).subject)):
            if owner == subject or (not subject and set(found.get(owner, ())) - {"other"}):
                found[owner]["label"].append(path)
                break
        else:
            near = [name for name in found if name and re.match(re.escape(name) + "[-_. ]", path.name)]
            if subject in found or near:
                found[subject if subject in found else max(near, key=len)]["notices"].append(
                    f"{path.name} was not read: a table of labels is named as its subject, or has the word label."
                )
    _mention_dicom(found, folder, subject)
    return computed


def _best(scans: dict[str, dict[str, list[Path]]], files: dict) -> dict[str, dict[str, list[Any]]]:
    """Of several scans of one subject those with an SWI, else without field maps; with a notice of the others."""
    swi = {name for name, one in scans.items() if "image" in one} or {
        name for name in scans if not {word.group().lower() for word in WORD.finditer(name)} & NO_T2STAR
    }
    left = [path.name for name in set(scans) - swi for paths in scans[name].values() for path in paths]
    if not swi or not left:
        return scans
    were = "was" if len(left) == 1 else "were"
    files["notices"].append(f"{', '.join(sorted(left))} {were} not read: there is a better scan of the subject.")
    return {name: scans[name] for name in swi}


def _merge_echoes(found: dict[str, dict[str, list[Path]]]) -> None:
    """Make one subject of echoes whose names make them several: 01_mag_e1 and 01_mag_e2, or of SWI 01_swi_e1."""
    alike = defaultdict(list)
    for name, files in found.items():
        written = [stem_of(path).lower() for path in files.get("image", ())]
        if all("_echo-" in stem or re.search(r"_e\d+$", stem) for stem in written):
            alike[ECHO.sub("", name)].append(name)
    for bare, names in alike.items():
        if len(names) > 1 and any(set(found[name]) & set(ROLES_OF_ECHOES) for name in names):
            merged = defaultdict(list)
            for files in (found.pop(name) for name in names):
                for role, paths in files.items():
                    merged[role] += paths
            found[bare] = merged


def _add_derived(found: dict, computed: list[Derived]) -> None:
    """
    Give projections, masks and maps to the subjects that they are of, who get a notice.

    One that seems to be of a scan that is not there makes a subject, which fails; other ones are logged. What a brain
    extraction left of a scan is that scan where the whole one is not there.
    """
    lost = []
    for path, role, subject in computed:
        stem = stem_of(path)
        bare = EXTRACTED.sub("", stem)
        if bare != stem and not derived(bare) and role in SCANS:
            owner = subject or parse_name(bare).subject
            if role in found.get(owner, {}):
                found[owner]["derived"].append(path)
            else:
                # "brain" belongs to the id, unless there are other images of the id without it
                same = derived(stem) or SCANS & set(found.get(owner, ()))
                found[subject or parse_name(bare if same else stem).subject][role].append(path)
            continue
        owners = [name for name in found if name and re.match(re.escape(name) + r"($|[-_. ])", stem)]
        if not owners:  # mIP_Images(SW) is of Images; mIP alone, of the folder's subject
            words = [word.group() for word in WORD.finditer(stem)]
            rest = [word for word in words if word.lower() not in ROLES and not derived_words([word.lower()])]
            bare = "_".join(rest) or path.parent.name
            owners = [name for name in found if name and f"{bare}_".startswith(f"{name}_")]
        if subject in found or owners:
            found[subject or max(owners, key=len)]["derived"].append(path)
        elif role or derived(stem) == "a projection":
            found[subject or stem]["derived"].append(path)
        else:
            lost.append(path.name)
    if lost:
        logger.warning("Skipped, as their names say that they are masks or maps, not scans: %s", ", ".join(lost))


def _id_of(path: Path, role: str) -> str:
    """The subject of a file in a folder of one role."""
    if role != "t2star":
        return subject_id(path)
    name = parse_name(stem_of(path))
    return (ECHO.sub("", name.subject) if name.role == role else "") or subject_id(path)


def subject_id(path: Path) -> str:
    """The subject that a file is named after, or the whole name where it consists of role words."""
    stem = _composed(stem_of(path))
    return without_words(stem) or stem


def entries_of(folder: Path) -> list[Path]:
    """The contents of a folder, sorted; not hidden files, Excel's lock files, an .img with its .hdr or of DICOM."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "~$")))
    headers = {entry.name[:-4] for entry in entries if entry.name.lower().endswith(".hdr")}
    return [
        entry
        for entry in entries
        if not entry.name.lower().endswith(".img") or not (entry.name[:-4] in headers or is_dicom(entry))
    ]


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str:
    """The suffix, of those given, that a file's name ends in; empty if there is none or it is a folder."""
    fitting = [suffix for suffix in suffixes if path.name.lower().endswith(suffix) and not path.is_dir()]
    return fitting[0] if fitting else ""


def stem_of(path: Path) -> str:
    return path.name[
        : -len(suffix_of(path, (*UNREAD_SUFFIXES, *UNREAD_TABLES, *IMAGE_SUFFIXES, *TABLE_SUFFIXES, ".json")))
    ]


def names_of(paths: Sequence[Path]) -> str:
    """The first of some paths, and how many there are besides."""
    others = f" and {len(paths) - MOST_NAMED} others" if len(paths) > MOST_NAMED else ""
    return ", ".join(map(str, paths[:MOST_NAMED])) + others


def holds_dicom(path: Path) -> bool:
    return path.is_dir() and next(dicom_files(path), None) is not None


def _mention_dicom(found: dict, folder: Path, subject: str) -> None:
    """Say that DICOM files lie loose among scans that were found by names, as where dcm2niix wrote beside them."""
    scans = [found.get(subject, {})] if subject else found.values()
    if not any({"image", "magnitude", "t2star"} & set(files) for files in scans):
        return
    known = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES, *UNREAD_SUFFIXES, ".json", ".png", ".html")
    loose = [path for path in entries_of(folder) if path.is_file() and not suffix_of(path, known) and is_dicom(path)]
    if not loose:
        return
    said = f"{len(loose)} DICOM files, such as {loose[0].name}, were not read: beside them are images of other forms"
    if subject:
        found[subject]["notices"].append(f"{said}.")
    else:
        logger.warning("%s in %s. If they are other scans, move them into a folder of their own.", said, folder)
