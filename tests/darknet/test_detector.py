"""Darknet files: against OpenCV's reader, against darknet's rules written out, round trips, errors, commands."""

import json
import shlex
import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmb_bundle.scripts.darknet.cfg import read_cfg
from cmb_bundle.scripts.darknet.detector import (
    darknet_detector,
    export_detector,
    fold_input_channels,
    read_weights,
    write_weights,
)
from cmb_bundle.scripts.darknet.layers import MaxPool, Reorg, RootBatchNorm2d
from cmb_bundle.scripts.darknet.network import DarknetNetwork
from cmb_bundle.scripts.errors import DarknetError
from cmb_bundle.scripts.inference.acceleration import accelerate
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork

from ..helpers import CONFIGS, ROOT
from ..helpers.commands import commands
from ..helpers.darknet import NET, cfg_text, conv, spatial_size, write_small
from ..helpers.processes import run_module

LITERAL = CONFIGS / "yolov2_cmb.cfg"


SMALL = {
    "shortcut, strides, groups, padding": cfg_text(
        conv(8, stride=2),
        conv(16, stride=2, padding=1, pad=0),
        conv(16, 1),
        conv(16, 3, groups=4),
        "[shortcut]\nfrom=-3\nactivation=leaky",
        "[maxpool]\nsize=3\nstride=2",
        conv(16, 5, "logistic"),
        "[shortcut]\nfrom=5",
        width=96,
        height=64,
    ),
    "route of several, pooling of several sizes": cfg_text(
        conv(8),
        "[maxpool]\nsize=2\nstride=2",
        "[maxpool]\nsize=2\nstride=1",
        conv(8),
        "[maxpool]\nsize=5\nstride=1",
        "[route]\nlayers=1",
        "[maxpool]\nsize=3\nstride=1",
        "[route]\nlayers=-1,-3, 2,3",
        "[maxpool]\nsize=4\nstride=4\npadding=0",
        conv(12, 2, pad=0, stride=2),
        channels=2,
        classes=3,
    ),
    "reorg, no batch norm": cfg_text(
        conv(16, norm=0),
        "[maxpool]\nsize=2\nstride=2",
        conv(8, 1, norm=0),
        "[reorg]\nstride=2",
        "[route]\nlayers=-2",
        "[maxpool]\nsize=2\nstride=2",
        "[route]\nlayers=-1,-3",
        conv(8, 3, "linear"),
        # 22 rows before reorg: its channels then hold half rows
        height=44,
        width=40,
        channels=1,
    ),
}


