"""What was found in a cohort, as two tables and a page: counts, the odd scans, the failures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events

from ..data.results import results_of
from ..files import write_csv, write_whole
from ..options import check_flags
from ..pages.html import environment, for_script

TEMPLATES = Path(__file__).parent / "templates"
FILES = ("cohort.csv", "findings.csv", "cohort.html")
COLUMNS = [
    "subject", "state", "reason", "microbleeds", "candidates", "highest_probability", "contrast", "voxels",
    "voxel_r_mm", "voxel_a_mm", "voxel_s_mm", "field_tesla", "echo_ms", "head_ml", "intensity", "noise", "outlier",
    "warnings", "notices", "seconds", "version", "weights",
]  # fmt: skip
FINDINGS = [
    "subject", "lesion", "voxel_i", "voxel_j", "voxel_k", "ras_r_mm", "ras_a_mm", "ras_s_mm", "diameter_mm",
    "detector_score", "classifier_probability", "probability",
]  # fmt: skip
FIRST = ("outlier", "warnings", "reason")
"""Columns that the page shows before what the scan is like."""
NUMBER_CLASSES = (("none", 0, 0), ("1", 1, 1), ("2 to 4", 2, 4), ("5 to 10", 5, 10), ("more than 10", 11, np.inf))
OUTLIER = 5.0
"""How many robust standard deviations from the median of the scans of its contrast make a scan an outlier."""
FEWEST = 10
"""Fewer scans of a contrast than this have no outliers."""
JUDGED = {
    "noise": 0.0, "intensity": 0.0, "voxel_r_mm": 0.0, "voxel_a_mm": 0.0, "voxel_s_mm": 0.0, "head_ml": 0.0,
    "candidates": 1.0,
}  # fmt: skip
"""Quantities in which a scan can be an outlier, and the smallest deviation that is taken as the usual one."""
LEAST_SHARE = 0.02
"""The usual deviation is at least this share of the median: a cohort of one protocol has hardly any."""


class CohortTables:
    """
    Write ``cohort.csv``, ``findings.csv`` and ``cohort.html`` at the end of a run, from the results of its subjects.

    Args:
        output_dir: folder of results.
        enabled: whether to.
    """

    def __init__(self, output_dir: str | Path, enabled: bool = True) -> None:
        check_flags(cohort_files=enabled)
        self.output_dir, self.enabled = Path(output_dir), enabled

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self, engine: Engine) -> None:
        """Write the files; a subject that the run did not reach is not in them."""
        subjects = [str(subject["subject"]) for subject in engine.data_loader.dataset.data if "subject" in subject]
        write_cohort(self.output_dir, subjects, engine.failures, engine.worked)


def write_cohort(
    output_dir: str | Path,
    subjects: Sequence[str],
    failures: Mapping[str, str] | None = None,
    worked: Sequence[str] | None = None,
) -> pd.DataFrame:
    """
    Write the files of a cohort.

    Args:
        output_dir: folder of results.
        subjects: ids; those without results are "not done", unless they are among the failures.
        failures: reason by subject.
        worked: the subjects whose results count; all by default.

    Returns:
        the content of ``cohort.csv``.
    """
    output_dir, failures = Path(output_dir), failures or {}
    counted = set(subjects if worked is None else worked)
    rows, findings, pictures = [], [], {}
    for subject in dict.fromkeys(subjects):
        if subject in failures:
            rows.append({"subject": subject, "state": "failed", "reason": failures[subject]})
            continue
        places = results_of(output_dir, subject)
        result = _read(places.content) if subject in counted else {}
        if not result:
            rows.append({"subject": subject, "state": "not done"})
            continue
        rows.append(_row(subject, result, _read(places.manifest)))
        if places.picture.is_file():
            pictures[subject] = quote(places.picture.relative_to(output_dir).as_posix())
        findings += [_finding(subject, number, one) for number, one in enumerate(result["microbleeds"], 1)]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"microbleeds": "Int64", "candidates": "Int64"})
    table["outlier"] = outliers(table)
    write_csv(output_dir / "cohort.csv", table)
    write_csv(output_dir / "findings.csv", pd.DataFrame(findings, columns=FINDINGS))
    page = cohort_page(table, pictures)
    write_whole(output_dir / "cohort.html", lambda aside: aside.write_text(page, encoding="utf-8"))
    return table


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, as what results were made from where no configuration was run
        return {}


def _row(subject: str, result: Mapping, manifest: Mapping) -> dict:
    scan, run = manifest.get("scan", {}), manifest.get("made_from", {}).get("run", {})
    voxel = scan.get("voxel_mm") or [None] * 3
    probabilities = [one["probability"] for one in result["candidates"] if one.get("probability") is not None]
    return {
        "subject": subject,
        "state": "incomplete" if "dicom_error" in result else "done",
        "reason": result.get("dicom_error", ""),
        "microbleeds": len(result["microbleeds"]),
        "candidates": len(result["candidates"]),
        "highest_probability": max(probabilities, default=None),
        "voxels": " x ".join(map(str, scan.get("size", []))),
        **dict(zip(("voxel_r_mm", "voxel_a_mm", "voxel_s_mm"), voxel, strict=True)),
        **{name: result.get(name) for name in ("contrast", "warnings", "notices")},
        **{name: scan.get(name) for name in ("field_tesla", "echo_ms", "head_ml", "intensity", "noise")},
        "seconds": manifest.get("seconds"),
        **{name: run.get(name) for name in ("version", "weights")},
    }


def _finding(subject: str, number: int, one: Mapping) -> dict:
    places = dict(zip(FINDINGS[2:8], [*one["voxel"], *one["ras_mm"]], strict=True))
    return {"subject": subject, "lesion": number, **places, **{name: one[name] for name in FINDINGS[8:]}}


def outliers(table: pd.DataFrame) -> list[str]:
    """
    Name the quantities in which each scan is far from the others of its contrast, with value and median.

    Args:
        table: with ``contrast`` and the columns of ``JUDGED``.

    Example:
        >>> table = pd.DataFrame({name: [2.0] * 12 for name in JUDGED} | {"contrast": "swi"})
        >>> table.loc[3, "voxel_s_mm"] = 5.0
        >>> [text for text in outliers(table) if text]
        ['voxel_s_mm 5 (median 2)']
    """
    told: dict[object, list[str]] = {index: [] for index in table.index}
    for _, scans in table[table["contrast"].notna()].groupby("contrast"):
        for name, least in JUDGED.items():
            values = pd.to_numeric(scans[name]).astype(float).dropna()
            if len(values) < FEWEST:
                continue
            middle = float(values.median())
            usual = max(1.4826 * float((values - middle).abs().median()), LEAST_SHARE * abs(middle), least)
            if usual == 0:
                continue
            for index, value in values[(values - middle).abs() > OUTLIER * usual].items():
                told[index].append(f"{name} {value:.4g} (median {middle:.4g})")
    return ["; ".join(texts) for texts in told.values()]


def failure_kinds(table: pd.DataFrame) -> list[tuple[str, int, str]]:
    """
    Group the failures by reason, whatever subject, path and numbers are in it.

    Returns:
        for each kind, the most frequent first: its text, how many, and the first of the subjects.
    """
    failed = table[table["state"].isin(["failed", "incomplete"])]
    kinds = [
        re.sub(r"\d+(\.\d+)?", "#", re.sub(r"\S*/\S*", "…", reason.replace(subject, "…")))
        for subject, reason in zip(failed["subject"], failed["reason"].fillna(""), strict=True)
    ]
    first = dict(zip(reversed(kinds), reversed(list(failed["subject"])), strict=True))
    return [(kind, number, first[kind]) for kind, number in Counter(kinds).most_common()]


def cohort_page(table: pd.DataFrame, pictures: Mapping[str, str]) -> str:
    """
    The page of a cohort, HTML, which needs no other file but the pictures that it links to.

    Args:
        table: content of ``cohort.csv``.
        pictures: address of the picture of each subject that has one.
    """
    done = table[table["state"].isin(["done", "incomplete"])]
    numbers = done["microbleeds"].astype(int)
    classes = [(name, int(((numbers >= low) & (numbers <= high)).sum())) for name, low, high in NUMBER_CLASSES]
    shown = table[[*(name for name in COLUMNS[:6] if name != "reason"), *FIRST, *COLUMNS[6:16], *COLUMNS[19:]]]
    rows = json.loads(shown.to_json(orient="values"))
    counts = {
        "subjects": len(table),
        "with results": len(done),
        "failed": int((table["state"] == "failed").sum()),
        "incomplete": int((table["state"] == "incomplete").sum()),
        "not done": int((table["state"] == "not done").sum()),
        "with warnings": int((done["warnings"].fillna("") != "").sum()),
        "outliers": int((table["outlier"] != "").sum()),
        "microbleeds": int(numbers.sum()),
        "subjects with microbleeds": int((numbers > 0).sum()),
    }
    return (
        environment(TEMPLATES)
        .get_template("cohort.html")
        .render(
            counts=counts,
            classes=classes,
            most=max([number for _, number in classes] + [1]),
            kinds=failure_kinds(table),
            versions=sorted(set(done["version"].dropna())),
            weights=sorted(set(done["weights"].dropna())),
            columns=for_script(list(shown)),
            rows=for_script(rows),
            pictures=for_script([pictures.get(subject) for subject in table["subject"]]),
        )
    )
