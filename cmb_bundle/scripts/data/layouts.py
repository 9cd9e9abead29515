"""Find which files of a data set belong to which subject: by their names, or for DICOM files by their headers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..dicom.reader import is_dicom
from ..dicom.series import find_studies
from ..errors import DicomError, SubjectError
from ..files import IMAGE_SUFFIXES
from .bids import FOLDERS
from .datalists import FILE_KEYS, locate_entry, read_datalist
from .echoes import ECHO, ROLES_OF_ECHOES, choose_echo
from .folders import (
    EXTRACTED,
    MOST_NAMED,
    SPECIAL_FOLDERS,
    entries_of,
    folders_of,
    holds_dicom,
    names_of,
    scan_folder,
    scan_one_folder,
    stem_of,
    subject_id,
    suffix_of,
)
from .ids import LONGEST_ID, check_id, shown
from .names import DERIVED, derived, parse_name

logger = logging.getLogger(__name__)
KINDS = "SWI, phase, magnitude or T2*"
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
        subjects = [_of_entry(locate_entry(entry, base), echo) for entry in entries]
    elif root.is_file():
        subjects = [_one(root)]
    elif root.is_dir():
        found = scan_folder(root)
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


def _of_entry(entry: dict[str, Any], echo: int) -> dict[str, Any]:
    """What is known of a subject of a datalist, see :func:`~.datalists.locate_entry`."""
    rest = {key: value for key, value in entry.items() if key != "files"}
    return _subject(entry["subject"], entry["files"], echo) | rest if "files" in entry else rest


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
    name = subject_id(image)
    completed = {"subject": name, **subject}
    if subject.get("phase") is not None or not image.parent.is_dir():
        return completed
    folders = [folder for parent in (image.parent, image.parent.parent) for folder in folders_of(parent, "phase")]
    found = [path for folder in folders for path in entries_of(folder)]
    found += [path for path in entries_of(image.parent) if parse_name(stem_of(path)).role == "phase"]
    phases = [path for path in found if path != image and suffix_of(path, IMAGE_SUFFIXES) and subject_id(path) == name]
    if not phases and parse_name(stem_of(image)).role == "t2star":
        completed["t2star"] = completed.pop("image")
        return completed
    if len(phases) > 1:
        listed = ", ".join(map(str, phases))
        return {
            "subject": name,
            "error": f"{image} has {len(phases)} phases: {listed}. Expected one; remove the others.",
        }
    return completed | ({"phase": str(phases[0])} if phases else {})


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
        folder for folder in entries_of(root)
        if folder.is_dir() and folder.name not in {*used, *known, *FOLDERS}
        and folder.name.lower() not in {*SPECIAL_FOLDERS, *DERIVED} and holds_dicom(folder)
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
    if not suffix_of(path, IMAGE_SUFFIXES):
        if not is_dicom(path):
            raise SubjectError(
                f"dataset_dir {path}: it is no image; expected one of {', '.join(IMAGE_SUFFIXES)}, a DICOM file, a "
                "JSON datalist or a folder."
            )
        return {"subject": path.stem, "dicom": [str(path)]}
    found = scan_one_folder(path.parent)
    owner = next(((name, files) for name, files in found.items() if any(path in one for one in files.values())), None)
    name, files = owner or (stem_of(path), {})
    role = next((role for role, paths in files.items() if path in paths), "other")
    if role == "derived":
        return _subject(name, {"derived": [path]})
    notices = []
    if role == "other":
        role, name = "image", stem_of(path)
        notices = [f"{path.name} was taken for an SWI: its name does not say what it is."]
        files = {"phase": [one for key in found.values() for one in key.get("phase", ()) if subject_id(one) == name]}
    same_echo = {key: _of_echo(paths, path) for key, paths in files.items() if key in ROLES_OF_ECHOES}
    wanted = {"image": ("phase",), "phase": ("image", "magnitude"), "magnitude": ("phase",), "t2star": ()}[role]
    chosen = {role: [path], **{key: same_echo[key] for key in wanted if same_echo.get(key)}}
    if role == "phase" and "image" in chosen:
        chosen.pop("magnitude", None)
    more = {key: files[key] for key in ("label", "truth") if files.get(key)}
    return _subject(name, {**chosen, **more, **({"notices": notices} if notices else {})})


def _of_echo(paths: list[Path], path: Path) -> list[Path]:
    """Of several files the one that has the echo of another."""
    number = ECHO.findall(stem_of(path))
    return [one for one in paths if ECHO.findall(stem_of(one)) == number] if len(paths) > 1 else paths


def _subject(name: str, files: Mapping[str, list[Any]], echo: int = -1) -> dict[str, Any]:
    files = dict(files)
    said = list(files.pop("notices", ()))
    found = "; ".join(f"{role} {names_of(sorted(paths))}" for role, paths in files.items())
    files, notices = _without_other_t2star(files)
    notices = said + notices
    try:
        files, of_echoes = choose_echo(files, echo)
    except IndexError as error:
        return {"subject": name, "error": f"{error}: {found}"}
    notices += of_echoes
    for path in sorted(files.get("derived", ())):
        what = derived(stem_of(path)) or (DERIVED["bet"] if EXTRACTED.search(stem_of(path)) else None)
        why = f"its name says that it is {what}" if what else "its name or JSON file says that it is no scan itself"
        notices.append(f"{path.name} was skipped: {why}.")
    astray = sorted(files.pop("astray", ()))
    if astray:
        return {
            "subject": name,
            "error": f"has files that are named after another participant or session: {names_of(astray)}. Move them to "
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
        names = names_of([Path(path.parent.name, path.name) for path in deeper])
        notices.append(f"{names} was not looked at: only what is directly in the folder of a subject is.")
    elif deeper and not set(files) - {"other", "derived"}:
        return {
            "subject": name,
            "error": f"has scans in folders that are not looked at: {names_of(deeper)}. Expected them directly in the "
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
