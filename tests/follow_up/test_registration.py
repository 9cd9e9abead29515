"""A later scan is laid on the first; what is no scan of the same head is doubted."""

from functools import cache

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from cmb_bundle.scripts.follow_up import HeadScan, register_rigidly, registration
from cmb_bundle.scripts.follow_up.second_look import darkness
from cmb_bundle.scripts.phantom import TINY, Session, another_protocol, simulate, simulate_sessions
from cmb_bundle.scripts.phantom.sessions import rigid

MOTION = rigid((3, -2, 5), (4, -3, 2))
SPEC = TINY.changed(seed=21, microbleeds=3, shape=(150, 180, 14))


def scan(phantom, findings=(), affine=None):
    image = phantom.images[phantom.spec.outputs[0]].astype(np.float32)
    head = ndimage.gaussian_filter(image, (3, 3, 0)) > 100
    contrast = "t2star" if phantom.spec.outputs == ("T2star",) else "swi"
    return HeadScan(image, phantom.affine if affine is None else affine, head, findings, contrast)


@cache
def pair(change):
    later = another_protocol(SPEC, change, np.random.default_rng(0)) if change else SPEC
    return simulate_sessions([Session(SPEC, np.eye(4)), Session(later, MOTION)])


def error_mm(found, later):
    corners = np.array(np.meshgrid(*[(-60, 60), (-70, 70), (-12, 12)])).reshape(3, -1).T
    apart = apply_affine(found.to_first, corners) - apply_affine(np.array(later.truth["to_first"]), corners)
    return np.linalg.norm(apart, axis=1).max()


@pytest.mark.parametrize(("change", "most_mm"), [(None, 1.0), ("sequence", 3.0)])
def test_the_pose_is_found(change, most_mm):
    first, later = pair(change)
    found = register_rigidly(scan(first), scan(later))
    assert found.doubts == ()
    assert error_mm(found, later) < most_mm
    rotation = found.to_first[:3, :3]
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-6)


def test_a_scanner_with_another_origin_does_not_matter():
    first, later = pair(None)
    far = np.array(later.affine)
    far[:3, 3] += (60, -80, 110)
    found = register_rigidly(scan(first), scan(later, affine=far))
    shift = np.eye(4)
    shift[:3, 3] = (-60, 80, -110)
    expected = np.array(later.truth["to_first"]) @ shift
    corners = apply_affine(far, np.argwhere(np.ones((2, 2, 2))) * (np.array(later.swi.shape) - 1))
    apart = apply_affine(found.to_first, corners) - apply_affine(expected, corners)
    assert found.doubts == ()
    assert np.linalg.norm(apart, axis=1).max() < 1.5


def test_another_head_is_doubted():
    first, other = pair(None)[0], simulate(SPEC.changed(seed=22))
    found = register_rigidly(scan(first), scan(other))
    assert found.away > registration.LARGEST_AWAY
    assert "fits better somewhere else" in found.doubts[0]


def test_noise_is_doubted():
    first = scan(pair(None)[0])
    noise = np.random.default_rng(0).uniform(100, 200, first.image.shape).astype(np.float32)
    assert register_rigidly(first, HeadScan(noise, first.affine, first.head)).doubts


def test_findings_are_left_out_of_the_comparison():
    first, _ = pair(None)
    bleeds = [(m["ras_mm"], 6.0) for m in first.truth["microbleeds"]]
    coarse = registration._Coarse.of(scan(first, bleeds))
    index = np.rint(apply_affine(np.linalg.inv(coarse.affine), [place for place, _ in bleeds])).astype(int)
    inside = np.all((index >= 0) & (index < coarse.compared.shape), axis=1)
    assert inside.all()
    assert not coarse.compared[tuple(index.T)].any()
    assert 0.9 < coarse.compared.mean() < 1


def test_new_lesions_are_dark_in_the_later_scan_alone():
    first, later = simulate_sessions([Session(SPEC, np.eye(4)), Session(SPEC, MOTION, new=2)])
    to_first = np.array(later.truth["to_first"])
    for lesion in later.truth["microbleeds"]:
        now = darkness(later.swi, later.affine, lesion["ras_mm"])
        then = darkness(first.swi, first.affine, apply_affine(to_first, lesion["ras_mm"]))
        if then is not None and lesion["diameter_mm"] > 2:
            assert (then < 0.5 * now) == lesion["new"]
