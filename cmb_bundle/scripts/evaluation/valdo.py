"""
Score as the VALDO challenge does: its figures, its rules of what is found, and its tests between systems.

After its published evaluation code, https://github.com/WhereIsValdo/valdo-eval-2021 (Task 2), and Sudre et al., Medical
Image Analysis 91:103029, 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, wilcoxon

from .bootstrap import bootstrap, resampled_median
from .records import SubjectRecord

MORE_IS_BETTER = {
    "f1": True,
    "mean_dice": True,
    "absolute_count_difference": False,
    "absolute_volume_difference_mm3": False,
}
"""The figures of a subject."""
TIE = {"mm": 1e-6, "voxel": 0.0}
"""Distances that differ by no more are equal: the published code compares exactly, and affines are rounded."""
FEWEST_SUBJECTS = 20
"""With fewer, the challenge takes another test than Wilcoxon's, which none of the libraries used here has."""


def valdo_figures(record: SubjectRecord, distance: float = 5.0, unit: str = "mm") -> dict[str, float | None]:
    """
    Score a subject end to end by the rules of the challenge.

    A found component belongs to its nearest true one, if it is nearer than ``distance``. Of those that belong to a true
    component the nearest is a hit, and at a tie each of the nearest is; all others are false. F1 is 2 hits / (true +
    found components), so that a tie can raise it above 1. A subject without true components has neither an F1 nor a
    Dice, whatever was found. The Dice of a true component that is hit is that with all components that belong to it;
    ``mean_dice`` is the mean of these, 0 if nothing is hit. Volumes are those of the whole label maps.

    Args:
        record: with ``maps``; where it has none, its lesions and accepted candidates stand for components, and there
            are no Dice and no volumes.
        distance: between centres of mass; itself not allowed.
        unit: of the distance: "mm", as in the paper, or "voxel", as in the published code.

    Returns:
        "f1", "mean_dice", "absolute_count_difference" and "absolute_volume_difference_mm3"; None where not defined.

    Example:
        >>> from cmb_bundle.scripts.candidate import Candidate
        >>> from cmb_bundle.scripts.evaluation.records import Lesion
        >>> found = [Candidate((x, 0.0, 0.0), 0.9, 0.9, True) for x in (1.0, 2.0, 90.0)]
        >>> record = SubjectRecord("a", [Lesion((0.0, 0.0, 0.0)), Lesion((40.0, 0.0, 0.0))], found)
        >>> valdo_figures(record)["f1"], valdo_figures(record)["absolute_count_difference"]  # one hit of two and three
        (0.4, 1)
    """
    maps = record.maps
    if maps is not None:
        truth, found = maps.places("truth", unit), maps.places("found", unit)
    elif unit == "mm":
        truth = np.array([lesion.ras_mm for lesion in record.lesions], dtype=float).reshape(-1, 3)
        found = np.array([c.ras_mm for c in record.candidates if c.accepted], dtype=float).reshape(-1, 3)
    else:
        return dict.fromkeys(MORE_IS_BETTER)
    owner, hit = _hits(found, truth, distance, TIE[unit])
    volume = None
    if maps is not None:
        volume = abs(sum(maps.found_size) - sum(maps.truth_size)) * maps.voxel_mm3
    return {
        "f1": 2 * int(hit.sum()) / (len(truth) + len(found)) if len(truth) else None,
        "mean_dice": _mean_dice(maps, owner, hit) if maps is not None and len(truth) else None,
        "absolute_count_difference": abs(len(truth) - len(found)),
        "absolute_volume_difference_mm3": volume,
    }


