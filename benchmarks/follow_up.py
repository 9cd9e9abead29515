"""Score a follow-up of simulated sessions against their truth.

``python benchmarks/follow_up.py SCANS RESULTS [SCANS RESULTS ...]``, where SCANS is a cohort of
``make_cohort ... --sessions 2`` and RESULTS what ``inference.json`` with ``follow_up.json`` wrote of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from cmb_bundle.scripts.evaluation import match
from cmb_bundle.scripts.follow_up import Sighting, joint_probability, pair, track
from cmb_bundle.scripts.follow_up.scans import DUPLICATES

MATCH_MM = 5.0
SAME = ("te_ms", "field_tesla", "spacing", "outputs", "flip_deg")
CONFIG = json.loads((Path(__file__).parents[1] / "cmb_bundle" / "configs" / "follow_up.json").read_text())


@dataclass
class Pair:
    """Two scans of a simulated person: truth, results of each scan, and the follow-up."""

    name: str
    truths: list[dict]
    scans: list[dict]
    done: dict

    @property
    def same_protocol(self) -> bool:
        one, other = (truth["spec"] for truth in self.truths)
        return all(one.get(key) == other.get(key) for key in SAME)

    @property
    def true_to_first(self) -> np.ndarray:
        return np.array(self.truths[1]["to_first"])

    def lesions(self, session: int, new: bool | None = None) -> np.ndarray:
        """(n, 3) true microbleeds of a scan in RAS mm of the first."""
        chosen = [m["ras_mm"] for m in self.truths[session]["microbleeds"] if new is None or m["new"] == new]
        points = np.array(chosen, float).reshape(-1, 3)
        return apply_affine(self.true_to_first, points) if session else points


def read(scans: Path, results: Path) -> Iterator[Pair]:
    for path in sorted(results.glob("follow_up/*/*_cmb_follow_up.json")):
        done = json.loads(path.read_text())
        names = [scan["subject"] for scan in done["scans"]]
        truths = [json.loads((scans / "Truth" / f"{name}.json").read_text()) for name in names]
        found = [json.loads((results / name / f"{name}_cmb.json").read_text()) for name in names]
        yield Pair(f"{scans.name}/{done['patient']}", truths, found, done)


def called_new(one: Pair, how: str) -> np.ndarray:
    """(n, 3) what is called new, in RAS mm of the first scan by the truth, so that registration errors count."""
    if how == "whole":
        chosen = [x["scans"][1]["ras_mm"] for x in one.done["lesions"] if x["status"] == "new"]
        return apply_affine(one.true_to_first, np.array(chosen, float).reshape(-1, 3))
    places = [np.array([m["ras_mm"] for m in scan["microbleeds"]], float).reshape(-1, 3) for scan in one.scans]
    to_first = np.eye(4) if how == "alone" else np.array(one.done["scans"][1]["to_first"])
    paired = {later for _, later in pair(places[0], apply_affine(to_first, places[1]), MATCH_MM)}
    left = [place for n, place in enumerate(places[1]) if n not in paired]
    return apply_affine(one.true_to_first, np.array(left).reshape(-1, 3))


def score(pairs: list[Pair], how: str) -> dict:
    totals = dict.fromkeys(("new", "found", "false", "stable", "stable_called_new"), 0)
    for one in pairs:
        places = called_new(one, how)
        new, stable = one.lesions(1, new=True), one.lesions(1, new=False)
        found = match(places, np.ones(len(places)), new, MATCH_MM)
        rest = places[~found.is_true_positive]
        wrong = match(rest, np.ones(len(rest)), stable, MATCH_MM)
        totals["new"] += len(new)
        totals["found"] += int((~found.is_missed).sum())
        totals["false"] += len(rest)
        totals["stable"] += len(stable)
        totals["stable_called_new"] += int((~wrong.is_missed).sum())
    return totals | {"pairs": len(pairs)}


def row(name: str, s: dict) -> str:
    sensitivity = f"{s['found']}/{s['new']} = {s['found'] / max(s['new'], 1):.2f}"
    stable = f"{s['stable_called_new']}/{s['stable']} = {100 * s['stable_called_new'] / max(s['stable'], 1):.1f} %"
    return f"| {name} | {s['pairs']} | {sensitivity} | {s['false']} ({s['false'] / s['pairs']:.2f}) | {stable} |"


def tracks_of(one: Pair) -> list[tuple[list[float], bool, bool]]:
    """For each place that was a candidate in both scans: its probabilities, and whether a microbleed is there."""
    sightings = []
    for n, scan in enumerate(one.scans):
        to_first = np.array(one.done["scans"][1]["to_first"]) if n else np.eye(4)
        kept = [c for c in scan["candidates"] if c["accepted"] or not c["reason"].startswith(DUPLICATES)]
        sightings.append(
            [
                Sighting(
                    tuple(apply_affine(to_first, c["ras_mm"])), tuple(c["ras_mm"]), c["probability"], c["accepted"]
                )
                for c in kept
                if c["accepted"] or c["probability"] >= CONFIG["second_look_probability"]
            ]
        )
    both = [t for t in track(sightings, CONFIG["match_mm"], CONFIG["second_look_mm"]) if len(t.seen) == 2]
    places = np.array([t.place_mm for t in both]).reshape(-1, 3)
    scores = np.array([max(s.probability for s in t.seen.values()) for t in both])
    truth = match(places, scores, one.lesions(1, new=False), MATCH_MM)
    near = [min((np.linalg.norm(p - q) for q in one.lesions(1)), default=99.0) < MATCH_MM for p in places]
    return [
        ([t.seen[0].probability, t.seen[1].probability], bool(hit), bool(n))
        for t, hit, n in zip(both, truth.is_true_positive, near, strict=True)
    ]


def fit(found: list[tuple[list[float], bool, bool]]) -> float:
    """Weight of the joint probability with the smallest log loss, to 0.05."""
    weights = np.arange(0.4, 1.05, 0.05)
    return min(weights, key=lambda weight: loss([joint_probability(p, weight) for p, *_ in found], found))


def loss(values: list[float], found: list[tuple[list[float], bool, bool]]) -> float:
    """Mean log loss."""
    return -float(np.mean([np.log(np.clip(v if f[1] else 1 - v, 1e-4, 1)) for v, f in zip(values, found, strict=True)]))


def main(folders: list[str]) -> None:
    pairs = [one for scans, results in zip(folders[::2], folders[1::2], strict=True)
             for one in read(Path(scans), Path(results))]  # fmt: skip
    groups = {
        "": pairs,
        ", same protocol": [one for one in pairs if one.same_protocol],
        ", another protocol": [one for one in pairs if not one.same_protocol],
    }
    print("| | pairs | new found | called new wrongly (a pair) | stable called new |\n|---|---|---|---|---|")
    for how, words in (("alone", "two runs"), ("registered", "with registration"), ("whole", "follow-up")):
        for group, chosen in groups.items():
            if chosen:
                print(row(f"{words}{group}", score(chosen, how)))
    statuses = [x["status"] for one in pairs for x in one.done["lesions"]]
    print({name: statuses.count(name) for name in sorted(set(statuses))})
    found = [entry for one in pairs for entry in tracks_of(one)]
    print(f"{len(found)} places in both scans; weight of the smallest log loss {fit(found):.2f}")
    for words, values in (
        ("first alone", [p[0] for p, _, _ in found]),
        ("later alone", [p[1] for p, _, _ in found]),
        ("jointly", [joint_probability(p, CONFIG["joint_weight"]) for p, _, _ in found]),
    ):
        hits = np.array([v for v, f in zip(values, found, strict=True) if f[1]])
        false = np.array([v for v, f in zip(values, found, strict=True) if not f[1] and not f[2]])
        ranks = (hits[:, None] > false).mean() + 0.5 * (hits[:, None] == false).mean() if len(false) else np.nan
        print(f"{words}: {int((hits >= 0.3).sum())} of {len(hits)} microbleeds, {int((false >= 0.3).sum())} of "
              f"{len(false)} others at 0.3; {int((hits >= 0.64).sum())} and {int((false >= 0.64).sum())} at 0.64; "
              f"AUC {ranks:.4f}, log loss {loss(values, found):.4f}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
