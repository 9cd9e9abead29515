"""Several scans of one head: what stays the same, what moves, and what is new."""

import json
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from cmb_bundle.scripts.data import find_subjects
from cmb_bundle.scripts.phantom import TINY, Session, another_protocol, draw_sessions, make_cohort, simulate_sessions
from cmb_bundle.scripts.phantom.sessions import CHANGES, rigid

SPEC = TINY.changed(seed=11, microbleeds=3, shape=(150, 180, 10), mimics=False)


@pytest.fixture(scope="module")
def pair():
    motion = rigid((2, -1, 5), (3, -4, 1))
    return simulate_sessions([Session(SPEC, np.eye(4)), Session(SPEC, motion, new=2)])


def test_lesions_keep_their_number_and_place_in_the_head(pair):
    first, second = ({m["lesion"]: m for m in phantom.truth["microbleeds"]} for phantom in pair)
    assert set(first) == {1, 2, 3}
    assert [second[n]["new"] for n in sorted(second)] == [n > 3 for n in sorted(second)]
    assert not any(m["new"] for m in first.values())
    to_first = np.array(pair[1].truth["to_first"])
    assert np.linalg.det(to_first[:3, :3]) == pytest.approx(1, abs=1e-5)
    for number in set(first) & set(second):
        there = apply_affine(to_first, second[number]["ras_mm"])
        assert there == pytest.approx(first[number]["ras_mm"], abs=0.01)
        assert np.linalg.norm(np.subtract(second[number]["ras_mm"], first[number]["ras_mm"])) > 2
        assert second[number]["radius_mm"] == first[number]["radius_mm"]


def on_first(pair):
    """The second scan's magnitude on the grid of the first, and where it covers it."""
    first, second = pair
    to_second = np.linalg.inv(second.affine) @ np.linalg.inv(np.array(second.truth["to_first"])) @ first.affine
    index = np.moveaxis(apply_affine(to_second, np.moveaxis(np.indices(first.swi.shape), 0, -1)), -1, 0)
    inside = np.all([(i > 0) & (i < n - 1) for i, n in zip(index, second.swi.shape, strict=True)], axis=0)
    return ndimage.map_coordinates(second.magnitude.astype(float), index, order=1), inside


def test_the_head_is_the_same_where_it_has_moved_to(pair):
    moved, inside = on_first(pair)
    still = pair[1].magnitude.astype(float)
    head = inside & (pair[0].magnitude > 300)
    smooth = [ndimage.gaussian_filter(one.astype(float), (1.5, 1.5, 0)) for one in (pair[0].magnitude, moved, still)]
    right, wrong = (np.corrcoef(smooth[0][head], other[head])[0, 1] for other in smooth[1:])
    assert right > 0.85
    assert wrong < right - 0.2


def test_the_noise_is_another():
    first, second = simulate_sessions(draw_sessions(SPEC.changed(microbleeds=0), 2, new=0))
    assert not np.array_equal(first.magnitude, second.magnitude)


def test_blooming_grows_with_echo_time_and_field():
    longer = SPEC.changed(te_ms=40.0, tr_ms=50.0)
    first, second = simulate_sessions([Session(SPEC, np.eye(4)), Session(longer, np.eye(4))])
    for one, other in zip(first.truth["microbleeds"], second.truth["microbleeds"], strict=True):
        assert other["radius_mm"] == one["radius_mm"]
        assert one["diameter_mm"] <= other["diameter_mm"] <= 2 ** (1 / 3) * one["diameter_mm"] + 0.01
    assert any(b["diameter_mm"] > a["diameter_mm"] for a, b in zip(
        first.truth["microbleeds"], second.truth["microbleeds"], strict=True))  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_another_protocol_covers_the_same_extent(change):
    changed = another_protocol(TINY, change, np.random.default_rng(1))
    extent = [np.array(spec.shape) * spec.spacing for spec in (TINY, changed)]
    assert np.abs(extent[0] - extent[1]).max() <= max(changed.spacing) / 2 + max(changed.spacing[:2])
    differs = {
        "field": changed.field_tesla == 1.5,
        "echo": changed.te_ms != TINY.te_ms,
        "voxels": changed.spacing != TINY.spacing,
        "sequence": changed.outputs == ("T2star",),
    }
    assert differs[change]


def test_a_cohort_with_sessions_is_a_bids_data_set(tmp_path):
    how = {"subjects": 1, "preset": "TINY", "seed": 3, "sessions": 2, "other_protocol": 1.0, "progress": False}
    folder = make_cohort(tmp_path / "scans", **how)
    subjects = find_subjects(folder)
    assert [one["subject"] for one in subjects] == ["sub-001_ses-1", "sub-001_ses-2"]
    truths = [json.loads(Path(one["truth"]).read_text()) for one in subjects]
    assert [truth["session"] for truth in truths] == [1, 2]
    assert all("label" in one for one in subjects)
    assert make_cohort(folder, **how) == folder  # reused
    with pytest.raises(FileExistsError):
        make_cohort(folder, **{**how, "sessions": 3})


def test_wrong_values_are_refused(tmp_path):
    for wrong in ({"sessions": 0}, {"sessions": 2, "other_protocol": 1.5}, {"sessions": 2, "new_microbleeds": -1}):
        with pytest.raises(ValueError, match="expected"):
            make_cohort(tmp_path / "no", subjects=1, preset="TINY", **wrong)
    with pytest.raises(ValueError, match="expected one of"):
        another_protocol(TINY, "colour", np.random.default_rng(0))
