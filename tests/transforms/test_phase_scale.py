"""The scale of a phase: what does not span a circle is not stretched onto one."""

import math

import numpy as np
import pytest
import torch

from cmb_bundle.scripts.errors import SubjectError
from cmb_bundle.scripts.transforms.phase_scale import phase_to_radians, wrap

RNG = np.random.default_rng(0)
FIELD = torch.as_tensor(RNG.normal(0, 1, 50_000))  # as of a map: a tail on either side
NOISE = torch.as_tensor(RNG.uniform(-math.pi, math.pi, 50_000))  # as of air in a raw phase


def spread(largest, values=FIELD):
    return values / values.abs().max() * largest


def same_angle(found, expected, tolerance=1e-4):
    apart = torch.remainder(found.double() - expected.double() + math.pi, 2 * math.pi) - math.pi
    return float(apart.abs().max()) < tolerance and float(found.abs().max()) <= math.pi + 1e-3


def test_unwrapped_radians_are_wrapped_and_not_stretched():
    unwrapped = spread(65)
    phase, notice, warning = phase_to_radians(unwrapped)
    assert same_angle(phase, unwrapped)
    assert "unwrapped radians, from -" in notice
    assert "wrapped" in notice
    assert "field in Hz" in warning


@pytest.mark.parametrize("background", [False, True])
def test_what_spreads_evenly_and_never_jumps_is_no_circle(background):
    """A slope across the head, as of an echo that is not centred, fills any range; a wrapped phase jumps in it."""
    noise = torch.as_tensor(RNG.uniform(-math.pi, math.pi, (1, 60, 70, 4)))
    unwrapped = noise + torch.linspace(-60, 60, 70, dtype=torch.float64)[:, None]
    if background:
        unwrapped[:, :20] = 0
    phase, notice, warning = phase_to_radians(unwrapped)
    assert same_angle(phase, unwrapped)
    assert "unwrapped radians" in notice and "field in Hz" in warning
    with pytest.raises(SubjectError, match="field map in Hz"):
        phase_to_radians(unwrapped * 4)
    with pytest.raises(SubjectError, match="field map in Hz"):
        phase_to_radians(unwrapped + 70)  # from 0 on
    wrapped = wrap(unwrapped) * 66 / math.pi
    assert same_angle(phase_to_radians(wrapped)[0], wrap(unwrapped), 0.02)


@pytest.mark.parametrize(
    "stored,scale,words",
    [
        (NOISE, 1.0, "radians."),
        (NOISE * 1000, 1e-3, "milliradians."),
        (torch.round(NOISE / math.pi * 4096), math.pi / 4096, "+-4096"),
        (NOISE * 0.00367 / math.pi, math.pi / 0.00367, "+-0.00367"),
    ],
)
@pytest.mark.parametrize("outlier", [60.0, 20.0])
def test_one_voxel_far_beyond_the_others_changes_none_of_them(stored, scale, words, outlier):
    stored = stored.clone()
    stored[7] = outlier * float(stored.abs().max())
    phase, notice, warning = phase_to_radians(stored)
    others = torch.arange(len(stored)) != 7
    # of an odd range, the circle is read from the values, which end up to a thousandth before it
    assert same_angle(phase[others], stored[others] * scale, 0.01)
    assert words in notice
    assert "were wrapped" in notice
    assert warning == ""


@pytest.mark.parametrize("manufacturer", ["", "SIEMENS", "GE MEDICAL SYSTEMS"])
def test_what_ends_at_1000_pi_on_both_sides_is_in_milliradians_whoever_made_the_scanner(manufacturer):
    phase, notice, _ = phase_to_radians(torch.round(1000 * NOISE), manufacturer=manufacturer)
    assert same_angle(phase, NOISE, 1e-3)
    assert "milliradians" in notice


def test_the_background_of_a_mask_is_not_counted_among_what_is_wrapped():
    stored = torch.round(NOISE / math.pi * 2000 + 3000)  # 1000 to 5000, of no known form
    stored[7] = 60000
    masked = torch.cat([stored, torch.zeros(2 * len(stored))])
    assert " 1 voxels beyond " in phase_to_radians(masked)[1]


