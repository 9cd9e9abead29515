"""Phase: scale, filter, sign and SWI, against ramps, an independent filter, phantoms and real scans."""

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from cmb_bundle.scripts.errors import SubjectError
from cmb_bundle.scripts.phantom import TINY, simulate
from cmb_bundle.scripts.transforms.head_mask import HeadMaskd
from cmb_bundle.scripts.transforms.load import LoadSubjectd
from cmb_bundle.scripts.transforms.phase import (
    NormalizePhased,
    homodyne_filter,
    is_raw,
    susceptibility_weighted,
)
from cmb_bundle.scripts.transforms.phase_scale import phase_to_radians, wrap

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
RAMP = torch.linspace(-math.pi, math.pi, 4097, dtype=torch.float64)[:-1]
STORAGES = {
    "radians": (lambda p: p, 1e-6, "as radians."),
    "milliradians": (lambda p: torch.round(1000 * p), 6e-4, "milliradians"),
    "+-4096": (lambda p: torch.round(p / math.pi * 4096), 4e-4, "+-4096"),
    "+-2048": (lambda p: torch.round(p / math.pi * 2048), 1e-6, "+-4096"),
    "0..4095": (lambda p: torch.round((p / math.pi + 1) * 2048), 1e-6, "0..4096"),
    "odd float": (lambda p: 0.00367 * p / math.pi, 1e-5, "+-0.00367"),
    "unsigned 16 bit": (lambda p: torch.round((p / math.pi + 1) * 32767.5), 2e-3, "0..65519 over"),
}


@pytest.mark.parametrize("storage", [name for name in STORAGES if name != "+-2048"])
def test_each_storage_is_read_back_as_radians(storage):
    store, tolerance, words = STORAGES[storage]
    angles = RAMP[torch.randperm(len(RAMP), generator=torch.Generator().manual_seed(0))]
    phase, notice, _ = phase_to_radians(store(angles))
    assert phase.dtype == torch.float32
    assert float((phase - angles).abs().max()) < tolerance
    assert words in notice


def test_a_signed_range_of_2048_is_half_of_the_4096_circle():
    phase, notice, _ = phase_to_radians(STORAGES["+-2048"][0](RAMP))
    assert float((phase - RAMP / 2).abs().max()) < 1e-6
    assert "+-4096" in notice


def test_radians_from_zero_are_wrapped():
    phase, notice, _ = phase_to_radians(RAMP + math.pi)
    assert "from 0" in notice
    torch.testing.assert_close(torch.exp(1j * phase), torch.exp(1j * (RAMP + math.pi)).to(torch.complex64))
    assert float(phase.min()) >= -math.pi - 1e-6
    assert float(phase.max()) <= math.pi + 1e-6


def test_a_given_scale_is_used_whatever_the_range():
    phase, notice, _ = phase_to_radians(torch.tensor([0.0, 100.0, -100.0, 400.0]), scale=0.01)
    assert phase.tolist() == pytest.approx([0.0, 1.0, -1.0, 4.0 - 2 * math.pi], abs=1e-6)
    assert "0.01" in notice


@given(st.floats(-100, 100))
def test_wrap_keeps_the_angle_and_the_range(angle):
    wrapped = float(wrap(torch.tensor(angle, dtype=torch.float64)))
    assert -math.pi <= wrapped < math.pi + 1e-9
    assert math.cos(wrapped) == pytest.approx(math.cos(angle), abs=1e-9)
    assert math.sin(wrapped) == pytest.approx(math.sin(angle), abs=1e-9)


SEVEN_TESLA = {"field_tesla": 7.0, "te_ms": 15.0}


