"""The figures of each fold of a cross-validation, and their spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from .matched import match_records
from .metrics import summary
from .records import SubjectRecord


def figures_by_fold(records: Sequence[SubjectRecord], distance_mm: float, duplicate_mm: float) -> dict[str, Any] | None:
    """
    The figures of each fold, and their mean, standard deviation, least and most.

    Args:
        records: of one system, with their folds; those without a fold are passed over.
        distance_mm: as of :func:`~.matched.match_records`.
        duplicate_mm: likewise.

    Returns:
        "folds": for each fold "n_subjects", "n_lesions", and of stage 1 and end to end the sensitivity and FPavg, end
        to end also precision and F1 (None where undefined); "spread": "mean", "sd" (of the sample), "min", "max" over
        the folds in which a figure is defined. None where there are fewer than two folds.
    """
    folds = sorted({record.fold for record in records if record.fold is not None})
    if len(folds) < 2:
        return None
    rows = {}
    for fold in folds:
        scored = match_records([r for r in records if r.fold == fold], distance_mm, duplicate_mm)
        first, both = (summary(scored.counts(stage)) for stage in ("stage_1", "end_to_end"))
        rows[str(fold)] = {
            "n_subjects": both["n_subjects"],
            "n_lesions": both["n_lesions"],
            "stage_1_sensitivity": first["sensitivity"],
            "stage_1_FPavg": first["false_positives_per_subject"],
            "sensitivity": both["sensitivity"],
            "FPavg": both["false_positives_per_subject"],
            "precision": both["precision"],
            "f1": both["f1"],
        }
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    spread = {"mean": table.mean(), "sd": table.std(ddof=1), "min": table.min(), "max": table.max()}
    return {
        "folds": rows,
        "spread": {
            name: {key: None if math.isnan(value) else float(value) for key, value in row.items()}
            for name, row in spread.items()
        },
    }
