"""The template's regions, and its registration to simulated scans whose anatomy is known."""

import sys
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cmb_bundle.scripts.errors import OptionError
from cmb_bundle.scripts.phantom import TINY
from cmb_bundle.scripts.phantom.acquire import image_grid
from cmb_bundle.scripts.phantom.anatomy import Pose, load_template
from cmb_bundle.scripts.phantom.grid import Grid
from cmb_bundle.scripts.phantom.placement import region_of
from cmb_bundle.scripts.phantom.simulate import simulate
from cmb_bundle.scripts.regions import (
    FindParcellationd,
    RegionMap,
    Regionsd,
    Registration,
    registration,
    template_regions,
    transforms,
)
from cmb_bundle.scripts.regions.registration import _shape_doubts, _shift_doubts, register
from cmb_bundle.scripts.regions.volumes import similarity_of
from cmb_bundle.scripts.transforms import HeadMaskd


@pytest.mark.parametrize(
    ("place", "region"),
    [
        ((40, 35, 20), "frontal"),
        ((-38, -15, 55), "frontal"),  # before the central sulcus, at the hand knob
        ((-42, -32, 52), "parietal"),  # behind it
        ((6, -62, 45), "parietal"),  # precuneus
        ((-58, -20, -12), "temporal"),
        ((28, -15, -20), "temporal"),  # hippocampus
        ((30, 10, -35), "temporal"),  # pole
        ((12, -85, 5), "occipital"),
        ((-36, -82, 5), "occipital"),
        ((40, 5, 0), "insula"),
        ((-26, 2, 1), "basal ganglia"),
        ((12, 13, 8), "basal ganglia"),
        ((-11, -20, 8), "thalamus"),
        ((20, -12, 12), "internal capsule"),
        ((0, 14, 21), "corpus callosum"),
        ((1, -28, -32), "brainstem"),
        ((-30, -65, -40), "cerebellum"),
    ],
)
def test_regions_of_the_template_at_known_places(place, region):
    found = template_regions().locate(place)
    assert found.region == region
    side = "middle" if abs(place[0]) < 2 else "right" if place[0] > 0 else "left"
    assert found.side == side


def test_the_template_agrees_with_the_simulator_on_the_three_groups():
    regions = template_regions()
    voxels = np.argwhere(regions.region)[::997]
    places = nib.affines.apply_affine(regions.affine, voxels)
    mine = np.array([regions.locate(place).category for place in places])
    agree = mine == region_of(places.T)
    assert agree.mean() > 0.94  # what is periventricular is lobar to the simulator
    infratentorial = region_of(places.T) == "infratentorial"
    np.testing.assert_array_equal(mine == "infratentorial", infratentorial)


@pytest.fixture(scope="module", params=["slab", "stripped"])
def scan(request):
    """A part of a head, and a stripped one of thick slices."""
    how = {
        "slab": {"spacing": (1.5, 1.5, 2.0), "shape": (128, 144, 24), "centre_mm": (0.0, 0.0, 8.0)},
        "stripped": {"spacing": (1.5, 1.5, 5.0), "shape": (128, 144, 24), "skull_stripped": True},
    }[request.param]
    spec = TINY.changed(seed=4, microbleeds=0, mimics=False, **how)
    phantom = simulate(spec)
    affine = np.asarray(phantom.affine, float)
    image = np.asarray(phantom.swi, np.float32)
    subject = {"image": MetaTensor(torch.as_tensor(image[None]), affine=torch.as_tensor(affine))}
    return spec, image, affine, HeadMaskd()(subject)["mask"][0].numpy() > 0


