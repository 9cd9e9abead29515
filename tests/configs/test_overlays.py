"""The published set-up and the ablations: each overlay trains two epochs and infers on a tiny cohort."""

import ast
import itertools
import json
import shlex

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser

from ..helpers import ROOT, TINY_CONFIG
from ..helpers.commands import commands
from ..helpers.configuration import configuration

SUBJECT = "phantom-001"
PUBLISHED = ["al_masni_2020.json", TINY_CONFIG.with_name("tiny_published.json")]
STOCK_ANCHORS = [
    [1.3221, 1.73145], [3.19275, 4.00944], [5.05587, 8.09892], [9.47112, 4.84053], [11.2364, 10.0071]
]  # fmt: skip


def train_and_infer(bundle, cohort, folder, overlays):
    """Train, then infer on one subject; returns the folder of the training and the result."""
    trained, found = folder / "trained", folder / "found"
    bundle("training", ["train.json", *overlays], folder, dataset_dir=cohort, output_dir=trained)
    bundle(
        "run", ["inference.json", *overlays], folder, dataset_dir=cohort, output_dir=found,
        checkpoint=trained / "model.pt", subjects=[SUBJECT], picture=False, candidate_threshold=0.0,
    )  # fmt: skip
    result = json.loads((found / SUBJECT / f"{SUBJECT}_cmb.json").read_text())
    scan = nib.load(cohort / "Data" / "SWI" / f"{SUBJECT}.nii.gz")
    labels = nib.load(found / SUBJECT / f"{SUBJECT}_cmb.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine)
    assert len(result["candidates"]) > 0
    for candidate in result["candidates"]:
        assert 0 <= candidate["probability"] <= 1
        assert (np.abs(np.array(candidate["voxel"]) - (np.array(scan.shape) - 1) / 2) <= np.array(scan.shape) / 2).all()
        expected = nib.affines.apply_affine(scan.affine, candidate["voxel"])
        np.testing.assert_allclose(candidate["ras_mm"], expected, atol=0.01)
    assert list(pd.read_csv(trained / "detector_log.csv")["epoch"]) == [1, 2]
    assert list(pd.read_csv(trained / "classifier_log.csv")["epoch"]) == [1, 2]
    return trained, result


@pytest.fixture(scope="module")
def published(bundle, tiny_cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    yield train_and_infer(bundle, tiny_cohort, folder, PUBLISHED)
    for path in (folder / "trained").glob("*.pt"):
        path.unlink()


def test_published_set_up_trains_and_infers(published):
    trained, _ = published
    state = torch.load(trained / "detector_last.pt", weights_only=True)
    network = state["network"]
    np.testing.assert_allclose(network["loss.anchors"], STOCK_ANCHORS, rtol=1e-6)
    assert network["network.predictions.weight"].shape == (30, 1024, 1, 1)
    weights = [key for key in network if key.startswith("network.") and key.endswith((".weight", ".bias"))]
    assert sum(network[key].numel() for key in weights) == pytest.approx(50.6e6, rel=0.002)
    assert state["lr_scheduler"]["last_epoch"] == 2, "one iteration an epoch"
    assert network["loss.seen"] == 2 * 4
    decaying, others = state["optimizer"]["param_groups"]
    for group in (decaying, others):
        assert group["initial_lr"] == 0.0005
        assert group["lr"] == pytest.approx(0.0005 * (3 / 1000) ** 4, rel=1e-9)
        assert group["momentum"] == 0.9
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.0005, 0)
    assert len(decaying["params"]) == 23
    classifier = torch.load(trained / "classifier_last.pt", weights_only=True)
    (group,) = classifier["optimizer"]["param_groups"]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.001, (0.9, 0.999), 0)
    assert sum(value.shape[0] for key, value in classifier["network"].items() if value.ndim == 5) == 32 + 64 * 2 + 256


