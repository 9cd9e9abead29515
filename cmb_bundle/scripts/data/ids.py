"""Ids of subjects, which name a folder and files of results each."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable

LONGEST_ID = 240
"""In bytes. File systems allow 255 for a name, and results add up to 15, such as _cmb_swi.nii.gz."""

OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices, which Windows lets nobody have for a folder, with any ending."""

NOT_FOR_WINDOWS = "Windows can have no folder named {}: before copying its results there, give it another id."

ADDED = re.compile(r"[ _.\-](?!\d+$|ses-)|\(")
"""Where what was added to another id begins, as in P1_n4 and "P1 - Copy". A number may be another person's, and
sessions are known."""

BEFORE = re.compile(r"(r|w|s|m|u|wr|wm|sw|swr|mw|smw|bc)(?=[A-Z0-9]|sub-)")
"""What SPM puts before the names of images that it makes from others."""


def namesakes(subjects: Iterable[str]) -> dict[str, str]:
    """
    Find ids that are another's with something added, as files are called that were made from a scan.

    Returns:
        the other id of each, the shortest if there are several.

    Example:
        >>> namesakes(["P1", "P1_n4", "P1-2", "P10", "rP1", "sub-01", "sub-01_rec-norm", "sub-01_ses-2"])
        {'P1_n4': 'P1', 'rP1': 'P1', 'sub-01_rec-norm': 'sub-01'}
    """
    known = set(subjects)
    found = {}
    for subject in sorted(known):
        begins = [subject[: added.start()].rstrip(" _.-") for added in ADDED.finditer(subject)]
        before = BEFORE.match(subject)
        of = next((one for one in [*begins, *([subject[before.end() :]] if before else [])] if one in known), None)
        if of is not None and of != subject:
            found[subject] = of
    return found


def problem_of_id(subject: str) -> str:
    """
    Say why an id cannot name a folder and files of results on any system; empty where it can.

    Example:
        >>> problem_of_id("sub-01_ses-2"), problem_of_id("x" * 300)
        ('', 'has an id of 300 bytes, xxxxxxxxxxxxxxxxxxxx..., of which files are named; expected 240 at most. Give a \
shorter one')
    """
    size = len(subject.encode("utf-8", errors="surrogatepass"))
    if size > LONGEST_ID:
        return (
            f"has an id of {size} bytes, {subject[:20]}..., of which files are named; expected {LONGEST_ID} at most. "
            "Give a shorter one"
        )
    bad = next((letter for letter in subject if ord(letter) < 32), None)
    if bad is not None:
        return f"has the control character {bad!r} in its id, which cannot name a file. Give another id"
    return ""


def fits_windows(subject: str) -> bool:
    """
    Whether Windows, too, can have a folder of an id.

    Example:
        >>> [fits_windows(name) for name in ("sub-1", "AUX", "con.2", "sub:1", "sub-1.")]
        [True, False, False, False, False]
    """
    return not (OF_WINDOWS.fullmatch(subject) or re.search(r'[<>:"|?*]|[. ]$', subject))


def shown(text: str) -> str:
    r"""
    A text that can be written: bytes of a file name that are no UTF-8, and halves of a letter, as their numbers.

    Example:
        >>> shown("Müller"), shown("M\udcfcller")
        ('Müller', 'M\\udcfcller')
    """
    return text.encode("utf-8", errors="backslashreplace").decode()


def _is_text(value: object) -> bool:
    """Whether UTF-8 has all letters of a value."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_id(subject: dict, windows: bool = os.name == "nt") -> dict:
    """
    Make a subject whose id cannot name its results a failed one, and say where Windows alone cannot have it.

    Args:
        subject: as of :func:`~.layouts.find_subjects`.
        windows: whether the results are written on Windows.

    Returns:
        the subject, with a notice, or with ``error`` in place of its files.

    Example:
        >>> check_id({"subject": "aux", "image": "aux.nii"}, windows=False)["notices"]
        'Windows can have no folder named aux: before copying its results there, give it another id.'
    """
    subject = subject | {key: shown(subject[key]) for key in ("error", "notices") if key in subject}
    if not _is_text(subject):
        where = next((shown(str(value)) for key, value in subject.items() if not _is_text(value)), "")
        return {
            "subject": shown(subject["subject"]),
            "error": subject.get("error")
            or f"has a name that is not in UTF-8, {where}, as of a .zip of another system. Expected a name that can be "
            "written into results; rename the file, or the folder"
            + ("" if sys.getfilesystemencoding() == "utf-8" else ", or set PYTHONUTF8=1"),
        }
    name = subject["subject"]
    problem = problem_of_id(name)
    if not problem and windows and not fits_windows(name):
        problem = "has an id that Windows can have no folder of. Give another id"
    if problem:
        return {"subject": name, "error": problem}
    if "error" in subject or fits_windows(name):
        return subject
    said = f"{subject['notices']} " if subject.get("notices") else ""
    return subject | {"notices": said + NOT_FOR_WINDOWS.format(name)}