def numpy_homodyne(phase, magnitude, lines):
    """The same filter by explicit Fourier sums of each slice, with numpy and double precision."""
    signal, windows, matrices = magnitude * np.exp(1j * phase), [], []
    for n in phase.shape[:2]:
        width = min(lines, n)
        order = np.array([m if m < (n + 1) // 2 else m - n for m in range(n)])
        windows.append(np.where(np.abs(order) <= width / 2, np.cos(np.pi * order / width) ** 2, 0))
        matrices.append(np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n))
    out = np.empty(phase.shape)
    for k in range(phase.shape[2]):
        spectrum = matrices[0] @ signal[..., k] @ matrices[1] * np.outer(*windows)
        low = matrices[0].conj() @ spectrum @ matrices[1].conj()
        out[..., k] = np.angle(signal[..., k] * low.conj())
    return out


@pytest.mark.parametrize("shape,lines", [((24, 21, 3), 8), ((16, 32, 2), 64), ((15, 18, 2), 7)])
def test_homodyne_filter_equals_an_independent_one(shape, lines):
    rng = np.random.default_rng(1)
    phase, magnitude = rng.uniform(-1, 1, shape), rng.uniform(0.5, 1, shape)
    ours = homodyne_filter(torch.as_tensor(phase)[None], torch.as_tensor(magnitude)[None], lines)[0].numpy()
    apart = np.angle(np.exp(1j * (ours - numpy_homodyne(phase, magnitude, lines))))
    assert np.abs(apart).max() < 1e-4


@pytest.mark.parametrize("cycles", [(0, 0), (2, 0), (1, -3)])
def test_homodyne_filter_removes_a_background_and_keeps_a_dot(cycles):
    n = 64
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    background = 1.3 + 2 * np.pi * (cycles[0] * i + cycles[1] * j) / n
    phase = torch.as_tensor(background)[None, ..., None].repeat(1, 1, 1, 2)
    flat = homodyne_filter(wrap(phase), torch.ones_like(phase), 16)
    assert float(flat.abs().max()) < 1e-4
    phase[0, 30, 34, 1] += 0.8
    dotted = homodyne_filter(wrap(phase), torch.ones_like(phase), 16)
    # A dot of 0.8 rad spreads over a kernel whose centre is the mean of the window, (16 / 2) ** 2 / 64 ** 2.
    share = 8**2 / n**2
    passed = np.prod(np.cos(np.pi * np.array(cycles) / 16) ** 2)
    expected = 0.8 - np.angle(passed + share * (np.exp(0.8j) - 1))
    assert float(dotted[0, 30, 34, 1]) == pytest.approx(expected, abs=1e-3)
    dotted[0, 30, 34, 1] = 0
    assert float(dotted.abs().max()) < share / passed
    assert float(dotted[..., 0].abs().max()) < 1e-4


def test_swi_by_hand():
    phase = torch.tensor([0.0, math.pi / 2, math.pi, -1.0, -math.pi, math.pi / 4])
    swi = susceptibility_weighted(torch.full((6,), 16.0), phase)
    assert swi.tolist() == pytest.approx([16, 1, 0, 16, 16, 16 * 0.75**4], abs=1e-5)
    assert float(susceptibility_weighted(torch.tensor(8.0), torch.tensor(math.pi / 2), power=2)) == pytest.approx(2.0)


def test_is_raw_looks_at_tissue_only():
    image = torch.ones(1, 10, 10, 4)
    image[:, 4:] = 0.01
    mask = torch.ones_like(image, dtype=torch.bool)
    phase = torch.full_like(image, 0.19)
    phase[:, 4:] = 3.0
    assert not is_raw(phase, image, mask)
    phase[:, :4] = -0.21
    assert is_raw(phase, image, mask)


@functools.cache
def simulated(seed, **changes):
    return simulate(dataclasses.replace(TINY, seed=seed, **changes))


def scan(phantom, image="swi"):
    """A phantom as it is after loading, on the key "image" the SWI or the magnitude."""
    affine = torch.as_tensor(phantom.affine)
    tensors = {"image": getattr(phantom, image), "phase": phantom.phase}
    tensors = {k: MetaTensor(torch.as_tensor(v.astype(np.float32))[None], affine=affine) for k, v in tensors.items()}
    return HeadMaskd()(tensors | {"subject": "phantom"})


@pytest.mark.parametrize("storage", ["radians", "milliradians", "+-4096", "0..4095", "odd float", "unsigned 16 bit"])
def test_the_other_polarity_is_turned_in_every_storage(storage):
    store, tolerance, _ = STORAGES[storage]
    swapped = simulated(6, phase_polarity=-1)
    d = scan(swapped)
    stored = store(d["phase"].as_tensor().double()).float()
    d["phase"] = MetaTensor(stored, affine=d["phase"].affine)
    d = NormalizePhased()(d)
    assert "Its sign was turned" in d["notices"]
    assert "filtered" not in d["notices"]
    apart = wrap(d["phase"].as_tensor() + torch.as_tensor(swapped.phase)[None])
    assert float(apart.abs().max()) < max(tolerance, 2e-3)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans at {REAL}")
@pytest.mark.parametrize(
    "magnitude,phase,read,raw",
    [
        ("gre_crop/mag.nii.gz", "gre_crop/phase.nii.gz", "+-0.003674 over the circle", True),
        (
            "head_philips/2001_WIP_fcMRI_Field_Mapping_enh_e2.nii.gz",
            "head_philips/2001_WIP_fcMRI_Field_Mapping_enh_e2_ph.nii.gz",
            "as radians",
            True,
        ),
        (
            "head_siemens/8_gre_field_mapping_e2.nii.gz",
            "head_siemens/9_gre_field_mapping_e2_ph.nii.gz",
            "+-4096",
            True,
        ),
    ],
)
def test_real_scans_are_read_filtered_and_their_sign_is_left_alone(magnitude, phase, read, raw):
    # None shows veins well enough to tell: echoes of 2.5 to 12 ms, two of them with voxels of 3 mm.
    d = LoadSubjectd()({"subject": "real", "magnitude": REAL / magnitude, "phase": REAL / phase})
    d = NormalizePhased()(HeadMaskd()(d))
    assert read in d["notices"]
    assert ("high-pass filtered (64 lines)" in d["notices"]) == raw
    assert "for want of evidence" in d["notices"]
    maker = next((name for name in ("Siemens", "Philips") if name.lower() in phase), None)
    assert maker is None or f"kept, as is usual for {maker}" in d["notices"]
    inside = d["phase"].as_tensor()[d["mask"].as_tensor().bool()]
    assert float(inside.abs().median()) < 0.06


@pytest.mark.parametrize("made", [lambda swi: swi, lambda swi: 4095 - swi, lambda swi: (swi / swi.max()) ** 0.5])
def test_the_image_once_more_is_no_phase(made):
    image = 400 + 100 * torch.rand(1, 40, 40, 6, generator=torch.Generator().manual_seed(0))
    image[:, :4] = 0
    d = {"subject": "s1", "image": MetaTensor(image), "mask": MetaTensor((image > 0).float())}
    with pytest.raises(
        SubjectError, match=r"^s1: the phase follows the image \(correlation [+-](1\.00|0\.99) in the head"
    ):
        NormalizePhased(scale=1e-3)(d | {"phase": MetaTensor(made(image))})
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    assert "phase" in NormalizePhased(scale=1e-3)(d | {"phase": MetaTensor(0.5 * image + 300 * noise)})
