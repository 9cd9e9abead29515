"""Cross-validation as a user runs it: whole, killed and resumed, in parts; and what it refuses."""

import json
import os
import shutil
import signal
import time

import pandas as pd
import pytest
import torch

from cmb_bundle.scripts.errors import TrainingError, root_cause
from cmb_bundle.scripts.training.cross_validation import _run

from ..helpers import CONFIGS, TINY_CONFIG
from ..helpers.darknet import cfg_text, conv, write_small
from ..helpers.keras import small_model
from ..helpers.processes import start_module

CROSS_VALIDATE = ["train.json", "cross_validate.json", TINY_CONFIG]
FASTER = {"detector_epochs": 1, "classifier_epochs": 1, "bootstrap": 50}


@pytest.fixture(scope="module")
def whole(tiny_cohort, bundle, tmp_path_factory):
    """The output of an unbroken cross-validation of three folds."""
    folder = tmp_path_factory.mktemp("whole")
    bundle("run", CROSS_VALIDATE, folder, dataset_dir=tiny_cohort, output_dir=folder / "output", **FASTER)
    return folder / "output"


@pytest.fixture(scope="module")
def imported(tiny_cohort, bundle, tmp_path_factory):
    """
    Fold 0 of a cross-validation that starts from stages of darknet and Keras, with settings that only inference has;
    its output, and a function that gives the candidates of an evaluation by hand of the same subjects.
    """
    folder = tmp_path_factory.mktemp("imported")
    pool = "[maxpool]\nsize=2\nstride=2"
    cfg, weights, _ = write_small(folder, cfg_text(conv(8), pool, conv(8), pool, conv(8)))
    small_model().save(folder / "model.keras")
    (folder / "mine.json").write_text('{"inferer#max_candidates": 20}')
    overlays, evaluation = ["darknet.json", "keras.json"], ["inference.json", "evaluate.json"]
    options = {"dataset_dir": tiny_cohort, "darknet_cfg": cfg, "keras_weights": folder / "model.keras"}
    options |= {"candidate_threshold": 0.3, "score_slices": 3, "bootstrap": 50}
    bundle(
        "run", [*CROSS_VALIDATE, *overlays], folder, output_dir=folder / "output", run_folds=0, darknet_weights=weights,
        evaluation_configs=[*evaluation, str(folder / "mine.json")], **FASTER | options,
    )  # fmt: skip

    def by_hand(name, **changes):
        given = {"checkpoint": folder / "output" / "fold_0" / "model.pt", "classifier_from_checkpoint": True}
        given |= {"datalist_file": folder / "output" / "datalist.json", "fold": 0, "folds": 3}
        given |= {"compare_with_baseline": False, "picture": False}
        if changes.pop("as_imported", False):
            given |= {"darknet_weights": weights, "classifier_from_checkpoint": False}
        bundle(
            "run", [*evaluation, TINY_CONFIG, *overlays, folder / "mine.json"], folder, output_dir=folder / name,
            **options | given | changes,
        )  # fmt: skip
        return scores(folder / name)

    return folder / "output", by_hand


def scores(evaluation):
    """Place, detector score and probability of the candidates of the two stages."""
    records = json.loads((evaluation / "records.json").read_text())["records"]
    return [
        (record["subject"], *candidate["ras_mm"], candidate["detector_score"], candidate["probability"])
        for record in records
        if record["system"] == "YOLOv2 + 3D CNN"
        for candidate in record["candidates"]
    ]


def split(output):
    entries = json.loads((output / "datalist.json").read_text())["training"]
    return {entry["subject"]: entry["fold"] for entry in entries}


def test_each_subject_is_scored_once_by_weights_that_had_not_seen_it(whole):
    table = pd.read_csv(whole / "per_subject.csv")
    assert dict(zip(table["subject"], table["fold"], strict=True)) == split(whole)
    assert sorted(table["system"].value_counts()) == [5, 5]
    for fold in range(3):
        state = json.loads((whole / f"fold_{fold}" / "train.json").read_text())
        assert state["fold"] == fold and state["detector_epochs"] == 1
        assert (whole / f"fold_{fold}" / "model.pt").is_file()
        records = json.loads((whole / f"fold_{fold}" / "evaluation" / "records.json").read_text())["records"]
        assert {record["subject"] for record in records} == {s for s, f in split(whole).items() if f == fold}


