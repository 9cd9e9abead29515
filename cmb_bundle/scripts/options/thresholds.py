"""The thresholds of both stages, by an operating point or one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import OptionError
from .values import VALUES


class Thresholds:
    """
    The thresholds of both stages: those of an operating point, or others given in their place.

    Args:
        operating_points: ``candidate_threshold`` and ``probability_threshold`` of each, by its name.
        operating_point: the name of one.
        candidate_threshold: smallest score of stage 1 that makes a candidate, in [0, 1]; None is that of the point.
        probability_threshold: smallest probability of stage 2 that makes a microbleed, likewise.

    Attributes:
        candidate: the candidate threshold.
        probability: the probability threshold.

    Raises:
        OptionError: there is no such operating point, or a threshold is no number from 0 to 1.

    Example:
        >>> points = {"balanced": {"candidate_threshold": 0.3, "probability_threshold": 0.4}}
        >>> thresholds = Thresholds(points, "balanced", probability_threshold=0.5)
        >>> thresholds.candidate, thresholds.probability
        (0.3, 0.5)
    """

    def __init__(
        self,
        operating_points: Mapping[str, Mapping[str, float]],
        operating_point: str,
        candidate_threshold: float | None = None,
        probability_threshold: float | None = None,
    ) -> None:
        if operating_point not in operating_points:
            raise OptionError(f"operating_point is {operating_point!r}; expected one of {', '.join(operating_points)}.")
        self.operating_points = operating_points
        self.operating_point = operating_point
        self.candidate = self._chosen("candidate_threshold", candidate_threshold)
        self.probability = self._chosen("probability_threshold", probability_threshold)

    def _chosen(self, name: str, given: float | None) -> float:
        value = self.operating_points[self.operating_point][name] if given is None else given
        check, expected = VALUES[name]
        if not check(value):
            raise OptionError(f"{name} is {value!r}; expected {expected}.")
        return value

    @property
    def point_names(self) -> list[str]:
        """The names of the operating points, the configured one first, as a server's client shows a choice."""
        return sorted(self.operating_points, key=lambda name: name != self.operating_point)

    def of_request(self, request: Mapping[str, Any]) -> Thresholds:
        """
        The thresholds that a server's request means, which holds all options, those left alone among them.

        Args:
            request: ``operating_point``, where a list means its first, ``candidate_threshold`` and
                ``probability_threshold``.

        Returns:
            for each stage the threshold of the request, where it differs from this one or the operating point is the
            same; else that of the request's operating point.

        Raises:
            OptionError: as of the class.
        """
        point = request["operating_point"]
        point = point if isinstance(point, str) else point[0]
        given = {
            "candidate_threshold": (float(request["candidate_threshold"]), self.candidate),
            "probability_threshold": (float(request["probability_threshold"]), self.probability),
        }
        same_point = point == self.operating_point
        changed = {name: asked for name, (asked, mine) in given.items() if same_point or asked != mine}
        return Thresholds(self.operating_points, point, **changed)
