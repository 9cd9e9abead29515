"""Ignite handlers of training: seeds, the table of losses, progress."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.data import DataLoader
from monai.data.utils import set_rnd

from ..files import write_csv


def first_output(output: object) -> object:
    """The output of an engine's iteration, or its first item if it is a list, as with most of MONAI's engines."""
    return output[0] if isinstance(output, list) and output else output


class EpochSeed:
    """
    Seed all random numbers from the seed and the epoch, so that an epoch is the same after resuming.

    The order of the items is the same in all processes; random numbers in the network, such as dropout, differ.

    Args:
        data_loader: the training loader, shuffled. Items of a :class:`~.SeededItems` do not depend on the
            order and the process in which they are loaded.
        seed: seed of the training.
    """

    def __init__(self, data_loader: DataLoader, seed: int = 0) -> None:
        self.data_loader, self.seed = data_loader, seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed * 100_003 + engine.state.epoch * 101) % 2**31
        set_rnd(self.data_loader.dataset, seed)
        self.data_loader.dataset.epoch_seed = seed
        self.data_loader.batch_sampler.sampler.generator = torch.Generator().manual_seed(seed)
        seed += idist.get_rank()
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - MONAI's transforms draw their seeds from it
        torch.manual_seed(seed)


class EpochTable:
    """
    Write one row per epoch into a CSV: epoch, the mean training loss, and the validation metrics (``val_<name>``,
    empty for an epoch without validation).

    Rows of epochs that a resumed training repeats are replaced.

    Args:
        path: the CSV file.
        evaluator: the validation engine.
        metrics: names of its metrics.
        accuracy: whether to add the training accuracy, for a classifier's logits.
    """

    def __init__(
        self,
        path: str | Path,
        evaluator: Engine | None = None,
        metrics: Sequence[str] = (),
        accuracy: bool = False,
    ) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.metrics = tuple(metrics)
        self.accuracy = accuracy
        self._clear()

    def _clear(self, engine: Engine | None = None) -> None:
        self._losses: list[float] = []
        self._is_correct: list[bool] = []
        self._validation: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.note_metrics)

    def note_metrics(self, evaluator: Engine) -> None:
        """Keep the metrics of a validation until the row is written."""
        self._validation = {f"val_{name}": float(evaluator.state.metrics[name]) for name in self.metrics}

    def collect(self, engine: Engine) -> None:
        """Keep the loss of an iteration, and which of its patches were classified correctly."""
        output = first_output(engine.state.output)
        self._losses.append(output["loss"].item())
        if self.accuracy:
            self._is_correct += (output["pred"].argmax(dim=1) == output["label"]).tolist()

    def write(self, engine: Engine) -> None:
        """Write the row of the epoch."""
        row = {"epoch": engine.state.epoch, "loss": float(np.mean(self._losses))}
        if self.accuracy:
            row["accuracy"] = idist.all_reduce(float(sum(self._is_correct))) / idist.all_reduce(len(self._is_correct))
        if idist.get_rank() != 0:
            return
        row.update({f"val_{name}": self._validation.get(f"val_{name}", np.nan) for name in self.metrics})
        table = pd.DataFrame([row])
        if self.path.is_file() and engine.state.epoch > 1:
            former = pd.read_csv(self.path)
            table = pd.concat([former[former["epoch"] < engine.state.epoch], table], ignore_index=True)
        write_csv(self.path, table)


class Progress:
    """
    Show a progress bar over the iterations of an epoch, with the loss in training.

    Args:
        desc: text in front of the bar.
    """

    def __init__(self, desc: str) -> None:
        self.bar = ProgressBar(desc=desc)

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.bar.attach(engine, output_transform=self.loss)

    @staticmethod
    def loss(output: object) -> dict[str, float]:
        """The loss of an iteration, if it has one."""
        first = first_output(output)
        return {"loss": first["loss"].item()} if isinstance(first, Mapping) and "loss" in first else {}
