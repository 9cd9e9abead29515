"""The figures of an evaluation as they may be published: of all subjects together, and nothing of any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..dicom.writers import bundle_version
from ..evaluation.bootstrap import LEVEL, resample_weights
from ..evaluation.metrics import EvaluationOptions, score_stages
from ..evaluation.records import SubjectRecord
from ..evaluation.stages import STAGES, match_records
from ..transforms.tested import is_outside_tested

FORMAT = 1
ABOUT = (
    "Figures of microbleed detection by cmb_bundle on labelled scans. They are about all subjects together; no name, "
    "id, path or date is in this file. docs/evidence.md explains it."
)
IMPLANTED = (
    " The microbleeds were put into the scans by the program itself. A real one has no label and counts as a false "
    "positive, so that false positives are an upper bound. These are no figures of how it performs on patients."
)
COUNTS = ("n_subjects", "n_lesion_free_subjects", "n_lesions", "true_positives", "false_negatives", "false_positives")
RATIOS = (
    "sensitivity",
    "precision",
    "f1",
    "false_positives_per_subject",
    "false_positives_per_lesion_free_subject",
    "median_subject_f1",
)
MORE = ("mean_sensitivity", "sensitivity_at", "subject_level", "count_agreement")
"""Figures besides ``RATIOS`` that are written of all kinds of scan together."""
KINDS = ("swi", "swi + phase", "magnitude + phase", "t2star")


def make_evidence(metrics: Mapping, records: Sequence[SubjectRecord], options: EvaluationOptions | None = None) -> dict:
    """
    Gather what may be published of an evaluation.

    Every entry is named here; nothing that a user wrote (ids, paths, names of systems and regions, notices) is taken
    over, so that nothing of it can slip in.

    Args:
        metrics: content of ``metrics.json``.
        records: of the main system.
        options: how they were scored.

    Returns:
        the content of ``evidence.json``, see docs/evidence.md.

    Example:
        >>> from cmb_bundle.scripts.candidate import Candidate
        >>> from cmb_bundle.scripts.evaluation.records import Lesion
        >>> from cmb_bundle.scripts.evaluation.metrics import evaluate_records
        >>> found = [Candidate((1.0, 0.0, 0.0), 0.9, 0.9, True)]
        >>> records = [SubjectRecord("Jane", [Lesion((0.0, 0.0, 0.0))], found, contrast="t2star", echo_ms=20.0)]
        >>> evidence = make_evidence(evaluate_records(records, EvaluationOptions())[0], records)
        >>> evidence["end_to_end"]["figures"]["sensitivity"], evidence["kinds"][0]["scans"]["echo_ms"]
        (1.0, {'known': 1, 'least': 20.0, 'median': 20.0, 'most': 20.0})
    """
    options = options or EvaluationOptions()
    system = metrics["evaluated"]["systems"][metrics["system"]]
    return {
        "format": FORMAT,
        "about": ABOUT + IMPLANTED * metrics["evaluated"]["implanted"],
        "version": bundle_version(),
        "weights_sha256": sorted({r.weights_sha256 for r in records if r.weights_sha256}),
        "simulated": metrics["evaluated"]["simulated"],
        "implanted": metrics["evaluated"]["implanted"],
        "n_left_out": metrics["evaluated"]["n_left_out"],
        "n_label_maps": sum(record.maps is not None for record in records),
        "n_with_warnings": sum(bool(record.warnings) for record in records),
        "n_outside_tested": sum(is_outside_tested(record.warnings) for record in records),
        "rules": {
            "distance_mm": options.distance_mm,
            "strict_mm": options.strict_mm,
            "duplicate_mm": options.duplicate_mm,
            "candidate_threshold": system["candidate_threshold"],
            "probability_threshold": system["probability_threshold"],
            "interval_level": LEVEL,
            "bootstrap_samples": options.bootstrap,
        },
        **{stage: _part(metrics, stage, (*RATIOS, *MORE)) for stage in STAGES},
        "strict_end_to_end": _part(metrics["strict"], "end_to_end", RATIOS),
        "valdo": {name: metrics["valdo"][name] for name in ("end_to_end", "intervals")},
        "diameter": metrics["strata"]["diameter"],
        "kinds": [_kind(kind, own, options) for kind, own in _by_kind(records).items()],
    }


def _part(scores: Mapping, stage: str, names: Sequence[str]) -> dict:
    """The counts, figures and intervals of a stage."""
    own, spread = scores[stage], scores["intervals"][stage]
    return {
        "counts": {name: own[name] for name in COUNTS},
        "figures": {name: own[name] for name in names},
        "intervals": {name: spread[name] for name in names},
    }


def _by_kind(records: Sequence[SubjectRecord]) -> dict[str, list[SubjectRecord]]:
    kinds: dict[str, list[SubjectRecord]] = {}
    for record in records:
        kinds.setdefault(record.contrast if record.contrast in KINDS else "unknown", []).append(record)
    return dict(sorted(kinds.items()))


def _kind(kind: str, records: Sequence[SubjectRecord], options: EvaluationOptions) -> dict:
    """What the scans of a kind are like, and the figures on them, end to end."""
    weights = resample_weights(len(records), options.bootstrap, options.seed)
    scores = score_stages(match_records(records, options.distance_mm, options.duplicate_mm), weights)
    sizes = [record.spacing_mm for record in records]
    return {
        "kind": kind,
        "scans": {
            "in_plane_mm": _spread([max(size[:2]) for size in sizes if size]),
            "slice_mm": _spread([size[2] for size in sizes if size]),
            "echo_ms": _spread([record.echo_ms for record in records if record.echo_ms]),
            "field_tesla": _spread([record.field_tesla for record in records if record.field_tesla]),
        },
        **_part(scores, "end_to_end", RATIOS),
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """How many values are known, and the least, the middle and the largest of them, to two digits after the point."""
    ends = [round(float(f(values)), 2) if len(values) else None for f in (np.min, np.median, np.max)]
    return {"known": len(values), **dict(zip(("least", "median", "most"), ends, strict=True))}
