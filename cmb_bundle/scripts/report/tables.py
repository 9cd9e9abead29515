"""Tables of an evaluation, with one row per subject, lesion, false positive or point of a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..evaluation.counts import count, subject_f1
from ..evaluation.curves import Curve
from ..evaluation.matching import Matching
from ..evaluation.metrics import mimic_of_candidates
from ..evaluation.records import Candidate, SubjectRecord
from ..evaluation.stages import SystemMatching
from ..evaluation.valdo import valdo_table

PLACE = ("ras_r_mm", "ras_a_mm", "ras_s_mm")
OUTCOMES = ("found", "lost in stage 2", "missed by stage 1")


def per_subject(records: Sequence[SubjectRecord], scored: SystemMatching, distance_mm: float = 5.0) -> pd.DataFrame:
    """
    Count the outcomes of each subject of a system.

    Args:
        records: records of one system.
        scored: their matchings.
        distance_mm: of the figures of the VALDO challenge.

    Returns:
        one row per subject; columns without a prefix are end to end.
    """
    first, both = count(scored.stage_1), count(scored.end_to_end)
    challenge = valdo_table(records, distance_mm)
    return pd.DataFrame(
        {
            "subject": [r.subject for r in records],
            "n_lesions": both.lesions,
            "true_positives": both.true_positives,
            "false_negatives": both.false_negatives,
            "false_positives": both.false_positives,
            "duplicates": both.duplicates,
            "n_detections": both.detections,
            "f1": subject_f1(both),
            "stage_1_true_positives": first.true_positives,
            "stage_1_false_positives": first.false_positives,
            "stage_1_duplicates": first.duplicates,
            "n_candidates": first.detections,
            **{f"valdo_{name}": column for name, column in challenge.items()},
            "slice_thickness_mm": [r.spacing_mm[2] if r.spacing_mm else None for r in records],
            "fold": pd.array([r.fold for r in records], dtype="Int64"),
            "system": [r.system for r in records],
            "contrast": [r.contrast for r in records],
            "notices": [r.notices for r in records],
            "warnings": [r.warnings for r in records],
        }
    )


def per_lesion(records: Sequence[SubjectRecord], scored: SystemMatching) -> pd.DataFrame:
    """
    List the outcome of each lesion.

    Returns:
        one row per lesion: "subject", "lesion" (number from 1, in label order), location, "diameter_mm", "region",
        "outcome" (see ``OUTCOMES``), whether each stage found it, "distance_mm" to the detection that found it (of
        stage 1 if stage 2 lost it), that candidate's "detector_score", "probability" and "reason", "fold", "system".
    """
    rows = []
    for record, first, both, kept in zip(records, scored.stage_1, scored.end_to_end, scored.accepted, strict=True):
        for number, lesion in enumerate(record.lesions):
            by_first, by_both = first.detection_of_lesion[number], both.detection_of_lesion[number]
            index = kept[by_both] if by_both >= 0 else by_first
            hit: Candidate | None = record.candidates[index] if index >= 0 else None
            distance = (both if by_both >= 0 else first).distance_mm[number]
            rows.append(
                {
                    "subject": record.subject,
                    "lesion": number + 1,
                    **dict(zip(PLACE, lesion.ras_mm, strict=True)),
                    "diameter_mm": lesion.diameter_mm,
                    "region": lesion.region,
                    "outcome": OUTCOMES[0 if by_both >= 0 else 1 if by_first >= 0 else 2],
                    "found_by_stage_1": bool(by_first >= 0),
                    "found_end_to_end": bool(by_both >= 0),
                    "distance_mm": None if hit is None else round(float(distance), 3),
                    "detector_score": None if hit is None else hit.detector_score,
                    "probability": None if hit is None else hit.probability,
                    "reason": None if hit is None else hit.reason,
                    "fold": record.fold,
                    "system": record.system,
                }
            )
    names = ["subject", "lesion", *PLACE, "diameter_mm", "region", "outcome", "found_by_stage_1", "found_end_to_end"]
    names += ["distance_mm", "detector_score", "probability", "reason", "fold", "system"]
    types = {"fold": "Int64", "found_by_stage_1": bool, "found_end_to_end": bool}
    return pd.DataFrame(rows, columns=names).astype(types)


def false_positives(records: Sequence[SubjectRecord], scored: SystemMatching, distance_mm: float) -> pd.DataFrame:
    """
    List the candidates that are not near any lesion.

    Args:
        records: records of one system.
        scored: their matchings.
        distance_mm: largest distance between a false positive and the mimic that it is attributed to.

    Returns:
        one row per false positive of stage 1; those that are false positives end to end (``end_to_end``) come first,
        sorted by probability. ``candidate`` is the index in the record.
    """
    rows = []
    for record, first, kept in zip(records, scored.stage_1, scored.accepted, strict=True):
        kinds = mimic_of_candidates(record, distance_mm)
        for index in np.flatnonzero(first.is_false_positive):
            candidate = record.candidates[index]
            rows.append(
                {
                    "subject": record.subject,
                    "candidate": int(index),
                    **dict(zip(PLACE, candidate.ras_mm, strict=True)),
                    "end_to_end": bool(index in kept),
                    "probability": candidate.probability,
                    "detector_score": candidate.detector_score,
                    "diameter_mm": candidate.diameter_mm,
                    "mimic": kinds[index],
                    "reason": candidate.reason,
                    "fold": record.fold,
                    "system": record.system,
                }
            )
    names = ["subject", "candidate", *PLACE, "end_to_end", "probability", "detector_score", "diameter_mm", "mimic"]
    table = pd.DataFrame(rows, columns=[*names, "reason", "fold", "system"])
    table = table.astype({"fold": "Int64", "end_to_end": bool})
    by = ["end_to_end", "probability", "detector_score", "subject", "candidate"]
    return table.sort_values(by, ascending=[False, False, False, True, True], ignore_index=True)


def froc_points(system: str, curves: Mapping[str, Curve]) -> pd.DataFrame:
    """One row per point of each FROC curve of a system: threshold, sensitivity, false positives per subject."""
    parts = []
    for stage, curve in curves.items():
        points = curve.points
        part = {
            "system": system,
            "stage": stage,
            "threshold": points.thresholds,
            "sensitivity": points.sensitivity if points.sensitivity is not None else np.nan,
            "false_positives_per_subject": points.false_positives_per_subject,
        }
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def classes(records: Sequence[SubjectRecord], stage_1: Sequence[Matching]) -> tuple[list[int], list[int]]:
    """
    Return the class labels of all candidates, as the program of Al-masni et al. writes them for its patches.

    Returns:
        two lists of 1 or 0 per candidate: whether it is near a lesion, and whether it was accepted.
    """
    near = [int(x) for m in stage_1 for x in m.is_true_positive | m.is_duplicate]
    return near, [int(c.accepted) for r in records for c in r.candidates]
