"""Match the candidates of a system with the lesions of each subject, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RecordsError
from .counts import Counts, count
from .matching import Matching, match, suppress
from .records import SubjectRecord

STAGES = ("stage_1", "stage_2_given_stage_1", "end_to_end")


@dataclass(frozen=True)
class SystemMatching:
    """
    The matchings of one system; each list has one per subject.

    Attributes:
        stage_1: matching of all candidates, by detector score.
        end_to_end: matching of the accepted candidates, by probability.
        curve: matching of the classified candidates without those too close to a more probable one, by probability:
            those that would be accepted at lower thresholds, for the FROC curve.
        accepted: for each subject the indices of its accepted candidates, in the order of ``end_to_end``.
    """

    stage_1: list[Matching]
    end_to_end: list[Matching]
    curve: list[Matching]
    accepted: list[np.ndarray]

    @property
    def found_by_stage_1(self) -> list[np.ndarray]:
        """For each subject a mask over its lesions."""
        return [~m.is_missed for m in self.stage_1]

    def of(self, stage: str) -> list[Matching]:
        """The matchings at the operating threshold of one of ``STAGES``."""
        return self.stage_1 if stage == "stage_1" else self._later(stage, self.end_to_end)

    def curve_of(self, stage: str) -> list[Matching]:
        """The matchings for the FROC curve of one of ``STAGES``."""
        return self.stage_1 if stage == "stage_1" else self._later(stage, self.curve)

    def counts(self, stage: str) -> Counts:
        """The counts at the operating threshold; a lesion-free subject has no lesion in the ground truth."""
        return count(self.of(stage), count(self.stage_1).lesion_free)

    def _later(self, stage: str, matchings: list[Matching]) -> list[Matching]:
        if stage == "end_to_end":
            return matchings
        return [m.among(found) for m, found in zip(matchings, self.found_by_stage_1, strict=True)]


def match_records(records: Sequence[SubjectRecord], distance_mm: float, duplicate_mm: float = 3.0) -> SystemMatching:
    """
    Match what one system found with the lesions of each subject.

    Args:
        records: records of one system.
        distance_mm: largest distance between a detection and its lesion.
        duplicate_mm: see :class:`~.metrics.EvaluationOptions`.

    Raises:
        RecordsError: an accepted candidate has no probability.
    """
    stage_1, end_to_end, curve, accepted = [], [], [], []
    for record in records:
        lesions = places_of(record.lesions)
        places = places_of(record.candidates)
        score = np.array([c.detector_score for c in record.candidates], dtype=float)
        probability = np.array([c.probability for c in record.candidates], dtype=float)
        kept = np.flatnonzero([c.accepted for c in record.candidates])
        classified = np.flatnonzero(~np.isnan(probability))
        if np.isnan(probability[kept]).any():
            raise RecordsError(
                f"subject {record.subject}, system {record.system!r}: an accepted candidate has no probability; "
                "expected one. A system without a second stage gives its detector score as the probability."
            )
        apart = classified[suppress(places[classified], probability[classified], duplicate_mm)]
        stage_1.append(match(places, score, lesions, distance_mm))
        end_to_end.append(match(places[kept], probability[kept], lesions, distance_mm))
        curve.append(match(places[apart], probability[apart], lesions, distance_mm))
        accepted.append(kept)
    return SystemMatching(stage_1, end_to_end, curve, accepted)


def places_of(things: Sequence) -> np.ndarray:
    """The ``ras_mm`` of lesions, candidates or mimics as (N, 3)."""
    return np.array([t.ras_mm for t in things], dtype=float).reshape(-1, 3)
