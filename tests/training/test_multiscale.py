"""Sizes of the batches of a training, and boxes that follow the image."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine

from cmb_bundle.scripts.training.multiscale import MultiScale

from ..helpers.slices import ramps

SIZES = list(range(320, 609, 32))


def test_a_new_size_every_ten_batches_and_the_largest_at_the_end():
    scale = MultiScale(SIZES, seed=3)
    sizes = [scale.size(n, 3000) for n in range(1, 3001)]
    blocks = [set(sizes[n : n + 10]) for n in range(0, 3000, 10)]
    assert all(len(block) == 1 for block in blocks)
    drawn = [block.pop() for block in blocks]
    # after 2790 batches there are 210 left, after 2810 there are 190: the largest from the draw at 2810
    assert drawn[281:] == [608] * 19
    assert set(drawn[:281]) == set(SIZES)
    assert max(drawn[:281].count(size) for size in SIZES) < 2 * 28
    assert [MultiScale(SIZES, seed=3).size(n, 3000) for n in (1500, 1501)] == sizes[1499:1501]
    assert [MultiScale(SIZES, seed=4).size(n, 3000) for n in range(1, 3001)] != sizes


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 30), st.integers(8, 30), st.integers(8, 60), st.integers(0, 2**31))
def test_boxes_follow_the_image(rows, columns, size, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(3, 4, generator=generator, dtype=torch.float64) * torch.tensor([rows, columns] * 2)
    batch = {
        "image": torch.stack([ramps(rows, columns)] * 2),
        "targets": [{"boxes": boxes, "labels": torch.tensor([0, 0, 0])}, {"boxes": boxes[:0], "labels": boxes[:0, 0]}],
    }
    state = SimpleNamespace(batch=batch, iteration=1, max_epochs=1000, epoch_length=1000)
    MultiScale([size])(SimpleNamespace(state=state))
    image, targets = batch["image"], batch["targets"]
    assert image.shape == (2, 2, size, round(columns * size / rows))
    # away from the border, interpolated coordinates are a linear function of those of the new pixels
    for axis, old in ((0, rows), (1, columns)):
        new = image.shape[2 + axis]
        values = image[0, axis].movedim(axis, 0)[:, 0]
        inner = (values - 0.5).abs() > 1e-9
        inner &= (values - (old - 0.5)).abs() > 1e-9
        centres = torch.arange(new, dtype=torch.float64) + 0.5
        torch.testing.assert_close(values[inner], (centres * old / new)[inner])
        torch.testing.assert_close(targets[0]["boxes"][:, axis::2] * old / new, boxes[:, axis::2])
    assert targets[1]["boxes"].shape == (0, 4)
    assert targets[0]["labels"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("sizes, expected", [(None, [16] * 4), ([8, 24], None)])
def test_the_trainer_gets_the_scaled_batch(sizes, expected):
    seen = []
    engine = Engine(lambda engine, batch: seen.append(batch["image"].shape[2]))
    scale = MultiScale(sizes, every=2, last=2)
    scale.attach(engine)
    engine.run([{"image": torch.zeros(1, 2, 16, 16), "targets": []} for _ in range(4)], max_epochs=1)
    assert seen == (expected or [scale.size(1, 4)] * 2 + [24] * 2)
