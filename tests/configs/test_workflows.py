"""Whole workflows, as a user runs them: python -m monai.bundle, from another folder, on files."""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

import cmb_bundle
from cmb_bundle.scripts.inference.writers import TABLE_HEADER
from cmb_bundle.scripts.phantom import SMALL, make_cohort

from ..helpers import CONFIGS, TINY_CONFIG
from ..helpers.processes import run_code, run_ranks, start_module

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
TRAIN = ["train.json", TINY_CONFIG]
INFERENCE = ["inference.json", TINY_CONFIG]
EVALUATE = ["inference.json", "evaluate.json", TINY_CONFIG]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def trained(tiny_cohort, bundle, elsewhere):
    """The output of a training on the Data/Label folder."""
    bundle("training", TRAIN, elsewhere, dataset_dir=tiny_cohort, output_dir=elsewhere / "trained")
    return elsewhere / "trained"


@pytest.fixture(scope="module")
def flat(tiny_cohort, elsewhere):
    """The same scans in a flat folder, without labels."""
    folder = elsewhere / "flat"
    folder.mkdir()
    for modality, suffix in (("SWI", "swi"), ("Phase", "phase")):
        for path in (tiny_cohort / "Data" / modality).iterdir():
            shutil.copy(path, folder / path.name.replace(".nii.gz", f"_{suffix}.nii.gz"))
    return folder


def subjects_of(cohort):
    return sorted(path.name.removesuffix(".nii.gz") for path in (cohort / "Data" / "SWI").iterdir())


