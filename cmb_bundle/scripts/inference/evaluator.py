"""Work through a cohort with MONAI's evaluator, one subject at a time, going on when one fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from monai.data import list_data_collate
from monai.engines import SupervisedEvaluator

from ..data.layouts import NO_DATASET
from ..errors import CohortError, SubjectError, root_cause
from ..files import write_csv

logger = logging.getLogger(__name__)


def prepare_volume(batch: Mapping, device=None, non_blocking: bool = False, **kwargs) -> tuple:
    """Prepare a subject: the volume on the device, and its lesions in RAS mm (None without labels)."""
    return batch["image"].to(device, non_blocking=non_blocking), batch.get("lesions_ras")


def collate_subject(batch: Sequence[Mapping]) -> dict:
    """Collate one subject at a time; one that failed to load keeps its message."""
    return dict(batch[0]) if "error" in batch[0] else list_data_collate(batch)


class CohortEvaluator(SupervisedEvaluator):
    """
    A SupervisedEvaluator that takes one subject at a time and goes on when one fails.

    Whatever a subject raises, in reading, inference, post-processing or writing, is kept in ``failures``.
    A handler puts a subject whose results are written, but not all of them, into ``incomplete``, with the reason.

    Args:
        failures_file: CSV of subjects and reasons, written at the end of a run in which any failed or is incomplete.
        kwargs: as of ``monai.engines.SupervisedEvaluator``.
    """

    def __init__(self, *args, failures_file: str | Path | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.failures: dict[str, str] = {}
        self.incomplete: dict[str, str] = {}
        self.failures_file = failures_file

    def _iteration(self, engine: CohortEvaluator, batchdata: dict) -> dict:
        if "error" in batchdata:
            self._fail(batchdata["subject"], batchdata["error"])
            return {}
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            cause = root_cause(error)
            self._fail(batchdata["subject"][0], f"{type(cause).__name__}: {cause}")
            return {}

    def _fail(self, subject: str, message: str) -> None:
        self.failures[subject] = message
        logger.error(f"{subject} failed: {message}")

    def run(self) -> None:
        """
        Work through the cohort.

        Raises:
            SubjectError: there are no subjects.
            CohortError: after the last subject, if any failed or is incomplete; it lists them.
        """
        if self.state.epoch_length == 0:
            raise SubjectError(NO_DATASET)
        self.failures.clear()
        self.incomplete.clear()
        super().run()
        raise_failures(self.failures, self.state.epoch_length, self.failures_file, self.incomplete)


def raise_failures(
    failures: Mapping[str, str],
    total: int,
    path: str | Path | None = None,
    incomplete: Mapping[str, str] | None = None,
) -> None:
    """
    End with a summary of the subjects that failed, if any did.

    Args:
        failures: subject to message.
        total: number of subjects.
        path: a CSV to write, with the columns subject and reason; removed where none failed.
        incomplete: subject to message, of those whose results are kept although one of their files is not written.

    Raises:
        CohortError: if there is a failure, or an incomplete subject.

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
    if not listed:
        return
    if path is not None:
        write_csv(path, pd.DataFrame(listed, columns=["subject", "reason"]))
    reasons = "\n".join(f"  {subject}: {message}" for subject, message in listed)
    count = f"{len(failures)} of {total} subjects failed"
    if incomplete:
        count += f"; {len(incomplete)} without DICOM SEG and SR"
    raise CohortError(f"{count}; the others are done.\n{reasons}")