def test_filtered_milliradians_are_no_half_circle():
    stored = torch.round(spread(1885))
    phase, notice, _ = phase_to_radians(stored)
    assert same_angle(phase, stored / 1000)
    assert "milliradians" in notice
    phase, notice, _ = phase_to_radians(stored, manufacturer="SIEMENS")
    assert same_angle(phase, stored * math.pi / 4096)
    assert "+-4096" in notice


@pytest.mark.parametrize("stored", [NOISE / math.pi, spread(1.0)])
def test_one_is_pi(stored):
    phase, notice, _ = phase_to_radians(stored)
    assert same_angle(phase, stored * math.pi)
    assert "units of pi" in notice


def test_degrees_are_known_by_their_range():
    phase, notice, _ = phase_to_radians(NOISE * 180 / math.pi)
    assert same_angle(phase, NOISE)
    assert "degrees" in notice


@pytest.mark.parametrize("largest", [0.08, 250.0, 700.0, 9000.0])
def test_a_map_that_fills_no_circle_is_refused_with_advice(largest):
    with pytest.raises(SubjectError) as caught:
        phase_to_radians(spread(largest))
    assert f"{largest:.4g}" in str(caught.value)
    assert "field map in Hz, a map in ppm" in str(caught.value)
    assert "set phase_scale" in str(caught.value)
    # what is said is taken, whatever the values
    assert same_angle(phase_to_radians(spread(largest), scale=0.01)[0], spread(largest) * 0.01, 1e-3)


def test_radians_that_were_rounded_are_refused():
    with pytest.raises(SubjectError, match="has 7 different values: it was rounded"):
        phase_to_radians(torch.round(NOISE))
    with pytest.raises(SubjectError, match="2 different values"):
        phase_to_radians(NOISE > 0, units="rad")


def test_the_background_of_a_mask_does_not_count():
    masked = torch.cat([NOISE * 0.00367 / math.pi, torch.zeros(10_000_00)])
    phase, notice, _ = phase_to_radians(masked)
    assert "+-0.00367" in notice
    assert same_angle(phase[:50_000], NOISE, 0.01)


@pytest.mark.parametrize(
    "units,more,factor",
    [
        ("Hz", {"echo_ms": 20.0}, 2 * math.pi * 0.02),
        ("rad/s", {"echo_ms": 20.0}, 0.02),
        ("ppm", {"echo_ms": 20.0, "field_tesla": 3.0}, 2 * math.pi * 0.02 * 42.577 * 3),
        ("ppb", {"echo_ms": 20.0, "field_tesla": 3.0}, 2 * math.pi * 0.02 * 0.042577 * 3),
        ("mrad", {}, 1e-3),
        ("degrees", {}, math.pi / 180),
        ("rad", {}, 1.0),
    ],
)
def test_the_unit_that_a_json_file_tells_is_taken(units, more, factor):
    stored = spread(3.0)
    phase, notice, warning = phase_to_radians(stored, units=units, **more)
    assert same_angle(phase, stored * factor, 1e-3)
    assert units in notice
    assert warning == ""


@pytest.mark.parametrize("units,more", [("Hz", {}), ("ppm", {"echo_ms": 20.0}), ("ppm", {"field_tesla": 3.0})])
def test_a_field_without_what_makes_it_a_phase_is_refused(units, more):
    with pytest.raises(SubjectError, match=f"field in {units}.*(EchoTime|MagneticFieldStrength)"):
        phase_to_radians(spread(3.0), units=units, **more)


def test_a_unit_that_the_values_contradict_is_not_taken():
    phase, notice, warning = phase_to_radians(torch.round(NOISE / math.pi * 4096), units="rad")
    assert same_angle(phase, NOISE, 1e-3)
    assert "+-4096" in notice
    assert "says rad, but its values reach 4096" in warning