def _hits(found: np.ndarray, truth: np.ndarray, distance: float, tie: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of found (N, 3) the true component that it belongs to, -1 for none, and whether it is a hit."""
    owner, hit = np.full(len(found), -1), np.zeros(len(found), dtype=bool)
    if not len(found) or not len(truth):
        return owner, hit
    apart = cdist(found, truth)
    nearest = apart.argmin(axis=1)
    apart = apart[np.arange(len(found)), nearest]
    near = apart < distance
    least = np.full(len(truth), np.inf)
    np.minimum.at(least, nearest[near], apart[near])
    return np.where(near, nearest, -1), near & (apart <= least[nearest] + tie)


def _mean_dice(maps, owner: np.ndarray, hit: np.ndarray) -> float:
    sizes = np.array(maps.found_size)
    dice = []
    for lesion in np.unique(owner[hit]):
        own = np.flatnonzero(owner == lesion)
        common = sum(voxels for true, found, voxels in maps.common if true == lesion and found in own)
        dice.append(2 * common / (maps.truth_size[lesion] + int(sizes[own].sum())))
    return float(np.mean(dice)) if dice else 0.0


def valdo_table(records: Sequence[SubjectRecord], distance: float = 5.0, unit: str = "mm") -> pd.DataFrame:
    """One row of :func:`valdo_figures` per subject, NaN where a figure is not defined."""
    return pd.DataFrame([valdo_figures(record, distance, unit) for record in records], dtype=float)


def valdo_scores(
    records: Sequence[SubjectRecord], weights: np.ndarray, distance: float = 5.0, unit: str = "mm"
) -> dict:
    """
    Summarise the figures of all subjects as the challenge does: by their quartiles, over those that have the figure.

    Args:
        records: of one system.
        weights: (B, N) resamples of subjects, for the intervals.
        distance: see :func:`valdo_figures`.
        unit: of the distance.

    Returns:
        under "end_to_end" for each figure "n_subjects" that have it, "median", "q1" and "q3", None if no subject has
        it; and under "intervals", by the same names, those of the medians.
    """
    table = valdo_table(records, distance, unit)
    scores, spread = {}, {}
    for name, column in table.items():
        known = column.dropna()
        quartiles = [float(q) for q in known.quantile([0.5, 0.25, 0.75])] if len(known) else [None] * 3
        scores[name] = {"n_subjects": len(known), **dict(zip(("median", "q1", "q3"), quartiles, strict=True))}
        spread[name] = {"median": resampled_median(weights, column.to_numpy())}
    return {"end_to_end": scores, "intervals": {"end_to_end": bootstrap(spread, scores)}}


def valdo_tests(ours: Sequence[SubjectRecord], theirs: Sequence[SubjectRecord], distance: float = 5.0) -> dict | None:
    """
    Test whether one system is better than another, as the challenge does to rank them.

    One-sided Wilcoxon tests of the differences between the subjects; of Dice, a Mann-Whitney test over the subjects
    whose F1 is above 0, which differ between systems. The challenge counts the systems that are worse with p < 0.05.

    Args:
        ours: records of the main system.
        theirs: records of the other one, of the same subjects in the same order.
        distance: in mm, see :func:`valdo_figures`.

    Returns:
        for each figure "other_better" and "other_worse", the p values of the other system being better and worse than
        the main one; None where a figure is not defined. None for fewer than 20 subjects.
    """
    if len(ours) < FEWEST_SUBJECTS:
        return None
    tables = [valdo_table(records, distance) for records in (ours, theirs)]
    tests = {}
    for name, more in MORE_IS_BETTER.items():
        if name == "mean_dice":
            values = [table[name][table["f1"] > 0].dropna() for table in tables]
            test, samples = mannwhitneyu, (values[1], values[0])
        else:
            difference = (tables[1][name] - tables[0][name]).dropna()
            values, test, samples = [difference], wilcoxon, (difference,)
        sides = ("greater", "less") if more else ("less", "greater")
        if any(len(one) == 0 for one in values):
            p = [None, None]
        elif test is wilcoxon and not difference.any():
            p = [1.0, 1.0]
        else:
            p = [float(test(*samples, alternative=side).pvalue) for side in sides]
        tests[name] = dict(zip(("other_better", "other_worse"), p, strict=True))
    return tests
