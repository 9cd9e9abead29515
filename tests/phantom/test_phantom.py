"""The simulator: fields against analytic answers, lesions against the published statistics, files against the truth."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from cmb_bundle.scripts.phantom import (
    PRESETS,
    TINY,
    Content,
    PhantomSpec,
    cohort,
    default_cohort,
    make_cohort,
    physics,
    simulate,
)
from cmb_bundle.scripts.phantom.anatomy import Head, Pose, Shape, build_head
from cmb_bundle.scripts.phantom.grid import Grid, covering, resample
from cmb_bundle.scripts.phantom.lesions import (
    Lesion,
    apparent_to_true_radius,
    draw_count,
    draw_diameter,
    draw_susceptibility,
    signal_factor,
)
from cmb_bundle.scripts.phantom.placement import (
    Placer,
    artery_of,
    continued,
    course,
    place_microbleeds,
    place_mimics,
    region_of,
)
from cmb_bundle.scripts.phantom.simulate import microbleed_count
from cmb_bundle.scripts.phantom.veins import Vessels, draw, grow

SLAB = PhantomSpec(name="slab", spacing=(1.6, 1.6, 2.0), shape=(92, 112, 6), microbleeds=3, seed=11)


@pytest.fixture(scope="module")
def slab():
    return simulate(SLAB)


@pytest.fixture(scope="module")
def tilted():
    return simulate(SLAB.changed(seed=12, oblique_deg=12.0, phase_polarity=-1))


@pytest.fixture(scope="module")
def small_cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohorts") / "serial", 2, SLAB, seed=4, processes=1, progress=False)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Fields


def test_sphere_field_at_points_known_by_hand():
    offsets = np.array([[0.0, 0.0, 2.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.5]]).T
    pole, equator, inside = physics.sphere_field(offsets, 1.0, 0.6)
    assert pole == pytest.approx(2 * 0.6 / 3 / 8)
    assert equator == pytest.approx(-0.6 / 3 / 8)
    assert inside == 0


def test_dipole_convolution_of_a_sphere_is_the_analytic_dipole():
    n, radius, chi = 96, 8.0, 1.0
    grid = Grid((-n / 2,) * 3, (1.0,) * 3, (n,) * 3)
    points = grid.points()
    distance = np.sqrt((points**2).sum(0))
    field = physics.dipole_field((chi * np.clip(radius + 0.5 - distance, 0, 1)).astype(np.float32), grid.step)
    shell = (distance > 11) & (distance < 22)
    expected = physics.sphere_field(points, radius, chi)
    assert np.abs(field - expected)[shell].max() < 0.02 * chi
    assert np.abs(field[distance < 6]).max() < 0.02 * chi
    assert expected[shell].max() > 0.2  # the bound above is a tenth of what it bounds


@pytest.mark.parametrize(("axis", "inside"), [(2, 1 / 3), (0, -1 / 6)])
def test_dipole_convolution_of_a_long_vein(axis, inside):
    x = np.arange(64) - 32.0
    disc = np.hypot(x[:, None], x[None, :]) < 5
    chi = np.broadcast_to(np.expand_dims(disc, axis), (64, 64, 64)).astype(np.float32)
    field = physics.dipole_field(chi, (1.0, 1.0, 1.0))
    # Relative to the mean field, which the convolution sets to zero.
    assert field[32, 32, 32] == pytest.approx(inside * (1 - disc.mean()), abs=0.02)


def test_shim_removes_a_quadratic_and_leaves_the_rest():
    points = covering(np.array([-60.0] * 3), np.array([60.0] * 3), 12.0).points()
    x, y, z = points / 100
    smooth = 0.4 - x + 2 * y * z - 0.7 * z**2
    rest = np.zeros_like(smooth)
    rest[5, 5, 5] = 1e-3
    shimmed = physics.shim((smooth + rest).astype(np.float32), points, np.ones(smooth.shape, bool))
    assert np.abs(shimmed - rest).max() < 2e-5


def test_without_susceptibility_there_is_no_phase(slab):
    flat = simulate(SLAB.changed(susceptibility_scale=0.0, snr=1e6))
    tissue = flat.magnitude > 200
    assert tissue.sum() > 10_000
    assert np.abs(flat.phase[tissue]).max() < 1e-3
    assert np.abs(slab.phase[tissue]).max() > 1


# Signal


def test_signal_is_that_of_the_ernst_equation():
    t1, r2star = physics.relaxation("white", 3.0)
    assert t1 == pytest.approx(0.888, abs=0.005)  # Rooney et al. 2007 at 127.7 MHz
    assert r2star == pytest.approx(18.8, abs=0.01)
    e1 = np.exp(-0.027 / t1)
    expected = 0.70 * np.sin(np.pi / 12) * (1 - e1) / (1 - e1 * np.cos(np.pi / 12)) * np.exp(-0.020 * 18.797)
    assert physics.signal("white", 3.0, 20.0, 27.0, 15.0) == pytest.approx(expected, rel=1e-4)


def test_radians_per_ppm():
    assert physics.radians_per_ppm(3.0, 20.0) == pytest.approx(2 * np.pi * 127.732 * 0.020, rel=1e-4)


def test_phase_mask():
    phase = np.array([-1.0, 0.0, np.pi / 2, np.pi])
    assert physics.susceptibility_weighted(np.full(4, 16.0), phase) == pytest.approx([16, 16, 1, 0], abs=1e-5)


def test_homodyne_removes_slow_phase_and_keeps_fast_phase():
    x = np.arange(128)[:, None, None] * np.ones((1, 128, 1))
    slow, fast = 0.02 * x, 0.1 * np.cos(2 * np.pi * x / 4)
    phase = physics.homodyne(np.exp(1j * (slow + fast)).astype(np.complex64), (1.0, 1.0, 2.0), 0.1)
    middle = slice(32, 96)
    assert np.abs(phase - fast)[middle, middle].max() < 0.02


def test_ghosts_stand_as_many_voxels_away_as_the_motion_has_cycles():
    image = np.zeros((128, 2, 1), np.complex64)
    image[60] = 1
    profile = np.abs(physics.ghost(image, (1.0, 1.0, 1.0), 0.3, 10)[:, 0, 0])
    assert profile.argmax() == 60
    brightest = set(np.argsort(profile)[-5:-1].tolist())
    assert brightest == {49, 51, 69, 71}  # the shift grows with the frequency, so each ghost is a derivative
    assert np.allclose(physics.ghost(image, (1.0, 1.0, 1.0), 0.0, 10), image, atol=1e-6)


# Geometry


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.tuples(*[st.floats(-60, 60)] * 3), min_size=1, max_size=5))
def test_pose_is_inverted(seed, points):
    pose = Pose(np.random.default_rng(seed))
    points = np.array(points)
    there = pose.to_template(points.T.astype(np.float32)).T
    assert np.abs(pose.to_scanner(there) - points).max() < 0.2


def test_resample_is_exact_for_a_linear_volume():
    grid = Grid((-3.0, 1.0, 0.0), (1.0, 2.0, 0.5), (6, 5, 4))
    x, y, z = grid.points()
    axes = [np.array([-2.25, 1.5]), np.array([1.0, 6.2, 9.0]), np.array([0.3])]
    a, b, c = np.meshgrid(*axes, indexing="ij")
    assert resample(2 * x - y + 3 * z, grid, axes) == pytest.approx(2 * a - b + 3 * c, abs=1e-5)


@pytest.mark.parametrize("radius", [0.2, 0.5, 1.2])
def test_a_vein_keeps_its_cross_section(radius):
    grid = Grid((-6.0, -6.0, -4.0), (0.5, 0.5, 0.5), (25, 25, 17))
    z = np.arange(-8, 8, 0.25)
    points = np.stack([np.full_like(z, 0.13), np.full_like(z, -0.21), z], 1)
    share = draw(Vessels(points, np.full(len(z), radius, np.float32)), grid)
    assert share[:, :, 8].sum() * 0.25 == pytest.approx(np.pi * radius**2, rel=0.08)
    assert share.max() <= 1


# Lesions


def render(lesion, spacing=(0.5, 0.5, 2.0), voxels=(48, 48, 10), te_ms=20.0):
    """Complex image of one sphere in uniform tissue; its centre is given in mm from the first voxel's centre."""
    factor = np.ceil(np.array(spacing) / 0.6).astype(int)
    step = np.array(spacing) / factor
    origin = step / 2 - np.array(spacing) / 2
    fine = Grid(tuple(origin), tuple(step), tuple(np.array(voxels) * factor))
    signal = np.ones(fine.shape, np.complex64)
    window, patch = signal_factor(lesion, fine, 3.0, te_ms, 1.0)
    signal[window] *= patch
    blocks = signal.reshape(voxels[0], factor[0], voxels[1], factor[1], voxels[2], factor[2])
    return blocks.mean((1, 3, 5))


