"""The decision on a candidate, by both stages together."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn


class JointDecision(nn.Module):
    """
    The probability of a microbleed from the detector's score and the classifier's logit.

    A logistic regression: the sigmoid of ``detector * logit(score) + classifier * logit + offset``. Both stages err, in
    different ways, so that the sum of their logits ranks candidates better than either. The three numbers are buffers:
    they are fitted on validation scans (:meth:`fit`), not trained by gradient, and are saved with the weights.

    Args:
        detector: weight of the detector's logit; 0 leaves the decision to stage 2, as published.
        classifier: weight of the classifier's logit.
        offset: what is added.

    Example:
        >>> decision = JointDecision(detector=1.0, classifier=1.0, offset=-1.0)
        >>> decision(torch.tensor([0.5, 0.9]), torch.tensor([1.0, 1.0]))
        tensor([0.5000, 0.9000])
    """

    __constants__ = ("clip",)  # for TorchScript
    clip: float = 1e-4
    """Scores this near to 0 and 1 are taken as this far from them: a detector is never that sure."""

    def __init__(self, detector: float = 0.0, classifier: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor([detector, classifier], dtype=torch.float32))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))

    def forward(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Decide.

        Args:
            scores: (N,) detector scores, in [0, 1].
            logits: (N,) logit of a microbleed minus the logit of no microbleed, of the classifier.

        Returns:
            (N,) probabilities.
        """
        weights = self.weights.to(logits)
        of_detector = weights[0] * scores.clamp(self.clip, 1 - self.clip).logit()
        return (of_detector + weights[1] * logits + self.offset.to(logits)).sigmoid()

    @torch.no_grad()
    def fit(self, scores: np.ndarray, logits: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Set the weights and the offset to those that make the labels most probable.

        Neither weight may be negative. Labels are smoothed as in Platt (1999), so that a perfect separation gives
        finite numbers. A weak penalty keeps the weights of few candidates near 1.

        Args:
            scores: (N,) detector scores.
            logits: (N,) logits of the classifier, see :meth:`forward`.
            labels: (N,) 1 for a microbleed, 0 otherwise; both must occur.
            counts: (N,) how many candidates each stands for, such as less than 1 where the scans have more of its kind
                than those to be decided on; None for 1 each.
        """
        share = np.ones(len(labels)) if counts is None else np.asarray(counts, dtype=float)
        share = share / share.sum()
        positives, negatives = int(labels.sum()), int((1 - labels).sum())
        target = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        clipped = np.clip(scores.astype(float), self.clip, 1 - self.clip)
        terms = np.column_stack([np.log(clipped / (1 - clipped)), logits.astype(float), np.ones(len(labels))])

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            total = terms @ values
            penalty = np.array([values[0] - 1, values[1] - 1, 0.0]) / len(labels)
            value = share @ (np.logaddexp(0, total) - target * total) + 0.5 * len(labels) * penalty @ penalty
            return float(value), terms.T @ (share * (expit(total) - target)) + penalty

        fitted = minimize(loss, [1.0, 1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0, 10), (0, 10), (None, None)])
        self.weights.copy_(torch.as_tensor(fitted.x[:2]))
        self.offset.copy_(torch.as_tensor(fitted.x[2]))
