"""Finish a training: join the weights of both stages, and report the subjects that could not be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch

from ..data.datasets import CohortDataset
from ..files import write_whole
from ..inference.evaluator import raise_failures
from ..networks.weights import load_weights
from .calibration import calibrate
from .evidence import fit_evidence


def join_weights(
    network: torch.nn.Module,
    detector_weights: str | Path,
    classifier_weights: str | Path,
    path: str | Path,
    data_loader: Iterable[Mapping] | None = None,
    patches: Sequence[Mapping] = (),
    surroundings_epochs: int = 40,
) -> Path:
    """
    Load the best weights of both stages into the network, fit and calibrate it, and write its state_dict.

    Args:
        network: both stages.
        detector_weights: weights file of stage 1.
        classifier_weights: weights file of stage 2.
        path: file to write.
        data_loader: validation patches to calibrate the probability on, see :func:`~.calibration.calibrate`; None
            skips that.
        patches: training patches, for :func:`~.evidence.fit_evidence`; none skip that.
        surroundings_epochs: its epochs; 0 skips it.

    Returns:
        the path.

    Raises:
        CheckpointError: a weights file cannot be read or does not fit.
    """
    load_weights(network.detector, detector_weights)
    load_weights(network.classifier, classifier_weights)
    if len(patches):
        fit_evidence(network, patches, surroundings_epochs)
    if data_loader is not None:
        calibrate(network, data_loader, next(network.classifier.parameters()).device)
    if idist.get_rank() == 0:
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        write_whole(path, lambda aside: torch.save(state, aside))
    idist.barrier()
    return Path(path)


def finish_training(datasets: Sequence[CohortDataset], output_dir: str | Path) -> None:
    """
    Write the subjects that could not be used into ``failures.csv``.

    Args:
        datasets: data sets of training and validation.
        output_dir: folder of the file.

    Raises:
        CohortError: if there are such subjects; the weights have been written all the same.
    """
    failures = {subject: reason for dataset in datasets for subject, reason in dataset.failures.items()}
    total = len(failures) + sum(len(dataset) for dataset in datasets)
    raise_failures(failures, total, Path(output_dir) / "failures.csv")
