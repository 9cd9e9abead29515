"""Options that a person gives, checked with errors that say what is expected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .errors import OptionError


def check_flags(**flags: object) -> None:
    """
    Refuse what is no truth value: ``false`` on the command line is a word, and any word counts as true.

    Raises:
        OptionError: one of them is neither True nor False.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise OptionError(
                f"{name} is {value!r}; expected a truth value, on the command line True or False with a capital letter."
            )


def threshold_at(operating_points: Mapping[str, Mapping[str, float]], operating_point: str, name: str) -> float:
    """
    A threshold at an operating point.

    Args:
        operating_points: thresholds by name, for each point.
        operating_point: the name of one.
        name: of the threshold.

    Raises:
        OptionError: there is no such operating point.
    """
    if operating_point not in operating_points:
        raise OptionError(f"operating_point is {operating_point!r}; expected one of {', '.join(operating_points)}.")
    return operating_points[operating_point][name]
