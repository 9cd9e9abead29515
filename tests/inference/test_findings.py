"""From candidates to microbleeds on the input's grid: places, sizes, label map, reasons; and the whole chain."""

import itertools
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Orientation
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_bundle.scripts.data.labels import read_points
from cmb_bundle.scripts.inference.findings import Findingsd, KeepInputGridd, background, to_file_grid
from cmb_bundle.scripts.inference.inferers import TwoStageInferer
from cmb_bundle.scripts.inference.writers import write_findings

BUNDLE = Path(__file__).parents[2] / "cmb_bundle"
AXIS_CODES = [
    "".join(pairs[axis][sign] for axis, sign in zip(order, signs, strict=True))
    for pairs in [("LR", "PA", "IS")]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((0, 1), repeat=3)
]
SPACING = (0.5, 0.5, 2.0)


def turned(code, volume, affine):
    """A volume of a grid in RAS order, and its affine, with the order of axes of ``code``."""
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    return apply_orientation(volume, change), affine @ inv_ornt_aff(change, volume.shape)


def ball(shape, spacing, centre, diameter, blur_mm=0.5):
    """1 inside the ball, 0 outside, with a smooth edge of that width which is one half at the diameter."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm((grid - np.array(centre)) * spacing, axis=-1)
    return 1 / (1 + np.exp((distance - diameter / 2) / (blur_mm / 4)))


def rows(*candidates):
    """Table of candidates (i, j, k, probability[, detector_score]) on the model's grid."""
    filled = [[*c[:3], 4.0, c[4] if len(c) > 4 else 0.5, 2.0, c[3] / 2, c[3]] for c in candidates]
    return torch.tensor(filled, dtype=torch.float32).reshape(-1, 8)


def subject(values, table, spacing=SPACING, **more):
    """Data of a subject whose file, SWI and model's grid are one and the same RAS grid."""
    affine = np.diag([*spacing, 1.0])
    swi = MetaTensor(torch.as_tensor(values, dtype=torch.float32)[None], affine=torch.as_tensor(affine))
    swi.meta["original_affine"], swi.meta["spatial_shape"] = affine, np.array(values.shape)
    return {"swi": swi, "image": MetaTensor(torch.zeros(2, 2, 2, 2), affine=torch.as_tensor(affine)), "pred": table}


def find(values, table, spacing=SPACING, **arguments):
    d = Findingsd(**arguments)(subject(values, table, spacing))
    return d["result"], d["pred"][0].numpy()


def diameter_of(labels, number, spacing=SPACING):
    return (6 / np.pi * (labels == number).sum() * np.prod(spacing)) ** (1 / 3)


# ------------------------------------------------------------------------------------------------ outside


@pytest.mark.parametrize("i,reason", [(20.0, "accepted"), (12.4, "accepted"), (4.0, "outside of the head")])
def test_what_lies_outside_of_the_head_is_no_finding(i, reason):
    """The head begins at i = 16 and voxels are 0.8 mm wide: 3 mm beyond it reach to i = 12."""
    values = np.full((40, 40, 12), 100, dtype=np.float32)
    d = subject(values, rows((i, 20.0, 6.0, 0.9), (30.0, 20.0, 6.0, 0.8)), (0.8, 0.8, 2.0))
    d["head"] = MetaTensor(torch.zeros(d["swi"].shape, dtype=torch.bool), affine=d["swi"].affine)
    d["head"][:, 16:] = True
    result = Findingsd()(d)["result"]
    assert [c["reason"] for c in result["candidates"]] == [reason, "accepted"]
    assert len(result["microbleeds"]) == (2 if reason == "accepted" else 1)


def test_the_mask_of_the_head_is_kept_on_the_grid_of_the_swi():
    image = MetaTensor(torch.ones(1, 4, 4, 4))
    mask = MetaTensor((torch.arange(64) % 2).reshape(1, 4, 4, 4).float())
    kept = KeepInputGridd("image")({"image": image, "mask": mask})
    assert kept["head"].dtype == torch.bool
    assert torch.equal(kept["head"].as_tensor(), mask.as_tensor() > 0)
    assert "head" not in KeepInputGridd("image")({"image": image})


# ------------------------------------------------------------------------------------------------ places


