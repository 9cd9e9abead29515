"""The sign of the phase by veins, by susceptibility and by the manufacturer, against phantoms and known fields."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from cmb_bundle.scripts.phantom.physics import dipole_field
from cmb_bundle.scripts.transforms import sign as sign_module
from cmb_bundle.scripts.transforms.phase import NormalizePhased, is_raw
from cmb_bundle.scripts.transforms.sign import find_sign, paramagnetic_sign, susceptibility_sign

from .test_phase import SEVEN_TESLA, scan, simulated


@pytest.mark.parametrize(
    "manufacturer,sign,words",
    [
        ("SIEMENS", 1, "kept, as is usual for Siemens"),
        ("Philips Medical Systems", 1, "kept, as is usual for Philips"),
        ("GE MEDICAL SYSTEMS", -1, "turned, as is usual for GE"),
        ("Genuine", 1, "kept, for want of evidence"),
        ("", 1, "kept, for want of evidence"),
    ],
)
def test_without_evidence_the_sign_is_the_manufacturers(manufacturer, sign, words):
    d = scan(simulated(0), "magnitude")
    noise = torch.as_tensor(np.random.default_rng(0).uniform(-1.5, 1.5, d["phase"].shape).astype(np.float32))
    d["phase"] = MetaTensor(noise, affine=d["phase"].affine, meta={"manufacturer": manufacturer})
    done = NormalizePhased(filter_phase=False)(d)
    torch.testing.assert_close(done["phase"].as_tensor(), sign * noise)
    assert words in done["notices"]
    assert words in done["sign_guessed"]
    assert "sign_guessed" not in NormalizePhased(filter_phase=False, sign=1)(d)


@pytest.mark.parametrize(
    "correlation,manufacturer,sign,words",
    [
        (
            -0.04,
            "",
            -1,
            "turned, as its veins faintly say, for want of evidence (dark structures correlate at -0.04, with "
            "susceptibility at +0.01, which is skewed by -0.02)",
        ),
        (-0.02, "", 1, "kept, for want of evidence"),
        (0.04, "", 1, "kept, for want of evidence"),
        (-0.04, "SIEMENS", 1, "kept, as is usual for Siemens"),
    ],
)
def test_faint_veins_are_a_guess_where_no_manufacturer_is_named(monkeypatch, correlation, manufacturer, sign, words):
    module = "cmb_bundle.scripts.transforms.sign"
    monkeypatch.setattr(f"{module}.paramagnetic_sign", lambda *_: (0, correlation))
    monkeypatch.setattr(f"{module}.susceptibility_sign", lambda *_: (0, 0.01, -0.02))
    d = scan(simulated(0), "magnitude")
    d["phase"].meta["manufacturer"] = manufacturer
    done = NormalizePhased(filter_phase=False)(d)
    torch.testing.assert_close(done["phase"].as_tensor(), sign * d["phase"].as_tensor())
    assert words in done["notices"] and done["sign_guessed"].startswith(words.partition(" (")[0])


def sign_of(d):
    image = d["image"]
    return paramagnetic_sign(d["phase"].as_tensor(), image.as_tensor(), d["mask"].as_tensor().bool(), image.pixdim)


# Margins seen over 5 seeds (correlation on SWI): 0.40 to 0.47 by default, 0.23 to 0.33 at 1.5 T and 20 ms, 0.51 to 0.55
# at 7 T, 0.43 to 0.48 with 20 microbleeds, 0.27 to 0.42 above the sinuses.
@pytest.mark.parametrize(
    "seed,changes,least",
    [
        (0, {"microbleeds": 20}, 0.3),
        (1, {"field_tesla": 1.5}, 0.15),
        (3, SEVEN_TESLA, 0.4),
        (4, {"centre_mm": (0, -20, -40), "snr": 10.0}, 0.15),
    ],
)
def test_sign_is_found_on_phantoms_of_both_polarities(seed, changes, least):
    plain = simulated(seed, **changes)
    turned = dataclasses.replace(plain, phase=-plain.phase)
    sign, correlation = sign_of(scan(plain))
    assert (sign, correlation > least) == (1, True), correlation
    sign, opposite = sign_of(scan(turned))
    assert sign == -1
    assert opposite == pytest.approx(-correlation, abs=1e-6)


def test_sign_from_the_magnitude_decides_right_or_not_at_all():
    # Seen over 8 seeds at 3 T, 20 ms: 0.05 to 0.17; at 1.5 T, 20 ms: 0.015 to 0.055.
    for seed, changes, decided in [(7, {}, 1), (0, {}, 0), (3, SEVEN_TESLA, 1), (1, {"field_tesla": 1.5}, 0)]:
        sign, correlation = sign_of(scan(simulated(seed, **changes), "magnitude"))
        assert correlation > 0
        assert sign == decided, (seed, changes, correlation)


def test_sign_is_undecided_without_evidence():
    d = scan(simulated(0))
    d["image"] = scan(simulated(0), "magnitude")["image"]
    noise = np.random.default_rng(0).normal(0, 0.3, d["phase"].shape).astype(np.float32)
    d["phase"] = MetaTensor(torch.as_tensor(noise), affine=d["phase"].affine)
    sign, correlation = sign_of(d)
    assert sign == 0
    assert abs(correlation) < 0.02
    kept = NormalizePhased(scale=1.0, filter_phase=False)(d)
    assert "kept, for want of evidence" in kept["notices"]
    torch.testing.assert_close(kept["phase"].as_tensor(), torch.as_tensor(noise))
    d["phase"] = MetaTensor(torch.zeros_like(d["phase"].as_tensor()), affine=d["phase"].affine)
    assert sign_of(d) == (0, 0.0)


@settings(max_examples=5, deadline=None)
@given(st.floats(1e-3, 1e6))
def test_sign_and_raw_do_not_depend_on_the_units_of_the_image(factor):
    rng = torch.Generator().manual_seed(0)
    image = torch.rand((1, 40, 40, 4), generator=rng) + 1
    phase = 0.3 * (1.5 - image)
    mask = torch.ones_like(image, dtype=torch.bool)
    sign, correlation = paramagnetic_sign(phase, image * factor, mask, (0.8, 0.8, 2.0))
    assert sign == 1
    assert correlation == pytest.approx(paramagnetic_sign(phase, image, mask, (0.8, 0.8, 2.0))[1], rel=1e-2)
    assert is_raw(phase, image * factor, mask) == is_raw(phase, image, mask)


def test_wild_phase_does_not_vote_on_the_sign():
    image = torch.rand((1, 120, 80, 4), generator=torch.Generator().manual_seed(0)) + 1
    mask = torch.ones_like(image, dtype=torch.bool)
    phase = 0.3 * (1.5 - image)
    phase[:, :75] = 3 * torch.sign(
        image[:, :75] - 1.5
    )  # two thirds of what is away from the edges say the opposite, at 3 rad
    sign, correlation = paramagnetic_sign(phase, image, mask, (0.8, 0.8, 2.0))
    assert sign == 1
    assert correlation > 0.5


def test_voxels_wider_than_veins_decide_nothing():
    image = torch.rand((1, 40, 40, 4), generator=torch.Generator().manual_seed(0)) + 1
    mask = torch.ones_like(image, dtype=torch.bool)
    assert paramagnetic_sign(1.5 - image, image, mask, (3.0, 3.0, 3.0)) == (0, 0.0)
    assert paramagnetic_sign(1.5 - image, image, mask, (0.8, 0.8, 3.0))[0] == 1


def tubes(sign=1, seed=0):
    """Phase, image and mask of veins along all axes and in between: each darker, and paramagnetic by ``sign``."""
    rng, spacing = np.random.default_rng(seed), (0.8, 0.8, 1.6)
    grid = np.stack(
        np.meshgrid(*(np.arange(n) * d for n, d in zip((96, 96, 40), spacing, strict=True)), indexing="ij"), -1
    )
    inside = np.zeros(grid.shape[:3], bool)
    for _ in range(60):
        through, along = rng.uniform(0, grid.max(axis=(0, 1, 2))), rng.standard_normal(3)
        away = grid - through
        away = away - (away @ (along / np.linalg.norm(along)))[..., None] * along / np.linalg.norm(along)
        inside |= np.linalg.norm(away, axis=-1) < 1.0
    phase = sign * 3 * dipole_field(inside.astype(np.float32), spacing) + rng.normal(0, 0.05, inside.shape)
    image = np.where(inside, 0.85, 1.0) + rng.normal(0, 0.05, inside.shape)
    tensors = [torch.as_tensor(x.astype(np.float32))[None] for x in (phase, image)]
    return *tensors, torch.ones(1, *inside.shape, dtype=torch.bool), spacing


@pytest.mark.parametrize("sign", [1, -1])
def test_veins_in_all_directions_tell_the_sign_by_their_susceptibility(sign):
    phase, image, mask, spacing = tubes(sign)
    found, correlation, skewness = susceptibility_sign(phase, image, mask, spacing)
    assert found == sign
    assert correlation * sign > 0.3 and skewness * sign > 0.3
    # what deep veins alone could not: the phase itself correlates less with darkness
    assert abs(paramagnetic_sign(phase, image, mask, spacing)[1]) < 0.6 * abs(correlation)


def test_susceptibility_is_what_makes_the_phase():
    rng, spacing = np.random.default_rng(0), (0.7, 0.8, 1.5)
    source = np.zeros((48, 40, 32), np.float32)
    source[tuple(rng.integers(8, (40, 32, 24), (12, 3)).T)] = 1.0
    found = sign_module._susceptibility(dipole_field(source, spacing), spacing)
    # exact but for the cone in k-space where the field is weak, a third of it
    assert np.corrcoef(found.ravel(), source.ravel())[0, 1] > 0.8
    assert (found[source > 0] > 0.5).all()


# Seen over 8 seeds: right at 3 T in all, at 1.5 T in three, else undecided.
@pytest.mark.parametrize("seed,field_tesla,decided", [(1, 3.0, 1), (5, 3.0, 1), (3, 1.5, 1), (0, 1.5, 0), (1, 1.5, 0)])
def test_a_magnitude_with_faint_veins_tells_the_sign_by_susceptibility_or_not_at_all(seed, field_tesla, decided):
    d = scan(simulated(seed, field_tesla=field_tesla), "magnitude")
    seen = [d["image"].as_tensor(), d["mask"].as_tensor().bool(), d["image"].pixdim]
    assert paramagnetic_sign(d["phase"].as_tensor(), *seen)[0] == 0
    for sign in (1, -1):
        found, _, evidence = find_sign(sign * d["phase"].as_tensor(), *seen)
        assert found == sign * decided, evidence
        assert "with susceptibility at" in evidence


@pytest.mark.parametrize(
    "veins,source,expected",
    [
        ((1, 0.3), (-1, -0.1, -0.2), 1),  # clear veins are not asked twice
        ((0, 0.11), (-1, -0.1, -0.2), -1),
        ((0, -0.11), (0, 0.01, -0.2), 0),
        ((0, 0.02), (1, 0.1, 0.2), 1),
        ((0, -0.08), (0, -0.06, 0.01), -1),  # healthy tissue: veins say the same twice, and no iron
        ((0, 0.05), (0, 0.05, -0.3), 1),
        ((0, -0.08), (0, 0.06, -0.01), 0),
        ((0, 0.11), (0, 0.03, 0.07), 0),
        ((0, 0.03), (0, 0.11, 0.07), 0),
    ],
)
def test_susceptibility_decides_where_veins_are_faint(monkeypatch, veins, source, expected):
    monkeypatch.setattr(sign_module, "paramagnetic_sign", lambda *_: veins)
    monkeypatch.setattr(sign_module, "susceptibility_sign", lambda *_: source)
    phase = torch.zeros(1, 4, 4, 4)
    assert find_sign(phase, phase, phase > 0, (0.8, 0.8, 2.0))[0] == expected
    assert find_sign(phase, phase, phase > 0, (3.0, 3.0, 3.0))[0] == veins[0]  # wider than a vein


def test_darkness_and_skewness_must_agree():
    phase, image, mask, spacing = tubes()
    assert susceptibility_sign(phase, 2 - image, mask, spacing)[0] == 0  # bright veins
    noise = torch.as_tensor(np.random.default_rng(0).normal(0, 0.3, phase.shape).astype(np.float32))
    found, correlation, skewness = susceptibility_sign(noise, image, mask, spacing)
    assert found == 0 and abs(correlation) < 0.02 and abs(skewness) < 0.03
    assert susceptibility_sign(torch.zeros_like(phase), image, mask, spacing) == (0, 0.0, 0.0)
