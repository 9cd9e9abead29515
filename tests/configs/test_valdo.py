"""A folder as the VALDO challenge (2021, Task 2) gives it: all workflows run on it without renaming a file."""

import dataclasses
import hashlib
import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cmb_bundle.scripts.data import read_label_map, read_points
from cmb_bundle.scripts.data.splits import make_datalist
from cmb_bundle.scripts.phantom import TINY, make_cohort

from ..helpers import CONFIGS, TINY_CONFIG

NAMES = ("sub-101", "sub-102", "sub-201", "sub-310")
EVALUATE = ["inference.json", "evaluate.json"]
WEIGHTS = CONFIGS.parent / "models" / "model.pt"


def label_map(scan, cohort, name):
    """The microbleeds of a simulated scan as a binary label map: balls, of which each has one voxel at least."""
    truth = json.loads((cohort / "Truth" / f"{name}.json").read_text())["microbleeds"]
    grid = np.stack(np.meshgrid(*map(np.arange, scan.shape), indexing="ij"), axis=-1)
    places = nib.affines.apply_affine(scan.affine, grid)
    labels = np.zeros(scan.shape, dtype=np.uint8)
    for one in truth:
        apart = np.linalg.norm(places - one["ras_mm"], axis=-1)
        labels[(apart <= one["diameter_mm"] / 2) | (apart == apart.min())] = 1
    return labels


@pytest.fixture(scope="module")
def task2(tmp_path_factory):
    """Four simulated T2* scans; NaN at the edges of one; the last without microbleeds."""
    cohort = tmp_path_factory.mktemp("valdo")
    spec = dataclasses.replace(TINY, positive_share=0.75)
    make_cohort(cohort / "made", len(NAMES), spec, seed=5, kinds=["t2star"], processes=1)
    folder = cohort / "Task2"
    for number, name in enumerate(NAMES):
        own = f"phantom-{number + 1:03d}"
        scan = nib.load(cohort / "made" / "Data" / "T2star" / f"{own}.nii.gz")
        values = scan.get_fdata(dtype=np.float32)
        labels = label_map(scan, cohort / "made", own)
        if number == 0:
            values[:3], values[:, :, -1] = np.nan, np.nan
        start = folder / name / f"{name}_space-T2S_desc-masked"
        start.parent.mkdir(parents=True)
        for kind, array in (("T2S", values), ("T1", values.max() - values), ("T2", values)):
            nib.save(nib.Nifti1Image(array, scan.affine), f"{start}_{kind}.nii.gz")
        nib.save(nib.Nifti1Image(labels, scan.affine), folder / name / f"{name}_space-T2S_CMB.nii.gz")
    sidecar = {"EchoTime": 0.02, "MagneticFieldStrength": 3, "PatientName": "Jane Doe"}
    (folder / "sub-101" / "sub-101_space-T2S_desc-masked_T2S.json").write_text(json.dumps(sidecar))
    return folder


