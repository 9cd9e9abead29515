"""Slices with boxes, patches and their augmentation, against numpy and numbers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.transforms.dictionary import RandFlipBoxd
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from cmb_bundle.scripts.transforms.augmentation import RandContrastd, RandDropPhased
from cmb_bundle.scripts.transforms.patches import cut_patch
from cmb_bundle.scripts.transforms.slices import RandSlicesd, average_slices, stack_slices

TRAIN = Path(__file__).parents[2] / "cmb_bundle" / "configs" / "train.json"
SPACING = np.array([0.8, 0.5, 2.0])
# Slices along z, first axis to the left; the origin is not 0.
AFFINE = np.diag([-0.8, 0.5, 2.0, 1.0])
AFFINE[:3, 3] = (30, -12, 7)


# --- averaging ---


@pytest.mark.parametrize("number,slices", [(1, 4), (3, 5), (3, 1), (5, 6), (5, 2)])
def test_slices_are_averaged_over_those_that_exist(number, slices):
    volume = np.random.default_rng(0).uniform(size=(2, 3, 4, slices)).astype(np.float32)
    reach = number // 2
    expected = np.stack([volume[..., max(0, k - reach) : k + reach + 1].mean(axis=-1) for k in range(slices)], axis=-1)
    np.testing.assert_allclose(average_slices(torch.as_tensor(volume), number).numpy(), expected, rtol=1e-6)


def test_average_by_hand():
    volume = torch.tensor([0.0, 3.0, 6.0, 30.0]).reshape(1, 1, 1, 4)
    assert average_slices(volume).flatten().tolist() == pytest.approx([1.5, 3.0, 13.0, 18.0])


@pytest.mark.parametrize("number", [0, 2, -1])
def test_slices_cannot_be_averaged_around_none(number):
    with pytest.raises(ValueError, match=f"{number} slices cannot be averaged around one; expected an odd number"):
        average_slices(torch.zeros(1, 2, 2, 3), number)


# --- patches ---


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.floats(-25, 30)] * 3), st.sampled_from([1, 4, 7, 16]))
def test_patches_are_those_of_a_padded_volume(voxel, size):
    volume = np.random.default_rng(0).uniform(0.1, 1, (2, 6, 5, 9)).astype(np.float32)
    padded = np.pad(volume, [(0, 0), *[(60, 60)] * 3])
    start = [60 + int(np.floor(v + 0.5)) - size // 2 for v in voxel]
    expected = padded[(slice(None), *(slice(s, s + size) for s in start))]
    patch = cut_patch(torch.as_tensor(volume), voxel, size)
    np.testing.assert_array_equal(patch.numpy(), expected)


def test_the_nearest_voxel_is_in_the_middle_of_a_patch():
    volume = torch.arange(20.0**3).reshape(1, 20, 20, 20)
    assert float(cut_patch(volume, (9.6, 10.49, 8.5), 16)[0, 8, 8, 8]) == float(volume[0, 10, 10, 9])
    assert float(cut_patch(volume, (9.6, 10.49, 8.5), 5)[0, 2, 2, 2]) == float(volume[0, 10, 10, 9])


@settings(max_examples=80, deadline=None)
@given(st.tuples(*[st.floats(-30, 30)] * 3), st.tuples(*[st.integers(1, 25)] * 3))
def test_a_patch_with_three_sizes_is_that_of_the_padded_volume(voxel, sizes):
    volume = np.random.default_rng(0).uniform(0.1, 1, (2, 6, 5, 9)).astype(np.float32)
    padded = np.pad(volume, [(0, 0), *[(60, 60)] * 3])
    starts = [60 + int(np.floor(v + 0.5)) - size // 2 for v, size in zip(voxel, sizes, strict=True)]
    expected = padded[(slice(None), *(slice(s, s + size) for s, size in zip(starts, sizes, strict=True)))]
    patch = cut_patch(torch.as_tensor(volume), voxel, sizes)
    assert patch.shape == (2, *sizes)
    np.testing.assert_array_equal(patch.numpy(), expected)


# --- slices side by side ---


def test_neighbours_stand_beside_each_slice_by_hand():
    slices = torch.tensor([[0.0, 10], [1, 11], [2, 12]]).view(3, 2, 1, 1)
    stacked = stack_slices(slices, 3)
    assert stacked.shape == (3, 6, 1, 1)
    # before, itself and after, of the first channel and then of the second; at the ends the last slice stands twice
    assert stacked[0, :, 0, 0].tolist() == [0, 0, 1, 10, 10, 11]
    assert stacked[1, :, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert stacked[2, :, 0, 0].tolist() == [1, 2, 2, 11, 12, 12]
    assert torch.equal(stack_slices(slices, 3, [2, 0]), stacked[[2, 0]])
    assert torch.equal(stack_slices(slices, 1), slices)
    wide = torch.rand(4, 2, 3, 5)
    assert stack_slices(wide, 3).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("number", [0, 2, -1])
def test_neighbours_are_as_many_on_either_side(number):
    with pytest.raises(ValueError, match=rf"context is {number}; expected an odd number of slices"):
        stack_slices(torch.zeros(4, 2, 3, 3), number)


# --- slices with boxes ---


def subject(voxels, diameters=None, shape=(40, 50, 8), fill=0.0):
    """A volume with a spike of 1 (SWI) and 0.25 (phase) at the nearest voxel of each lesion."""
    voxels = np.asarray(voxels, dtype=float).reshape(-1, 3)
    volume = torch.full((2, *shape), fill)
    for i, j, k in np.floor(voxels + 0.5).astype(int):
        volume[:, i, j, k] = torch.tensor([1.0, 0.25])
    ras = voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    diameters = np.full(len(voxels), np.nan) if diameters is None else np.asarray(diameters, dtype=float)
    return {
        "image": MetaTensor(volume, affine=torch.as_tensor(AFFINE)),
        "lesions_ras": torch.as_tensor(ras),
        "lesions_diameter": torch.as_tensor(diameters),
    }


def draw(d, seed=0, **changes):
    sampler = RandSlicesd(**{"number": 20, "size": (24, 32), **changes})
    sampler.set_random_state(seed)
    return sampler(d)


def test_boxes_by_hand():
    # The size of the slice, so that the cut is the slice: pixel p covers [p, p + 1), its middle is p + 0.5.
    d = subject([[20, 30, 4]], [np.nan])
    for item in draw(d, size=(40, 50), lesion_fraction=1.0, reach_mm=1.0, box_mm=6.0):
        # 6 mm are 7.5 pixels of 0.8 mm and 12 of 0.5 mm.
        assert item["boxes"].tolist() == [[20.5 - 3.75, 30.5 - 6, 20.5 + 3.75, 30.5 + 6]]
        assert item["boxes"].dtype == torch.float32
        assert item["labels"].tolist() == [0]
        assert item["labels"].dtype == torch.int64
        assert set(item) == {"image", "boxes", "labels"}
    # A known diameter of 8 mm makes 12 mm, one of 2 mm the least box; the box ends where the cut ends.
    large = draw(subject([[20, 30, 4]], [8.0]), size=(40, 50), lesion_fraction=1.0)[0]["boxes"]
    assert large.tolist() == [[20.5 - 7.5, 30.5 - 12, 20.5 + 7.5, 30.5 + 12]]
    small = draw(subject([[2, 30, 4]], [2.0]), size=(40, 50), lesion_fraction=1.0)[0]["boxes"]
    assert small.tolist() == [[0, 24.5, 6.25, 36.5]]


@pytest.mark.parametrize(
    "reach_mm,diameter,marked", [(2.0, 1.0, {3, 4, 5}), (0.5, 8.5, {2, 3, 4, 5, 6}), (0.5, 1, {4})]
)
def test_a_lesion_is_marked_as_far_as_it_reaches(reach_mm, diameter, marked):
    d = subject([[20, 30, 4]], [diameter], shape=(40, 50, 9))
    volume = d["image"].as_tensor()
    volume[0, 0, 0] = torch.arange(9.0)  # the number of the slice, in its corner
    options = {"average": 1, "size": (40, 50), "reach_mm": reach_mm, "number": 60}
    through = draw(d, lesion_fraction=1.0, **options)
    assert {int(item["image"][0, 0, 0]) for item in through} == marked
    assert all(len(item["boxes"]) == 1 for item in through)
    for item in draw(d, lesion_fraction=0.0, **options):
        assert len(item["boxes"]) == (int(item["image"][0, 0, 0]) in marked)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(0, 39), st.floats(0, 49), st.floats(-0.4, 7.4)),
    st.floats(0.5, 10),
    st.sampled_from([(24, 32), (60, 70), (24, 70)]),
    st.floats(0.1, 3),
    st.integers(0, 1000),
)
def test_a_slice_through_a_lesion_has_its_box_whole(voxel, diameter, size, reach_mm, seed):
    d = subject([np.clip(voxel, 0, (39, 49, 7))], [diameter])
    d["lesions_ras"] = torch.as_tensor(np.array([voxel]) @ AFFINE[:3, :3].T + AFFINE[:3, 3])
    edge = max(6.0, 1.5 * diameter) / SPACING[:2]
    # The box is cut only by the end of the slice itself, never by where the cut was placed.
    centre = np.array(voxel[:2]) + 0.5
    whole = np.minimum(centre + edge / 2, (40, 50)) - np.maximum(centre - edge / 2, 0)
    for item in draw(d, seed, number=30, size=size, lesion_fraction=1.0, reach_mm=reach_mm):
        assert item["image"].shape == (2, *size)
        assert item["boxes"].shape == (1, 4)
        low, high = item["boxes"][0].numpy().reshape(2, 2)
        assert (high - low >= whole - 1e-3).all()
        assert (low >= 0).all()
        assert (high <= np.array(size)).all()


@pytest.mark.parametrize("size", [(24, 32), (60, 70), (24, 70)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_dot_is_at_the_centre_of_its_box_and_averaged(size, seed):
    items = draw(subject([[3, 45, 4], [20, 11, 4]]), seed, size=size, lesion_fraction=1.0, reach_mm=2.0)
    seen = set()
    for item in items:
        swi, phase = item["image"].numpy()
        peaks = np.argwhere(swi > 0)
        seen.add(len(peaks))
        found = set()
        for low_i, low_j, high_i, high_j in item["boxes"].tolist():
            # An edge at the border of the cut was clipped, so take the centre from the other.
            middle_i = high_i - 3.75 if low_i == 0 else low_i + 3.75
            middle_j = high_j - 6 if low_j == 0 else low_j + 6
            found.add((round(middle_i - 0.5, 4), round(middle_j - 0.5, 4)))
        assert {tuple(map(float, p)) for p in peaks} == found
        for i, j in peaks:
            assert swi[i, j] == pytest.approx(1 / 3)
            assert phase[i, j] == pytest.approx(0.25 / 3)
    assert max(seen) >= 1


@pytest.mark.parametrize("average", [1, 3])
@pytest.mark.parametrize("context", [3, 5])
def test_a_drawn_slice_has_its_neighbours_as_the_inferer_sees_them(average, context):
    d = subject([[20, 30, 0], [10, 8, 5]])
    d["image"] = d["image"] + torch.rand(d["image"].shape, generator=torch.Generator().manual_seed(1))
    seen = stack_slices(average_slices(d["image"].as_tensor(), average).permute(3, 0, 1, 2), context)
    size = tuple(seen.shape[2:])
    for item in draw(d, 3, size=size, average=average, context=context):
        assert any(torch.allclose(item["image"], one) for one in seen)
    for wide, plain in zip(draw(d, 4, average=average, context=context), draw(d, 4, average=average), strict=True):
        middle = [context // 2, context + context // 2]
        assert torch.equal(wide["image"][middle], plain["image"])
        assert torch.equal(wide["boxes"], plain["boxes"])


def test_beyond_the_slice_are_zeros():
    d = subject([], shape=(10, 12, 4), fill=0.5)
    for item in draw(d, size=(16, 20)):
        inside = np.argwhere(item["image"][0].numpy() == 0.5)
        assert len(inside) == 10 * 12
        assert (np.ptp(inside, axis=0) == (9, 11)).all()
        assert float(item["image"].sum()) == pytest.approx(2 * 120 * 0.5)
    starts = {tuple(np.argwhere(item["image"][0].numpy())[0]) for item in draw(d, size=(16, 20), number=60)}
    assert {s[0] for s in starts} == set(range(7))


def test_subjects_without_lesions_give_empty_boxes():
    for item in draw(subject([])):
        assert item["boxes"].shape == (0, 4)
        assert item["boxes"].dtype == torch.float32
        assert item["labels"].shape == (0,)
        assert item["image"].shape == (2, 24, 32)


def test_a_box_larger_than_the_cut_is_drawn_all_the_same():
    for item in draw(subject([[20, 30, 4]], [40.0]), size=(24, 32), lesion_fraction=1.0):
        assert item["boxes"].tolist() == [[0, 0, 24, 32]]


def test_share_of_slices_through_lesions():
    d = subject([[20, 30, 4]], shape=(40, 50, 40))
    drawn = draw(d, number=400, lesion_fraction=0.5, size=(40, 50))
    share = np.mean([len(item["boxes"]) > 0 for item in drawn])
    # 0.5, and 3 of the 40 slices of the other half; 4 standard errors are 0.1.
    assert share == pytest.approx(0.5 + 0.5 * 3 / 40, abs=0.1)
    assert len(drawn) == 400


def test_slices_repeat_with_the_seed():
    d = subject([[20, 30, 4], [10, 10, 2]])
    first, again, other = draw(d, 5), draw(d, 5), draw(d, 6)
    assert all(
        torch.equal(a["image"], b["image"]) and torch.equal(a["boxes"], b["boxes"])
        for a, b in zip(first, again, strict=True)
    )
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))


# --- augmentation ---


def image(seed=0):
    volume = torch.rand((2, 12, 14), generator=torch.Generator().manual_seed(seed))
    volume[:, :3] = 0
    return volume


def test_contrast_by_hand():
    fixed = {"prob": 1.0, "gamma": (2.0, 2.0), "gain": (0.75, 0.75), "phase_factor": (1.5, 1.5), "noise": 0.0}
    values = torch.tensor([[0.0, 0.5, 0.8, 1.0], [0.0, 0.5, 0.3, 0.9]])
    out = RandContrastd("image", **fixed)({"image": values})["image"]
    # 0.5 (2 * 0.75 s)^2, at most 1; and 0.5 + 1.5 (c - 0.5), within [0, 1].
    assert out[0].tolist() == pytest.approx([0, 0.28125, 0.72, 1.0])
    assert out[1].tolist() == pytest.approx([0, 0.5, 0.2, 1.0])
    assert values[0, 1] == 0.5


def test_contrast_without_range_is_the_identity():
    ones = {"gamma": (1.0, 1.0), "gain": (1.0, 1.0), "phase_factor": (1.0, 1.0), "noise": 0.0}
    torch.testing.assert_close(RandContrastd("image", prob=1.0, **ones)({"image": image()})["image"], image())
    before = image()
    assert RandContrastd("image", prob=0.0)({"image": before})["image"] is before


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_contrast_keeps_zeros_and_the_range(seed):
    transform = RandContrastd("image", prob=1.0)
    transform.set_random_state(seed)
    before = image(seed)
    out = transform({"image": before})["image"]
    assert float(out[:, :3].abs().max()) == 0
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert not torch.equal(out, before)
    assert torch.equal(before, image(seed))
    no_phase = before.clone()
    no_phase[1] = 0
    assert float(transform({"image": no_phase})["image"][1].abs().max()) == 0
    transform.set_random_state(seed)
    assert torch.equal(transform({"image": before})["image"], out)


def test_contrast_noise_has_the_size_asked_for():
    ones = {"gamma": (1.0, 1.0), "gain": (1.0, 1.0), "phase_factor": (1.0, 1.0)}
    transform = RandContrastd("image", prob=1.0, noise=0.04, **ones)
    grey = torch.full((2, 100, 100), 0.5)
    deviations = []
    for seed in range(12):
        transform.set_random_state(seed)
        deviations.append(float((transform({"image": grey})["image"] - 0.5).std()))
    assert max(deviations) <= 0.041
    assert max(deviations) > 0.02
    assert min(deviations) < 0.02


def test_phase_is_dropped_as_often_as_asked():
    before = image()
    gone = RandDropPhased("image", prob=1.0)({"image": before})["image"]
    assert torch.equal(gone[0], before[0])
    assert float(gone[1].abs().max()) == 0
    assert torch.equal(before, image())
    assert torch.equal(RandDropPhased("image", prob=0.0)({"image": before})["image"], before)
    transform = RandDropPhased("image", prob=0.25)
    transform.set_random_state(0)
    dropped = [float(transform({"image": before})["image"][1].max()) == 0 for _ in range(400)]
    assert np.mean(dropped) == pytest.approx(0.25, abs=0.09)


def test_all_slices_of_swi_and_of_phase_change_alike():
    swi, phase = image()
    beside = torch.stack([swi, swi, swi, phase, phase, phase])
    fixed = {"prob": 1.0, "gamma": (2.0, 2.0), "gain": (0.75, 0.75), "phase_factor": (1.5, 1.5), "noise": 0.0}
    plain = RandContrastd("image", **fixed)({"image": image()})["image"]
    changed = RandContrastd("image", **fixed, slices=3)({"image": beside})["image"]
    assert torch.equal(changed, plain.repeat_interleave(3, dim=0))
    gone = RandDropPhased("image", prob=1.0, slices=3)({"image": beside})["image"]
    assert torch.equal(gone, torch.cat([beside[:3], torch.zeros_like(beside[3:])]))


def test_swi_alone_has_one_channel():
    swi = image()[:1]
    ones = {"gamma": (2.0, 2.0), "gain": (1.0, 1.0), "phase_factor": (0.5, 0.5), "noise": 0.0}
    changed = RandContrastd("image", prob=1.0, **ones)({"image": swi})["image"]
    torch.testing.assert_close(changed, (0.5 * (2 * swi) ** 2).clamp(max=1))
    assert torch.equal(RandDropPhased("image", prob=1.0)({"image": swi})["image"], swi)


# --- a noise floor, and a measured phase ---


def with_floor(floor, seed, before, **more):
    ones = {"gamma": (1.0, 1.0), "gain": (1.0, 1.0), "phase_factor": (1.0, 1.0), "noise": 0.0} | more
    transform = RandContrastd("image", prob=1.0, floor=floor, **ones)
    transform.set_random_state(seed)
    return transform({"image": before})["image"]


def test_the_noise_floor_lifts_what_is_dark_in_half_of_the_changes():
    before = torch.tensor([[0.0, 0.1, 0.3, 0.8], [0.0, 0.5, 0.6, 0.7]]).reshape(2, 4, 1)
    floors = []
    for seed in range(200):
        after = with_floor(0.4, seed, before)
        torch.testing.assert_close(after[1], before[1])
        assert float(after[0, 0]) == 0  # the background
        f = float((after[0, 1] ** 2 - 0.1**2).clamp(min=0).sqrt())
        expected = (before[0, 1:] ** 2 + f**2).sqrt()
        torch.testing.assert_close(after[0, 1:], expected, atol=1e-5, rtol=0)
        floors.append(f)
    drawn = [f for f in floors if f > 1e-3]
    assert len(drawn) / 200 == pytest.approx(0.5, abs=0.12)
    assert max(drawn) <= 0.4
    assert np.mean(drawn) == pytest.approx(0.2, abs=0.04)


def test_the_noise_is_as_strong_as_was_drawn_and_another_in_each_image():
    transform = RandContrastd("image", prob=1.0)
    transform.set_random_state(4)
    grains = []
    for _ in range(2):
        transform({"image": torch.full((2, 200, 200), 0.5)})
        grains += transform._grains
    # what MONAI draws first decides whether to change at all; then gamma, gain, factor and deviation
    same = np.random.RandomState(4)
    same.rand()
    for low, high in (transform.gamma, transform.gain, transform.phase_factor, (0, transform.noise)):
        drawn = same.uniform(low, high)
    assert float(grains[0].std()) == pytest.approx(drawn, rel=0.02)
    assert float(grains[0].mean()) == pytest.approx(0, abs=0.02 * drawn)
    assert abs(np.corrcoef(grains[0].flatten(), grains[1].flatten())[0, 1]) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_a_measured_phase_never_becomes_a_missing_one(seed):
    before = torch.full((2, 30, 30), 0.5)
    before[1] = torch.linspace(1e-3, 1, 900).reshape(30, 30)
    before[:, :3] = 0
    after = with_floor(0.25, seed, before, phase_factor=(1.8, 1.8), noise=0.05)
    assert torch.equal(after[1] > 0, before[1] > 0)
    assert float(after[1, 3:].min()) == pytest.approx(1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_monai_flips_our_boxes_with_the_image(axis):
    flip = RandFlipBoxd("image", "boxes", "image", prob=1.0, spatial_axis=axis)
    for item in draw(subject([[20, 30, 4]]), lesion_fraction=1.0, reach_mm=1.0, number=5):
        (before,) = np.argwhere(item["image"][0].numpy() > 0)
        turned = flip(dict(item))
        (after,) = np.argwhere(turned["image"][0].numpy() > 0)
        assert before[axis] + after[axis] == (24, 32)[axis] - 1
        assert before[1 - axis] == after[1 - axis]
        low, high = item["boxes"][0].reshape(2, 2).clone()
        low[axis], high[axis] = (24, 32)[axis] - high[axis], (24, 32)[axis] - low[axis]
        torch.testing.assert_close(torch.as_tensor(turned["boxes"])[0], torch.cat([low, high]))
    for item in draw(subject([]), number=3):
        turned = flip(dict(item))
        assert turned["boxes"].shape == (0, 4)
        assert torch.equal(torch.as_tensor(turned["image"]), item["image"].flip(axis + 1))


@pytest.mark.parametrize("voxels", [[], [[20, 30, 4], [10, 8, 1]]])
def test_the_configured_augmentation_runs_and_repeats(voxels):
    text = TRAIN.read_text(encoding="utf-8").replace('"scripts.', '"cmb_bundle.scripts.')
    parser = ConfigParser(json.loads(text))
    steps = parser.get_parsed_content("train#random_transforms")
    results = []
    for _ in range(2):
        transform = Compose(steps).set_random_state(3)
        results.append(transform(subject(voxels, fill=0.5)))
    assert len(results[0]) == parser["slices_per_subject"]
    for first, again in zip(*results, strict=True):
        assert first["image"].shape == (2 * parser["context"], *parser["slice_size"])
        assert len(first["boxes"]) == len(first["labels"])
        torch.testing.assert_close(torch.as_tensor(first["image"]), torch.as_tensor(again["image"]))
        torch.testing.assert_close(torch.as_tensor(first["boxes"]), torch.as_tensor(again["boxes"]))
    assert sum(len(item["boxes"]) for item in results[0]) >= (2 if voxels else 0)
