"""What a map of regions says of a place, with known answers."""

import numpy as np
import pytest

from cmb_bundle.scripts.regions import REGIONS, RegionMap

CODE = {name: number for number, name in enumerate(REGIONS, 1)}


def layers(spacing=(1.0, 1.0, 1.0), turn=None, gap=0):
    """Frontal up to the voxel 19, thalamus up to 29, parietal above, along the first axis; left, then right."""
    region = np.full((60, 20, 20), CODE["parietal"], np.uint8)
    region[:20], region[20:30] = CODE["frontal"], CODE["thalamus"]
    region[20 - gap : 20] = 0
    side = np.where(np.arange(60) < 30, -1, 1).astype(np.int8)[:, None, None] + np.zeros(region.shape, np.int8)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(spacing)
    affine[:3, 3] = (5, -7, 9)
    return RegionMap(region, side, affine)


def test_region_border_and_side():
    found = layers().locate((5 + 10, -7 + 10, 9 + 10))
    assert (found.region, found.category, found.side) == ("frontal", "lobar", "left")
    assert found.border_mm == 9.5  # the face between the voxels 19 and 20
    assert found.neighbours == ()
    found = layers().locate((5 + 40, -7 + 10, 9 + 10))
    assert (found.region, found.side, found.border_mm) == ("parietal", "right", 10.5)


@pytest.mark.parametrize(("x", "neighbours"), [(17.4, ()), (17.6, ("thalamus",)), (22.0, ()), (20.0, ("frontal",))])
def test_neighbours_are_named_within_2_mm(x, neighbours):
    assert layers().locate((5 + x, 3, 19)).neighbours == neighbours


def test_two_neighbours_are_in_the_order_of_their_distance():
    region = np.full((9, 9, 9), CODE["insula"], np.uint8)
    region[6:], region[:, 5:] = CODE["temporal"], CODE["frontal"]
    found = RegionMap(region, np.ones(region.shape, np.int8), np.eye(4)).locate((4, 3.5, 4))
    assert found.neighbours == ("frontal", "temporal")
    assert found.border_mm == 1.0


def test_thick_voxels_and_a_turned_grid():
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    flat = layers(spacing=(0.5, 2.0, 4.0), turn=turn)
    place = flat.affine @ (10, 10, 10, 1)
    found = flat.locate(place[:3])
    assert (found.region, found.border_mm) == ("frontal", 4.75)


def test_a_place_in_no_region_has_the_nearest_within_5_mm():
    assert layers(gap=8).locate((5 + 14, 3, 19)).region == "frontal"
    found = layers(gap=8).locate((5 + 16, 3, 19))
    assert (found.region, found.neighbours) == ("thalamus", ("frontal",))  # 3.5 and 4.5 mm away
    assert layers(gap=14).locate((5 + 12, 3, 19)).region is None
    assert layers().locate((5 - 40, 3, 19)).region is None


def test_no_other_region_in_reach():
    assert layers().locate((5 + 58, 3, 19)).border_mm is None


def test_entries_of_the_json():
    assert layers().locate((5 + 18, 3, 19)).entries() == {
        "region": "frontal",
        "category": "lobar",
        "side": "left",
        "border_mm": 1.5,
        "neighbours": ["thalamus"],
    }
