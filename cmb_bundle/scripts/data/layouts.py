"""Find which files of a folder belong to which subject: by their names, or for DICOM files by their headers."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..dicom.series import find_studies
from ..dicom.volumes import dicom_files
from ..errors import DicomError, SubjectError
from ..files import IMAGE_SUFFIXES, TABLE_SUFFIXES

FILE_KEYS = ("image", "phase", "magnitude", "dicom", "label", "truth")
ROLES = {
    "swi": "image",
    "phase": "phase",
    "pha": "phase",
    "ph": "phase",
    "magnitude": "magnitude",
    "mag": "magnitude",
    "label": "label",
    "labels": "label",
}
SUFFIXES = {"label": (*TABLE_SUFFIXES, *IMAGE_SUFFIXES), "truth": (".json",)}
SPECIAL_FOLDERS = {"data": None, "label": "label", "labels": "label", "truth": "truth"}
SEPARATORS = "_-. "
WORD = re.compile(r"[^\W_]+")
OWN_OUTPUT = re.compile(r"_cmb(_swi)?$", re.IGNORECASE)
NO_DATASET = "There are no subjects: no dataset_dir was given. Expected the folder of the scans: --dataset_dir FOLDER."
LAYOUTS = """\
  (a) Data/SWI/<id>.nii.gz, Data/Phase/<id>.nii.gz, Data/Magnitude/<id>.nii.gz, Label/<id>.xlsx
      or Data/<id>/ with files named swi, phase, mag; or Data/<id>_swi.nii.gz, Data/<id>_phase.nii.gz, ...
  (b) <id>_swi.nii.gz, <id>_phase.nii.gz, <id>_mag.nii.gz, <id>_label.xlsx in one folder
  (c) a JSON datalist, given in place of the folder
  (d) <id>/ with files named swi, phase, mag (and label)
  (e) DICOM files at any depth, with any names; or Data/<id>/ with those of a study, and Label/<id>.xlsx