def place(code, rotation, spacing, model_spacing, voxel_fraction):
    """Findings of one candidate at a known RAS place, for a file of that order of axes, and that place."""
    shape = (14, 12, 10)
    ras_grid = from_matvec(rotation @ np.diag(spacing), [-31.0, 7.5, 12.0])
    values, file_affine = turned(code, np.full(shape, 100, dtype=np.float32), ras_grid)
    volume = MetaTensor(torch.as_tensor(values.copy())[None], affine=torch.as_tensor(file_affine))
    volume.meta["original_affine"], volume.meta["spatial_shape"] = file_affine, np.array(values.shape)
    swi = KeepInputGridd("image")({"image": Orientation("RAS")(volume)})["swi"]
    voxel = np.array(voxel_fraction) * (np.array(values.shape) - 1)
    ras = apply_affine(file_affine, voxel)
    swi.as_tensor()[(0, *np.round(apply_affine(np.linalg.inv(swi.affine.numpy()), ras)).astype(int))] = 10
    model_affine = from_matvec(rotation @ np.diag(model_spacing), [-40.0, 3.0, 5.0])
    on_model = apply_affine(np.linalg.inv(model_affine), ras)
    image = MetaTensor(torch.zeros(2, 2, 2, 2), affine=torch.as_tensor(model_affine))
    d = Findingsd()({"swi": swi, "image": image, "pred": rows((*on_model, 0.9))})
    return d, voxel, ras, file_affine, values.shape


def check_place(d, voxel, ras, file_affine, shape):
    (microbleed,) = d["result"]["microbleeds"]
    np.testing.assert_allclose(microbleed["ras_mm"], ras, atol=2e-3)
    np.testing.assert_allclose(microbleed["voxel"], voxel, atol=5e-3)
    labels = d["pred"]
    assert labels.dtype == torch.int16
    assert labels.shape == (1, *shape)
    np.testing.assert_allclose(labels.affine, file_affine)
    assert np.argwhere(labels[0].numpy() == 1).tolist() == [np.round(voxel).astype(int).tolist()]
    assert np.unique(labels).tolist() == [0, 1]


@pytest.mark.parametrize("code", AXIS_CODES)
def test_place_for_every_order_of_axes(code):
    assert len(set(AXIS_CODES)) == 48
    check_place(*place(code, np.eye(3), (0.5, 0.8, 2.0), (0.8, 0.8, 2.0), (0.31, 0.62, 0.45)))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(AXIS_CODES),
    st.tuples(*[st.floats(-np.pi, np.pi)] * 3).map(lambda v: Rotation.from_rotvec(v).as_matrix()),
    st.tuples(*[st.floats(0.4, 3.0)] * 3),
    st.tuples(*[st.floats(0.5, 2.0)] * 3),
    st.tuples(*[st.sampled_from([0.0, 0.21, 0.47, 0.64, 1.0])] * 3),
)
def test_place_for_every_rotation_and_voxel_size(code, rotation, spacing, model_spacing, fraction):
    d, voxel, ras, file_affine, shape = place(code, rotation, spacing, model_spacing, fraction)
    check_place(d, voxel, ras, file_affine, shape)


