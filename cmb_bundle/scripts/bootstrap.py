"""Percentile intervals by resampling subjects (Efron & Tibshirani, An Introduction to the Bootstrap, 1993)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LEVEL = 0.95
MINIMUM_DEFINED = 0.5
"""Share of resamples in which a figure must be defined for it to have an interval."""


def resample_weights(subjects: int, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """
    Draw resamples of subjects with replacement, each as large as the cohort.

    Subjects, not lesions, are drawn, since lesions of one subject are not independent. The same numbers and seed give
    the same resamples, so that two systems on the same subjects are compared within pairs.

    Returns:
        (samples, subjects) int, how often each subject was drawn; (0, subjects) for fewer than two subjects, which
        tell nothing of the spread.
    """
    samples = samples if subjects > 1 else 0
    return np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=samples)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """
    The interval that leaves out equal shares of values at both ends.

    Args:
        values: (B,), NaN in resamples in which the figure is not defined.
        level: share of the values inside.

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
    Intervals of many figures.

    Args:
        resampled: (B,) values of each figure in the resamples, NaN where it is not defined, by name; nested.
        value: the figures themselves, None where not defined, nested in the same way; others in it are passed over.
        level: of the intervals.

    Returns:
        a mapping of the nesting of ``resampled`` with [low, high], or None for a figure that is not defined or has
        no interval, see :func:`percentile_interval`.
    """
    result = {}
    for name, values in resampled.items():
        if isinstance(values, Mapping):
            result[name] = bootstrap(values, value[name], level)
        else:
            result[name] = None if value[name] is None else percentile_interval(values, level)
    return result
