"""Save the state of a training, keep the best weights, and resume."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..data.datasets import CohortDataset
from ..errors import CheckpointError
from ..files import write_whole
from ..networks.weights import fit_weights, read_state
from ..options import check_flags

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """
    Save the state of a training as epochs end, keep the best weights, and resume.

    ``<name>_last.pt`` holds everything that the next epoch depends on; ``<name>_best.pt`` is the plain state_dict
    of the epoch with the best score. Both are written aside and renamed, so a kill at any moment leaves a whole
    file; training again continues after the last saved epoch. Attach it to the trainer after validation and
    schedules, since it saves their state.

    Args:
        output_dir: folder of the two files.
        name: their first word.
        network: the module that is trained.
        states: what else has ``state_dict`` and ``load_state_dict``: optimizer, schedule. An optimizer keeps the
            hyperparameters that it is configured with now, and a schedule, by epochs or by iterations, is replayed for
            as many steps as it had made, so that a longer training or another learning rate can be asked for.
        evaluator: the validation engine whose ``metric`` tells which epoch is the best; without it, the last is.
        metric: name of the metric; an epoch without a validation cannot become the best, unless the training ends
            without any score: then the last is.
        lower_is_better: for a loss.
        patience: training ends at a validation this many epochs or more after the best one; 0 for never.
        resume: False starts anew and overwrites.
        save_interval: epochs between two states of ``<name>_last.pt``; one is written besides after each best epoch and
            after the last. Large networks with short epochs write less with more of them.
        datasets: the training and the validation data set (with ``data`` and ``failures``), to make sure that a
            training is not resumed with another split, in which its subjects are now test subjects.
        depends_on: a file that this training learns from, the weights of stage 1 for stage 2; where it has changed,
            training starts anew.

    Raises:
        CheckpointError: ``<name>_last.pt`` cannot be read, or is of another network, optimizer, schedule or split.
    """

    def __init__(
        self,
        output_dir: str | Path,
        name: str,
        network: torch.nn.Module,
        states: Mapping[str, object],
        evaluator: Engine | None = None,
        metric: str = "",
        lower_is_better: bool = False,
        patience: int = 0,
        resume: bool = True,
        save_interval: int = 1,
        datasets: Sequence[CohortDataset] = (),
        depends_on: str | Path | None = None,
    ) -> None:
        self.last, self.best = Path(output_dir) / f"{name}_last.pt", Path(output_dir) / f"{name}_best.pt"
        self.name, self.network, self.states = name, network, dict(states)
        self.evaluator, self.metric, self.lower_is_better = evaluator, metric, lower_is_better
        check_flags(resume=resume)
        self.patience, self.resume, self.depends_on = patience, resume, depends_on
        self.save_interval = save_interval
        self.subjects = {str(d["subject"]) for dataset in datasets for d in dataset.data}
        self.left_out = {name for dataset in datasets for name in dataset.failures}
        self.best_score, self.best_epoch, self.scored_epoch = -math.inf, 0, 0
        self._score: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.note_score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Continue from ``<name>_last.pt`` where it is there."""
        if not self.resume or not self.last.is_file():
            return
        advice = "Use the configuration it was trained with, another output_dir, or resume=False to start anew."
        state = read_state(self.last, next(self._module().parameters()).device, advice)
        if state.get("kinds") != self._kinds():
            raise CheckpointError(f"{self.last} holds {state.get('kinds')}; expected {self._kinds()}. {advice}")
        if state["depends_on"] != self._digest():
            logger.warning(f"{self.name}: {self.depends_on} has changed since {self.last}; it is trained anew")
            return
        foreign = sorted(set(state["subjects"]) - self.subjects - self.left_out)
        if foreign:
            raise CheckpointError(
                f"{self.last} was trained or validated on {', '.join(foreign[:10])}, not in the training or validation "
                "part of the present split; expected the same fold and datalist. Use another output_dir for each fold, "
                "or resume=False to start anew."
            )
        self.subjects |= set(state["subjects"])
        fit_weights(self._module(), state["network"], self.last)
        self._restore(state)
        if state["scaler"] and engine.scaler is not None:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["epoch"]
        # not as saved: a remainder by the length of an epoch, which another batch size changes, is skipped by Ignite
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self.scored_epoch = state["scored_epoch"]
        logger.info(f"{self.name}: resumed from {self.last} after epoch {state['epoch']}")
        if self._waited_enough():
            engine.terminate()

    def _restore(self, state: Mapping) -> None:
        for key, value in self.states.items():
            if isinstance(value, torch.optim.Optimizer):
                configured = [{k: v for k, v in group.items() if k != "params"} for group in value.param_groups]
                value.load_state_dict(state[key])
                for group, now in zip(value.param_groups, configured, strict=True):
                    group.update(now)
        for key, value in self.states.items():
            if isinstance(value, LRScheduler) and not isinstance(value, ReduceLROnPlateau):
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                    for _ in range(state[key]["last_epoch"]):
                        value.step()
            elif not isinstance(value, torch.optim.Optimizer):
                value.load_state_dict(state[key])

    def _digest(self) -> str | None:
        return hashlib.sha256(Path(self.depends_on).read_bytes()).hexdigest() if self.depends_on else None

    def note_score(self, evaluator: Engine) -> None:
        """Keep the score of a validation until the epoch is saved."""
        value = float(evaluator.state.metrics[self.metric])
        # the last bits may differ between processes, which have to agree on the best epoch and on when to stop
        value = idist.broadcast(value)
        self._score = -value if self.lower_is_better else value

    def save(self, engine: Engine) -> None:
        """Save both files as the epoch ends, and stop where patience is over."""
        score, self._score = (float(engine.state.epoch) if self.evaluator is None else self._score), None
        better = score is not None and score > self.best_score
        if score is not None:
            self.scored_epoch = engine.state.epoch
        if better:
            self.best_score, self.best_epoch = score, engine.state.epoch
        if idist.get_rank() == 0:
            weights = self._module().state_dict()
            if better:
                write_whole(self.best, lambda aside: torch.save(weights, aside))
            state = {
                "network": weights,
                "epoch": engine.state.epoch,
                "best_score": self.best_score,
                "best_epoch": self.best_epoch,
                "scored_epoch": self.scored_epoch,
                "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
                "kinds": self._kinds(),
                "subjects": sorted(self.subjects),
                "depends_on": self._digest(),
                **{key: value.state_dict() for key, value in self.states.items()},
            }
            if better or state["epoch"] % self.save_interval == 0 or self._is_last(engine):
                write_whole(self.last, lambda aside: torch.save(state, aside))
        if self._waited_enough():
            waited = self.scored_epoch - self.best_epoch
            logger.info(f"{self.name}: no better score for {waited} epochs; best was epoch {self.best_epoch}")
            engine.terminate()

    def finish(self, engine: Engine) -> None:
        """Where no epoch had a score, take the last one's weights for the best, so that there are some."""
        if self.best_epoch == 0 and idist.get_rank() == 0:
            logger.warning(f"{self.name}: no epoch was scored; {self.best} holds the weights of the last one")
            weights = self._module().state_dict()
            write_whole(self.best, lambda aside: torch.save(weights, aside))
        idist.barrier()

    def _is_last(self, engine: Engine) -> bool:
        return self._waited_enough() or engine.state.epoch == engine.state.max_epochs

    def _waited_enough(self) -> bool:
        return 0 < self.patience <= self.scored_epoch - self.best_epoch

    def _kinds(self) -> dict[str, str]:
        return {key: type(value).__name__ for key, value in self.states.items()}

    def _module(self) -> torch.nn.Module:
        return getattr(self.network, "module", self.network)
