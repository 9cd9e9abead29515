"""An evaluation: records of subjects in, numbers, tables and a report out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from .crops import cut_crop
from .files import write_csv, write_json, write_whole
from .matched import STAGES
from .matching import match
from .records import Candidate, Lesion, SubjectRecord, check_unique, save_records
from .report_page import write_page
from .systems import EvaluationOptions, by_system, evaluate_records
from .tables import classes, false_positives, froc_points, per_lesion, per_subject
from .truth import complete, read_truth

__all__ = ["FILES", "EvaluationOptions", "EvaluationReport", "record_subject", "write_evaluation"]

logger = logging.getLogger(__name__)

FILES = (
    "metrics.json",
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
    Score records, write ``FILES`` and print a table.

    The order of subjects does not matter; the system of the first record is the main one.

    Args:
        records: of one or several systems, in any order of subjects; see :func:`~.records.load_records` for pooling.
        output_dir: folder of the files.
        options: how.

    Returns:
        the content of ``metrics.json``.

    Raises:
        ValueError: there are no records.
        RecordsError: a subject is there twice for one system.
    """
    if not records:
        raise ValueError("there are no records to evaluate; expected one subject at least.")
    check_unique(records)
    folder, options = Path(output_dir), options or EvaluationOptions()
    systems = by_system(records)
    metrics, curves, scored = evaluate_records(records, options)
    subjects = {name: per_subject(own, scored[name]) for name, own in systems.items()}
    lesions = {name: per_lesion(own, scored[name]) for name, own in systems.items()}
    false = {name: false_positives(own, scored[name], options.distance_mm) for name, own in systems.items()}
    points = [froc_points(name, curves[name]) for name in systems]
    main = metrics["system"]

    write_json(folder / "metrics.json", metrics)
    tables = {"per_subject": subjects, "per_lesion": lesions, "false_positives": false}
    for name, parts in tables.items():
        write_csv(folder / f"{name}.csv", _join(list(parts.values())))
    write_csv(folder / "froc.csv", _join(points))
    for name, column in zip(("Actual", "Predicted"), classes(systems[main], scored[main].stage_1), strict=True):
        text = "".join(f"{number}\n" for number in column)
        write_whole(folder / f"{name}.csv", lambda aside, t=text: aside.write_text(t))
    save_records(folder / "records.json", [record for own in systems.values() for record in own])
    write_whole(
        folder / "report.html",
        lambda aside: write_page(
            aside, metrics, systems, curves, subjects[main], lesions[main], false[main], options
        ),
    )  # fmt: skip
    print_scores(metrics)
    print(f"The report is {(folder / 'report.html').resolve()}")
    return metrics


