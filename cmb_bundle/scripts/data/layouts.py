"""Find which files of a folder belong to which subject: by their names, or for DICOM files by their headers."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from ..dicom.reader import dicom_files, is_dicom
from ..dicom.series import find_studies
from ..errors import DicomError, SubjectError
from ..files import EXCEL_SUFFIXES, IMAGE_SUFFIXES, TABLE_SUFFIXES, UNREAD_SUFFIXES, UNREAD_TABLES, read_json
from .bids import FOLDERS, find_bids, is_part
from .converted import take_converted
from .echoes import ECHO, ROLES_OF_ECHOES, choose_echo
from .ids import LONGEST_ID, check_id, shown
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
    leading_initials,
    parse_name,
    without_words,
)
from .unseen import find_unseen

logger = logging.getLogger(__name__)

FILE_KEYS = ("image", "phase", "magnitude", "t2star", "dicom", "label", "truth", "parcellation")
OTHER_LISTS = ("validation", "val", "test", "testing")
"""Lists that datalists of MONAI have for other programs."""
OTHER_KEYS = {"swi": "image", "pha": "phase", "mag": "magnitude", "t2s": "t2star"}
"""What a datalist may have in place of our own keys."""
OF_PATIENT = ("patient", "session", "date")
"""What a datalist may say of a scan, for a follow-up."""
SUFFIXES = {"label": (*TABLE_SUFFIXES, *IMAGE_SUFFIXES, *UNREAD_TABLES), "truth": (".json",)}
SPECIAL_FOLDERS = {"data": None, "label": "label", "labels": "label", "truth": "truth"}
OWN_OUTPUT = re.compile(r"_cmb(_swi)?$", re.IGNORECASE)
EXTRACTED = re.compile(r"[-_. ](bet|brain)$", re.IGNORECASE)
"""The end of a name of what a brain extraction left of a scan; "brain" may be a word of the scan's own name, too."""
OTHER_TEXT = re.compile(r"(readme|licen[sc]e|notes?)\b.*\.txt$", re.IGNORECASE)
"""Texts that lie beside labels and are none."""
MOST_NAMED = 5
"""Of files that are no scans of ours, a notice names this many."""
KINDS = "SWI, phase, magnitude or T2*"
Derived = tuple[Path, str | None, str]
"""A file that was computed from a scan, its role by its name, and the subject whose folder it is in, if any."""
NO_DATASET = "There are no subjects: no dataset_dir was given. Expected the folder of the scans: --dataset_dir FOLDER."
LAYOUTS = """\
  (a) Data/SWI/<id>.nii.gz, Data/Phase/<id>.nii.gz, Data/Magnitude/<id>.nii.gz, Label/<id>.xlsx; or Data/T2star/
      or Data/<id>/ with files named swi, phase, mag; or Data/<id>_swi.nii.gz, Data/<id>_phase.nii.gz, ...
  (b) <id>_swi.nii.gz, <id>_phase.nii.gz, <id>_mag.nii.gz, <id>_label.xlsx in one folder
  (c) a JSON datalist, given in place of the folder
  (d) <id>/ with files named swi, phase, mag (and label)
  (e) DICOM files at any depth, with any names; or Data/<id>/ with those of a study, and Label/<id>.xlsx
  (f) BIDS: sub-<label>/[ses-<label>/]{anat,swi,fmap}/ with the suffixes swi, T2starw, MEGRE and GRE
  (g) the path of one image, whose phase is beside it
A T2*-weighted magnitude is named t2star, t2starw, t2s or gre in place of swi.
Images are .nii, .nii.gz, .hdr and .img, .mgz, .nrrd, .nhdr, .mha, .mhd or DICOM.
SWI, magnitude (with phase, if there is one) or T2* is needed.
docs/reference/data.md and dicom.md beside it have the details."""