def sphere(kind, diameter, chi, centre=(12.1, 11.8, 9.7)):
    radius = apparent_to_true_radius(diameter, chi, 3.0, 20.0)
    return Lesion(kind, np.array(centre), radius, diameter, chi, "lobar")


@pytest.mark.parametrize("chi", [0.5, 0.9, 1.8])
@pytest.mark.parametrize("diameter", [2.0, 2.7, 4.0])
def test_a_microbleed_looks_as_wide_as_stated(diameter, chi):
    widths = []
    for shift in np.linspace(0, 1, 5):
        lesion = sphere("microbleed", diameter, chi, (12 + 0.5 * shift, 12.0, 9 + 2 * shift))
        image = render(lesion)
        swi = physics.susceptibility_weighted(np.abs(image), physics.homodyne(image, (0.5, 0.5, 2.0), 0.125))
        dark = swi[12:36, 12:36] < (1 + swi.min()) / 2
        widths.append(2 * np.sqrt(dark.sum((0, 1)).max() * 0.25 / np.pi))
    assert np.mean(widths) == pytest.approx(diameter, rel=0.12)


def test_doubling_the_echo_time_doubles_the_apparent_volume():
    lesion = sphere("microbleed", 3.0, 0.8)

    def volume(te_ms):
        dark = np.abs(render(lesion, (0.5, 0.5, 0.5), (48, 48, 40), te_ms)) < 0.5
        return dark.sum()

    # Published: 2.3.
    assert 1.7 < volume(40.0) / volume(20.0) < 2.6


