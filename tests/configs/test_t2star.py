"""A T2*-weighted magnitude without phase through the whole of inference, evaluation and training."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow

from cmb_bundle.scripts.phantom import TINY, make_cohort

from ..helpers import CONFIGS
from ..helpers.configuration import configuration


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A simulated T2* scan, in the layout that the simulator writes, with the echo time beside it."""
    folder = Path(make_cohort(tmp_path_factory.mktemp("t2star") / "c", 1, TINY, seed=5, kinds=["t2star"], processes=1))
    assert [path.name for path in (folder / "Data").iterdir()] == ["T2star"]
    sidecar = {"EchoTime": 0.06, "MagneticFieldStrength": 3}
    (folder / "Data" / "T2star" / "phantom-001.json").write_text(json.dumps(sidecar))
    return folder


@pytest.fixture(scope="module")
def results(cohort, tmp_path_factory):
    output = tmp_path_factory.mktemp("t2star_found")
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / "inference.json"), str(CONFIGS / "evaluate.json")],
        workflow_type="infer",
        dataset_dir=str(cohort),
        output_dir=str(output),
        subset="all",
        bootstrap=0,
        compare_with_baseline=False,
        operating_point="sensitive",
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return output


WARNING = (
    "The echo time is 60 ms; T2*-weighted magnitude was tested with 15 to 40 ms only, so that these results may be "
    "worse."
)


def test_it_is_read_and_said_to_be_a_t2star(results, cohort):
    found = json.loads((results / "phantom-001" / "phantom-001_cmb.json").read_text())
    assert found["contrast"] == "t2star"
    assert found["notices"].startswith("A T2*-weighted magnitude without phase was read")
    assert WARNING in found["warnings"] and f"Warning: {WARNING}" in found["notices"]
    assert found["candidates"]
    scan = nib.load(cohort / "Data" / "T2star" / "phantom-001.nii.gz")
    labels = nib.load(results / "phantom-001" / "phantom-001_cmb.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine)
    assert (results / "phantom-001" / "phantom-001_cmb.png").is_file()
    assert not (results / "phantom-001" / "phantom-001_cmb_swi.nii.gz").exists()


def test_the_evaluation_says_it_too(results):
    row = pd.read_csv(results / "per_subject.csv").iloc[0]
    assert row["contrast"] == "t2star" and WARNING in row["warnings"] and row["n_lesions"] > 0
    assert WARNING in (results / "report.html").read_text(encoding="utf-8")


def test_a_magnitude_alone_and_a_valdo_name_give_the_same_input(cohort, tmp_path):
    scan = cohort / "Data" / "T2star" / "phantom-001.nii.gz"
    for name in ("a_mag.nii.gz", "sub-101_space-T2S_desc-masked_T2S.nii.gz"):
        shutil.copy(scan, tmp_path / name)
    parser = configuration(start="inference.json")
    parser.update({"dataset_dir": str(tmp_path), "bundle_root": str(CONFIGS.parent)})
    dataset = parser.get_parsed_content("dataset")
    a, b = dataset
    assert (a["subject"], b["subject"]) == ("a", "sub-101")
    assert torch.equal(torch.as_tensor(a["image"]), torch.as_tensor(b["image"]))
    assert a["contrast"] == b["contrast"] == "t2star"


def test_training_preprocesses_it_as_inference_does(cohort):
    steps = configuration()
    train = steps.get_parsed_content("train#deterministic_transforms")
    inference = configuration(start="inference.json")
    inference.update({"bundle_root": str(CONFIGS.parent)})
    infer = inference.get_parsed_content("preprocessing").transforms
    image = cohort / "Data" / "T2star" / "phantom-001.nii.gz"
    items = []
    for transforms in (train, infer):
        item = {"subject": "phantom-001", "t2star": str(image), "label": str(cohort / "Label" / "phantom-001.xlsx")}
        for step in transforms:
            item = step(item)
        items.append(item)
    trained, inferred = (torch.as_tensor(item["image"]) for item in items)
    assert trained.shape[0] == 2 and torch.equal(trained, inferred)
    assert trained[1].abs().max() == 0, "the phase channel is that of a scan without phase"
    tissue = trained[0][trained[0] > 0.3]
    assert float(tissue.median()) == pytest.approx(0.5, abs=0.05)
    assert len(items[0]["label"] if "lesions_ras" not in items[0] else items[0]["lesions_ras"]) > 0
