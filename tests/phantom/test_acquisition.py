"""2D T2*-weighted scans: contrast, slice gap, files; and that earlier scans are what they were."""

import json

import nibabel as nib
import numpy as np
import pytest

from cmb_bundle.scripts.phantom import (
    HR,
    PRESETS,
    T2STAR,
    Content,
    PhantomSpec,
    Processing,
    make_cohort,
    physics,
    simulate,
)
from cmb_bundle.scripts.phantom.acquire import contrast, fine_grid, image_grid, slice_profile
from cmb_bundle.scripts.phantom.lesions import Lesion, signal_factor

SLAB = PhantomSpec(name="slab", spacing=(1.6, 1.6, 2.0), shape=(92, 112, 6), microbleeds=3, seed=11)
THICK = T2STAR.changed(spacing=(2.0, 2.0, 5.0), shape=(76, 92, 5), seed=3, microbleeds=4)

# Of SLAB, by the release before 2D scans.
PINNED_VOXELS = [[41.761, 95.311, 3.145], [64.538, 94.293, 1.789], [53.466, 33.092, 1.175]]
PINNED_MIMICS = ["flow_void", "vein"]
PINNED_VALUES = [404.774, 441.560, 0.967189]


@pytest.fixture(scope="module")
def thick():
    return simulate(THICK)


@pytest.mark.parametrize("field", [1.5, 3.0])
@pytest.mark.parametrize("te", [15.0, 40.0])
def test_fluid_is_bright_with_a_long_repetition_time_and_dark_with_a_short_one(field, te):
    long, short = (
        [physics.signal(kind, field, te, tr, flip) for kind in ("fluid", "white")]
        for tr, flip in ((700.0, 20.0), (27.0, 15.0))
    )
    assert long[0] > 1.3 * long[1]
    assert short[0] < short[1]


def test_fluid_over_white_matter_is_that_of_the_ernst_equation():
    t1 = physics.relaxation("white", 3.0)[0]

    def steady(t1):
        e1 = np.exp(-0.7 / t1)
        return np.sin(np.deg2rad(20)) * (1 - e1) / (1 - np.cos(np.deg2rad(20)) * e1)

    expected = 1.0 / 0.70 * steady(4.3) / steady(t1) * np.exp(-0.025 * (2.0 - 1e3 / 53.2))
    ratio = physics.signal("fluid", 3.0, 25.0, 700.0, 20.0) / physics.signal("white", 3.0, 25.0, 700.0, 20.0)
    assert ratio == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(1.66, abs=0.1)


def test_a_longer_echo_lets_iron_decay_more():
    decay = physics.IRON_R2STAR_PER_PPM_TESLA * 0.19
    assert np.exp(-decay * 1.5 * 0.015) > np.exp(-decay * 3.0 * 0.030) + 0.3


def test_ventricles_are_the_brightest_of_the_brain(thick):
    bright = thick.magnitude > 1.25 * np.median(thick.magnitude[thick.magnitude > 300])
    middle = bright[32:44, 34:60, 2]
    assert 0.05 < middle.mean() < 0.7


def test_a_profile_without_a_gap_is_a_box_and_one_with_a_gap_adds_up_to_one():
    assert slice_profile(4, 4.0, 0.0).tolist() == [0.25] * 4
    weights = slice_profile(50, 5.0, 1.0)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert weights == pytest.approx(weights[::-1], abs=1e-6)
    z = (np.arange(50) + 0.5) / 10 - 2.5
    assert weights[np.abs(z) > 2].sum() < 0.08
    assert weights[np.abs(z) < 1].std() < 0.01 * weights.max()


@pytest.mark.parametrize(("gap", "least", "most"), [(0.0, 0.94, 1.06), (2.0, 0.05, 0.35)])
def test_what_lies_in_a_slice_gap_is_partly_lost(gap, least, most):
    spec = THICK.changed(spacing=(2.0, 2.0, 6.0), gap_mm=gap)
    grid, factor, _ = fine_grid(spec, image_grid(spec))
    profile = slice_profile(factor[2], 6.0, gap)
    void = Lesion("flow_void", np.zeros(3), 0.6, 1.2, 0.0, "fluid")
    drop = []
    for along in (0.0, 2.9):
        # The middle slice spans -3 to 3 mm; its edge is the middle of a gap.
        image = np.ones(grid.shape, np.float32)
        window, patch = signal_factor(
            Lesion(void.kind, np.array([0.3, 0.3, along]), 0.6, 1.2, 0.0, "fluid"), grid, 3.0, 25.0, 1.0
        )
        image[window] *= patch.real
        margin = (grid.shape[2] - spec.shape[2] * factor[2]) // 2
        slices = image[..., margin : margin + spec.shape[2] * factor[2]].reshape(*grid.shape[:2], -1, factor[2])
        drop.append((1 - slices @ profile).sum())
    assert least < drop[1] / drop[0] < most


