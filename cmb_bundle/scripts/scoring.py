"""Scores of the three stages of a system, with intervals, and by strata."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .agreement import count_agreement
from .bootstrap import bootstrap
from .curves import froc_scores
from .matched import STAGES, Scored, places_of
from .metrics import Counts, median_subject_f1, subject_level, summary
from .records import SubjectRecord
from .resampled import resampled_scores
from .strata import (
    REGIONS,
    UNKNOWN,
    diameter_class,
    diameter_classes,
    kind_of_mimic,
    lesion_strata,
    subject_strata,
    thickness_class,
    thickness_classes,
)


def score_stages(scored: Scored, weights: np.ndarray, with_froc: bool = True) -> dict:
    """
    Scores of the three stages, and under "intervals", by the same names, their bootstrap intervals.

    Args:
        scored: matchings of N subjects.
        weights: (B, N) resamples of subjects.
        with_froc: also sensitivities at given rates; not for a rule whose matchings depend on the threshold.
    """
    result, intervals = {}, {}
    for stage in STAGES:
        counts = scored.counts(stage)
        result[stage] = stage_scores(counts)
        intervals[stage] = bootstrap(resampled_scores(counts, weights), result[stage])
        if with_froc:
            numbers, spread = froc_scores(scored.curve_of(stage), weights)
            result[stage] |= numbers
            intervals[stage] |= spread
    return {**result, "intervals": intervals}


def stage_scores(counts: Counts) -> dict:
    """Counts and ratios over lesions, "median_subject_f1", "subject_level" and "count_agreement"."""
    return {
        **summary(counts),
        "median_subject_f1": median_subject_f1(counts),
        "subject_level": subject_level(counts),
        "count_agreement": count_agreement(counts.lesions, counts.detections),
    }


def strata(records: Sequence[SubjectRecord], scored: Scored, weights: np.ndarray) -> dict:
    """Scores by diameter and by region of the lesions, and by slice thickness of the scans."""
    found = [(~a.is_missed, ~b.is_missed) for a, b in zip(scored.stage_1, scored.end_to_end, strict=True)]
    diameters = [[diameter_class(lesion.diameter_mm) for lesion in r.lesions] for r in records]
    regions = [[lesion.region or UNKNOWN for lesion in r.lesions] for r in records]
    thickness = [thickness_class(r.spacing_mm[2] if r.spacing_mm else None) for r in records]
    counts = {stage: scored.counts(stage) for stage in ("stage_1", "end_to_end")}
    return {
        "diameter": lesion_strata(diameters, found, diameter_classes(), weights),
        "region": lesion_strata(regions, found, REGIONS, weights),
        "slice_thickness": subject_strata(thickness, counts, thickness_classes(), weights),
    }


def mimic_of_candidates(record: SubjectRecord, distance_mm: float) -> list[str]:
    """For each candidate of a subject the kind of the mimic at its place, see :func:`~.strata.kind_of_mimic`."""
    kinds = None if record.mimics is None else [m.kind for m in record.mimics]
    return kind_of_mimic(places_of(record.candidates), places_of(record.mimics or []), kinds, distance_mm)


def false_positives_by_mimic(records: Sequence[SubjectRecord], scored: Scored, distance_mm: float) -> list[dict]:
    """
    False positives by what lies where they are.

    Returns:
        for each kind "name", "n_mimics" (None for "none" and "unknown"), and for stage 1 and end to end the number of
        false positives and that number a subject; most false positives end to end come first.
    """
    rows: dict[str, dict] = {}
    for record, first, kept in zip(records, scored.stage_1, scored.accepted, strict=True):
        for mimic in record.mimics or []:
            row = rows.setdefault(mimic.kind, {"n_mimics": 0, "stage_1": 0, "end_to_end": 0})
            row["n_mimics"] += 1
        is_accepted = np.isin(np.arange(len(record.candidates)), kept)
        kinds = mimic_of_candidates(record, distance_mm)
        for kind, false, accepted in zip(kinds, first.is_false_positive, is_accepted, strict=True):
            row = rows.setdefault(kind, {"n_mimics": None, "stage_1": 0, "end_to_end": 0})
            row["stage_1"] += int(false)
            row["end_to_end"] += int(false and accepted)
    order = sorted(rows, key=lambda kind: (-rows[kind]["end_to_end"], -rows[kind]["stage_1"], kind))
    return [
        {
            "name": kind,
            **rows[kind],
            "stage_1_per_subject": rows[kind]["stage_1"] / len(records),
            "end_to_end_per_subject": rows[kind]["end_to_end"] / len(records),
        }
        for kind in order
        if rows[kind]["n_mimics"] or rows[kind]["stage_1"]
    ]
