"""The stock `monaibundle` app of MONAI Label with the bundle in it, on a folder of NIfTI files."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from .client import MODEL, Client, check_label_map, corrected_label, hits, truth_of
from .servers import free_port, monai_label

BUNDLE = Path(__file__).parents[2] / "cmb_bundle"
EPOCHS = int(os.environ.get("E2E_EPOCHS", "3"))


def run(python: Path, cohort: Path, folder: Path, pictures: Path) -> None:
    """Go through it all; a failed assertion says where it ended."""
    app, studies = stock_app(python, folder), make_studies(cohort, folder / "studies")
    shipped = app / "model" / MODEL / "models" / "model.pt"
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    conf = {"models": MODEL, "zoo_source": "local", "sam2": "false"}
    port = free_port()
    with monai_label(python, app, str(studies), conf, folder, port):
        client = Client(f"http://127.0.0.1:{port}")
        check_info(client, len(list(studies.glob("*.nii.gz"))))
        subjects = sorted(path.name.split(".")[0] for path in studies.glob("*.nii.gz"))
        ill = [s for s in subjects if truth_of(cohort, s)]
        well = [s for s in subjects if s not in ill]
        assert ill and well, "the cohort needs scans with microbleeds and without"

        assert client.next_sample("first")["id"] == subjects[0]
        assert client.next_sample("random")["id"] in subjects
        before = {s: check_inference(client, s, studies, folder) for s in [*ill, well[0]]}
        found, true = sum(hits(before[s], truth_of(cohort, s)) for s in ill), sum(len(truth_of(cohort, s)) for s in ill)
        print(f"stock app: {found} of {true} microbleeds of {len(ill)} scans were found", flush=True)
        assert 2 * found >= true
        check_options(client, ill[0], studies, folder)

        for subject in [*ill, well[0]]:
            image = studies / f"{subject}.nii.gz"
            label = corrected_label(image, truth_of(cohort, subject), folder / f"{subject}.nii.gz")
            client.save_label(subject, label)
            kept = nib.load(studies / "labels" / "final" / f"{subject}.nii.gz")
            assert np.array_equal(np.asarray(kept.dataobj) > 0, np.asarray(nib.load(label).dataobj) > 0)
        assert client.info()["datastore"]["completed"] == len(ill) + 1
        assert client.next_sample("first")["id"] in well[1:]

        client.train(max_epochs=EPOCHS, device="cpu")
        assert hashlib.sha256(shipped.read_bytes()).hexdigest() == digest, "training has changed the shipped weights"
        retrained = shipped.with_name("retrained.pt")
        first_training = retrained.read_bytes()
        trained = client.infer(ill[0], model_filename="retrained.pt")
        assert trained["candidates"] != before[ill[0]]["candidates"], "the new weights find just what the old ones do"
        assert client.infer(ill[0])["candidates"] == before[ill[0]]["candidates"], "the shipped weights are not in use"
        client.train(max_epochs=1, device="cpu", val_split=0)
        assert retrained.read_bytes() != first_training
        assert len(list((app / "trainings").iterdir())) == 2, "a training has used the folder of another"
        print("stock app: trained twice, the shipped weights are as they were", flush=True)


def stock_app(python: Path, folder: Path) -> Path:
    """The app as monailabel ships it, with the bundle in its model folder."""
    shipped = python.parents[1] / "monailabel" / "sample-apps" / "monaibundle"
    app = folder / "apps" / "monaibundle"
    shutil.copytree(shipped, app)
    shutil.copytree(BUNDLE, app / "model" / MODEL, ignore=shutil.ignore_patterns("__pycache__"))
    return app


def make_studies(cohort: Path, studies: Path) -> Path:
    """The folder as an annotator has it: SWI, and the phases in a folder within."""
    shutil.copytree(cohort / "Data" / "SWI", studies)
    shutil.copytree(cohort / "Data" / "Phase", studies / "phase")
    return studies


def check_info(client: Client, number: int) -> None:
    """The server offers the model, its thresholds, its training, and every scan once."""
    info = client.info()
    assert info["labels"] == ["microbleed"]
    model = info["models"][MODEL]
    assert model["type"] == "segmentation"
    assert model["labels"] == {"microbleed": 1}
    assert model["config"]["model_filename"] == ["model.pt"]
    assert 0 < model["config"]["candidate_threshold"] < model["config"]["probability_threshold"] < 1
    assert set(info["trainers"]) == {MODEL}
    assert {"random", "first"} <= set(info["strategies"])
    assert info["datastore"]["total"] == number, "phases must not be offered as scans"
    assert info["datastore"]["completed"] == 0


def check_inference(client: Client, subject: str, studies: Path, folder: Path) -> dict:
    """The JSON and the label map of a scan agree, and the phase was used."""
    result = client.infer(subject)
    assert "Phase" in result["notices"] and "No phase" not in result["notices"], result["notices"]
    label = client.infer_file(subject, folder / f"{subject}_found.nii.gz")
    check_label_map(label, studies / f"{subject}.nii.gz", result)
    return result


def check_options(client: Client, subject: str, studies: Path, folder: Path) -> None:
    """The thresholds of a request are the ones that are used."""
    strict = client.infer(subject, probability_threshold=0.9, candidate_threshold=0.3, number_microbleeds=True)
    assert min(c["detector_score"] for c in strict["candidates"]) >= 0.3
    assert all(m["probability"] >= 0.9 for m in strict["microbleeds"])
    label = client.infer_file(
        subject,
        folder / "numbered.nii.gz",
        probability_threshold=0.9,
        candidate_threshold=0.3,
        number_microbleeds=True,
    )
    check_label_map(label, studies / f"{subject}.nii.gz", strict, number=True)
    sensitive, specific = (client.infer(subject, operating_point=name) for name in ("sensitive", "specific"))
    assert len(sensitive["microbleeds"]) >= len(specific["microbleeds"])
    dropped = [
        {c["reason"] for c in one["candidates"] if "probability" in c["reason"]} for one in (sensitive, specific)
    ]
    assert dropped[0] != dropped[1], "the operating point of a request does not count"
    loose = client.infer(subject, probability_threshold=0.0)
    assert len(loose["microbleeds"]) > len(strict["microbleeds"])