def test_microbleed_and_calcification_have_opposite_phase():
    bleed, calcium = (np.angle(render(sphere(k, 2.5, c))) for k, c in (("microbleed", 0.5), ("calcification", -0.5)))
    above, beside = (24, 24, 6), (28, 24, 5)
    assert bleed[above] > 0.05 > -0.05 > calcium[above]
    assert bleed[beside] < -0.05 < 0.05 < calcium[beside]
    assert np.allclose(bleed[above], -calcium[above], atol=0.02)


def test_a_flow_void_has_no_phase():
    image = render(sphere("flow_void", 2.5, 0.0))
    assert np.abs(np.angle(image)).max() == 0
    assert np.abs(image).min() < 0.2


def test_counts_follow_the_published_classes():
    rng = np.random.default_rng(0)
    counts = np.array([draw_count(rng) for _ in range(20_000)])
    shares = [np.mean((counts >= a) & (counts <= b)) for a, b in ((1, 1), (2, 4), (5, 10), (11, 83))]
    assert shares == pytest.approx([0.495, 0.283, 0.101, 0.131], abs=0.012)
    assert counts.max() > 75


def test_sizes_follow_the_published_lognormal():
    rng = np.random.default_rng(0)
    diameters = np.array([draw_diameter(rng) for _ in range(20_000)])
    assert np.median(diameters) == pytest.approx(2.7, abs=0.03)
    assert np.log(diameters).std() == pytest.approx(0.36, abs=0.01)
    assert np.mean(diameters > 5) == pytest.approx(0.04, abs=0.01)
    assert diameters.min() >= 1


def test_susceptibilities_stay_in_the_published_range():
    rng = np.random.default_rng(0)
    chi = np.array([draw_susceptibility(rng) for _ in range(5000)])
    assert chi.min() >= 0.05
    assert chi.max() == 2.0
    assert np.median(chi) == pytest.approx(0.8, abs=0.04)


def test_regions_of_known_template_points():
    points = np.array(
        [[14, -57, -34], [0, -26, -30], [12, -19, 8], [-26, 2, 1], [40, 30, 20], [0, -85, 10], [45, -30, -20]]
    ).T
    expected = ["infratentorial"] * 2 + ["deep"] * 2 + ["lobar"] * 3
    assert region_of(points.astype(float)).tolist() == expected


@pytest.fixture(scope="module")
def whole_head():
    rng = np.random.default_rng(5)
    pose, shape = Pose(rng), Shape.draw(rng)
    low, high = np.array([-75.0, -95.0, -72.0]), np.array([75.0, 95.0, 72.0])
    outer = dict.fromkeys(("air", "eye", "marrow", "bone", "fat", "muscle"), 0.0)
    head = build_head(pose, shape, low, high, rng, outer)
    veins, _ = grow(pose, rng)
    level = np.zeros((2, 2, 2), np.float32), Grid((-99.0,) * 3, (198.0,) * 3, (2, 2, 2))
    return lambda seed: Placer(head, veins, level, low, high, np.random.default_rng(seed))