def assert_equals_opencv(cfg, weights):
    """Raw tensor, boxes and scores are those of OpenCV, for pictures of the size in the cfg; return the detector."""
    detector = darknet_detector(cfg, weights, batch_norm_epsilon=1e-6).eval()
    network = detector.network
    rows, columns = spatial_size(network)
    images = torch.rand(1, network.in_channels, rows, columns)
    reader = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    reader.setInput(images.numpy())
    *_, last, _, region = reader.getLayerNames()
    expected = torch.from_numpy(reader.forward(last).copy())
    with torch.no_grad():
        raw = network(images)
    assert raw.shape == expected.shape
    assert raw.std() > 0.5
    assert (raw - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (raw - expected).norm() < 1e-4 * expected.norm()

    found = torch.from_numpy(reader.forward(region).copy())
    grid = (rows // network.stride, columns // network.stride, network.num_anchors, 5 + network.num_classes)
    found = found.view(grid).permute(2, 0, 1, 3).flatten(0, 2)
    boxes, scores = detector.decode(raw)
    boxes = boxes[0] / torch.tensor([rows, columns, rows, columns])
    relative = torch.cat([(boxes[:, 2:] + boxes[:, :2]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    torch.testing.assert_close(relative[:, [1, 0, 3, 2]], found[:, :4], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        raw.unflatten(1, (network.num_anchors, -1))[0, :, 4].sigmoid().flatten(), found[:, 4], rtol=0, atol=1e-3
    )
    # OpenCV's region layer suppresses overlapping boxes by setting their scores to 0
    kept = found[:, 5:].amax(1) > 0
    assert kept.sum() >= 8
    if network.num_classes == 1:
        torch.testing.assert_close(scores[0, kept], found[kept, 5], rtol=0, atol=1e-3)
    else:
        probabilities = found[:, 5:]
        torch.testing.assert_close(
            detector._decode(raw)[1][0][probabilities > 0], probabilities[probabilities > 0], rtol=0, atol=1e-3
        )
    return detector


def test_literal_cfg_equals_opencv_and_survives_export(tmp_path):
    text = LITERAL.read_text()
    for old, new in (("width=448", "width=160"), ("height=448", "height=96"), ("thresh=.6", "thresh=0")):
        assert old in text
        text = text.replace(old, new)
    cfg, weights, network = write_small(tmp_path, text)
    assert sum(p.numel() for p in network.parameters()) == 50_557_726
    detector = assert_equals_opencv(cfg, weights)

    export_detector(detector, tmp_path / "b.cfg", tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == weights.read_bytes()
    again = darknet_detector(tmp_path / "b.cfg", tmp_path / "b.weights").state_dict()
    assert again.keys() == detector.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in detector.state_dict().items())


def test_literal_cfg_has_the_published_settings():
    with torch.device("meta"):
        network = DarknetNetwork(LITERAL)
    assert (network.stride, network.num_anchors, network.num_classes, network.in_channels) == (32, 5, 1, 2)
    assert [s.name for s in network.sections[26:30]] == ["route", "convolutional", "reorg", "route"]
    assert [network.layers[number].sources for number in (25, 28)] == [[16], [27, 24]]
    net = network.sections[0]
    assert {key: net.real(key) for key in ("batch", "learning_rate", "burn_in", "max_batches", "decay")} == {
        "batch": 16, "learning_rate": 5e-4, "burn_in": 1000, "max_batches": 40000, "decay": 5e-4,
    }  # fmt: skip
    assert network.region.real("thresh") == 0.6


@pytest.mark.parametrize("name", SMALL)
def test_small_cfgs_equal_opencv(name, tmp_path):
    cfg, weights, _ = write_small(tmp_path, SMALL[name])
    assert_equals_opencv(cfg, weights)


def test_relu_equals_opencv_in_two_halves(tmp_path):
    """OpenCV refuses ``relu`` in a cfg, so its two networks stand before and after ours."""
    _, weights, network = write_small(tmp_path, cfg_text(conv(8, 3, "relu"), conv(8)))
    data = weights.read_bytes()
    cut = 20 + 4 * (4 * 8 + 8 * 3 * 9)
    head, tail = cfg_text(conv(8, 3, "linear")).split(conv(12, 1, "linear", norm=0))[0], cfg_text(conv(8), channels=8)
    images = torch.rand(1, 3, 64, 64)
    halves = []
    for text, content in ((head, data[:cut]), (tail, data[:20] + data[cut:])):
        (tmp_path / "half.cfg").write_text(text)
        (tmp_path / "half.weights").write_bytes(content)
        halves.append(cv2.dnn.readNetFromDarknet(str(tmp_path / "half.cfg"), str(tmp_path / "half.weights")))
    halves[0].setInput(images.numpy())
    middle = halves[0].forward()
    assert (middle < 0).any()
    halves[1].setInput(np.maximum(middle, 0))
    expected = halves[1].forward(halves[1].getLayerNames()[-3])
    with torch.no_grad():
        np.testing.assert_allclose(network(images).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.integers(5, 9), st.integers(5, 9))
def test_pooling_follows_darknet(size, stride, padding, rows, columns):
    padding = min(padding, size)
    image = np.random.default_rng(rows).normal(size=(rows, columns))
    expected = np.full([(extent + padding - size) // stride + 1 for extent in image.shape], -np.inf)
    for i, j in np.ndindex(expected.shape):
        for n, m in np.ndindex(size, size):
            row, column = i * stride + n - padding // 2, j * stride + m - padding // 2
            if 0 <= row < rows and 0 <= column < columns:
                expected[i, j] = max(expected[i, j], image[row, column])
    found = MaxPool(size, stride, padding)(torch.from_numpy(image)[None, None], {})
    np.testing.assert_array_equal(found[0, 0].numpy(), expected)


@pytest.mark.parametrize(("stride", "shape"), [(2, (8, 6, 10)), (3, (18, 6, 9))])
@pytest.mark.parametrize("reverse", [False, True])
def test_reorg_follows_darknets_memory(stride, shape, reverse):
    channels, rows, columns = shape
    memory = np.random.default_rng(0).normal(size=channels * rows * columns)
    expected = np.empty_like(memory)
    few = channels // stride**2
    for k, j, i in np.ndindex(shape):
        offset, c = divmod(k, few)
        row, column = j * stride + offset // stride, i * stride + offset % stride
        here = i + columns * (j + rows * k)
        there = column + columns * stride * (row + rows * stride * c)
        if reverse:
            expected[there] = memory[here]
        else:
            expected[here] = memory[there]
    found = Reorg(stride, reverse)(torch.from_numpy(memory).view(1, *shape), {})
    after = (
        (few, rows * stride, columns * stride) if reverse else (channels * stride**2, rows // stride, columns // stride)
    )
    assert found.shape == (1, *after)
    np.testing.assert_array_equal(found.flatten().numpy(), expected)


def test_windows_line_ends_comments_and_blanks(tmp_path):
    cfg, weights, network = write_small(tmp_path, SMALL["reorg, no batch norm"])
    lines = cfg.read_text().replace("size=3", " size = 3 # three").replace("[maxpool]", "\t[ max ]").splitlines()
    text = "\r\n".join(["\ufeff# caf\xe9", "", *lines, ";width=1"]).replace("stride=2", "stride=2\r\nstride=7")
    text = text.replace("num=2", "num=2\r\nmap=")
    (tmp_path / "windows.cfg").write_bytes(text.encode("utf-8"))
    again = DarknetNetwork(tmp_path / "windows.cfg").eval()
    assert read_weights(again, weights) == 321
    images = torch.rand(1, 1, 44, 40)
    assert torch.equal(again(images), network(images))


def test_anchors_and_loss_come_from_the_region_layer(tmp_path):
    cfg, weights, _ = write_small(tmp_path, cfg_text(conv(8)))
    text = cfg.read_text().replace("thresh=0", "thresh=.3\nnoobject_scale=0.5")
    cfg.write_text(text)
    loss = darknet_detector(cfg, weights).loss
    assert loss.anchors.tolist() == [[1, 1.5], [2.5, 2]]
    assert (loss.object_scale, loss.noobject_scale, loss.class_scale, loss.coord_scale) == (5, 0.5, 1, 1)
    assert loss.thresh == pytest.approx(0.3)
    assert (loss.rescore, loss.bias_match) == (True, False)
    assert int(loss.seen) == 321
    other = darknet_detector(cfg, weights, loss_parameters={"rescore": False}, score_thresh=0.2)
    assert not other.loss.rescore and other.score_thresh == 0.2
    assert int(darknet_detector(cfg).loss.seen) == 0


@pytest.mark.parametrize(
    ("version", "seen"),
    [
        ((0, 1, 0), "<i"),
        ((0, 2, 0), "<Q"),
        ((0, 2, 5), "<Q"),
        ((1, 0, 0), "<Q"),
        ((1000, 2, 0), "<i"),
        ((0, 1001, 0), "<i"),
    ],
)
def test_headers_of_all_versions(version, seen, tmp_path):
    _, weights, network = write_small(tmp_path, cfg_text(conv(8)))
    body = weights.read_bytes()[20:]
    assert weights.read_bytes()[:20] == struct.pack("<3iQ", 0, 2, 0, 321)
    weights.write_bytes(struct.pack("<3i", *version) + struct.pack(seen, 99) + body)
    again = DarknetNetwork(tmp_path / "a.cfg")
    assert read_weights(again, weights) == 99
    assert all(torch.equal(again.state_dict()[key], value) for key, value in network.state_dict().items())


def test_order_within_the_weights_file(tmp_path):
    (tmp_path / "a.cfg").write_text(cfg_text(conv(2, 1), channels=1))
    first = [10, 11, 20, 21, 30, 31, 40, 41, 50, 51]
    last = list(range(100, 112)) + list(range(200, 224))
    (tmp_path / "a.weights").write_bytes(struct.pack("<3iQ46f", 0, 2, 0, 0, *first, *last))
    network = DarknetNetwork(tmp_path / "a.cfg")
    read_weights(network, tmp_path / "a.weights")
    norm, conv_1, conv_2 = network.layers[0].norm, network.layers[0].conv, network.layers[1].conv
    found = [norm.bias, norm.weight, norm.running_mean, norm.running_var, conv_1.weight]
    assert [tensor.flatten().tolist() for tensor in found] == [[10, 11], [20, 21], [30, 31], [40, 41], [50, 51]]
    assert conv_2.bias.tolist() == last[:12]
    assert conv_2.weight.flatten(1).tolist() == np.reshape(last[12:], (12, 2)).tolist()


def third_channel(kind, two):
    rest = {"zero": 0 * two[:, :1], "mean": two.mean(1, keepdim=True), "swi": two[:, :1], "phase": two[:, 1:]}[kind]
    return torch.cat([two, rest], dim=1)


@pytest.mark.parametrize("kind", ["zero", "mean", "swi", "phase"])
@pytest.mark.parametrize("order", [[0, 1], [2, 1], [1, 0]])
def test_three_channels_fold_to_two(kind, order, tmp_path):
    cfg, weights, three = write_small(tmp_path, SMALL["shortcut, strides, groups, padding"])
    detector = darknet_detector(cfg, weights, in_channels=2, third_channel=kind, channels=order).double().eval()
    two = torch.rand(2, 2, 64, 96, dtype=torch.float64)
    pictures = third_channel(kind, two)
    placed = torch.empty_like(pictures)
    placed[:, [*order, 3 - sum(order)]] = pictures
    # the sum of two float32 weights is rounded once
    torch.testing.assert_close(detector.network(two), three.double()(placed), rtol=0, atol=1e-6)
    assert detector.network(two).std() > 0.5


def test_folded_weights_are_exact():
    weight = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert fold_input_channels(weight, [0, 1], "zero").flatten().tolist() == [1, 2]
    assert fold_input_channels(weight, [0, 1], "mean").flatten().tolist() == [3, 4]
    assert fold_input_channels(weight, [2, 0], "swi").flatten().tolist() == [6, 1]
    assert fold_input_channels(weight, [0], "mean").flatten().tolist() == [7]
    assert fold_input_channels(weight[:, :1], [0, None], "mean").flatten().tolist() == [1, 0]
    with pytest.raises(DarknetError, match=r"channels is \[0, 3\].*0 to 2"):
        fold_input_channels(weight, [0, 3])
    with pytest.raises(DarknetError, match="different numbers"):
        fold_input_channels(weight, [1, 1])
    with pytest.raises(DarknetError, match="expected one of zero, mean, swi, phase"):
        fold_input_channels(weight, [0, 1], "one")
    with pytest.raises(DarknetError, match="has 1 channel"):
        fold_input_channels(weight, [0], "phase")


def test_folded_network_is_exported_with_its_channels(tmp_path):
    cfg, weights, _ = write_small(tmp_path, cfg_text(conv(8)))
    detector = darknet_detector(cfg, weights, in_channels=2, third_channel="mean", axes="PL")
    export_detector(detector, tmp_path / "b.cfg", tmp_path / "b.weights")
    again = darknet_detector(tmp_path / "b.cfg", tmp_path / "b.weights", axes="PL").state_dict()
    assert all(torch.equal(again[key], value) for key, value in detector.state_dict().items())
    assert read_cfg(tmp_path / "b.cfg")[0].integer("channels") == 2
    assert darknet_detector(tmp_path / "b.cfg").loss.anchors.tolist() == [[1, 1.5], [2.5, 2]]


@pytest.mark.parametrize("axes", ["RA", "RP", "LA", "LP", "AR", "AL", "PR", "PL"])
def test_boxes_do_not_depend_on_the_axes_of_the_pictures(axes, tmp_path):
    """A picture turned to darknet's axes by hand gives the boxes that the detector finds by itself."""
    cfg, weights, _ = write_small(tmp_path, SMALL["route of several, pooling of several sizes"])
    image = torch.rand(1, 2, 48, 64)
    turn = [dim for dim, letter in enumerate(axes) if letter in "LP"]
    picture = image.mT if axes[0] in "AP" else image
    picture = picture.flip([dim + 2 for dim in turn])
    as_it_is = darknet_detector(cfg, weights, score_thresh=0.01, nms_thresh=0.9).eval()
    turned = darknet_detector(cfg, weights, score_thresh=0.01, nms_thresh=0.9, axes=axes).eval()
    with torch.no_grad():
        (expected,), (found,) = as_it_is(picture), turned(image)
    assert len(expected["scores"]) > 10
    torch.testing.assert_close(found["scores"], expected["scores"])
    torch.testing.assert_close(found["labels"], expected["labels"])
    boxes = expected["boxes"].clone()
    for dim in turn:
        size = picture.shape[2 + dim]
        boxes[:, [dim, dim + 2]] = size - boxes[:, [dim + 2, dim]]
    if axes[0] in "AP":
        boxes = boxes[:, [1, 0, 3, 2]]
    torch.testing.assert_close(found["boxes"], boxes, rtol=0, atol=1e-3)


def darknets_normalisation(x, norm, build):
    """`normalize_cpu` of pjreddie's and AlexeyAB's `src/blas.c`, and `normalize_kernel` of both, written out."""
    mean, variance = (value.double()[:, None, None] for value in (norm.running_mean, norm.running_var))
    root = variance.sqrt() + 1e-6 if build == "pjreddie_cpu" else (variance + 1e-5).sqrt()
    return (x.double() - mean) / root * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]


@pytest.mark.parametrize("build", ["pjreddie_cpu", "alexeyab_cpu", "gpu"])
def test_normalisation_is_that_of_each_build_of_darknet(build, tmp_path):
    cfg, weights, network = write_small(tmp_path, cfg_text(conv(8, activation="linear"), channels=2))
    with torch.no_grad():
        network.layers[0].norm.running_var.copy_(torch.tensor([0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 0.1, 2.0]))
    write_weights(network, weights)
    detector = darknet_detector(cfg, weights, batch_norm_epsilon=build).eval()
    layer, images = detector.network.layers[0], torch.rand(1, 2, 16, 24)
    with torch.no_grad():
        found, convolved = layer(images, {}), layer.conv(images)
        expected = darknets_normalisation(convolved, layer.norm, build)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)
        other = darknets_normalisation(convolved, layer.norm, "gpu" if build == "pjreddie_cpu" else "pjreddie_cpu")
        assert (found - other).abs().amax((0, 2, 3))[:3].min() > 10, "the other rule is something else"
        fast = accelerate(TwoStageNetwork(detector, nn.Identity()), precision="float32")
        torch.testing.assert_close(fast.detector.network(images), detector.network(images), rtol=1e-3, atol=1e-3)
    export_detector(detector, tmp_path / "b.cfg", tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == weights.read_bytes()


def test_the_default_epsilon_is_that_of_most_builds_and_a_number_is_added_to_the_variance(tmp_path):
    cfg, weights, _ = write_small(tmp_path, CFG)
    assert darknet_detector(cfg, weights).network.layers[0].norm.eps == 1e-5
    norm = darknet_detector(cfg, weights, batch_norm_epsilon=1e-6).network.layers[0].norm
    assert type(norm) is nn.BatchNorm2d and norm.eps == 1e-6
    assert json.loads((CONFIGS / "darknet.json").read_text())["darknet_epsilon"] == 1e-5
    for wrong in ("cpu", 0, -1e-5, True, None):
        with pytest.raises(DarknetError, match="expected a number above 0, such as 1e-5, or one of gpu, alexeyab_cpu"):
            darknet_detector(cfg, weights, batch_norm_epsilon=wrong)


def test_training_with_the_epsilon_at_the_root_keeps_the_running_statistics_as_usual():
    torch.manual_seed(0)
    root, usual = RootBatchNorm2d(3, eps=1e-6, momentum=0.01), nn.BatchNorm2d(3, eps=1e-6, momentum=0.01)
    x = torch.randn(4, 3, 5, 6) * torch.tensor([0.5, 1.0, 3.0])[:, None, None] + 2
    torch.testing.assert_close(root(x), usual(x), rtol=1e-4, atol=1e-4)
    for key, value in usual.state_dict().items():
        torch.testing.assert_close(root.state_dict()[key], value)
    assert not torch.equal(root.running_var, torch.ones(3))


def test_a_turned_detector_learns_the_same(tmp_path):
    cfg, weights, _ = write_small(tmp_path, cfg_text(conv(8), "[maxpool]\nsize=8\nstride=8\npadding=0", channels=2))
    image, box = torch.rand(1, 2, 32, 48), torch.tensor([[3.0, 9.0, 12.0, 30.0]])
    losses = []
    for detector, x, b in (
        (darknet_detector(cfg, weights, axes="PL"), image, box),
        (darknet_detector(cfg, weights), image.mT.flip([2, 3]), torch.tensor([[18.0, 20.0, 39.0, 29.0]])),
    ):
        detector.train()
        losses.append(detector(x, [{"boxes": b, "labels": torch.zeros(1, dtype=torch.int64)}]))
    assert losses[0]["coordinate"] > 0
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name])


@pytest.mark.parametrize("axes", ["RA", "PL"])
def test_exporters_take_the_network(axes, tmp_path):
    cfg, weights, _ = write_small(tmp_path, SMALL["reorg, no batch norm"])
    network = darknet_detector(cfg, weights, axes=axes).network.eval()
    images = torch.rand(2, 1, 24, 28)
    torch.testing.assert_close(torch.jit.script(network)(images), network(images))
    size = {
        0: torch.export.Dim("batch", min=1, max=64),
        2: 4 * torch.export.Dim("rows", min=2, max=64),
        3: 4 * torch.export.Dim("columns", min=2, max=64),
    }
    exported = torch.export.export(network, (torch.rand(3, 1, 32, 36),), dynamic_shapes=(size,)).module()
    torch.testing.assert_close(exported(images), network(images))


CFG = cfg_text(conv(8), "[maxpool]\nsize=2\nstride=2", conv(8))
CFG_ERRORS = {
    "unknown layer": (lambda t: t.replace("[maxpool]", "[lstm]"), r"a\.cfg, line 13, layer 1 \[lstm\]: .*not support"),
    "no net": (lambda t: t.replace("[net]", "[maxpool]"), r"expected \[net\] as the first section, found \[maxpool\]"),
    "empty": (lambda t: "# nothing\n", "found no section"),
    "option first": (lambda t: "width=1\n" + t, "line 1: width comes before any section"),
    "not a cfg": (lambda t: "<html>\n" + t, "line 1: '<html>' is not understood.*Is this a darknet .cfg file"),
    "broken section": (lambda t: t.replace("[maxpool]", "[maxpool"), r"line 13: '\[maxpool' is not a section"),
    "no region": (lambda t: t[: t.index("[region]")], r"layer 3 \[convolutional\]: this is the last section"),
    "no layers": (lambda t: NET.format(width=8, height=8, channels=12) + "\n[region]\nnum=2", "expected layers and"),
    "not a number": (lambda t: t.replace("size=2", "size=two"), r"line 14, layer 1 \[maxpool\]: size=two: 'two' is"),
    "not whole": (lambda t: t.replace("size=2", "size=2.5"), "'2.5' is not a whole number"),
    "zero": (lambda t: t.replace("stride=2", "stride=0"), "line 15.*stride=0; expected 1 or more"),
    "no width": (lambda t: t.replace("width=64", ""), r"line 1, \[net\]: the option width is missing"),
    "activation": (lambda t: t.replace("leaky", "mish", 1), "line 10, layer 0.*activation=mish is not supported"),
    "dilation": (lambda t: t.replace("size=3", "size=3\ndilation=2", 1), "line 10, layer 0.*dilation=2 is not supp"),
    "route": (
        lambda t: t.replace("[maxpool]\nsize=2\nstride=2", "[route]\nlayers=-2"),
        r"line 14, layer 1 \[route\]: layers=-2 points to layer -1; expected.*from 0 to 0 or from -1 to -1",
    ),
    "route forward": (lambda t: t.replace("[maxpool]\nsize=2", "[route]\nlayers=1"), "points to layer 1"),
    "route sizes": (
        lambda t: t.replace("[region]", "[route]\nlayers=0,1\n[region]"),
        r"layer 4 \[route\]: the layers \[0, 1\] have outputs of 8 x 64 x 64, 8 x 32 x 32",
    ),
    "shortcut sizes": (
        lambda t: t.replace("[region]", "[shortcut]\nfrom=0\n[region]"),
        "gives 12 x 32 x 32 and layer 0 8 x 64 x 64",
    ),
    "reorg channels": (lambda t: t.replace("[maxpool]\nsize=2\nstride=2", "[reorg]\nstride=3"), "a multiple of 9"),
    "reorg rows": (
        lambda t: t.replace("[maxpool]\nsize=2", "[reorg]").replace("height=64", "height=65"),
        "65 x 64 pixels cannot be reorganised",
    ),
    "groups": (lambda t: t.replace("size=3", "size=3\ngroups=3", 1), "groups=3 does not divide 3 channels and 8"),
    "too small": (lambda t: t.replace("size=2", "size=99\npadding=0"), "no output is left of an input of 8 x 64 x 64"),
    "filters": (lambda t: t.replace("filters=12", "filters=18"), "has 18 channels; 2 anchors .* need 12: 2 x"),
    "softmax": (lambda t: t.replace("softmax=1", ""), r"\[region\]: expected softmax=1"),
    "coords": (lambda t: t.replace("softmax=1", "softmax=1\ncoords=5"), "coords must be 4"),
    "anchors": (lambda t: t.replace("2.5,2", "2.5"), r"anchors=1,1.5,2.5; expected 4 positive numbers"),
    "tree": (lambda t: t.replace("softmax=1", "softmax=1\ntree=9k.tree"), "tree=9k.tree is not supported"),
    "cells": (lambda t: t.replace("height=64", "height=63"), "64 x 63 pixels .* do not give cells of whole pixels"),
}  # fmt: skip


@pytest.mark.parametrize("name", CFG_ERRORS)
def test_errors_of_a_cfg(name, tmp_path):
    change, message = CFG_ERRORS[name]
    text = change(CFG)
    assert text != CFG
    (tmp_path / "a.cfg").write_text(text)
    with pytest.raises(DarknetError, match=message) as caught:
        darknet_detector(tmp_path / "a.cfg")
    assert str(tmp_path / "a.cfg") in str(caught.value)


def test_missing_files_and_wrong_arguments(tmp_path):
    with pytest.raises(DarknetError, match=r"no\.cfg cannot be read \(No such file"):
        read_cfg(tmp_path / "no.cfg")
    cfg, weights, network = write_small(tmp_path, CFG)
    with pytest.raises(DarknetError, match=r"no\.weights cannot be read \(No such file") as caught:
        read_weights(network, tmp_path / "no.weights")
    assert caught.value.__cause__ is None, "the sentence at the end of a run is that of the innermost cause"
    with pytest.raises(DarknetError, match="axes is 'PA'; expected one of R and L with one of A and P"):
        darknet_detector(cfg, axes="PA")
    with pytest.raises(DarknetError, match="channels has 3 entries, but the network takes 2"):
        darknet_detector(cfg, weights, in_channels=2, channels=[0, 1, 2])
    with pytest.raises(DarknetError, match="Sequential cannot be written for darknet"):
        detector = darknet_detector(cfg)
        detector.network = nn.Sequential()
        export_detector(detector, tmp_path / "b.cfg", tmp_path / "b.weights")
    cfg, weights, _ = write_small(tmp_path, cfg_text(conv(9, groups=3)))
    with pytest.raises(DarknetError, match=r"layer 0 \[convolutional\].*3 input channels can be converted to \[0, 2"):
        darknet_detector(cfg, weights, channels=[0, 2, 1])


def test_an_unknown_option_is_told(tmp_path, caplog):
    (tmp_path / "a.cfg").write_text(CFG.replace("stride=2", "strid=2"))
    DarknetNetwork(tmp_path / "a.cfg")
    assert "line 15, layer 1 [maxpool]: strid is not an option" in caplog.text


NUMBERS = 4 * 8 + 8 * 3 * 9 + 4 * 8 + 8 * 8 * 9 + 12 + 12 * 8
WEIGHT_ERRORS = {
    "ends in weights": (
        lambda d: d[: 20 + 4 * 300],
        rf"a\.cfg, line 17, layer 2 \[convolutional\]: .*ends here, 20 of 576 weights in: it holds 300 numbers, "
        rf"the layers need {NUMBERS}",
    ),
    "ends in variances": (lambda d: d[: 20 + 4 * 26], r"layer 0 .*ends here, 2 of 8 running variances in"),
    "ends between layers": (lambda d: d[: 20 + 4 * 248], r"layer 2 .*ends here, 0 of 8 biases in"),
    "ends in the last layer": (lambda d: d[:-8], r"layer 3 .*ends here, 94 of 96 weights in"),
    "surplus": (lambda d: d + bytes(12), rf"holds {NUMBERS + 3} numbers, 3 more than all layers of .*a\.cfg"),
    "not whole": (lambda d: d[:-1], r"after its header of 20 \(version 0\.2\.0\), expected float32"),
    "short": (lambda d: d[:10], "has 10 bytes"),
    "other channels": (lambda d: d[:52] + d[-4 * 72 :] + d[52:], r"With channels=4 instead of 3 in \[net\], a\.cfg"),
    "not finite": (
        lambda d: d[:20] + struct.pack("<f", float("nan")) + d[24:],
        r"line 6, layer 0 \[convolutional\]: its biases in .*a\.weights are not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHT_ERRORS)
def test_errors_of_a_weights_file(name, tmp_path):
    change, message = WEIGHT_ERRORS[name]
    cfg, weights, _ = write_small(tmp_path, CFG)
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(DarknetError, match=message) as caught:
        darknet_detector(cfg, weights)
    assert str(weights) in str(caught.value)


def test_commands_of_the_page_run_in_their_order(tiny_cohort, tmp_path):
    (tmp_path / "cmb_bundle").symlink_to(ROOT / "cmb_bundle")
    (tmp_path / "scans").symlink_to(tiny_cohort)
    pool = "[maxpool]\nsize=2\nstride=2"
    text = cfg_text(conv(8), pool, conv(8), pool, conv(8), width=64, height=64)
    cfg, weights, network = write_small(tmp_path, text)
    cfg, weights = cfg.rename(tmp_path / "my.cfg"), weights.rename(tmp_path / "my.weights")
    found = commands(ROOT / "docs" / "reference" / "darknet.md")
    assert len(found) == 5
    subject = sorted(path.stem for path in (tiny_cohort / "Label").iterdir())[0]
    training = "--detector_epochs 1 --slices_per_subject 2 --classifier_epochs 1 --folds 3 --candidate_threshold 0.5"
    for command in found:
        quick = training if "run training" in command else f"--subjects \"['{subject}']\" --candidate_threshold 0.3"
        words = shlex.split(f"{command} {quick}")
        done = run_module(words[2:], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"

    state = torch.load(tmp_path / "converted" / "model.pt", weights_only=True)
    shipped = torch.load(CONFIGS.parent / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(state[key], value) for key, value in shipped.items() if key.startswith("classifier."))
    assert torch.equal(state["detector.network.layers.2.conv.weight"], network.layers[2].conv.weight)
    first = network.layers[0].conv.weight
    assert torch.equal(state["detector.network.layers.0.conv.weight"], first[:, :2])
    assert [path.name for path in (tmp_path / "results").iterdir() if path.is_dir()] == [subject]
    direct, joint = (
        json.loads((tmp_path / folder / subject / f"{subject}_cmb.json").read_text())["candidates"]
        for folder in ("results", "results_converted")
    )
    assert len(direct) > 0 and direct == joint

    trained = torch.load(tmp_path / "training" / "model.pt", weights_only=True)
    again = darknet_detector(
        tmp_path / "for_darknet" / "detector.cfg", tmp_path / "for_darknet" / "detector.weights", axes="PL"
    )
    assert not torch.equal(again.network.layers[0].conv.weight, first[:, :2])
    for key, value in again.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(trained[f"detector.{key}"], value), key
    assert int(again.loss.seen) > 321