def test_the_report_names_the_folds_and_the_rival(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["evaluated"]["folds"] == [0, 1, 2]
    assert metrics["end_to_end"]["n_subjects"] == 5
    assert list(metrics["rivals"]) == ["3D-FRST + 3D CNN"]
    assert metrics["evaluated"]["bootstrap"]["samples"] == 50, "values reach the evaluation, too"
    for scores in (metrics, metrics["rivals"]["3D-FRST + 3D CNN"]):
        folds = scores["by_fold"]["folds"]
        assert sum(row["n_lesions"] for row in folds.values()) == metrics["end_to_end"]["n_lesions"]
        rates = pd.Series([row["stage_1_FPavg"] for row in folds.values()])
        spread = scores["by_fold"]["spread"]
        assert spread["mean"]["stage_1_FPavg"] == pytest.approx(rates.mean())
        assert spread["sd"]["stage_1_FPavg"] == pytest.approx(rates.std())
        assert (spread["min"]["stage_1_FPavg"], spread["max"]["stage_1_FPavg"]) == (rates.min(), rates.max())
    assert "Each fold" in (whole / "report.html").read_text()


def test_the_evaluation_has_inferences_own_inferer_and_precision(whole):
    inference = json.loads((CONFIGS / "inference.json").read_text())
    training, evaluation = (
        json.loads((whole / "fold_0" / name).read_text()) for name in ("train.json", "evaluate.json")
    )
    for key in ("inferer", "precision"):
        assert evaluation[key] == inference[key] != training[key]
    assert evaluation["candidate_threshold"] == training["candidate_threshold"] == 0.02
    records = json.loads((whole / "fold_0" / "evaluation" / "records.json").read_text())["records"]
    assert {r["candidate_threshold"] for r in records if r["system"] == "YOLOv2 + 3D CNN"} == {0.02}


def test_the_folds_own_stages_are_scored_where_they_began_as_imported_ones(imported):
    output, by_hand = imported
    found = scores(output / "fold_0" / "evaluation")
    assert {row[0] for row in found} == {subject for subject, fold in split(output).items() if fold == 0}
    assert found == by_hand("own")
    other = by_hand("foreign", as_imported=True)
    assert [row[-2] for row in found] != [row[-2] for row in other], "detector scores"
    assert [row[-1] for row in found] != [row[-1] for row in other], "probabilities"


def test_settings_that_only_inference_has_reach_the_evaluation(imported):
    """Scores over three slices, as the command line says, and 20 candidates, as a file of the evaluation says."""
    output, by_hand = imported
    found = scores(output / "fold_0" / "evaluation")
    assert len(found) == 20
    assert min(row[-2] for row in found) >= 0.3
    assert [row[-2] for row in found] != [row[-2] for row in by_hand("one_slice", score_slices=1)]


def test_killed_and_resumed_it_gives_the_same_report(whole, tiny_cohort, tmp_path, bundle):
    output = tmp_path / "output"
    shutil.copytree(whole / "fold_0", output / "fold_0")
    shutil.copy(whole / "datalist.json", output)
    files = str([str(CONFIGS / "train.json"), str(CONFIGS / "cross_validate.json"), str(TINY_CONFIG)])
    command = ["monai.bundle", "run", "--config_file", files]
    command += ["--dataset_dir", str(tiny_cohort), "--output_dir", str(output)]
    command += [word for key, value in FASTER.items() for word in (f"--{key}", str(value))]
    process = start_module(command, tmp_path, tmp_path / "out", tmp_path / "log")
    deadline = time.monotonic() + 600
    mark = output / "fold_2" / "detector_last.pt"
    while not mark.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
    assert mark.exists() and not (output / "metrics.json").exists()
    before = (output / "fold_0" / "model.pt").stat().st_mtime_ns
    done = bundle("run", CROSS_VALIDATE, tmp_path, dataset_dir=tiny_cohort, output_dir=output, **FASTER)
    assert "Fold 0 (1 of 3 in this run): already finished." in done.stdout
    assert (output / "fold_0" / "model.pt").stat().st_mtime_ns == before
    for fold in range(3):
        first, second = (torch.load(f / f"fold_{fold}" / "model.pt", weights_only=True) for f in (whole, output))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    for name in ("metrics.json", "per_subject.csv", "per_lesion.csv", "false_positives.csv", "froc.csv"):
        assert (output / name).read_bytes() == (whole / name).read_bytes(), name


def test_another_configuration_is_not_mixed_in(whole, tiny_cohort, bundle):
    done = bundle(
        "run", CROSS_VALIDATE, whole.parent, check=False, dataset_dir=tiny_cohort, output_dir=whole,
        **FASTER | {"classifier_epochs": 2},
    )  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "fold_0 was started with another classifier_epochs; expected the same for all folds" in last


def test_a_fold_whose_stage_2_cannot_be_trained_is_not_trained(tiny_cohort, bundle, tmp_path):
    """No candidate and no random place: there are patches of microbleeds alone."""
    options = FASTER | {"candidate_threshold": 1.0, "patches#random_negatives": 0, "run_folds": 0}
    output = tmp_path / "output"
    done = bundle("run", CROSS_VALIDATE, tmp_path, check=False, dataset_dir=tiny_cohort, output_dir=output, **options)
    assert done.returncode != 0
    assert "Stage 2 cannot be trained: of " in done.stderr.strip().splitlines()[-1]
    state = json.loads((output / "fold_0" / "fold.json").read_text())
    assert (state["trained"], state["done"]) == (False, False)
    assert not (output / "fold_0" / "evaluation").exists()


def test_only_failed_subjects_are_passed_over(tmp_path, caplog):
    raising = {"_target_": "cmb_bundle.scripts.inference.evaluator.raise_failures", "total": 2}
    raising |= {"failures": {"a": "a reason"}, "path": str(tmp_path / "failures.csv")}
    _run({"run": [raising]}, tmp_path / "run.json", str(CONFIGS.parent))
    assert "1 of 2 subjects failed; the others are done" in caplog.text
    raising = {"_target_": f"{__name__}.cannot_be_trained"}
    with pytest.raises(Exception, match="Failed to instantiate") as caught:
        _run({"run": [raising]}, tmp_path / "run.json", str(CONFIGS.parent))
    assert isinstance(root_cause(caught.value), TrainingError)


def cannot_be_trained():
    raise TrainingError("Stage 2 cannot be trained.")


def test_folds_that_do_not_exist_are_refused(whole, tiny_cohort, bundle):
    done = bundle(
        "run", CROSS_VALIDATE, whole.parent, check=False, dataset_dir=tiny_cohort, output_dir=whole, run_folds="[3]"
    )
    assert "run_folds is [3]; expected numbers from 0 to 2" in done.stderr.strip().splitlines()[-1]


def test_the_last_part_pools(whole, tiny_cohort, bundle):
    """With one fold of its own and two done before, a call that was told to do one fold pools all."""
    former = (whole / "metrics.json").read_bytes()
    (whole / "metrics.json").unlink()
    (whole / "fold_1" / "fold.json").rename(whole / "fold_1" / "aside")
    options = {"dataset_dir": tiny_cohort, "output_dir": whole, **FASTER}
    done = bundle("run", CROSS_VALIDATE, whole.parent, run_folds="[0]", **options)
    assert "Folds 1 of 3 are not finished yet" in done.stdout
    assert not (whole / "metrics.json").exists()
    (whole / "fold_1" / "aside").rename(whole / "fold_1" / "fold.json")
    bundle("run", CROSS_VALIDATE, whole.parent, run_folds=2, **options)
    assert (whole / "metrics.json").read_bytes() == former
