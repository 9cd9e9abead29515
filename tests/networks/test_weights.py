"""Tests of loading some of the stages from a checkpoint. Whole files, and bad ones, are in test_handlers.py."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cmb_bundle.scripts.errors import CheckpointError, OptionError
from cmb_bundle.scripts.networks.classifier import ContextClassifier
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork
from cmb_bundle.scripts.networks.weights import initialize, load_weights
from cmb_bundle.scripts.networks.yolov2 import YOLOv2Network
from cmb_bundle.scripts.transforms.slices import stack_slices


def filled(value: float, features: int = 3) -> TwoStageNetwork:
    network = TwoStageNetwork(nn.Linear(2, features), nn.Linear(4, 5))
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def values(module: nn.Module) -> set[float]:
    return {float(v) for p in module.parameters() for v in p.flatten()}


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(filled(7.0).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize(("detector", "classifier"), [(True, True), (True, False), (False, True), (False, False)])
def test_only_the_named_stages_are_loaded(checkpoint, detector, classifier):
    network = filled(1.0)
    assert load_weights(network, checkpoint, stages={"detector": detector, "classifier": classifier}) is network
    assert values(network.detector) == {7.0 if detector else 1.0}
    assert values(network.classifier) == {7.0 if classifier else 1.0}


def test_no_file_is_needed_where_nothing_is_loaded(tmp_path):
    nothing = {"detector": False, "classifier": False}
    assert values(load_weights(filled(1.0), tmp_path / "nowhere.pt", stages=nothing)) == {1.0}
    with pytest.raises(CheckpointError, match=r"nowhere\.pt do not exist"):
        load_weights(filled(1.0), tmp_path / "nowhere.pt", stages=nothing | {"detector": True})


def test_a_stage_that_is_not_loaded_may_be_of_another_architecture(checkpoint):
    network = filled(1.0, features=6)
    load_weights(network, checkpoint, stages={"detector": False, "classifier": True})
    assert values(network.classifier) == {7.0}
    with pytest.raises(CheckpointError, match=r"2 of another shape; for example weight: found \(3, 2\)"):
        load_weights(network, checkpoint, stages={"detector": True, "classifier": False})


def test_a_file_of_one_stage_alone(tmp_path):
    torch.save(filled(7.0).detector.state_dict(), tmp_path / "detector_best.pt")
    network = filled(1.0)
    load_weights(network, tmp_path / "detector_best.pt", stages={"detector": True, "classifier": False})
    assert values(network.detector) == {7.0}
    assert values(network.classifier) == {1.0}


def test_a_file_of_the_other_stage_is_refused(tmp_path):
    torch.save({f"detector.{k}": v for k, v in filled(7.0).detector.state_dict().items()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="2 tensors are missing, 0 unknown"):
        load_weights(filled(1.0), tmp_path / "model.pt", stages={"detector": False, "classifier": True})


def test_a_word_is_no_truth_value(checkpoint):
    with pytest.raises(OptionError, match=r"detector_from_checkpoint is 'false'; .* True or False"):
        load_weights(filled(1.0), checkpoint, stages={"detector": "false", "classifier": True})


def test_a_training_starts_from_given_weights(checkpoint):
    assert values(initialize(filled(1.0), checkpoint)) == {7.0}
    assert values(initialize(filled(1.0))) == {1.0}
    with pytest.raises(CheckpointError, match=r"initial_weights .*nowhere\.pt do not exist\. Give a file of weights"):
        initialize(filled(1.0), checkpoint.with_name("nowhere.pt"))
    with pytest.raises(CheckpointError, match=r"model\.pt is of another architecture"):
        initialize(filled(1.0, features=6), checkpoint)


def small_detector(context: int) -> TwoStageNetwork:
    detector = YOLOv2Network(2 * context, num_anchors=2, width=0.25, stages=[[[3, 16]], [[3, 32]]])
    return TwoStageNetwork(detector, nn.Linear(4, 5)).eval()


def test_weights_for_single_slices_start_a_detector_with_neighbours_that_gives_the_same(tmp_path):
    single, slices = small_detector(1), torch.rand(4, 2, 16, 16)
    torch.save(single.state_dict(), tmp_path / "model.pt")
    wide = initialize(small_detector(3), tmp_path / "model.pt")
    torch.testing.assert_close(wide.detector(stack_slices(slices, 3)), single.detector(slices))


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (3, 5), (1, 2)])
def test_other_numbers_of_slices_do_not_fit(tmp_path, given, wanted):
    torch.save(small_detector(given).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"1 of another shape; for example detector\."):
        initialize(small_detector(wanted), tmp_path / "model.pt")


def wrapped(state, kind):
    """A checkpoint as training programs write it, with what they put beside the weights."""
    more = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}}
    return {
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "pytorch-lightning_version": "2.5"}
        | more,
        "model": {"model": state, "best": np.float64(0.5), "args": argparse.Namespace(lr=0.1, out=Path("runs"))} | more,
        "data parallel": {f"module.{k}": v for k, v in state.items()},
        "both": {"model_state_dict": {f"module.{k}": v for k, v in state.items()}} | more,
        "compiled": {"net": {f"module._orig_mod.{k}": v.half() for k, v in state.items()}} | more,
        "of a training": {"network": state, "kinds": {"optimizer": "Adam"}} | more,
    }[kind]


@pytest.mark.parametrize("kind", ["lightning", "model", "data parallel", "both", "compiled", "of a training"])
def test_checkpoints_as_others_write_them(kind, tmp_path):
    torch.save(wrapped(filled(7.0).state_dict(), kind), tmp_path / "theirs.pt")
    for network in (load_weights(filled(1.0), tmp_path / "theirs.pt"), initialize(filled(1.0), tmp_path / "theirs.pt")):
        assert values(network) == {7.0}
        assert {p.dtype for p in network.parameters()} == {torch.float32}
    torch.save(wrapped(filled(7.0).detector.state_dict(), kind), tmp_path / "stage.pt")
    network = load_weights(filled(1.0), tmp_path / "stage.pt", stages={"detector": True, "classifier": False})
    assert (values(network.detector), values(network.classifier)) == ({7.0}, {1.0})


def test_sparse_weights_are_read_as_dense_ones(tmp_path):
    network = ContextClassifier(channels=(4, 4, 8), surroundings_size=(36, 36, 10))
    torch.save({name: tensor.to_sparse() for name, tensor in network.state_dict().items()}, tmp_path / "sparse.pt")
    other = ContextClassifier(channels=(4, 4, 8), surroundings_size=(36, 36, 10))
    load_weights(other, tmp_path / "sparse.pt")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_prefix_is_removed_only_if_every_name_has_it(tmp_path):
    state = filled(7.0).state_dict()
    names = list(state)
    torch.save({f"module.{k}" if k == names[0] else k: v for k, v in state.items()}, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointError, match="1 tensors are missing, 1 unknown"):
        load_weights(filled(1.0), tmp_path / "mixed.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, "holds no weights, but epoch, optimizer; expected a state_dict, or one under"),
        ({}, "holds no weights, but nothing"),
        ({"model": {"a": torch.zeros(1)}, "network": {"a": torch.ones(1)}}, "holds weights under network and model"),
    ],
)
def test_a_checkpoint_in_which_the_weights_are_not_found(tmp_path, content, message):
    torch.save(content, tmp_path / "theirs.pt")
    for load in (load_weights, initialize):
        with pytest.raises(CheckpointError, match=f"theirs.pt {message}"):
            load(filled(1.0), tmp_path / "theirs.pt")


def test_a_whole_model_in_place_of_its_weights_is_refused_by_the_names_of_its_classes(tmp_path):
    torch.save(filled(7.0).detector, tmp_path / "whole.pt")
    with pytest.raises(
        CheckpointError, match=r"holds objects of torch\.nn\.modules\.linear\.Linear.*state_dict\(\) alone"
    ):
        load_weights(filled(1.0), tmp_path / "whole.pt")


def test_weights_that_are_not_finite_are_refused_within_a_checkpoint_too(tmp_path):
    state = filled(7.0).state_dict()
    state["detector.weight"][0, 0] = float("nan")
    torch.save({"state_dict": state}, tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match=r"1 of the 6 values of detector\.weight are NaN"):
        initialize(filled(1.0), tmp_path / "theirs.pt")


def test_a_changed_byte_and_other_kinds_of_values_are_refused(tmp_path):
    network = torch.nn.Linear(50, 4)
    path, weight = tmp_path / "w.pt", network.state_dict()["weight"]
    torch.save(network.state_dict(), path)
    content = path.read_bytes()
    place = content.index(weight.numpy().tobytes()) + 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"w.pt is damaged: the checksum of .*data/\d+ does not fit"):
        load_weights(network, path)
    for changed, message in (
        ("text", "weight is str; expected a tensor of torch.float32"),
        (weight.long(), "weight is torch.int64; expected a tensor of torch.float32"),
        (weight.to(torch.complex64), "weight is torch.complex64; expected"),
    ):
        torch.save({**network.state_dict(), "weight": changed}, path)
        with pytest.raises(CheckpointError, match=message):
            load_weights(network, path)
    torch.save({name: value * 0 for name, value in network.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="all weights are 0"):
        load_weights(network, path)
    with pytest.raises(CheckpointError, match="checkpoint is 5; expected the path"):
        load_weights(network, 5)