@pytest.fixture(scope="module")
def trained(task2, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("valdo_trained")
    bundle("training", ["train.json", TINY_CONFIG], folder, dataset_dir=task2, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(task2, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("valdo_evaluated")
    options = {"dataset_dir": task2, "subset": "all", "bootstrap": 50, "number_microbleeds": False}
    options |= {"probability_threshold": 0.0, "max_candidates": 4}  # so that there are hits and false positives
    done = bundle("run", EVALUATE, folder, output_dir=folder, **options)
    return folder, done.stdout


def test_all_label_maps_are_found(task2, tmp_path):
    split = make_datalist(task2, tmp_path / "datalist.json", folds=3)
    found = {entry["subject"]: entry for entry in split["training"]}
    assert tuple(found) == NAMES
    assert all(found[name]["label"].endswith(f"{name}_space-T2S_CMB.nii.gz") for name in NAMES)
    assert sum(entry["lesions"] for entry in found.values()) > 2
    assert min(entry["lesions"] for entry in found.values()) == 0


def test_it_trains(trained):
    assert (trained / "model.pt").is_file()
    datalist = json.loads((trained / "datalist.json").read_text())
    assert len(datalist["training"]) == len(NAMES) and not datalist["failures"]


def test_the_scan_is_read_and_the_others_are_said_to_be_skipped(evaluated):
    folder, _ = evaluated
    found = json.loads((folder / "sub-101" / "sub-101_cmb.json").read_text())
    assert found["contrast"] == "t2star"
    assert "_T1.nii.gz, sub-101_space-T2S_desc-masked_T2.nii.gz were skipped" in found["notices"]
    assert "NaN around the head" in found["notices"]


def test_the_label_map_is_binary_on_the_grid_of_the_scan(evaluated, task2):
    folder, _ = evaluated
    values = set()
    for name in NAMES:
        labels = nib.load(folder / name / f"{name}_cmb.nii.gz")
        truth = nib.load(task2 / name / f"{name}_space-T2S_CMB.nii.gz")
        assert labels.shape == truth.shape and np.allclose(labels.affine, truth.affine)
        values |= set(np.unique(np.asarray(labels.dataobj)).tolist())
    assert values == {0, 1}


def test_the_figures_of_the_challenge_are_those_of_the_two_files(evaluated, task2):
    folder, _ = evaluated
    table = pd.read_csv(folder / "per_subject.csv").set_index("subject")
    table = table[table["system"] == "YOLOv2 + 3D CNN"]
    for name in NAMES:
        truth, found = (
            nib.load(path)
            for path in (task2 / name / f"{name}_space-T2S_CMB.nii.gz", folder / name / f"{name}_cmb.nii.gz")
        )
        volumes = [np.count_nonzero(image.dataobj) * np.prod(image.header.get_zooms()) for image in (truth, found)]
        row = table.loc[name]
        assert row["valdo_absolute_volume_difference_mm3"] == pytest.approx(abs(volumes[0] - volumes[1]), rel=1e-4)
        counts = [
            len(np.unique(read_label_map(path, truth.shape, truth.affine))) - 1
            for path in (task2 / name / f"{name}_space-T2S_CMB.nii.gz", folder / name / f"{name}_cmb.nii.gz")
        ]
        assert row["valdo_absolute_count_difference"] == abs(counts[0] - counts[1])
        assert np.isnan(row["valdo_f1"]) == (counts[0] == 0)
    scores = json.loads((folder / "metrics.json").read_text())
    f1 = scores["valdo"]["end_to_end"]["f1"]
    assert f1["n_subjects"] == table["valdo_f1"].notna().sum() and f1["median"] == table["valdo_f1"].median()
    assert scores["valdo"]["end_to_end"]["mean_dice"]["n_subjects"] == f1["n_subjects"]
    assert f1["n_subjects"] == 3 and table["valdo_mean_dice"].max() > 0


def strings(content):
    """Every key and every text of a JSON file."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from strings(value)
    elif isinstance(content, str):
        yield content


def test_the_evidence_has_figures_and_scan_parameters(evaluated, task2):
    folder, printed = evaluated
    evidence = json.loads((folder / "evidence.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert evidence["weights_sha256"] == [hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()]
    assert evidence["n_label_maps"] == len(NAMES)
    assert evidence["end_to_end"]["counts"]["n_lesions"] == metrics["end_to_end"]["n_lesions"] > 0
    assert evidence["end_to_end"]["figures"]["sensitivity"] == metrics["end_to_end"]["sensitivity"]
    assert evidence["end_to_end"]["intervals"]["f1"] == metrics["intervals"]["end_to_end"]["f1"]
    assert evidence["valdo"]["end_to_end"] == metrics["valdo"]["end_to_end"]
    (kind,) = evidence["kinds"]
    zooms = nib.load(task2 / "sub-102" / "sub-102_space-T2S_CMB.nii.gz").header.get_zooms()
    assert kind["kind"] == "t2star"
    assert kind["scans"]["slice_mm"]["known"] == len(NAMES)
    assert kind["scans"]["slice_mm"]["least"] <= round(float(zooms[2]), 2) <= kind["scans"]["slice_mm"]["most"]
    assert kind["scans"]["echo_ms"] == {"known": 1, "least": 20, "median": 20, "most": 20}
    assert kind["scans"]["field_tesla"] == {"known": 1, "least": 3, "median": 3, "most": 3}
    assert kind["figures"]["sensitivity"] == metrics["end_to_end"]["sensitivity"]
    assert "please publish it" in printed


def test_the_evidence_tells_of_nobody(evaluated):
    folder, _ = evaluated
    evidence = json.loads((folder / "evidence.json").read_text())
    assert all(name in (folder / "metrics.json").parent.joinpath("per_subject.csv").read_text() for name in NAMES)
    for text in strings(evidence):
        assert not re.search(r"sub-|phantom|jane|/tmp|\.pt|\.nii|\\|20\d\d-", text.lower()), text
        assert text.count("/") <= 1, text  # docs/evidence.md, and rates such as 1/8


def test_points_of_the_label_map_lie_in_it(task2):
    path = task2 / "sub-101" / "sub-101_space-T2S_CMB.nii.gz"
    image = nib.load(path)
    points = read_points(path, image.shape, image.affine)
    assert len(points) == read_label_map(path, image.shape, image.affine).max() > 0
