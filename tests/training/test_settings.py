"""A training that is resumed with other values says which, and two trainings do not share a folder."""

import re
import time

import pytest
import torch

from cmb_bundle.scripts.errors import CheckpointError, TrainingError
from cmb_bundle.scripts.training.cross_validation import CrossValidation
from cmb_bundle.scripts.training.lock import OutputLock
from cmb_bundle.scripts.training.settings import compare_settings

from ..helpers import TINY_CONFIG
from ..helpers.processes import start_module
from .test_handlers import checkpoint_of, saved_after, started

SETTINGS = {
    "seed": 0,
    "folds": 5,
    "spacing": [0.6, 0.6, 2.0],
    "detector_learning_rate": 0.002,
    "detector_batch_size": 32,
    "classifier_learning_rate": 0.002,
    "classifier_class_weights": [1.0, 2.0],
    "network_def#detector#anchors": [[2.5, 2.5]],
    "label_convention#index_base": 1,
}


def compared(stage, **changes):
    now = {key: value for key, value in (SETTINGS | changes).items() if value is not None}
    return compare_settings(SETTINGS, now, stage, f"{stage}_last.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector_learning_rate": 0.001}, "detector_learning_rate 0.002 -> 0.001"),
        ({"detector_batch_size": 16}, "detector_batch_size 32 -> 16"),
        ({"folds": 3, "seed": 1}, "folds 5 -> 3; seed 0 -> 1"),
        ({"seed": None, "amp": True}, "amp not given -> True; seed 0 -> not given"),
    ],
)
def test_what_differs_is_said(change, words, caplog):
    assert "; ".join(compared("detector", **change)) == words
    assert f"detector: resumed from detector_last.pt with other values than before: {words}" in caplog.text


def test_nothing_is_said_of_what_does_not_differ_or_was_not_saved_or_is_of_the_other_stage(caplog):
    assert compared("detector") == []
    assert compare_settings({}, SETTINGS, "detector", "a") == compare_settings(SETTINGS, {}, "detector", "a") == []
    assert compared("detector", classifier_learning_rate=1.0, classifier_class_weights=[1.0, 1.0]) == []
    assert compared("classifier", detector_learning_rate=1.0, **{"network_def#detector#anchors": [[1.0, 1.0]]}) == []
    assert caplog.text == ""
    assert compared("classifier", classifier_learning_rate=1.0) == ["classifier_learning_rate 0.002 -> 1.0"]


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        ("detector", {"spacing": [0.5, 0.5, 2.0]}, "spacing [0.6, 0.6, 2.0] -> [0.5, 0.5, 2.0]"),
        ("classifier", {"spacing": [0.5, 0.5, 2.0], "seed": 3}, "spacing [0.6, 0.6, 2.0] -> [0.5, 0.5, 2.0]"),
        ("detector", {"label_convention#index_base": 0}, "label_convention#index_base 1 -> 0"),
        ("detector", {"network_def#detector#anchors": [[2.0, 2.0]]}, "anchors [[2.5, 2.5]] -> [[2.0, 2.0]]"),
        ("classifier", {"classifier_class_weights": [1.0, 5.0]}, "classifier_class_weights [1.0, 2.0] -> [1.0, 5.0]"),
    ],
)
def test_what_would_make_the_result_meaningless_is_refused(stage, change, words):
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        compared(stage, **change)
    assert f"{stage}_last.pt was trained with other values: " in str(caught.value)
    assert "resume=False to start again" in str(caught.value) and "seed" not in str(caught.value)


def test_settings_are_saved_with_the_state_and_compared_at_a_resume(tmp_path, caplog):
    saved_after(tmp_path, 2, settings=SETTINGS)
    assert torch.load(tmp_path / "net_last.pt", weights_only=True)["settings"] == SETTINGS
    assert started(checkpoint_of(tmp_path, settings=SETTINGS)).state.epoch == 2
    assert "other values" not in caplog.text
    assert started(checkpoint_of(tmp_path, settings=SETTINGS | {"seed": 9})).state.epoch == 2
    assert "net: resumed from" in caplog.text and "seed 0 -> 9" in caplog.text
    with pytest.raises(CheckpointError, match="spacing"):
        started(checkpoint_of(tmp_path, settings=SETTINGS | {"spacing": [1, 1, 1]}))


