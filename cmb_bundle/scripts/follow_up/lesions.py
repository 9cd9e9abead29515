"""Each lesion over time: its state in each scan, what that says since the first, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine

from .joint import joint_probability
from .matching import Sighting, Track
from .protocol import Coverage, Protocol, less_sensitive, would_show
from .second_look import darkness

STABLE, NEW, GONE = "stable", "new", "gone"
BELOW_THEN, BELOW_NOW = "below the threshold then", "below the threshold now"
NOT_TOLD, ABSENT = "cannot be told", "not there"
STATUSES = (STABLE, NEW, GONE, BELOW_THEN, BELOW_NOW, NOT_TOLD, ABSENT)
FOUND, BELOW, DARK, NOTHING, UNSEEN = "found", "below the threshold", "dark, not found", "not found", "not seen"
"""States of a lesion in one scan."""
BANDS = ((0, "0"), (4, "1-4"), (9, "5-9"))
MORE = "10 and more"


@dataclass(frozen=True)
class View:
    """
    What it takes to judge a place in one scan.

    Attributes:
        protocol: how the scan was made.
        coverage: what it shows.
        image: (i, j, k) on the coverage's grid, for the second look.
        from_first: (4, 4), RAS mm of the first scan to those of this one.
    """

    protocol: Protocol
    coverage: Coverage
    image: np.ndarray
    from_first: np.ndarray


@dataclass(frozen=True)
class Lesion:
    """
    One lesion over all scans of a patient.

    Attributes:
        number: the same in all scans, from 1.
        place_mm: RAS mm of the first scan.
        states: of each scan, one of FOUND, BELOW, DARK, NOTHING, UNSEEN.
        statuses: of each scan, one of STATUSES, against the first scan; of the first an empty text.
        reasons: of each scan, why it cannot be told, or was not seen; else empty.
        probability: the joint one, over the scans in which it was seen.
        certain: whether that is at least the threshold of certain ones.
        seen: what was seen of it, by the number of the scan from 0.
    """

    number: int
    place_mm: tuple[float, float, float]
    states: tuple[str, ...]
    statuses: tuple[str, ...]
    reasons: tuple[str, ...]
    probability: float
    certain: bool
    seen: dict[int, Sighting]

    @property
    def status(self) -> str:
        """That of the last scan."""
        return self.statuses[-1]

    @property
    def first_found(self) -> int | None:
        """The number, from 0, of the first scan in which it was found; None where only all together are sure."""
        return next((n for n, state in enumerate(self.states) if state == FOUND), None)


def band(number: int) -> str:
    """
    The class of a number of new microbleeds, as those of ARIA-H have it: 1-4 mild, 5-9 moderate, 10 and more severe.

    Example:
        >>> [band(number) for number in (0, 1, 4, 5, 9, 10)]
        ['0', '1-4', '1-4', '5-9', '5-9', '10 and more']
    """
    return next((name for most, name in BANDS if number <= most), MORE)


def judge(
    tracks: Sequence[Track],
    views: Sequence[View],
    threshold: float,
    certain_threshold: float,
    dark_share: float,
    weight: float,
) -> list[Lesion]:
    """
    Make lesions of tracks: those that were found in a scan, or are sure enough over all scans.

    Args:
        tracks: see :func:`~.matching.track`.
        views: of each scan.
        threshold: joint probability from which what was found in no scan alone is a lesion.
        certain_threshold: joint probability of a certain lesion.
        dark_share: where nothing was found in a scan, something was there all the same if the image is so dark there,
            against its surroundings, as a share of how dark it is where the lesion was found.
        weight: see :func:`~.joint.joint_probability`.

    Returns:
        lesions, numbered by the scan in which they were found first, then the surest first.
    """
    chosen = []
    for one in tracks:
        joint = joint_probability([s.probability for s in one.seen.values()], weight)
        if one.found or (len(one.seen) > 1 and joint >= threshold):
            chosen.append((one, joint))
    found_in = [min((n for n, s in one.seen.items() if s.found), default=0) for one, _ in chosen]
    order = sorted(range(len(chosen)), key=lambda n: (found_in[n], -chosen[n][1], tuple(chosen[n][0].place_mm)))
    return [_lesion(number, *chosen[n], views, certain_threshold, dark_share) for number, n in enumerate(order, 1)]


def _lesion(
    number: int, one: Track, joint: float, views: Sequence[View], certain_threshold: float, dark_share: float
) -> Lesion:
    place = one.place_mm
    states, reasons = [], []
    darkest = max((_darkness(views[n], place) for n, seen in one.seen.items() if seen.found), default=0.0)
    for n, view in enumerate(views):
        misses = ""
        if n in one.seen:
            states.append(FOUND if one.seen[n].found else BELOW)
        else:
            misses = view.coverage.misses(apply_affine(view.from_first, place))
            dark = not misses and darkest > 0 and _darkness(view, place) >= dark_share * darkest
            states.append(UNSEEN if misses else DARK if dark else NOTHING)
        reasons.append(misses)
    # of what no scan shows by itself but all together do, each scan that has a candidate counts
    taken = states if one.found else [FOUND if state == BELOW else state for state in states]
    statuses = [""]
    for n in range(1, len(views)):
        status, reason = _compare(taken[0], taken[n], one, n, views, reasons[0] or reasons[n])
        statuses.append(status)
        reasons[n] = reason
    return Lesion(
        number, tuple(float(v) for v in place), tuple(states), tuple(statuses), tuple(reasons), round(joint, 4),
        joint >= certain_threshold, dict(one.seen),
    )  # fmt: skip


def _darkness(view: View, place_mm: np.ndarray) -> float:
    return darkness(view.image, view.coverage.affine, apply_affine(view.from_first, place_mm)) or 0.0


def _compare(first: str, later: str, one: Track, n: int, views: Sequence[View], misses: str) -> tuple[str, str]:
    """The status of a lesion in a later scan against the first, and why it cannot be told."""
    if UNSEEN in (first, later):
        return NOT_TOLD, misses
    both = {
        (FOUND, FOUND): STABLE, (BELOW, FOUND): BELOW_THEN, (DARK, FOUND): BELOW_THEN,
        (FOUND, BELOW): BELOW_NOW, (FOUND, DARK): BELOW_NOW,
    }  # fmt: skip
    if (first, later) in both:
        return both[first, later], ""
    if FOUND not in (first, later):
        return ABSENT, ""
    shown, missing = (n, 0) if later == FOUND else (0, n)
    protocols = views[missing].protocol, views[shown].protocol
    why = less_sensitive(*protocols)
    if why and not would_show(*protocols, one.seen[shown].diameter_mm):
        when = "then" if missing == 0 else "now"
        return NOT_TOLD, f"{when} " + "; ".join(why)
    return (NEW if later == FOUND else GONE), ""


def counts(lesions: Sequence[Lesion], session: int) -> dict:
    """
    Count the lesions of a scan against the first.

    Args:
        lesions: of :func:`judge`.
        session: number of the scan, from 1 for the second.

    Returns:
        "new" with "certain", "possible" (all that are not certain), "all", and "band_certain" and "band_all", the
        classes of ARIA-H; and the number of each other status.
    """
    new = [one for one in lesions if one.statuses[session] == NEW]
    certain = sum(one.certain for one in new)
    found = {
        "certain": certain, "possible": len(new) - certain, "all": len(new),
        "band_certain": band(certain), "band_all": band(len(new)),
    }  # fmt: skip
    rest = {name: sum(one.statuses[session] == name for one in lesions) for name in STATUSES if name != NEW}
    return {"new": found, **rest}
