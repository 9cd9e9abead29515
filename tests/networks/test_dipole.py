"""The evidence of a dipole: spheres whose field is known, seen by voxels that average it."""

import numpy as np
import pytest
import torch

from cmb_bundle.scripts.networks import ContextClassifier, DipoleEvidence

SIZE, SPACING = (24, 24, 8), (0.6, 0.6, 2.0)
EVIDENCE = DipoleEvidence(SIZE, SPACING)


def sphere(radius_mm=1.2, susceptibility=1.0, place=(0.0, 0.0, 0.0), tilt_degrees=0.0, steps=5):
    """Complement phase (1, 1, *SIZE) about a sphere ``place`` voxels from the middle, averaged over sub-slices."""
    field = 0.0
    for part in (np.arange(steps) + 0.5) / steps - 0.5:
        axes = [np.arange(n) - (n - 1) / 2 - o for n, o in zip(SIZE, place, strict=True)]
        axes[2] = axes[2] + part
        at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) * np.array(SPACING)
        distance, angle = np.maximum(np.linalg.norm(at, axis=-1), 1e-6), np.deg2rad(tilt_degrees)
        along = at @ np.array([np.sin(angle), 0, np.cos(angle)]) / distance
        field = field + np.where(distance > radius_mm, (3 * along**2 - 1) * (radius_mm / distance) ** 3, 0) / steps
    return torch.as_tensor(0.5 - 0.2 * susceptibility * field)[None, None].float()


@pytest.mark.parametrize("radius", [0.8, 1.2, 1.6, 2.4])
@pytest.mark.parametrize("place", [(0, 0, 0), (0.5, -0.5, 0.5), (0.5, 0.5, 0)])
@pytest.mark.parametrize("tilt", [0, 20])
def test_blood_and_calcium_have_opposite_evidence(radius, place, tilt):
    blood = float(EVIDENCE(sphere(radius, 1.0, place, tilt)))
    assert blood > 0.35
    assert float(EVIDENCE(sphere(radius, -1.0, place, tilt))) == pytest.approx(-blood, abs=1e-5)


def test_a_sphere_of_the_radius_at_a_voxel_is_certain_and_a_tilt_costs_a_quarter():
    straight, tilted = (float(EVIDENCE(sphere(tilt_degrees=t))) for t in (0, 20))
    assert straight == pytest.approx(0.95, abs=0.01)
    assert tilted / straight == pytest.approx(3 / 4, abs=0.03)


def test_it_grows_with_the_phase_and_noise_alone_is_next_to_nothing():
    found = [float(EVIDENCE(sphere(susceptibility=s))) for s in (0.0, 0.02, 0.1, 1.0)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0, abs=1e-6)
    noise = 0.5 + 0.1 * torch.randn(300, 1, *SIZE, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    assert float(EVIDENCE(noise).abs().quantile(0.95)) < 0.15


def test_a_line_along_a_slice_and_a_step_are_no_sphere():
    vein = torch.full((1, 1, *SIZE), 0.5)
    vein[..., 11:13, :, 3:5] = 0.2
    step = torch.full((1, 1, *SIZE), 0.5)
    step[..., :12, :, :] = 0.3
    assert max(float(EVIDENCE(vein)), float(EVIDENCE(step))) < 0.3


def test_without_a_phase_it_is_0():
    assert EVIDENCE(torch.zeros(2, 1, *SIZE)).tolist() == [0, 0]


@pytest.mark.parametrize("axes", [(2,), (3,), (4,), (2, 4)])
def test_it_is_the_same_in_a_mirror(axes):
    phase = sphere(place=(0.5, -0.5, 0.5)) + 0.05 * torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(EVIDENCE(phase.flip(axes)), EVIDENCE(phase))


def test_other_voxels_see_the_same_sphere():
    fine = DipoleEvidence((32, 32, 16), (0.45, 0.45, 1.0))
    field = fine.pattern((0, 0, 0))[0][None, None].float()
    assert float(fine(0.5 - 0.2 * field)) > 0.95


def test_the_classifier_adds_it_to_the_logit_of_a_microbleed():
    torch.manual_seed(0)
    network = ContextClassifier(channels=(4, 8, 16)).eval()
    x = torch.cat([torch.full((1, 1, *SIZE), 0.6), sphere()], dim=1)
    with torch.no_grad():
        network.dipole_weight.fill_(0.0)
        without = network(x)
        network.dipole_weight.fill_(3.0)
        added = network(x) - without
    torch.testing.assert_close(added, torch.stack([torch.zeros(1), 3 * EVIDENCE(x[:, 1:])], dim=1))


def test_its_weight_is_trained_and_saved_but_not_its_patterns():
    network = ContextClassifier(channels=(4, 8, 16))
    network(torch.cat([torch.rand(2, 1, *SIZE), sphere().expand(2, -1, -1, -1, -1)], dim=1))[:, 1].sum().backward()
    assert float(network.dipole_weight.grad) == pytest.approx(2 * float(EVIDENCE(sphere())), rel=1e-5)
    assert [name for name in network.state_dict() if "dipole" in name] == ["dipole_weight"]
    assert not [name for name in ContextClassifier(in_channels=1).state_dict() if "dipole" in name]
