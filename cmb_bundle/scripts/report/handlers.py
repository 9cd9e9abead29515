"""Handlers that record each subject of an evaluation and write its report at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.inferers import Inferer

from ..candidate import Candidate, Crop
from ..data.labels import read_label_map
from ..evaluation.label_maps import LabelMaps, compare_label_maps
from ..evaluation.matching import match
from ..evaluation.metrics import EvaluationOptions
from ..evaluation.records import Lesion, SubjectRecord, load_records, save_records
from ..evaluation.truth import complete, read_truth
from ..files import sha256
from ..options import check_flags
from ..pages.strips import Channel, cut_slices
from .report import FILES, write_evaluation

RECORDS = "_cmb_records.json"
"""The end of the name of the file that keeps a subject's records."""


def record_subject(
    batch: Mapping, output: Mapping, distance_mm: float = 5.0, crops: int = 8, **about: object
) -> SubjectRecord:
    """
    Record what was found in a subject, and what there is.

    Args:
        batch: the subject's dictionary: ``subject``; where there, ``truth`` (path of a truth file), ``label`` (path of
            a table or a label map), ``swi`` (on the scan's grid, RAS order), ``image`` (the model's two channels),
            ``lesions_diameter``, ``notices``, ``contrast``, ``warnings``.
        output: ``label`` (N, 3) in RAS mm, and ``result`` and ``pred`` of
            :class:`~..inference.findings.Findingsd`.
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
    candidates = [Candidate.from_json(entry) for entry in output["result"]["candidates"]]
    record = SubjectRecord(
        subject=batch["subject"],
        lesions=lesions if truth is None else complete(lesions, truth),
        candidates=candidates,
        mimics=None if truth is None else truth.mimics,
        simulated=True if truth is not None and truth.simulated else None,
        implanted=truth is not None and truth.implanted,
        spacing_mm=tuple(float(s) for s in batch["swi"].pixdim) if "swi" in batch else None,
        notices=batch.get("notices", ""),
        contrast=batch.get("contrast"),
        warnings=batch.get("warnings", ""),
        maps=_label_maps(batch.get("label"), output.get("pred")),
        **_acquisition(batch.get("swi")),
        **about,
    )
    if "image" in batch:
        _add_crops(record, batch["image"], distance_mm, crops)
    return record


def _label_maps(label: object, found: object) -> LabelMaps | None:
    """The components of the true and the found label map; None where the truth is a table."""
    if not isinstance(label, (str, Path)) or found is None:
        return None
    affine = np.asarray(found.affine, dtype=float)
    truth = read_label_map(label, found.shape[1:], affine)
    return None if truth is None else compare_label_maps(truth, np.asarray(found[0].cpu()), affine)


def _acquisition(image: object) -> dict[str, float]:
    """Echo time and field strength, as far as they are known."""
    meta = getattr(image, "meta", {})
    return {name: float(meta[name]) for name in ("echo_ms", "field_tesla") if meta.get(name) is not None}


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
        duplicate_mm: as of :class:`~..inference.findings.Findingsd`.
        bootstrap: resamples for the intervals.
        seed: of the resamples.
        data_set: what is evaluated, for the report.
        system: name of what is evaluated.
        weights: file of the weights.
        fold: which was evaluated, of a cross-validation.
        candidate_threshold: of inference, for the report.
        probability_threshold: of inference, for the report.
        crops: false positives per subject that are pictured, at most.
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
            "weights_sha256": None if weights is None else sha256(weights),
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
        self.forget()

    def forget(self) -> None:
        """Forget the records so far."""
        self.records = []

    def collect(self, engine: Engine) -> None:
        """Record the subjects of an iteration."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.records.append(record_subject(batch, output, self.distance_mm, self.crops, **self.about))

    def keep(self, engine: Engine, subject: str) -> None:
        """Write the records of a subject beside its results, for :meth:`recall`."""
        last = list(takewhile(lambda record: record.subject == subject, reversed(self.records)))
        save_records(self._kept(subject), last[::-1])

    def recall(self, engine: Engine, subject: str) -> None:
        """Take the records of a subject that an earlier run evaluated in the same way."""
        for record in load_records(self._kept(subject)):
            self.records.append(replace(record, weights=self.about["weights"], fold=self.about["fold"]))

    def _kept(self, subject: str) -> Path:
        return self.output_dir / subject / f"{subject}{RECORDS}"

    def write(self, engine: Engine) -> None:
        """Write the evaluation; nothing where no subject could be evaluated."""
        if not self.records:
            return
        self.records.sort(key=lambda record: record.subject)  # those of a cluster come in any order
        failures = sorted(getattr(engine, "failures", {}).items())
        write_evaluation(self.records, self.output_dir, replace(self.options, left_out=tuple(failures)))


class ComparisonSystem:
    """
    Let another inferer find microbleeds in each subject of an evaluation, and add its records to the report.

    Args:
        report: the evaluation's report, attached before.
        inferer: of the other system; called with the volume and the evaluation's network, so that stage 2
            may be the same.
        postprocessing: makes the findings of a subject's dictionary, as of the evaluation.
        system: its name.
        enabled: False evaluates the main system alone.
    """

    def __init__(
        self,
        report: EvaluationReport,
        inferer: Inferer,
        postprocessing: Callable[[Mapping], Mapping],
        system: str,
        enabled: bool = True,
    ) -> None:
        check_flags(compare_with_baseline=enabled)
        self.report, self.inferer, self.postprocessing = report, inferer, postprocessing
        self.system, self.enabled = system, enabled

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.collect)

    def collect(self, engine: Engine) -> None:
        """Evaluate the comparison system on the subjects of an iteration."""
        report = self.report
        threshold = getattr(self.inferer, "candidate_threshold", None)
        about = report.about | {"system": self.system, "candidate_threshold": threshold}
        engine.network.eval()
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            volume = torch.as_tensor(batch["image"])[None].to(engine.state.device)
            table = self.inferer(volume, engine.network)[0]
            found = self.postprocessing({**batch, "pred": table})
            result = {"label": output["label"], "result": found["result"], "pred": found["pred"]}
            report.records.append(record_subject(batch, result, report.distance_mm, report.crops, **about))


def cut_crop(
    volume: np.ndarray, affine: np.ndarray, ras_mm: Sequence[float], size_mm: float = 24.0, pixel_mm: float = 0.5
) -> Crop:
    """
    Cut a square out of the slice nearest to a place.

    Args:
        volume: (2, i, j, k) in [0, 1], SWI and complement phase, axes in RAS order.
        affine: (4, 4) voxel to RAS mm.
        ras_mm: the place, which becomes the middle of the picture.
        size_mm: edge of the square.
        pixel_mm: size of its pixels; values are interpolated linearly in the plane, and 0 outside the volume.

    Returns:
        the picture in radiological view, patient's right on the left and anterior up.
    """
    channels = [Channel(name, values) for name, values in zip(("SWI", "phase"), volume, strict=True)]
    cut = cut_slices(channels, affine, ras_mm, size_mm, pixel_mm)
    return Crop(cut[:, 0], float(size_mm))
