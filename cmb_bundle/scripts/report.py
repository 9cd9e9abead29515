"""What a person gets of a run: each subject's files and picture, tables on the screen, scores against labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import IterationEvents
from nibabel.affines import apply_affine

from .dicom import DicomError
from .dicom_writers import write_dicom
from .files import write_csv, write_json, write_whole
from .findings import to_file_grid
from .inferers import TABLE_COLUMNS
from .labels import LabelConvention
from .metrics import froc, match, mean_sensitivity, subject_level, summary
from .pictures import draw_findings
from .writers import write_findings

logger = logging.getLogger(__name__)


class CandidateFROC(Metric):
    """
    Mean sensitivity of stage 1 over rates of false candidates a subject, to choose its best epoch.

    Args:
        rates: false candidates a subject at which the sensitivity is averaged.
        distance_mm: largest distance of a hit.
    """

    def __init__(self, rates: Sequence[float] = (1, 2, 4, 8, 16, 32), distance_mm: float = 5.0) -> None:
        self.rates, self.distance_mm = tuple(rates), distance_mm
        super().__init__()

    def reset(self) -> None:
        self._matchings = []

    def update(self, output: Sequence[Mapping]) -> None:
        for one in output:
            table = np.asarray(one["pred"])
            places = apply_affine(np.asarray(one["image"].affine), table[:, :3])
            scores = table[:, TABLE_COLUMNS.index("detector_score")]
            self._matchings.append(match(places, scores, np.asarray(one["label"]), self.distance_mm))

    def compute(self) -> float:
        """The mean sensitivity; NaN where no subject has a lesion, so that no epoch is called the best by it."""
        sensitivity = mean_sensitivity(froc(self._matchings), self.rates)
        return math.nan if sensitivity is None else sensitivity


class SubjectWriter:
    """
    Write each subject's results as soon as it is done, and say on the screen what was found.

    Args:
        output_dir: folder of results.
        convention: keyword arguments of :class:`LabelConvention`, for the table's slice, x and y.
        picture: whether to write ``<subject>_cmb.png`` too.
        dicom_output: whether to write ``<subject>_cmb_seg.dcm`` and ``_cmb_sr.dcm`` too: ``"auto"`` where the source
            is DICOM, and where it can't be done it is logged; True makes it an error.

    Raises:
        ValueError: ``dicom_output`` is none of the values above.
    """

    def __init__(
        self,
        output_dir: str | Path,
        convention: Mapping | None = None,
        picture: bool = True,
        dicom_output: str | bool = "auto",
    ) -> None:
        if dicom_output not in ("auto", True, False):
            raise ValueError(f"dicom_output is {dicom_output!r}; expected 'auto', true or false.")
        self.dicom_output = dicom_output
        self.output_dir, self.convention, self.picture = (
            Path(output_dir),
            LabelConvention(**(convention or {})),
            picture,
        )
        self.found: dict[str, list[dict]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.found.clear())
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.remove_stale)
        engine.add_event_handler(Events.COMPLETED, self.print_found)

    def write(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            subject, result, swi = batch["subject"], output["result"], batch["swi"]
            folder = write_findings(
                self.output_dir, subject, result, output["pred"], self.convention, notices=batch["notices"]
            )
            if "SWI was computed" in batch["notices"]:
                self._write_swi(folder / f"{subject}_cmb_swi.nii.gz", swi)
            if self.picture:
                write_whole(
                    folder / f"{subject}_cmb.png",
                    lambda aside, s=swi, r=result, n=subject: draw_findings(aside, n, s, r),
                )
            self._write_dicom(folder, subject, batch.get("dicom_source"), result, output["pred"])
            self.found[subject] = result["microbleeds"]
            logger.info(
                f"{subject}: {len(result['microbleeds'])} microbleeds of {len(result['candidates'])} candidates. "
                f"{batch['notices']}"
            )

    def _write_dicom(self, folder: Path, subject: str, source: str | None, result: Mapping, label_map) -> None:
        if self.dicom_output is False or (self.dicom_output == "auto" and source is None):
            return
        if source is None:
            raise DicomError("dicom_output is true, but the scan is not DICOM; set it to auto or false.")
        try:
            write_dicom(folder, subject, source, result, label_map)
        except Exception as error:
            if self.dicom_output is True:
                raise
            logger.error(f"{subject}: no DICOM SEG and SR were written ({type(error).__name__}: {error})")

    def remove_stale(self, engine: Engine) -> None:
        """Remove what an earlier run wrote of subjects that failed in this one."""
        for subject in getattr(engine, "failures", ()):
            for path in (self.output_dir / subject).glob(f"{subject}_cmb*"):
                path.unlink()

    @staticmethod
    def _write_swi(path: Path, swi) -> None:
        affine, shape = (
            np.asarray(swi.meta["original_affine"]),
            tuple(int(n) for n in swi.meta["spatial_shape"]),
        )
        image = to_file_grid(swi[0].numpy(), swi.affine.numpy(), affine, shape)
        write_whole(path, lambda aside: nib.save(nib.Nifti1Image(image[0].numpy(), affine), aside))

    def print_found(self, engine: Engine) -> None:
        """Print a row a microbleed and the number of each subject."""
        rows = [
            {"subject": subject, "lesion": number, **dict(zip("ijk", bleed["voxel"], strict=True)),
             **dict(zip("RAS", bleed["ras_mm"], strict=True)), "diameter_mm": bleed["diameter_mm"],
             "probability": bleed["probability"]}
            for subject, bleeds in self.found.items() for number, bleed in enumerate(bleeds, 1)
        ]  # fmt: skip
        if rows:
            print("\nMicrobleeds found (voxel of the input, RAS in mm)")
            print(pd.DataFrame(rows).round(2).to_string(index=False))
        without = ", ".join(subject for subject, bleeds in self.found.items() if not bleeds) or "-"
        print(f"\n{len(rows)} microbleeds in {len(self.found)} subjects; subjects with none: {without}")
        print(f"Results are in {self.output_dir.resolve()}")


class EvaluationReport:
    """
    Score the findings against the labels: both stages and end to end.

    Writes ``metrics.json``, ``per_subject.csv``, and ``Actual.csv`` and ``Predicted.csv`` (a line a candidate of
    stage 1, 1 for a microbleed, as the original program writes them for its patches), and prints a table.

    Args:
        output_dir: folder of the files.
        distance_mm: largest distance of a detection from its lesion.
    """

    def __init__(self, output_dir: str | Path, distance_mm: float = 5.0) -> None:
        self.output_dir, self.distance_mm = Path(output_dir), distance_mm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        """Forget the scores of an earlier run, and its files, which would outlive a run in which all fail."""
        for name in ("metrics.json", "per_subject.csv", "Actual.csv", "Predicted.csv"):
            (self.output_dir / name).unlink(missing_ok=True)
        self.subjects, self.stage_1, self.end_to_end, self.classes = [], [], [], []

    def collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            if output["label"] is None:
                raise ValueError("there are no labels to evaluate against; give the subject a label file.")
            lesions = np.asarray(output["label"]).reshape(-1, 3)
            candidates, microbleeds = output["result"]["candidates"], output["result"]["microbleeds"]
            first = self._match(candidates, "detector_score", lesions)
            both = self._match(microbleeds, "probability", lesions)
            self.subjects.append(batch["subject"])
            self.stage_1.append(first)
            self.end_to_end.append(both)
            near = first.is_true_positive | first.is_duplicate
            self.classes += [(int(a), int(c["accepted"])) for a, c in zip(near, candidates, strict=True)]

    def _match(self, found: list[dict], score: str, lesions: np.ndarray):
        places = np.array([f["ras_mm"] for f in found]).reshape(-1, 3)
        return match(places, np.array([f[score] for f in found], dtype=float), lesions, self.distance_mm)

    def scores(self) -> dict:
        """Metrics of stage 1, of stage 2 given stage 1, and end to end; None where a ratio has no denominator."""
        first, both = summary(self.stage_1), summary(self.end_to_end)
        hit, kept = first["true_positives"], both["true_positives"]
        return {
            "distance_mm": self.distance_mm,
            "stage_1": first,
            "stage_2_given_stage_1": {
                "sensitivity": kept / hit if hit else None,
                "false_positives_per_subject": both["false_positives_per_subject"],
            },
            "end_to_end": both,
            "subject_level": subject_level(self.end_to_end),
        }

    def write(self, engine: Engine) -> None:
        if not self.subjects:
            return
        scores = self.scores()
        write_json(self.output_dir / "metrics.json", scores)
        counts = ("n_lesions", "true_positives", "false_negatives", "false_positives", "duplicates")
        rows = [{"subject": s, **summary([m])} for s, m in zip(self.subjects, self.end_to_end, strict=True)]
        write_csv(self.output_dir / "per_subject.csv", pd.DataFrame(rows)[["subject", *counts]])
        for column, name in enumerate(("Actual", "Predicted")):
            text = "".join(f"{pair[column]}\n" for pair in self.classes)
            write_whole(self.output_dir / f"{name}.csv", lambda aside, t=text: aside.write_text(t))
        lesions = scores["end_to_end"]["n_lesions"]
        print(
            f"\nScores of {len(self.subjects)} subjects with {lesions} microbleeds (hit within {self.distance_mm:g} mm)"
        )
        parts = {name: scores[name] for name in ("stage_1", "stage_2_given_stage_1", "end_to_end")}
        columns = {"sensitivity": "sensitivity", "FPavg": "false_positives_per_subject", "precision": "precision"}
        table = pd.DataFrame(
            {title: {name: part.get(key) for name, part in parts.items()} for title, key in columns.items()},
            dtype=float,
        )
        print(table.round(3).to_string(na_rep="-"))
