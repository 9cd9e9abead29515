"""FROC curves of the stages of a system with their bands, and the sensitivities read off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import percentile_interval
from .counts import summary
from .froc import FROC_RATES, Froc, froc, mean_sensitivity, resampled_sensitivity, sensitivity_at
from .matching import Matching
from .stages import SystemMatching


@dataclass(frozen=True)
class Curve:
    """
    An FROC curve with its band.

    Attributes:
        points: one point per threshold.
        rates: (R,) false positives per subject at which the band is given.
        low: (R,) lower end of the band, NaN where not defined.
        high: (R,) upper end of the band.
        operating: (false positives per subject, sensitivity) at the operating threshold, None without lesions.
    """

    points: Froc
    rates: np.ndarray
    low: np.ndarray
    high: np.ndarray
    operating: tuple[float, float] | None


def rate_name(rate: float) -> str:
    """The key of a rate in "sensitivity_at": "1/8", "1/4", "1/2", "1", "2" ..."""
    return f"{rate:g}" if rate >= 1 else f"1/{1 / rate:g}"


def froc_scores(matchings: Sequence[Matching], weights: np.ndarray) -> tuple[dict, dict]:
    """Compute "mean_sensitivity" and "sensitivity_at" the rates ``FROC_RATES``, and their intervals."""
    curve = froc(matchings)
    names = [rate_name(rate) for rate in FROC_RATES]
    found = sensitivity_at(curve)
    numbers = {
        "mean_sensitivity": mean_sensitivity(curve),
        "sensitivity_at": dict(zip(names, [None] * len(names) if found is None else found.tolist(), strict=True)),
    }
    resampled = resampled_sensitivity(matchings, FROC_RATES, weights)
    spread = {
        "mean_sensitivity": percentile_interval(resampled.mean(axis=1)),
        "sensitivity_at": {n: percentile_interval(c) for n, c in zip(names, resampled.T, strict=True)},
    }
    return numbers, spread


def froc_curve(scored: SystemMatching, stage: str, weights: np.ndarray, steps: int = 80) -> Curve:
    """The FROC curve of a stage with its band, at ``steps`` rates from 1/16 to the largest of the curve."""
    matchings = scored.curve_of(stage)
    points = froc(matchings)
    last = max(8.0, points.false_positives_per_subject.max(initial=0.0))
    rates = np.geomspace(1 / 16, last, steps)
    resampled = resampled_sensitivity(matchings, rates, weights)
    ends = [percentile_interval(column) or [np.nan, np.nan] for column in resampled.T]
    low, high = np.array(ends).T
    now = summary(scored.counts(stage))
    operating = (now["false_positives_per_subject"], now["sensitivity"]) if now["n_lesions"] else None
    return Curve(points, rates, low, high, operating)
