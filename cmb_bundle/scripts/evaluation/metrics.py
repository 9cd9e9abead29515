"""Compute ``metrics.json``, the scores of one or several systems: by stage, stratum and fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .agreement import count_agreement
from .bootstrap import LEVEL, bootstrap, resample_weights, resampled_pooled, resampled_scores
from .counts import Counts, median_subject_f1, subject_level, summary
from .curves import Curve, froc_curve, froc_scores
from .records import SubjectRecord
from .stages import STAGES, SystemMatching, match_records, places_of
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
from .valdo import valdo_scores, valdo_tests


def score_stages(scored: SystemMatching, weights: np.ndarray) -> dict:
    """
    Compute the scores of the three stages and, under "intervals", their bootstrap intervals by the same names.

    Args:
        scored: matchings of N subjects.
        weights: (B, N) resamples of subjects.
    """
    result, intervals = {}, {}
    for stage in STAGES:
        counts = scored.counts(stage)
        result[stage] = stage_scores(counts)
        intervals[stage] = bootstrap(resampled_scores(counts, weights), result[stage])
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


def strata(records: Sequence[SubjectRecord], scored: SystemMatching, weights: np.ndarray) -> dict:
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
    """For each candidate of a subject the kind of mimic at its location, see :func:`~.strata.kind_of_mimic`."""
    kinds = None if record.mimics is None else [m.kind for m in record.mimics]
    return kind_of_mimic(places_of(record.candidates), places_of(record.mimics or []), kinds, distance_mm)


def false_positives_by_mimic(
    records: Sequence[SubjectRecord], scored: SystemMatching, distance_mm: float
) -> list[dict]:
    """
    Count false positives by the kind of mimic at their location.

    Returns:
        for each kind "name", "n_mimics" (None for "none" and "unknown"), and for stage 1 and end to end the number of
        false positives, in total and per subject; sorted by false positives end to end, most first.
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


COMPARED = ("sensitivity", "precision", "f1", "false_positives_per_subject")


@dataclass(frozen=True)
class EvaluationOptions:
    """
    How records are scored, and what the report says about them.

    Args:
        distance_mm: largest distance between a detection and its lesion in the primary analysis, and between a false
            positive and the mimic that it is attributed to.
        strict_mm: largest distance between a detection and its lesion in the second analysis.
        duplicate_mm: the less probable of two detections closer than this is discarded, as in inference; 0 keeps all.
        bootstrap: resamples of subjects for the intervals; 0 computes no intervals.
        seed: seed of the resamples.
        data_set: what was evaluated, in words or as a path.
        left_out: subjects that could not be evaluated, with the reason.
        gallery: largest number of pictures of misses, and of false positives.
    """

    distance_mm: float = 5.0
    strict_mm: float = 3.0
    duplicate_mm: float = 3.0
    bootstrap: int = 2000
    seed: int = 0
    data_set: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    gallery: int = 24


