"""The profile of SWI and phase about a candidate."""

import pytest
import torch

from cmb_bundle.scripts.networks import ContextClassifier, Profile, fit_weights

SIZE, AROUND, SPACING = (24, 24, 8), (60, 60, 14), (0.6, 0.6, 2.0)
RINGS, HEIGHTS = 7, 7


def seen(number=1, phase=0.0):
    """SWI at its median, a phase, and where it was measured."""
    return torch.stack([torch.zeros(number, *SIZE), torch.full((number, *SIZE), phase), torch.ones(number, *SIZE)], 1)


def both(seed=0):
    torch.manual_seed(seed)
    network = ContextClassifier(spacing=SPACING, channels=(4, 8, 16), surroundings_size=AROUND).eval()
    for parameter in network.profile.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def patches(number=3):
    return 0.2 + 0.6 * torch.rand(number, 2, *AROUND, generator=torch.Generator().manual_seed(1))


def core(x):
    return x[:, :, 18:42, 18:42, 3:11]


def test_rings_by_hand():
    profile, x = Profile(SIZE, SPACING), seen()
    x[0, 0, 12, 12, 4] = -0.5  # the candidate itself
    x[0, 0, 12 + 4, 12, 4] = -0.3  # 2.4 mm beside it
    x[0, 1, 12, 12 - 2, 4 + 1] = 0.8  # 1.2 mm from it, a slice above
    found = profile.measure(x)[0]
    swi, phase = found[:49].view(RINGS, HEIGHTS), found[49:98].view(RINGS, HEIGHTS)
    steps = 0.6 * torch.stack(torch.meshgrid(*2 * [torch.arange(24) - 12.0], indexing="ij"))
    radius = torch.hypot(*steps)
    beside, near = ((radius >= 2.3) & (radius < 3.4)).sum(), ((radius >= 1) & (radius < 1.6)).sum()
    assert swi.nonzero().tolist() == [[0, 3], [4, 3]]
    assert [float(swi[0, 3]), float(swi[4, 3])] == pytest.approx([-0.5, float(-0.3 / beside)])
    assert phase.nonzero().tolist() == [[2, 4]]
    size = float(0.8 / near) / 7  # the root mean square of 49 rings of which one is not 0
    assert float(phase[2, 4]) == pytest.approx(7 * size / (size + 0.01), rel=1e-4)
    assert float(found[98]) == pytest.approx(torch.tensor(size + 0.01).log().item(), rel=1e-4)


def test_a_phase_of_another_size_has_the_same_profile():
    profile = Profile(SIZE, SPACING)
    x = seen() + 0.0
    x[:, 1] = 0.3 * torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    twice = x.clone()
    twice[:, 1] *= 2
    one, other = profile.measure(x)[0], profile.measure(twice)[0]
    torch.testing.assert_close(other[:98], one[:98], rtol=0.15, atol=1e-3)
    assert float(other[98] - one[98]) == pytest.approx(0.6, abs=0.12)  # its logarithm tells


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evidence_is_added_to_what_the_convolutions_say(dtype):
    network, x = both().to(dtype), patches().to(dtype)
    found, without = network(x), network(core(x))
    evidence = network.profile(network.standardise(core(x)))
    assert evidence.abs().min() > 1e-3
    torch.testing.assert_close(found[:, 0], without[:, 0])
    torch.testing.assert_close(found[:, 1], without[:, 1] + evidence)  # surroundings are untrained here


def test_there_is_none_without_a_phase():
    network, x = both(), patches()
    x[1, 1] = 0
    evidence = network.profile(network.standardise(core(x)))
    assert evidence[1] == 0 and (evidence[[0, 2]] != 0).all()
    assert ContextClassifier(in_channels=1, surroundings_size=AROUND).profile is None
    assert ContextClassifier(in_channels=2).profile is None  # without surroundings there is neither


def test_the_convolutions_are_trained_without_it():
    network = both().train()
    network(core(patches())).sum().backward()
    assert all(parameter.grad is None for parameter in network.profile.parameters())


def test_weights_without_a_profile_give_what_they_gave():
    before = {name: value for name, value in both().state_dict().items() if not name.startswith("profile.")}
    network, x = both(seed=3), patches()
    fit_weights(network, before, "old.pt")
    plain = both()
    plain.profile = None
    torch.testing.assert_close(network(x), plain(x))
    fit_weights(network, both().state_dict(), "new.pt")
    torch.testing.assert_close(network(x), both()(x))


def test_it_is_scaled_with_the_logit():
    network, x = both(), patches()
    before = network(x)
    network.scale_logit(2.0, -1.0)
    after = network(x)
    torch.testing.assert_close(after[:, 1] - after[:, 0], 2 * (before[:, 1] - before[:, 0]) - 1)
