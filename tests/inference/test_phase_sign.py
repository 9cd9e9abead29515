"""The sign of the phase where veins do not tell it: by both signs, on a real scan with lesions put in."""

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cmb_bundle.scripts.inference import ChooseSignd, detect

CROP = Path(__file__).parents[3] / "shared" / "data" / "real" / "gre_crop"
PLACES = [(16, 16, 10), (34, 16, 15), (30, 24, 21), (16, 34, 26), (33, 34, 30)]
REACH = 10


def with_lesions(magnitude, phase, spacing, radius_mm=0.8, pole_rad=5.0):
    """Put spheres of iron into a gradient echo: their dipole fields turn and dephase the signal, voxel by voxel."""
    signal, parts = magnitude * np.exp(1j * phase), (3, 3, 5)
    for place in PLACES:
        fine = [np.arange((2 * REACH + 1) * n) / n - REACH - 0.5 + 0.5 / n for n in parts]
        apart = np.stack(np.meshgrid(*fine, indexing="ij"), -1) * spacing
        distance = np.linalg.norm(apart, axis=-1)
        field = 0.5 * pole_rad * (radius_mm / np.maximum(distance, radius_mm)) ** 3
        field *= 3 * apart[..., 2] ** 2 / np.maximum(distance, 1e-6) ** 2 - 1
        factor = np.where(distance > radius_mm, np.exp(1j * field), 0.2)
        blocks = [length for n in parts for length in (2 * REACH + 1, n)]
        factor = factor.reshape(blocks).mean(axis=(1, 3, 5))
        ends = [
            (max(0, p - REACH), min(size, p + REACH + 1), p - REACH)
            for p, size in zip(place, signal.shape, strict=True)
        ]
        signal[tuple(slice(low, high) for low, high, _ in ends)] *= factor[
            tuple(slice(low - first, high - first) for low, high, first in ends)
        ]
    return np.abs(signal), np.angle(signal)


@pytest.fixture(scope="module")
def crop():
    if not CROP.is_dir():
        pytest.skip(f"no real scan at {CROP}")
    images = [nib.load(CROP / f"{name}.nii.gz") for name in ("mag", "phase")]
    magnitude, phase = (np.asarray(image.dataobj, dtype=float)[..., 2] for image in images)
    return magnitude, phase * math.pi / np.abs(phase).max(), images[0].affine


def found(crop, sign, lesions=True, **options):
    magnitude, phase, affine = crop
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if lesions:
        magnitude, phase = with_lesions(magnitude, phase, spacing)
    images = [nib.Nifti1Image(array.astype(np.float32), affine) for array in (magnitude, sign * phase)]
    result = detect(magnitude=images[0], phase=images[1], device="cpu", precision="float32", **options)
    near = [np.linalg.norm((np.array(PLACES) - f.voxel) * spacing, axis=1).min() for f in result.findings]
    return result, sum(apart < 2 for apart in near)


def test_the_negated_phase_of_a_real_scan_gives_the_same_findings(crop):
    low = {"probability_threshold": 0.02}  # it is far from what the weights learned from, and so are the probabilities
    as_stored, hits = found(crop, 1, **low)
    negated, same_hits = found(crop, -1, **low)
    assert len(as_stored.findings) == hits == len(PLACES)
    assert len(negated.findings) == same_hits == len(PLACES)
    assert negated.findings == as_stored.findings
    assert "for want of evidence" in as_stored.notices
    assert "it was turned, since the candidates" in negated.notices
    # the trap: with the wrong sign set by hand, none is as probable as the four best with the right one
    wrong, _ = found(crop, -1, phase_sign=1, **low)
    best = sorted((finding.probability for finding in as_stored.findings), reverse=True)[:4]
    assert max((finding.probability for finding in wrong.findings), default=0) < 0.8 * best[-1]


def test_a_scan_without_lesions_keeps_its_sign_with_a_warning(crop):
    result, _ = found(crop, 1, lesions=False)
    assert result.findings == ()
    assert "Warning: The sign of the phase cannot be told from its veins, and trying both decides nothing" in (
        result.notices
    )


def choose(probability, guess="kept, for want of evidence", device="cpu"):
    """Choose for a phase of +1; ``probability`` gives the candidates' for each sign."""

    def inferer(volume, network):
        rows = [[0, 0, 0, 3.0, 0.9, 1, 0.5, p] for p in probability[int(volume.mean())]]
        return torch.tensor(rows).reshape(1, -1, 8)

    transform = ChooseSignd(lambda d: {"image": d["phase"]}, None, inferer, device)
    d = transform({"phase": MetaTensor(torch.ones(1, 2, 2, 2)), "sign_guessed": guess})
    assert "sign_guessed" not in d
    return int(d["phase"].mean()), d["warnings"]


@pytest.mark.parametrize(
    "probability,sign",
    [
        ({1: [0.9], -1: []}, 1),
        ({1: [], -1: [0.9]}, -1),
        ({1: [0.6, 0.3], -1: [0.9, 0.95, 0.9]}, -1),
        ({1: [math.nan], -1: [0.2]}, 1),  # no second stage: the score of 0.9 counts
        ({1: [0.9, 0.8], -1: [0.9, 0.9, 0.8]}, 1),
        ({1: [0.1], -1: [0.4]}, 1),
        ({1: [], -1: []}, 1),
    ],
)
def test_the_sign_with_clearly_more_probable_microbleeds_is_taken(probability, sign):
    taken, warning = choose(probability)
    assert taken == sign
    assert "set phase_sign" in warning
    assert "may also be of another scan, or stored in another orientation than the image: look at both" in warning


def test_a_guess_by_the_manufacturer_is_overruled_by_candidates_alone():
    guess = "turned, as is usual for GE without further processing, for want of evidence"
    taken, warning = choose({1: [0.3], -1: [0.2]}, guess)
    assert taken == 1
    assert f"decides nothing; it was {guess}" in warning
    assert choose({1: [0.0], -1: [0.95]}, guess)[0] == -1


def test_a_known_sign_is_not_tried():
    def inferer(volume, network):
        raise AssertionError

    d = {"phase": MetaTensor(torch.ones(1, 2, 2, 2))}
    assert ChooseSignd(None, None, inferer, "cpu")(d)["phase"] is d["phase"]
