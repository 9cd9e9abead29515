"""Findings of several scans are paired one to one by place, with a second look at what was not found."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine

from cmb_bundle.scripts.follow_up import Sighting, pair, track
from cmb_bundle.scripts.phantom.sessions import rigid

POINTS = st.lists(st.tuples(*[st.integers(-4, 4)] * 3), max_size=4, unique=True)


def seen(place, probability=0.9, found=True):
    return Sighting(tuple(map(float, place)), tuple(map(float, place)), probability, found)


def worth(pairs, a, b, most):
    return sum(most - np.linalg.norm(np.subtract(a[i], b[j])) for i, j in pairs)


@settings(deadline=None, max_examples=60)
@given(POINTS, POINTS)
def test_no_other_pairing_is_worth_more(a, b):
    found = pair(a, b, 5.0)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    assert all(np.linalg.norm(np.subtract(a[i], b[j])) <= 5 for i, j in found)
    few, many = sorted((range(len(a)), range(len(b))), key=len)
    best = 0.0
    for order in itertools.permutations(many, len(few)):
        pairs = [(f, m) if few == range(len(a)) else (m, f) for f, m in zip(few, order, strict=True)]
        near = [(i, j) for i, j in pairs if np.linalg.norm(np.subtract(a[i], b[j])) <= 5]
        best = max(best, worth(near, a, b, 5.0))
    assert worth(found, a, b, 5.0) == pytest.approx(best, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(POINTS, POINTS, st.tuples(*[st.integers(-180, 180)] * 3), st.tuples(*[st.integers(-50, 50)] * 3))
def test_where_the_world_has_its_origin_does_not_matter(a, b, turn, shift):
    motion = rigid(turn, shift)
    moved = [apply_affine(motion, np.reshape(one, (-1, 3)).astype(float)) for one in (a, b)]
    assert worth(pair(*moved, 5.0), *moved, 5.0) == pytest.approx(worth(pair(a, b, 5.0), a, b, 5.0), abs=1e-4)


def test_a_close_pair_is_not_torn_apart_for_two_far_ones():
    assert pair([[0, 0, 0], [4.5, 0, 0]], [[0, 0, 0.1], [-4.5, 0, 0]], 5.0) == [(0, 0)]


def test_five_mm_match_and_more_do_not():
    assert pair([[0, 0, 0]], [[0, 3, 4]], 5.0) == [(0, 0)]
    assert pair([[0, 0, 0]], [[0, 3, 4.01]], 5.0) == []


def test_a_finding_goes_to_a_finding_before_the_nearer_candidate():
    tracks = track([[seen((0, 0, 0))], [seen((1, 0, 0), 0.1, False), seen((4, 0, 0))]])
    assert [sorted(one.seen) for one in tracks] == [[0, 1], [1]]
    assert tracks[0].seen[1].found


def test_the_second_look_takes_a_candidate_of_either_scan():
    weak = seen((1, 0, 0), 0.1, False)
    for scans in ([[weak], [seen((0, 0, 0))]], [[seen((0, 0, 0))], [weak]]):
        (one,) = track(scans)
        assert sorted(one.seen) == [0, 1]
        assert one.place_mm.tolist() == [0, 0, 0]  # of what was found
    assert len(track([[seen((0, 0, 0))], [seen((3.1, 0, 0), 0.1, False)]], second_look_mm=3.0)) == 2


def test_a_lesion_is_followed_over_a_scan_that_missed_it():
    tracks = track([[seen((0, 0, 0))], [], [seen((1, 0, 0)), seen((40, 0, 0))]])
    assert [sorted(one.seen) for one in tracks] == [[0, 2], [2]]
