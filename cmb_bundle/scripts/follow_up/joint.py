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


def joint_probability(probabilities: Sequence[float], weight: float) -> float:
    """
    The probability that what was seen in several scans is a microbleed.

    With independent scans, log odds would add up. They are not: what looks like a microbleed once looks so again. So
    those of each scan count by ``weight`` where there are several.

    Args:
        probabilities: of the scans in which it was seen, one or more.
        weight: 1 for independent scans, 1/n for n that say the same.

    Returns:
        of one scan its own probability.

    Example:
        >>> joint_probability([0.4], 0.65)
        0.4
        >>> round(joint_probability([0.8, 0.8], 0.65), 2), round(joint_probability([0.2, 0.2], 0.65), 2)
        (0.86, 0.14)
    """
    if len(probabilities) == 1:
        return float(probabilities[0])
    return float(1 / (1 + np.exp(-weight * sum(logit(p) for p in probabilities))))