@pytest.mark.parametrize("code", AXIS_CODES)
@pytest.mark.parametrize("axis", [(0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_label_map_returns_to_a_file_turned_by_45_degrees(code, axis):
    # where two axes are equally near to two directions, the names of the axes are a matter of rounding
    rotation = Rotation.from_rotvec(np.pi / 4 * np.array(axis)).as_matrix()
    values, file_affine = turned(code, np.arange(60).reshape(3, 4, 5), from_matvec(rotation, [1, 2, 3]))
    in_ras = Orientation("RAS")(MetaTensor(torch.as_tensor(values.copy())[None], affine=torch.as_tensor(file_affine)))
    back = to_file_grid(in_ras[0].numpy(), in_ras.affine.numpy(), file_affine, values.shape)
    np.testing.assert_array_equal(back[0].numpy(), values)
    np.testing.assert_array_equal(back.affine.numpy(), file_affine)


def test_label_map_of_another_grid_is_refused():
    with pytest.raises(RuntimeError, match=r"shape \(3, 4, 5\) on the input's grid; expected \(3, 4, 6\)"):
        to_file_grid(np.zeros((3, 4, 5)), np.eye(4), np.eye(4), (3, 4, 6))


def test_keeping_the_input_grid_takes_a_copy():
    image = MetaTensor(torch.ones(1, 2, 2, 2), affine=torch.eye(4), meta={"original_affine": np.eye(4)})
    d = KeepInputGridd("image")({"image": image})
    d["image"] *= 0
    assert d["swi"].sum() == 8
    np.testing.assert_array_equal(d["swi"].meta["original_affine"], np.eye(4))


# ----------------------------------------------------------------------------------- which are accepted, and why


def test_order_reasons_and_scores():
    values = np.full((60, 60, 20), 100.0)
    nan = float("nan")
    table = rows(
        (10, 10, 5, 0.6, 0.9),
        (30, 30, 5, 0.95, 0.2),
        (50, 50, 5, nan, 0.8),
        (10, 50, 5, 0.4999, 0.7),
        (30, 34, 5, 0.9, 0.99),  # 2 mm from the most probable one
        (50, 10, 5, 0.5, 0.1),
        (nan,) * 5,
    )
    table[-1] = nan
    result, labels = find(values, table)
    assert [c["reason"] for c in result["candidates"]] == [
        "accepted",
        "within 3 mm of microbleed 1",
        "accepted",
        "accepted",
        "probability below 0.5",
        "not classified",
    ]
    assert [c["accepted"] for c in result["candidates"]] == [True, False, True, True, False, False]
    assert [c["probability"] for c in result["candidates"]] == [0.95, 0.9, 0.6, 0.5, 0.4999, None]
    by_classifier = [c["classifier_probability"] for c in result["candidates"]]
    assert by_classifier[:5] == pytest.approx([0.475, 0.45, 0.3, 0.25, 0.24995], abs=1e-4)
    assert by_classifier[5] is None
    assert [m["voxel"] for m in result["microbleeds"]] == [[30, 30, 5], [10, 10, 5], [50, 10, 5]]
    assert [m["detector_score"] for m in result["microbleeds"]] == [0.2, 0.9, 0.1]
    assert [m["ras_mm"] for m in result["microbleeds"]] == [[15, 15, 10], [5, 5, 10], [25, 5, 10]]
    assert [labels[30, 30, 5], labels[10, 10, 5], labels[50, 10, 5]] == [1, 2, 3]
    # a candidate that is dropped keeps the detector's size, and has no voxels
    assert result["candidates"][1]["diameter_mm"] == 4.0
    assert labels[10, 50, 5] == labels[50, 50, 5] == 0
    json.dumps(result, allow_nan=False)


def test_equal_probabilities_are_ordered_by_the_detector():
    result, _ = find(np.full((60, 60, 20), 100.0), rows((10, 10, 5, 0.9, 0.3), (40, 40, 5, 0.9, 0.8)))
    assert [m["detector_score"] for m in result["microbleeds"]] == [0.8, 0.3]


@pytest.mark.parametrize(("apart", "number"), [(5, 1), (6, 2), (7, 2)])
def test_duplicates_are_closer_than_duplicate_mm(apart, number):
    values = np.full((60, 60, 20), 100.0)
    result, _ = find(values, rows((20, 30, 5, 0.9), (20 + apart, 30, 5, 0.8)), duplicate_mm=3.0)
    assert len(result["microbleeds"]) == number


def test_a_binary_label_map_comes_with_the_numbered_one():
    values, table = np.full((60, 60, 20), 100.0), rows((10, 10, 5, 0.9), (40, 40, 5, 0.8))
    d = Findingsd(number=False)(subject(values, table))
    assert np.unique(d["pred"]).tolist() == [0, 1] and np.unique(d["numbered"]).tolist() == [0, 1, 2]
    assert torch.equal(torch.as_tensor(d["pred"] > 0), torch.as_tensor(d["numbered"] > 0))
    assert "numbered" not in Findingsd()(subject(values, table))


def test_duplicate_of_a_dropped_candidate_is_none():
    # 2 mm from the second, which is itself a duplicate, and 4 mm from the first
    table = rows((20, 30, 5, 0.9), (24, 30, 5, 0.8), (28, 30, 5, 0.7))
    result, _ = find(np.full((60, 60, 20), 100.0), table)
    assert [c["accepted"] for c in result["candidates"]] == [True, False, True]


@pytest.mark.parametrize("table", [torch.zeros((0, 8)), torch.full((2, 8), torch.nan)])
def test_no_candidates(table):
    result, labels = find(np.full((20, 20, 10), 100.0), table, probability_threshold=0.3)
    assert result == {"probability_threshold": 0.3, "microbleeds": [], "candidates": []}
    assert labels.shape == (20, 20, 10)
    assert not labels.any()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_that_is_no_probability(threshold):
    with pytest.raises(ValueError, match=r"probability_threshold is .*; expected a number from 0 to 1"):
        Findingsd(probability_threshold=threshold)


# ----------------------------------------------------------------------------------------------------- growing


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 2.0), (0.5, 0.5, 0.5), (0.8, 0.8, 1.6)])
@pytest.mark.parametrize("diameter", [3.1, 5.1, 7.1])
@pytest.mark.parametrize("off_mm", [0.0, 1.0])
def test_ball_has_its_diameter(spacing, diameter, off_mm):
    shape = (64, 64, 24)
    centre = np.array([31.0, 33.0, 12.0])
    inside = ball(shape, spacing, centre, diameter)
    result, labels = find(400 - 300 * inside, rows((31 + off_mm / spacing[0], 33, 12, 0.9)), spacing)
    assert labels[31, 33, 12] == 1
    np.testing.assert_allclose(ndimage.center_of_mass(labels == 1), centre, atol=0.26)
    assert diameter_of(labels, 1, spacing) == pytest.approx(diameter, abs=max(spacing) / 2)
    assert result["microbleeds"][0]["diameter_mm"] == pytest.approx(diameter_of(labels, 1, spacing), abs=0.006)
    np.testing.assert_array_equal(labels == 1, inside > 0.5)


