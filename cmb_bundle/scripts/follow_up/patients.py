"""Which scans are of one patient, in the order of time."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dicom.reader import dicom_files, read_header
from ..errors import InputError

SESSION = re.compile(r"(?P<patient>.+?)_(?P<session>ses-[^\W_]+)(?:_.*)?")
"""An id that names a session: of BIDS, or another such as P01_ses-2."""
FILES = ("image", "magnitude", "phase", "t2star")


@dataclass(frozen=True)
class Session:
    """
    One scan of a patient.

    Attributes:
        subject: the scan's id, of which its results are named.
        patient: whose scan it is.
        label: what tells it from the patient's other scans, such as "ses-2"; the id where there is no such thing.
        date: as YYYYMMDD, or any text that sorts as time does; empty where not known.
        born, sex: PatientBirthDate and PatientSex of a DICOM header; empty where not known.
        entry: the subject's dict, as of :func:`~..data.layouts.find_subjects`.
    """

    subject: str
    patient: str
    label: str
    date: str
    entry: Mapping[str, Any]
    born: str = ""
    sex: str = ""


def session_of(entry: Mapping[str, Any]) -> Session:
    """
    Tell whose scan a subject of a data set is, and when it was made.

    Args:
        entry: with "subject"; and "patient", "session" and "date" where a datalist says so. Else PatientID and
            StudyDate of the header of a DICOM study; else what the id says (``sub-01_ses-2``, ``P01_ses-2``), with
            ``acq_time`` of ``sub-01_sessions.tsv`` in a BIDS data set. Else the scan is the patient's only one.

    Example:
        >>> one = session_of({"subject": "sub-01_ses-2"})
        >>> one.patient, one.label, one.date
        ('sub-01', 'ses-2', '')
        >>> session_of({"subject": "a", "patient": "P1", "date": "2024-05-01"}).patient
        'P1'
    """
    subject = str(entry["subject"])
    named = SESSION.fullmatch(subject)
    patient, label = (named["patient"], named["session"]) if named else (subject, subject)
    header = _header(entry)
    if header.get("PatientID"):
        patient, label = header["PatientID"], subject
    patient = str(entry.get("patient") or patient)
    label = str(entry.get("session") or label)
    date = str(entry.get("date") or header.get("StudyDate", "") + header.get("StudyTime", ""))
    date = date or _bids_time(entry, patient, label)
    return Session(
        subject, patient, label, date, entry, header.get("PatientBirthDate", ""), header.get("PatientSex", "")
    )


def patients_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Session]]:
    """
    Group the scans of a data set by patient, each patient's in the order of time.

    The order is that of the dates where all of a patient's scans have one, else that of the sessions' names, in which
    numbers count as numbers.

    Args:
        entries: subjects' dicts, as of :func:`~..data.layouts.find_subjects`; files of a folder that are no scan, whose
            "subject" begins with the word ``file``, are left out.

    Example:
        >>> found = patients_of([{"subject": f"sub-1_ses-{n}"} for n in (10, 9)])
        >>> [one.label for one in found["sub-1"]]
        ['ses-9', 'ses-10']
    """
    found: dict[str, list[Session]] = defaultdict(list)
    for entry in entries:
        if not ("error" in entry and str(entry["subject"]).startswith("file ")):
            one = session_of(entry)
            found[one.patient].append(one)
    ordered = {}
    for patient, sessions in sorted(found.items()):
        dated = all(one.date for one in sessions)
        ordered[patient] = sorted(sessions, key=lambda one: (one.date if dated else "", _natural(one.label)))
    return ordered


def _natural(label: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", label)]


def _header(entry: Mapping[str, Any]) -> dict[str, str]:
    """What the header of a DICOM study says of the patient and of the time; empty without DICOM."""
    given = entry.get("dicom")
    given = given or next((entry[key] for key in FILES if entry.get(key) and Path(str(entry[key])).is_dir()), None)
    if not given:
        return {}
    path = given[0] if isinstance(given, list | tuple) else next(iter(dicom_files(Path(given))), None)
    if path is None:
        return {}
    names = ("PatientID", "StudyDate", "StudyTime", "PatientBirthDate", "PatientSex")
    with suppress(InputError):  # who reads the scan says what is wrong with it
        header = read_header(path)
        return {name: str(header.get(name) or "").strip() for name in names}
    return {}


def _bids_time(entry: Mapping[str, Any], patient: str, label: str) -> str:
    """``acq_time`` of a session in its participant's table; empty without one."""
    paths = [Path(str(entry[key])) for key in FILES if entry.get(key)]
    folder = next((one for path in paths for one in path.parents if one.name == patient), None)
    table = folder / f"{patient}_sessions.tsv" if folder else None
    if table is None or not table.is_file():
        return ""
    with suppress(OSError, ValueError), table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row.get("session_id") in (label, label.removeprefix("ses-")):
                time = (row.get("acq_time") or "").strip()
                return "" if time == "n/a" else time
    return ""
