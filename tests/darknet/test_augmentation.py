"""Jitter and exposure: boxes follow the image exactly, and the factors are darknet's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_bundle.scripts.darknet.augmentation import RandExposured, RandJitterd

from ..helpers.slices import ramps


class Fixed:
    """A generator that gives what it was told."""

    def __init__(self, uniform, random=0.0):
        self.uniform_value, self.random_value = uniform, random

    def uniform(self, low, high, size=None):
        return np.asarray(self.uniform_value, dtype=float) if size else self.uniform_value

    def random(self):
        return self.random_value


def item(image, boxes, labels=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return {"image": image, "boxes": boxes, "labels": torch.arange(len(boxes)) if labels is None else labels}


def jittered(data, low, high, **arguments):
    transform = RandJitterd(**arguments)
    transform.R = Fixed([low, high])
    return transform(data)


def test_jitter_by_hand():
    """Of 10 rows, 2 are cut off at the start and 1 added at the end; of 20 columns, 5 are added at the start."""
    image = torch.zeros(1, 10, 20)
    image[0, 4:7, 10:15] = 1
    found = jittered(item(image, [4, 10, 7, 15]), low=[0.2, -0.25], high=[-0.1, 0.0])
    # rows 2 to 11 are stretched by 10/9, columns -5 to 20 by 20/25
    assert found["boxes"].tolist() == [pytest.approx([2 * 10 / 9, 15 * 0.8, 5 * 10 / 9, 20 * 0.8])]
    assert found["image"].shape == (1, 10, 20)
    assert found["image"][0, 3:5, 13:15].min() == 1
    assert found["image"][0, 7:].max() == 0


def test_the_edge_is_repeated_beyond_the_slice():
    found = jittered(item(ramps(10, 10).float(), []), low=[-0.3, 0.0], high=[0.0, 0.0])
    # rows -3 to 10: the first centres of the new pixels, 1.3 wide, lie before the first old one
    assert found["image"][0, :, 0].tolist() == pytest.approx(
        [max(0.5, -3 + 1.3 * (n + 0.5)) for n in range(9)] + [9.35]
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 30), st.integers(8, 30), st.integers(0, 2**31), st.floats(0, 0.49))
def test_boxes_follow_the_image(rows, columns, seed, jitter):
    size = torch.tensor([rows, columns] * 2)
    generator = torch.Generator().manual_seed(seed)
    centre, half = torch.rand(4, 2, generator=generator), torch.rand(4, 2, generator=generator) * 0.2 + 0.02
    boxes = (torch.cat([centre - half, centre + half], dim=1).double() * size).clamp(min=0).minimum(size)
    transform = RandJitterd(jitter=jitter)
    transform.set_random_state(seed % 2**31)
    found = transform(item(ramps(rows, columns), boxes))
    assert found["image"].shape == (2, rows, columns)
    for axis, length in ((0, rows), (1, columns)):
        values = found["image"][axis].movedim(axis, 0)[:, 0]
        inner = ((values - 0.5).abs() > 1e-9) & ((values - (length - 0.5)).abs() > 1e-9)
        centres = torch.arange(length, dtype=torch.float64) + 0.5
        slope, intercept = np.polyfit(centres[inner], values[inner], 1)
        assert 1 - 2 * jitter - 1e-9 <= slope <= 1 + 2 * jitter + 1e-9
        # each edge that is not cut at the border is where the image of it is
        for before, after in zip(boxes[found["labels"]], found["boxes"], strict=True):
            for edge in (axis, axis + 2):
                mapped = (float(before[edge]) - intercept) / slope
                assert float(after[edge]) == pytest.approx(min(max(mapped, 0), length), abs=1e-6)
    gone = sorted(set(range(4)) - set(found["labels"].tolist()))
    low, high = transform_borders(seed, jitter)
    for number in gone:
        edges = (boxes[number].numpy() / size.numpy()).reshape(2, 2)
        edges = ((edges - low) / (1 - low - high)).clip(0, 1)
        assert (edges[1] - edges[0]).min() < 0.001


def transform_borders(seed, jitter):
    again = RandJitterd(jitter=jitter)
    again.set_random_state(seed % 2**31)
    return again.R.uniform(-jitter, jitter, (2, 2))


def test_borders_of_the_slice_are_those_of_the_size():
    transform = RandJitterd(jitter=0.3)
    transform.set_random_state(0)
    box = torch.tensor([[0.0, 0, 64, 32]])
    edges = []
    for _ in range(300):
        low, high = transform.R.uniform(-0.3, 0.3, (2, 2))
        edges.append(np.r_[low, high])
        found = jittered(item(torch.zeros(1, 64, 32), box), low, high)
        expected = np.clip(np.r_[-low / (1 - low - high), (1 - low) / (1 - low - high)], 0, 1) * [64, 32, 64, 32]
        np.testing.assert_allclose(found["boxes"][0], expected, atol=1e-9)
    assert np.abs(edges).max() <= 0.3
    assert np.abs(edges).max() > 0.28


def test_slices_without_boxes():
    found = RandJitterd()(item(torch.rand(2, 16, 16), []))
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].shape == (0,)


@pytest.mark.parametrize("jitter", [-0.1, 0.5])
def test_jitter_out_of_range(jitter):
    with pytest.raises(ValueError, match=r"from 0 to below 0\.5"):
        RandJitterd(jitter=jitter)


def test_exposure_by_hand():
    image = torch.tensor([[0.0, 0.2, 0.9], [0.0, 0.5, 0.6]])
    for random, expected in (
        (0.7, [[0.0, 0.25, 1.0], [0.0, 0.625, 0.75]]),
        (0.3, [[0.0, 0.16, 0.72], [0.0, 0.4, 0.48]]),
    ):
        transform = RandExposured()
        transform.R = Fixed(1.25, random)
        torch.testing.assert_close(transform({"image": image})["image"], torch.tensor(expected))
    assert image[0, 1] == 0.2


def test_exposure_is_drawn_as_darknet_draws_it():
    transform = RandExposured(exposure=1.5)
    transform.set_random_state(0)
    factors = np.array([float(transform({"image": torch.full((1,), 0.1)})["image"] * 10) for _ in range(1000)])
    assert 1 / 1.5 - 1e-6 <= factors.min() < 0.68
    assert 1.48 < factors.max() <= 1.5 + 1e-6
    assert (factors > 1).mean() == pytest.approx(0.5, abs=0.05)
    # uniform above 1, and uniform after inversion below
    assert np.median(factors[factors > 1]) == pytest.approx(1.25, abs=0.03)
    assert np.median(1 / factors[factors < 1]) == pytest.approx(1.25, abs=0.03)


def test_exposure_below_one():
    with pytest.raises(ValueError, match="1 or more"):
        RandExposured(exposure=0.5)
