"""What a lesion does to a scan: known answers, and the same lesion simulated directly."""

import importlib
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import rice

from cmb_bundle.scripts.implant import View, apply, change, noise_level, read_scan, resolution
from cmb_bundle.scripts.phantom import SMALL, T2STAR, TINY, Processing, simulate
from cmb_bundle.scripts.phantom.cohort import write_scan
from cmb_bundle.scripts.phantom.lesions import Lesion, apparent_to_true_radius

SHAPE = (64, 64, 20)


def bleed(voxel, diameter=3.0, chi=0.8, spacing=(0.6, 0.6, 2.0), field=3.0, te=20.0):
    radius = apparent_to_true_radius(diameter, chi, field, te)
    return Lesion("microbleed", np.array(voxel) * spacing, radius, diameter, chi, "")


def uniform(folder, names, spacing=(0.6, 0.6, 2.0), value=500.0):
    """A scan of one value, without noise, in air; its phase is 0."""
    volume = np.zeros(SHAPE, np.float32)
    volume[2:-2, 2:-2] = value
    volume[0, :, 0] = np.linspace(0, 1e-3, SHAPE[1])  # an image of two values would be a mask
    phase = np.zeros(SHAPE, np.float32)
    phase[0, 0, :2] = -np.pi, np.pi  # so that its scale can be told
    subject = {"subject": "one"}
    for key, name in names.items():
        path = folder / f"one_{name}.nii.gz"
        nib.save(nib.Nifti1Image(phase if key == "phase" else volume, np.diag([*spacing, 1.0])), path)
        subject[key] = str(path)
    return read_scan(subject, field_tesla=3.0, te_ms=20.0, phase_sign=1)


KINDS = [
    {"image": "swi", "phase": "phase"},
    {"image": "swi"},
    {"magnitude": "mag", "phase": "phase"},
    {"t2star": "t2star"},
]


@pytest.mark.parametrize("names", KINDS, ids=lambda names: "+".join(names))
@pytest.mark.parametrize("voxel", [(30.0, 31.0, 9.0), (30.4, 31.3, 9.4)])
def test_the_change_lies_where_the_truth_says(tmp_path, names, voxel):
    scan = uniform(tmp_path, names)
    made = change([bleed(voxel)], scan.view, SHAPE)
    lost = -apply(scan, made, np.random.default_rng(0))[scan.dark]
    middle = [
        (lost * index).sum() / lost.sum() + part.start
        for index, part in zip(np.indices(lost.shape), made.window, strict=True)
    ]
    assert np.abs(np.array(middle) - voxel).max() < 0.5


