"""How detections are scored against lesions: matching, counts, FROC. Numbers in, numbers out.

Ratios with a denominator of 0 are None, never NaN: a sensitivity without lesions, a precision without
detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives a subject at which LUNA16 (Setio et al., 2017) averages sensitivity."""


@dataclass(frozen=True)
class Matching:
    """The detections of one subject matched one to one with its lesions.

    Attributes:
        scores: (N,) of the detections.
        lesion_of_detection: (N,) the lesion that each detection found, -1 for none.
        detection_of_lesion: (M,) the detection that found each lesion, -1 for a missed one.
        is_duplicate: (N,) a further detection near a lesion that is already found; neither a true nor a false
            positive.
        distance_mm: (M,) from each lesion to the detection that found it, infinite for a missed one.
    """

    scores: np.ndarray
    lesion_of_detection: np.ndarray
    detection_of_lesion: np.ndarray
    is_duplicate: np.ndarray
    distance_mm: np.ndarray

    @property
    def is_true_positive(self) -> np.ndarray:
        """(N,) detections that found a lesion."""
        return self.lesion_of_detection >= 0

    @property
    def is_false_positive(self) -> np.ndarray:
        """(N,) detections that are near no lesion."""
        return ~self.is_true_positive & ~self.is_duplicate

    @property
    def is_missed(self) -> np.ndarray:
        """(M,) lesions that no detection found."""
        return self.detection_of_lesion < 0


def match(detections_mm: np.ndarray, scores: np.ndarray, lesions_mm: np.ndarray, distance_mm: float = 5.0) -> Matching:
    """Match detections with lesions one to one by the distance of their centres.

    Of all matchings, the one is taken that finds the most lesions; among these, the one with the highest
    scores; among these, the one with the smallest sum of distances. It then also holds for every threshold
    that the matched detections at or above it find as many lesions as any matching of the detections at or
    above it could, because sets of detections that can be matched are a matroid, in which choosing greedily
    by weight is best at every step. So one matching serves all points of an FROC curve.

    Args:
        detections_mm: (N, 3) in any world space in mm; N may be 0.
        scores: (N,).
        lesions_mm: (M, 3) in the same space; M may be 0.
        distance_mm: largest distance of a pair, itself allowed.

    Returns:
        the matching.

    Raises:
        ValueError: if the numbers of detections and scores differ, or a number is not finite.
    """
    detections = np.asarray(detections_mm, dtype=np.float64).reshape(-1, 3)
    lesions = np.asarray(lesions_mm, dtype=np.float64).reshape(-1, 3)
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(scores) != len(detections):
        raise ValueError(f"There are {len(detections)} detections but {len(scores)} scores.")
    for name, values in (("detections_mm", detections), ("scores", scores), ("lesions_mm", lesions)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite: {values[~np.isfinite(values)]}.")

    distance = cdist(detections, lesions)
    feasible = distance <= distance_mm
    pairs = min(distance.shape)
    _, rank = np.unique(scores, return_inverse=True)
    nearness = 1 - distance / distance_mm if distance_mm > 0 else np.zeros_like(distance)
    # One more pair keeps all detections matched and adds a rank of 1 or more, and all distances together
    # weigh less than a rank: so the number of pairs comes first, then scores, then distances.
    value = rank[:, None] + 1 + nearness / (pairs + 1)
    rows, columns = linear_sum_assignment(np.where(feasible, value, 0), maximize=True)
    matched = feasible[rows, columns]
    rows, columns = rows[matched], columns[matched]

    lesion_of_detection = np.full(len(detections), -1)
    lesion_of_detection[rows] = columns
    detection_of_lesion = np.full(len(lesions), -1)
    detection_of_lesion[columns] = rows
    pair_distance = np.full(len(lesions), np.inf)
    pair_distance[columns] = distance[rows, columns]
    is_duplicate = feasible.any(1) & (lesion_of_detection < 0)
    return Matching(scores, lesion_of_detection, detection_of_lesion, is_duplicate, pair_distance)


def summary(matchings: Sequence[Matching]) -> dict[str, float | int | None]:
    """Pool the matchings of all subjects.

    Args:
        matchings: one a subject.

    Returns:
        counts "n_subjects", "n_lesion_free_subjects", "n_lesions", "true_positives", "false_negatives",
        "false_positives", "duplicates"; ratios "sensitivity", "precision", "f1";
        "false_positives_per_subject" over all subjects (FPavg) and "false_positives_per_lesion_free_subject".
        A ratio without a denominator is None.
    """
    lesion_free = [m for m in matchings if len(m.detection_of_lesion) == 0]
    true_positives = sum(int(m.is_true_positive.sum()) for m in matchings)
    false_positives = sum(int(m.is_false_positive.sum()) for m in matchings)
    false_negatives = sum(int(m.is_missed.sum()) for m in matchings)
    return {
        "n_subjects": len(matchings),
        "n_lesion_free_subjects": len(lesion_free),
        "n_lesions": true_positives + false_negatives,
        "true_positives": true_positives,
        "false_negatives": false_negatives,
        "false_positives": false_positives,
        "duplicates": sum(int(m.is_duplicate.sum()) for m in matchings),
        "sensitivity": _ratio(true_positives, true_positives + false_negatives),
        "precision": _ratio(true_positives, true_positives + false_positives),
        "f1": _ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives),
        "false_positives_per_subject": _ratio(false_positives, len(matchings)),
        "false_positives_per_lesion_free_subject": _ratio(
            sum(int(m.is_false_positive.sum()) for m in lesion_free), len(lesion_free)
        ),
    }


