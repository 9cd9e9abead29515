"""Profiles of microbleeds, and calcified twins that the phase alone tells from them."""

from dataclasses import replace

import numpy as np
import pytest

from cmb_bundle.scripts.phantom import Content, PhantomSpec, simulate
from cmb_bundle.scripts.phantom.grid import Grid
from cmb_bundle.scripts.phantom.lesions import Lesion, apparent_to_true_radius, signal_factor
from cmb_bundle.scripts.phantom.profiles import LAYERS, lobes, moment, twin, with_profile

CENTRE = np.array([8.1, 7.9, 8.05])
GRID = Grid((0.25, 0.25, 0.25), (0.5, 0.5, 0.5), (32, 32, 32))
SPEC = PhantomSpec(
    name="pairs",
    spacing=(1.6, 1.6, 2.0),
    shape=(92, 112, 10),
    microbleeds=4,
    mimics=False,
    seed=21,
    snr=200.0,
    content=Content(pairs=3, profiles=("solid", "shell", "cloud", "lobed"), decay=(0.5, 2.0)),
)


def lesion(diameter=4.0, chi=0.6):
    radius = apparent_to_true_radius(diameter, chi, 3.0, 20.0)
    return Lesion("microbleed", CENTRE, radius, diameter, chi, "lobar")


def render(*parts):
    image = np.ones(GRID.shape, np.complex64)
    for part in parts:
        window, patch = signal_factor(part, GRID, 3.0, 20.0, 1.0)
        image[window] *= patch
    return image


def shaped(profile, seed=0):
    return with_profile(lesion(), profile, (1.0, 1.0), 3.0, 20.0, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def pairs():
    return simulate(SPEC)


@pytest.mark.parametrize("profile", LAYERS)
def test_signals_of_twins_are_complex_conjugates(profile):
    bleed = shaped(profile)
    image, turned = render(bleed), render(twin(bleed, bleed.centre, 1))
    assert np.abs(np.angle(image)).max() > 0.5
    assert np.abs(turned - image.conj()).max() < 1e-5


@pytest.mark.parametrize("profile", ["shell", "cloud"])
def test_profiles_of_one_apparent_size_have_one_moment(profile):
    solid = lesion(3.0, 1.8)
    other = with_profile(solid, profile, (1.0, 1.0), 3.0, 20.0, np.random.default_rng(0))
    assert moment(other.layers) * other.radius**3 == pytest.approx(solid.radius**3, rel=1e-6)
    far = (16, 16, slice(0, 6))
    assert np.allclose(np.angle(render(solid))[far], np.angle(render(other))[far], atol=0.02)


def test_a_shell_keeps_signal_within_and_a_cloud_fades_outwards():
    middle = (16, 16, 16)
    strong = replace(lesion(6.0, 1.5), radius=2.0)
    solid, shell, cloud = (
        np.abs(render(replace(strong, layers=LAYERS[p])))[middle] for p in ("solid", "shell", "cloud")
    )
    assert solid < 0.1 < 0.3 < shell
    assert cloud < 0.1
    profile = np.abs(render(replace(strong, layers=LAYERS["cloud"], susceptibility=0.3)))[16:20, 16, 16]
    assert (np.diff(profile) > 0).all()


def test_decay_darkens_without_a_change_of_the_field():
    weak, strong = (render(replace(lesion(chi=0.2), decay=d)) for d in (0.5, 3.0))
    middle = (16, 16, 16)
    assert np.abs(strong)[middle] < np.abs(weak)[middle] - 0.2
    assert np.allclose(strong[:10], weak[:10], atol=1e-5)


def test_a_lobed_lesion_is_less_round():
    bleed = shaped("lobed")
    rng = np.random.default_rng(3)
    parts = [bleed, *lobes(bleed, rng)]
    assert 2 <= len(parts) <= 4

    def spread(image):
        points = np.argwhere(np.abs(image) < 0.6).astype(float)
        lengths = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)))
        return lengths[-1] / lengths[0]

    assert spread(render(*parts)) > spread(render(bleed)) + 0.05


def test_truth_names_both_of_each_pair(pairs):
    bleeds = {x["pair"]: x for x in pairs.truth["microbleeds"] if "pair" in x}
    calcium = {x["pair"]: x for x in pairs.truth["mimics"] if "pair" in x}
    assert sorted(bleeds) == sorted(calcium) == [1, 2, 3]
    assert len(pairs.truth["microbleeds"]) == 4
    for number, bleed in bleeds.items():
        other = calcium[number]
        assert other["kind"] == "calcification"
        assert other["susceptibility_ppm"] == -bleed["susceptibility_ppm"]
        for same in ("diameter_mm", "radius_mm", "profile", "decay", "region"):
            assert other[same] == bleed[same]


def test_phase_of_a_pair_is_opposite_and_swi_alike(pairs):
    clean = simulate(SPEC.changed(microbleeds=0))
    turned = simulate(SPEC.changed(content=replace(SPEC.content, pairs_alike=False)))
    assert (turned.phase == pairs.phase).all() and (turned.magnitude == pairs.magnitude).all()
    change = np.angle(np.exp(1j * (pairs.phase - clean.phase)))
    dark = 1 - pairs.swi / np.maximum(clean.swi, 1.0)
    checked, depth = 0, {}
    for found, sign in ((pairs.truth["microbleeds"], 1), (pairs.truth["mimics"], -1)):
        for x in (x for x in found if "pair" in x):
            i, j, k = (round(v) for v in x["voxel"])
            window = (slice(i - 2, i + 3), slice(j - 2, j + 3), slice(k - 1, k + 2))
            depth.setdefault(x["pair"], []).append(dark[window].max())
            # Along the field the phase is that of the susceptibility's sign, and twice what it is across.
            strongest = change[window].flat[np.abs(change[window]).argmax()]
            if 0.2 < abs(strongest) < 2.0:
                checked += 1
                assert np.sign(strongest) == sign
    assert checked >= 2
    assert all(abs(bleed - calcium) < 0.25 for bleed, calcium in depth.values())
    assert (turned.swi != pairs.swi).any()
