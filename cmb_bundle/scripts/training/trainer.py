"""Train either stage with MONAI's trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.engines import SupervisedTrainer


def collate_slices(batch: Sequence[Sequence[Mapping]]) -> dict:
    """
    Collate the slices of several subjects for the detector.

    Args:
        batch: for each subject a list of slices, see :class:`~..transforms.slices.RandSlicesd`.

    Returns:
        ``image`` (B, C, i, j), and ``targets``, a list of B dictionaries of ``boxes`` and ``labels``.
    """
    slices = [one for subject in batch for one in subject]
    images = torch.stack([torch.as_tensor(s["image"]) for s in slices])
    targets = [{key: torch.as_tensor(s[key]) for key in ("boxes", "labels")} for s in slices]
    return {"image": images, "targets": targets}


def prepare_slices(batch: Mapping, device=None, non_blocking: bool = False, **kwargs) -> tuple:
    """Prepare a batch from :func:`collate_slices`, so that the trainer calls a detector with images and targets."""
    images = batch["image"].to(device, non_blocking=non_blocking)
    targets = [{k: v.to(device, non_blocking=non_blocking) for k, v in t.items()} for t in batch["targets"]]
    return images, targets, (targets,), {}


def sum_of_losses(losses: Mapping[str, torch.Tensor], targets: object = None) -> torch.Tensor:
    """Sum the losses of a detector that returns them by name."""
    return sum(losses.values())


class StageTrainer(SupervisedTrainer):
    """
    A SupervisedTrainer whose output is a list of one dictionary.

    A detector's output cannot be decollated, but handlers, including those that ``--tracking mlflow`` adds, expect
    the list that decollating gives.

    Args:
        kwargs: arguments of ``monai.engines.SupervisedTrainer``, except ``decollate``, which is False.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, decollate=False)

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict) -> list[dict]:
        return [super()._iteration(engine, batchdata)]
