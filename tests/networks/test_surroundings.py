"""What lies around a candidate."""

import pytest
import torch

from cmb_bundle.scripts.errors import CheckpointError, OptionError
from cmb_bundle.scripts.networks import ContextClassifier, Surroundings, fit_weights

SIZE, SPACING = (60, 60, 14), (0.6, 0.6, 2.0)


def both(seed=0):
    torch.manual_seed(seed)
    network = ContextClassifier(spacing=SPACING, channels=(4, 8, 16), surroundings_size=SIZE).eval()
    for parameter in network.surroundings.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def patches(number=3, channels=2):
    return 0.2 + 0.6 * torch.rand(number, channels, *SIZE, generator=torch.Generator().manual_seed(1))


def test_parts_by_hand():
    around = Surroundings(SIZE, SPACING)
    swi = torch.full((1, 1, *SIZE), 0.5)
    swi[0, 0, 30 + 8, 30, 7] = 0.9  # 4.8 mm to the right in the candidate's slice
    swi[0, 0, 30 - 8, 30, 7] = 0.7  # and as far to the left
    swi[0, 0, 30, 30 - 12, 7 - 2] = 0.1  # 7.2 mm behind, two slices below
    swi[0, 0, 30, 30, 7] = 0.0  # the candidate itself is in no part
    right, front = torch.meshgrid(*2 * [0.6 * (torch.arange(60) - 30)], indexing="ij")
    radius, degrees = torch.hypot(right, front), torch.rad2deg(torch.atan2(front, right))
    beside = int(((radius >= 2.4) & (radius < 6) & (degrees.abs() < 22.5)).sum())
    behind = 2 * int(((radius >= 6) & (radius < 9) & ((degrees + 90).abs() < 22.5)).sum())  # on two slices
    found = around.measure(swi)[0].view(3, 3, 5, 8)  # mean, bright, dark; rings; heights; parts
    changed = (found[0] != 0.5).nonzero().tolist()
    # front, back, the lower and then the higher of right and left, of front right and left, and of back right and left
    assert changed == [[0, 2, 2], [0, 2, 5], [1, 1, 1]]
    assert float(found[0, 0, 2, 2] - 0.5) == pytest.approx(0.2 / beside, rel=1e-3)
    assert float(found[0, 0, 2, 5] - 0.5) == pytest.approx(0.4 / beside, rel=1e-3)
    assert float(found[0, 1, 1, 1] - 0.5) == pytest.approx(-0.4 / behind, rel=1e-3)
    assert float(found[1, 0, 2, 5] - found[1, 0, 0, 0]) == pytest.approx(1 / beside, rel=0.02)  # bright
    assert float(found[2, 1, 1, 1] - found[2, 0, 0, 0]) == pytest.approx(1 / behind, rel=0.02)  # dark


