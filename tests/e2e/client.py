"""What an annotation program asks of a MONAI Label server, and what is known of the phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import requests

from cmb_bundle.scripts.evaluation.matching import match

MODEL = "cmb_bundle"
REACH_MM = 5.0


class Client:
    """A MONAI Label server at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, **kwargs: object) -> requests.Response:
        """A request that must succeed."""
        answer = requests.request(method, f"{self.url}{path}", timeout=1800, **kwargs)
        assert answer.ok, f"{method} {path}: HTTP {answer.status_code} {answer.text[:2000]}"
        return answer

    def info(self) -> dict:
        """What the server offers."""
        return self.ask("GET", "/info/").json()

    def next_sample(self, strategy: str) -> dict:
        """The scan to annotate next."""
        return self.ask("POST", f"/activelearning/{strategy}", json={}).json()

    def infer(self, image: str, **params: object) -> dict:
        """The JSON of an inference."""
        path = f"/infer/{MODEL}?image={image}&output=json"
        return self.ask("POST", path, data={"params": json.dumps(params)}).json()

    def infer_file(self, image: str, path: Path, output: str = "image", **params: object) -> Path:
        """The file of an inference."""
        url = f"/infer/{MODEL}?image={image}&output={output}"
        path.write_bytes(self.ask("POST", url, data={"params": json.dumps(params)}).content)
        return path

    def save_label(self, image: str, path: Path, **params: object) -> None:
        """Hand in a finished label map."""
        with path.open("rb") as stream:
            url = f"/datastore/label?image={image}&tag=final"
            self.ask("PUT", url, data={"params": json.dumps(params)}, files={"label": (path.name, stream)})

    def train(self, **params: object) -> None:
        """Train on the labels, and wait for the end."""
        self.ask("POST", f"/train/{MODEL}?run_sync=true", json=params)


def truth_of(cohort: Path, subject: str) -> list[dict]:
    """The microbleeds that the simulator put in."""
    return json.loads((cohort / "Truth" / f"{subject}.json").read_text())["microbleeds"]


def corrected_label(image: Path, microbleeds: list[dict], path: Path) -> Path:
    """The label map that an annotator would draw: a ball at each microbleed, on the scan's grid."""
    scan = nib.load(image)
    to_mm = scan.affine
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in scan.shape[:3]], indexing="ij"), -1)
    places = nib.affines.apply_affine(to_mm, voxels)
    label = np.zeros(scan.shape[:3], dtype=np.uint8)
    for one in microbleeds:
        label[np.linalg.norm(places - one["ras_mm"], axis=-1) <= max(1.5, one["diameter_mm"] / 2)] = 1
    nib.save(nib.Nifti1Image(label, to_mm), path)
    return path


def hits(result: dict, microbleeds: list[dict]) -> int:
    """How many of the true microbleeds are among those found, one to one, within 5 mm."""
    found = np.array([m["ras_mm"] for m in result["microbleeds"]]).reshape(-1, 3)
    scores = np.array([m["probability"] for m in result["microbleeds"]])
    true = np.array([m["ras_mm"] for m in microbleeds]).reshape(-1, 3)
    return int((match(found, scores, true, REACH_MM).lesion_of_detection >= 0).sum())


def check_label_map(label_path: Path, image: Path, result: dict, number: bool = False) -> None:
    """The label map is on the scan's grid and has a part at each microbleed of the JSON, and none elsewhere."""
    label, scan = nib.load(label_path), nib.load(image)
    assert label.shape == scan.shape, (label.shape, scan.shape)
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
    values = np.asarray(label.dataobj).round().astype(int)
    expected = range(1, len(result["microbleeds"]) + 1) if number else [1] * bool(result["microbleeds"])
    assert sorted(set(np.unique(values)) - {0}) == list(expected), np.unique(values)
    marked = nib.affines.apply_affine(label.affine, np.argwhere(values > 0))
    for one in result["microbleeds"]:
        assert np.linalg.norm(marked - one["ras_mm"], axis=1).min() < REACH_MM, one
    for place in marked:
        assert min(np.linalg.norm(place - m["ras_mm"]) for m in result["microbleeds"]) < 3 * REACH_MM
