"""Multi-scale training: batches of slices of varying size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ignite.engine import Engine, Events
from torch.nn.functional import interpolate


class MultiScale:
    """
    Scale the slices of a training batch, and their boxes, to a size that changes every few batches.

    This is ``random=1`` of YOLOv2's configuration ("YOLO9000", 2017, section 2, "Multi-Scale Training", and
    ``train_detector`` of darknet's ``examples/detector.c``): every 10 batches a size is drawn from 320, 352, ..., 608,
    and the last 200 batches of a training use the largest. The size depends only on the seed and the number of the
    batch, so that a resumed training continues exactly as an uninterrupted one.

    Args:
        sizes: sizes along the first axis of a slice in pixels; the second keeps its ratio. None or an empty list leaves
            the slices unchanged.
        every: batches between two draws.
        last: number of batches at the end of a training within which every draw gives the largest size.
        seed: seed of the training.
    """

    def __init__(self, sizes: Sequence[int] | None = None, every: int = 10, last: int = 200, seed: int = 0) -> None:
        self.sizes, self.every, self.last, self.seed = sizes or [], every, last, seed

    def attach(self, engine: Engine) -> None:
        if self.sizes:
            engine.add_event_handler(Events.ITERATION_STARTED, self)

    def size(self, iteration: int, iterations: int) -> int:
        """The size at an iteration, counted from 1, of a training with ``iterations`` iterations."""
        draw = (iteration - 1) // self.every
        if draw * self.every + self.last > iterations:
            return max(self.sizes)
        return int(np.random.default_rng([self.seed, draw]).choice(self.sizes))

    def __call__(self, engine: Engine) -> None:
        batch, state = engine.state.batch, engine.state
        before = batch["image"].shape[2:]
        first = self.size(state.iteration, state.max_epochs * state.epoch_length)
        after = (first, round(before[1] * first / before[0]))
        batch["image"] = interpolate(batch["image"], size=after, mode="bilinear", align_corners=False)
        factors = [new / old for new, old in zip(after, before, strict=True)] * 2
        batch["targets"] = [t | {"boxes": t["boxes"] * t["boxes"].new_tensor(factors)} for t in batch["targets"]]