def test_places_follow_the_published_regions(whole_head):
    regions = []
    for seed in range(3):
        placer = whole_head(seed)
        lesions = place_microbleeds(placer, 60, 3.0, 20.0)
        regions += [x.region for x in lesions]
        centres = np.array([x.centre for x in lesions])
        radii = np.array([x.diameter / 2 for x in lesions])
        gaps = np.linalg.norm(centres[:, None] - centres, axis=-1) - radii[:, None] - radii
        assert gaps[~np.eye(len(lesions), dtype=bool)].min() > 3
        index = np.rint(placer.head.grid.index(centres)).astype(int)
        assert placer.head.fluid[tuple(index.T)].max() < 0.15
        assert placer.head.iron[tuple(index.T)].max() < 0.09
        assert placer.head.brain_distance[tuple(index.T)].max() < -2.5
    shares = [regions.count(r) / len(regions) for r in ("lobar", "deep", "infratentorial")]
    # Three standard errors of 180 draws.
    assert shares == pytest.approx([0.74, 0.13, 0.13], abs=0.1)


def test_microbleeds_anywhere_lie_against_veins_too(whole_head):
    def placed(share):
        placer = whole_head(1)
        return placer, place_microbleeds(placer, 60, 3.0, 20.0, Content(anywhere=share))

    def from_vein(placer, lesions):
        veins = placer.made_of[1]
        gaps, _ = cKDTree(veins.points[veins.radii > 0.3]).query([x.centre for x in lesions])
        return gaps - [x.diameter / 2 for x in lesions]

    sheltered, anywhere, some = placed(0.0), placed(1.0), placed(0.5)
    assert [x.centre.tolist() for x in sheltered[1]] == [
        x.centre.tolist() for x in place_microbleeds(whole_head(1), 60, 3.0, 20.0)
    ]
    assert from_vein(*sheltered).min() > 1.0
    assert (from_vein(*anywhere) < 1.0).mean() > 0.5 > (from_vein(*some) < 1.0).mean() > 0.15
    for placer, lesions in (anywhere, some):
        centres, radii = np.array([x.centre for x in lesions]), np.array([x.diameter / 2 for x in lesions])
        gaps = np.linalg.norm(centres[:, None] - centres, axis=-1) - radii[:, None] - radii
        assert gaps[~np.eye(len(lesions), dtype=bool)].min() > 3
        assert (from_vein(placer, lesions) + 0.301 * radii).min() > 0
        index = tuple(np.rint(placer.head.grid.index(centres)).astype(int).T)
        assert placer.head.fluid[index].max() < 0.4
        assert placer.head.iron[index].max() < 0.13
        assert placer.head.brain_distance[index].max() < -1.5
    index = np.rint(anywhere[0].head.grid.index(np.array([x.centre for x in anywhere[1]]))).astype(int)
    assert np.abs(anywhere[0].head.template_mm[(slice(None), *index.T)][0]).min() < 3  # at the midline too


def test_calcifications_lie_where_physiology_puts_them(whole_head):
    found = set()
    for seed in range(6):
        placer = whole_head(seed)
        for mimic in place_mimics(placer, 3.0, 20.0)[0]:
            if mimic.kind == "calcification":
                index = tuple(np.rint(placer.head.grid.index(mimic.centre[None])[0]).astype(int))
                x, y, z = placer.head.template_mm[(slice(None), *index)]
                found.add(mimic.region)
                assert mimic.susceptibility < 0
                if mimic.region in ("pineal", "falx"):
                    assert abs(x) < 5
                if mimic.region == "pineal":
                    assert np.hypot(y + 31, z - 4) < 6
    assert {"pineal", "choroid plexus"} <= found


# Subjects


def wall_of_fluid():
    """A head whose fluid is a sheet, 6 mm thick, about x = 20 mm; the rest is white matter."""
    grid = Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (41, 61, 61))
    x = np.arange(41, dtype=np.float32)[:, None, None] * np.ones((1, 61, 61), np.float32)
    fluid = (np.abs(x - 20) <= 3).astype(np.float32)
    zero = np.zeros_like(fluid)
    return Head(grid, np.zeros((3, *grid.shape), np.float32), 1 - fluid, fluid, zero, zero + 1, zero, zero - 10)


