"""Which finding of one scan is which of another: one to one, by place, with a second look at what was not found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


@dataclass(frozen=True)
class Sighting:
    """
    A candidate of one scan.

    Attributes:
        first_mm: where it lies, RAS mm of the first scan.
        ras_mm: the same place in RAS mm of its own scan.
        probability: of a microbleed, by both stages.
        found: whether it was found, that is, probable enough; else it is a candidate below the threshold.
        label: of a found one, its number in the scan's label map; 0 for others.
        diameter_mm: its extent.
        region, side: in which region it lies, where regions were asked for; else empty.
    """

    first_mm: tuple[float, float, float]
    ras_mm: tuple[float, float, float]
    probability: float
    found: bool
    label: int = 0
    diameter_mm: float | None = None
    region: str = ""
    side: str = ""


@dataclass
class Track:
    """
    One lesion, or one place where there may be one, over all scans.

    Attributes:
        seen: what was seen of it, by the number of the scan, from 0.
    """

    seen: dict[int, Sighting] = field(default_factory=dict)

    @property
    def place_mm(self) -> np.ndarray:
        """(3,), RAS mm of the first scan: the mean of where it was found, or else of where its candidates were."""
        found = [one.first_mm for one in self.seen.values() if one.found]
        return np.mean(found or [one.first_mm for one in self.seen.values()], axis=0)

    @property
    def found(self) -> bool:
        """Whether it was found in any scan."""
        return any(one.found for one in self.seen.values())


def pair(places_mm: np.ndarray, others_mm: np.ndarray, distance_mm: float) -> list[tuple[int, int]]:
    """
    Pair places one to one, so that the sum over pairs of what they are nearer than ``distance_mm`` is largest.

    Unlike the most pairs, this leaves a place alone rather than tear a close pair apart for two far ones.

    Args:
        places_mm: (N, 3).
        others_mm: (M, 3) in the same space.
        distance_mm: the largest distance of a pair, itself allowed.

    Returns:
        pairs of indices, sorted.

    Example:
        >>> pair([[0, 0, 0], [4.5, 0, 0]], [[0, 0, 0.1], [-4.5, 0, 0]], 5.0)
        [(0, 0)]
        >>> pair([[0, 0, 0], [9, 0, 0]], [[9, 1, 0], [0, 5, 0]], 5.0)
        [(0, 1), (1, 0)]
    """
    places, others = (np.asarray(one, float).reshape(-1, 3) for one in (places_mm, others_mm))
    distance = cdist(places, others)
    feasible = distance <= distance_mm
    # a pair at exactly the largest distance is still worth something
    rows, columns = linear_sum_assignment(np.where(feasible, distance_mm - distance + 1e-6, 0), maximize=True)
    return sorted((int(r), int(c)) for r, c in zip(rows, columns, strict=True) if feasible[r, c])


def track(sessions: Sequence[Sequence[Sighting]], match_mm: float = 5.0, second_look_mm: float = 3.0) -> list[Track]:
    """
    Follow places over the scans of a patient.

    Of each further scan, what was found is paired with what was found before; what is left over of either with the
    candidates of the other, the second look; then candidates with candidates.

    Args:
        sessions: the candidates of each scan, those found among them.
        match_mm: the largest distance of a pair of which both were found.
        second_look_mm: the same of a pair of which one or both are candidates below the threshold.

    Returns:
        tracks, each candidate in one of them.

    Example:
        >>> seen = Sighting((0, 0, 0), (0, 0, 0), 0.9, True)
        >>> weak = Sighting((1, 0, 0), (1, 0, 0), 0.1, False)
        >>> [sorted(one.seen) for one in track([[weak], [seen]])], [len(track([[seen], []])), len(track([[], []]))]
        ([[0, 1]], [1, 0])
    """
    tracks: list[Track] = []
    for number, sightings in enumerate(sessions):
        left = list(range(len(tracks)))
        new = list(range(len(sightings)))
        for was_found, is_found in ((True, True), (True, False), (False, True), (False, False)):
            distance = match_mm if was_found and is_found else second_look_mm
            rows = [n for n in left if tracks[n].found == was_found]
            columns = [n for n in new if sightings[n].found == is_found]
            for row, column in pair(
                [tracks[n].place_mm for n in rows], [sightings[n].first_mm for n in columns], distance
            ):
                tracks[rows[row]].seen[number] = sightings[columns[column]]
                left.remove(rows[row])
                new.remove(columns[column])
        tracks += [Track({number: sightings[n]}) for n in new]
    return tracks
