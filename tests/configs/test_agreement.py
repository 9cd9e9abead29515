"""What training and inference must have in common, and what the shipped recipe must do."""

import json
import shutil

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from cmb_bundle.scripts.transforms import RandDropPhased

from ..helpers import CONFIGS
from ..helpers.configuration import configuration


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
        if step["_target_"] == "scripts.regions.FindParcellationd":
            continue  # it finds a file that is read after the detection
        if step["_target_"] == "scripts.transforms.CheckHeadd":
            continue  # it refuses or warns; what a user labelled for training is a head
        if step["_target_"] == "scripts.inference.ChooseSignd":
            continue  # it needs trained networks, and only where the sign is a guess
        if step["_target_"] == "scripts.transforms.ReadPointsd":
            step = {key: value for key, value in step.items() if key != "key"}  # without labels by default
        of_inference.append(step)
    assert of_inference == steps
    assert len(steps) == 10


OPTIONS = (
    "spacing", "average", "context", "phase_channel", "patch_size", "merge_mm", "join_mm", "echo", "dicom_series",
    "phase_scale", "phase_sign", "label_convention", "network_def", "split",
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_training_and_inference_have_the_same(name, train, inference):
    assert train[name] == inference[name]


def composed(stage, cohort):
    """The transforms of the batches that a stage learns from, as training itself composes them."""
    parser = configuration()
    parser.update({"dataset_dir": str(cohort), "datalist_file": None, "folds": 3, "device": "cpu"})
    if stage == "train_classifier":
        parser["train_classifier#dataset#data"] = [{"image": None}]  # no stage 1 is needed to see what follows it
    return parser.get_parsed_content(f"{stage}#dataloader").dataset.transform.transforms


@pytest.mark.parametrize("stage", ["train", "train_classifier"])
def test_both_stages_learn_without_phase_too(stage, tiny_cohort):
    drops = [one for one in composed(stage, tiny_cohort) if isinstance(one, RandDropPhased)]
    assert len(drops) == 1
    assert drops[0].prob >= 0.05


MAIN = ("train", "inference", "audit", "report", "review", "agreement")


def test_bundle_root_is_written_alike_everywhere():
    assert (
        len({json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))["bundle_root"] for name in MAIN}) == 1
    )


@pytest.mark.parametrize("name", MAIN)
def test_bundle_root_is_the_folder_above_the_configs_wherever_it_is_copied_to(name, tmp_path, monkeypatch):
    shutil.copytree(CONFIGS, tmp_path / "copy" / "configs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = f"../copy/configs/{name}.json"
    workflow = ConfigWorkflow(file, workflow_type=None, logging_file=False, initialize=["$@bundle_root"])
    assert workflow.initialize() == [str(tmp_path / "copy")]
    # MONAI's tools that read a config without a workflow are started in the bundle's folder
    monkeypatch.chdir(tmp_path / "copy")
    parser = ConfigParser(ConfigParser.load_config_file(f"configs/{name}.json"))
    assert parser.get_parsed_content("bundle_root") == str(tmp_path / "copy")


def test_overlays_change_parts_by_name_and_not_by_position():
    for path in CONFIGS.glob("*.json"):
        for key in json.loads(path.read_text(encoding="utf-8")):
            assert not any(part.isdigit() for part in key.split("#")), f"{path.name}: {key}"
