"""Probabilities that mean what they say: the share of such candidates that are microbleeds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn

logger = logging.getLogger(__name__)

STEEPEST = 10.0


def fit_scaling(difference: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Fit Platt's scaling: the slope and the offset of a logit that make the observed labels most probable.

    The slope is the inverse of a temperature (Guo et al., "On calibration of modern neural networks", 2017); the
    offset undoes what class weights do to the logit. Labels are smoothed as by Platt (1999), so that a perfect
    separation gives finite numbers.

    Args:
        difference: (N,) logit of a microbleed less that of another thing.
        labels: (N,) 1 for a microbleed, 0 for another thing; both kinds are there.

    Returns:
        slope, between 1 / STEEPEST and STEEPEST, and offset.
    """
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    target = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = np.exp(parameters[0]) * difference + parameters[1]
        error = expit(logit) - target
        value = np.logaddexp(0, logit) - target * logit
        return value.mean(), np.array([(error * (logit - parameters[1])).mean(), error.mean()])

    limit = np.log(STEEPEST)
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-limit, limit), (None, None)])
    return float(np.exp(found.x[0])), float(found.x[1])


@torch.no_grad()
def calibrate(
    classifier: nn.Module, data_loader: Iterable[Mapping], device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Calibrate a classifier on patches that it did not learn from.

    The scaling goes into the weights of the last layer, so that nothing else has to know of it.

    Args:
        classifier: patches to two logits, the last of a microbleed; its last linear layer is changed.
        data_loader: batches of "image", "label" and "source"; the candidates of stage 1 alone count. It is left as
            it is where they are not of both kinds.
        device: where the classifier is.

    Returns:
        slope and offset, see :func:`fit_scaling`.
    """
    classifier.eval()
    difference, labels = [], []
    for batch in data_loader:
        logits = classifier(torch.as_tensor(batch["image"]).to(device)).float().cpu()
        chosen = torch.tensor([source == "candidate" for source in batch["source"]])
        difference.append((logits[:, 1] - logits[:, 0])[chosen])
        labels.append(torch.as_tensor(batch["label"])[chosen])
    difference, labels = torch.cat(difference).double().numpy(), torch.cat(labels).numpy()
    if not 0 < labels.sum() < len(labels):
        logger.warning(f"Not calibrated: {int(labels.sum())} of {len(labels)} validation candidates are microbleeds.")
        return 1.0, 0.0
    slope, offset = fit_scaling(difference, labels)
    last = [module for module in classifier.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.mul_(slope)
    last.bias.mul_(slope)
    last.bias[1] += offset
    logger.info(f"Calibrated on {len(labels)} validation candidates: logit times {slope:.3f}, plus {offset:.3f}")
    return slope, offset
