"""Everything that an evaluation says of one or several systems, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .bootstrap import LEVEL, bootstrap, resample_weights
from .by_fold import figures_by_fold
from .curves import Curve, froc_curve
from .matched import STAGES, Scored, match_records
from .matching import match_to_nearest
from .metrics import summary
from .records import SubjectRecord
from .resampled import resampled_pooled
from .scoring import false_positives_by_mimic, score_stages, strata

COMPARED = ("sensitivity", "precision", "f1", "false_positives_per_subject")


@dataclass(frozen=True)
class EvaluationOptions:
    """
    How records are scored and what the report says of them.

    Args:
        distance_mm: largest distance of a detection from its lesion in the primary analysis, and of a false positive
            from the mimic that it is called after.
        strict_mm: largest distance of a hit in the second analysis.
        duplicate_mm: of two detections closer than this, the less probable one is none, as in inference; 0 keeps all.
        bootstrap: resamples of subjects for the intervals; 0 for none.
        seed: of the resamples.
        data_set: what was evaluated, in words or as a path.
        left_out: subjects that could not be evaluated, with the reason.
        gallery: pictures of misses and of false positives each, at most.
    """

    distance_mm: float = 5.0
    strict_mm: float = 3.0
    duplicate_mm: float = 3.0
    bootstrap: int = 2000
    seed: int = 0
    data_set: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    gallery: int = 24


def score_system(records: Sequence[SubjectRecord], options: EvaluationOptions) -> tuple[dict, dict[str, Curve], Scored]:
    """
    Compute everything that is reported of one system.

    Args:
        records: of one system, one subject at least.
        options: how.

    Returns:
        the numbers, see docs/evaluation.md; the FROC curves by stage; the matchings of the primary analysis.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("there are no records to score; expected one subject at least.")
    weights = resample_weights(len(records), options.bootstrap, options.seed)
    scored = match_records(records, options.distance_mm, options.duplicate_mm)
    strict = match_records(records, options.strict_mm, options.duplicate_mm)
    valdo = match_records(records, options.distance_mm, options.duplicate_mm, match_to_nearest)
    curves = {stage: froc_curve(scored, stage, weights) for stage in STAGES}
    result = {
        "distance_mm": options.distance_mm,
        **score_stages(scored, weights),
        "strict": {"distance_mm": options.strict_mm, **score_stages(strict, weights)},
        "valdo": {"distance_mm": options.distance_mm, **score_stages(valdo, weights, with_froc=False)},
        "strata": strata(records, scored, weights),
        "false_positives_by_mimic": false_positives_by_mimic(records, scored, options.distance_mm),
    }
    by_fold = figures_by_fold(records, options.distance_mm, options.duplicate_mm)
    return result | ({"by_fold": by_fold} if by_fold else {}), curves, scored


def differences(records: Sequence[SubjectRecord], rivals: Sequence[SubjectRecord], options: EvaluationOptions) -> dict:
    """
    A rival against the main system, on the subjects that both saw.

    Args:
        records: of the main system.
        rivals: of the other.
        options: how.

    Returns:
        "n_subjects" in common, and for stage 1 and end to end rival - main of "sensitivity", "precision", "f1",
        "false_positives_per_subject", with "intervals" from resamples of subjects common to both.
    """
    own, other = ({r.subject: r for r in group} for group in (records, rivals))
    common = sorted(own.keys() & other.keys())
    if not common:
        return {"n_subjects": 0}
    pairs = [
        match_records([group[s] for s in common], options.distance_mm, options.duplicate_mm) for group in (own, other)
    ]
    counts = {stage: [one.counts(stage) for one in pairs] for stage in ("stage_1", "end_to_end")}

    weights = resample_weights(len(common), options.bootstrap, options.seed)
    value, resampled = {}, {}
    for stage, (main, rival) in counts.items():
        ours, theirs = summary(main), summary(rival)
        value[stage] = {n: None if None in (ours[n], theirs[n]) else theirs[n] - ours[n] for n in COMPARED}
        ours, theirs = resampled_pooled(main, weights), resampled_pooled(rival, weights)
        resampled[stage] = {n: theirs[n] - ours[n] for n in COMPARED}
    return {"n_subjects": len(common), **value, "intervals": bootstrap(resampled, value)}


def evaluate_records(
    records: Sequence[SubjectRecord], options: EvaluationOptions
) -> tuple[dict, dict[str, dict[str, Curve]], dict[str, Scored]]:
    """
    Score all systems of the records.

    Args:
        records: of one or several systems; the first one's system is the main one.
        options: how.

    Returns:
        the content of ``metrics.json``: "evaluated" and the main system's numbers, with those of the others under
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
    """The records of each system in the order in which systems first occur, sorted by subject."""
    systems: dict[str, list[SubjectRecord]] = {}
    for record in records:
        systems.setdefault(record.system, []).append(record)
    return {name: sorted(own, key=lambda r: r.subject) for name, own in systems.items()}


def evaluated(records: Sequence[SubjectRecord], options: EvaluationOptions) -> dict:
    """What was evaluated and how, for the head of the report."""
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
        "n_left_out": len(options.left_out),
        "folds": _distinct(r.fold for r in records),
        "systems": systems,
        "duplicate_mm": options.duplicate_mm,
        "bootstrap": {"samples": options.bootstrap, "seed": options.seed, "level": LEVEL},
    }


def _distinct(values) -> list:
    return sorted({v for v in values if v is not None})
