"""Scores by properties of lesions and scans, and false positives by the mimics at their locations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from .bootstrap import bootstrap, resampled_ratio
from .counts import Counts, ratio, summary

UNKNOWN = "unknown"
DIAMETERS_MM = (2.0, 3.0, 5.0)
"""Limits between diameter classes; a diameter on a limit belongs to the class above, except that 5 mm is in 3-5 mm."""
THICKNESSES_MM = (1.0, 2.0, 3.0)
"""Limits between classes of slice thickness; a thickness on a limit belongs to the class below."""
REGIONS = ("lobar", "deep", "infratentorial")
NO_MIMIC = "none"


def diameter_class(diameter_mm: float | None) -> str:
    """One of "<2 mm", "2-3 mm", "3-5 mm", ">5 mm" or "unknown"; 2 is in 2-3, 3 in 3-5, 5 in 3-5."""
    if diameter_mm is None:
        return UNKNOWN
    low, middle, high = DIAMETERS_MM
    names = diameter_classes()
    return names[(diameter_mm >= low) + (diameter_mm >= middle) + (diameter_mm > high)]


def diameter_classes() -> list[str]:
    """The classes of diameter in their order, without "unknown"."""
    low, middle, high = DIAMETERS_MM
    return [f"<{low:g} mm", f"{low:g}-{middle:g} mm", f"{middle:g}-{high:g} mm", f">{high:g} mm"]


def thickness_class(thickness_mm: float | None) -> str:
    """One of "<=1 mm", "1-2 mm", "2-3 mm", ">3 mm", "unknown"; rounded to 0.01 mm; a limit is in the class below."""
    if thickness_mm is None:
        return UNKNOWN
    return thickness_classes()[int(np.searchsorted(THICKNESSES_MM, round(thickness_mm, 2), side="left"))]


def thickness_classes() -> list[str]:
    """The classes of slice thickness in their order, without "unknown"."""
    low, middle, high = THICKNESSES_MM
    return [f"<={low:g} mm", f"{low:g}-{middle:g} mm", f"{middle:g}-{high:g} mm", f">{high:g} mm"]


def lesion_strata(
    classes: Sequence[Sequence[str]],
    found: Sequence[Sequence[np.ndarray]],
    order: Sequence[str],
    weights: np.ndarray,
) -> list[dict]:
    """
    Compute the sensitivity in each class of lesions.

    Args:
        classes: for each of N subjects, the class of each lesion.
        found: for each subject two masks over its lesions, of stage 1 and end to end.
        order: classes in display order; others follow by name, "unknown" comes last.
        weights: (B, N) resamples of subjects.

    Returns:
        for each class that occurs: "name", "n_lesions", for "stage_1", "stage_2_given_stage_1" and "end_to_end" the
        number "..._found" and the sensitivity, and "intervals" of the sensitivities.
    """
    rows = []
    for name in _ordered({c for subject in classes for c in subject}, order):
        masks = [np.array([c == name for c in subject], dtype=bool) for subject in classes]
        table = np.array(
            [
                (mask.sum(), (mask & first).sum(), (mask & both).sum())
                for mask, (first, both) in zip(masks, found, strict=True)
            ],
            dtype=int,
        )
        lesions, first, both = (int(n) for n in table.sum(axis=0))
        value = {
            "stage_1": ratio(first, lesions),
            "stage_2_given_stage_1": ratio(both, first),
            "end_to_end": ratio(both, lesions),
        }
        of, by_first, by_both = table.T
        resampled = {
            "stage_1": resampled_ratio(weights, by_first, of),
            "stage_2_given_stage_1": resampled_ratio(weights, by_both, by_first),
            "end_to_end": resampled_ratio(weights, by_both, of),
        }
        counts = {"n_lesions": lesions, "stage_1_found": first, "end_to_end_found": both}
        rows.append({"name": name, **counts, **value, "intervals": bootstrap(resampled, value)})
    return rows


def subject_strata(classes: Sequence[str], counts: dict[str, Counts], order: Sequence[str], weights: np.ndarray):
    """
    Compute pooled scores in each class of subjects.

    Args:
        classes: class of each of N subjects.
        counts: for each stage, the counts of the N subjects.
        order: see :func:`lesion_strata`.
        weights: (B, N) resamples of subjects.

    Returns:
        for each class that occurs: "name", "n_subjects", "n_lesions", for each stage "sensitivity" and
        "false_positives_per_subject", and "intervals" of them.
    """
    rows = []
    for label in _ordered(set(classes), order):
        mask = np.array([c == label for c in classes])
        names = ("sensitivity", "false_positives_per_subject")
        pooled = {stage: summary(c.take(mask)) for stage, c in counts.items()}
        value = {stage: {name: one[name] for name in names} for stage, one in pooled.items()}
        resampled = {
            stage: {
                "sensitivity": resampled_ratio(weights, c.true_positives * mask, c.lesions * mask),
                "false_positives_per_subject": resampled_ratio(weights, c.false_positives * mask, mask.astype(int)),
            }
            for stage, c in counts.items()
        }
        lesions = int(next(iter(counts.values())).lesions[mask].sum())
        row = {"name": label, "n_subjects": int(mask.sum()), "n_lesions": lesions, **value}
        rows.append({**row, "intervals": bootstrap(resampled, value)})
    return rows


def kind_of_mimic(
    places_mm: np.ndarray, mimics_mm: np.ndarray, kinds: Sequence[str] | None, distance_mm: float = 5.0
) -> list[str]:
    """
    Name the mimic that the ground truth has at the location of each false positive.

    Args:
        places_mm: (N, 3) locations of false positives.
        mimics_mm: (M, 3) locations of mimics in the same space.
        kinds: kinds of the mimics; None if the ground truth does not list mimics.
        distance_mm: largest distance of a false positive from its mimic.

    Returns:
        for each false positive the kind of the nearest mimic, "none" if it is too far, "unknown" if kinds is None.
    """
    places = np.asarray(places_mm, dtype=float).reshape(-1, 3)
    if kinds is None:
        return [UNKNOWN] * len(places)
    if not len(kinds):
        return [NO_MIMIC] * len(places)
    distance = cdist(places, np.asarray(mimics_mm, dtype=float).reshape(-1, 3))
    nearest = distance.argmin(axis=1)
    return [kinds[n] if row[n] <= distance_mm else NO_MIMIC for n, row in zip(nearest, distance, strict=True)]


def _ordered(present: set[str], order: Sequence[str]) -> list[str]:
    last = [UNKNOWN] if UNKNOWN in present else []
    rest = sorted(present - set(order) - {UNKNOWN})
    return [*(name for name in order if name in present), *rest, *last]
