"""Choose probability thresholds by validation over all kinds of scan, and check the calibration of probabilities.

``python benchmarks/operating_points.py PICTURE CHOICE ... [--tests "[TEST, ...]"]`` reads the records of evaluations
(folders with ``records.json``). It sorts the scans of the CHOICE folders by what was read of them (SWI, SWI + phase,
magnitude + phase, T2*-weighted), prints sensitivity and false positives per scan of each kind over thresholds, and
chooses the operating points: the lowest threshold with at most so many false positives per scan in every kind, and in
the mean over the kinds. Then it prints the scores at these points in each TEST folder, and draws a reliability diagram
of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fire
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cmb_bundle.scripts.evaluation.matching import match, suppress
from cmb_bundle.scripts.evaluation.records import SubjectRecord, load_records
from cmb_bundle.scripts.evaluation.stages import places_of

LIMITS = {"specific": (1.0, 0.5), "balanced": (3.0, 1.5), "sensitive": (6.0, 4.0)}
"""False positives per scan in the worst kind, and in the mean over the kinds, at most."""
THRESHOLDS = tuple(np.round(np.arange(0.02, 0.99, 0.02), 2))
DUPLICATE_MM = 3.0


def own(records: Sequence[SubjectRecord]) -> list[SubjectRecord]:
    """The records of the first system."""
    return [record for record in records if record.system == records[0].system]


def findings(record: SubjectRecord, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Locations (N, 3) in RAS mm and probabilities (N,) of the findings at a threshold."""
    kept = [c for c in record.candidates if c.probability >= probability]
    places, scores = places_of(kept), np.array([c.probability for c in kept], dtype=float)
    apart = suppress(places, scores, DUPLICATE_MM)
    return places[apart], scores[apart]


def figures(records: Sequence[SubjectRecord], probability: float) -> dict[str, float]:
    """Sensitivity and false positives per scan, end to end, at a threshold."""
    hits = false = lesions = 0
    for record in records:
        truth = places_of(record.lesions)
        found = match(*findings(record, probability), truth, 5.0)
        lesions += len(truth)
        hits += int(found.is_true_positive.sum())
        false += int(found.is_false_positive.sum())
    return {
        "scans": len(records), "microbleeds": lesions,
        "sensitivity": hits / lesions if lesions else np.nan, "FPavg": false / len(records),
    }  # fmt: skip


def by_kind(records: Sequence[SubjectRecord]) -> dict[str, list[SubjectRecord]]:
    """The records of each kind of scan, by what was read."""
    kinds: dict[str, list[SubjectRecord]] = {}
    for record in records:
        kinds.setdefault(record.contrast or "unknown", []).append(record)
    return dict(sorted(kinds.items()))


def choose(kinds: Mapping[str, Sequence[SubjectRecord]]) -> dict[str, float]:
    """The threshold of each operating point, see the top of the file."""
    false = {p: [figures(records, p)["FPavg"] for records in kinds.values()] for p in THRESHOLDS}
    return {
        name: min(p for p, rates in false.items() if max(rates) <= worst and np.mean(rates) <= mean)
        for name, (worst, mean) in LIMITS.items()
    }


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


def main(picture: str, *choice: str, tests: Sequence[str] = ()) -> None:
    """Print the tables and draw the diagrams."""
    kinds = by_kind([record for folder in choice for record in own(load_records(folder))])
    for kind, records in kinds.items():
        table = {p: figures(records, p) for p in THRESHOLDS[4::5]}
        print(f"{kind}\n{pd.DataFrame(table).T.round(3).to_string()}\n")
    points = choose(kinds)
    print(f"operating points: {points}\n")
    chosen = {(kind, name): figures(records, p) for kind, records in kinds.items() for name, p in points.items()}
    print(f"in the scans that chose them\n{pd.DataFrame(chosen).T.round(3).to_string()}\n")
    for folder in tests:
        table = {name: figures(own(load_records(folder)), p) for name, p in points.items()}
        print(f"{folder}\n{pd.DataFrame(table).T.round(3).to_string()}\n")
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 4.2), layout="constrained", squeeze=False)
    for axis, (name, records) in zip(axes[0], kinds.items(), strict=True):
        reliability(axis, records, name)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    fire.Fire(main)
