"""Places and grids in mm, against rules written again one by one."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmb_bundle.scripts import geometry
from cmb_bundle.scripts.geometry import corners_apart_mm, same_grid, suppressed_by, to_voxel


def affine_of(spacing=(0.5, 0.8, 2.0), origin=(3.0, -4.0, 5.0), degrees=0.0):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def test_examples():
    assert doctest.testmod(geometry).failed == 0


def test_places_go_to_voxels_and_back():
    affine = affine_of(degrees=30)
    voxel = np.array([[0, 0, 0], [1.5, 2, 7], [9, 4.25, 3]])
    ras = voxel @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(to_voxel(affine, ras), voxel, atol=1e-12)
    np.testing.assert_allclose(to_voxel(affine, ras[1]), voxel[1], atol=1e-12)
    assert to_voxel(affine, np.zeros((0, 3))).shape == (0, 3)


def test_a_rotation_is_seen_at_the_corners():
    affine = affine_of(spacing=(0.5, 0.5, 2.0))
    turned = affine_of(spacing=(0.5, 0.5, 2.0), degrees=0.1)
    # the corner farthest from the first voxel is 100 x 100 voxels away: 50 mm x sqrt 2 x 0.1 degrees
    assert corners_apart_mm((101, 101, 5), affine, turned) == pytest.approx(50 * np.sqrt(2) * np.deg2rad(0.1), rel=1e-4)
    assert not same_grid((101, 101, 5), affine, (101, 101, 5), turned)
    assert same_grid((11, 11, 5), affine, (11, 11, 5), turned)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("shift_mm", "same"), [(0.0, True), (0.049, True), (-0.049, True), (0.051, False)])
def test_the_tolerance_is_a_tenth_of_the_smallest_edge_along_each_axis(axis, shift_mm, same):
    affine, shifted = affine_of(), affine_of()
    shifted[axis, 3] += shift_mm
    assert same_grid((9, 8, 7), affine, (9, 8, 7), shifted) is same


def test_another_shape_is_another_grid():
    assert not same_grid((9, 8, 7), affine_of(), (9, 7, 8), affine_of())


@given(
    st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12),
    st.sampled_from([0.0, 1.0, 2.0, 2.5]),
    st.booleans(),
)
def test_suppression_is_the_rule_written_one_by_one(places, distance_mm, drop_at_distance):
    by = suppressed_by(places, distance_mm, drop_at_distance)
    assert len(by) == len(places)
    for number, place in enumerate(places):
        apart = {n: float(np.linalg.norm(np.subtract(places[n], place))) for n in range(number) if by[n] < 0}
        near = {n: d for n, d in apart.items() if d < distance_mm or (drop_at_distance and d == distance_mm)}
        assert by[number] == (min(near, key=lambda n: (near[n], n)) if near else -1)