def test_candidate_beside_a_ball_takes_its_voxels_and_keeps_its_place():
    inside = ball((64, 64, 24), SPACING, (31, 33, 12), 4.1)
    result, labels = find(400 - 300 * inside, rows((36, 33, 12.2, 0.9)))
    np.testing.assert_array_equal(labels == 1, inside > 0.5)
    assert result["microbleeds"][0]["voxel"] == [36, 33, 12.2]


def test_growth_into_a_long_vein_ends_at_reach():
    values = 400 - 300 * ball((80, 80, 24), SPACING, (40, 40, 12), 4.1)
    values[:, 39:42, 12] = 100  # 1.5 mm wide, 40 mm long
    values[40, 40, 12] = 80
    _, labels = find(values, rows((40, 40, 12, 0.9)), reach_mm=5.0)
    along = np.argwhere(labels == 1)[:, 0]
    assert (along.min(), along.max()) == (30, 50)
    _, labels = find(values, rows((40, 40, 12, 0.9)), reach_mm=3.0)
    along = np.argwhere(labels == 1)[:, 0]
    assert (along.min(), along.max()) == (34, 46)


def test_what_is_dark_but_not_joined_is_left_out():
    inside = ball((64, 64, 24), SPACING, (30, 30, 12), 3.1)
    beside = ball((64, 64, 24), SPACING, (37, 30, 12), 2.1)
    _, labels = find(400 - 300 * np.maximum(inside, beside), rows((30, 30, 12, 0.9)))
    np.testing.assert_array_equal(labels == 1, inside > 0.5)


def test_touching_microbleeds_keep_their_own_voxels():
    first, second = (ball((64, 64, 24), SPACING, (i, 30, 12), 4.1) for i in (26, 34))
    for table in (rows((26, 30, 12, 0.9), (34, 30, 12, 0.8)), rows((26, 30, 12, 0.8), (34, 30, 12, 0.9))):
        result, labels = find(400 - 300 * np.maximum(first, second), table)
        for number, microbleed in enumerate(result["microbleeds"], 1):
            centre = np.array(microbleed["voxel"])
            assert labels[tuple(centre.astype(int))] == number
            np.testing.assert_allclose(ndimage.center_of_mass(labels == number), centre, atol=0.6)
            assert microbleed["diameter_mm"] == pytest.approx(4.1, abs=0.5)
        np.testing.assert_array_equal(labels > 0, np.maximum(first, second) > 0.5)


@pytest.mark.parametrize("number", [0.0, 100.0])
def test_flat_image_gives_one_voxel(number):
    result, labels = find(np.full((40, 40, 20), number), rows((20.2, 19.6, 10.4, 0.9)))
    assert np.argwhere(labels).tolist() == [[20, 20, 10]]
    assert result["microbleeds"][0]["diameter_mm"] == pytest.approx((6 / np.pi * 0.5) ** (1 / 3), abs=0.006)