def test_every_voxel_of_a_ring_is_in_one_part():
    around = Surroundings(SIZE, SPACING)
    right, front, up = torch.meshgrid(
        *(float(s) * (torch.arange(n) - n // 2) for n, s in zip(SIZE, SPACING, strict=True)), indexing="ij"
    )
    radius = torch.hypot(right, front)
    wanted = (radius >= 2.4) & (radius < 17) & (up.abs() < 13)
    assert torch.equal(around.part.view(SIZE) > 0, wanted)
    assert around.voxels[1:].sum() == wanted.sum() and around.number == 120


def test_what_a_patch_does_not_reach_is_in_no_part():
    assert Surroundings((12, 12, 4), SPACING).number == 24 < Surroundings(SIZE, SPACING).number
    with pytest.raises(ValueError, match=r"patch_size is \(4, 4, 2\); expected more than 2.4 mm"):
        Surroundings((4, 4, 2), SPACING)


def test_a_mirrored_head_gives_the_same_and_one_turned_round_does_not():
    around = both().surroundings
    swi = patches(channels=1)
    swi[:, :, 0], swi[:, :, :, 0], swi[..., 0] = 0, 0, 0  # the outermost have no partner on the other side
    inner = swi[:, :, 1:, 1:, 1:]
    for other, same in ((inner.flip(2), True), (inner.flip(3), False), (inner.flip(4), False)):
        changed = swi.clone()
        changed[:, :, 1:, 1:, 1:] = other
        assert torch.allclose(around(changed), around(swi), rtol=1e-3, atol=1e-4) == same


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evidence_is_added_to_what_the_convolutions_say(dtype):
    network, x = both().to(dtype), patches().to(dtype)
    core = network(x[:, :, 18:42, 18:42, 3:11])
    found = network(x)
    torch.testing.assert_close(found[:, 0], core[:, 0])
    evidence = network.surroundings(x[:, :1])
    assert evidence.abs().min() > 1e-3
    torch.testing.assert_close(found[:, 1], core[:, 1] + evidence)


def test_the_convolutions_are_trained_on_patches_without_surroundings():
    network = both().train()
    network(patches()[:, :, 18:42, 18:42, 3:11]).sum().backward()
    assert network.features[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.surroundings.parameters())


def test_swi_alone_has_surroundings():
    network = ContextClassifier(in_channels=1, surroundings_size=SIZE).eval()
    x = patches(channels=1)
    torch.testing.assert_close(network(x), network(x[:, :, 18:42, 18:42, 3:11]))
    torch.nn.init.ones_(network.surroundings.layers[-1].bias)
    torch.testing.assert_close(network(x)[:, 1], network(x[:, :, 18:42, 18:42, 3:11])[:, 1] + 1)


def test_weights_without_surroundings_give_what_they_gave():
    plain = ContextClassifier(channels=(4, 8, 16)).eval()
    network = both()
    fit_weights(network, plain.state_dict(), "old.pt")
    x = patches()
    torch.testing.assert_close(network(x), plain(x[:, :, 18:42, 18:42, 3:11]))
    trained = both(seed=3)
    fit_weights(network, trained.state_dict(), "new.pt")
    torch.testing.assert_close(network(x), trained(x))


@pytest.mark.parametrize("size", [(60, 60), (61, 60, 14), (60, 60, 6)])
def test_bad_surroundings_are_refused(size):
    with pytest.raises(OptionError, match=r"surroundings_size is .*; expected patch_size, \[24, 24, 8\], and an even"):
        ContextClassifier(surroundings_size=size)


def test_one_number_makes_a_cube():
    cubes = ContextClassifier(patch_size=24, surroundings_size=32)
    assert (cubes.patch_size, cubes.surroundings_size) == ([24, 24, 24], [32, 32, 32])


def test_surroundings_of_another_size_are_refused():
    """Parts of 58 x 58 x 14 voxels are as many as those of 60 x 60 x 14."""
    state = both().state_dict()
    other = ContextClassifier(spacing=SPACING, channels=(4, 8, 16), surroundings_size=(58, 58, 14))
    assert other.surroundings.number == both().surroundings.number
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"new.pt was trained with surroundings_size \[60, 60, 14\]; this .*58"):
        fit_weights(other, state, "new.pt")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    without_size = {name: value for name, value in state.items() if name != "surroundings.patch_size"}
    network = ContextClassifier(spacing=SPACING, channels=(4, 8, 16), surroundings_size=SIZE)
    fit_weights(network, without_size, "before.pt")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("size", [(62, 60, 14), (48, 48, 14), (24, 24, 10)])
def test_a_patch_whose_surroundings_would_be_left_out_is_refused(size):
    network = ContextClassifier(channels=(4, 8, 16), surroundings_size=(60, 60, 14)).eval()
    with pytest.raises(ValueError, match=r"expected surroundings_size, \[60, 60, 14\], or patch_size, \[24, 24, 8\]"):
        network(torch.rand(1, 2, *size))
