"""Write the report of an evaluation: one HTML page that works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..evaluation.curves import Curve
from ..evaluation.froc import FROC_RATES
from ..evaluation.metrics import EvaluationOptions
from ..evaluation.records import Crop, SubjectRecord, png
from ..evaluation.stages import STAGES
from ..evaluation.strata import UNKNOWN
from ..pages.html import environment
from ..transforms.tested import is_outside_tested
from .figures import draw_bland_altman, draw_froc, draw_strata
from .published import PUBLISHED

TEMPLATES = Path(__file__).parent / "templates"
STAGE_NAMES = {"stage_1": "stage 1", "stage_2_given_stage_1": "stage 2 given stage 1", "end_to_end": "end to end"}
NOT_DEFINED = "–"


class Numbers:
    """
    Numbers of ``metrics.json`` as shown on the page, each marked with its path in that file.

    A path is a JSON pointer (RFC 6901) such as ``/end_to_end/sensitivity``.

    Args:
        metrics: content of ``metrics.json``.
    """

    def __init__(self, metrics: Mapping) -> None:
        self.metrics = metrics

    def get(self, path: str) -> object:
        """The value at a path; None if there is none."""
        value: object = self.metrics
        for step in path.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            value = value[int(step)] if isinstance(value, (list, tuple)) else value.get(step)
            if value is None:
                return None
        return value

    def text(self, path: str, digits: int = 3) -> str:
        """A number as text, or a dash if it is not defined."""
        return self._text(self.get(path), digits)

    def interval(self, path: str, digits: int = 3) -> tuple[str, str] | None:
        """The path and the text of the interval of the number at a path; None if there is no interval."""
        steps = path.split("/")
        at = next(n for n, step in enumerate(steps) if step in STAGES)
        interval_path = "/".join([*steps[:at], "intervals", *steps[at:]])
        ends = self.get(interval_path)
        return None if ends is None else (interval_path, f"[{', '.join(self._text(end, digits) for end in ends)}]")

    @staticmethod
    def _text(value: object, digits: int) -> str:
        if value is None:
            return NOT_DEFINED
        return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def write_page(
    path: Path,
    metrics: Mapping,
    systems: Mapping[str, Sequence[SubjectRecord]],
    curves: Mapping[str, Mapping[str, Curve]],
    subjects: pd.DataFrame,
    lesions: pd.DataFrame,
    false: pd.DataFrame,
    options: EvaluationOptions,
) -> None:
    """
    Write the report.

    Args:
        path: HTML file to write.
        metrics: content of ``metrics.json``.
        systems: records by system, the main one first.
        curves: FROC curves by system and stage.
        subjects: rows of ``per_subject.csv`` of the main system.
        lesions: rows of ``per_lesion.csv`` of the main system.
        false: rows of ``false_positives.csv`` of the main system.
        options: options of the evaluation.
    """
    main = next(iter(systems))
    records = {record.subject: record for record in systems[main]}
    bases = {name: "" if name == main else f"/rivals/{_pointer(name)}" for name in systems}
    numbers = Numbers(metrics)
    missed = lesions[~lesions["found_end_to_end"]].sort_values(
        ["probability", "subject", "lesion"], na_position="last", ignore_index=True
    )
    accepted = false[false["end_to_end"]]
    page = (
        environment(TEMPLATES)
        .get_template("report.html")
        .render(
            m=metrics,
            n=numbers,
            main=main,
            bases=bases,
            stages=STAGES,
            stage_names=STAGE_NAMES,
            rates=list(metrics["end_to_end"]["sensitivity_at"]),
            n_rates=len(FROC_RATES),
            figures=_figures(metrics, curves, subjects),
            options=options,
            subjects=_plain(subjects),
            warned=[row for row in _plain(subjects) if row["warnings"]],
            n_outside=sum(is_outside_tested(record.warnings) for record in systems[main]),
            misses=[_lesion_card(row, records) for row in _plain(missed)[: options.gallery]],
            n_misses=len(missed),
            worst=[_false_card(row, records) for row in _plain(accepted)[: options.gallery]],
            n_false=len(accepted),
            published=PUBLISHED,
            kind_of_scans=kind_of_scans(metrics["evaluated"]["simulated"], metrics["evaluated"]["implanted"]),
        )
    )
    path.write_text(page, encoding="utf-8")


def _figures(
    metrics: Mapping, curves: Mapping[str, Mapping[str, Curve]], subjects: pd.DataFrame
) -> dict[str, str | None]:
    strata = {"diameter": metrics["strata"]["diameter"], "place": metrics["strata"]["region"]}
    known = {title: rows for title, rows in strata.items() if any(row["name"] != UNKNOWN for row in rows)}

    def operating(score: str, key: str) -> str:
        thresholds = {t for system in metrics["evaluated"]["systems"].values() for t in system[key]}
        return f"{score} ≥ {thresholds.pop():g}" if len(thresholds) == 1 else score

    limits = metrics["end_to_end"]["count_agreement"]["bland_altman"]
    return {
        "froc_1": draw_froc(
            {name: c["stage_1"] for name, c in curves.items()}, operating("detector score", "candidate_threshold")
        ),
        "froc_both": draw_froc(
            {name: c["end_to_end"] for name, c in curves.items()}, operating("probability", "probability_threshold")
        ),
        "strata": draw_strata(known),
        "counts": draw_bland_altman(subjects["n_lesions"], subjects["n_detections"], limits),
    }


def kind_of_scans(simulated: bool | None, implanted: bool = False) -> str:
    """Describe the scans of an evaluation."""
    if implanted:
        return "scans into which this program put microbleeds"
    return {
        True: "simulated scans",
        False: "the scans of this data set",
        None: "the scans of this data set; the program does not know whether all are of patients",
    }[simulated]


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _plain(table: pd.DataFrame) -> list[dict]:
    """Rows as dictionaries, with None for missing values."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _lesion_card(row: Mapping, records: Mapping[str, SubjectRecord]) -> dict:
    lesion = records[row["subject"]].lesions[row["lesion"] - 1]
    lines = [row["outcome"], _size(row["diameter_mm"]), row["region"], _score("probability", row["probability"])]
    return _card(row, lesion.crop, lines)


def _false_card(row: Mapping, records: Mapping[str, SubjectRecord]) -> dict:
    candidate = records[row["subject"]].candidates[row["candidate"]]
    named = row["mimic"] not in (UNKNOWN, "none")
    lines = [_score("probability", row["probability"]), row["mimic"].replace("_", " ") if named else None]
    return _card(row, candidate.crop, [*lines, _size(row["diameter_mm"])])


def _card(row: Mapping, crop: Crop | None, lines: Sequence[str | None]) -> dict:
    pictures = None if crop is None else [f"data:image/png;base64,{png(channel)}" for channel in crop.channels]
    place = ", ".join(f"{row[name]:.1f}" for name in ("ras_r_mm", "ras_a_mm", "ras_s_mm"))
    return {
        "subject": row["subject"],
        "pictures": pictures,
        "place": place,
        "lines": [line for line in lines if line],
    }


def _size(diameter_mm: float | None) -> str | None:
    return None if diameter_mm is None else f"{diameter_mm:.1f} mm"


def _score(name: str, value: float | None) -> str | None:
    return None if value is None else f"{name} {value:.2f}"
