"""Choose probability thresholds by validation over all kinds of scan, and check the calibration of probabilities.

``python benchmarks/operating_points.py PICTURE CHOICE ... [--tests "[TEST, ...]"]`` reads the records of evaluations
(folders with ``records.json``). It sorts the scans of the CHOICE folders by what was read of them (SWI, SWI + phase,
magnitude + phase, T2*-weighted), prints sensitivity and false positives per scan of each kind over thresholds, and
chooses the operating points: the lowest threshold with at most so many false positives per scan in every kind, and in
the mean over the kinds. Scans of ``--elsewhere "[FOLDER, ...]"``, by another forward model, are kinds apart: what
suits one simulator may let through too much elsewhere. Then it prints the scores at these points in each TEST folder,
and draws a reliability diagram of each kind.

Simulated scans hold about a dozen mimics each, so that networks meet them; in patients they are rarer than
microbleeds. In the choice a mimic that the truth names counts as ``MIMIC_WEIGHT`` of one, in the TEST folders as one.

``--weights IN --refitted OUT`` first fits the decision of IN, the weights with which the CHOICE folders were evaluated,
to their candidates with mimics counted like this, writes OUT, and goes on with the new probabilities; with
``--offset_alone True`` the weights of both stages against each other stay, and with them the order of candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fire
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from accuracy import own
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from scipy.special import expit, logit

from cmb_bundle.scripts.evaluation.matching import match, suppress
from cmb_bundle.scripts.evaluation.records import SubjectRecord, load_records
from cmb_bundle.scripts.evaluation.stages import places_of
from cmb_bundle.scripts.networks import JointDecision

LIMITS = {"specific": (0.75, 0.4), "balanced": (1.5, 1.0), "sensitive": (6.0, 3.0)}
"""False positives per scan in the worst kind, and in the mean over the kinds, at most."""
THRESHOLDS = tuple(np.round(np.arange(0.02, 0.99, 0.02), 2))
DUPLICATE_MM, MATCH_MM = 3.0, 5.0
MIMIC_WEIGHT = 0.2


def findings(record: SubjectRecord, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Locations (N, 3) in RAS mm and probabilities (N,) of the findings at a threshold."""
    kept = [c for c in record.candidates if c.probability >= probability]
    places, scores = places_of(kept), np.array([c.probability for c in kept], dtype=float)
    apart = suppress(places, scores, DUPLICATE_MM)
    return places[apart], scores[apart]


def counts(record: SubjectRecord, places: np.ndarray, mimic_weight: float) -> np.ndarray:
    """What each place (N, 3) counts as: ``mimic_weight`` at a mimic that the truth names, 1 elsewhere."""
    nearest = cdist(places, places_of(record.mimics or [])).min(axis=1, initial=np.inf)
    return np.where(nearest <= MATCH_MM, mimic_weight, 1.0)


def figures(records: Sequence[SubjectRecord], probability: float, mimic_weight: float = 1.0) -> dict[str, float]:
    """Sensitivity and false positives per scan, end to end, at a threshold."""
    hits = lesions = 0
    false = 0.0
    for record in records:
        truth = places_of(record.lesions)
        places, scores = findings(record, probability)
        found = match(places, scores, truth, MATCH_MM)
        lesions += len(truth)
        hits += int(found.is_true_positive.sum())
        false += float(counts(record, places, mimic_weight)[found.is_false_positive].sum())
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
    false = {p: [figures(records, p, MIMIC_WEIGHT)["FPavg"] for records in kinds.values()] for p in THRESHOLDS}
    return {
        name: min(p for p, rates in false.items() if max(rates) <= worst and np.mean(rates) <= mean)
        for name, (worst, mean) in LIMITS.items()
    }


def refit(records: Sequence[SubjectRecord], before: str, after: str, offset_alone: bool = False) -> None:
    """Fit the decision of weights to candidates, write the new weights, and set the candidates' probabilities."""
    scores, logits, labels, weights = [], [], [], []
    for record in records:
        places = places_of(record.candidates)
        scores += [c.detector_score for c in record.candidates]
        logits += [c.classifier_probability for c in record.candidates]
        found = match(places, np.array(scores[-len(places) :], dtype=float), places_of(record.lesions), MATCH_MM)
        is_lesion = found.is_true_positive | found.is_duplicate
        labels += is_lesion.tolist()
        weights += np.where(is_lesion, 1.0, counts(record, places, MIMIC_WEIGHT)).tolist()
    scores, logits = np.array(scores, dtype=float), logit(np.clip(np.array(logits, dtype=float), 1e-6, 1 - 1e-6))
    state = torch.load(before, weights_only=True)
    decision = JointDecision()
    if offset_alone:
        decision.load_state_dict({key: state[f"decision.{key}"] for key in decision.state_dict()})
        before_offset = decision(torch.tensor(scores), torch.tensor(logits)).logit(eps=1e-9).numpy()
        decision.offset += brentq(lambda b: np.sum(weights * (expit(before_offset + b) - labels)), -10, 10)
    else:
        decision.fit(scores, logits, np.array(labels), np.array(weights))
    print(f"decision: {decision.weights.tolist()}, {decision.offset.item()}")
    state |= {f"decision.{key}": value for key, value in decision.state_dict().items()}
    torch.save(state, after)
    probabilities = iter(decision(torch.tensor(scores), torch.tensor(logits)).tolist())
    for record in records:
        for candidate in record.candidates:
            candidate.probability = next(probabilities)


def reliability(axes, records: Sequence[SubjectRecord], title: str) -> float:
    """Draw the fraction of microbleeds over the probability; return the expected calibration error."""
    probability, is_lesion = [], []
    for record in records:
        truth = places_of(record.lesions)
        places = places_of(record.candidates)
        scores = np.array([c.probability for c in record.candidates], dtype=float)
        found = match(places, scores, truth, MATCH_MM)
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


def main(
    picture: str,
    *choice: str,
    tests: Sequence[str] = (),
    elsewhere: Sequence[str] = (),
    weights: str = "",
    refitted: str = "",
    offset_alone: bool = False,
) -> None:
    """Print the tables and draw the diagrams."""
    chosen_by = [record for folder in choice for record in own(load_records(folder))]
    others = [record for folder in elsewhere for record in own(load_records(folder))]
    if refitted:
        refit(chosen_by + others, weights, refitted, offset_alone)
    kinds = by_kind(chosen_by) | {f"{kind}, elsewhere": records for kind, records in by_kind(others).items()}
    for kind, records in kinds.items():
        table = {p: figures(records, p, MIMIC_WEIGHT) for p in THRESHOLDS[4::5]}
        print(f"{kind}\n{pd.DataFrame(table).T.round(3).to_string()}\n")
    points = choose(kinds)
    print(f"operating points: {points}\n")
    chosen = {
        (kind, name): figures(records, p, MIMIC_WEIGHT) for kind, records in kinds.items() for name, p in points.items()
    }
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
