"""Write an evaluation: scores, tables and a report from the records of subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import pandas as pd

from ..evaluation.metrics import EvaluationOptions, by_system, evaluate_records
from ..evaluation.records import SubjectRecord, check_unique, save_records
from ..evaluation.stages import STAGES
from ..files import write_csv, write_json, write_whole
from .evidence import make_evidence
from .page import write_page
from .tables import classes, false_positives, froc_points, per_lesion, per_subject

FILES = (
    "metrics.json",
    "evidence.json",
    "per_subject.csv",
    "per_lesion.csv",
    "false_positives.csv",
    "froc.csv",
    "Actual.csv",
    "Predicted.csv",
    "records.json",
    "report.html",
)


def write_evaluation(
    records: Sequence[SubjectRecord], output_dir: str | PathLike, options: EvaluationOptions | None = None
) -> dict:
    """
    Score records, write ``FILES`` and print a summary table.

    The order of subjects does not matter; the system of the first record is the main one.

    Args:
        records: records of one or several systems; to pool folders see
            :func:`~..evaluation.records.load_records`.
        output_dir: folder of the files.
        options: how to score them.

    Returns:
        the content of ``metrics.json``.

    Raises:
        ValueError: there are no records.
        RecordsError: a subject has several records of one system.
    """
    if not records:
        raise ValueError("there are no records to evaluate; expected at least one subject.")
    check_unique(records)
    folder, options = Path(output_dir), options or EvaluationOptions()
    systems = by_system(records)
    metrics, curves, scored = evaluate_records(records, options)
    subjects = {name: per_subject(own, scored[name], options.distance_mm) for name, own in systems.items()}
    lesions = {name: per_lesion(own, scored[name]) for name, own in systems.items()}
    false = {name: false_positives(own, scored[name], options.distance_mm) for name, own in systems.items()}
    points = [froc_points(name, curves[name]) for name in systems]
    main = metrics["system"]

    write_json(folder / "metrics.json", metrics)
    write_json(folder / "evidence.json", make_evidence(metrics, systems[main], options))
    tables = {"per_subject": subjects, "per_lesion": lesions, "false_positives": false}
    for name, parts in tables.items():
        write_csv(folder / f"{name}.csv", _join(list(parts.values())))
    write_csv(folder / "froc.csv", _join(points))
    for name, column in zip(("Actual", "Predicted"), classes(systems[main], scored[main].stage_1), strict=True):
        content = pd.Series(column, dtype=int)
        write_whole(folder / f"{name}.csv", lambda aside, c=content: c.to_csv(aside, index=False, header=False))
    save_records(folder / "records.json", [record for own in systems.values() for record in own])
    write_whole(
        folder / "report.html",
        lambda aside: write_page(
            aside, metrics, systems, curves, subjects[main], lesions[main], false[main], options
        ),
    )  # fmt: skip
    print_scores(metrics)
    print(f"The report is {(folder / 'report.html').resolve()}")
    if metrics["evaluated"]["simulated"] is not True and not metrics["evaluated"]["implanted"]:
        print("evidence.json beside it has no id, path or date: please publish it, see docs/evidence.md")
    return metrics


def _join(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables; if all are empty, keep the columns."""
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def print_scores(metrics: Mapping) -> None:
    """Print sensitivity, FPavg and precision of the stages of each system."""
    lesions, subjects = metrics["end_to_end"]["n_lesions"], metrics["end_to_end"]["n_subjects"]
    print(f"\nScores of {subjects} subjects with {lesions} microbleeds (hit within {metrics['distance_mm']:g} mm)")
    columns = {"sensitivity": "sensitivity", "FPavg": "false_positives_per_subject", "precision": "precision"}
    for name, scores in ({metrics["system"]: metrics} | metrics["rivals"]).items():
        if metrics["rivals"]:
            print(name)
        table = {title: {stage: scores[stage][key] for stage in STAGES} for title, key in columns.items()}
        print(pd.DataFrame(table, dtype=float).round(3).to_string(na_rep="-"))
