"""JSON datalists: which subjects they name, and where their files are."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import SubjectError
from ..files import read_json

FILE_KEYS = ("image", "phase", "magnitude", "t2star", "dicom", "label", "truth", "parcellation")
OTHER_LISTS = ("validation", "val", "test", "testing")
"""Lists that datalists of MONAI have for other programs."""
OTHER_KEYS = {"swi": "image", "pha": "phase", "mag": "magnitude", "t2s": "t2star"}
"""What a datalist may have in place of our own keys."""
OF_PATIENT = ("patient", "session", "date")
"""What a datalist may say of a scan, for a follow-up."""


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


def locate_entry(entry: dict[str, Any], base: Path) -> dict[str, Any]:
    """
    An entry of a datalist with ``files``, lists of absolute paths by role, or with ``error`` if one is missing; and
    whose scan it is, and of when.
    """
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
    return {"subject": entry["subject"], "files": files} | fold | more


def _is_there(path: Path) -> bool:
    """Whether a file exists; none can that the system has no name for, as one of 5000 letters."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
