"""How sure a lesion is that was seen in several scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

LEAST = 1e-3
"""Probabilities are kept so far from 0 and 1: no scan alone decides."""


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
    return float(expit(weight * logit(np.clip(probabilities, LEAST, 1 - LEAST)).sum()))
