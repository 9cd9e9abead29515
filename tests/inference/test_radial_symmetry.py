"""Radial symmetry on analytic spheres and lines, and as a stage 1."""

import itertools

import numpy as np
import pytest
import torch

from cmb_bundle.scripts.detection.candidates import CANDIDATE_COLUMNS, candidates_to_table
from cmb_bundle.scripts.inference.radial_symmetry import RADII_MM, RadialSymmetryInferer, radial_symmetry
from cmb_bundle.scripts.networks.decision import JointDecision

GRIDS = [(0.5, 0.5, 0.5), (0.8, 0.8, 2.0), (0.5, 0.5, 2.0)]


def shape_in(shape, spacing, centre, inside, value=0.0, around=0.5, fine=4):
    """An image in which the share of each voxel that is inside, by sub-voxels, has a value."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    steps = (np.arange(fine) + 0.5) / fine - 0.5
    shifts = itertools.product(steps, repeat=3)
    share = np.mean([inside((grid + np.array(shift) - centre) * spacing) for shift in shifts], axis=0)
    return around * (1 - share) + value * share


def sphere(shape, spacing, centre, radius, **values):
    return shape_in(shape, spacing, centre, lambda mm: np.linalg.norm(mm, axis=-1) <= radius, **values)


def grid_of(spacing, size_mm=24):
    shape = tuple(int(size_mm / s) // 2 * 2 for s in spacing)
    return shape, np.array(shape) // 2 + [0.3, -0.2, 0.1]


def candidates(image, spacing, **options):
    inferer = RadialSymmetryInferer(spacing, classify=False, **options)
    return candidates_to_table(inferer.find_candidates(torch.tensor(np.stack([image] * 2))))


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0])
def test_a_dark_sphere_is_found_at_its_centre(spacing, radius):
    shape, centre = grid_of(spacing)
    table = candidates(sphere(shape, spacing, centre, radius), spacing)
    assert len(table) == 1
    assert np.abs(table[0, :3].numpy() - centre).max() <= 0.5
    assert table[0, CANDIDATE_COLUMNS.index("diameter_mm")] == 2 * radius


@pytest.mark.parametrize("radius", RADII_MM)
def test_the_radius_of_a_sphere_has_its_contrast(radius):
    """On a fine grid F of the sphere's own radius is about its contrast, and a larger radius gets next to nothing."""
    shape, centre = grid_of(GRIDS[0])
    found = radial_symmetry(sphere(shape, GRIDS[0], centre, radius), GRIDS[0]).reshape(len(RADII_MM), -1).max(axis=1)
    own = RADII_MM.index(radius)
    assert found[own] == pytest.approx(0.5, rel=0.1)
    assert (found[own + 1 :] < 0.1 * found[own]).all()


def test_bright_spheres_and_empty_images_give_nothing():
    shape, centre = grid_of(GRIDS[1])
    bright = sphere(shape, GRIDS[1], centre, 2.0, value=1.0)
    dark = sphere(shape, GRIDS[1], centre, 2.0)
    assert radial_symmetry(bright, GRIDS[1]).max() < 0.05 * radial_symmetry(dark, GRIDS[1]).max()
    for image in (bright, np.full(shape, 0.5), np.zeros(shape)):
        assert candidates(image, GRIDS[1]).shape == (0, 8)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_dark_line_scores_less_than_a_sphere(axis):
    spacing = GRIDS[0]
    shape, centre = grid_of(spacing)
    others = [a for a in range(3) if a != axis]
    line = shape_in(shape, spacing, centre, lambda mm: np.linalg.norm(mm[..., others], axis=-1) <= 1.0)
    middle = tuple(slice(n // 4, -n // 4) for n in shape)
    alone = radial_symmetry(line, spacing).max(axis=0)[middle].max()
    assert alone < 0.5 * radial_symmetry(sphere(shape, spacing, centre, 1.0), spacing).max()


def test_contrast_scales_the_score():
    shape, centre = grid_of(GRIDS[1])
    spheres = [sphere(shape, GRIDS[1], centre, 2.0, value=value) for value in (0.0, 0.25)]
    full, half = (float(candidates(image, GRIDS[1])[0, 4]) for image in spheres)
    assert half == pytest.approx(full / 2, rel=0.15)


def test_two_spheres_best_first_and_near_ones_once():
    spacing = (0.8, 0.8, 2.0)
    a, b = np.array([12.0, 14, 8]), np.array([30.0, 28, 8])
    image = np.minimum(sphere((44, 44, 16), spacing, a, 2.0), sphere((44, 44, 16), spacing, b, 2.0, value=0.2))
    table = candidates(image, spacing)
    np.testing.assert_allclose(table[:, :3], [a, b], atol=0.5)
    assert len(candidates(image, spacing, merge_mm=30.0)) == 1
    assert len(candidates(image, spacing, max_candidates=1)) == 1


def test_the_edge_of_the_head_is_no_candidate():
    spacing = (0.8, 0.8, 2.0)
    head = sphere((60, 60, 16), spacing, np.array([30, 30, 8]), 12.0, value=0.5, around=0.0, fine=1)
    assert len(candidates(head, spacing)) == 0


def test_stage_two_is_the_same_classifier():
    shape, centre = grid_of(GRIDS[1])
    image = torch.tensor(np.stack([sphere(shape, GRIDS[1], centre, 2.0)] * 2)).float()

    class Sure(torch.nn.Module):
        def forward(self, patches):
            return torch.tensor([[0.0, 2.0]]).repeat(len(patches), 1)

    network = torch.nn.Module()
    network.detector, network.classifier = None, Sure()
    network.decision = JointDecision(detector=3.0, classifier=0.5, offset=4.0)  # of another detector's scores
    table = RadialSymmetryInferer(GRIDS[1])(image[None], network)
    assert table.shape == (1, 1, 8)
    assert table[0, 0, 6:].tolist() == pytest.approx([1 / (1 + np.exp(-2.0))] * 2)