@pytest.mark.parametrize("seed", range(5))
def test_a_vessel_keeps_to_the_fluid_and_does_not_turn_back(seed):
    start, rng = np.array([20.0, 30.0, 30.0]), np.random.default_rng(seed)
    way = course(wall_of_fluid(), start, rng.standard_normal((12, 3)), 12.0, 0.5, rng)
    steps = np.diff(np.vstack([start, way]), axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 0.5)
    assert len(way) == 23  # 0.5, 1.0, ... below 12 mm
    assert (np.abs(way[:, 0] - 20) < 4).mean() > 0.9
    turn = np.einsum("nd,nd->n", steps[1:], steps[:-1]) / 0.25
    assert turn.min() > 0
    assert np.rad2deg(np.median(np.arccos(np.clip(turn, -1, 1)))) < 30


@pytest.mark.parametrize("seed", range(5))
def test_a_flow_void_is_a_piece_of_an_artery(seed):
    void = Lesion("flow_void", np.array([20.0, 30.0, 30.0]), 1.0, 2.0, 0.0, "fluid")
    spheres = artery_of(void, wall_of_fluid(), np.random.default_rng(seed))
    assert {(s.kind, s.susceptibility) for s in spheres} == {("flow_void", 0.0)}
    centres, radii = np.array([s.centre for s in spheres]), np.array([s.radius for s in spheres])
    start = int(np.argmin(np.diff(radii) < 0.2)), int(np.argmax(np.diff(radii)) + 1)  # of both ways
    assert 0.6 <= radii.min() < radii.max() == 1.0
    for way in (centres[: start[1]], centres[start[1] :]):
        chain = np.vstack([void.centre, way])
        np.testing.assert_allclose(np.linalg.norm(np.diff(chain, axis=0), axis=1), 0.6, rtol=1e-5)
        assert 3.4 <= 0.6 * len(way) <= 12.0
    # the two ways leave it to opposite sides
    assert (centres[0] - void.centre) @ (centres[start[1]] - void.centre) < 0


def test_a_cut_vein_goes_on_beyond_both_ends():
    piece = Vessels(np.array([[20.0, 30.0, z] for z in np.arange(28.0, 32.0, 0.2)]), np.full(20, 0.8, np.float32))
    whole = continued(piece, wall_of_fluid(), np.random.default_rng(3))
    np.testing.assert_array_equal(whole.points[:20], piece.points)
    np.testing.assert_array_equal(whole.radii[:20], piece.radii)
    ways = np.split(np.arange(20, len(whole.points)), [20 + int(np.argmax(np.diff(whole.radii[20:]) > 0.2)) + 1 - 20])
    assert len(ways) == 2
    below, above = (whole.points[way] for way in ways)
    assert np.linalg.norm(below[0] - piece.points[0]) == pytest.approx(0.2)
    assert np.linalg.norm(above[0] - piece.points[-1]) == pytest.approx(0.2)
    assert below[0, 2] < 28.0 < 31.8 < above[0, 2] + 0.1
    for way in ways:
        assert 7.5 <= 0.2 * len(way) <= 20.0
        assert whole.radii[way[-1]] == pytest.approx(0.32)
        assert (np.diff(whole.radii[way]) < 0).all()


def test_microbleeds_are_dark_at_the_truth(slab):
    clean = simulate(SLAB.changed(microbleeds=0))
    assert clean.truth["microbleeds"] == []
    assert clean.truth["mimics"] == slab.truth["mimics"]
    drop = clean.swi.astype(float) - slab.swi
    assert len(slab.truth["microbleeds"]) == 3
    for lesion in slab.truth["microbleeds"]:
        i, j, k = (round(v) for v in lesion["voxel"])
        around = drop[i - 5 : i + 6, j - 5 : j + 6, k]
        assert around.max() > 0.25 * np.median(clean.swi[i - 5 : i + 6, j - 5 : j + 6, k])
        darkest = np.array(np.unravel_index(around.argmax(), around.shape)) - 5 + (i, j)
        reach = lesion["diameter_mm"] / 2 / SLAB.spacing[0] + 1
        assert np.hypot(*(darkest - lesion["voxel"][:2])) < reach
    untouched = np.ones(drop.shape, bool)
    for lesion in slab.truth["microbleeds"]:
        i, j, k = (round(v) for v in lesion["voxel"])
        untouched[max(i - 12, 0) : i + 13, max(j - 12, 0) : j + 13] = False
    assert np.abs(drop[untouched]).max() < 30


