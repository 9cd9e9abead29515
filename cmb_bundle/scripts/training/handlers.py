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
    """The output of an engine's iteration, or the first of them where it gives a list, as MONAI's mostly do."""
    return output[0] if isinstance(output, list) and output else output


class EpochSeed:
    """
    Seed everything random from the seed and the number of the epoch, so that an epoch is the same after a resume.

    The order of the items is the same in all processes; what the network draws, such as dropout, is not.

    Args:
        data_loader: the training loader, shuffled. Items of a :class:`~.SeededItems` do not depend on the
            order and the process in which they are loaded.
        seed: of the training.
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
        np.random.seed(seed)  # noqa: NPY002 - the transforms of MONAI draw their seeds from it
        torch.manual_seed(seed)


class EpochTable:
    """
    Write a line an epoch into a CSV: epoch, the mean training loss, and the metrics of validation (``val_<name>``,
    empty in an epoch without a validation).

    Lines of epochs that a resumed training does anew are replaced.

    Args:
        path: the CSV.
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
        self.path, self.evaluator, self.metrics, self.accuracy = (
            Path(path),
            evaluator,
            tuple(metrics),
            accuracy,
        )
        self._clear()

    def _clear(self, engine: Engine | None = None) -> None:
        self._losses: list[float] = []
        self._right: list[bool] = []
        self._validation: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.note_metrics)

    def note_metrics(self, evaluator: Engine) -> None:
        """Keep the metrics of a validation until the line is written."""
        self._validation = {f"val_{name}": float(evaluator.state.metrics[name]) for name in self.metrics}

    def collect(self, engine: Engine) -> None:
        """Keep the loss of an iteration, and which of its patches were classified right."""
        output = first_output(engine.state.output)
        self._losses.append(output["loss"].item())
        if self.accuracy:
            self._right += (output["pred"].argmax(dim=1) == output["label"]).tolist()

    def write(self, engine: Engine) -> None:
        """Write the line of the epoch."""
        row = {"epoch": engine.state.epoch, "loss": float(np.mean(self._losses))}
        if self.accuracy:
            row["accuracy"] = idist.all_reduce(float(sum(self._right))) / idist.all_reduce(len(self._right))
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
        desc: what is worked on.
    """

    def __init__(self, desc: str) -> None:
        self.bar = ProgressBar(desc=desc)

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.bar.attach(engine, output_transform=self.loss)

    @staticmethod
    def loss(output: object) -> dict[str, float]:
        """The loss of an iteration, where there is one."""
        first = first_output(output)
        return {"loss": first["loss"].item()} if isinstance(first, Mapping) and "loss" in first else {}
