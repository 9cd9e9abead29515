"""Accuracy of the shipped weights on the test cohorts, and with one protocol parameter changed at a time.

``python benchmarks/accuracy.py DIR`` scores the cohorts made by ``cohorts.py DIR``, test and unseen, HR and LR, and the
classical baseline on the same cohorts, with reports in DIR/results; then it prints a table over protocols.
``--checkpoint FILE`` scores other weights; further ``--key value`` pairs override the bundle's configs.
"""

from __future__ import annotations

import json
from pathlib import Path

import fire
import pandas as pd
from cohorts import CHANGES, folder_of
from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).resolve().parents[1] / "cmb_bundle" / "configs"
ROBUSTNESS = [(change, folder_of(change), {}) for change in CHANGES] + [
    ("other polarity, not checked", folder_of("other polarity"), {"phase_sign": 1})
]


def evaluate(cohort: Path, results: Path, **overrides: object) -> dict:
    """Score every subject of a cohort; return the content of metrics.json."""
    files = [str(CONFIGS / "inference.json"), str(CONFIGS / "evaluate.json")]
    values = {"dataset_dir": str(cohort), "output_dir": str(results), "subset": "all", "picture": False, **overrides}
    workflow = ConfigWorkflow(config_file=files, workflow_type="infer", **values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return json.loads((results / "metrics.json").read_text())


def row(metrics: dict) -> dict[str, float | None]:
    """The scores of one system as a row of the table."""
    first, both = metrics["stage_1"], metrics["end_to_end"]
    return {
        "subjects": both["n_subjects"],
        "microbleeds": both["n_lesions"],
        "stage 1 sensitivity": first["sensitivity"],
        "stage 1 FPavg": first["false_positives_per_subject"],
        "sensitivity": both["sensitivity"],
        "FPavg": both["false_positives_per_subject"],
        "FPavg, no lesion": both["false_positives_per_lesion_free_subject"],
        "precision": both["precision"],
    }


def main(folder: str, **overrides: object) -> None:
    """Print both tables."""
    folder = Path(folder)
    results = folder / "results"
    rows = {}
    for name in ("test_hr", "test_lr", "unseen_hr", "unseen_lr"):
        if not (folder / name).is_dir():
            continue
        metrics = evaluate(folder / name, results / name, **overrides)
        rows[name] = row(metrics)
        rows |= {f"{name}, {system}": row(other) for system, other in metrics["rivals"].items()}
    protocols = {}
    for change, cohort, values in ROBUSTNESS:
        where = results / "robustness" / folder_of(change)
        if (folder / "robustness" / cohort).is_dir():
            values = {"compare_with_baseline": False, "bootstrap": 0, **values, **overrides}
            protocols[change] = row(evaluate(folder / "robustness" / cohort, where, **values))
    for table in filter(None, (rows, protocols)):
        print(pd.DataFrame(table).T.astype(float).round(3).to_string(), end="\n\n")


if __name__ == "__main__":
    fire.Fire(main)
