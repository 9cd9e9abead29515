"""Accuracy of the shipped weights by kind of scan, on the test cohorts, and with one protocol parameter changed.

``python benchmarks/accuracy.py DIR`` scores the cohorts made by ``cohorts.py DIR``, as far as they are there, with
reports in DIR/results: those of ``kinds_test``, ``kinds_unseen`` and ``kinds_maps``, a table by kind of scan, with the
mean sensitivity over 1/8 to 4 false positives per scan by the detector's score alone, the classifier alone, and both,
that of both at 0.1, 0.3 and 1, and the sensitivity for microbleeds of 2 mm and more at 1, also for heads with common
mimics and for those with many, for thin slices and for thick ones; the three curves of each kind are drawn in
DIR/results/froc_by_kind.png. Then the same table for the scans of ``second_simulator.py DIR/second``; test and unseen,
HR and LR, and the classical baseline on the same cohorts; and a table over protocols. Findings at a focus of a
susceptibility map are left out of the columns by rank and of those at 0.1, 0.3 and 1, and are false positives in all
others.
``--checkpoint FILE`` scores other weights; further ``--key value`` pairs override the bundle's configs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import fire
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cohorts import CHANGES, KINDS_MAPS, KINDS_TEST, KINDS_UNSEEN, folder_of
from monai.bundle import ConfigWorkflow
from scipy.spatial.distance import cdist

from cmb_bundle.scripts.evaluation.froc import Froc, froc, mean_sensitivity, sensitivity_at
from cmb_bundle.scripts.evaluation.matching import match, suppress
from cmb_bundle.scripts.evaluation.records import SubjectRecord, load_records
from cmb_bundle.scripts.evaluation.stages import places_of

CONFIGS = Path(__file__).resolve().parents[1] / "cmb_bundle" / "configs"
ROBUSTNESS = [(change, folder_of(change), {}) for change in CHANGES] + [
    ("other polarity, not checked", folder_of("other polarity"), {"phase_sign": 1})
]


RATES = (0.125, 0.25, 0.5, 1, 2, 4)
AIMS = (0.1, 0.3, 1.0)
TITLES = {
    "kinds_test/swi_phase": "SWI and phase, other vendors",
    "kinds_test/swi_only": "SWI alone, other vendors",
    "kinds_test/magnitude_phase": "magnitude and phase",
    "kinds_test/t2star": "T2*-weighted magnitude",
    "kinds_unseen/t2star": "T2*-weighted, other heads",
    "kinds_unseen/t2star_many": "T2*-weighted, 120 further heads",
    "kinds_test/map_swi_phase": "maps, SWI and phase",
    "kinds_unseen/map_swi_phase": "maps, other microbleeds",
    "kinds_test/map_t2star": "maps, T2*-weighted",
    "kinds_maps/map_plain": "maps, plain, 0.8 mm",
    "kinds_maps/map_plain_hr": "maps, plain, 0.5 mm",
    "kinds_maps/map_plain_t2star": "maps, plain T2*-weighted",
    "kinds_test/plain_lr": "plain, 0.8 mm",
    "kinds_test/plain_hr": "plain, 0.5 mm",
}
"""What the panels of the figure are called."""


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


def own(records: Sequence[SubjectRecord]) -> list[SubjectRecord]:
    """The records of the first system, without findings at a focus of a susceptibility map, which nobody has read."""
    kept = [record for record in records if record.system == records[0].system]
    for record in kept:
        foci = places_of([mimic for mimic in record.mimics or [] if mimic.kind == "focus"])
        if len(foci):
            places = places_of(record.candidates)
            at_focus = cdist(places, foci).min(axis=1) <= 5.0
            at_lesion = cdist(places, places_of(record.lesions)).min(axis=1, initial=np.inf) <= 5.0
            counts = at_lesion | ~at_focus
            record.candidates = [c for c, counted in zip(record.candidates, counts, strict=True) if counted]
    return kept


def curve_of(records: list, name: str, smallest_mm: float = 0.0) -> Froc:
    """
    The FROC curve of all candidates, ranked by one of their scores.

    Lesions smaller than ``smallest_mm`` count neither way: those found are no false positives.
    """
    matchings = []
    for record in records:
        scores = np.array([getattr(c, name) for c in record.candidates], dtype=float)
        places = places_of(record.candidates)
        kept = suppress(places, scores, 3.0)
        places, scores = places[kept], scores[kept]
        small = np.array([(lesion.diameter_mm or np.inf) < smallest_mm for lesion in record.lesions], dtype=bool)
        lesions = places_of(record.lesions)
        if small.any():
            counts = ~np.isin(match(places, scores, lesions, 5.0).lesion_of_detection, np.flatnonzero(small))
            places, scores, lesions = places[counts], scores[counts], lesions[~small]
        matchings.append(match(places, scores, lesions, 5.0))
    return froc(matchings)


def has_many_mimics(spec: dict) -> bool:
    """Whether a simulated head has grains in pallidum and choroid plexus, or calcifications made as twins."""
    content = spec.get("content")  # a plain scan has none
    return content is not None and (content["pairs"] > 0 or content["mineral_clusters"] > 0.1)


def at_one(records: list) -> float | None:
    """The sensitivity for microbleeds of 2 mm and more at one false positive per scan."""
    if not any((lesion.diameter_mm or np.inf) >= 2.0 for record in records for lesion in record.lesions):
        return None
    found = sensitivity_at(curve_of(records, "probability", 2.0), [1.0])
    return None if found is None else float(found[0])


def draw(curves: dict[str, dict[str, Froc]], path: Path) -> None:
    """Draw the free-response curves of each kind of scan, ranked by each score."""
    names = [name for name in TITLES if name in curves]
    rows = -(-len(names) // 4)
    figure, panels = plt.subplots(rows, 4, figsize=(12, 2.9 * rows), sharex=True, sharey=True, squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for label, colour in (("detector", "tab:blue"), ("classifier", "tab:orange"), ("both", "black")):
            curve = curves[name][label]
            rates = np.append(1e-3, curve.false_positives_per_subject)
            panel.step(rates, np.append(0.0, curve.sensitivity), where="post", color=colour, label=label)
        panel.set(title=TITLES[name], xscale="log", xlim=(1 / 16, 16), ylim=(0, 1.02), xticks=[0.125, 0.5, 2, 8])
        panel.set_xticklabels(["1/8", "1/2", "2", "8"])
        panel.minorticks_off()
        panel.tick_params(labelbottom=True)
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(names) :]:
        panel.axis("off")
    panels[0, 0].legend(loc="lower right")
    figure.supxlabel("false positives per scan")
    figure.supylabel("sensitivity")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def by_kind(
    folder: Path, results: Path, smallest_mm: float = 0.0, **overrides: object
) -> tuple[dict[str, dict], dict[str, dict[str, Froc]]]:
    """The table by kind of scan, and the curves by folder and kind.

    Lesions smaller than ``smallest_mm`` count neither way in the columns by rank.
    """
    table, drawn = {}, {}
    for name in KINDS_TEST | KINDS_UNSEEN | KINDS_MAPS:
        if not (folder / name).is_dir():
            continue
        metrics = evaluate(
            folder / name, results / name, **{"compare_with_baseline": False, "bootstrap": 0, **overrides}
        )
        records = own(list(load_records(results / name / "records.json")))
        scores = {"detector": "detector_score", "classifier": "classifier_probability", "both": "probability"}
        curves = {label: curve_of(records, score, smallest_mm) for label, score in scores.items()}
        drawn[f"{folder.name}/{name}"] = curves
        table[name] = row(metrics) | {
            f"ranked by {label}": mean_sensitivity(curve, RATES) for label, curve in curves.items()
        }
        found = sensitivity_at(curves["both"], AIMS)
        if found is not None:
            table[name] |= {f"at {rate:g} FPavg": value for rate, value in zip(AIMS, found, strict=True)}
        truths = [folder / name / "Truth" / f"{record.subject}.json" for record in records]
        specs = [json.loads(truth.read_text())["spec"] for truth in truths]
        # the other simulator's truth has neither
        thickness = [spec["spacing"][2] - spec.get("gap_mm", 0.0) if "spacing" in spec else None for spec in specs]
        groups = {
            "": [True] * len(records),
            ", common mimics": [not has_many_mimics(spec) for spec in specs],
            ", many": [has_many_mimics(spec) for spec in specs],
            ", slices of 5 mm and less": [mm is not None and mm <= 5.0 for mm in thickness],
            ", thicker": [mm is not None and mm > 5.0 for mm in thickness],
        }
        for group, chosen in groups.items():
            some = [record for record, so in zip(records, chosen, strict=True) if so]
            table[name] |= {f"2 mm and more, at 1 FPavg{group}": at_one(some), f"scans{group}": len(some)}
    return table, drawn


def main(folder: str, **overrides: object) -> None:
    """Print all tables."""
    folder = Path(folder)
    results = folder / "results"
    kinds, curves = by_kind(folder / "kinds_test", results / "kinds", **overrides)
    others, further = by_kind(folder / "kinds_unseen", results / "kinds_unseen", **overrides)
    # in three scans the noise around the head is as bright as the head, which is refused elsewhere
    maps, of_maps = by_kind(folder / "kinds_maps", results / "kinds_maps", **{"accept_any": True, **overrides})
    second, _ = by_kind(folder / "second", results / "second", **overrides)
    if kinds or others or maps:
        draw(curves | further | of_maps, results / "froc_by_kind.png")
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
    for table in filter(None, (kinds, others, maps, second, rows, protocols)):
        print(pd.DataFrame(table).T.astype(float).round(3).to_string(), end="\n\n")


if __name__ == "__main__":
    fire.Fire(main)
