"""How sure a lesion is that was seen in several scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 1e-3
"""Probabilities are kept so far from 0 and 1: no scan alone decides."""


def logit(probability: float) -> float:
    """The log of the odds.

    Example:
        >>> round(logit(0.5), 3), round(logit(0.9), 2)
        (0.0, 2.2)
    """
    p = float(np.clip(probability, LEAST, 1 - LEAST))
    return float(np.log(p / (1 - p)))


def joint_probability(probabilities: Sequence[float], prior: float, weight: float) -> float:
    """
    The probability that what was seen in several scans is a microbleed.

    With independent scans, the evidence of each (log odds less those of the prior) would add up. They are not: what
    looks like a microbleed once looks so again. So the evidence counts by ``weight`` where there are several scans.

    Args:
        probabilities: of the scans in which it was seen, one or more.
        prior: share of microbleeds among candidates.
        weight: 1 for independent scans, 1/n for n that say the same.

    Returns:
        of one scan its own probability.

    Example:
        >>> joint_probability([0.4], 0.1, 0.7)
        0.4
        >>> round(joint_probability([0.4, 0.4], 0.1, 0.7), 2), round(joint_probability([0.02, 0.02], 0.1, 0.7), 3)
        (0.58, 0.01)
    """
    if len(probabilities) == 1:
        return float(probabilities[0])
    base = logit(prior)
    total = base + weight * sum(logit(p) - base for p in probabilities)
    return float(1 / (1 + np.exp(-total)))
