"""Tests of the YOLOv2 network and of the module of both stages."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cmb_bundle.scripts.networks.blocks import scaled_channels
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork
from cmb_bundle.scripts.networks.yolov2 import YOLOv2Network

from ..helpers import STRIDE_8_STAGES


def small_network(**arguments) -> YOLOv2Network:
    torch.manual_seed(0)
    settings = {"width": 0.125, "stages": STRIDE_8_STAGES, "num_anchors": 2} | arguments
    return YOLOv2Network(**settings).eval()


def test_literal_network_has_the_layers_of_the_cfg():
    with torch.device("meta"):
        network = YOLOv2Network(in_channels=2)
    layers = [(m.kernel_size[0], m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert layers == [
        (3, 2, 32),
        (3, 32, 64),
        (3, 64, 128),
        (1, 128, 64),
        (3, 64, 128),
        (3, 128, 256),
        (1, 256, 128),
        (3, 128, 256),
        (3, 256, 512),
        (1, 512, 256),
        (3, 256, 512),
        (1, 512, 256),
        (3, 256, 512),
        (3, 512, 1024),
        (1, 1024, 512),
        (3, 512, 1024),
        (1, 1024, 512),
        (3, 512, 1024),
        (3, 1024, 1024),
        (3, 1024, 1024),
        (1, 512, 64),
        (3, 1280, 1024),
        (1, 1024, 30),
    ]
    by_hand = sum(k * k * i * o + 2 * o for k, i, o in layers[:-1]) + 1024 * 30 + 30
    assert sum(p.numel() for p in network.parameters()) == by_hand == 50_557_726
    assert network.stride == 32
    assert network.predictions.bias is not None
    assert all(m.negative_slope == 0.1 for m in network.modules() if isinstance(m, nn.LeakyReLU))


def test_literal_network_costs_34_gflop():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        output = YOLOv2Network(in_channels=3)(torch.empty(1, 3, 448, 448))
    assert output.shape == (1, 30, 14, 14)
    assert counter.get_total_flops() == pytest.approx(34e9, rel=0.02)


def test_small_stride():
    network = small_network(num_anchors=3, num_classes=2)
    assert network.stride == 8
    assert network(torch.rand(2, 2, 24, 40)).shape == (2, 3 * 7, 3, 5)


def test_reorganised_channels_stand_first_in_pixel_unshuffle_order():
    network = small_network()
    seen = {}
    network.passthrough.register_forward_hook(lambda _, __, output: seen.update(fine=output))
    network.stages[-1].register_forward_hook(lambda _, __, output: seen.update(coarse=output))
    network.head.register_forward_hook(lambda _, inputs, __: seen.update(joined=inputs[0]))
    network(torch.rand(1, 2, 16, 24))
    fine, joined = seen["fine"], seen["joined"]
    assert fine.shape[1] == 8
    for channel in range(fine.shape[1]):
        for row in range(2):
            for column in range(2):
                torch.testing.assert_close(
                    joined[:, 4 * channel + 2 * row + column], fine[:, channel, row::2, column::2], rtol=0, atol=0
                )
    torch.testing.assert_close(joined[:, 32:], seen["coarse"], rtol=0, atol=0)


def test_untrained_objectness_is_the_prior():
    raw = small_network(objectness_prior=0.2)(torch.zeros(1, 2, 16, 16)).unflatten(1, (2, 6))
    torch.testing.assert_close(raw[:, :, 4].sigmoid(), torch.full((1, 2, 2, 2), 0.2))
    assert raw[:, :, [0, 1, 2, 3, 5]].abs().max() == 0
    bias = small_network(objectness_prior=None).predictions.bias
    assert bias.abs().max() == 0


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(30, 1, 30), (32, 0.25, 8), (32, 0.1, 8), (64, 0.3, 16), (64, 0.33, 24), (1024, 0.25, 256), (40, 0.5, 24)],
)
def test_scaled_channels(channels, width, expected):
    assert scaled_channels(channels, width) == expected


def test_one_stage_is_refused():
    with pytest.raises(ValueError, match="two stages"):
        YOLOv2Network(stages=STRIDE_8_STAGES[:1])


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = small_network()


def two_stages() -> TwoStageNetwork:
    return TwoStageNetwork(Detector(), nn.Linear(2, 2)).eval()


def test_two_stage_network_returns_the_raw_tensor_and_holds_both():
    network = two_stages()
    images = torch.rand(2, 2, 16, 16)
    torch.testing.assert_close(network(images), network.detector.network(images), rtol=0, atol=0)
    assert {key.split(".")[0] for key in network.state_dict()} == {"detector", "classifier"}


def test_weights_survive_a_file(tmp_path):
    network, images = two_stages(), torch.rand(1, 2, 16, 16)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = two_stages()
    nn.init.normal_(other.detector.network.predictions.weight)
    assert not torch.equal(other(images), network(images))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(other(images), network(images), rtol=0, atol=0)


def test_export_with_dynamic_sizes():
    network = two_stages()
    size = {
        0: torch.export.Dim("batch", min=1, max=64),
        2: 8 * torch.export.Dim("rows", min=2, max=64),
        3: 8 * torch.export.Dim("columns", min=2, max=64),
    }
    exported = torch.export.export(network, (torch.rand(2, 2, 32, 24),), dynamic_shapes=(size,)).module()
    images = torch.rand(3, 2, 40, 64)
    torch.testing.assert_close(exported(images), network(images))
