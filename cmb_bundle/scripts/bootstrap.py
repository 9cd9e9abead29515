"""Percentile intervals by resampling subjects (Efron & Tibshirani, An Introduction to the Bootstrap, 1993)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
        (samples, subjects) int, how often each subject was drawn.
    """
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


def bootstrap(statistics: Callable[[np.ndarray], Mapping], weights: np.ndarray, level: float = LEVEL) -> dict:
    """
    Intervals of everything that a function computes from subjects.

    Args:
        statistics: takes indices of subjects, (N,) with repeats, and gives numbers or None by name; a value may be a
            mapping again. What is neither is passed over.
        weights: (B, N) of :func:`resample_weights`.
        level: of the intervals.

    Returns:
        a mapping of the same nesting with [low, high] or None in place of each number; None for all if there are
        fewer than two subjects or no resamples, which tell nothing of the spread.
    """
    number = np.arange(weights.shape[1])
    value = flatten(statistics(number))
    if weights.shape[1] < 2 or not len(weights):
        return nest(dict.fromkeys(value))
    # a few subjects can only be drawn in a few ways
    distinct, times = np.unique(weights, axis=0, return_counts=True)
    drawn = [flatten(statistics(np.repeat(number, row))) for row in distinct]
    columns = {name: np.repeat(np.array([one[name] for one in drawn], dtype=float), times) for name in value}
    return nest({name: None if value[name] is None else percentile_interval(c, level) for name, c in columns.items()})


def flatten(content: Mapping, path: tuple = ()) -> dict[tuple, float | None]:
    """The numbers (and None) of a nested mapping by their path; others, such as text and lists, are left out."""
    found = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= flatten(value, (*path, name))
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[(*path, name)] = value
    return found


def nest(content: Mapping[tuple, object]) -> dict:
    """The inverse of :func:`flatten`."""
    result: dict = {}
    for path, value in content.items():
        place = result
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return result