@pytest.mark.parametrize("away", [0.0, 0.001, -0.001])
def test_place_that_differs_by_a_hair_grows_alike(away):
    # a dark voxel 2 mm from the place, just within the reach of the search for the darkest one
    values = np.full((60, 60, 20), 100.0)
    values[16, 30, 5], values[20, 30, 5] = 10, 40
    _, labels = find(values, rows((20 + away, 30, 5, 0.9)))
    np.testing.assert_array_equal(np.argwhere(labels), [(16, 30, 5)])


def test_bright_spot_stays_small():
    values = 100 + 300 * ball((40, 40, 20), SPACING, (20, 20, 10), 6.1)
    result, labels = find(values, rows((20, 20, 10, 0.9)))
    assert (labels == 1).sum() == 1
    assert result["microbleeds"][0]["diameter_mm"] < 1


@pytest.mark.parametrize("corner", list(itertools.product((0, 1), repeat=3)))
def test_ball_at_the_corner_of_the_volume(corner):
    shape = (40, 40, 16)
    centre = np.array(corner) * (np.array(shape) - 1)
    inside = ball(shape, SPACING, centre, 6.1)
    _, labels = find(400 - 300 * inside, rows((*centre, 0.9)))
    np.testing.assert_array_equal(labels == 1, inside > 0.5)


@pytest.mark.parametrize("outside", [(-6, 20, 8), (20, 45, 8), (20, 20, -3), (-9, 44, 19)])
def test_candidate_outside_the_volume_takes_the_nearest_voxel(outside):
    shape = (40, 40, 16)
    _, labels = find(np.full(shape, 100.0), rows((*outside, 0.9)))
    assert np.argwhere(labels).tolist() == [np.clip(outside, 0, np.array(shape) - 1).tolist()]


def test_background_of_a_stripped_skull_is_not_taken():
    values = np.full((60, 60, 20), 400.0)
    values[:30] = 0
    inside = ball(values.shape, SPACING, (33, 30, 10), 3.1)
    values -= np.where(values > 0, 300 * inside, 0)
    _, labels = find(values, rows((32, 30, 10, 0.9)))
    np.testing.assert_array_equal(labels == 1, (inside > 0.5) & (values > 0))


def test_void_of_zeros_inside_the_tissue_is_taken():
    inside = ball((60, 60, 20), SPACING, (30, 30, 10), 5.1) > 0.5
    _, labels = find(np.where(inside, 0.0, 400.0), rows((30, 30, 10, 0.9)))
    np.testing.assert_array_equal(labels == 1, inside)


def test_background_is_what_is_joined_to_a_face():
    values = np.ones((5, 5, 5))
    values[2, 2, 2] = values[0, 1, 1] = values[1, 1, 1] = values[3, 3, 4] = 0
    values[3, 1, 1] = -1
    assert np.argwhere(background(values)).tolist() == [[0, 1, 1], [1, 1, 1], [3, 3, 4]]


# --------------------------------------------------------------------------------------------- the whole chain


class DarkestSpot(torch.nn.Module):
    """A detector without weights: the darkest spot of each slice, away from the edge of the head."""

    def forward(self, images):
        return [self.one(image[0]) for image in images]

    def one(self, swi):
        head = ndimage.binary_erosion(ndimage.binary_fill_holes(swi.numpy() > 0.35), iterations=3)
        dark = np.where(head, np.clip(0.35 - swi.numpy(), 0, None), 0)
        if dark.max() == 0:
            return {"boxes": torch.zeros((0, 4)), "scores": torch.zeros(0), "labels": torch.zeros(0)}
        parts, _ = ndimage.label(dark > 0)
        i, j = ndimage.center_of_mass(dark, parts, parts.flat[dark.argmax()])
        box = torch.tensor([[i - 2.5, j - 2.5, i + 3.5, j + 3.5]], dtype=torch.float32)
        return {"boxes": box, "scores": torch.tensor([dark.max()], dtype=torch.float32), "labels": torch.zeros(1)}


class DarkCentre(torch.nn.Module):
    """A classifier without weights: the darker the middle of the SWI patch, the more probable."""

    def forward(self, patches):
        dark = 0.35 - patches[:, 0, 8, 8, 8]
        return torch.stack([torch.zeros_like(dark), 40 * dark], dim=1)


