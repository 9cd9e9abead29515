"""Score detections against lesions: counts and ratios.

Ratios with a denominator of 0 are None, never NaN, such as the sensitivity without lesions and the precision without
detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .matching import Matching


@dataclass(frozen=True)
class Counts:
    """
    Counts of N subjects; each attribute is an (N,) array.

    Attributes:
        lesions: lesions in the ground truth.
        detections: all detections: true, false and duplicates.
        true_positives: lesions found.
        false_positives: detections near no lesion.
        duplicates: further detections of a lesion already found.
        lesion_free: bool, subjects without lesions in the ground truth; this excludes subjects that have no lesions
            left to find because an earlier stage missed them all.
    """

    lesions: np.ndarray
    detections: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    duplicates: np.ndarray
    lesion_free: np.ndarray

    def __len__(self) -> int:
        return len(self.lesions)

    def take(self, subjects: np.ndarray) -> Counts:
        """Select subjects by index (possibly repeated) or by a mask."""
        return Counts(*(getattr(self, f.name)[subjects] for f in fields(self)))

    @property
    def false_negatives(self) -> np.ndarray:
        """(N,) lesions missed."""
        return self.lesions - self.true_positives


def count(matchings: Sequence[Matching], lesion_free: np.ndarray | None = None) -> Counts:
    """
    Count the outcomes of each subject's matching.

    Args:
        matchings: one per subject, N in total.
        lesion_free: (N,) bool; by default the subjects without lesions in their matching.

    Example:
        >>> from cmb_bundle.scripts.evaluation.matching import match
        >>> first = match([[0, 0, 0], [40, 0, 0]], [0.9, 0.3], [[0, 0, 1], [40, 0, 1]])  # finds both lesions
        >>> second = match([[0, 0, 0]], [0.6], [])  # a false positive without lesions
        >>> counts = count([first, second])
        >>> counts.true_positives.tolist(), counts.false_positives.tolist(), counts.lesion_free.tolist()
        ([2, 0], [0, 1], [False, True])
    """
    rows = [
        (
            len(m.detection_of_lesion),
            len(m.scores),
            m.is_true_positive.sum(),
            m.is_false_positive.sum(),
            m.is_duplicate.sum(),
        )
        for m in matchings
    ]
    columns = np.array(rows, dtype=int).reshape(-1, 5).T
    return Counts(*columns, columns[0] == 0 if lesion_free is None else np.asarray(lesion_free, dtype=bool))


def summary(subjects: Sequence[Matching] | Counts) -> dict[str, float | int | None]:
    """Pool the counts of all subjects.

    Args:
        subjects: their matchings, or their counts.

    Returns:
        counts "n_subjects", "n_lesion_free_subjects", "n_lesions", "true_positives", "false_negatives",
        "false_positives", "duplicates"; ratios "sensitivity", "precision", "f1";
        "false_positives_per_subject" over all subjects (FPavg) and "false_positives_per_lesion_free_subject".
        A ratio without a denominator is None.

    Example:
        >>> from cmb_bundle.scripts.evaluation.matching import match
        >>> first = match([[0, 0, 0], [40, 0, 0]], [0.9, 0.3], [[0, 0, 1], [40, 0, 1]])  # finds both lesions
        >>> second = match([[0, 0, 0]], [0.6], [])  # a false positive without lesions
        >>> pooled = summary([first, second])
        >>> pooled["sensitivity"], round(pooled["precision"], 3), pooled["false_positives_per_subject"]
        (1.0, 0.667, 0.5)
    """
    c = subjects if isinstance(subjects, Counts) else count(subjects)
    lesion_free = c.lesion_free
    true_positives, false_positives = int(c.true_positives.sum()), int(c.false_positives.sum())
    false_negatives = int(c.false_negatives.sum())
    return {
        "n_subjects": len(c),
        "n_lesion_free_subjects": int(lesion_free.sum()),
        "n_lesions": true_positives + false_negatives,
        "true_positives": true_positives,
        "false_negatives": false_negatives,
        "false_positives": false_positives,
        "duplicates": int(c.duplicates.sum()),
        "sensitivity": ratio(true_positives, true_positives + false_negatives),
        "precision": ratio(true_positives, true_positives + false_positives),
        "f1": ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives),
        "false_positives_per_subject": ratio(false_positives, len(c)),
        "false_positives_per_lesion_free_subject": ratio(
            int(c.false_positives[lesion_free].sum()), int(lesion_free.sum())
        ),
    }


def subject_f1(counts: Counts) -> np.ndarray:
    """
    F1 of each subject, 2 TP / (2 TP + FP + FN).

    Returns:
        (N,); NaN for a subject with neither lesions nor false positives, where the denominator is 0; 0 for a
        lesion-free subject with a false positive.

    Example:
        >>> arrays = map(np.array, ([4, 0, 0], [3, 0, 1], [2, 0, 0], [1, 0, 1], [0, 0, 0], [False, True, True]))
        >>> counts = Counts(*arrays)  # lesions, detections, true and false positives, duplicates; without lesions
        >>> subject_f1(counts).round(3).tolist()
        [0.571, nan, 0.0]
    """
    denominator = 2 * counts.true_positives + counts.false_positives + counts.false_negatives
    return np.divide(2 * counts.true_positives, denominator, out=np.full(len(counts), np.nan), where=denominator > 0)


def median_subject_f1(counts: Counts) -> float | None:
    """The median of :func:`subject_f1` over the subjects that have one, by which VALDO ranks; None if none has.

    Example:
        >>> arrays = map(np.array, ([4, 0, 0], [3, 0, 1], [2, 0, 0], [1, 0, 1], [0, 0, 0], [False, True, True]))
        >>> counts = Counts(*arrays)  # lesions, detections, true and false positives, duplicates; without lesions
        >>> round(median_subject_f1(counts), 3)
        0.286
    """
    f1 = subject_f1(counts)
    f1 = f1[~np.isnan(f1)]
    return float(np.median(f1)) if len(f1) else None


def subject_level(subjects: Sequence[Matching] | Counts) -> dict[str, float | int | None]:
    """Score the question whether a subject has any lesion; any detection counts as yes.

    Args:
        subjects: their matchings, or their counts.

    Returns:
        counts "true_positives", "false_negatives", "true_negatives", "false_positives" of subjects, and their
        "sensitivity" and "specificity", None if there are no subjects to compute them from.

    Example:
        >>> arrays = map(np.array, ([4, 0, 0], [3, 0, 1], [2, 0, 0], [1, 0, 1], [0, 0, 0], [False, True, True]))
        >>> counts = Counts(*arrays)  # lesions, detections, true and false positives, duplicates; without lesions
        >>> level = subject_level(counts)
        >>> level["sensitivity"], level["specificity"]
        (1.0, 0.5)
    """
    c = subjects if isinstance(subjects, Counts) else count(subjects)
    has_lesion, has_none, has_detection = c.lesions > 0, c.lesion_free, c.detections > 0
    true_positives = int((has_lesion & has_detection).sum())
    true_negatives = int((has_none & ~has_detection).sum())
    return {
        "true_positives": true_positives,
        "false_negatives": int(has_lesion.sum()) - true_positives,
        "true_negatives": true_negatives,
        "false_positives": int(has_none.sum()) - true_negatives,
        "sensitivity": ratio(true_positives, int(has_lesion.sum())),
        "specificity": ratio(true_negatives, int(has_none.sum())),
    }


def ratio(numerator: float, denominator: float) -> float | None:
    """The quotient, or None if the denominator is 0.

    Example:
        >>> ratio(3, 4), ratio(0, 0)
        (0.75, None)
    """
    return float(numerator / denominator) if denominator else None
