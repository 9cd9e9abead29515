"""Which detections found which lesions: numbers in, one matching per subject out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..geometry import suppressed_by


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

    Example:
        >>> found = match([[0, 0, 0], [1, 0, 0], [50, 0, 0]], [0.9, 0.8, 0.7], [[0, 0, 1], [90, 0, 0]])
        >>> found.is_true_positive.tolist(), found.is_duplicate.tolist(), found.is_false_positive.tolist()
        ([True, False, False], [False, True, False], [False, False, True])
        >>> found.is_missed.tolist(), found.distance_mm.tolist()
        ([False, True], [1.0, inf])
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

    def among(self, lesions: np.ndarray) -> Matching:
        """
        Leave out lesions, such as those that an earlier stage missed: they can no longer be missed.

        Args:
            lesions: (M,) bool, which to keep.

        Returns:
            the matching with the kept lesions in their order. A detection that found a lesion left out counts as a
            duplicate, neither true nor false.
        """
        lesions = np.asarray(lesions, dtype=bool)
        number = np.append(np.where(lesions, np.cumsum(lesions) - 1, -1), -1)
        lesion_of_detection = number[self.lesion_of_detection]
        lost = self.is_true_positive & (lesion_of_detection < 0)
        return Matching(
            self.scores,
            lesion_of_detection,
            self.detection_of_lesion[lesions],
            self.is_duplicate | lost,
            self.distance_mm[lesions],
        )


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

    Example:
        >>> lesions = [[0, 0, 0], [6, 0, 0]]
        >>> found = match([[3, 0, 0], [-4, 0, 0]], [0.9, 0.6], lesions)  # both are within 5 mm of lesion 0
        >>> found.lesion_of_detection.tolist()  # the first one counts for lesion 1, so that both are found
        [1, 0]
    """
    detections, scores, lesions = _checked(detections_mm, scores, lesions_mm)
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


def suppress(detections_mm: np.ndarray, scores: np.ndarray, distance_mm: float) -> np.ndarray:
    """
    Keep of detections close to each other the one with the highest score, greedily.

    Whether one is kept depends on higher scores alone, so that the kept ones at or above a threshold are what would
    be kept of all at or above it: one call serves all points of an FROC curve.

    Args:
        detections_mm: (N, 3) in mm.
        scores: (N,); of equal scores, the earlier goes first.
        distance_mm: two kept detections are at least this far apart.

    Returns:
        (N,) bool.

    Example:
        >>> suppress([[0, 0, 0], [2, 0, 0], [4, 0, 0]], [0.7, 0.9, 0.8], distance_mm=3.0).tolist()
        [False, True, False]
        >>> suppress([[0, 0, 0], [2, 0, 0], [4, 0, 0]], [0.9, 0.7, 0.8], distance_mm=3.0).tolist()
        [True, False, True]
    """
    detections = np.asarray(detections_mm, dtype=np.float64).reshape(-1, 3)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept = np.zeros(len(detections), dtype=bool)
    kept[order] = suppressed_by(detections[order], distance_mm) < 0
    return kept


def _checked(
    detections_mm: np.ndarray, scores: np.ndarray, lesions_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    detections = np.asarray(detections_mm, dtype=np.float64).reshape(-1, 3)
    lesions = np.asarray(lesions_mm, dtype=np.float64).reshape(-1, 3)
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(scores) != len(detections):
        raise ValueError(f"There are {len(detections)} detections but {len(scores)} scores.")
    for name, values in (("detections_mm", detections), ("scores", scores), ("lesions_mm", lesions)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite: {values[~np.isfinite(values)]}.")
    return detections, scores, lesions
