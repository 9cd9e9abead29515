"""Tests of the patch classifier."""

import pytest
import torch
from torch import nn

from cmb_bundle.scripts.networks.classifier import PatchClassifier


def layer_shapes(network: nn.Module, patch: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    shapes = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda m, _, output: shapes.append((type(m).__name__, tuple(output.shape[1:])))
            )
    network(patch)
    return shapes


def test_layers_and_sizes_are_those_of_the_published_code():
    def block(channels, *size):
        return [(name, (channels, *size)) for name in ("Conv3d", "ReLU", "BatchNorm3d")]

    network = PatchClassifier().eval()
    assert layer_shapes(network, torch.rand(1, 1, 16, 32, 16)) == [
        ("ConstantPad3d", (1, 18, 34, 18)),
        *block(32, 16, 32, 16),
        *block(64, 14, 30, 14),
        *block(64, 12, 28, 12),
        ("MaxPool3d", (64, 6, 14, 6)),
        *block(128, 4, 12, 4),
        *block(128, 2, 10, 2),
        ("MaxPool3d", (128, 1, 5, 1)),
        ("Flatten", (640,)),
        ("Linear", (32,)),
        ("ReLU", (32,)),
        ("Dropout", (32,)),
        ("Linear", (8,)),
        ("ReLU", (8,)),
        ("Linear", (2,)),
    ]
    convolutions = [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    dense = [(640, 32), (32, 8), (8, 2)]
    by_hand = sum(27 * i * o + 3 * o for i, o in convolutions) + sum(i * o + o for i, o in dense)
    assert sum(p.numel() for p in network.parameters()) == by_hand == 852_346
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.3]
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}


def test_padding_is_zero():
    network = PatchClassifier().eval()
    padded = network.features[0](torch.ones(1, 1, 16, 32, 16))
    assert padded.sum() == 16 * 32 * 16
    assert padded[0, 0, 0].max() == 0


def test_outputs_are_logits():
    torch.manual_seed(0)
    network = PatchClassifier(width=0.25).eval()
    with torch.no_grad():
        network.head[-1].bias.copy_(torch.tensor([-3.0, 5.0]))
        network.head[-1].weight.zero_()
    assert network(torch.rand(1, 1, 16, 32, 16)).tolist() == [[-3.0, 5.0]]


def test_width_and_patch_size():
    network = PatchClassifier(in_channels=2, num_classes=3, patch_size=(20, 24, 16), width=0.25).eval()
    assert [m.out_channels for m in network.modules() if isinstance(m, nn.Conv3d)] == [8, 16, 16, 32, 32]
    assert network.head[1].in_features == 32 * 2 * 3 * 1
    assert network(torch.rand(1, 2, 20, 24, 16)).shape == (1, 3)


@pytest.mark.parametrize("patch_size", [(15, 32, 16), (16, 32), (16, 16, 16, 16)])
def test_bad_patch_size_is_refused(patch_size):
    with pytest.raises(ValueError, match="three numbers of voxels, each 16 or more"):
        PatchClassifier(patch_size=patch_size)


def test_average_over_mirror_images():
    torch.manual_seed(0)
    network = PatchClassifier(width=0.25, dropout=0.0, average_flips=True)
    x = torch.rand(3, 1, 16, 32, 16)
    network.train()(x)  # statistics of normalisation that are not those of a new network
    averaged = network.eval()(x)
    network.average_flips = False
    mirrored = [x, x.flip(2), x.flip(-1), x.flip(-1).flip(2)]
    torch.testing.assert_close(averaged, torch.stack([network(m) for m in mirrored]).mean(0))
    one_view = network(x)
    assert not torch.allclose(averaged, one_view, atol=1e-5)
    network.average_flips = True
    torch.testing.assert_close(network(x, mirrored=False), one_view)
    torch.testing.assert_close(network(x.flip(2)), averaged)
    torch.testing.assert_close(network(x.flip(4)), averaged)


def test_training_sees_the_patch_as_it_is():
    torch.manual_seed(0)
    plain, averaging = (PatchClassifier(width=0.25, dropout=0.0, average_flips=a) for a in (False, True))
    averaging.load_state_dict(plain.state_dict())
    x = torch.rand(2, 1, 16, 32, 16)
    torch.testing.assert_close(averaging(x), plain(x), rtol=0, atol=0)