def find_subjects(dataset_dir: str | Path | None, echo: int = -1) -> list[dict[str, Any]]:
    """Find the subjects of a data set by the names of its files.

    The layouts are shown in docs/reference/data.md. Only whole words in file names count, between separators, in upper
    or lower case: swi; phase, pha or ph; magnitude or mag; label; and, where none of these is, t2star, t2starw, t2s or
    gre. Outside of Label/, files named <...>_cmb are results of this bundle and are skipped; so are, with a notice,
    projections, masks and computed maps. If no subject is found by name, DICOM files are looked for.

    Args:
        dataset_dir: a folder, the path of a JSON datalist, or that of one image.
        echo: which echo of those that are files of their own, see :func:`~.echoes.choose_echo`.

    Returns:
        a dict for each subject, sorted by id, with "subject" and the absolute paths that were found of
        "image" (SWI), "phase", "magnitude", "t2star", "label", "truth" and "parcellation" (of a datalist alone), or
        "dicom", the folder or the list of files of a DICOM study; and "notices" on the files that were left out, if any
        were. A subject that cannot be used (no SWI, magnitude or T2*-weighted magnitude; two files of one kind; a DICOM
        file that cannot be read or names no study) has "error", a message, and no paths.

    Raises:
        SubjectError: if none is given, if the folder or file does not exist, if none of its subjects can be used, or
            if a datalist names a subject twice or by an id that cannot be the name of a folder.
    """
    if dataset_dir is None:
        raise SubjectError(NO_DATASET)
    root = Path(dataset_dir).expanduser().absolute()
    if root.suffix.lower() == ".json":
        entries, base = read_datalist(root)
        subjects = [_resolve(entry, base, echo) for entry in entries]
    elif root.is_file():
        subjects = [_one(root)]
    elif root.is_dir():
        found = _scan(root)
        subjects = [_subject(name, files, echo) for name, files in sorted(found.items())]
        if any("error" not in subject for subject in subjects):
            subjects += _studies_beside(root, subjects)
        else:
            studies = _studies(root)
            good = any("error" not in study for study in studies)
            subjects = _with_named(studies, subjects, found) if good else subjects + studies
    else:
        raise SubjectError(f"dataset_dir {root}: there is no such folder or file.")
    subjects = [check_id(subject) for subject in subjects]
    if all("error" in subject for subject in subjects):
        raise SubjectError(shown(_nothing_found(root, subjects)))
    return sorted(subjects, key=lambda subject: subject["subject"])


