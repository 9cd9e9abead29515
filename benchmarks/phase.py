"""Whether stage 2 uses the phase: microbleeds and calcifications that look alike on SWI and on magnitude.

``python benchmarks/phase.py DIR`` simulates pairs of a microbleed and a calcification that differ in the written phase
alone (in DIR, reused), and prints the mean probability of stage 2 of both, and the area under the ROC curve of one
against the other, with the phase as it is, turned over, and left out. ``--checkpoint FILE`` takes other weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import fire
import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser
from sklearn.metrics import roc_auc_score

from cmb_bundle.scripts.data import find_subjects
from cmb_bundle.scripts.geometry import to_voxel
from cmb_bundle.scripts.phantom import SMALL, Content, make_cohort

CONFIGS = Path(__file__).resolve().parents[1] / "cmb_bundle" / "configs"
PROFILES = ("solid", "shell", "cloud", "lobed")


def phases(volume: torch.Tensor) -> dict[str, torch.Tensor]:
    """The volume (2, i, j, k) with its phase as it is, turned over, and left out."""
    swi, phase = volume[:1], volume[1:]
    turned = torch.where(phase > 0, 1 - phase, 0)
    return {"as it is": volume, "turned over": torch.cat([swi, turned]), "left out": torch.cat([swi, 0 * phase])}


def main(folder: str, subjects: int = 12, pairs: int = 12, **overrides: object) -> None:
    """Print the table."""
    spec = SMALL.changed(microbleeds=pairs, content=Content(pairs=pairs, profiles=PROFILES))
    cohort = Path(make_cohort(Path(folder) / "pairs", subjects, spec, seed=8800))
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.json")))
    parser.update({"bundle_root": str(CONFIGS.parent), "phase_sign": 1, **overrides})
    text = json.dumps(parser.get()).replace('"scripts.', '"cmb_bundle.scripts.')
    parser = ConfigParser(json.loads(text))
    network, preprocessing, inferer = (parser.get_parsed_content(n) for n in ("network", "preprocessing", "inferer"))
    rows = []
    for subject in find_subjects(cohort):
        data = preprocessing(dict(subject))
        volume, affine = data["image"].as_tensor(), data["image"].affine.numpy()
        truth = json.loads((cohort / "Truth" / f"{subject['subject']}.json").read_text())
        for kind, lesions in (("microbleed", truth["microbleeds"]), ("calcification", truth["mimics"])):
            places = [one["ras_mm"] for one in lesions if one.get("pair") is not None]
            if not places:
                continue
            voxels = torch.as_tensor(to_voxel(affine, np.array(places)))
            for name, shown in phases(volume).items():
                found = inferer.logits(shown, voxels, network.classifier).sigmoid().tolist()
                rows += [{"phase": name, "kind": kind, "probability": p} for p in found]
    table = pd.DataFrame(rows)
    summary = table.pivot_table("probability", "phase", "kind", "mean")
    summary["AUC"] = [
        roc_auc_score(part["kind"] == "microbleed", part["probability"]) for _, part in table.groupby("phase")
    ]
    print(table.groupby(["phase", "kind"]).size().unstack().to_string(), end="\n\n")
    print(summary.round(3).to_string())


if __name__ == "__main__":
    fire.Fire(main)
