"""The arranged networks against those that they were made from."""

import copy

import pytest
import torch
from torch import nn

from cmb_bundle.scripts.darknet.detector import darknet_detector
from cmb_bundle.scripts.detection.yolov2 import YOLOv2Detector
from cmb_bundle.scripts.inference.acceleration import Accelerated, MaxPool, accelerate
from cmb_bundle.scripts.networks.classifier import ContextClassifier, PatchClassifier
from cmb_bundle.scripts.networks.decision import JointDecision
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork
from cmb_bundle.scripts.networks.yolov2 import YOLOv2Network

from ..helpers import CONFIGS, STRIDE_8_STAGES


@pytest.fixture(scope="module")
def network():
    """Both stages with random weights and statistics of normalisation that are not 0 and 1."""
    torch.manual_seed(0)
    detector = YOLOv2Detector(YOLOv2Network(2, 1, width=0.125, stages=STRIDE_8_STAGES), [[1.0, 1.0]])
    network = TwoStageNetwork(detector, PatchClassifier(width=0.25))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_decision_of_both_stages_stays_as_it_is(network, precision):
    decision = JointDecision(detector=0.3, classifier=1.7, offset=-0.123)
    fast = accelerate(TwoStageNetwork(network.detector, network.classifier, decision), precision=precision)
    assert fast.decision.weights.dtype == torch.float32
    scores, logits = torch.rand(20), torch.randn(20)
    assert torch.equal(fast.decision(scores, logits), decision(scores, logits))
    assert accelerate(network, precision=precision).decision is None


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
@torch.no_grad()
def test_the_classifier_with_context_gives_what_it_gave(network, precision, tolerance):
    torch.manual_seed(1)
    classifier = ContextClassifier(channels=(4, 8, 16)).train()
    patches = torch.rand(16, 2, 24, 24, 8)
    classifier(patches)  # statistics of normalisation
    fast = accelerate(TwoStageNetwork(network.detector, classifier).eval(), precision=precision)
    found, expected = fast.classifier(patches), classifier(patches)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fast.classifier.modules())
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < tolerance
    once = fast.classifier(patches, mirrored=False)
    assert relative_error(once, classifier(patches, mirrored=False)) < tolerance
    assert not torch.equal(once, found)


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
@torch.no_grad()
def test_both_stages_give_what_they_gave(network, precision, tolerance):
    fast = accelerate(network, precision=precision)
    slices, patches = torch.rand(3, 2, 48, 64), torch.rand(5, 1, 16, 32, 16)
    for found, expected in ((fast(slices), network(slices)), (fast.classifier(patches), network.classifier(patches))):
        assert found.dtype == torch.float32
        assert relative_error(found, expected) < tolerance
    # one digit of agreement is all that random weights allow; half precision must not be exact
    assert (relative_error(fast(slices), network(slices)) > 1e-4) == (precision == "bfloat16")


def test_the_network_itself_is_not_changed(network):
    before = copy.deepcopy(network.state_dict())
    accelerate(network, precision="bfloat16")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_normalisation_of_the_detector_is_folded_and_attributes_are_kept(network):
    fast = accelerate(network, precision="float32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert isinstance(fast.detector.network, Accelerated)
    assert fast.detector.network.stride == network.detector.network.stride
    with pytest.raises(AttributeError):
        fast.detector.network.nothing  # noqa: B018


@torch.no_grad()
def test_normalisation_of_a_darknet_network_is_folded():
    torch.manual_seed(0)
    detector = darknet_detector(CONFIGS / "yolov2_cmb.cfg")
    for module in detector.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.running_mean, std=0.1)
    slow = TwoStageNetwork(detector, nn.Linear(1, 1)).eval()
    fast = accelerate(slow, precision="float32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    x = torch.rand(1, 2, 64, 96)
    assert relative_error(fast(x), slow(x)) < 1e-4


def test_normalisation_before_a_convolution_is_not_folded():
    torch.manual_seed(0)
    sequence = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    x = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close(Accelerated(copy.deepcopy(sequence), torch.float32)(x), sequence(x))


@pytest.mark.parametrize(
    "pooling, size",
    [
        (nn.MaxPool2d(2), (6, 8)),
        (nn.MaxPool2d(2), (7, 5)),
        (nn.MaxPool2d((3, 2)), (7, 5)),
        (nn.MaxPool3d((2, 2, 1)), (5, 6, 3)),
        (nn.MaxPool3d(2), (5, 6, 3)),
    ],
)
def test_pooling_is_that_of_torch(pooling, size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size)
    x[0, 0, 1, 1] = torch.nan
    fast = Accelerated(nn.Sequential(pooling).eval(), torch.float32)
    assert isinstance(fast.network[0], MaxPool)
    torch.testing.assert_close(fast.network(x), pooling(x), rtol=0, atol=0, equal_nan=True)


def test_only_plain_pooling_is_replaced():
    others = [nn.MaxPool2d(2, 1), nn.MaxPool2d(3, 2), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True)]
    fast = Accelerated(nn.Sequential(nn.MaxPool2d(2, 2), *others).eval(), torch.float32)
    assert [type(module) for module in fast.network] == [MaxPool] + 4 * [nn.MaxPool2d]


@torch.no_grad()
def test_reorg_is_part_of_the_convolution_before_it(network):
    fine = torch.rand(2, network.detector.network.passthrough[0].in_channels, 12, 20)
    slow, fast = network.detector.network, accelerate(network, precision="float32").detector.network
    assert isinstance(fast.reorg, nn.Identity)
    torch.testing.assert_close(fast.passthrough(fine), slow.reorg(slow.passthrough(fine)))


def test_auto_is_bfloat16_where_the_processor_multiplies_matrices_in_it(network, monkeypatch):
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has, raising=False)
        assert accelerate(network).classifier.dtype == expected
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)  # as in older versions
    assert accelerate(network).classifier.dtype == torch.float32


def test_an_unknown_precision_is_refused(network):
    with pytest.raises(ValueError, match="precision is 'int8'; expected one of auto, float32, bfloat16"):
        accelerate(network, precision="int8")