@pytest.fixture(scope="module")
def chain():
    """Pre- and postprocessing of the bundle's configuration, and its inferer."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser["bundle_root"] = str(BUNDLE)
    path = list(sys.path)
    sys.path.insert(0, str(BUNDLE))
    try:
        steps = [parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing")]
        spacing = parser.get_parsed_content("spacing")
    finally:
        sys.path[:] = path
    return (*steps, TwoStageInferer(spacing=spacing))


def write_scan(path, code, rotation, spacing, size_mm, offset_mm):
    """An ellipsoid head with one dark lesion; returns the lesion's place in RAS mm and the file's shape and affine."""
    shape = np.ceil(np.array(size_mm) / spacing).astype(int)
    affine = from_matvec(rotation @ np.diag(spacing), [-21.0, 13.0, 40.0])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    from_middle = (grid - (shape - 1) / 2) * spacing
    head = np.linalg.norm(from_middle / (np.array(size_mm) * 0.46), axis=-1) <= 1
    depth = np.exp(-(np.linalg.norm(from_middle - offset_mm, axis=-1) ** 2) / (2 * 2.2**2))
    values = np.where(head, 300 * (1 - 0.95 * depth), 4)
    ras = apply_affine(affine, (shape - 1) / 2 + np.array(offset_mm) / spacing)
    values, affine = turned(code, values.astype(np.float32), affine)
    nib.save(nib.Nifti1Image(values, affine), path)
    return ras, values.shape, affine


def check_round_trip(folder, chain, code, rotation, spacing, size_mm, offset_mm):
    preprocessing, postprocessing, inferer = chain
    scan = folder / "swi.nii"
    ras, shape, affine = write_scan(scan, code, rotation, spacing, size_mm, offset_mm)
    network = torch.nn.Module()
    network.detector, network.classifier = DarkestSpot(), DarkCentre()
    d = preprocessing({"subject": "s", "image": str(scan)})
    d["pred"] = inferer(d["image"][None], network)[0]
    d = postprocessing(d)
    written = write_findings(folder / "out", "s", d["result"], d["pred"])

    voxel = apply_affine(np.linalg.inv(affine), ras)
    listed = json.loads((written / "s_cmb.json").read_text())["microbleeds"]
    assert len(listed) == 1
    image = nib.load(written / "s_cmb.nii.gz")
    assert image.shape == shape
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    labels = np.asarray(image.dataobj)
    points = read_points(written / "s_cmb.csv", shape, affine)
    for found in (
        listed[0]["voxel"],
        apply_affine(np.linalg.inv(affine), listed[0]["ras_mm"]),
        ndimage.center_of_mass(labels == 1),
    ):
        # between slices of 2 mm a place is known to half a slice
        assert (np.abs(found - voxel) <= np.maximum(1.0, 1.0 / voxel_sizes(affine))).all()
    # slice, x and y of the table are whole pixels, half a voxel from the place that they stand for
    np.testing.assert_allclose(points.voxel[0], listed[0]["voxel"], atol=0.5 + 1e-3)
    assert labels[tuple(np.round(voxel).astype(int))] == 1
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize("code", AXIS_CODES)
def test_planted_lesion_is_found_for_every_order_of_axes(tmp_path, chain, code):
    check_round_trip(tmp_path, chain, code, np.eye(3), (0.9, 1.1, 2.0), (48, 56, 40), (6.3, -8.2, 3.6))


@settings(max_examples=20, deadline=None)
@example("LPI", Rotation.from_rotvec([-2.0378, 1.3585, 0.6793]).as_matrix(), (0.7, 0.7, 2.5), (1.0625, 0.0, 2.25))
@given(
    st.sampled_from(AXIS_CODES),
    st.tuples(*[st.floats(-np.pi, np.pi)] * 3).map(lambda v: Rotation.from_rotvec(v).as_matrix()),
    st.tuples(*[st.sampled_from([0.7, 0.9, 1.2])] * 2, st.sampled_from([1.0, 1.6, 2.5])),
    st.tuples(*[st.floats(-7, 7)] * 3),
)
def test_planted_lesion_is_found_for_every_rotation_and_voxel_size(
    tmp_path_factory, chain, code, rotation, spacing, offset_mm
):
    check_round_trip(tmp_path_factory.mktemp("scan"), chain, code, rotation, spacing, (48, 52, 44), offset_mm)


def test_orientations_are_what_they_are_called(tmp_path):
    for code in AXIS_CODES:
        write_scan(tmp_path / "swi.nii", code, np.eye(3), (1.0, 1.2, 2.0), (20, 24, 20), (0, 0, 0))
        assert nib.aff2axcodes(nib.load(tmp_path / "swi.nii").affine) == tuple(code)
    assert io_orientation(np.eye(4))[:, 0].tolist() == [0, 1, 2]