def score_system(
    records: Sequence[SubjectRecord], options: EvaluationOptions
) -> tuple[dict, dict[str, Curve], SystemMatching]:
    """
    Compute all reported scores of one system.

    Args:
        records: records of one system, of at least one subject.
        options: how to score them.

    Returns:
        the numbers, see docs/reference/evaluation.md; the FROC curves by stage; the matchings of the primary analysis.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("there are no records to score; expected at least one subject.")
    weights = resample_weights(len(records), options.bootstrap, options.seed)
    scored = match_records(records, options.distance_mm, options.duplicate_mm)
    strict = match_records(records, options.strict_mm, options.duplicate_mm)
    curves = {stage: froc_curve(scored, stage, weights) for stage in STAGES}
    result = {
        "distance_mm": options.distance_mm,
        **score_stages(scored, weights),
        "strict": {"distance_mm": options.strict_mm, **score_stages(strict, weights)},
        "valdo": {
            "distance_mm": options.distance_mm,
            **valdo_scores(records, weights, options.distance_mm),
            "in_voxels": valdo_scores(records, weights, options.distance_mm, "voxel"),
        },
        "strata": strata(records, scored, weights),
        "false_positives_by_mimic": false_positives_by_mimic(records, scored, options.distance_mm),
    }
    by_fold = fold_scores(records, options.distance_mm, options.duplicate_mm)
    return result | ({"by_fold": by_fold} if by_fold else {}), curves, scored


def differences(records: Sequence[SubjectRecord], others: Sequence[SubjectRecord], options: EvaluationOptions) -> dict:
    """
    Compare another system with the main one, on the subjects that both processed.

    Args:
        records: records of the main system.
        others: records of the other system.
        options: how to score them.

    Returns:
        "n_subjects" in common, and for stage 1 and end to end the difference, other - main, of
        "sensitivity", "precision", "f1" and "false_positives_per_subject", with "intervals" from resamples of the
        common subjects; and "valdo_tests", see :func:`~.valdo.valdo_tests`.
    """
    own, other = ({r.subject: r for r in group} for group in (records, others))
    common = sorted(own.keys() & other.keys())
    if not common:
        return {"n_subjects": 0}
    pairs = [
        match_records([group[s] for s in common], options.distance_mm, options.duplicate_mm) for group in (own, other)
    ]
    counts = {stage: [one.counts(stage) for one in pairs] for stage in ("stage_1", "end_to_end")}

    weights = resample_weights(len(common), options.bootstrap, options.seed)
    value, resampled = {}, {}
    for stage, (main, compared) in counts.items():
        ours, theirs = summary(main), summary(compared)
        value[stage] = {n: None if None in (ours[n], theirs[n]) else theirs[n] - ours[n] for n in COMPARED}
        ours, theirs = resampled_pooled(main, weights), resampled_pooled(compared, weights)
        resampled[stage] = {n: theirs[n] - ours[n] for n in COMPARED}
    tests = valdo_tests(*([group[s] for s in common] for group in (own, other)), options.distance_mm)
    return {"n_subjects": len(common), **value, "intervals": bootstrap(resampled, value), "valdo_tests": tests}


def evaluate_records(
    records: Sequence[SubjectRecord], options: EvaluationOptions
) -> tuple[dict, dict[str, dict[str, Curve]], dict[str, SystemMatching]]:
    """
    Score all systems of the records.

    Args:
        records: records of one or several systems; the first record's system is the main one.
        options: how to score them.

    Returns:
        the content of ``metrics.json``: "evaluated" and the main system's scores, with those of the others under
        "rivals"; the curves and the matchings of each system.
    """
    systems = by_system(records)
    results, curves, scored = {}, {}, {}
    for name, own in systems.items():
        results[name], curves[name], scored[name] = score_system(own, options)
    main, *others = systems
    for name in others:
        results[name]["difference"] = differences(systems[main], systems[name], options)
    content = {"evaluated": evaluated(records, options), "system": main, **results[main]}
    content["rivals"] = {name: results[name] for name in others}
    return content, curves, scored


def by_system(records: Sequence[SubjectRecord]) -> dict[str, list[SubjectRecord]]:
    """The records of each system sorted by subject; systems in order of first occurrence."""
    systems: dict[str, list[SubjectRecord]] = {}
    for record in records:
        systems.setdefault(record.system, []).append(record)
    return {name: sorted(own, key=lambda r: r.subject) for name, own in systems.items()}


def evaluated(records: Sequence[SubjectRecord], options: EvaluationOptions) -> dict:
    """What was evaluated and how, for the top of the report."""
    simulated = {record.simulated for record in records}
    systems = {
        name: {
            "n_subjects": len(own),
            "weights": sorted({r.weights for r in own if r.weights}),
            "candidate_threshold": _distinct(r.candidate_threshold for r in own),
            "probability_threshold": _distinct(r.probability_threshold for r in own),
        }
        for name, own in by_system(records).items()
    }
    return {
        "data_set": options.data_set,
        "simulated": simulated.pop() if len(simulated) == 1 else None,
        "implanted": any(record.implanted for record in records),
        "n_left_out": len(options.left_out),
        "folds": _distinct(r.fold for r in records),
        "systems": systems,
        "duplicate_mm": options.duplicate_mm,
        "bootstrap": {"samples": options.bootstrap, "seed": options.seed, "level": LEVEL},
    }


def _distinct(values) -> list:
    return sorted({v for v in values if v is not None})


def fold_scores(records: Sequence[SubjectRecord], distance_mm: float, duplicate_mm: float) -> dict[str, Any] | None:
    """
    Compute the scores of each fold, and their mean, standard deviation, minimum and maximum.

    Args:
        records: records of one system, with their folds; those without a fold are ignored.
        distance_mm, duplicate_mm: see :func:`~.stages.match_records`.

    Returns:
        "folds": for each fold "n_subjects", "n_lesions", and of stage 1 and end to end the sensitivity and FPavg, end
        to end also precision and F1 (None if undefined); "spread": "mean", "sd" (of the sample), "min", "max" over
        the folds in which a score is defined. None with fewer than two folds.
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