def test_truth_in_mm_is_the_affine_of_the_voxel(slab, tilted):
    assert not np.allclose(tilted.affine[:3, :3], np.diag(SLAB.spacing), atol=0.01)
    assert np.allclose(np.linalg.norm(tilted.affine[:3, :3], axis=0), SLAB.spacing)
    for phantom in (slab, tilted):
        for lesion in phantom.truth["microbleeds"] + phantom.truth["mimics"]:
            ras = phantom.affine @ [*lesion["voxel"], 1]
            assert lesion["ras_mm"] == pytest.approx(ras[:3].tolist(), abs=0.01)


def test_lesions_stay_a_slice_from_the_ends(slab):
    slices = [x["voxel"][2] for x in slab.truth["microbleeds"] + slab.truth["mimics"]]
    assert slices
    assert min(slices) >= 1
    assert max(slices) <= 4


def test_polarity_and_scale_only_recode_the_phase(slab):
    other = simulate(SLAB.changed(phase_scale="unsigned4095", phase_polarity=-1))
    assert other.phase.dtype == np.uint16
    assert np.abs(other.phase - np.rint((1 - slab.phase / np.pi) * 2047.5)).max() <= 1
    assert (other.swi == slab.swi).all()


def test_share_of_subjects_without_microbleeds_and_slabs_hold_fewer():
    rng = np.random.default_rng(0)
    whole = np.array([microbleed_count(PRESETS["HR"], rng) for _ in range(4000)])
    assert np.mean(whole > 0) == pytest.approx(0.5, abs=0.03)
    assert whole.max() > 75
    part = np.array([microbleed_count(PRESETS["SMALL"], rng) for _ in range(4000)])
    assert part.max() == 10 + round(73 * 48 / 140)
    assert np.mean(part[part > 0] == 1) == pytest.approx(0.49, abs=0.03)
    assert microbleed_count(TINY.changed(microbleeds=4), rng) == 4


def test_truth_records_the_spec(slab):
    assert slab.truth["spec"]["te_ms"] == 20
    assert slab.truth["spec"]["shape"] == [92, 112, 6]
    assert all(x["susceptibility_ppm"] > 0 for x in slab.truth["microbleeds"])


def test_same_seed_same_bytes_other_seed_other_head(slab, tilted):
    again = simulate(SLAB)
    assert again.swi.tobytes() == slab.swi.tobytes()
    assert again.phase.tobytes() == slab.phase.tobytes()
    assert again.truth == slab.truth
    assert (tilted.swi != slab.swi).mean() > 0.5