def test_the_template_is_brought_to_a_scan(scan):
    spec, image, affine, head = scan
    done = register(image, affine, head)
    assert done.doubts == ()
    pose = Pose(np.random.default_rng([spec.seed, 0]))
    grid = image_grid(spec)
    voxels = np.argwhere(np.ones([n // 6 for n in image.shape], bool)) * 6 + 3
    truth = pose.to_template((np.array(grid.origin) + voxels * np.array(grid.step)).T.astype(np.float32)).T
    regions = template_regions()
    index = np.rint(truth - regions.affine[:3, 3]).astype(int)
    brain = ((index >= 0) & (index < regions.region.shape)).all(1)
    brain[brain] = regions.region[tuple(index[brain].T)] > 0
    expected = [regions.locate(place) for place in truth[brain]]
    found = [done.region_map.locate(place) for place in nib.affines.apply_affine(affine, voxels[brain])]
    assert len(found) > 150
    pairs = list(zip(found, expected, strict=True))
    assert np.mean([f.category == e.category for f, e in pairs]) > 0.92
    assert np.mean([f.region == e.region for f, e in pairs]) > 0.85
    assert np.mean([e.region in (f.region, *f.neighbours) for f, e in pairs]) > 0.93
    sided = [(f, e) for f, e in pairs if e.side != "middle" and f.side != "middle"]
    assert all(f.side == e.side for f, e in sided)


def test_a_template_that_fits_elsewhere_is_doubted():
    regions = template_regions()
    voxels = np.argwhere(regions.region)[::61]
    places = nib.affines.apply_affine(regions.affine, voxels).T.astype(np.float32)
    values = load_template().at("t1", places)
    fits = _shift_doubts(values, places, similarity_of(values, values))
    assert fits == ()
    shifted = load_template().at("t1", places + np.array([[0], [0], [10.0]], np.float32))
    doubts = _shift_doubts(shifted, places, similarity_of(shifted, values))
    assert any("10 mm up or down" in doubt for doubt in doubts)
    noise = np.random.default_rng(0).random(len(values))
    assert "the similarity is 1.0" in _shift_doubts(noise, places, similarity_of(noise, values))[0]


def test_a_template_that_is_squeezed_or_folded_is_doubted():
    grid = Grid((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (10, 10, 10))
    inside = np.ones(grid.shape, bool)
    assert _shape_doubts(grid.points(), grid, inside) == ()
    assert _shape_doubts(grid.points() * 1.5, grid, inside) == ("the head would be 0.30 times as large as most",)
    folded = grid.points()
    folded[0, 6:] = folded[0, 6:][::-1]
    assert _shape_doubts(folded, grid, inside) == ("30 % of the template is folded",)
    assert "does not overlap" in _shape_doubts(grid.points(), grid, ~inside)[0]


def test_a_doubt_is_a_warning(monkeypatch):
    region = RegionMap(np.ones((9, 9, 9), np.uint8), np.ones((9, 9, 9), np.int8), np.eye(4))
    monkeypatch.setattr(transforms, "register", lambda *a: Registration(region, 1.01, ("it is upside down",)))
    swi = MetaTensor(torch.zeros(1, 9, 9, 9), affine=torch.eye(4))
    microbleed = {"ras_mm": [4, 4, 4], "diameter_mm": 3.0}
    d = {"subject": "s", "swi": swi, "head": swi > -1, "notices": "Read.", "result": {"microbleeds": [microbleed]}}
    result = Regionsd(True)(d)["result"]
    assert result["regions"] == {"source": "MNI152 template", "similarity": 1.01, "doubts": ["it is upside down"]}
    assert "looks wrong (it is upside down)" in result["warnings"]
    assert result["notices"] == f"Read. Warning: {result['warnings']}"
    assert result["microbleeds"][0]["region"] == "frontal"


def test_without_elastix_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "itk", ModuleType("itk"))
    with pytest.raises(OptionError, match=r"itk-elastix, .* is not installed. Install it: pip install 'cmb-bundle"):
        FindParcellationd(True)({"subject": "s", "image": "s_swi.nii.gz"})
    assert FindParcellationd(False)({"subject": "s", "image": "s_swi.nii.gz"})["subject"] == "s"


def test_regions_is_a_truth_value():
    with pytest.raises(OptionError, match="regions is 'true'; expected a truth value"):
        Regionsd("true")


def test_elastix_that_stops_leaves_the_rough_place_and_a_doubt(monkeypatch):
    image, affine, brain = template_as_a_scan(monkeypatch)
    done = register(image, affine, brain)
    assert done.doubts[0].endswith("there is the rough place only: Too many samples map outside moving image buffer")
    expected = template_regions().locate((-40, 40, 20))
    found = done.region_map.locate(0.93 * np.array([-40, 40, 20]))
    assert (found.region, found.side) == (expected.region, expected.side) == ("frontal", "left")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_rough_places_the_one_that_fits_better_is_taken(monkeypatch, order):
    image, affine, brain = template_as_a_scan(monkeypatch)
    right = np.diag([1 / 0.93, 1 / 0.93, 1 / 0.93, 1.0])
    low = right.copy()
    low[2, 3] = -40
    monkeypatch.setattr(registration, "_search", lambda *_: [(right, low)[n] for n in order])
    assert register(image, affine, brain).region_map.locate(0.93 * np.array([-40, 40, 20])).region == "frontal"


def test_another_height_is_tried_where_it_fits_nearly_as_well(monkeypatch):
    image, affine, brain = template_as_a_scan(monkeypatch)
    assert len(registration._search(image.astype(np.float32), affine, brain)) == 1
    # nothing to tell the heights by
    values = np.random.default_rng(0).random(image.shape, np.float32)
    first, second = registration._search(values, affine, brain)
    assert abs(first[2, 3] - second[2, 3]) > 15


def template_as_a_scan(monkeypatch):
    """The template as a scan of 7 % smaller mm; elastix stops."""

    def stop(*_):
        raise RuntimeError("itk::ERROR\nToo many samples map outside moving image buffer")

    monkeypatch.setattr(registration, "_run_elastix", stop)
    monkeypatch.setattr(registration, "load_elastix", lambda: None)
    template = load_template()
    at = np.stack(np.meshgrid(*(np.arange(a, b, 4.0) for a, b in ((-80, 80), (-110, 80), (-30, 60))), indexing="ij"))
    brain = template.at("brain_distance", at.astype(np.float32)) < 0
    image = np.where(brain, template.at("t1", at.astype(np.float32)), 0)
    return image, nib.affines.from_matvec(np.diag([3.72] * 3), 0.93 * np.array([-80, -110, -30])), brain
