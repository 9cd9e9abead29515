"""The classifier that sees SWI and phase of one place together."""

import pytest
import torch

from cmb_bundle.scripts.networks.classifier import ContextClassifier

standardise = ContextClassifier.standardise
SWI = [0.0, 0.05, 0.4, 0.5, 0.8, 1.0, 0.45]
PHASE = [0.0, 0.5, 0.25, 0.75, 1.0, 0.5, 0.6]


def patch(*channels):
    return torch.tensor(channels).reshape(1, len(channels), 1, 1, -1)


def example(number=2, seed=0):
    """Tissue of 0.3 to 0.8 with a dark spot in the middle, phase everywhere."""
    random = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.5 * torch.rand(number, 2, 24, 24, 8, generator=random)
    x[:, 0, 11:13, 11:13, 4] = 0.02
    return x


def small(**options):
    torch.manual_seed(0)
    return ContextClassifier(channels=(4, 8, 16), **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_standardised_by_hand(dtype, tolerance):
    found = standardise(patch(SWI, PHASE).to(dtype))
    assert found.dtype == dtype
    # of what is above 0.1 (0.4, 0.45, 0.5, 0.8, 1) the median is 0.5; what is twice as bright or more is 1
    expected = [[-1, -0.9, -0.2, 0, 0.6, 1, -0.1], [0, 0, 0.5, -0.5, -1, 0, -0.2], [1.0] * 7]
    torch.testing.assert_close(found.float(), patch(*expected), atol=tolerance, rtol=0)


def test_a_missing_phase_is_told_from_a_phase_of_0():
    found = standardise(torch.cat([patch(SWI, [0.0] * 7), patch(SWI, [0.5] * 7)]))
    assert not found[0, 1:].any()
    assert not found[1, 1].any()
    assert (found[1, 2] == 1).all()


def test_nothing_but_background_stays_finite():
    found = standardise(torch.zeros(1, 2, 4, 4, 4))
    assert (found[:, 0] == -1).all()
    assert not found[:, 1:].any()


def test_each_patch_has_its_own_median():
    bright, dark = patch(SWI), 0.5 * patch(SWI)
    torch.testing.assert_close(standardise(torch.cat([bright, dark]))[1:], standardise(dark))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.2])
def test_the_gain_of_swi_does_not_matter(factor):
    x = example()
    other = x.clone()
    other[:, 0] *= factor
    torch.testing.assert_close(standardise(other), standardise(x))
    network = small().eval()
    torch.testing.assert_close(network(other), network(x))


def test_the_opposite_phase_changes_its_sign_only():
    x = example()
    opposite = x.clone()
    opposite[:, 1] = 1 - x[:, 1]
    found, other = standardise(x), standardise(opposite)
    torch.testing.assert_close(other[:, 1], -found[:, 1])
    assert torch.equal(other[:, [0, 2]], found[:, [0, 2]])
    network = small().eval()
    assert not torch.allclose(network(opposite), network(x), atol=1e-5)


@pytest.mark.parametrize("axes", [(2,), (4,), (2, 4)])
def test_the_mean_over_mirror_images_does_not_change_in_a_mirror(axes):
    x = example()
    x[:, 0, 2:6, 3:9, 1] = 0.1  # nothing is symmetric
    averaging, plain = small().eval(), small(average_flips=False).eval()
    torch.testing.assert_close(averaging(x.flip(axes)), averaging(x))
    mirrors = torch.stack([plain(x.flip(a)) for a in ((), (2,), (4,), (2, 4))])
    torch.testing.assert_close(averaging(x), mirrors.mean(dim=0))
    torch.testing.assert_close(averaging(x, mirrored=False), plain(x))
    assert not torch.allclose(plain(x.flip(axes)), plain(x), atol=1e-6)


def test_one_patch_does_not_depend_on_the_others():
    x = example(5)
    network = small().eval()
    assert network(x).shape == (5, 2)
    torch.testing.assert_close(network(x)[3:4], network(x[3:4]))


def test_swi_alone():
    x = example()[:, :1]
    network = small(in_channels=1).eval()
    assert network.features[0].in_channels == 1
    assert standardise(x).shape == x.shape
    assert network(x).shape == (2, 2)


@pytest.mark.parametrize("size", [(24, 24), (24, 24, 6), (20, 24, 8), (24, 20, 8), (0, 24, 8), (24, 24, 8, 8)])
def test_a_bad_patch_size_is_refused(size):
    with pytest.raises(ValueError, match=r"patch_size is .*; expected multiples of 8, 8 and 4 voxels"):
        ContextClassifier(patch_size=size)


@pytest.mark.parametrize("number", [0, 3])
def test_bad_channels_are_refused(number):
    with pytest.raises(ValueError, match=rf"in_channels is {number}; expected 2 .* or 1"):
        ContextClassifier(in_channels=number)
