"""Free-response curves: sensitivity against false positives per subject, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matching import Matching

FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives per subject at which LUNA16 (Setio et al., 2017) averages sensitivity."""


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
        matchings: one per subject, of all detections down to the lowest threshold of interest; see
            :func:`~.matching.match` for why one matching is exact at all thresholds.

    Returns:
        the curve; it has no points if there are no detections.

    Raises:
        ValueError: if there are no subjects.

    Example:
        >>> from cmb_bundle.scripts.evaluation.matching import match
        >>> first = match([[0, 0, 0], [40, 0, 0]], [0.9, 0.3], [[0, 0, 1], [40, 0, 1]])  # finds both lesions
        >>> second = match([[0, 0, 0]], [0.6], [])  # a false positive without lesions
        >>> curve = froc([first, second])
        >>> curve.thresholds.tolist(), curve.sensitivity.tolist(), curve.false_positives_per_subject.tolist()
        ([0.9, 0.6, 0.3], [0.5, 0.5, 1.0], [0.0, 0.5, 0.5])
    """
    if not matchings:
        raise ValueError("An FROC curve needs at least one subject, got none.")
    scores = np.concatenate([m.scores for m in matchings])
    thresholds = np.unique(scores)[::-1]
    n_lesions = sum(len(m.detection_of_lesion) for m in matchings)
    found = _count_at_or_above(scores[np.concatenate([m.is_true_positive for m in matchings])], thresholds)
    false = _count_at_or_above(scores[np.concatenate([m.is_false_positive for m in matchings])], thresholds)
    return Froc(thresholds, found / n_lesions if n_lesions else None, false / len(matchings))


def sensitivity_at(curve: Froc, rates: Sequence[float] = FROC_RATES) -> np.ndarray | None:
    """Read the sensitivity at given numbers of false positives per subject.

    Args:
        curve: from :func:`froc`.
        rates: (R,) numbers of false positives per subject.

    Returns:
        (R,): at each rate the best sensitivity of any point with no more false positives, 0 if there is no such
        point. Points are not interpolated, because no threshold reaches the values between them. None if
        there are no lesions.

    Example:
        >>> curve = Froc(np.array([0.9, 0.6, 0.3]), np.array([0.5, 0.5, 1.0]), np.array([0.0, 0.5, 0.5]))
        >>> sensitivity_at(curve, [0.25, 0.5, 8]).tolist()
        [0.5, 1.0, 1.0]
    """
    if curve.sensitivity is None:
        return None
    last = np.searchsorted(curve.false_positives_per_subject, np.asarray(rates, dtype=float), side="right")
    return np.append(0.0, curve.sensitivity)[last]


def mean_sensitivity(curve: Froc, rates: Sequence[float] = FROC_RATES) -> float | None:
    """Average :func:`sensitivity_at` over the rates; None if there are no lesions.

    Example:
        >>> curve = Froc(np.array([0.9, 0.6, 0.3]), np.array([0.5, 0.5, 1.0]), np.array([0.0, 0.5, 0.5]))
        >>> mean_sensitivity(curve, [0.25, 0.5])
        0.75
    """
    found = sensitivity_at(curve, rates)
    return None if found is None else float(np.mean(found))


def resampled_sensitivity(
    matchings: Sequence[Matching], rates: Sequence[float], weights: np.ndarray, chunk: int = 256
) -> np.ndarray:
    """Read :func:`sensitivity_at` off the FROC curve of every resample of the subjects.

    Args:
        matchings: one per subject, N in total.
        rates: (R,) numbers of false positives per subject.
        weights: (B, N) how often each subject is in each resample, with N as the sum; see
            :func:`~.bootstrap.resample_weights`.
        chunk: resamples per step, to limit memory.

    Returns:
        (B, R); NaN in a resample without lesions.

    Example:
        >>> from cmb_bundle.scripts.evaluation.matching import match
        >>> first = match([[0, 0, 0], [40, 0, 0]], [0.9, 0.3], [[0, 0, 1], [40, 0, 1]])  # finds both lesions
        >>> second = match([[0, 0, 0]], [0.6], [])  # a false positive without lesions
        >>> weights = np.array([[1, 1], [2, 0], [0, 2]])  # both subjects; the first twice; the second twice
        >>> resampled_sensitivity([first, second], [0.25, 1], weights).tolist()
        [[0.5, 1.0], [1.0, 1.0], [nan, nan]]
    """
    scores = np.concatenate([m.scores for m in matchings]) if matchings else np.zeros(0)
    thresholds = np.unique(scores)[::-1]
    true = [_count_at_or_above(m.scores[m.is_true_positive], thresholds) for m in matchings]
    false = [_count_at_or_above(m.scores[m.is_false_positive], thresholds) for m in matchings]
    true, false = (np.asarray(t, dtype=np.float32).reshape(len(matchings), len(thresholds)) for t in (true, false))
    lesions = weights @ np.array([len(m.detection_of_lesion) for m in matchings], dtype=float)
    rates, found = np.asarray(rates, dtype=float), np.full((len(weights), len(rates)), np.nan)
    for start in range(0, len(weights), chunk):
        part = weights[start : start + chunk].astype(np.float32)
        for row, (hits, misses) in enumerate(zip(part @ true, part @ false, strict=True), start):
            if lesions[row]:
                last = np.searchsorted(misses.astype(float) / len(matchings), rates, side="right")
                found[row] = np.append(0.0, hits)[last] / lesions[row]
    return found


def _count_at_or_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