def test_a_state_of_an_older_version_is_resumed(tmp_path):
    saved_after(tmp_path, 2)
    state = torch.load(tmp_path / "net_last.pt", weights_only=True)
    del state["settings"]
    torch.save(state, tmp_path / "net_last.pt")
    assert started(checkpoint_of(tmp_path, settings=SETTINGS)).state.epoch == 2


# ------------------------------------------------------------------------------------------------- the lock


HOLD_LOCK = """
import sys, time
from cmb_bundle.scripts.files import take_lock
lock = take_lock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def holding(code, folder, path):
    """Start a program that locks a path, and wait until it has."""
    (folder / "holder.py").write_text(code)
    process = start_module(["holder", path], folder, folder / "held", folder / "holder.log")
    deadline, held = time.monotonic() + 120, folder / "held"
    while not (held.exists() and held.read_text()) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    if not held.exists() or held.read_text() != "held\n":
        process.kill()
        process.join()
        pytest.fail((folder / "holder.log").read_text())
    return process


def test_a_fold_that_another_process_works_on_is_skipped(tmp_path, tmp_path_factory):
    validation = CrossValidation.__new__(CrossValidation)
    validation.output_dir = tmp_path
    process = holding(HOLD_LOCK, tmp_path_factory.mktemp("other"), tmp_path / "fold_1" / "lock")
    try:
        with validation._lock(1) as free, validation._lock(0) as other:
            assert (free, other) == (False, True)
    finally:
        process.kill()
        process.join()
    with validation._lock(1) as free:
        assert free


HOLD = """
import sys, time
from cmb_bundle.scripts.training.cross_validation import CrossValidation
from cmb_bundle.scripts.training.lock import OutputLock
OutputLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path, tmp_path_factory):
    """Another process that trains in the folder."""
    process = holding(HOLD, tmp_path_factory.mktemp("other"), tmp_path)
    yield process
    process.kill()
    process.join()


def test_two_trainings_in_one_folder_are_refused_until_the_first_is_gone(tmp_path, other):
    with pytest.raises(TrainingError, match="is the output folder of another training, which is running now"):
        OutputLock(tmp_path)
    OutputLock(tmp_path / "elsewhere").release()
    other.kill()
    other.join()
    assert (tmp_path / ".training.lock").is_file(), "what a killed process leaves is no hindrance"
    lock = OutputLock(tmp_path)
    OutputLock(tmp_path).release()
    lock.release()


def test_the_second_of_two_trainings_ends_before_it_has_done_anything(tmp_path, tiny_cohort, bundle, other):
    done = bundle("training", ["train.json", TINY_CONFIG], tmp_path, check=False,
                  dataset_dir=tiny_cohort, output_dir=tmp_path)  # fmt: skip
    assert done.returncode != 0
    assert "is the output folder of another training" in done.stderr.strip().splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".training.lock", "error.log"]


def test_a_resumed_run_says_what_differs_and_refuses_another_grid(tmp_path, tiny_cohort, bundle):
    options = {"dataset_dir": tiny_cohort, "output_dir": tmp_path / "output", "folds": 3, "detector_epochs": 1}
    files = ["train.json", TINY_CONFIG]
    bundle("training_detector", files, tmp_path, **options)
    begun = time.time()
    more = options | {"detector_epochs": 2, "detector_learning_rate": 0.0005, "classifier_epochs": 7}
    done = bundle("training_detector", files, tmp_path, **more)
    (said,) = [line for line in (done.stdout + done.stderr).splitlines() if "other values than before" in line]
    assert ": detector_epochs 1 -> 2; detector_learning_rate 0.002 -> 0.0005" in said
    assert "classifier_epochs" not in said
    last = tmp_path / "output" / "detector_last.pt"
    assert torch.load(last, weights_only=True)["epoch"] == 2 and last.stat().st_mtime > begun - 1
    kept = last.read_bytes()
    done = bundle("training_detector", files, tmp_path, check=False, **more, spacing="[1.0,1.0,3.0]")
    assert done.returncode != 0
    assert "detector_last.pt was trained with other values: spacing" in done.stderr.strip().splitlines()[-1]
    assert last.read_bytes() == kept