def test_skull_stripping_leaves_only_the_brain(slab):
    stripped = simulate(SLAB.changed(skull_stripped=True))
    brain = stripped.magnitude > 0
    assert 0.3 < brain.mean() < 0.75
    assert (stripped.magnitude[brain] == slab.magnitude[brain]).all()
    assert not stripped.phase[~brain].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase_scale": "degrees"}, "phase_scale is 'degrees'"),
        ({"phase_polarity": 0}, "phase_polarity is 0"),
        ({"shape": (64, 64)}, r"shape is \(64, 64\)"),
        ({"shape": (64, 64, 2)}, "fewer than 3 slices"),
        ({"spacing": (0.5, 0.0, 2.0)}, "must be positive"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.changed(**changes)


# Cohorts


def test_layout_labels_and_truth_agree(small_cohort):
    folder = Path(small_cohort)
    subjects = sorted(p.stem for p in (folder / "Label").iterdir())
    assert subjects == ["phantom-001", "phantom-002"]
    for subject in subjects:
        truth = json.loads((folder / "Truth" / f"{subject}.json").read_text())
        assert truth["subject"] == subject
        table = pd.read_excel(folder / "Label" / f"{subject}.xlsx", header=None)
        wanted = sorted(
            [round(x["voxel"][2]) + 1, round(x["voxel"][0]) + 1, round(x["voxel"][1]) + 1] for x in truth["microbleeds"]
        )
        assert table.to_numpy().tolist() == wanted
        for name in ("SWI", "Phase", "Magnitude"):
            image = nib.load(folder / "Data" / name / f"{subject}.nii.gz")
            assert image.shape == SLAB.shape
            assert image.header.get_zooms() == pytest.approx(SLAB.spacing)
        ras = nib.load(folder / "Data" / "SWI" / f"{subject}.nii.gz").affine @ [*truth["microbleeds"][0]["voxel"], 1]
        assert truth["microbleeds"][0]["ras_mm"] == pytest.approx(ras[:3].tolist(), abs=0.01)


def test_excel_rows_count_from_one():
    truth = {"microbleeds": [{"voxel": [10.4, 20.6, 3.0]}, {"voxel": [0.0, 0.0, 1.0]}]}
    assert cohort.excel_rows(truth) == [(2, 1, 1), (4, 11, 22)]


def test_a_subject_without_microbleeds_has_an_empty_sheet(slab, tmp_path):
    empty = type(slab)(slab.spec, slab.swi, slab.phase, slab.magnitude, slab.affine, slab.truth | {"microbleeds": []})
    cohort.write_subject(empty, tmp_path, "none")
    assert pd.read_excel(tmp_path / "Label" / "none.xlsx", header=None).empty


def test_parallel_and_serial_cohorts_are_the_same_bytes(small_cohort, tmp_path):
    parallel = make_cohort(tmp_path / "parallel", 2, SLAB, seed=4, processes=2, progress=False)
    first, second = (contents(Path(f)) for f in (small_cohort, parallel))
    assert len(first) == 11
    assert first == second
    assert multiprocessing.active_children() == []


def test_a_finished_cohort_is_reused_and_another_is_refused(small_cohort, monkeypatch):
    def fail(spec):
        raise AssertionError("simulated again")

    monkeypatch.setattr(cohort, "simulate", fail)
    assert make_cohort(small_cohort, 2, SLAB, seed=4) == small_cohort
    with pytest.raises(FileExistsError, match="holds another cohort"):
        make_cohort(small_cohort, 2, SLAB, seed=5)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not a phantom cohort"):
        make_cohort(tmp_path, 1, SLAB)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_cohort_leaves_nothing(slab, tmp_path, monkeypatch):
    calls = []

    def interrupt(spec):
        calls.append(spec)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return slab

    monkeypatch.setattr(cohort, "simulate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_cohort(tmp_path / "cohort", 3, SLAB, processes=1, progress=False)
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from cmb_bundle.scripts.phantom import TINY, make_cohort
if __name__ == "__main__":
    make_cohort(sys.argv[1], 40, TINY, seed=1, processes=2, progress=False)
"""


def status_of(pid):
    """State and parent of a process, from /proc; nothing of one that has ended, even where nobody has waited for it."""
    with suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return None if state == "Z" else (state, int(parent))


def children_of(pid):
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [one for one in found if (status_of(one) or (None, None))[1] == pid]


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks for processes in /proc")
def test_a_killed_simulation_leaves_no_worker_and_the_next_one_removes_its_remains(slab, tmp_path, monkeypatch):
    (tmp_path / "make.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, str(tmp_path / "make.py"), str(tmp_path / "made")])
    try:
        assert until(lambda: list(tmp_path.glob(".made-partial-*/Truth/*.json"))), "no subject was made"
        workers = children_of(process.pid)
        assert len(workers) >= 2
    finally:
        process.kill()
        process.wait()
    assert until(lambda: not any(status_of(pid) for pid in workers), 20), "workers go on"
    (remains,) = tmp_path.glob(".made-partial-*")
    (tmp_path / ".made-2-partial-x").mkdir()
    monkeypatch.setattr(cohort, "simulate", lambda spec: slab)
    make_cohort(tmp_path / "made", 2, SLAB, processes=1, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".made-2-partial-x", "made", "make.py"]
    assert not remains.exists()


def end_at_once(index, folder):
    os._exit(9)


def test_a_process_of_a_simulation_that_ends_early_says_what_to_do(tmp_path):
    with pytest.raises(ChildProcessError, match=r"made: one of 2 processes .* memory; nothing .* --processes 1\."):
        cohort._make_whole(tmp_path / "made", {"subjects": 3}, end_at_once, 2, {"disable": True})
    assert not list(tmp_path.iterdir())


def test_a_cohort_that_another_process_is_making_is_waited_for(slab, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(cohort, "simulate", lambda spec: made.append(spec) or time.sleep(0.3) or slab)
    how = {"subjects": 2, "preset": SLAB, "processes": 1, "progress": False}
    with ThreadPool(2) as pool:
        found = pool.map(lambda _: make_cohort(tmp_path / "made", **how), range(2))
    assert found == [str(tmp_path / "made")] * 2
    assert len(made) == 2, "simulated once"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_unknown_preset_and_no_subjects(tmp_path):
    with pytest.raises(ValueError, match="expected one of"):
        make_cohort(tmp_path / "a", 1, "HUGE")
    with pytest.raises(ValueError, match="subjects is 0"):
        make_cohort(tmp_path / "a", 0)


def test_the_default_cohort_is_made_once_in_the_cache(slab, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cohort, "simulate", lambda spec: slab)
    monkeypatch.setattr(cohort.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    folder = default_cohort("tiny", subjects=2)
    assert folder == str(tmp_path / "cmb_bundle" / f"phantoms-tiny-{cohort.VERSION}")
    demo = f"No dataset_dir was given: this is the demo, on 2 simulated phantoms in {folder}"
    assert f"{demo}, which are simulated now" in capsys.readouterr().out
    assert default_cohort("tiny", subjects=2) == folder
    assert capsys.readouterr().out == f"{demo}.\n"


def test_varied_protocols_stay_in_their_ranges():
    specs = [cohort.subject_spec(PRESETS["SMALL"], n, 0, vary=True) for n in range(300)]
    assert {s.field_tesla for s in specs} == {1.5, 3.0, 7.0}
    assert {s.phase_scale for s in specs} == {"pi", "signed4096", "unsigned4095", "odd"}
    assert {s.phase_polarity for s in specs} == {-1, 1}
    assert all(15 <= s.te_ms <= 45 and s.tr_ms > s.te_ms and 8 <= s.snr <= 60 for s in specs)
    assert 0.12 < np.mean([s.ghosting > 0 for s in specs]) < 0.28
    fixed = [cohort.subject_spec(PRESETS["SMALL"], n, 0, vary=False) for n in range(50)]
    assert {(s.field_tesla, s.te_ms, s.phase_scale) for s in fixed} == {(3.0, 20.0, "pi")}
    assert len({s.seed for s in fixed}) == 50


def test_geometry_varies_within_its_ranges_and_leaves_the_protocol_alone():
    plain = [cohort.subject_spec(PRESETS["LR"], n, 0, vary=True) for n in range(300)]
    varied = [cohort.subject_spec(PRESETS["LR"], n, 0, vary=True, vary_geometry=True) for n in range(300)]
    kept = ("seed", "snr", "field_tesla", "te_ms", "phase_polarity", "oblique_deg", "ghosting")
    assert all(getattr(a, k) == getattr(b, k) for a, b in zip(plain, varied, strict=True) for k in kept)
    spacing = np.array([s.spacing for s in varied])
    assert (spacing[:, 0] == spacing[:, 1]).all()
    assert spacing[:, 0].min() >= 0.4 and spacing[:, 0].max() <= 1.0 and np.ptp(spacing[:, 0]) > 0.55
    assert spacing[:, 2].min() >= 1.0 and spacing[:, 2].max() <= 5.0 and np.ptp(spacing[:, 2]) > 3.5
    height = np.array([s.shape[2] * s.spacing[2] for s in varied])
    reach = np.abs([s.centre_mm[2] for s in varied]) + height / 2
    assert max(s.shape[2] for s in varied) == 60
    assert reach.max() <= 72 + 2.6, "no slab leaves the head by more than half of a thick slice"
    counts = np.array([s.microbleeds for s in varied])
    assert counts.max() <= 39 and (counts == 0).mean() == pytest.approx(1 / 6, abs=0.06)
    assert np.mean([s.skull_stripped for s in varied]) == pytest.approx(0.2, abs=0.07)
    assert np.mean([s.atrophy > 0 for s in varied]) == pytest.approx(0.4, abs=0.08)


def test_atrophy_widens_ventricles_and_keeps_the_rest_of_the_draw():
    spec = PRESETS["TINY"].changed(seed=5, microbleeds=0, mimics=False, susceptibility_scale=0.0, snr=1000.0)
    before, after = simulate(spec).magnitude.astype(float), simulate(spec.changed(atrophy=3.0)).magnitude.astype(float)
    middle = before[50:70, 60:90], after[50:70, 60:90]
    # fluid is dark at this echo time: more of it, lower signal
    assert middle[1].mean() < 0.97 * middle[0].mean()
