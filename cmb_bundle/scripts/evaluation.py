"""An evaluation: records of subjects in, numbers, tables and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from .records import SubjectRecord


@dataclass(frozen=True)
class EvaluationOptions:
    """
    How records are scored.

    Args:
        distance_mm: largest distance of a detection from its lesion, primary analysis.
        strict_mm: that of the second analysis.
        duplicate_mm: of two detections closer than this, the less probable one is none; as in inference.
        bootstrap: resamples of subjects for the intervals; 0 for none.
        seed: of the resamples.
        data_set: what was evaluated, in words or as a path, for the report.
    """

    distance_mm: float = 5.0
    strict_mm: float = 3.0
    duplicate_mm: float = 3.0
    bootstrap: int = 2000
    seed: int = 0
    data_set: str | None = None


def write_evaluation(
    records: Sequence[SubjectRecord], output_dir: str | PathLike, options: EvaluationOptions | None = None
) -> dict:
    """Score records and write all files of the evaluation."""
    raise NotImplementedError
