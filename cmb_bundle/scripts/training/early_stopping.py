"""Know the best epoch of a training, and when to stop early."""

from __future__ import annotations

import math
from collections.abc import Mapping


class BestEpoch:
    """
    Remember the epoch with the best score, and decide when to stop early.

    Ignite's ``EarlyStopping`` counts validations; here patience is a number of epochs, whatever the interval between
    validations, and a resumed training that had already stopped stops again. :class:`~.checkpoint.TrainingCheckpoint`
    asks it, and ends the training.

    Args:
        patience: stop at a validation this many epochs or more after the best one; 0 never stops.
    """

    def __init__(self, patience: int = 0) -> None:
        self.patience = patience
        self.score = -math.inf
        self.epoch = 0
        self.scored_epoch = 0

    def update(self, epoch: int, score: float | None) -> bool:
        """Take the score of an epoch, higher is better, None without a validation; return whether it is the best."""
        if score is None:
            return False
        self.scored_epoch = epoch
        if not score > self.score:
            return False
        self.score, self.epoch = score, epoch
        return True

    @property
    def epochs_since(self) -> int:
        """Epochs from the best one to the last one that has a score."""
        return self.scored_epoch - self.epoch

    @property
    def is_over(self) -> bool:
        """Whether patience is exhausted."""
        return 0 < self.patience <= self.epochs_since

    def state_dict(self) -> dict[str, float]:
        return {"best_score": self.score, "best_epoch": self.epoch, "scored_epoch": self.scored_epoch}

    def load_state_dict(self, state: Mapping) -> None:
        self.score, self.epoch, self.scored_epoch = state["best_score"], state["best_epoch"], state["scored_epoch"]
