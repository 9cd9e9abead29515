"""Processing: each step against an answer known by hand, and whole scans for what stands outside the head."""

from dataclasses import replace

import numpy as np
import pytest

from cmb_bundle.scripts.phantom import PhantomSpec, Processing, simulate
from cmb_bundle.scripts.phantom.reconstruct import (
    fringe_phase,
    gaussian_highpass,
    minimum_projection,
    reconstruct,
    window_kspace,
    zero_fill,
)
from cmb_bundle.scripts.phantom.vendor import _quantised, finish, rough_mask

SPEC = PhantomSpec(name="slab", spacing=(2.0, 2.0, 2.5), shape=(76, 92, 5), microbleeds=2, mimics=False, seed=6)


@pytest.fixture(scope="module")
def plain():
    return simulate(SPEC)


def noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("shape", [(12, 10, 3), (11, 9, 4)])
def test_zero_filling_doubles_the_matrix_and_leaves_the_outer_kspace_empty(shape):
    image = noise(shape)
    filled = zero_fill(image, (2, 2, 1))
    assert filled.shape == (2 * shape[0], 2 * shape[1], shape[2])
    assert np.allclose(filled[::2, ::2], image, atol=1e-5), "acquired voxels keep their place and their value"
    spectrum = np.fft.fft2(filled, axes=(0, 1))
    outer = np.abs(np.fft.fftfreq(2 * shape[0])) > 0.25 + 1e-6
    assert np.abs(spectrum[outer]).max() < 1e-3
    assert np.abs(spectrum).max() > 10


def test_lines_that_were_not_acquired_are_empty_and_the_taper_spares_the_middle():
    image = noise((16, 20, 2))
    spectrum = np.fft.fft2(window_kspace(image, 0.6, 0.0), axes=(0, 1))
    beyond = 2 * np.abs(np.fft.fftfreq(20)) > 0.6
    assert np.abs(spectrum[:, beyond]).max() < 1e-3
    tapered = np.fft.fft2(window_kspace(image, 1.0, 0.4), axes=(0, 1))
    share = np.abs(tapered) / np.abs(np.fft.fft2(image, axes=(0, 1)))
    assert share[0, 0] == pytest.approx([1, 1], abs=1e-4)
    assert share[8, 0].max() < 1e-3


def test_a_pole_turns_the_phase_once_in_every_slice():
    phase = fringe_phase((20, 20, 3), np.array([[9.5, 9.5, 1, 0.0]]))
    ring = [(12, j) for j in range(7, 13)] + [(i, 12) for i in range(12, 6, -1)]
    ring += [(7, j) for j in range(12, 6, -1)] + [(i, 7) for i in range(7, 13)]
    for k in range(3):
        steps = np.diff([phase[i, j, k] for i, j in ring])
        assert np.angle(np.exp(1j * steps)).sum() == pytest.approx(2 * np.pi, abs=1e-4)


def test_gaussian_highpass_unwraps_a_ramp_and_keeps_a_small_source():
    x, y = np.meshgrid(np.arange(64.0), np.arange(64.0), indexing="ij")
    source = 0.6 * np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / 4)
    image = np.exp(1j * (0.35 * x + source))[..., None].astype(np.complex64)
    phase = gaussian_highpass(image, (1.0, 1.0, 2.0), 6.0)[..., 0]
    inner = phase[16:48, 16:48]
    assert phase[32, 32] == pytest.approx(0.6, abs=0.12)
    assert np.abs(np.where((np.abs(x - 32) > 6)[16:48, 16:48], inner, 0)).max() < 0.05


def test_an_unfiltered_phase_keeps_what_a_filter_takes():
    x = np.arange(48)[:, None, None] * np.ones((1, 48, 3))
    image = np.exp(0.05j * x).astype(np.complex64)
    spec = SPEC.changed(processing=Processing(phase_filter="none"))
    kept = reconstruct(image, None, spec, np.random.default_rng(0))[1]
    assert np.allclose(kept, np.angle(image), atol=1e-5)
    gone = reconstruct(image, None, SPEC, np.random.default_rng(0))[1]
    assert np.abs(gone[12:36, 12:36]).max() < 0.02


@pytest.mark.parametrize("power", [2, 5])
def test_the_phase_mask_has_its_power(power):
    image = np.ones((32, 32, 3), np.complex64)
    image[16, 16, 1] = 1j
    spec = SPEC.changed(processing=Processing(swi_power=power))
    _, phase, swi, _ = reconstruct(image, None, spec, np.random.default_rng(0))
    assert swi[16, 16, 1] == pytest.approx((1 - phase[16, 16, 1] / np.pi) ** power, abs=1e-4)
    assert phase[16, 16, 1] == pytest.approx(np.pi / 2, abs=0.1)


def test_the_projection_takes_the_darkest_of_neighbouring_slices():
    volume = np.full((2, 2, 7), 9)
    volume[..., 3] = 1
    assert (minimum_projection(volume, 3)[0, 0] == 1).tolist() == [False, False, True, True, True, False, False]
    assert (minimum_projection(volume, 2)[0, 0] == 1).sum() == 2
    assert (minimum_projection(volume, 4)[0, 0] == 1).sum() == 4


