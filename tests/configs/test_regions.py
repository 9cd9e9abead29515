"""Regions through the whole of inference: by a parcellation beside the scan, and what cannot be used."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigWorkflow

from cmb_bundle.scripts.phantom import TINY, make_cohort

from ..helpers import CONFIGS


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Path(
        make_cohort(tmp_path_factory.mktemp("regions") / "c", 2, TINY.changed(microbleeds=3), seed=5, processes=1)
    )


def run(cohort, output, **options):
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / "inference.json"),
        workflow_type="infer",
        dataset_dir=str(cohort),
        output_dir=str(output),
        operating_point="sensitive",
        device="cpu",
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def add_parcellation(cohort, subject, shift=(0, 0, 0)):
    """Halves of the head, left frontal and right thalamus, on a grid of their own; returns the plane's RAS mm."""
    scan = nib.load(cohort / "Data" / "SWI" / f"{subject}.nii.gz")
    corners = nib.affines.apply_affine(scan.affine, [(0, 0, 0), np.array(scan.shape) - 1])
    low, high = corners.min(0), corners.max(0)
    middle = (low[0] + high[0]) / 2
    affine = nib.affines.from_matvec(np.diag([1.5, 1.5, 1.5]), low + shift)
    shape = np.ceil((high - low) / 1.5).astype(int)
    labels = np.where(low[0] + 1.5 * np.arange(shape[0]) < middle, 1028, 49)[:, None, None]
    labels = (labels * np.ones(shape, int)).astype(np.int16)
    nib.save(nib.Nifti1Image(labels, affine), cohort / "Data" / "SWI" / f"{subject}_aparc+aseg.nii.gz")
    return low[0] + 1.5 * (np.argmax(labels[:, 0, 0] == 49) - 0.5)


def test_findings_have_the_regions_of_a_parcellation(cohort, tmp_path):
    scans = Path(shutil.copytree(cohort, tmp_path / "scans"))
    planes = {subject: add_parcellation(scans, subject) for subject in ("phantom-001", "phantom-002")}
    run(scans, tmp_path / "out", regions=True)
    table = pd.read_csv(tmp_path / "out" / "regions.csv").set_index("subject")
    number = 0
    for subject, plane in planes.items():
        folder = tmp_path / "out" / subject
        content = json.loads((folder / f"{subject}_cmb.json").read_text())
        assert content["regions"] == {"source": f"parcellation {subject}_aparc+aseg.nii.gz"}
        rows = pd.read_csv(folder / f"{subject}_cmb.csv")
        for row, bleed in zip(rows.to_dict("records"), content["microbleeds"], strict=True):
            left = bleed["ras_mm"][0] < plane
            assert bleed["region"] == row["region"] == ("frontal" if left else "thalamus")
            assert bleed["side"] == row["side"] == ("left" if left else "right")
            away = abs(bleed["ras_mm"][0] - plane)
            assert bleed["border_mm"] == (pytest.approx(away, abs=0.02) if away <= 25 else None)
            number += 1
        summary = content["summary"]
        assert summary["microbleeds"] == len(rows) == table.loc[subject, "microbleeds"]
        assert (
            summary["by_category"]["lobar"]
            == (rows["region"] == "frontal").sum()
            == table.loc[subject, "frontal, left"]
        )
        assert summary["pattern"] == table.loc[subject, "pattern"]
        assert (folder / f"{subject}_cmb_regions.png").stat().st_size > 20_000
    assert number >= 2
    run(scans, tmp_path / "out")  # without regions, nothing of them is left
    content = json.loads((tmp_path / "out" / "phantom-001" / "phantom-001_cmb.json").read_text())
    assert set(content["summary"]) == {"microbleeds", "band", "statement"}
    assert "regions" not in content
    assert not list((tmp_path / "out").rglob("*regions*"))


def test_a_parcellation_that_cannot_be_used_fails_its_subject_alone(cohort, tmp_path):
    scans = Path(shutil.copytree(cohort, tmp_path / "scans"))
    add_parcellation(scans, "phantom-001", shift=(0, 0, 500))
    add_parcellation(scans, "phantom-002")
    with pytest.raises(RuntimeError) as error:
        run(scans, tmp_path / "out", regions=True)
    cause = error.value
    while type(cause).__name__ != "CohortError":  # the config's own copy of the class
        cause = cause.__cause__
    assert "1 of 2 subjects failed" in str(cause)
    assert "phantom-001_aparc+aseg.nii.gz does not lie in the scan's head" in str(cause)
    assert pd.read_csv(tmp_path / "out" / "regions.csv")["subject"].tolist() == ["phantom-002"]
    assert not (tmp_path / "out" / "phantom-001" / "phantom-001_cmb.json").exists()


def test_findings_have_the_regions_of_the_template(cohort, tmp_path):
    """TINY is a slab of 20 mm at the height of the basal ganglia: nothing of it is infratentorial."""
    run(cohort, tmp_path / "out", regions=True, subjects=["phantom-001"])
    folder = tmp_path / "out" / "phantom-001"
    content = json.loads((folder / "phantom-001_cmb.json").read_text())
    assert content["regions"]["source"] == "MNI152 template"
    assert content["regions"]["similarity"] > 1.03
    truth = json.loads((cohort / "Truth" / "phantom-001.json").read_text())["microbleeds"]
    places = np.array([bleed["ras_mm"] for bleed in truth])
    right = 0
    for bleed in content["microbleeds"]:
        away = np.linalg.norm(places - bleed["ras_mm"], axis=1)
        right += away.min() < 3 and truth[away.argmin()]["region"] == bleed["category"]
    assert right >= 1
    assert (folder / "phantom-001_cmb_regions.png").is_file()
    assert pd.read_csv(tmp_path / "out" / "regions.csv")["source"].tolist() == ["MNI152 template"]
