"""What training and inference must have in common, and what the shipped recipe must do."""

import inspect
import json

import pytest

from cmb_bundle.scripts.transforms import RandDropPhased

from ..helpers import CONFIGS


@pytest.fixture(scope="module")
def train():
    return json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def inference():
    return json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))


def test_training_and_inference_preprocess_alike(train, inference):
    *steps, last = train["train"]["deterministic_transforms"]
    assert last["_target_"] == "SelectItemsd", "it keeps what training needs, and changes no value"
    of_inference = []
    *first, then = inference["preprocessing"]["transforms"]
    assert then == "@to_model"
    for step in first + inference["to_model"]["transforms"]:
        if step["_target_"] in ("scripts.inference.KeepInputGridd", "scripts.transforms.CheckRangesd"):
            continue  # one remembers the grid for the results, one warns; neither changes a value
        if step["_target_"] == "scripts.inference.ChooseSignd":
            continue  # it needs trained networks, and only where the sign is a guess
        if step["_target_"] == "scripts.transforms.ReadPointsd":
            step = {key: value for key, value in step.items() if key != "key"}  # without labels by default
        of_inference.append(step)
    assert of_inference == steps
    assert len(steps) == 10


OPTIONS = (
    "spacing", "average", "context", "phase_channel", "patch_size", "merge_mm", "join_mm", "echo", "dicom_series",
    "phase_scale", "phase_sign", "label_convention", "network_def",
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_training_and_inference_have_the_same(name, train, inference):
    assert train[name] == inference[name]


@pytest.mark.parametrize("stage", ["detector", "classifier"])
def test_both_stages_learn_without_phase_too(stage, train):
    drops = [one for one in train[f"{stage}_augmentation"] if one["_target_"] == "scripts.transforms.RandDropPhased"]
    assert len(drops) == 1
    default = inspect.signature(RandDropPhased).parameters["prob"].default
    assert drops[0].get("prob", default) >= 0.05


def test_overlays_change_parts_by_name_and_not_by_position():
    for path in CONFIGS.glob("*.json"):
        for key in json.loads(path.read_text(encoding="utf-8")):
            assert not any(part.isdigit() for part in key.split("#")), f"{path.name}: {key}"