def _join(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One table below the other; empty ones give their columns alone."""
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


def record_subject(
    batch: Mapping, output: Mapping, distance_mm: float = 5.0, crops: int = 8, **about: object
) -> SubjectRecord:
    """
    Record what was found in a subject, and what there is.

    Args:
        batch: the subject's dictionary: ``subject``; where there, ``truth`` (path of a truth file), ``swi`` (on the
            scan's grid, RAS order), ``image`` (the model's two channels), ``lesions_diameter``, ``notices``.
        output: ``label`` (N, 3) in RAS mm, and ``result`` of :class:`~.findings.Findingsd`.
        distance_mm: candidates farther than this from all lesions may be pictured as false positives.
        crops: how many of them at most; the accepted and most probable ones.
        about: other fields of :class:`SubjectRecord`.

    Raises:
        ValueError: the subject has no labels.
        LabelError: its truth file cannot be read.
    """
    if output["label"] is None:
        raise ValueError("there are no labels to evaluate against; give the subject a label file.")
    places = np.asarray(output["label"], dtype=float).reshape(-1, 3)
    diameters = np.asarray(batch.get("lesions_diameter", np.full(len(places), np.nan)), dtype=float).reshape(-1)
    lesions = [
        Lesion(tuple(place.round(3).tolist()), None if np.isnan(diameter) else float(diameter))
        for place, diameter in zip(places, diameters, strict=True)
    ]
    truth = read_truth(batch["truth"]) if batch.get("truth") else None
    candidates = [
        Candidate(
            tuple(c["ras_mm"]), c["detector_score"], c["probability"], c["accepted"], c["diameter_mm"], c.get("reason")
        )
        for c in output["result"]["candidates"]
    ]
    record = SubjectRecord(
        subject=batch["subject"],
        lesions=lesions if truth is None else complete(lesions, truth),
        candidates=candidates,
        mimics=None if truth is None else truth.mimics,
        simulated=True if truth is not None and truth.simulated else None,
        spacing_mm=tuple(float(s) for s in batch["swi"].pixdim) if "swi" in batch else None,
        notices=batch.get("notices", ""),
        **about,
    )
    if "image" in batch:
        _add_crops(record, batch["image"], distance_mm, crops)
    return record


def _add_crops(record: SubjectRecord, image, distance_mm: float, number: int) -> None:
    volume, affine = np.asarray(image.cpu()), np.asarray(image.affine.cpu(), dtype=float)
    lesions = np.array([lesion.ras_mm for lesion in record.lesions]).reshape(-1, 3)
    places = np.array([c.ras_mm for c in record.candidates]).reshape(-1, 3)
    false = match(places, np.array([c.detector_score for c in record.candidates]), lesions, distance_mm)
    worst = [c for c, is_false in zip(record.candidates, false.is_false_positive, strict=True) if is_false]
    worst.sort(key=lambda c: (not c.accepted, -(c.probability or 0), -c.detector_score))
    for thing in (*record.lesions, *worst[:number]):
        thing.crop = cut_crop(volume, affine, thing.ras_mm)


class EvaluationReport:
    """
    Score the findings of an inference against the labels, and write the files and the report.

    Args:
        output_dir: folder of the files, see :func:`write_evaluation`.
        distance_mm: largest distance of a detection from its lesion.
        strict_mm: that of the second analysis.
        duplicate_mm: as of :class:`~.findings.Findingsd`.
        bootstrap: resamples for the intervals.
        seed: of the resamples.
        data_set: what is evaluated, for the report.
        system: name of what is evaluated.
        weights: file of the weights.
        fold: which was evaluated, of a cross-validation.
        candidate_threshold: of inference, for the report.
        probability_threshold: of inference, for the report.
        crops: false positives a subject that are pictured, at most.
    """

    def __init__(
        self,
        output_dir: str | Path,
        distance_mm: float = 5.0,
        strict_mm: float = 3.0,
        duplicate_mm: float = 3.0,
        bootstrap: int = 2000,
        seed: int = 0,
        data_set: str | Path | None = None,
        system: str = "two stages",
        weights: str | Path | None = None,
        fold: int | None = None,
        candidate_threshold: float | None = None,
        probability_threshold: float | None = None,
        crops: int = 8,
    ) -> None:
        self.output_dir, self.distance_mm, self.crops = Path(output_dir), distance_mm, crops
        data_set = None if data_set is None else str(data_set)
        self.options = EvaluationOptions(distance_mm, strict_mm, duplicate_mm, bootstrap, seed, data_set)
        self.about = {
            "system": system,
            "weights": None if weights is None else str(weights),
            "fold": fold,
            "candidate_threshold": candidate_threshold,
            "probability_threshold": probability_threshold,
        }
        self.records: list[SubjectRecord] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        """Forget the records of an earlier run, and its files, which would outlive a run in which all fail."""
        for name in FILES:
            (self.output_dir / name).unlink(missing_ok=True)
        self.records = []

    def collect(self, engine: Engine) -> None:
        """Record the subjects of an iteration."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.records.append(record_subject(batch, output, self.distance_mm, self.crops, **self.about))

    def write(self, engine: Engine) -> None:
        """Write the evaluation; nothing where no subject could be evaluated."""
        if not self.records:
            return
        failures = sorted(getattr(engine, "failures", {}).items())
        write_evaluation(self.records, self.output_dir, replace(self.options, left_out=tuple(failures)))
