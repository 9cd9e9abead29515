"""The DICOM reports of a follow-up, one for each later scan that is DICOM."""

from __future__ import annotations

from pathlib import Path

from ..dicom.follow_up_report import tracking_uids, write_follow_up_report
from ..dicom.reader import require
from .comparison import Comparison
from .lesions import NEW, Lesion, counts

END = "_cmb_follow_up_sr.dcm"


def write_reports(done: Comparison, folder: str | Path) -> list[Path]:
    """
    Write ``<scan>_cmb_follow_up_sr.dcm`` for each later scan whose results have been written as DICOM.

    Each refers to the reports of the scans before it that have one.

    Args:
        done: of a patient.
        folder: of the patient's follow-up.

    Returns:
        the paths; none where the scans are not DICOM, or without ``dicom_output``.

    Raises:
        DicomError: pydicom or highdicom is missing.
    """
    uids = {n: tracking_uids(scan.segmentation_file) for n, scan in enumerate(done.scans) if scan.has_report}
    own: dict[int, str] = {}
    paths = []
    for n, scan in enumerate(done.scans):
        if n == 0 or not scan.has_report:
            continue
        earlier = [one.report_file for one in done.scans[:n] if one.has_report]
        numbers = counts(done.lesions, n)
        numbers = {NEW: numbers.pop("new")["all"], **numbers}
        lesions = [_entries(lesion, n, _uid(lesion, uids, own)) for lesion in done.lesions]
        name = scan.session.subject
        path = write_follow_up_report(
            Path(folder) / f"{name}{END}", scan.dicom_source, scan.segmentation_file, earlier, lesions, numbers,
            (name, n + 1), " ".join([scan.warnings, *done.notices]).strip(),
        )  # fmt: skip
        paths.append(path)
    return paths


def _uid(lesion: Lesion, uids: dict[int, list[str]], own: dict[int, str]) -> str:
    """That of the segmentation in which the lesion was first found; else one of its own, the same in all reports."""
    for n, seen in sorted(lesion.seen.items()):
        if seen.found and n in uids:
            return uids[n][seen.label - 1]
    return own.setdefault(lesion.number, str(require("pydicom").uid.generate_uid()))


def _entries(lesion: Lesion, n: int, tracking_uid: str) -> dict:
    """What the report of scan ``n`` says of a lesion; its region and size where the scan does not show it are older."""
    seen = lesion.seen.get(n)
    found = seen is not None and seen.found
    known = seen if found else next((one for one in lesion.seen.values() if one.found), None)
    return {
        "number": lesion.number,
        "status": lesion.statuses[n],
        "certain": lesion.certain,
        "probability": lesion.probability,
        "tracking_uid": tracking_uid,
        "label": seen.label if found else None,
        "diameter_mm": known.diameter_mm if known else None,
        "region": (known.region or None) if known else None,
        "side": (known.side or None) if known else None,
    }