def test_a_t2star_scan_is_written_as_a_magnitude_alone(tmp_path):
    folder = make_cohort(tmp_path / "cohort", 1, THICK, processes=1, progress=False)
    files = sorted(str(p.relative_to(folder)) for p in (tmp_path / "cohort").rglob("*") if p.is_file())
    assert files == [
        "Data/T2star/phantom-001.nii.gz",
        "Label/phantom-001.xlsx",
        "Truth/phantom-001.json",
        "cohort.json",
    ]
    image = nib.load(tmp_path / "cohort" / files[0])
    assert image.header.get_zooms() == pytest.approx((2, 2, 5))
    truth = json.loads((tmp_path / "cohort" / files[2]).read_text())
    assert (truth["spec"]["gap_mm"], truth["spec"]["outputs"]) == (1.0, ["T2star"])


def test_microbleeds_are_dark_on_a_t2star_scan(thick):
    clean = simulate(THICK.changed(microbleeds=0))
    drop = 1 - thick.magnitude / np.maximum(clean.magnitude, 1.0)
    assert len(thick.truth["microbleeds"]) == 4
    for lesion in thick.truth["microbleeds"]:
        i, j, k = (round(v) for v in lesion["voxel"])
        darkest = drop[i - 1 : i + 2, j - 1 : j + 2, max(k - 1, 0) : k + 2].max()
        # Companions add to the contrast of the main sphere, and noise of 2 % to both.
        assert darkest > 0.8 * lesion["contrast"] - 0.1
    assert max(x["contrast"] for x in thick.truth["microbleeds"]) > 0.3


def test_contrast_is_lost_in_a_gap_and_in_thick_slices():
    def of(along, spacing=(1.0, 1.0, 6.0), gap=2.0):
        spec = THICK.changed(spacing=spacing, shape=(40, 40, 5), gap_mm=gap)
        grid, factor, _ = fine_grid(spec, image_grid(spec))
        lesion = Lesion("microbleed", np.array([0.5, 0.5, along]), 1.0, 2.5, 0.8, "lobar")
        return contrast(signal_factor(lesion, grid, 3.0, 25.0, 1.0), grid, factor, spec)

    inside, in_gap = of(0.0), of(3.0)
    assert inside > 0.3
    assert in_gap < 0.6 * inside
    assert of(0.0, (1.0, 1.0, 3.0), 0.5) > inside


def test_scans_of_old_are_what_they_were():
    phantom = simulate(SLAB)
    found = [x["voxel"] for x in phantom.truth["microbleeds"]]
    assert np.allclose(found, PINNED_VOXELS, atol=0.01)
    assert [x["kind"] for x in phantom.truth["mimics"]] == PINNED_MIMICS
    measured = [phantom.swi.mean(), phantom.magnitude.mean(), phantom.phase.std()]
    assert measured == pytest.approx(PINNED_VALUES, rel=1e-4)


def test_a_spec_of_old_is_written_as_it_was():
    assert list(HR.as_dict())[-1] == "with_phase"
    assert len(HR.as_dict()) == 23
    changed = HR.changed(content=Content(pairs=2), processing=Processing(minip=3)).as_dict()
    assert json.loads(json.dumps(changed))["processing"]["zero_fill"] == [1, 1, 1]
    assert all(len(PRESETS[name].as_dict()) == 23 for name in ("HR", "LR", "SMALL", "TINY"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ("QSM",)}, "outputs is"),
        ({"outputs": ()}, "outputs is"),
        ({"gap_mm": 5.0}, "gap_mm is 5.0"),
        ({"gap_mm": -1.0}, "gap_mm is -1.0"),
    ],
)
def test_a_wrong_acquisition_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        THICK.changed(**changes)
