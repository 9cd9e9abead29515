"""Choose thresholds by validation, and check the calibration of probabilities.

``python benchmarks/operating_points.py PICTURE VALIDATION POINTS_HR POINTS_LR TEST ...`` reads the records of
evaluations (folders with ``records.json``) that were run with a low ``--candidate_threshold``. It prints the
operating points chosen from the first three, then the scores at the same points in each of the other folders and in
all of them together, and draws a reliability diagram of the validation and of each test.

The candidate threshold is the lowest with which stage 1 has at most 10 false candidates per scan (``sensitive``: 30)
in POINTS_HR and POINTS_LR together, scans of the protocols for which this budget is set. The probability threshold is
chosen on VALIDATION, scans of every protocol: the most sensitive with at most 0.25 (``specific``), 0.5
(``balanced``) and 2 (``sensitive``) false positives per scan; among equals, the one with the fewest false positives.
The first two may report at most 0.2 false positives per scan without microbleeds in POINTS_HR and POINTS_LR.
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

from cmb_bundle.scripts.evaluation.matching import match, suppress
from cmb_bundle.scripts.evaluation.records import SubjectRecord, load_records
from cmb_bundle.scripts.evaluation.stages import places_of

LIMITS = {"specific": (10, 0.25, 0.2), "balanced": (10, 0.5, 0.2), "sensitive": (30, 2.0, np.inf)}
CANDIDATE_THRESHOLDS = tuple(np.round(np.arange(0.02, 0.61, 0.01), 2))
PROBABILITY_THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2))
DUPLICATE_MM = 3.0


def own(records: Sequence[SubjectRecord]) -> list[SubjectRecord]:
    """The records of the first system."""
    return [record for record in records if record.system == records[0].system]


def findings(record: SubjectRecord, low: float, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Locations (N, 3) in RAS mm and probabilities (N,) of the findings at two thresholds."""
    kept = [c for c in record.candidates if c.detector_score >= low and c.probability >= probability]
    places, scores = places_of(kept), np.array([c.probability for c in kept], dtype=float)
    apart = suppress(places, scores, DUPLICATE_MM)
    return places[apart], scores[apart]


def figures(records: Sequence[SubjectRecord], low: float, probability: float) -> dict[str, float]:
    """Sensitivity and false positives per subject, end to end and of stage 1, at two thresholds."""
    hits = false = hits_1 = false_1 = lesions = false_in_healthy = 0
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
            false_in_healthy += wrong if stage == 2 and not len(truth) else 0
            hits_1, false_1 = (hits_1 + hit, false_1 + wrong) if stage == 1 else (hits_1, false_1)
    n, healthy = len(records), sum(not record.lesions for record in records)
    return {
        "candidate_threshold": low, "probability_threshold": probability, "stage 1 sensitivity": hits_1 / lesions,
        "stage 1 FPavg": false_1 / n, "sensitivity": hits / lesions, "FPavg": false / n,
        "FPavg, no lesion": false_in_healthy / healthy if healthy else np.nan,
    }  # fmt: skip


def choose(validation: Sequence[SubjectRecord], published: Sequence[SubjectRecord]) -> dict[str, dict[str, float]]:
    """Choose the operating points; return them with their scores on the validation set, see :func:`figures`."""
    false_candidates = {low: figures(published, low, 1.0)["stage 1 FPavg"] for low in CANDIDATE_THRESHOLDS}
    points = {}
    for name, (candidates, false, false_in_healthy) in LIMITS.items():
        low = min(low for low, number in false_candidates.items() if number <= candidates)
        table = [
            figures(validation, low, probability)
            for probability in PROBABILITY_THRESHOLDS
            if not figures(published, low, probability)["FPavg, no lesion"] > false_in_healthy
        ]
        within = [row for row in table if row["FPavg"] <= false]
        points[name] = max(within, key=lambda row: (row["sensitivity"], -row["FPavg"]))
    return points


def reliability(axes, records: Sequence[SubjectRecord], title: str) -> float:
    """Draw the fraction of microbleeds over the probability; return the expected calibration error."""
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
        xlabel="predicted probability",
        ylabel="fraction of microbleeds",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
    )
    axes.set_title(f"{title}\n{len(probability)} candidates, calibration error {error:.3f}", fontsize=9)
    return error


def main(picture: str, validation: str, points_hr: str, points_lr: str, *tests: str) -> None:
    """Print the tables and draw the diagrams."""
    records = {folder: own(load_records(folder)) for folder in (validation, points_hr, points_lr, *tests)}
    published = records.pop(points_hr) + records.pop(points_lr)
    points = choose(records[validation], published)
    print("validation\n" + pd.DataFrame(points).T.round(3).to_string())
    pooled = {"points_hr and points_lr": published} | {folder: records[folder] for folder in tests}
    pooled["tests together"] = [record for folder in tests for record in records[folder]]
    for name, of_test in pooled.items():
        same = {n: figures(of_test, p["candidate_threshold"], p["probability_threshold"]) for n, p in points.items()}
        print(f"\n{name}\n" + pd.DataFrame(same).T.round(3).to_string())
    figure, axes = plt.subplots(1, len(records), figsize=(4 * len(records), 4.2), layout="constrained")
    for axis, (name, of_folder) in zip(axes, records.items(), strict=True):
        reliability(axis, of_folder, Path(name).name)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) < 6 or len(set(sys.argv[2:])) < len(sys.argv[2:]):
        raise SystemExit("Expected PICTURE VALIDATION POINTS_HR POINTS_LR TEST ..., with no folder given twice.")
    main(*sys.argv[1:])
