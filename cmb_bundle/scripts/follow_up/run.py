"""Detect in every scan, then compare the scans of each patient; go on where one cannot be compared."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CohortError, FollowUpError, OptionError
from ..files import write_csv
from ..options import check_flags
from ..regions.volumes import load_elastix
from .comparison import Comparison
from .lesions import View, judge
from .matching import track
from .patients import Session, Visits, patients_of
from .protocol import not_known
from .registration import Registration, register_rigidly
from .reports import write_reports
from .results import clear, said, summary_row, write_comparison, write_table
from .scans import FoundScan, read_scan

logger = logging.getLogger(__name__)


class FollowUp:
    """
    Follow the microbleeds of each patient of a data set over its scans.

    Args:
        evaluator: works on every scan, as for a plain run; what failed there is in its ``failures``.
        reader: transforms that load a subject in RAS order, with its ``mask``.
        output_dir: folder of results, of the default layout.
        output_layout: as of the scans' results.
        match_mm: the largest distance, in mm of the first scan, of a microbleed in two scans.
        second_look_mm: the same where it was found in one of them only, and a candidate in the other.
        second_look_probability: smallest probability of a candidate that says that something was there before.
        dark_share: where no candidate was, something was there before if the image is so dark there, against its
            surroundings, as a share of how dark the lesion is.
        certain_threshold: joint probability of a certain lesion; others are possible ones.
        joint_weight: see :func:`~.joint.joint_probability`.
        picture: whether the timeline is drawn.

    Attributes:
        failures: patients, and scans of patients with others, that could not be compared, each with the reason.

    Raises:
        OptionError: an option has a value that it cannot have, or itk-elastix is not installed.
    """

    def __init__(
        self,
        evaluator: Any,
        reader: Callable[[Mapping], Mapping],
        output_dir: str | Path,
        output_layout: str = "default",
        match_mm: float = 5.0,
        second_look_mm: float = 3.0,
        second_look_probability: float = 0.01,
        dark_share: float = 0.5,
        certain_threshold: float = 0.36,
        joint_weight: float = 0.65,
        picture: bool = True,
    ) -> None:
        check_flags(picture=picture)
        load_elastix("a follow-up registers the scans of a patient", ".")
        if output_layout != "default":
            raise OptionError(f"output_layout is {output_layout!r}; a follow-up needs default.")
        for name, value in (("match_mm", match_mm), ("second_look_mm", second_look_mm)):
            if not (isinstance(value, int | float) and 0 < value <= 50):
                raise OptionError(f"{name} is {value!r}; expected mm, above 0 and at most 50.")
        shares = {
            "second_look_probability": second_look_probability, "dark_share": dark_share,
            "certain_threshold": certain_threshold, "joint_weight": joint_weight,
        }  # fmt: skip
        for name, value in shares.items():
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise OptionError(f"{name} is {value!r}; expected a number from 0 to 1.")
        self.evaluator, self.reader, self.output_dir = evaluator, reader, Path(output_dir)
        self.distances = {"match_mm": match_mm, "second_look_mm": second_look_mm}
        self.least, self.certain = second_look_probability, certain_threshold
        self.dark_share = dark_share
        self.joint_weight = joint_weight
        self.picture = picture
        self.failures: list[tuple[str, str]] = []

    def run(self) -> None:
        """
        Detect in all scans, then compare those of each patient.

        Raises:
            SubjectError: there are no subjects.
            CohortError: at the end, if a scan or a patient failed; or what stopped the detection before its last scan.
        """
        try:
            self.evaluator.run()
        except CohortError:
            if self.evaluator.stopped:
                raise
        scans_failed = dict(sorted({**self.evaluator.failures, **self.evaluator.incomplete}.items()))
        data = self.evaluator.data_loader.dataset.data
        patients, rows, unreported = patients_of(data), [], 0
        self.failures = []
        for patient, visits in patients.items():
            try:
                done = self.compare(patient, visits)
                folder = write_comparison(done, self.output_dir, self.picture)
            except FollowUpError as error:
                clear(self.output_dir, patient)
                self.failures.append((patient, str(error)))
                logger.error(f"{patient}: {error}")
                continue
            unreported += not self._report(done, folder)
            rows.append(summary_row(done))
            print(said(done), flush=True)
        write_table(self.output_dir, rows)
        without = len(patients) - len(rows)
        counted = [
            (len(self.evaluator.failures), len(data), "scan", "failed"),
            (len(self.evaluator.incomplete), len(data), "scan", "has no DICOM files"),
            (len(self.failures) - without - unreported, len(data), "scan", "could not be compared"),
            (without, len(patients), "patient", "has no follow-up"),
            (unreported, len(rows), "follow-up", "has no DICOM report"),
        ]
        self._end(scans_failed, counted)

    def compare(self, patient: str, visits: Visits) -> Comparison:
        """
        Compare the scans of a patient.

        Raises:
            FollowUpError: their order is not known, fewer than two can be compared, or they look like those of two
                people.
        """
        notices: list[str] = []
        scans = self._read(visits, notices)
        if len(scans) < 2:
            raise FollowUpError(_too_few(visits, notices))
        first = scans[0]
        kept = [(first, Registration(np.eye(4), 2.0, 1.0, 0.0))]
        left_out: list[tuple[str, str]] = []
        for scan in scans[1:]:
            why = _two_people(first.session, scan.session)
            registration = None if why else register_rigidly(first.head_scan, scan.head_scan)
            if registration is not None and registration.doubts:
                why = (
                    f"it does not lie on {first.session.subject} by any rigid registration "
                    f"({'; '.join(registration.doubts)})"
                )
            if why:
                left_out.append((scan.session.subject, why))
            else:
                kept.append((scan, registration))
        advice = "Are they of two people under one id? If not, look at both images."
        if len(kept) < 2:
            reasons = "; ".join(f"{name}: {why}" for name, why in left_out)
            raise FollowUpError(f"No scan could be compared with the first. {reasons}. {advice}")
        for name, why in left_out:
            self.failures.append((name, f"{FollowUpError.__name__}: left out of the follow-up of {patient}, as {why}. "
                                        f"{advice}"))  # fmt: skip
            notices.append(f"{name} was left out, as {why}.")
        notices += _about_protocols([scan for scan, _ in kept])
        notices = [*_about_copies([scan for scan, _ in kept]), *notices, *visits.notices]
        notices.sort(key=lambda notice: not notice.startswith("Warning"))
        return self._compared(patient, kept, notices, visits.order)

    def _report(self, done: Comparison, folder: Path) -> bool:
        """Write the DICOM reports; where that cannot be done, the other results are kept and a line says so: False."""
        try:
            write_reports(done, folder)
            return True
        except Exception as error:
            reason = (
                f"{FollowUpError.__name__}: no DICOM report of the follow-up was written ({type(error).__name__}: "
                f"{error}); all other results were. If it is not needed, set dicom_output to False."
            )
            self.failures.append((done.patient, reason))
            logger.error(f"{done.patient}: {reason}")
            return False

    def _compared(
        self, patient: str, kept: Sequence[tuple[FoundScan, Registration]], notices: list[str], order: str
    ) -> Comparison:
        scans, registrations = zip(*kept, strict=True)
        tracks = track([scan.sightings(done.to_first, self.least) for scan, done in kept], **self.distances)
        views = [View(s.protocol, s.coverage, s.image, np.linalg.inv(done.to_first)) for s, done in kept]
        threshold = max(scan.threshold for scan in scans)
        lesions = judge(tracks, views, threshold, self.certain, self.dark_share, self.joint_weight)
        return Comparison(patient, scans, registrations, tuple(lesions), tuple(notices), order)

    def _read(self, visits: Iterable[Session], notices: list[str]) -> list[FoundScan]:
        """The scans that can be read, without several of one session."""
        scans, labels = [], set()
        for one in visits:
            if one.subject in self.evaluator.failures or "error" in one.entry:
                notices.append(f"{one.subject} was left out, as it failed.")
            elif one.label in labels:
                notices.append(f"{one.subject} was left out: it is another scan of the same session.")
            else:
                try:
                    scans.append(read_scan(one, self.output_dir, self.reader))
                    labels.add(one.label)
                except FollowUpError as error:
                    notices.append(f"{one.subject} was left out: {error}")
                    self.failures.append((one.subject, f"{FollowUpError.__name__}: left out of the follow-up: {error}"))
        return scans

    def _end(self, scans_failed: Mapping[str, str], counted: Sequence[tuple[int, int, str, str]]) -> None:
        """Write what failed, of the detection and of the follow-up, and say how much of what it is."""
        listed = [*scans_failed.items(), *self.failures]
        path = self.output_dir / "failures.csv"
        path.unlink(missing_ok=True)
        if not listed:
            return
        write_csv(path, pd.DataFrame(listed, columns=["subject", "reason"]))
        reasons = "\n".join(f"  {name}: {why}" for name, why in listed)
        summary = ", ".join(
            f"{number} of {of} {thing}{'s' * (of != 1)} {what if number == 1 else what.replace('has', 'have')}"
            for number, of, thing, what in counted
            if number
        )
        raise CohortError(f"{summary}; the others are done.\n{reasons}")


def _too_few(visits: Visits, notices: Sequence[str]) -> str:
    if len(visits) == 1 and not notices:
        return (
            "There is one scan only; a follow-up needs two or more. Sessions are told by BIDS names "
            '(sub-01_ses-2), the PatientID of DICOM, or "patient" in a datalist.'
        )
    return f"Fewer than two of {len(visits)} scans can be compared. {' '.join(notices)}"


def _two_people(first: Session, later: Session) -> str:
    """Whether two headers name two people."""
    for word, one, other in (("birth date", first.born, later.born), ("sex", first.sex, later.sex)):
        known = "" not in (one, other) and not (word == "sex" and {one, other} - {"F", "M"})
        if known and one != other:
            return f"its header has another {word} of the patient than that of {first.subject}"
    return ""


def _about_protocols(scans: Sequence[FoundScan]) -> list[str]:
    unknown = [scan.session.subject for scan in scans[1:] if not_known(scans[0].protocol, scan.protocol)]
    if not unknown:
        return []
    return [
        f"Field strength or echo time of {scans[0].session.subject} or of {', '.join(unknown)} is not known: they were "
        "taken as the same. If they are not, microbleeds may seem new or gone for that alone."
    ]


def _about_copies(scans: Sequence[FoundScan]) -> list[str]:
    return [
        f"Warning: {one.session.subject} and {other.session.subject}: the two scans hold the same values; one may be a "
        "copy. Look at where they come from."
        for one, other in itertools.combinations(scans, 2)
        if np.array_equal(one.image, other.image)
    ]