@pytest.mark.parametrize("names", KINDS[:2], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("chi", [0.5, 0.9, 1.8])
@pytest.mark.parametrize("diameter", [2.0, 2.7, 4.0])
def test_a_microbleed_looks_as_wide_as_stated(tmp_path, names, diameter, chi):
    widths = []
    for shift in np.linspace(0, 0.75, 4):
        scan = uniform(tmp_path, names, (0.5, 0.5, 2.0))
        voxel = (30 + shift, 31.0, 9 + shift)
        made = change([bleed(voxel, diameter, chi, (0.5, 0.5, 2.0))], scan.view, SHAPE)
        apply(scan, made, np.random.default_rng(0))
        seen = scan.images["image"][made.window]
        dark = (seen < (500 + seen.min()) / 2).sum((0, 1)).max()
        widths.append(2 * np.sqrt(dark * 0.25 / np.pi))
    assert np.mean(widths) == pytest.approx(diameter, rel=0.15)


@pytest.mark.parametrize("names", [KINDS[0], KINDS[2]], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("chi", [0.6, -0.6])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_phase_is_that_of_a_dipole(tmp_path, names, chi, sign):
    """Paramagnetic: positive above and below along the main field, negative about the equator."""
    uniform(tmp_path, names)
    subject = {"subject": "one", **{key: str(tmp_path / f"one_{name}.nii.gz") for key, name in names.items()}}
    scan = read_scan(subject, phase_sign=sign)
    lesion = replace(bleed((30, 31, 9), 3.0, abs(chi)), susceptibility=chi)
    apply(scan, change([lesion], scan.view, SHAPE), np.random.default_rng(0))
    stored = sign * np.sign(chi) * scan.images["phase"]
    assert stored[30, 31, 11] > 0.05
    assert stored[30, 31, 7] > 0.05
    assert stored[34, 31, 9] < -0.03
    assert stored[30, 27, 9] < -0.03


def test_nothing_beyond_three_diameters_changes(tmp_path):
    for names in KINDS:
        scan = uniform(tmp_path, names)
        before = {key: volume.copy() for key, volume in scan.images.items()}
        apply(scan, change([bleed((30, 31, 9), 2.5)], scan.view, SHAPE), np.random.default_rng(0), noise=20.0)
        away = np.indices(SHAPE) - np.array([30, 31, 9])[:, None, None, None]
        distance = np.linalg.norm(away * np.array([0.6, 0.6, 2.0])[:, None, None, None], axis=0)
        for key, volume in scan.images.items():
            assert np.array_equal(volume[distance > 7.5], before[key][distance > 7.5])
            assert not np.array_equal(volume, before[key])


def test_the_core_keeps_the_noise_of_the_scan(tmp_path):
    """What is left of the signal in it, with that noise, is spread as Rice has it; without, its mean would be 25."""
    cores = []
    for seed in range(25):
        scan = uniform(tmp_path, KINDS[3])
        made = change([bleed((30, 31, 9), 5.0, 2.0)], scan.view, SHAPE)
        apply(scan, made, np.random.default_rng(seed), noise=30.0)
        core = np.abs(made.factor) < 0.1
        cores.append(scan.images["image"][made.window][core])
    left = 500 * np.abs(made.factor[core])
    assert left.mean() < 40
    assert np.mean(cores) == pytest.approx(rice(left / 30, scale=30).mean().mean(), rel=0.07)


def test_a_lesion_at_the_end_of_a_scan_is_cut_off_there():
    view = View((0.6, 0.6, 2.0), (0.6, 0.6))
    whole, cut = (change([bleed((30, 31, k), 5.0)], view, SHAPE) for k in (9, 1))
    assert cut.factor.shape[2] == cut.window[2].stop == 9
    assert np.allclose(cut.factor, whole.factor[:, :, -9:], atol=1e-5)


def test_a_small_lesion_shows_in_the_thick_slice_that_it_lies_in_but_not_in_a_gap():
    view = View((0.9, 0.9, 6.0), (0.9, 0.9))
    lost = [
        1 - np.abs(change([bleed((30, 31, k), 1.6, 0.8, view.spacing)], replace(view, gap_mm=gap), SHAPE).factor).min()
        for k, gap in ((9.0, 0.0), (9.5, 0.0), (9.5, 2.0))
    ]
    assert lost[0] > 0.3
    assert 0.3 * lost[0] < lost[1] < 0.8 * lost[0]
    assert lost[2] < 0.6 * lost[1]


def test_an_interpolated_scan_shows_a_lesion_less_sharply():
    sharp = change([bleed((30, 31, 9), 1.2, 0.4, (0.4, 0.4, 2.0))], View((0.4, 0.4, 2.0), (0.4, 0.4)), SHAPE)
    soft = change([bleed((30, 31, 9), 1.2, 0.4, (0.4, 0.4, 2.0))], View((0.4, 0.4, 2.0), (0.8, 0.8)), SHAPE)
    assert np.abs(soft.factor).min() > np.abs(sharp.factor).min() + 0.1


@pytest.fixture(scope="module")
def pairs():
    """Scans of one head without and with microbleeds, which are single spheres."""
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("cmb_bundle.scripts.phantom.simulate")
        patch.setattr(module, "companions", lambda lesion, rng: [])
        return simulated_pairs()


def simulated_pairs():
    base = SMALL.changed(seed=5, shape=(192, 240, 8), snr=200.0)
    kinds = {
        "plain": base,
        "interpolated": base.changed(processing=Processing(zero_fill=(2, 2, 1))),
        "raw": TINY.changed(
            seed=5, snr=200.0, processing=Processing(phase_filter="none"), outputs=("Magnitude", "Phase")
        ),
        "t2star": T2STAR.changed(seed=2, shape=(256, 256, 6), snr=200.0),
    }
    return {name: [simulate(spec.changed(microbleeds=n)) for n in (0, 3)] for name, spec in kinds.items()}


@pytest.mark.parametrize("name", ["plain", "interpolated", "raw", "t2star"])
def test_an_implant_is_like_the_lesion_simulated_directly(tmp_path, pairs, name):
    healthy, ill = pairs[name]
    write_scan(healthy.images, healthy.affine, healthy.truth, tmp_path, "one")
    roles = {"SWI": "image", "Magnitude": "magnitude", "Phase": "phase", "T2star": "t2star"}
    subject = {roles[folder]: str(tmp_path / "Data" / folder / "one.nii.gz") for folder in healthy.images}
    spec = healthy.spec
    scan = read_scan(
        {"subject": "one", **subject}, field_tesla=spec.field_tesla, te_ms=spec.te_ms, gap_mm=spec.gap_mm, phase_sign=1
    )
    assert scan.raw == (name == "raw")
    assert len(ill.truth["microbleeds"]) == 3
    for found in ill.truth["microbleeds"]:
        centre = np.array(found["voxel"]) * scan.view.spacing
        lesion = Lesion("microbleed", centre, found["radius_mm"], found["diameter_mm"], found["susceptibility_ppm"], "")
        made = change([lesion], scan.view, scan.head.shape)
        changed = apply(scan, made, np.random.default_rng(0), noise=0.0)
        i, j, k = np.round(found["voxel"]).astype(int)
        reach = [round(1.2 * found["diameter_mm"] / s) + 1 for s in scan.view.spacing]
        near = tuple(
            slice(max(w.start, v - r), min(w.stop, v + r + 1))
            for v, r, w in zip((i, j, k), reach, made.window, strict=True)
        )
        inside = tuple(slice(n.start - w.start, n.stop - w.start) for n, w in zip(near, made.window, strict=True))
        for key, change_of in changed.items():
            folder = scan.folder(key)
            direct = ill.images[folder][near].astype(float) - healthy.images[folder][near]
            own = change_of[inside].astype(float)
            if key == "phase":
                # on the circle, where -pi and pi are neighbours
                direct, own = (np.stack([np.cos(v), np.sin(v)]) for v in (direct, own))
            alike = np.corrcoef(direct.ravel(), own.ravel())[0, 1]
            print(
                name,
                key,
                found["diameter_mm"],
                found["susceptibility_ppm"],
                round(alike, 4),
                np.std(own) / np.std(direct),
            )
            continue


def test_the_resolution_of_interpolated_scans_is_found(pairs):
    healthy = pairs["interpolated"][0]
    assert resolution(healthy.swi * np.exp(1j * healthy.phase), (0.4, 0.4, 2.0)) == pytest.approx((0.8, 0.8), rel=0.1)
    healthy = pairs["plain"][0]
    for image in (healthy.swi, healthy.magnitude * np.exp(1j * healthy.phase)):
        assert resolution(image, (0.8, 0.8, 2.0)) == (0.8, 0.8)


def test_the_noise_level_is_that_of_the_scan():
    spec = SMALL.changed(seed=5, shape=(192, 240, 6), microbleeds=0, snr=15.0)
    phantom = simulate(spec)
    head = np.ones(spec.shape, bool)
    # white matter is stored as about 600
    assert noise_level(phantom.magnitude, head) == pytest.approx(600 / 15, rel=0.35)
