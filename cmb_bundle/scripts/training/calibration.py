"""Calibrate probabilities, so that a probability is the fraction of such candidates that are microbleeds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn

from ..errors import KerasError
from ..networks.decision import JointDecision

logger = logging.getLogger(__name__)

STEEPEST = 10.0
FEWEST = 100
"""Microbleeds among the validation candidates below which a decision that was fitted before is not fitted again."""


def fit_scaling(difference: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Fit Platt scaling: the slope and the offset of a logit that make the observed labels most probable.

    The slope is the inverse of a temperature (Guo et al., "On calibration of modern neural networks", 2017); the
    offset undoes the effect of class weights on the logit. Labels are smoothed as in Platt (1999), so that a perfect
    separation gives finite numbers.

    Args:
        difference: (N,) logit of a microbleed minus the logit of no microbleed.
        labels: (N,) 1 for a microbleed, 0 otherwise; both must occur.

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
    optimum = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-limit, limit), (None, None)])
    return float(np.exp(optimum.x[0])), float(optimum.x[1])


@torch.no_grad()
def calibrate(
    network: nn.Module, data_loader: Iterable[Mapping], device: torch.device | str = "cpu", fewest: int = FEWEST
) -> None:
    """Calibrate the probability on patches that the network was not trained on.

    A network with a ``decision`` has it fitted, see :meth:`~..networks.decision.JointDecision.fit`. Otherwise the
    classifier's logit is scaled (:func:`fit_scaling`), by its weights, so that no other code depends on it.

    A decision that comes with the initial weights was fitted to more scans than most users have. With few microbleeds a
    new one is worse: fitted to 10 of 915 in 120 simulated T2*-weighted scans, and scored on the other scans at the same
    threshold, it gave 3.0 false positives per scan (standard deviation 1.6 over draws of the 10) where the former one
    gave 1.4; to 25, 2.0 (1.0); from 100 on, 1.8 (0.3), and ranked as well as the former one.

    Args:
        network: both stages; its ``classifier`` maps patches to two logits, the last for a microbleed, and scales them
            by a method ``scale_logit(slope, offset)``.
        data_loader: batches of "image", "label", "source" and "detector_score"; only candidates of stage 1 count. If
            these are not of both labels, the network is left unchanged.
        device: device of the network.
        fewest: microbleeds among the candidates below which a decision that was fitted before stays as it is.
    """
    classifier, decision = network.classifier.eval(), getattr(network, "decision", None)
    difference, labels, scores = [], [], []
    for batch in data_loader:
        logits = classifier(torch.as_tensor(batch["image"]).to(device)).float().cpu()
        chosen = torch.tensor([source == "candidate" for source in batch["source"]])
        difference.append((logits[:, 1] - logits[:, 0])[chosen])
        labels.append(torch.as_tensor(batch["label"])[chosen])
        if decision is not None:
            scores.append(torch.as_tensor(batch["detector_score"])[chosen])
    difference, labels = torch.cat(difference).double().numpy(), torch.cat(labels).numpy()
    if not 0 < labels.sum() < len(labels):
        logger.warning(f"Not calibrated: {int(labels.sum())} of {len(labels)} validation candidates are microbleeds.")
        return
    if decision is not None:
        if labels.sum() < fewest and _was_fitted(decision):
            logger.warning(
                f"The calibration of the initial weights stays: {int(labels.sum())} of {len(labels)} validation "
                f"candidates are microbleeds; a new one is fitted from {fewest} on."
            )
            return
        decision.fit(torch.cat(scores).double().numpy(), difference, labels)
        detector, of_classifier = decision.weights.tolist()
        logger.info(
            f"Calibrated on {len(labels)} validation candidates: logit of the score times {detector:.3f}, of the "
            f"classifier times {of_classifier:.3f}, plus {float(decision.offset):.3f}"
        )
        return
    slope, offset = fit_scaling(difference, labels)
    try:
        classifier.scale_logit(slope, offset)
    except KerasError as error:
        logger.warning(f"Not calibrated: {error}")
        return
    logger.info(f"Calibrated on {len(labels)} validation candidates: logit times {slope:.3f}, plus {offset:.3f}")


def _was_fitted(decision: JointDecision) -> bool:
    default = JointDecision()
    former = (decision.weights.cpu(), default.weights), (decision.offset.cpu(), default.offset)
    return not all(torch.equal(now, then) for now, then in former)
