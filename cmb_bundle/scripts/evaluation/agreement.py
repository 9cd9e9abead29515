"""How well the numbers of microbleeds counted by a program and in the ground truth agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

BANDS = (5, 10)
"""First number of the second and of the third band: at most 4, 5 to 9, 10 and more microbleeds."""


def intraclass_correlation(truth: Sequence[float], counted: Sequence[float]) -> float | None:
    """
    ICC(2,1): two-way random effects, absolute agreement, single rater (Shrout & Fleiss, 1979; McGraw & Wong, 1996).

    With n subjects and k = 2 raters, MSR, MSC and MSE the mean squares of subjects, raters and error::

        ICC = (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n)

    Args:
        truth: (N,) lesions of each subject in the ground truth.
        counted: (N,) detections of each subject.

    Returns:
        the coefficient; None with fewer than two subjects, or if all counts of both raters are equal.

    Example:
        >>> round(intraclass_correlation([0, 2, 5, 9], [0, 2, 5, 9]), 3)
        1.0
        >>> round(intraclass_correlation([0, 2, 5, 9], [3, 5, 8, 12]), 3)  # always 3 too many
        0.773
    """
    table = np.column_stack([truth, counted]).astype(float)
    n, k = table.shape
    if n < 2:
        return None
    grand = table.mean()
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    subjects = k * ((rows - grand) ** 2).sum() / (n - 1)
    raters = n * ((columns - grand) ** 2).sum() / (k - 1)
    error = ((table - rows[:, None] - columns + grand) ** 2).sum() / ((n - 1) * (k - 1))
    denominator = subjects + (k - 1) * error + k * (raters - error) / n
    # for equal numbers, a sum of squares can be a rounding error instead of 0
    return None if np.ptp(table) == 0 or abs(denominator) < 1e-12 else float((subjects - error) / denominator)


def bland_altman(truth: Sequence[float], counted: Sequence[float]) -> dict[str, float | None]:
    """
    Bias and limits of agreement of counts (Bland & Altman, 1986).

    Args:
        truth: (N,) lesions of each subject in the ground truth.
        counted: (N,) detections of each subject.

    Returns:
        "bias", the mean of counted - truth; "sd", its standard deviation (N - 1); "lower" and "upper", bias -+ 1.96
        sd. None with too few subjects: the bias needs one, the others two.

    Example:
        >>> {name: round(value, 2) for name, value in bland_altman([0, 2, 5, 9], [1, 2, 7, 10]).items()}
        {'bias': 1.0, 'sd': 0.82, 'lower': -0.6, 'upper': 2.6}
    """
    difference = np.asarray(counted, dtype=float) - np.asarray(truth, dtype=float)
    bias = float(difference.mean()) if len(difference) else None
    if len(difference) < 2:
        return {"bias": bias, "sd": None, "lower": None, "upper": None}
    sd = float(difference.std(ddof=1))
    return {"bias": bias, "sd": sd, "lower": bias - 1.96 * sd, "upper": bias + 1.96 * sd}


def band_names(bands: Sequence[int] = BANDS) -> list[str]:
    """Names of the bands: "<=4", "5-9", ">=10".

    Example:
        >>> band_names((5, 10))
        ['<=4', '5-9', '>=10']
    """
    inner = [f"{low}-{high - 1}" for low, high in pairwise(bands)]
    return [f"<={bands[0] - 1}", *inner, f">={bands[-1]}"]


def band_confusion(truth: Sequence[float], counted: Sequence[float], bands: Sequence[int] = BANDS) -> np.ndarray:
    """
    Count the subjects in each pair of bands.

    Returns:
        (B, B) int, rows by ground truth, columns by the program's count, in the order of :func:`band_names`.

    Example:
        >>> band_confusion([0, 4, 5, 12], [0, 5, 6, 9]).tolist()
        [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    """
    size = len(bands) + 1
    of_truth, of_count = (np.searchsorted(bands, np.asarray(c, dtype=float), side="right") for c in (truth, counted))
    return np.bincount(of_truth * size + of_count, minlength=size * size).reshape(size, size)


def weighted_kappa(confusion: np.ndarray) -> float | None:
    """
    Cohen's kappa with linear weights (Cohen, 1968).

    Args:
        confusion: (B, B) counts of ordered categories.

    Returns:
        1 - observed / expected disagreement, weighted by the distance of the categories; None if no disagreement is
        expected, with no subjects or all in the same category for both.

    Example:
        >>> round(weighted_kappa([[1, 1, 0], [0, 1, 0], [0, 1, 0]]), 3)
        0.333
    """
    confusion = np.asarray(confusion, dtype=float)
    number = np.arange(len(confusion))
    weight = np.abs(number[:, None] - number)
    total = confusion.sum()
    expected = (weight * np.outer(confusion.sum(axis=1), confusion.sum(axis=0))).sum()
    return float(1 - total * (weight * confusion).sum() / expected) if expected else None


def count_agreement(truth: Sequence[float], counted: Sequence[float]) -> dict:
    """
    All of the above for one set of counts.

    Returns:
        "icc", "bland_altman", and "bands" with "names", "confusion", "accuracy" (share of subjects in the right band)
        and "weighted_kappa".

    Example:
        >>> agreement = count_agreement([0, 4, 5, 12], [0, 5, 6, 9])
        >>> round(agreement["icc"], 3), agreement["bland_altman"]["bias"], agreement["bands"]["accuracy"]
        (0.928, -0.25, 0.5)
    """
    confusion = band_confusion(truth, counted)
    total = int(confusion.sum())
    return {
        "icc": intraclass_correlation(truth, counted),
        "bland_altman": bland_altman(truth, counted),
        "bands": {
            "names": band_names(),
            "confusion": confusion.tolist(),
            "accuracy": float(np.trace(confusion) / total) if total else None,
            "weighted_kappa": weighted_kappa(confusion),
        },
    }