def subject_level(matchings: Sequence[Matching]) -> dict[str, float | int | None]:
    """Score the question whether a subject has any lesion; any detection is the answer yes.

    Args:
        matchings: one a subject.

    Returns:
        counts "true_positives", "false_negatives", "true_negatives", "false_positives" of subjects, and their
        "sensitivity" and "specificity", None without subjects to compute them from.
    """
    has_lesion = np.array([len(m.detection_of_lesion) > 0 for m in matchings], dtype=bool)
    has_detection = np.array([len(m.scores) > 0 for m in matchings], dtype=bool)
    true_positives = int((has_lesion & has_detection).sum())
    true_negatives = int((~has_lesion & ~has_detection).sum())
    return {
        "true_positives": true_positives,
        "false_negatives": int(has_lesion.sum()) - true_positives,
        "true_negatives": true_negatives,
        "false_positives": int((~has_lesion).sum()) - true_negatives,
        "sensitivity": _ratio(true_positives, int(has_lesion.sum())),
        "specificity": _ratio(true_negatives, int((~has_lesion).sum())),
    }


@dataclass(frozen=True)
class Froc:
    """A free-response curve, one point for each distinct score, from the highest to the lowest.

    Attributes:
        thresholds: (P,) a detection counts if its score is at or above the threshold.
        sensitivity: (P,) lesions found over all lesions; None if there are no lesions.
        false_positives_per_subject: (P,) over all subjects.
    """

    thresholds: np.ndarray
    sensitivity: np.ndarray | None
    false_positives_per_subject: np.ndarray


def froc(matchings: Sequence[Matching]) -> Froc:
    """Compute the FROC curve.

    Args:
        matchings: one a subject, of all detections down to the lowest threshold of interest; see
            :func:`match` for why one matching is exact at all thresholds.

    Returns:
        the curve; it has no points if there are no detections.

    Raises:
        ValueError: if there are no subjects.
    """
    if not matchings:
        raise ValueError("An FROC curve needs one subject at least, got none.")
    scores = np.concatenate([m.scores for m in matchings])
    thresholds = np.unique(scores)[::-1]
    n_lesions = sum(len(m.detection_of_lesion) for m in matchings)
    found = _count_at_or_above(scores[np.concatenate([m.is_true_positive for m in matchings])], thresholds)
    false = _count_at_or_above(scores[np.concatenate([m.is_false_positive for m in matchings])], thresholds)
    return Froc(thresholds, found / n_lesions if n_lesions else None, false / len(matchings))


def mean_sensitivity(curve: Froc, rates: Sequence[float] = FROC_RATES) -> float | None:
    """Average the sensitivity at given numbers of false positives a subject.

    Args:
        curve: from :func:`froc`.
        rates: numbers of false positives a subject. At each, the best sensitivity of any point with no more
            false positives counts, 0 if there is no such point; nothing is interpolated between points.

    Returns:
        the mean, or None if there are no lesions.
    """
    if curve.sensitivity is None:
        return None
    best = [curve.sensitivity[curve.false_positives_per_subject <= rate].max(initial=0.0) for rate in rates]
    return float(np.mean(best))


def _count_at_or_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