@pytest.mark.parametrize(
    "names",
    [
        ["train"],
        *(
            ["train", overlay]
            for overlay in (
                "al_masni_2020", "cross_validate", "darknet", "federated", "no_averaging", "no_phase", "retinanet",
                "select_by_froc", "swi_only",
            )
        ),
        ["inference"],
        ["inference", "evaluate"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_configs_have_the_properties_of_a_bundle(names, trained, tiny_cohort, tmp_path):
    files = [str(CONFIGS / f"{name}.json") for name in names]
    files += [] if len(names) == 2 and names[0] == "train" else [str(TINY_CONFIG)]
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="train" if names[0] == "train" else "infer",
        dataset_dir=str(tiny_cohort),
        output_dir=str(tmp_path / "output"),
        folds=3,
        **({} if names[0] == "train" else {"checkpoint": str(trained / "model.pt")}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.bundle_root == str(CONFIGS.parent)


def nodes(config, target):
    """Every part of a configuration whose ``_target_`` ends in ``target``."""
    if isinstance(config, dict) and str(config.get("_target_")).endswith(target):
        yield config
    for part in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from nodes(part, target)


@pytest.mark.parametrize("names", ["train", "train multi_gpu_train", "train select_by_froc", "inference"])
@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda:0", True)])
def test_batches_are_pinned_and_sent_without_waiting_on_cuda_alone(names, device, pinned):
    config = ConfigParser.load_config_files([str(CONFIGS / f"{name}.json") for name in names.split()])
    parser = ConfigParser(config)
    parser.update({"device": device})
    assert parser.get_parsed_content("pin_memory") is pinned
    loaders = list(nodes(config, "DataLoader"))
    engines = [*nodes(config, "Trainer"), *nodes(config, "Evaluator")]
    assert [loader["pin_memory"] for loader in loaders] == ["@pin_memory"] * len(loaders)
    assert [engine["non_blocking"] for engine in engines] == ["@pin_memory"] * len(engines)
    assert min(len(loaders), len(engines)) >= (1 if names == "inference" else 4)


PROPERTIES = """
import sys
from monai.bundle import ConfigWorkflow
files, dataset_dir, output_dir = sys.argv[1].split(), *sys.argv[2:]
workflow = ConfigWorkflow(config_file=files, workflow_type="train", dataset_dir=dataset_dir, output_dir=output_dir)
workflow.initialize()
print("lacking:", workflow.check_properties())
"""


@pytest.mark.parametrize(
    ("overlay", "elsewhere_named"),
    [
        ("multi_gpu_train", []),
        # the trainer of stage 2 names its own handlers and metric, below train_classifier and validate_classifier
        ("federated_classifier", ["train_handlers", "val_handlers", "val_key_metric"]),
    ],
)
def test_properties_of_overlays_that_need_processes_or_a_first_stage(
    overlay, elsewhere_named, trained, tiny_cohort, tmp_path
):
    shutil.copytree(trained, tmp_path / "output")
    files = " ".join(str(path) for path in (CONFIGS / "train.json", TINY_CONFIG, CONFIGS / f"{overlay}.json"))
    given = [files, tiny_cohort, "output"]
    if overlay == "multi_gpu_train":
        (tmp_path / "check.py").write_text(PROPERTIES)
        done = run_ranks(["check", *given], tmp_path, number=1)
    else:
        done = run_code(PROPERTIES, tmp_path, given)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"lacking: {elsewhere_named}" in done.stdout


def test_training_writes_weights_logs_and_the_split(trained, tiny_cohort):
    state = torch.load(trained / "model.pt", weights_only=True)
    best = torch.load(trained / "detector_best.pt", weights_only=True)
    assert all(torch.equal(state[f"detector.{key}"], value) for key, value in best.items())
    best = torch.load(trained / "classifier_best.pt", weights_only=True)
    assert all(torch.equal(state[f"classifier.{key}"], value) for key, value in best.items())

    log = pd.read_csv(trained / "classifier_log.csv")
    assert list(log.columns) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert list(log["epoch"]) == [1, 2]
    last = torch.load(trained / "classifier_last.pt", weights_only=True)
    assert last["best_epoch"] == log["epoch"][log["val_loss"].idxmin()]
    assert -last["best_score"] == pytest.approx(log["val_loss"].min())
    assert list(pd.read_csv(trained / "detector_log.csv").columns) == ["epoch", "loss", "val_mean_sensitivity"]

    split = json.loads((trained / "datalist.json").read_text())
    assert sorted(entry["subject"] for entry in split["training"]) == subjects_of(tiny_cohort)
    assert {entry["fold"] for entry in split["training"]} == {0, 1, 2}
    assert list((trained / "tensorboard" / "detector").iterdir())
    assert not (trained / "failures.csv").exists()


def test_training_on_a_flat_folder_gives_the_same_weights(trained, flat, tiny_cohort, bundle, elsewhere):
    folder, output = elsewhere / "flat_labelled", elsewhere / "flat_trained"
    shutil.copytree(flat, folder)
    for path in (tiny_cohort / "Label").iterdir():
        shutil.copy(path, folder / f"{path.stem}_label.xlsx")
    bundle("training_detector", TRAIN, elsewhere, dataset_dir=folder, output_dir=output)
    expected = torch.load(trained / "detector_best.pt", weights_only=True)
    found = torch.load(output / "detector_best.pt", weights_only=True)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_fine_tuning_starts_both_stages_from_the_given_weights(trained, tiny_cohort, bundle, elsewhere):
    start, output = trained / "model.pt", elsewhere / "tuned"
    bundle(
        "training", TRAIN, elsewhere, dataset_dir=tiny_cohort, output_dir=output, initial_weights=start,
        detector_learning_rate=0.0, classifier_learning_rate=0.0, detector_epochs=1, classifier_epochs=1,
    )  # fmt: skip
    given = torch.load(start, weights_only=True)
    tuned = torch.load(output / "model.pt", weights_only=True)
    learned = [key for key in given if key.endswith(("weight", "bias"))]
    # calibration scales the last layer of stage 2
    last = [key for key in learned if key.startswith("classifier.")][-2:]
    assert all(torch.equal(given[key], tuned[key]) for key in set(learned) - set(last))
    assert int(tuned["detector.loss.seen"]) > int(given["detector.loss.seen"])


def test_inference_on_a_flat_folder_without_labels(trained, flat, bundle, elsewhere, tiny_cohort):
    output = elsewhere / "found"
    done = bundle(
        "run", INFERENCE, elsewhere, dataset_dir=flat, output_dir=output, checkpoint=trained / "model.pt",
        candidate_threshold=0.0, probability_threshold=0.0,
    )  # fmt: skip
    assert sorted(path.name for path in output.iterdir()) == [*subjects_of(tiny_cohort), "subjects.csv"]
    found = 0
    for subject in subjects_of(tiny_cohort):
        folder = output / subject
        scan, labels = nib.load(flat / f"{subject}_swi.nii.gz"), nib.load(folder / f"{subject}_cmb.nii.gz")
        assert labels.shape == scan.shape
        np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-5)
        result = json.loads((folder / f"{subject}_cmb.json").read_text())
        table = pd.read_csv(folder / f"{subject}_cmb.csv")
        assert list(table.columns) == TABLE_HEADER
        assert len(table) == len(result["microbleeds"]) == len(np.unique(labels.dataobj)) - 1
        for bleed in result["microbleeds"]:
            assert set(bleed) == {
                "voxel", "ras_mm", "diameter_mm", "detector_score", "classifier_probability", "probability", "n_slices",
            }  # fmt: skip
            np.testing.assert_allclose(
                nib.affines.apply_affine(scan.affine, bleed["voxel"]), bleed["ras_mm"], atol=0.01
            )
        assert all({"accepted", "reason"} <= set(candidate) for candidate in result["candidates"])
        assert (folder / f"{subject}_cmb.png").read_bytes().startswith(b"\x89PNG")
        found += len(table)
    assert f"{found} microbleed{'s' * (found != 1)} in 5 subjects" in done.stdout


def test_evaluation_scores_only_the_test_fold(trained, bundle, elsewhere, tiny_cohort):
    output = elsewhere / "scores"
    done = bundle(
        "run", EVALUATE, elsewhere, dataset_dir=tiny_cohort, output_dir=output, checkpoint=trained / "model.pt",
        datalist_file=trained / "datalist.json", candidate_threshold=0.0, probability_threshold=0.0,
    )  # fmt: skip
    split = json.loads((trained / "datalist.json").read_text())["training"]
    test = sorted(entry["subject"] for entry in split if entry["fold"] == 0)
    per_subject = pd.read_csv(output / "per_subject.csv")
    assert set(per_subject["system"]) == {"YOLOv2 + 3D CNN", "3D-FRST + 3D CNN"}
    per_subject = per_subject[per_subject["system"] == "YOLOv2 + 3D CNN"]
    assert sorted(per_subject["subject"]) == test
    truths = {s: json.loads((tiny_cohort / "Truth" / f"{s}.json").read_text())["microbleeds"] for s in test}
    assert list(per_subject.set_index("subject")["n_lesions"][test]) == [len(truths[s]) for s in test]
    scores = json.loads((output / "metrics.json").read_text())
    assert scores["end_to_end"]["n_lesions"] == sum(map(len, truths.values()))
    results = [json.loads((output / s / f"{s}_cmb.json").read_text()) for s in per_subject["subject"]]
    predicted = [int(line) for line in (output / "Predicted.csv").read_text().split()]
    assert predicted == [int(c["accepted"]) for r in results for c in r["candidates"]]
    assert len((output / "Actual.csv").read_text().split()) == len(predicted)
    assert "end_to_end" in done.stdout


def test_shipped_weights_find_microbleeds_of_an_unseen_phantom(bundle, elsewhere):
    weights = CONFIGS.parent / "models" / "model.pt"
    assert weights.stat().st_size < 25e6
    folder, output = elsewhere / "unseen", elsewhere / "unseen_found"
    make_cohort(folder, subjects=1, preset=dataclasses.replace(SMALL, microbleeds=6), seed=4321, progress=False)
    bundle("run", EVALUATE[:2], elsewhere, dataset_dir=folder, output_dir=output, subset="all")
    scores = json.loads((output / "metrics.json").read_text())["end_to_end"]
    assert scores["n_lesions"] == 6
    assert scores["true_positives"] >= 4
    assert scores["false_positives"] <= 4


def test_a_bad_subject_does_not_stop_the_others(trained, flat, bundle, elsewhere, tiny_cohort):
    folder, output = elsewhere / "with_bad", elsewhere / "with_bad_found"
    shutil.copytree(flat, folder)
    good, truncated, mismatched, *_ = subjects_of(tiny_cohort)
    for path in folder.iterdir():
        if path.name.split("_")[0] not in (good, truncated, mismatched):
            path.unlink()
    path = folder / f"{truncated}_swi.nii.gz"
    path.write_bytes(path.read_bytes()[:20000])
    phase = nib.load(folder / f"{mismatched}_phase.nii.gz")
    nib.save(phase.slicer[:, :, 1:], folder / f"{mismatched}_phase.nii.gz")
    stale = output / truncated / f"{truncated}_cmb.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier run")
    done = bundle(
        "run", INFERENCE, elsewhere, check=False, dataset_dir=folder, output_dir=output, checkpoint=trained / "model.pt"
    )
    assert done.returncode != 0
    assert (output / good / f"{good}_cmb.json").is_file()
    assert not stale.exists()
    failures = pd.read_csv(output / "failures.csv").set_index("subject")["reason"]
    assert sorted(failures.index) == sorted([truncated, mismatched])
    assert f"{truncated}_swi.nii.gz cannot be read" in failures[truncated]
    assert "Expected the same grid" in failures[mismatched]
    last = done.stderr[done.stderr.index("\n\n2 of 3 subjects failed") :]
    assert len(last.split("\n")) == 6, "the summary is the last thing that is said"


def test_a_bad_training_subject_is_left_out_and_told(tiny_cohort, bundle, elsewhere):
    folder, output = elsewhere / "bad_training", elsewhere / "bad_trained"
    shutil.copytree(tiny_cohort, folder)
    bundle("training_detector", TRAIN, elsewhere, dataset_dir=folder, output_dir=output, detector_epochs=1)
    split = json.loads((output / "datalist.json").read_text())["training"]
    bad = next(entry["subject"] for entry in split if entry["fold"] == 2)
    path = folder / "Data" / "SWI" / f"{bad}.nii.gz"
    scan = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(scan.shape, np.float32), scan.affine), path)
    done = bundle(
        "training_detector", TRAIN, elsewhere, check=False, dataset_dir=folder, output_dir=output, detector_epochs=2
    )
    assert done.returncode != 0
    assert torch.load(output / "detector_last.pt", weights_only=True)["epoch"] == 2
    assert list(pd.read_csv(output / "failures.csv")["subject"]) == [bad]
    assert "has the value 0 everywhere" in done.stderr