Images are .nii, .nii.gz, .nrrd, .mha or DICOM; SWI, or magnitude with phase, is needed.
docs/reference/data.md and dicom.md beside it have the details."""


@dataclass(frozen=True)
class ParsedName:
    """
    The parts of a file's name, without its suffix.

    Attributes:
        subject: the name without its role word; the whole name where there is no such word.
        role: what the file is, one of the values of ``ROLES``; None where no word says so.
        word: the role word in lower case, such as "pha"; empty where there is none.
    """

    subject: str
    role: str | None
    word: str


def find_subjects(dataset_dir: str | Path | None) -> list[dict[str, Any]]:
    """Find the subjects of a data set by the names of its files.

    The layouts are shown in docs/reference/data.md. Only whole words in file names count, between separators, in upper
    or lower case: swi; phase, pha or ph; magnitude or mag; label. Outside of Label/, files named <...>_cmb are
    results of this bundle and are skipped. If no subject is found by name, DICOM files are looked for.

    Args:
        dataset_dir: a folder, or the path of a JSON datalist.

    Returns:
        a dict for each subject, sorted by id, with "subject" and the absolute paths that were found of
        "image" (SWI), "phase", "magnitude", "label" and "truth", or "dicom", the folder or the list of files of a
        DICOM study. A subject that cannot be used (neither SWI nor magnitude with phase; two files of one kind; a DICOM
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
        subjects = [_resolve(entry, base) for entry in entries]
    elif root.is_dir():
        subjects = [_subject(name, files) for name, files in sorted(_scan(root).items())]
        if all("error" in subject for subject in subjects):
            studies = _studies(root)
            found = any("error" not in study for study in studies)
            subjects = studies if found else subjects + studies
    else:
        raise SubjectError(f"dataset_dir {root}: there is no such folder, and it is not a JSON datalist.")
    if all("error" in subject for subject in subjects):
        raise SubjectError(_nothing_found(root, subjects))
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
        the dict with "subject", and with "phase" if one was found; with "error" if several were.
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
    found += [path for path in _entries(image.parent) if _parse_name(_stem(path)).role == "phase"]
    phases = [path for path in found if path != image and _suffix(path, IMAGE_SUFFIXES) and _subject_id(path) == name]
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SubjectError(f"Datalist {path}: cannot be read as JSON ({error}).") from error
    content = {"training": content} if isinstance(content, list) else content
    parts = [content.get(key, []) for key in ("training", "unlabelled")] if isinstance(content, dict) else []
    entries = [entry for part in parts if isinstance(part, list) for entry in part]
    if not entries:
        raise SubjectError(
            f"Datalist {path}: has no subjects. Expected a list of objects with subject, image, phase, "
            'magnitude and label, or an object with such lists under "training" and "unlabelled".'
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
    return entries, (path.parent / Path(base or ".").expanduser()).absolute()


def _resolve(entry: dict[str, Any], base: Path) -> dict[str, Any]:
    """A datalist's entry with absolute paths, or with an error if one is missing."""
    named = {key: [entry[key]] if isinstance(entry[key], str) else entry[key] for key in FILE_KEYS if entry.get(key)}
    files = {key: [base / Path(path).expanduser() for path in paths] for key, paths in named.items()}
    missing = [str(path) for paths in files.values() for path in paths if not path.exists()]
    if missing:
        error = f"has no file {', '.join(missing)}, although the datalist names it"
        return {"subject": entry["subject"], "error": error}
    fold = {"fold": entry["fold"]} if "fold" in entry else {}
    return _subject(entry["subject"], files) | fold


def _studies(root: Path) -> list[dict[str, Any]]:
    try:
        return find_studies(root)
    except DicomError as error:
        raise SubjectError(f"{root}: {error}") from error


def _subject(name: str, files: dict[str, list[Path]]) -> dict[str, Any]:
    found = "; ".join(f"{role} {', '.join(map(str, sorted(paths)))}" for role, paths in files.items())
    if any(len(files.get(role, ())) > 1 for role in FILE_KEYS if role != "dicom"):
        return {"subject": name, "error": f"has two files or more of one kind, keep one of each: {found}"}
    if not {"image", "dicom"} & set(files) and not ("magnitude" in files and "phase" in files):
        return {
            "subject": name,
            "error": f"has neither SWI nor magnitude with phase, but {found or 'no image'}; files are recognised by "
            "the words swi, phase and mag in their names, and by the same id in every folder",
        }
    paths = {role: [str(path) for path in files[role]] for role in FILE_KEYS if role in files}
    return {"subject": name} | {role: one[0] if len(one) == 1 else one for role, one in paths.items()}


def _scan(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The files of each subject below a folder, by role."""
    data = next((entry for entry in _entries(root) if entry.is_dir() and entry.name.lower() == "data"), root)
    folders = {entry.name.lower(): entry for entry in (*_entries(data), *_entries(root)) if entry.is_dir()}
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    _add_by_name(found, data)
    for folder in (entry for entry in _entries(data) if entry.is_dir()):
        role = ROLES.get(folder.name.lower())
        if role in ("image", "phase", "magnitude"):
            _add_folder(found, folder, role, IMAGE_SUFFIXES)
        elif folder.name.lower() not in SPECIAL_FOLDERS:
            _add_by_name(found, folder, folder.name)
            if data is not root:
                found.setdefault(folder.name, defaultdict(list))
                if not found[folder.name] and _holds_dicom(folder):
                    found[folder.name]["dicom"].append(folder)
    for name, role in SPECIAL_FOLDERS.items():
        if role and name in folders:
            _add_folder(found, folders[name], role, SUFFIXES[role])
    return {name: dict(files) for name, files in found.items()}


def _folders_of(parent: Path, role: str) -> list[Path]:
    """The folders inside another that are named after a role."""
    return [entry for entry in _entries(parent) if ROLES.get(entry.name.lower()) == role and entry.is_dir()]


def _add_folder(found: dict, folder: Path, role: str, suffixes: tuple[str, ...]) -> None:
    """Add the files of a folder that holds a single role; they are named after their subjects."""
    for path in _entries(folder):
        if _suffix(path, suffixes):
            found[_subject_id(path)][role].append(path)
        elif suffixes is IMAGE_SUFFIXES and _holds_dicom(path):
            found[path.name][role].append(path)


def _add_by_name(found: dict, folder: Path, subject: str = "") -> None:
    """Add the files of a folder by the words in their names: those of several subjects, or of a single one."""
    unnamed = []
    for path in _entries(folder):
        stem = _stem(path)
        if not _suffix(path, (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)) or OWN_OUTPUT.search(stem):
            continue
        name = _parse_name(stem[len(subject) :] if stem.startswith(subject) else stem)
        if name.role is None or (name.role != "label" and _suffix(path, TABLE_SUFFIXES)):
            unnamed.append(path)
        else:
            found[subject or name.subject or folder.name][name.role].append(path)

    named = tuple(found)
    for path in unnamed:
        stem = _stem(path)
        if _suffix(path, TABLE_SUFFIXES):
            owner = _without_role_words(stem)
            if owner == subject or (not subject and owner in named):
                found[owner]["label"].append(path)
            continue
        owner = subject or stem
        # Converters such as dcm2niix name the phase like its magnitude plus "_ph"; the series number can differ.
        phases = [_parse_name(_stem(phase)) for phase in found.get(owner, {}).get("phase", ())]
        unnumbered = _without_series_number(stem)
        if any(phase.word == "ph" and _without_series_number(phase.subject) == unnumbered for phase in phases):
            found[owner]["magnitude"].append(path)
        elif subject or not any(stem.startswith(f"{name}_") for name in named):
            found[owner]["other"].append(path)


def _parse_name(stem: str) -> ParsedName:
    """Read a name by the last of its words that names a role."""
    role_words = [match for match in WORD.finditer(stem) if match.group().lower() in ROLES]
    if not role_words:
        return ParsedName(stem, None, "")
    last = role_words[-1]
    word = last.group().lower()
    # SWI_phase_01 is the phase of an SWI sequence, as is 01_SWI_phase: adjacent role words are removed together.
    parts = (_without_role_words(stem[: last.end()]), stem[last.end() :].lstrip(SEPARATORS))
    return ParsedName("_".join(part for part in parts if part), ROLES[word], word)


def _subject_id(path: Path) -> str:
    """The subject that a file is named after, or the whole name where it consists of role words."""
    return _without_role_words(_stem(path)) or _stem(path)


def _without_role_words(stem: str) -> str:
    """Remove the role words at the end of a name: 01_swi_phase becomes 01."""
    words = list(WORD.finditer(stem))
    while words and words[-1].group().lower() in ROLES:
        stem = stem[: words.pop().start()].rstrip(SEPARATORS)
    return stem


def _without_series_number(stem: str) -> str:
    return re.sub(r"^\d+_", "", stem)


def _entries(folder: Path) -> list[Path]:
    """The contents of a folder, sorted, without hidden files and Excel's lock files."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "~$")))


def _suffix(path: Path, suffixes: tuple[str, ...]) -> str:
    """The suffix, of those given, that a file's name ends in; empty if there is none or it is a folder."""
    fitting = [suffix for suffix in suffixes if path.name.lower().endswith(suffix) and not path.is_dir()]
    return fitting[0] if fitting else ""


def _stem(path: Path) -> str:
    return path.name[: -len(_suffix(path, (*IMAGE_SUFFIXES, *TABLE_SUFFIXES, ".json")))]


def _holds_dicom(path: Path) -> bool:
    return path.is_dir() and next(dicom_files(path), None) is not None


def _nothing_found(root: Path, subjects: list[dict[str, Any]]) -> str:
    if subjects:
        reasons = "\n".join(f"  {subject['subject']}: {subject['error']}" for subject in subjects[:5])
        return f"{root}: none of the {len(subjects)} subjects can be used:\n{reasons}\nLayouts:\n{LAYOUTS}"
    files = islice((path for path in root.rglob("*") if path.is_file()), 8)
    shown = sorted(str(path.relative_to(root)) for path in files)
    nested = sorted(path.parent for path in root.glob("*/*") if path.is_dir() and path.name.lower() == "data")
    hint = f"Did you mean {nested[0]}?\n" if nested else ""
    return f"{root}: no subjects found. It holds {', '.join(shown) or 'nothing'}. {hint}Layouts:\n{LAYOUTS}"