def test_unsharp_gamma_and_normalisation():
    step = np.ones((24, 24, 3), np.float32)
    step[12:] = 0.5
    volumes = {"Magnitude": step, "SWI": step, "Phase": np.zeros_like(step)}
    coil = np.linspace(1, 2, 24, dtype=np.float32)[:, None, None] * np.ones((1, 24, 3), np.float32)
    flat, rng = np.ones((1, 1, 1), np.float32), np.random.default_rng(0)

    def through(coil=flat, **how):
        spec = SPEC.changed(processing=Processing(**how))
        return finish(volumes, coil, None, None, (1.0, 1.0, 1.0), spec, rng)["Magnitude"] / 600

    sharp = through(unsharp=1.0, unsharp_mm=1.0)
    assert sharp[11].mean() > 1.1 > 0.42 > sharp[12].mean()
    assert sharp[2].mean() == pytest.approx(1, abs=0.01)
    assert through(gamma=2.0)[20].mean() == pytest.approx(0.25, abs=0.002)
    assert through(coil=coil, normalise=1.0)[0].mean() == pytest.approx(1, abs=0.002)
    assert through(coil=coil, normalise=1.0)[23].mean() == pytest.approx(0.25, abs=0.002)


@pytest.mark.parametrize("bits", [8, 10])
def test_grey_values_fill_their_depth(bits):
    stored = _quantised(np.random.default_rng(0).random((20, 20, 5)), bits)
    assert stored.max() == 2**bits - 1
    assert len(np.unique(stored)) > 0.8 * 2**bits * min(1, 2000 / 2**bits)


def test_a_rough_mask_errs_both_ways_by_its_reach():
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in (80, 80, 60)), indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2) - 25
    mask = rough_mask(distance, (1.0, 1.0, 1.0), 4.0, np.random.default_rng(0))
    assert (mask & (distance > 1)).sum() > 200
    assert (~mask & (distance < -1)).sum() > 200
    assert mask[distance < -10].all() and not mask[distance > 10].any()


def test_a_zero_filled_scan_keeps_its_lesions_in_place(plain):
    filled = simulate(SPEC.changed(processing=Processing(zero_fill=(2, 2, 1))))
    assert filled.swi.shape == (152, 184, 5)
    assert np.linalg.norm(filled.affine[:3, :3], axis=0) == pytest.approx([1, 1, 2.5])
    assert (filled.affine[:3, 3] == plain.affine[:3, 3]).all()
    for a, b in zip(plain.truth["microbleeds"], filled.truth["microbleeds"], strict=True):
        assert a["ras_mm"] == pytest.approx(b["ras_mm"], abs=0.01)
        assert b["voxel"] == pytest.approx(np.array(a["voxel"]) * [2, 2, 1], abs=0.01)
    assert np.abs(filled.magnitude[::2, ::2].astype(float) - plain.magnitude).max() <= 1


@pytest.mark.parametrize("outside", ["zero", "noise", "nan"])
def test_what_stands_outside_the_head(outside, plain):
    scan = simulate(SPEC.changed(processing=Processing(outside=outside)))
    corner, middle = scan.magnitude[:3, :3], (38, 46, 2)
    assert scan.magnitude[middle] == plain.magnitude[middle]
    if outside == "zero":
        assert not corner.any() and not scan.phase[:3, :3].any()
    elif outside == "nan":
        assert all(np.isnan(v[:3, :3]).all() for v in (scan.magnitude, scan.swi, scan.phase))
        assert not np.isnan(scan.magnitude[30:46, 30:60]).any()
    else:
        assert corner.mean() > 2 * plain.magnitude[:3, :3].mean()


def test_partial_coverage_leaves_empty_slices_and_no_lesion_near_them():
    scan = simulate(
        SPEC.changed(shape=(76, 92, 8), microbleeds=6, processing=Processing(empty_slices=(2, 1), rough_mask_mm=3.0))
    )
    assert [bool(scan.magnitude[..., k].any()) for k in range(8)] == [False] * 2 + [True] * 5 + [False]
    slices = [x["voxel"][2] for x in scan.truth["microbleeds"]]
    assert slices and min(slices) >= 3 and max(slices) <= 5


def test_each_step_is_repeatable_and_changes_the_scan(plain):
    how = Processing(phase_filter="gaussian", fringes=1, receive_phase=1.0, resolution=0.7, apodisation=0.3)
    first, second = (simulate(SPEC.changed(processing=how)) for _ in range(2))
    assert first.phase.tobytes() == second.phase.tobytes()
    assert first.truth["microbleeds"] == plain.truth["microbleeds"]
    assert (first.phase != plain.phase).mean() > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase_filter": "laplacian"}, "phase_filter is 'laplacian'"),
        ({"outside": "black"}, "outside is 'black'"),
        ({"bits": 4}, "bits is 4"),
        ({"zero_fill": (2, 0, 1)}, "zero_fill is"),
        ({"empty_slices": (1,)}, "empty_slices is"),
    ],
)
def test_wrong_processing_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(Processing(), **changes)
