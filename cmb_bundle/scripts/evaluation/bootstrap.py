"""Bootstrap intervals over subjects, and the scores of many resamples at once.

Every function named ``resampled`` takes weights (B, N), how often each of N subjects is in each of B resamples, and
returns (B,), with NaN in resamples in which a score is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .agreement import BANDS
from .counts import Counts, subject_f1

LEVEL = 0.95
MINIMUM_DEFINED = 0.5
"""Fraction of resamples in which a score must be defined for it to have an interval."""


def resample_weights(subjects: int, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """
    Draw resamples of subjects with replacement, each as large as the cohort.

    Subjects, not lesions, are drawn, because lesions of one subject are not independent. The same arguments give the
    same resamples, so that two systems on the same subjects are compared in pairs.

    Returns:
        (samples, subjects) int, how often each subject was drawn; (0, subjects) for fewer than two subjects, which
        say nothing about the spread.
    """
    samples = samples if subjects > 1 else 0
    return np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=samples)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """
    Return the interval that excludes equal fractions of the values at both ends.

    Args:
        values: (B,), NaN in resamples in which the score is not defined.
        level: fraction of the values inside.

    Returns:
        [low, high]; None if fewer than half of the values are defined.
    """
    values = np.asarray(values, dtype=float)
    defined = values[~np.isnan(values)]
    if not len(values) or len(defined) < MINIMUM_DEFINED * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def bootstrap(resampled: Mapping, value: Mapping, level: float = LEVEL) -> dict:
    """
    Compute the intervals of several scores.

    Args:
        resampled: (B,) values of each score in the resamples, NaN where it is not defined, by name; nested.
        value: the scores themselves, None if not defined, nested in the same way; other entries are ignored.
        level: fraction of the values inside the intervals.

    Returns:
        a mapping nested like ``resampled`` with [low, high], or None for a score that is not defined or has no
        interval, see :func:`percentile_interval`.
    """
    result = {}
    for name, values in resampled.items():
        if isinstance(values, Mapping):
            result[name] = bootstrap(values, value[name], level)
        else:
            result[name] = None if value[name] is None else percentile_interval(values, level)
    return result


def resampled_ratio(weights: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The ratio of two sums over subjects; numerator and denominator are (N,)."""
    below = np.asarray(weights @ denominator, dtype=float)
    return np.divide(weights @ numerator, below, out=np.full(len(weights), np.nan), where=below != 0)


def resampled_pooled(counts: Counts, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The ratios of :func:`~.counts.summary`."""
    true, false, missed = counts.true_positives, counts.false_positives, counts.false_negatives
    lesion_free = counts.lesion_free.astype(int)
    return {
        "sensitivity": resampled_ratio(weights, true, counts.lesions),
        "precision": resampled_ratio(weights, true, true + false),
        "f1": resampled_ratio(weights, 2 * true, 2 * true + false + missed),
        "false_positives_per_subject": resampled_ratio(weights, false, np.ones(len(counts))),
        "false_positives_per_lesion_free_subject": resampled_ratio(weights, false * lesion_free, lesion_free),
    }


def resampled_median(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The median over subjects of (N,) values, ignoring NaN."""
    defined = ~np.isnan(values)
    order = np.flatnonzero(defined)[np.argsort(values[defined], kind="stable")]
    reached = np.cumsum(weights[:, order], axis=1)
    result = np.full(len(weights), np.nan)
    rows = np.flatnonzero(reached[:, -1] > 0) if len(order) else []
    for row in rows:
        total = reached[row, -1]
        middle = np.searchsorted(reached[row], [(total - 1) // 2, total // 2], side="right")
        result[row] = values[order[middle]].mean()
    return result


def resampled_presence(counts: Counts, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The ratios of :func:`~.counts.subject_level`."""
    has, has_none, says = counts.lesions > 0, counts.lesion_free, counts.detections > 0
    return {
        "sensitivity": resampled_ratio(weights, (has & says).astype(int), has.astype(int)),
        "specificity": resampled_ratio(weights, (has_none & ~says).astype(int), has_none.astype(int)),
    }


def resampled_agreement(
    truth: np.ndarray, counted: np.ndarray, weights: np.ndarray, bands: Sequence[int] = BANDS
) -> dict[str, object]:
    """The numbers of :func:`~.agreement.count_agreement`."""
    x, y = np.asarray(truth, dtype=float), np.asarray(counted, dtype=float)
    n = weights.sum(axis=1).astype(float)
    sx, sy, sxx, syy, sxy = (weights @ column for column in (x, y, x * x, y * y, x * y))
    with np.errstate(divide="ignore", invalid="ignore"):
        grand = (sx + sy) / (2 * n)
        total = sxx + syy - 2 * n * grand**2
        between_subjects = (sxx + 2 * sxy + syy) / 2 - 2 * n * grand**2
        between_raters = n * ((sx / n - grand) ** 2 + (sy / n - grand) ** 2)
        subjects, raters = between_subjects / (n - 1), between_raters
        error = (total - between_subjects - between_raters) / (n - 1)
        denominator = subjects + error + 2 * (raters - error) / n
        defined = (n >= 2) & (total > 1e-9) & (np.abs(denominator) >= 1e-9)
        icc = np.where(defined, (subjects - error) / denominator, np.nan)
        bias = (sy - sx) / n
        square = sxx + syy - 2 * sxy - n * bias**2
        sd = np.where(n >= 2, np.sqrt(np.maximum(square, 0) / (n - 1)), np.nan)
    return {
        "icc": icc,
        "bland_altman": {"bias": bias, "sd": sd, "lower": bias - 1.96 * sd, "upper": bias + 1.96 * sd},
        "bands": _bands(x, y, weights, bands),
    }


def _bands(truth: np.ndarray, counted: np.ndarray, weights: np.ndarray, bands: Sequence[int]) -> dict[str, np.ndarray]:
    size = len(bands) + 1
    number = np.arange(size)
    in_truth, in_count = (np.searchsorted(bands, c, side="right")[:, None] == number for c in (truth, counted))
    rows, columns = weights @ in_truth, weights @ in_count
    distance = np.abs(in_truth @ number - in_count @ number)
    apart = np.abs(number[:, None] - number)
    expected = np.einsum("bi,ij,bj->b", rows, apart, columns).astype(float)
    observed = weights.sum(axis=1) * (weights @ distance)
    kappa = 1 - np.divide(observed, expected, out=np.full(len(weights), np.nan), where=expected > 0)
    same = (distance == 0).astype(int)
    return {"accuracy": resampled_ratio(weights, same, np.ones(len(truth))), "weighted_kappa": kappa}


def resampled_scores(counts: Counts, weights: np.ndarray) -> dict[str, object]:
    """All of the above, named as in :func:`~.metrics.stage_scores`."""
    return {
        **resampled_pooled(counts, weights),
        "median_subject_f1": resampled_median(weights, subject_f1(counts)),
        "subject_level": resampled_presence(counts, weights),
        "count_agreement": resampled_agreement(counts.lesions, counts.detections, weights),
    }
