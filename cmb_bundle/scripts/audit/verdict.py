"""Decide in which label convention a data set was written, by the image values under its points.

A microbleed is dark on SWI, so with the right reading of slice, x and y the points lie on dark spots, and with a
wrong one they lie anywhere. This file works on arrays; :mod:`.audit` reads the files and writes the results.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from ..data.labels import LabelConvention

KEYS = ("index_base", "swap_xy", "flip_x", "flip_y", "flip_slice")
CONVENTIONS = tuple(
    LabelConvention(base, *flags) for base in (1, 0) for flags in itertools.product((False, True), repeat=4)
)
"""All 32, the default first; if two score the same, the first of them is reported."""

INNER_MM, OUTER_MM = 5.0, 9.0
HIGHEST_CONTRAST = 12.0
MINIMUM_LESIONS = 10


@dataclass(frozen=True)
class Darkness:
    """How dark the locations of one scan are; each array has one entry per location.

    Args:
        contrast: (median of the surroundings - SWI at the location) / spread of the surroundings, from
            -``HIGHEST_CONTRAST`` to ``HIGHEST_CONTRAST``; 0 outside the head.
        darkest_contrast: the same of the darkest voxel within the search radius.
        darkest_offset: (N, 3) from the location to that voxel, in voxels.
        in_head: whether the location is in the head.
    """

    contrast: np.ndarray
    darkest_contrast: np.ndarray
    darkest_offset: np.ndarray
    in_head: np.ndarray


def darkness(
    swi: np.ndarray, head: np.ndarray, voxel: np.ndarray, spacing_mm: Sequence[float], search_mm: float = 2.0
) -> Darkness:
    """Measure how dark an image is at given locations, compared with their surroundings.

    The value at a location is interpolated linearly and not searched for in a neighbourhood: two index bases differ by
    one voxel along each axis, and a minimum over neighbours could not distinguish them. The surroundings are the tissue
    between 5 and 9 mm away, beyond the rim of the largest common microbleeds and their blooming; tissue is everything
    brighter than half the median of the head, which excludes bone, air and the darkest veins. The spread is 1.4826
    times the median absolute deviation (the standard deviation of a normal distribution), and at least 2 % of the
    median. The contrast is limited so that one location cannot outweigh many.

    Args:
        swi: (i, j, k).
        head: (i, j, k) bool.
        voxel: (N, 3) 0-based continuous indices, inside the image.
        spacing_mm: voxel size.
        search_mm: radius of the search for the darkest voxel.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    tissue = head & (swi > 0.5 * np.median(swi[head])) if head.any() else head
    reach = np.ceil(OUTER_MM / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(offsets * spacing, axis=1)
    shell = offsets[(distance >= INNER_MM) & (distance <= OUTER_MM)]
    search = offsets[distance <= max(search_mm, spacing.min())]
    number = len(voxel)
    contrast, darkest, in_head = np.zeros(number), np.zeros(number), np.zeros(number, dtype=bool)
    darkest_offset = np.zeros((number, 3))
    at_place = map_coordinates(swi, np.asarray(voxel, dtype=float).reshape(-1, 3).T, order=1, mode="nearest")
    for n, place in enumerate(np.asarray(voxel, dtype=float).reshape(-1, 3)):
        middle = np.clip(np.round(place).astype(int), 0, np.array(swi.shape) - 1)
        around = _values(swi, tissue, middle, shell)
        in_head[n] = head[tuple(middle)] and len(around) >= 20
        if not in_head[n]:
            continue
        median = np.median(around)
        spread = max(1.4826 * np.median(np.abs(around - median)), 0.02 * abs(median), 1e-12)
        near = middle + search[((middle + search >= 0) & (middle + search < swi.shape)).all(axis=1)]
        values = np.where(head[tuple(near.T)], swi[tuple(near.T)], np.inf)
        contrast[n] = (median - at_place[n]) / spread
        darkest[n] = (median - values.min()) / spread
        darkest_offset[n] = near[np.argmin(values)] - place
    limit = HIGHEST_CONTRAST
    return Darkness(contrast.clip(-limit, limit), darkest.clip(-limit, limit), darkest_offset, in_head)


def _values(swi: np.ndarray, mask: np.ndarray, middle: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The image values at the offsets around a voxel that lie in the image and in the mask."""
    places = middle + offsets
    places = tuple(places[((places >= 0) & (places < swi.shape)).all(axis=1)].T)
    return swi[places][mask[places]]


@dataclass(frozen=True)
class Verdict:
    """What the points say about the conventions.

    Args:
        best: the convention with the highest mean contrast; None if no convention has all points in the image.
        decided: for each key of a convention, whether its value is decided.
        reason: one sentence that says why the convention is decided, or why not.
        score: mean contrast of each of ``CONVENTIONS``; NaN if points lie outside the image.
        margin: for each, the mean difference from the best convention's contrast.
        margin_low: lower bound of ``margin``.
    """

    best: LabelConvention | None
    decided: dict[str, bool]
    reason: str
    score: np.ndarray
    margin: np.ndarray
    margin_low: np.ndarray

    @property
    def is_decided(self) -> bool:
        return all(self.decided.values())


def judge(
    contrast: np.ndarray,
    scan: Sequence[int],
    minimum_lesions: int = MINIMUM_LESIONS,
    minimum_contrast: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 10000,
    seed: int = 0,
) -> Verdict:
    """Choose the convention under which the points are darkest, and decide whether that is more than chance.

    The best convention is compared with every other one on the same microbleeds: the differences in contrast are
    averaged, and the lower bound of the average is the quantile (1 - ``confidence``) / 31 of a two-step bootstrap, over
    scans and over the microbleeds of each, so that a scan with many microbleeds does not count as many scans. The
    division by 31 (Bonferroni) makes ``confidence`` apply to the choice as a whole. A key of the
    convention is decided if the bound is above 0 for every convention that differs from the best one in this key.

    A bootstrap of few microbleeds is overconfident, so at least ``minimum_lesions`` are required. With 10 of them a
    sign test could also decide (2^-10 is below 0.05 / 31), with 9 it could not.

    Args:
        contrast: (N, 32) of each microbleed under each of ``CONVENTIONS``; NaN outside the image.
        scan: (N,) index of the scan of each microbleed.
        minimum_lesions: with fewer microbleeds nothing is decided.
        minimum_contrast: with a lower mean contrast of the best convention nothing is decided.
        confidence: level of confidence of the choice.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    contrast = np.asarray(contrast, dtype=float).reshape(-1, len(CONVENTIONS))
    nothing = dict.fromkeys(KEYS, False)
    nan = np.full(len(CONVENTIONS), np.nan)
    if len(contrast) == 0:
        return Verdict(None, nothing, "There are no microbleeds to judge by.", nan, nan, nan)
    score = contrast.mean(axis=0)
    if np.isnan(score).all():
        reason = (
            "No convention has every point inside its image: the labels, or some of them, seem to belong to other "
            "images, to images that were resampled later, or to images whose slices do not run along the third axis."
        )
        return Verdict(None, nothing, reason, score, nan, nan)
    best = int(np.nanargmax(score))
    difference = contrast[:, [best]] - contrast
    margin_low = _lower_bounds(difference, np.asarray(scan), (1 - confidence) / (len(CONVENTIONS) - 1), resamples, seed)
    beaten = np.isnan(score) | (margin_low > 0)
    decided = {
        key: all(
            beaten[n] for n, other in enumerate(CONVENTIONS) if getattr(other, key) != getattr(CONVENTIONS[best], key)
        )
        for key in KEYS
    }
    open_keys = ", ".join(key for key in KEYS if not decided[key])
    if len(contrast) < minimum_lesions:
        decided, reason = nothing, f"There are {len(contrast)} microbleeds; {minimum_lesions} are needed to decide."
    elif score[best] < minimum_contrast:
        decided = nothing
        reason = (
            f"The SWI is not dark under the points with any convention: the best contrast is {score[best]:.2f}, "
            f"expected {minimum_contrast:g} or more. Do the labels belong to these images?"
        )
    elif open_keys:
        reason = f"Another value of {open_keys} fits equally well within chance: more labels are needed."
    else:
        reason = f"It beats every other convention, with {confidence:.0%} confidence for the choice as a whole."
    return Verdict(CONVENTIONS[best], decided, reason, score, difference.mean(axis=0), margin_low)


def _lower_bounds(difference: np.ndarray, scan: np.ndarray, level: float, resamples: int, seed: int) -> np.ndarray:
    """Quantile of each column's mean over two-step resamples of the rows: scans, then rows of each scan."""
    random = np.random.default_rng(seed)
    scans, member = np.unique(scan, return_inverse=True)
    times = random.multinomial(len(scans), np.full(len(scans), 1 / len(scans)), size=resamples)
    weight = np.zeros((resamples, len(difference)))
    for number in range(len(scans)):
        rows = np.flatnonzero(member == number)
        weight[:, rows] = random.multinomial(times[:, number] * len(rows), np.full(len(rows), 1 / len(rows)))
    means = weight @ difference / weight.sum(axis=1, keepdims=True)
    return np.quantile(means, level, axis=0)
