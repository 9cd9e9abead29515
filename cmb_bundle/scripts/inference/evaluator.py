"""Work through a cohort with MONAI's evaluator, one subject at a time, going on when one fails."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals

import pandas as pd
from monai.data import list_data_collate
from monai.engines import SupervisedEvaluator

from ..data.layouts import NO_DATASET
from ..errors import CohortError, OutputError, SubjectError, root_cause
from ..files import check_writable, clear_leftovers, write_csv
from .stop import StopSignals

logger = logging.getLogger(__name__)


def prepare_volume(batch: Mapping, device=None, non_blocking: bool = False, **kwargs) -> tuple:
    """Prepare a subject: the volume on the device, and its lesions in RAS mm (None without labels)."""
    return batch["image"].to(device, non_blocking=non_blocking), batch.get("lesions_ras")


def collate_subject(batch: Sequence[Mapping]) -> dict:
    """Collate one subject at a time; one that failed to load, or is done, stays as it is."""
    return dict(batch[0]) if {"error", "done", "stop"} & batch[0].keys() else list_data_collate(batch)


class CohortEvaluator(SupervisedEvaluator):
    """
    A SupervisedEvaluator that takes one subject at a time and goes on when one fails.

    Whatever a subject raises, in reading, inference, post-processing or writing, is kept in ``failures``.
    A handler puts a subject whose results are written, but not all of them, into ``incomplete``, with the reason.

    A subject that is done already, ``{"subject": id, "done": "before"}``, is not worked on. Handlers with a method
    ``recall(engine, subject)`` then read what they need of it from its results, so that it counts as any other; those
    with a method ``keep(engine, subject)`` write this when a subject is done.

    SIGINT, SIGTERM and a full disk end the run after the subject that is being worked on, with all that is done at the
    end of any run; ``{"subject": "", "stop": reason}`` in place of a subject does so, too.

    Args:
        failures_file: CSV of subjects and reasons, written at the end of a run in which any failed or is incomplete.
            Its folder is that of the results, which is cleared of what killed runs left aside.
        kwargs: as of ``monai.engines.SupervisedEvaluator``.

    Attributes:
        worked: the subjects so far, with those that failed or were done before.
        skipped: the subjects that were done before.
        stopped: why the run ended before the last subject, else empty.
        began: :func:`time.monotonic` when work on the subject began, without reading it.
    """

    def __init__(self, *args, failures_file: str | Path | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.subject_handlers = list(kwargs.get("val_handlers") or ())
        self.failures: dict[str, str] = {}
        self.incomplete: dict[str, str] = {}
        self.skipped: list[str] = []
        self.failures_file = failures_file
        self.began = 0.0
        self.worked: list[str] = []
        self.stopped, self._signals = "", StopSignals()

    def _iteration(self, engine: CohortEvaluator, batchdata: dict) -> dict:
        loader_stops = hasattr(self.data_loader, "asked_to_stop")  # it has subjects under way, which it waits for
        if "stop" in batchdata or (self._signals.received is not None and not loader_stops):
            self._stop(batchdata.get("stop", ""))
            return {}
        try:
            return self.work_on(batchdata)
        finally:
            if self._signals.received is not None and not loader_stops:
                self._stop("")

    def work_on(self, batchdata: dict) -> dict:
        """Work on one subject, collated; what it raises goes into ``failures``."""
        subject = batchdata["subject"] if isinstance(batchdata["subject"], str) else batchdata["subject"][0]
        self.worked.append(subject)
        if "error" in batchdata:
            self._fail(subject, batchdata["error"])
            return {}
        self.began = time.monotonic()
        try:
            if "done" in batchdata:
                self._recall(subject, batchdata["done"])
                return {}
            output = super()._iteration(self, batchdata)
            for handler in self.subject_handlers:
                if hasattr(handler, "keep") and getattr(self.data_loader.dataset, "former", None) is not None:
                    handler.keep(self, subject)
            return output
        except Exception as error:
            cause = root_cause(error)
            if getattr(cause, "of_disk", False):  # it is not the subject's fault, and meets all others too
                self.worked.pop()
                self._stop(str(cause))
            else:
                self._fail(subject, f"{type(cause).__name__}: {cause}")
            return {}

    def _recall(self, subject: str, when: str) -> None:
        for handler in self.subject_handlers:
            if hasattr(handler, "recall"):
                handler.recall(self, subject)
        if when == "before":
            self.skipped.append(subject)

    def _fail(self, subject: str, message: str) -> None:
        self.failures[subject] = message
        logger.error(f"{subject} failed: {message}")

    def _stop(self, reason: str) -> None:
        self.stopped = self.stopped or reason
        self.terminate()

    def run(self) -> None:
        """
        Work through the cohort.

        Raises:
            SubjectError: there are no subjects.
            OutputError: the folder of results cannot be written to.
            CohortError: after the last subject, if any failed or is incomplete, or what stopped the run before; it
                lists them.
            SystemExit: a signal stopped the run; with the status 128 and its number, as that of shells.
        """
        total = self.state.epoch_length
        if total == 0:
            raise SubjectError(NO_DATASET)
        if self.failures_file is not None:
            check_writable(Path(self.failures_file).parent)
            clear_leftovers(Path(self.failures_file).parent)
        self.failures.clear()
        self.incomplete.clear()
        self.skipped.clear()
        self.worked.clear()
        self.stopped = ""
        with StopSignals() as self._signals:
            if hasattr(self.data_loader, "asked_to_stop"):
                self.data_loader.asked_to_stop = lambda: self._signals.received is not None
            super().run()
            signal = self._signals.received
            self._signals = StopSignals()
            if signal is not None and len(self.worked) < total:
                self.stopped = f"by {Signals(signal).name}"
            if self.failures_file is not None:
                clear_leftovers(Path(self.failures_file).parent)  # of workers that died
            stopped = self.stopped and f"Stopped after {len(self.worked)} of {total} subjects, {self.stopped}"
            try:
                raise_failures(self.failures, total, self.failures_file, self.incomplete, stopped)
            except CohortError as error:
                if signal is None or not stopped:
                    raise
                print(f"\n{error}", file=sys.stderr)
                raise SystemExit(128 + signal) from None


def raise_failures(
    failures: Mapping[str, str],
    total: int,
    path: str | Path | None = None,
    incomplete: Mapping[str, str] | None = None,
    stopped: str = "",
) -> None:
    """
    End with a summary of the subjects that failed, if any did.

    Args:
        failures: subject to message.
        total: number of subjects.
        path: a CSV to write, with the columns subject and reason; removed where none failed.
        incomplete: subject to message, of those whose results are kept although one of their files is not written.
        stopped: why the run ended before the last subject, if it did.

    Raises:
        CohortError: if there is a failure, or an incomplete subject, or the run was stopped.

    Example:
        >>> raise_failures({}, 2, incomplete={"P01": "no SEG"})
        Traceback (most recent call last):
            ...
        cmb_bundle.scripts.errors.CohortError: 0 of 2 subjects failed; 1 without DICOM SEG and SR; the others are done.
          P01: no SEG
    """
    incomplete = {name: why for name, why in (incomplete or {}).items() if name not in failures}
    listed = sorted({**failures, **incomplete}.items())
    if path is not None:
        Path(path).unlink(missing_ok=True)
    if not listed and not stopped:
        return
    unwritten = ""
    if path is not None and listed:
        try:
            write_csv(path, pd.DataFrame(listed, columns=["subject", "reason"]))
        except OutputError as error:  # the list below is the more needed
            unwritten = f"\n{error}"
    reasons = "\n".join(f"  {subject}: {message}" for subject, message in listed)
    count = f"{len(failures)} of {total} subjects failed"
    if incomplete:
        count += f"; {len(incomplete)} without DICOM SEG and SR"
    if stopped:
        failed = f" {count}." if listed else ""
        count = f"{stopped.rstrip('.')}.{failed} The same command goes on with the rest"
    others = "." if stopped else "; the others are done."
    raise CohortError("\n".join(part for part in (f"{count}{others}", reasons) if part) + unwritten)
