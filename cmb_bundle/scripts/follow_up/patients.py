"""Which scans are of one patient, in the order of time."""

from __future__ import annotations

import csv
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dicom.reader import dicom_files, read_header
from ..errors import FollowUpError, InputError
from .dates import habits, in_doubt, spans
from .order import Names, date_habit, sign

SESSION = re.compile(r"(?P<patient>.+?)_(?P<session>ses-[^\W_]+)(?:_.*)?")
"""An id that names a session: of BIDS, or another such as P01_ses-2."""
FILES = ("image", "magnitude", "phase", "t2star")
NO_DATE = ("n/a", "na", "nan", "none", "null", "unknown", "-")
BY_DATES = "their dates"
ADVICE = (
    'Give the date of each scan, as YYYY-MM-DD: acq_time in <patient>_sessions.tsv of a BIDS data set, or "date" in a '
    "datalist."
)


@dataclass(frozen=True)
class Session:
    """
    One scan of a patient.

    Attributes:
        subject: the scan's id, of which its results are named.
        patient: whose scan it is.
        label: what tells it from the patient's other scans, such as "ses-2"; the id where there is no such thing.
        date: as it was given, see :func:`~.dates.readings`; empty where not known.
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


@dataclass(frozen=True)
class Visits:
    """
    The scans of one patient; going through them does so in the order of time.

    Attributes:
        sessions: in the order of time; where that is not known, as they were found.
        order: by what they were ordered, such as "their dates"; empty for one scan.
        notices: sentences on the order, where it is not that of the dates alone.
        error: why the order is not known; else empty.
    """

    sessions: tuple[Session, ...]
    order: str = ""
    notices: tuple[str, ...] = ()
    error: str = ""

    def __len__(self) -> int:
        return len(self.sessions)

    def __iter__(self) -> Iterator[Session]:
        """In the order of time; raises FollowUpError where that is not known."""
        if self.error:
            raise FollowUpError(self.error)
        return iter(self.sessions)


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
    study = header["StudyDate"] + header["StudyTime"] if header.get("StudyDate") else ""
    date = _known(str(entry.get("date") or "")) or study or _bids_time(entry, patient, label)
    return Session(
        subject, patient, label, date, entry, header.get("PatientBirthDate", ""), header.get("PatientSex", "")
    )


def patients_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Visits]:
    """
    Group the scans of a data set by patient, each patient's in the order of time.

    The order is that of the dates where two scans have one, else that of the sessions' names, see
    :class:`~.order.Names`. Where neither tells it, it is not guessed.

    Args:
        entries: subjects' dicts, as of :func:`~..data.layouts.find_subjects`; files of a folder that are no scan, whose
            "subject" begins with the word ``file``, are left out.

    Example:
        >>> found = patients_of([{"subject": f"sub-1_ses-{n}"} for n in (10, 9)])
        >>> [one.label for one in found["sub-1"]], found["sub-1"].order
        (['ses-9', 'ses-10'], 'the numbers in their names')
    """
    found: dict[str, list[Session]] = defaultdict(list)
    for entry in entries:
        if not ("error" in entry and str(entry["subject"]).startswith("file ")):
            one = session_of(entry)
            found[one.patient].append(one)
    everyone = [one for sessions in found.values() for one in sessions]
    of_dates = habits(one.date for one in everyone if one.date)
    of_names = date_habit([one.label for one in everyone])
    return {patient: _visits(sessions, of_dates, of_names) for patient, sessions in sorted(found.items())}


def _visits(sessions: Sequence[Session], of_dates: Iterable[str], of_names: Iterable[str]) -> Visits:
    if len(sessions) == 1:
        return Visits(tuple(sessions))
    try:
        return _in_order(sessions, of_dates, of_names)
    except FollowUpError as error:
        return Visits(tuple(sessions), error=str(error))


def _in_order(sessions: Sequence[Session], of_dates: Iterable[str], of_names: Iterable[str]) -> Visits:
    """Compare each two scans, by their dates where both have one and these differ, else by their names."""
    dated = [n for n, one in enumerate(sessions) if one.date]
    given = [(sessions[n].subject, sessions[n].date) for n in dated]
    known = [dict(zip(dated, read, strict=True)) for read in spans(given, of_dates)] if dated else []
    names = Names(list(dict.fromkeys(one.label for one in sessions)), of_names)
    before = {n: 0 for n in range(len(sessions))}
    compared, against = {}, []
    for n, one in enumerate(sessions):
        for m, other in list(enumerate(sessions))[n + 1 :]:
            signs = {sign(read[n], read[m]) for read in known if n in read and m in read}
            if len(signs) > 1:
                raise in_doubt([(each.subject, each.date) for each in (one, other)])
            by_date = signs.pop() if signs else 0
            by_name, why = names.compare(one.label, other.label)
            if by_date and by_name and by_date != by_name:
                against.append((one, other))
            earlier = by_date or by_name
            if not earlier and one.label != other.label:
                raise FollowUpError(_unknown(sessions))
            compared[n, m] = compared[m, n] = BY_DATES if by_date else why
            before[m if earlier <= 0 else n] += 1
    if against and len(dated) < len(sessions):
        raise FollowUpError(
            f"The names of the sessions, {_listed(sessions)}, tell another order than the dates of those that have "
            f"one. {ADVICE}"
        )
    if len(set(before.values())) < len(sessions):  # one before two, two before three, three before one
        raise FollowUpError(_unknown(sessions))
    order = sorted(before, key=before.__getitem__)
    by = _said([compared[pair] for pair in itertools.pairwise(order)])
    ordered = tuple(sessions[n] for n in order)
    return Visits(ordered, by, tuple(_about_order(ordered, by, against)))


def _said(reasons: Sequence[str]) -> str:
    """By what scans were ordered, of the reasons of those that follow each other."""
    names = [why for why in dict.fromkeys(reasons) if why not in ("", BY_DATES)]
    dates = [BY_DATES] if BY_DATES in reasons else []
    return " and ".join([*dates, *([f"the {' and '.join(names)} in their names"] if names else [])])


def _unknown(sessions: Sequence[Session]) -> str:
    without = [one.label for one in sessions if not one.date]
    dates = "They have no dates" if len(without) == len(sessions) else f"There is no date of {', '.join(without)}"
    dates = dates if without else f"Their dates ({', '.join(one.date for one in sessions)}) do not tell it"
    return (
        f"The order of the scans in time is not known. {dates}, and the names of the sessions, {_listed(sessions)}, do "
        f"not, as numbers or words such as baseline and followup would. {ADVICE}"
    )


def _about_order(ordered: Sequence[Session], by: str, against: Sequence[tuple[Session, Session]]) -> list[str]:
    notices = []
    named = [pair for pair in against if all(one.label != one.subject for one in pair)]
    if named:  # where no session is named, the id of a scan need not tell its time
        told = ", ".join(f"{one.label} {one.date}" for one in ordered)
        notices.append(
            f"Warning: the names of the sessions tell another order than their dates ({told}): the dates were taken. "
            "Look whether these are right."
        )
    if by not in ("", BY_DATES):
        undated = sum(not one.date for one in ordered)
        why = "no dates are known" if undated == len(ordered) else "not all have a date"
        why = why if undated else "dates are the same"
        notices.append(f"Order of the scans by {by}, as {why}: {_listed(ordered)}.")
    return notices


def _listed(sessions: Sequence[Session]) -> str:
    return ", ".join(dict.fromkeys(one.label for one in sessions))


def _known(date: str) -> str:
    return "" if date.strip().lower() in NO_DATE else date.strip()


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
    with suppress(OSError, ValueError), table.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row.get("session_id") in (label, label.removeprefix("ses-")):
                return _known(row.get("acq_time") or "")
    return ""