def test_published_numbers(tiny_cohort, tmp_path):
    """What the overlay says where a tiny training has other values."""
    parser = configuration("al_masni_2020.json")
    parser["dataset_dir"], parser["output_dir"] = str(tiny_cohort), str(tmp_path)
    assert parser["slice_size"] == [448, 448]
    assert parser["detector_sizes"] == list(range(320, 609, 32))
    assert (parser["detector_batch_size"], parser["classifier_batch_size"], parser["classifier_epochs"]) == (
        16,
        50,
        100,
    )
    schedule = parser["detector_schedule"]
    assert (schedule["burn_in"], schedule["power"]) == (1000, 4)
    assert (schedule["steps"], schedule["scales"]) == ([10000, 30000], [0.1, 0.1])
    length = len(parser.get_parsed_content("train#dataloader"))
    assert parser.get_parsed_content("detector_epochs") == -(-40000 // length)
    weights = parser.get_parsed_content("classifier_loss").weight
    assert weights.tolist() == [1, 5]
    jitter, flip, exposure = parser.get_parsed_content("detector_augmentation")
    assert (jitter.jitter, exposure.exposure, flip.prob) == (0.3, 1.5, 0.5)
    loss = parser.get_parsed_content("network_def").detector.loss
    scales = (loss.object_scale, loss.noobject_scale, loss.class_scale, loss.coord_scale, loss.thresh)
    assert scales == (5, 1, 1, 1, 0.6)
    assert loss.rescore and loss.bias_match and loss.weight_small_boxes
    assert (loss.objectness_loss, loss.warmup_images) == ("squared_error", 12800)
    assert parser.get_parsed_content("train#slices").average == 3


def test_swi_only(bundle, tiny_cohort, tmp_path):
    trained, result = train_and_infer(bundle, tiny_cohort, tmp_path, ["swi_only.json", TINY_CONFIG])
    state = torch.load(trained / "model.pt", weights_only=True)
    assert state["detector.network.stages.0.0.0.weight"].shape[1] == 5
    assert state["classifier.features.0.weight"].shape[1] == 1
    assert "The phase was left out" in result["notices"]


def test_no_averaging(bundle, tiny_cohort, tmp_path):
    train_and_infer(bundle, tiny_cohort, tmp_path, ["no_averaging.json", TINY_CONFIG])
    published = "al_masni_2020.json"
    for start, key in (("train.json", "inferer"), ("train.json", "validate#inferer"), ("inference.json", "inferer")):
        parser = configuration(published, "no_averaging.json", start=start)
        assert parser.get_parsed_content(key).average == 1
        assert configuration(published, start=start).get_parsed_content(key).average == 3
    assert configuration(published, "no_averaging.json").get_parsed_content("train#slices").average == 1


def test_no_phase_is_as_a_scan_without_a_phase(bundle, tiny_cohort, tmp_path):
    """On the shipped weights, which have seen scans without a phase."""
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / f"{SUBJECT}_swi.nii.gz").symlink_to(tiny_cohort / "Data" / "SWI" / f"{SUBJECT}.nii.gz")
    results = []
    for folder, overlays in ((tiny_cohort, ["no_phase.json"]), (alone, []), (tiny_cohort, [])):
        output = tmp_path / f"found_{len(results)}"
        bundle(
            "run", ["inference.json", *overlays], tmp_path, dataset_dir=folder, output_dir=output,
            subjects=[SUBJECT], picture=False, candidate_threshold=0.0,
        )  # fmt: skip
        results.append(json.loads((output / SUBJECT / f"{SUBJECT}_cmb.json").read_text())["candidates"])
    left_out, without, with_phase = results
    assert len(left_out) > 0
    assert left_out == without
    assert left_out != with_phase


def test_overlays_combine():
    parser = configuration("al_masni_2020.json", "swi_only.json", "no_averaging.json")
    network = parser.get_parsed_content("network_def")
    assert network.detector.network.stages[0][0][0].weight.shape == (32, 1, 3, 3)
    assert network.classifier(torch.zeros(2, 1, 16, 16, 16)).shape == (2, 2)
    assert parser["average"] == 1


@pytest.mark.parametrize("command", commands(ROOT / "docs" / "how_it_was_made" / "published_setup.md"))
def test_commands_of_the_page_name_what_is_there(command):
    """They train for hours as they stand, so their files and keys are tried without running them."""
    words = shlex.split(command)
    given = dict(itertools.pairwise(words))
    run_id = "run" if words[4].startswith("--") else words[4]
    files = [str(ROOT / name) for name in ast.literal_eval(given["--config_file"])]
    config = ConfigParser.load_config_files(files)
    parser = ConfigParser(json.loads(json.dumps(config).replace('"scripts.', '"cmb_bundle.scripts.')))
    assert run_id in config
    for key, value in given.items():
        key = key.removeprefix("--")
        if key == "config_file" or not given.get(f"--{key}"):
            continue
        section, _, name = key.rpartition("#")
        assert name in parser[section]
        parser[key] = value if not value.replace(".", "").isdigit() else float(value)
    loss = parser.get_parsed_content("network_def").detector.loss
    assert loss.objectness_loss == given.get("--network_def#detector#loss_parameters#objectness_loss", "squared_error")
    assert len(loss.anchors) == 5