def test_metadata_describes_the_networks():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    parser = ConfigParser(
        json.loads((CONFIGS / "inference.json").read_text().replace('"scripts.', '"cmb_bundle.scripts.'))
    )
    network = parser.get_parsed_content("network_def").eval()
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == [f"{network.detector.network.stride}*n"] * 2
    raw = network(torch.zeros(1, image["num_channels"], 64, 48))
    stride = network.detector.network.stride
    channels = metadata["network_data_format"]["outputs"]["pred"]["num_channels"]
    assert raw.shape == (1, channels, 64 // stride, 48 // stride)
    patch = metadata["classifier_data_format"]["inputs"]["image"]
    logits = network.classifier(torch.zeros(1, patch["num_channels"], *patch["spatial_shape"]))
    assert logits.shape == (1, metadata["classifier_data_format"]["outputs"]["pred"]["num_channels"])
    pins = (CONFIGS.parents[1] / "constraints.txt").read_text()
    named = metadata["required_packages_version"] | {
        "torch": metadata["pytorch_version"],
        "monai": metadata["monai_version"],
    }
    assert [name for name, version in named.items() if f"{name}=={version}" not in pins] == []
    assert metadata["version"] == cmb_bundle.__version__ and metadata["version"] in metadata["changelog"]


def test_anchors_can_be_fitted_to_the_training_boxes(tiny_cohort, bundle, elsewhere):
    done = bundle(
        "fit_anchors", TRAIN, elsewhere, dataset_dir=tiny_cohort, output_dir=elsewhere / "anchors", box_mm=8.0
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("network_def#detector#anchors of"))
    anchors = json.loads(line.partition(": ")[2])
    assert len(anchors) == 2
    # 8 mm at 0.6 mm a pixel and 4 pixels a cell; the few boxes at the edge of a slice are smaller
    assert max(max(anchor) for anchor in anchors) == pytest.approx(8 / 0.6 / 4, rel=0.05)


def test_another_fold_is_not_trained_into_the_same_output(trained, tiny_cohort, bundle, elsewhere):
    output = elsewhere / "fold_1"
    shutil.copytree(trained, output)
    done = bundle("training", TRAIN, elsewhere, check=False, dataset_dir=tiny_cohort, output_dir=output, fold=1)
    assert done.returncode != 0
    assert "Use another output_dir for each fold" in done.stderr.strip().splitlines()[-1]


def test_weights_of_another_architecture_are_refused(trained, flat, bundle, elsewhere):
    done = bundle(
        "run", ["inference.json"], elsewhere, check=False, dataset_dir=flat, output_dir=elsewhere / "refused",
        checkpoint=trained / "model.pt",
    )  # fmt: skip
    assert done.returncode != 0
    assert "is of another architecture" in done.stderr.strip().splitlines()[-1]
    assert not (elsewhere / "refused").exists()


@pytest.mark.parametrize(
    ("overlay", "context", "channels"), [([], 1, 2), (["swi_only.json"], 3, 3)], ids=["single slices", "SWI alone"]
)
def test_stage_1_on_other_channels(overlay, context, channels, tiny_cohort, bundle, elsewhere):
    output = elsewhere / f"context{context}"
    how = {"dataset_dir": tiny_cohort, "context": context}
    bundle(
        "training", [*TRAIN, *overlay], elsewhere, output_dir=output, detector_epochs=1, classifier_epochs=1, **how
    )  # fmt: skip
    weights = torch.load(output / "model.pt", weights_only=True)
    first = next(tensor for key, tensor in weights.items() if key.startswith("detector.network.stages.0"))
    assert first.shape[1] == channels
    bundle(
        "run", [*INFERENCE, *overlay], elsewhere, checkpoint=output / "model.pt", output_dir=output / "found",
        candidate_threshold=0.0, subjects=["phantom-001"], **how,
    )  # fmt: skip
    (result,) = [json.loads(path.read_text()) for path in (output / "found").glob("*/*_cmb.json")]
    assert len(result["candidates"]) > 0


def test_killed_training_resumes_to_the_weights_of_an_unbroken_one(trained, tiny_cohort, elsewhere, bundle):
    output = elsewhere / "killed"
    files = str([str(CONFIGS / "train.json"), str(TINY_CONFIG)])
    command = ["monai.bundle", "run", "training", "--config_file", files]
    command += ["--dataset_dir", str(tiny_cohort), "--output_dir", str(output)]
    for stage in ("detector", "classifier"):
        process = start_module(command, elsewhere, elsewhere / "killed_out", elsewhere / "killed_log")
        deadline = time.monotonic() + 300
        while not (output / f"{stage}_last.pt").exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
    assert not (output / "model.pt").exists()
    bundle("training", TRAIN, elsewhere, dataset_dir=tiny_cohort, output_dir=output)
    whole = torch.load(trained / "model.pt", weights_only=True)
    resumed = torch.load(output / "model.pt", weights_only=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    for name in ("detector_log.csv", "classifier_log.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(trained / name), pd.read_csv(output / name))


def test_swi_of_a_phantom_is_computed_from_magnitude_and_phase_and_written(tiny_cohort, bundle, elsewhere):
    with_swi, without = subjects_of(tiny_cohort)[:2]
    folder, output = elsewhere / "computed", elsewhere / "computed_found"
    folder.mkdir()
    for subject, scans in (
        (with_swi, {"SWI": "swi", "Phase": "phase"}),
        (without, {"Magnitude": "mag", "Phase": "phase"}),
    ):
        for source, name in scans.items():
            shutil.copy(tiny_cohort / "Data" / source / f"{subject}.nii.gz", folder / f"{subject}_{name}.nii.gz")
    bundle("run", ["inference.json"], elsewhere, dataset_dir=folder, output_dir=output, picture=False)
    assert not (output / with_swi / f"{with_swi}_cmb_swi.nii.gz").exists()
    swi = nib.load(output / without / f"{without}_cmb_swi.nii.gz")
    simulated = nib.load(tiny_cohort / "Data" / "SWI" / f"{without}.nii.gz")
    assert swi.shape == simulated.shape
    np.testing.assert_allclose(swi.affine, simulated.affine, atol=1e-5)
    assert np.corrcoef(swi.get_fdata().ravel(), simulated.get_fdata().ravel())[0, 1] > 0.95


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not beside this checkout")
def test_real_scans_of_magnitude_and_phase(trained, bundle, elsewhere):
    output = elsewhere / "real_found"
    folder = elsewhere / "real"
    for subject in ("gre_crop",):
        shutil.copytree(REAL / subject, folder / subject)
    bundle("run", INFERENCE, elsewhere, dataset_dir=folder, output_dir=output, checkpoint=trained / "model.pt")
    result = json.loads((output / "gre_crop" / "gre_crop_cmb.json").read_text())
    assert "Echo 3 of 3 was taken." in result["notices"]
    assert "SWI was computed from magnitude and phase." in result["notices"]
    magnitude = nib.load(REAL / "gre_crop" / "mag.nii.gz")
    swi = nib.load(output / "gre_crop" / "gre_crop_cmb_swi.nii.gz")
    assert swi.shape == magnitude.shape[:3]
    np.testing.assert_allclose(swi.affine, magnitude.affine, atol=1e-5)
    ratio = swi.get_fdata() / np.maximum(magnitude.get_fdata()[..., 2], 1e-6)
    assert ratio.max() <= 1 + 1e-5
    assert 0.5 < np.median(ratio) <= 1
