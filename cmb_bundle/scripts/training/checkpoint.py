"""Save the state of a training, keep the best weights, and resume."""

from __future__ import annotations

import hashlib
import logging
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
from .early_stopping import BestEpoch
from .settings import compare_settings

logger = logging.getLogger(__name__)


class SplitGuard:
    """
    Make sure that a training is not resumed with another split, in which its subjects are now test subjects.

    Args:
        datasets: the training and the validation data set.
    """

    def __init__(self, datasets: Sequence[CohortDataset]) -> None:
        self.subjects = {str(d["subject"]) for dataset in datasets for d in dataset.data}
        self.left_out = {name for dataset in datasets for name in dataset.failures}

    def check(self, former: Sequence[str], path: Path) -> None:
        """
        Compare the subjects that a saved state was trained on with the present ones, and add them.

        Args:
            former: subjects of the saved state.
            path: file of the saved state, for the error.

        Raises:
            CheckpointError: some of them are not in the training or validation part of the present split.
        """
        foreign = sorted(set(former) - self.subjects - self.left_out)
        if foreign:
            raise CheckpointError(
                f"{path} was trained or validated on {', '.join(foreign[:10])}, not in the training or validation "
                "part of the present split; expected the same fold and datalist. Use another output_dir for each fold, "
                "or resume=False to start again."
            )
        self.subjects |= set(former)


class TrainingCheckpoint:
    """
    Save the state of a training as epochs end, keep the best weights, stop early, and resume.

    ``<name>_last.pt`` holds everything that the next epoch depends on; ``<name>_best.pt`` is the plain state_dict
    of the epoch with the best score. Both are written to a temporary file and renamed, so a kill at any moment leaves
    a complete file; training again continues after the last saved epoch. Attach it to the trainer after validation
    and schedules, because it saves their state.

    Args:
        output_dir: folder of the two files.
        name: first word of their names.
        network: the module that is trained.
        states: other objects with ``state_dict`` and ``load_state_dict``: optimizer, schedule. An optimizer keeps the
            hyperparameters that it is configured with now, and a schedule, by epochs or by iterations, is replayed for
            as many steps as it had made, so that a training can be resumed with more epochs or another learning rate.
        evaluator: the validation engine whose ``metric`` decides which epoch is the best; without it, the last is.
        metric: name of the metric; an epoch without a validation cannot become the best, unless the training ends
            without any score: then the last epoch is.
        lower_is_better: True for a loss.
        patience: see :class:`~.early_stopping.BestEpoch`.
        resume: False starts again and overwrites.
        save_interval: epochs between two states in ``<name>_last.pt``; it is also written after each best epoch and
            after the last. Larger values save time for large networks with short epochs.
        datasets: the training and the validation data set, see :class:`SplitGuard`.
        depends_on: a file that this training depends on, such as the weights of stage 1 for stage 2; if it has
            changed, training starts again.
        settings: what the training is configured with, see :func:`~.settings.run_settings`; a resumed training says
            what differs from before.

    Raises:
        CheckpointError: ``<name>_last.pt`` cannot be read, or is of another network, optimizer, schedule or split, or
            of settings with which it cannot go on.
    """

    def __init__(
        self,
        output_dir: str | Path,
        name: str,
        network: torch.nn.Module,
        states: Mapping[str, object],
        evaluator: Engine | None = None,
        *,
        metric: str = "",
        lower_is_better: bool = False,
        patience: int = 0,
        resume: bool = True,
        save_interval: int = 1,
        datasets: Sequence[CohortDataset] = (),
        depends_on: str | Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        check_flags(resume=resume)
        self.last, self.best = Path(output_dir) / f"{name}_last.pt", Path(output_dir) / f"{name}_best.pt"
        self.name = name
        self.network = network
        self.states = dict(states)
        self.evaluator = evaluator
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.resume = resume
        self.save_interval = save_interval
        self.depends_on = depends_on
        self.settings = dict(settings or {})
        self.progress = BestEpoch(patience)
        self.split = SplitGuard(datasets)
        self._score: float | None = None

    @property
    def best_epoch(self) -> int:
        """The best epoch so far; 0 if no epoch has a score."""
        return self.progress.epoch

    @property
    def best_score(self) -> float:
        """Its score, with the sign changed if lower is better."""
        return self.progress.score

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.note_score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Continue from ``<name>_last.pt`` if it exists."""
        if not self.resume or not self.last.is_file():
            return
        advice = "Use the configuration it was trained with, another output_dir, or resume=False to start again."
        state = read_state(self.last, next(self._module().parameters()).device, advice)
        if state.get("kinds") != self._kinds():
            raise CheckpointError(f"{self.last} holds {state.get('kinds')}; expected {self._kinds()}. {advice}")
        if state["depends_on"] != self._digest():
            logger.warning(f"{self.name}: {self.depends_on} has changed since {self.last}; training starts again")
            return
        self.split.check(state["subjects"], self.last)
        compare_settings(state.get("settings", {}), self.settings, self.name, self.last)
        fit_weights(self._module(), state["network"], self.last)
        self._restore(state)
        if state["scaler"] and engine.scaler is not None:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["epoch"]
        # not the saved value: another batch size changes the length of an epoch, and Ignite skips the remainder
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        self.progress.load_state_dict(state)
        logger.info(f"{self.name}: resumed from {self.last} after epoch {state['epoch']}")
        if self.progress.is_over:
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
        # the last bits can differ between processes, which must agree on the best epoch and on when to stop
        value = idist.broadcast(value)
        self._score = -value if self.lower_is_better else value

    def save(self, engine: Engine) -> None:
        """Save both files at the end of an epoch, and stop if patience is exhausted."""
        score, self._score = (float(engine.state.epoch) if self.evaluator is None else self._score), None
        better = self.progress.update(engine.state.epoch, score)
        if idist.get_rank() == 0:
            weights = self._module().state_dict()
            if better:
                write_whole(self.best, lambda aside: torch.save(weights, aside))
            state = {
                "network": weights,
                "epoch": engine.state.epoch,
                **self.progress.state_dict(),
                "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
                "kinds": self._kinds(),
                "subjects": sorted(self.split.subjects),
                "depends_on": self._digest(),
                "settings": self.settings,
                **{key: value.state_dict() for key, value in self.states.items()},
            }
            if better or state["epoch"] % self.save_interval == 0 or self._is_last(engine):
                write_whole(self.last, lambda aside: torch.save(state, aside))
        if self.progress.is_over:
            waited = self.progress.epochs_since
            logger.info(f"{self.name}: no better score for {waited} epochs; best was epoch {self.best_epoch}")
            engine.terminate()

    def finish(self, engine: Engine) -> None:
        """If no epoch had a score, save the weights of the last one as the best."""
        if self.best_epoch == 0 and idist.get_rank() == 0:
            logger.warning(f"{self.name}: no epoch was scored; {self.best} holds the weights of the last one")
            weights = self._module().state_dict()
            write_whole(self.best, lambda aside: torch.save(weights, aside))
        idist.barrier()

    def _is_last(self, engine: Engine) -> bool:
        return self.progress.is_over or engine.state.epoch == engine.state.max_epochs

    def _kinds(self) -> dict[str, str]:
        return {key: type(value).__name__ for key, value in self.states.items()}

    def _module(self) -> torch.nn.Module:
        return getattr(self.network, "module", self.network)
