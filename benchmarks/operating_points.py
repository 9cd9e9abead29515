"""Thresholds by validation, and how well probabilities are calibrated.

``python benchmarks/operating_points.py PICTURE VALIDATION TEST ...`` reads the records of evaluations (folders with
``records.json``) that were run with a low ``--candidate_threshold``. It prints the operating points that follow from
the first alone, then the figures of the same points in each of the others and in all of them together; and draws a
reliability diagram of each.

An operating point is a pair of thresholds within a limit: ``specific`` 0.25 and ``balanced`` 0.5 false positives a
subject, ``sensitive`` 2. Of the pairs whose sensitivity is at most 0.01 below the highest within the limit, it is that
with the fewest candidates of stage 1; of these the most sensitive, then that with the fewest false positives.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cmb_bundle.scripts.matched import places_of
from cmb_bundle.scripts.matching import match, suppress
from cmb_bundle.scripts.records import SubjectRecord, load_records

TOLERANCE = 0.01
LIMITS = {"specific": 0.25, "balanced": 0.5, "sensitive": 2.0}
CANDIDATE_THRESHOLDS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
PROBABILITY_THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2))
DUPLICATE_MM = 3.0


def own(records: Sequence[SubjectRecord]) -> list[SubjectRecord]:
    """The records of the first system."""
    return [record for record in records if record.system == records[0].system]


def findings(record: SubjectRecord, low: float, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 3) in RAS mm and probabilities (N,) of what is reported at two thresholds."""
    kept = [c for c in record.candidates if c.detector_score >= low and c.probability >= probability]
    places, scores = places_of(kept), np.array([c.probability for c in kept], dtype=float)
    apart = suppress(places, scores, DUPLICATE_MM)
    return places[apart], scores[apart]


def figures(records: Sequence[SubjectRecord], low: float, probability: float) -> dict[str, float]:
    """Sensitivity and false positives a subject, end to end and of stage 1, at two thresholds."""
    hits = false = hits_1 = false_1 = lesions = 0
    for record in records:
        truth = places_of(record.lesions)
        lesions += len(truth)
        for stage in (1, 2):
            if stage == 2:
                places, scores = findings(record, low, probability)
            else:
                chosen = [c for c in record.candidates if c.detector_score >= low]
                places = places_of(chosen)
                scores = np.array([c.detector_score for c in chosen])
            found = match(places, scores, truth, 5.0)
            hit, wrong = int(found.is_true_positive.sum()), int(found.is_false_positive.sum())
            hits, false = (hits + hit, false + wrong) if stage == 2 else (hits, false)
            hits_1, false_1 = (hits_1 + hit, false_1 + wrong) if stage == 1 else (hits_1, false_1)
    n = len(records)
    return {
        "candidate_threshold": low, "probability_threshold": probability, "stage 1 sensitivity": hits_1 / lesions,
        "stage 1 FPavg": false_1 / n, "sensitivity": hits / lesions, "FPavg": false / n,
    }  # fmt: skip


def choose(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The operating points by a table of :func:`figures`."""
    points = {}
    for name, limit in LIMITS.items():
        within = table[table["FPavg"] <= limit]
        good = within[within["sensitivity"] >= within["sensitivity"].max() - TOLERANCE]
        order = good.sort_values(["stage 1 FPavg", "sensitivity", "FPavg"], ascending=[True, False, True])
        points[name] = order.iloc[0]
    return points


def reliability(axes, records: Sequence[SubjectRecord], title: str) -> float:
    """Draw the share of microbleeds over the probability; returns the expected calibration error."""
    probability, is_lesion = [], []
    for record in records:
        truth = places_of(record.lesions)
        places = places_of(record.candidates)
        scores = np.array([c.probability for c in record.candidates], dtype=float)
        found = match(places, scores, truth, 5.0)
        probability += scores.tolist()
        is_lesion += (found.is_true_positive | found.is_duplicate).tolist()
    probability, is_lesion = np.array(probability), np.array(is_lesion)
    group = np.minimum((probability * 10).astype(int), 9)
    mean = np.array([probability[group == g].mean() if (group == g).any() else np.nan for g in range(10)])
    share = np.array([is_lesion[group == g].mean() if (group == g).any() else np.nan for g in range(10)])
    size = np.array([(group == g).sum() for g in range(10)])
    error = float(np.nansum(np.abs(mean - share) * size) / size.sum())
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(mean, share, "o-", color="#0b5fa5")
    for x, y, n in zip(mean, share, size, strict=True):
        if n:
            axes.annotate(str(n), (x, y), (5, -10), textcoords="offset points", fontsize=7, color="0.3")
    axes.set(
        xlabel="probability given",
        ylabel="share that are microbleeds",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
    )
    axes.set_title(f"{title}\n{len(probability)} candidates, calibration error {error:.3f}", fontsize=9)
    return error


def main(picture: str, validation: str, *tests: str) -> None:
    """Print the tables and draw the diagrams."""
    records = {folder: own(load_records(folder)) for folder in (validation, *tests)}
    first = records[validation]
    table = pd.DataFrame([figures(first, a, b) for a in CANDIDATE_THRESHOLDS for b in PROBABILITY_THRESHOLDS])
    points = choose(table)
    print("validation\n" + pd.DataFrame(points).T.round(3).to_string())
    pooled = {folder: records[folder] for folder in tests}
    pooled["together"] = [record for of_test in pooled.values() for record in of_test]
    for name, of_test in pooled.items():
        same = {n: figures(of_test, p["candidate_threshold"], p["probability_threshold"]) for n, p in points.items()}
        print(f"\n{name}\n" + pd.DataFrame(same).T.round(3).to_string())
    figure, axes = plt.subplots(1, len(records), figsize=(4 * len(records), 4.2), layout="constrained")
    for axis, (name, of_folder) in zip(axes, records.items(), strict=True):
        reliability(axis, of_folder, Path(name).name)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) < 4 or len(set(sys.argv[2:])) < len(sys.argv[2:]):
        raise SystemExit("Expected a picture's name, the folder of the validation and those of tests, each once.")
    main(*sys.argv[1:])