def complete_subject(subject: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a subject given only its SWI: its id and its phase image.

    The phase has the same name as the SWI, except for a word such as swi or phase at its end. It is looked for in a
    folder named phase inside the SWI's folder, in one next to the SWI's folder, and in the SWI's folder itself, where
    its name must say that it is a phase.

    Args:
        subject: a subject's dict. One with "subject", as from :py:func:`find_subjects`, or without "image" is
            returned unchanged.

    Returns:
        the dict with "subject", and with "phase" if one was found; with "error" if several were; with "t2star" in place
        of "image" if there is none and the name is that of a T2*-weighted magnitude.
    """
    if "subject" in subject or not isinstance(subject.get("image"), (str, Path)):
        return dict(subject)
    image = Path(subject["image"]).absolute()
    name = _subject_id(image)
    completed = {"subject": name, **subject}
    if subject.get("phase") is not None or not image.parent.is_dir():
        return completed
    folders = [folder for parent in (image.parent, image.parent.parent) for folder in _folders_of(parent, "phase")]
    found = [path for folder in folders for path in _entries(folder)]
    found += [path for path in _entries(image.parent) if parse_name(_stem(path)).role == "phase"]
    phases = [path for path in found if path != image and _suffix(path, IMAGE_SUFFIXES) and _subject_id(path) == name]
    if not phases and parse_name(_stem(image)).role == "t2star":
        completed["t2star"] = completed.pop("image")
        return completed
    if len(phases) > 1:
        listed = ", ".join(map(str, phases))
        return {
            "subject": name,
            "error": f"{image} has {len(phases)} phases: {listed}. Expected one; remove the others.",
        }
    return completed | ({"phase": str(phases[0])} if phases else {})


def read_datalist(path: Path) -> tuple[list[dict[str, Any]], Path]:
    """Read a JSON datalist: a list of subjects, or a dict with the lists "training" and "unlabelled".

    Args:
        path: the file.

    Returns:
        the subjects' dicts as written in the file, and the folder that their relative paths start from
        ("dataset_dir" in the file, else the file's folder).

    Raises:
        SubjectError: if it cannot be read, has another structure, or an entry has no subject, the same subject as
            another entry, or an id that cannot be the name of a folder.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise SubjectError(f"Datalist {path}: cannot be read as JSON ({error}).") from error
    content = {"training": content} if isinstance(content, list) else content
    parts = [content.get(key, []) for key in ("training", "unlabelled")] if isinstance(content, dict) else []
    entries = [entry for part in parts if isinstance(part, list) for entry in part]
    if not entries:
        raise SubjectError(
            f"Datalist {path}: has no subjects. Expected a list of objects with subject, image, phase, "
            'magnitude, t2star and label, or an object with such lists under "training" and "unlabelled".'
        )
    ignored = [key for key in OTHER_LISTS if isinstance(content, dict) and content.get(key)]
    if ignored:
        raise SubjectError(
            f"Datalist {path}: has the list(s) {', '.join(ignored)}, which are not read. Expected all subjects "
            'under "training", each with a "fold" for a split of your own, and those without labels under "unlabelled".'
        )
    names = set()
    for number, entry in enumerate(entries, start=1):
        name = entry.get("subject") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise SubjectError(
                f'Datalist {path}: entry {number} has no "subject", an id as text: {entry!r}. Give it one.'
            )
        if name.strip() in ("", ".", "..") or "/" in name or "\\" in name:
            raise SubjectError(
                f'Datalist {path}: entry {number} has the "subject" {name!r}; expected an id that can name a folder '
                "for its results: without / and \\, and not ., .. or blank. Rename it, as sub-1_ses-1 for sub-1/ses-1."
            )
        if name in names:
            raise SubjectError(f"Datalist {path}: the subject {name} appears twice; ids must be unique.")
        names.add(name)
    base = content.get("dataset_dir") if isinstance(content, dict) else None
    if base is not None and not isinstance(base, str):
        raise SubjectError(f'Datalist {path}: "dataset_dir" is {base!r}; expected the path of a folder, as text.')
    return entries, (path.parent / Path(base or ".").expanduser()).absolute()


def _resolve(entry: dict[str, Any], base: Path, echo: int) -> dict[str, Any]:
    """A datalist's entry with absolute paths, or with an error if one is missing; and whose scan it is, and of when."""
    more = {key: str(entry[key]) for key in OF_PATIENT if entry.get(key) is not None}
    for key in sorted(set(entry) - {*FILE_KEYS, *OF_PATIENT, "subject"}):
        close = get_close_matches(key.lower(), FILE_KEYS, 1, cutoff=0.75)
        meant = OTHER_KEYS.get(key.lower(), close[0] if close else None)
        if meant and isinstance(entry[key], str) and meant not in entry:
            error = f'has "{key}" in the datalist, which is not read; write it as "{meant}"'
            return {"subject": entry["subject"], "error": error} | more
    for key in FILE_KEYS:
        given = entry.get(key)
        listed = given if isinstance(given, list) else [given]
        if given and not all(isinstance(path, str) for path in listed):
            error = f'has {given!r} as "{key}" in the datalist, which is no path; expected text. Correct the entry'
            return {"subject": entry["subject"], "error": error} | more
    named = {key: [entry[key]] if isinstance(entry[key], str) else entry[key] for key in FILE_KEYS if entry.get(key)}
    files = {key: [base / Path(path).expanduser() for path in paths] for key, paths in named.items()}
    missing = [str(path) for paths in files.values() for path in paths if not _is_there(path)]
    if missing:
        error = f"has no file {', '.join(missing)}, although the datalist names it"
        return {"subject": entry["subject"], "error": error} | more
    fold = {"fold": entry["fold"]} if "fold" in entry else {}
    return _subject(entry["subject"], files, echo) | fold | more


def _is_there(path: Path) -> bool:
    """Whether a file exists; none can that the system has no name for, as one of 5000 letters."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _studies(root: Path) -> list[dict[str, Any]]:
    try:
        return find_studies(root)
    except DicomError as error:
        raise SubjectError(f"{root}: {error}") from error


def _studies_beside(root: Path, subjects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The DICOM studies in folders of a data set in which nothing was found by names."""
    used = {Path(str(subject[key])) for subject in subjects for key in FILE_KEYS if key in subject}
    used = {path.relative_to(root).parts[0] for path in used if path.is_relative_to(root)}
    known = {subject["subject"] for subject in subjects}
    folders = [
        folder for folder in _entries(root)
        if folder.is_dir() and folder.name not in {*used, *known, *FOLDERS}
        and folder.name.lower() not in {*SPECIAL_FOLDERS, *DERIVED} and _holds_dicom(folder)
    ]  # fmt: skip
    within = tuple(f"{folder}/" for folder in folders)
    failed = tuple(f"file {folder.name} " for folder in folders)
    studies = [
        study for study in (_studies(root) if folders else ())
        if str(study.get("dicom", [""])[0]).startswith(within) or study["subject"].startswith(failed)
    ]  # fmt: skip
    return [one | {"subject": f"{one['subject']}_dicom"} if one["subject"] in known else one for one in studies]


def _with_named(studies: list[dict[str, Any]], subjects: list[dict[str, Any]], found: dict) -> list[dict[str, Any]]:
    """DICOM studies with the labels that are named after them, and with the scans by names that cannot be used."""
    ids = {study["subject"] for study in studies}
    labels = {name: files for name, files in found.items() if name in ids and set(files) <= {"label", "truth"}}
    for study in studies:
        for role, paths in labels.get(study["subject"], {}).items() if "error" not in study else ():
            study[role] = str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]
    roles = {*ROLES_OF_ECHOES, "unread", "deeper", "label"}
    lost = [one for one in subjects if one["subject"] not in labels and roles & set(found[one["subject"]])]
    return studies + [
        one | {"subject": f"{one['subject']}_files"} if one["subject"] in ids else one for one in lost
    ]  # fmt: skip


def _one(path: Path) -> dict[str, Any]:
    """The subject of one file: with its phase, or its SWI or magnitude where it is a phase, by the names beside it."""
    if not _suffix(path, IMAGE_SUFFIXES):
        if not is_dicom(path):
            raise SubjectError(
                f"dataset_dir {path}: it is no image; expected one of {', '.join(IMAGE_SUFFIXES)}, a DICOM file, a "
                "JSON datalist or a folder."
            )
        return {"subject": path.stem, "dicom": [str(path)]}
    found = _scan_one_folder(path.parent)
    owner = next(((name, files) for name, files in found.items() if any(path in one for one in files.values())), None)
    name, files = owner or (_stem(path), {})
    role = next((role for role, paths in files.items() if path in paths), "other")
    if role == "derived":
        return _subject(name, {"derived": [path]})
    notices = []
    if role == "other":
        role, name = "image", _stem(path)
        notices = [f"{path.name} was taken for an SWI: its name does not say what it is."]
        files = {"phase": [one for key in found.values() for one in key.get("phase", ()) if _subject_id(one) == name]}
    same_echo = {key: _of_echo(paths, path) for key, paths in files.items() if key in ROLES_OF_ECHOES}
    wanted = {"image": ("phase",), "phase": ("image", "magnitude"), "magnitude": ("phase",), "t2star": ()}[role]
    chosen = {role: [path], **{key: same_echo[key] for key in wanted if same_echo.get(key)}}
    if role == "phase" and "image" in chosen:
        chosen.pop("magnitude", None)
    more = {key: files[key] for key in ("label", "truth") if files.get(key)}
    return _subject(name, {**chosen, **more, **({"notices": notices} if notices else {})})


def _of_echo(paths: list[Path], path: Path) -> list[Path]:
    """Of several files the one that has the echo of another."""
    number = ECHO.findall(_stem(path))
    return [one for one in paths if ECHO.findall(_stem(one)) == number] if len(paths) > 1 else paths


def _scan_one_folder(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The files of each subject directly in a folder."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    _add_derived(found, _add_by_name(found, folder))
    _merge_echoes(found)
    return found


def _named(paths: Sequence[Path]) -> str:
    """The first of some paths, and how many there are besides."""
    others = f" and {len(paths) - MOST_NAMED} others" if len(paths) > MOST_NAMED else ""
    return ", ".join(map(str, paths[:MOST_NAMED])) + others


def _subject(name: str, files: Mapping[str, list[Any]], echo: int = -1) -> dict[str, Any]:
    files = dict(files)
    said = list(files.pop("notices", ()))
    found = "; ".join(f"{role} {_named(sorted(paths))}" for role, paths in files.items())
    files, notices = _without_other_t2star(files)
    notices = said + notices
    try:
        files, of_echoes = choose_echo(files, echo)
    except IndexError as error:
        return {"subject": name, "error": f"{error}: {found}"}
    notices += of_echoes
    for path in sorted(files.get("derived", ())):
        what = derived(_stem(path)) or (DERIVED["bet"] if EXTRACTED.search(_stem(path)) else None)
        why = f"its name says that it is {what}" if what else "its name or JSON file says that it is no scan itself"
        notices.append(f"{path.name} was skipped: {why}.")
    astray = sorted(files.pop("astray", ()))
    if astray:
        return {
            "subject": name,
            "error": f"has files that are named after another participant or session: {_named(astray)}. Move them to "
            "their own folder, or rename them",
        }
    others = [path.name for path in sorted(files.get("other", ()))]
    if others:
        shown = ", ".join(others[:MOST_NAMED]) + (
            f" and {len(others) - MOST_NAMED} others" * (len(others) > MOST_NAMED)
        )
        notices.append(f"{shown} {'was' if len(others) == 1 else 'were'} skipped: no word of the name says {KINDS}.")
    if any(len(files.get(role, ())) > 1 for role in FILE_KEYS if role != "dicom"):
        return {"subject": name, "error": f"has two files or more of one kind, keep one of each: {found}"}
    scans = {"image", "dicom", "magnitude", "t2star"} & set(files)
    deeper = sorted(files.pop("deeper", ()))
    if deeper and scans:
        names = _named([Path(path.parent.name, path.name) for path in deeper])
        notices.append(f"{names} was not looked at: only what is directly in the folder of a subject is.")
    elif deeper and not set(files) - {"other", "derived"}:
        return {
            "subject": name,
            "error": f"has scans in folders that are not looked at: {_named(deeper)}. Expected them directly in the "
            "folder of their subject, or as in BIDS; move them, give that folder as dataset_dir, or a datalist of the "
            "paths",
        }
    unread = sorted(path.name for path in files.pop("unread", ()))
    if unread and not scans:
        return {
            "subject": name,
            "error": f"has {', '.join(unread)}, whose form is not read. Expected {', '.join(IMAGE_SUFFIXES)} or DICOM; "
            "unpack or convert it",
        }
    if unread:
        notices.append(f"{', '.join(unread)} was not read: convert it to .nii.gz if it is to be used.")
    if not scans and set(files) == {"derived"}:
        return {
            "subject": name,
            "error": f"has only what its name says was computed from a scan: {found}. Give the scan itself; if it is "
            f"the scan, rename it without the words {', '.join(DERIVED)}",
        }
    if not scans:
        return {
            "subject": name,
            "error": f"has no SWI, magnitude or T2*-weighted image, but {found or 'no image'}; files are recognised by "
            "the words swi, phase, mag and t2star in their names, and by the same id in every folder",
        }
    if scans == {"magnitude", "t2star"} and "phase" not in files:
        return {
            "subject": name,
            "error": f"has two images that can be the scan, a magnitude without phase and a T2*, keep one: {found}",
        }
    paths = {role: [str(path) for path in files[role]] for role in FILE_KEYS if role in files}
    subject = {"subject": name} | {role: one[0] if len(one) == 1 else one for role, one in paths.items()}
    return subject | ({"notices": " ".join(notices)} if notices else {})


def t2star_left_out(names: str, swi: bool) -> str:
    """The sentence on a T2*-weighted magnitude that is not read, because there is something better."""
    return (
        f"The T2*-weighted image {names} was not read: there is {'an SWI' if swi else 'a magnitude with its phase'} "
        "of the subject."
    )


def _without_other_t2star(files: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], list[str]]:
    """The files without a T2*-weighted image where there is something better; and a sentence on what was left out."""
    images = sorted(files.get("t2star", ()))
    rest = {role: paths for role, paths in files.items() if role != "t2star"}
    swi = bool({"image", "dicom"} & set(files))
    if images and (swi or {"magnitude", "phase"} <= set(files)):
        return rest, [t2star_left_out(", ".join(path.name for path in images), swi)]
    return files, []


def _scan(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The files of each subject below a folder, by role."""
    if is_part(root):
        return find_bids(root)
    data = next((entry for entry in _entries(root) if entry.is_dir() and entry.name.lower() == "data"), root)
    folders = {entry.name.lower(): entry for entry in (*_entries(data), *_entries(root)) if entry.is_dir()}
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    computed = _add_by_name(found, data)
    for folder in (entry for entry in _entries(data) if entry.is_dir()):
        role = _role_of_folder(folder)
        if role in ("image", "phase", "magnitude", "t2star"):
            computed += _add_folder(found, folder, role, IMAGE_SUFFIXES)
        elif folder.name.lower() in DERIVED:
            logger.warning("%s was skipped: its name says that it holds no scans.", folder)
        elif folder.name.lower() not in SPECIAL_FOLDERS:
            computed += _add_by_name(found, folder, folder.name)
            if data is not root:
                found.setdefault(folder.name, defaultdict(list))
                if not found[folder.name] and _holds_dicom(folder):
                    found[folder.name]["dicom"].append(folder)
    _add_derived(found, computed)
    _merge_echoes(found)
    looked_at = {root, data, *(entry for entry in _entries(data) if entry.is_dir())}
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
        read = [path for path in files.get("label", ()) if not _suffix(path, UNREAD_TABLES)]
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


def _folders_of(parent: Path, role: str) -> list[Path]:
    """The folders inside another that are named after a role."""
    return [entry for entry in _entries(parent) if ROLES.get(entry.name.lower()) == role and entry.is_dir()]


def _add_folder(found: dict, folder: Path, role: str, suffixes: tuple[str, ...]) -> list[Derived]:
    """Add the files of a folder that holds a single role; they are named after their subjects."""
    computed = []
    for path in _entries(folder):
        if role == "label" and OTHER_TEXT.match(path.name):
            continue
        if role not in SUFFIXES and _stem(path).endswith(PARCELLATION):
            continue  # it says where a finding lies, and is looked for when that is asked
        if _suffix(path, suffixes):
            if role not in SUFFIXES and (derived(_stem(path)) or EXTRACTED.search(_stem(path))):
                computed.append((path, role, ""))
            else:
                name = _id_of(path, role)
                short = parse_name(_stem(path)).subject
                found[short if name not in found and short in found else name][role].append(path)
        elif suffixes is IMAGE_SUFFIXES and _suffix(path, UNREAD_SUFFIXES):
            found[_id_of(path, role)]["unread"].append(path)
        elif suffixes is IMAGE_SUFFIXES and _holds_dicom(path):
            found[path.name][role].append(path)
    return computed


def _add_by_name(found: dict, folder: Path, subject: str = "") -> list[Derived]:
    """Add the files of a folder by the words in their names: those of several subjects, or of a single one."""
    unnamed, tables, computed = [], [], []
    images = [path for path in _entries(folder) if _suffix(path, IMAGE_SUFFIXES) and not OWN_OUTPUT.search(_stem(path))]
    scans, left = take_converted(images)
    initials = () if subject else leading_initials([_stem(path) for path in left])
    for scan, files in _best(scans, found[subject]).items() if subject and scans else scans.items():
        for role, paths in files.items():
            found[subject or scan][role] += paths
    for path in _entries(folder):
        stem = _stem(path)
        if path in images and path not in left:
            continue
        if _suffix(path, UNREAD_SUFFIXES):
            name = parse_name(stem[len(subject) :] if stem.startswith(subject) else stem)
            of_spm = path.suffix.lower() == ".mat" and any((folder / f"{stem}{s}").exists() for s in (".hdr", ".img"))
            if name.role not in (None, "label") and not derived(stem) and not of_spm:
                found[subject or name.subject or folder.name]["unread"].append(path)
            continue
        own_output = OWN_OUTPUT.search(stem) and not (CHALLENGE_LABEL.search(stem) or _suffix(path, EXCEL_SUFFIXES))
        if not _suffix(path, (*IMAGE_SUFFIXES, *TABLE_SUFFIXES, *UNREAD_TABLES)) or own_output:
            continue
        if stem.endswith(PARCELLATION) or stem == "dseg":
            continue
        own = stem[len(subject) :] if stem.startswith(subject) else stem
        name = ParsedName(stem, None, "") if stem in initials else parse_name(own)
        if name.role == "label":
            found[subject or name.subject or folder.name]["label"].append(path)
        elif _suffix(path, (".txt",)):
            continue  # a protocol or a note, as lies beside many scans
        elif _suffix(path, (*TABLE_SUFFIXES, *UNREAD_TABLES)):
            tables.append(path)
        elif derived(own) or (name.role and EXTRACTED.search(own)):
            computed.append((path, name.role, subject))
        elif name.role in (None, "t2star"):
            unnamed.append((path, name))
        else:
            found[subject or name.subject or folder.name][name.role].append(path)

    for path, name in sorted(unnamed, key=lambda one: one[1].role is None):
        stem = _stem(path)
        if name.role == "t2star" and not subject and "phase" in found.get(stem, {}):
            found[stem]["magnitude"].append(path)  # a_gre beside a_gre_phase
            continue
        if name.role == "t2star":
            found[subject or ECHO.sub("", name.subject) or folder.name]["t2star"].append(path)
        else:
            near = [other for other, files in found.items() if stem.startswith(f"{other}_") and set(files) != {"other"}]
            found[subject or max(near, key=len, default=stem)]["other"].append(path)
    for path in tables:
        for owner in dict.fromkeys((without_words(_stem(path)), parse_name(_stem(path)).subject)):
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


def _mention_dicom(found: dict, folder: Path, subject: str) -> None:
    """Say that DICOM files lie loose among scans that were found by names, as where dcm2niix wrote beside them."""
    scans = [found.get(subject, {})] if subject else found.values()
    if not any({"image", "magnitude", "t2star"} & set(files) for files in scans):
        return
    known = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES, *UNREAD_SUFFIXES, ".json", ".png", ".html")
    loose = [path for path in _entries(folder) if path.is_file() and not _suffix(path, known) and is_dicom(path)]
    if not loose:
        return
    said = f"{len(loose)} DICOM files, such as {loose[0].name}, were not read: beside them are images of other forms"
    if subject:
        found[subject]["notices"].append(f"{said}.")
    else:
        logger.warning("%s in %s. If they are other scans, move them into a folder of their own.", said, folder)


def _best(scans: dict[str, dict[str, list[Path]]], files: dict) -> dict[str, dict[str, list[Any]]]:
    """Of several scans of one subject those with an SWI, else without field maps; with a notice of the others."""
    swi = {name for name, one in scans.items() if "image" in one} or {
        name for name in scans if not {word.group().lower() for word in WORD.finditer(name)} & NO_T2STAR
    }
    left = [path.name for name in set(scans) - swi for paths in scans[name].values() for path in paths]
    if not swi or not left:
        return scans
    files["notices"].append(f"{', '.join(sorted(left))} was not read: there is a better scan of the subject.")
    return {name: scans[name] for name in swi}


def _merge_echoes(found: dict[str, dict[str, list[Path]]]) -> None:
    """Make one subject of echoes whose names make them several: 01_mag_e1 and 01_mag_e2, or of SWI 01_swi_e1."""
    alike = defaultdict(list)
    for name, files in found.items():
        written = [_stem(path).lower() for path in files.get("image", ())]
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
        stem = _stem(path)
        bare = EXTRACTED.sub("", stem)
        if bare != stem and not derived(bare) and role in ("image", "phase", "magnitude", "t2star"):
            owner = subject or parse_name(bare).subject
            if role in found.get(owner, {}):
                found[owner]["derived"].append(path)
            else:
                found[subject or parse_name(bare if derived(stem) else stem).subject][role].append(path)
            continue
        owners = [name for name in found if name and re.match(re.escape(name) + r"($|[-_. ])", stem)]
        if not owners:  # mIP_Images(SW) is of Images; mIP alone, of the folder's subject
            rest = [word.group() for word in WORD.finditer(stem) if word.group().lower() not in {*DERIVED, *ROLES}]
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
        return _subject_id(path)
    name = parse_name(_stem(path))
    return (ECHO.sub("", name.subject) if name.role == role else "") or _subject_id(path)


def _subject_id(path: Path) -> str:
    """The subject that a file is named after, or the whole name where it consists of role words."""
    stem = _composed(_stem(path))
    return without_words(stem) or stem


def _entries(folder: Path) -> list[Path]:
    """The contents of a folder, sorted; not hidden files, Excel's lock files, an .img with its .hdr or of DICOM."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "~$")))
    headers = {entry.name[:-4] for entry in entries if entry.name.lower().endswith(".hdr")}
    return [
        entry
        for entry in entries
        if not entry.name.lower().endswith(".img") or not (entry.name[:-4] in headers or is_dicom(entry))
    ]


def _suffix(path: Path, suffixes: tuple[str, ...]) -> str:
    """The suffix, of those given, that a file's name ends in; empty if there is none or it is a folder."""
    fitting = [suffix for suffix in suffixes if path.name.lower().endswith(suffix) and not path.is_dir()]
    return fitting[0] if fitting else ""


def _stem(path: Path) -> str:
    return path.name[
        : -len(_suffix(path, (*UNREAD_SUFFIXES, *UNREAD_TABLES, *IMAGE_SUFFIXES, *TABLE_SUFFIXES, ".json")))
    ]


def _holds_dicom(path: Path) -> bool:
    return path.is_dir() and next(dicom_files(path), None) is not None


def _nothing_found(root: Path, subjects: list[dict[str, Any]]) -> str:
    nested = sorted(path.parent for path in root.glob("*/*") if path.is_dir() and path.name.lower() == "data")
    hint = f"Did you mean {nested[0]}?\n" if nested else ""
    if subjects:
        reasons = "\n".join(
            f"  {one if len(one := str(subject['subject'])) <= LONGEST_ID else one[:20] + '...'}: {subject['error']}"
            for subject in subjects[:5]
        )
        more = f"\n  ... and {len(subjects) - 5} more" if len(subjects) > 5 else ""
        # what is wrong with DICOM is in its headers, wherever it lies
        of_dicom = all(subject["subject"].startswith("file ") for subject in subjects)
        others = "" if of_dicom else f"\n{hint}Layouts:\n{LAYOUTS}"
        return f"{root}: none of the {len(subjects)} subjects can be used:\n{reasons}{more}{others}"
    files = islice((path for path in root.rglob("*") if path.is_file()), 8)
    shown = sorted(str(path.relative_to(root)) for path in files)
    return f"{root}: no subjects found. It holds {', '.join(shown) or 'nothing'}. {hint}Layouts:\n{LAYOUTS}"
