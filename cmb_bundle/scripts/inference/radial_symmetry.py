"""Candidates without learning: the fast radial symmetry transform in 3D, a classical alternative to stage 1.

Loy and Zelinsky, "Fast radial symmetry for detecting points of interest", IEEE TPAMI 25:959, 2003, in three dimensions
and in mm, as Kuijf et al. used it for microbleeds (NeuroImage 59:2266, 2012).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage

from ..candidate import Candidate
from ..detection.candidates import CANDIDATE_COLUMNS, candidates_from_table
from ..geometry import suppressed_by
from .findings import background
from .inferers import TwoStageInferer

RADII_MM = (1.0, 1.5, 2.0, 3.0, 4.0)
SPHERE_CONTRAST = 0.5
SMOOTHING_VOXELS = 0.6


def radial_symmetry(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    radii_mm: Sequence[float] = RADII_MM,
    alpha: float = 2.0,
    minimum_gradient: float = 0.05,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Tell for each voxel how much it is the centre of something dark and round.

    On the edge of a dark sphere the gradient points away from its centre. So each voxel p with gradient g votes for the
    place p - r g / abs(g), for each radius r: one vote, and the length of g besides (only against the gradient: bright
    things get none). Where many voxels meet, the votes O and lengths M of a radius are high, and

        F = M / m * min(O / k, 1) ** alpha

    with O and M smoothed over a fourth of the radius, as in the original, and over 0.6 voxels at least, as edges are
    found no finer; a vote is shared by the eight voxels around its place. k and m are what the centre of a sphere of
    this radius gets on this grid, its contrast being 1 for m; so F of a sphere is its contrast, whatever its radius and
    the shape of the voxels. (The original has a constant, found by experiment, for k.) ``alpha`` punishes what is seen
    from few directions, as a vein, whose edge votes for a line.

    Args:
        image: (i, j, k).
        spacing_mm: size of a voxel; steps and gradients are taken in mm, so that a sphere is one on any grid.
        radii_mm: radii looked for.
        alpha: radial strictness, 1 to 3; 2 is the original's choice.
        minimum_gradient: voxels with a shorter gradient, in intensity a mm, do not vote.
        mask: (i, j, k) bool; only its voxels vote.

    Returns:
        (radii, i, j, k) float32.

    Example:
        >>> i, j, k = np.meshgrid(*[np.arange(24) * 0.5] * 3, indexing="ij")
        >>> distance = np.sqrt((i - 5) ** 2 + (j - 6) ** 2 + (k - 6) ** 2)
        >>> image = 0.5 - 0.4 * np.clip((1.5 - distance) / 0.5 + 0.5, 0, 1)  # a dark sphere 3 mm wide
        >>> symmetry = radial_symmetry(image, (0.5, 0.5, 0.5), radii_mm=(1.0, 1.5, 3.0))
        >>> place = np.unravel_index(symmetry.max(axis=0).argmax(), image.shape)
        >>> [int(n) for n in place], [round(float(n), 1) for n in symmetry[:, 10, 12, 12]]  # its centre
        ([10, 12, 12], [0.6, 0.5, 0.0])
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    voters = _voters(np.asarray(image, dtype=np.float32), spacing, minimum_gradient, mask)
    result = np.empty((len(radii_mm), *image.shape), dtype=np.float32)
    for n, radius in enumerate(radii_mm):
        count, total = _vote(*voters, image.shape, radius, spacing)
        whole, most = _ideal(radius, spacing, minimum_gradient)
        result[n] = total / most * np.minimum(count / whole, 1) ** alpha
    return result


def _voters(
    image: np.ndarray, spacing: np.ndarray, minimum_gradient: float, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels (3, N) with a gradient, its direction (3, N) in voxels a mm, its length (N,) a mm."""
    gradient = np.gradient(image, *spacing.astype(np.float32))
    length = np.sqrt(sum(np.square(one) for one in gradient))
    votes = length > minimum_gradient
    if mask is not None:
        votes &= mask
    strength = length[votes]
    direction = np.stack([one[votes] / strength / size for one, size in zip(gradient, spacing, strict=True)])
    return np.stack(np.nonzero(votes)), direction, strength


def _vote(
    voxel: np.ndarray, direction: np.ndarray, strength: np.ndarray, shape: tuple, radius: float, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed number (i, j, k) of votes for a place, and the sum of their gradients' lengths."""
    size = int(np.prod(shape))
    place = voxel - radius * direction
    low = np.floor(place).astype(np.int32)
    # of both neighbours along each axis: the index, the share of the vote, and whether it lies in the map
    sides = [
        [(at := low[axis] + step, 1 - np.abs(place[axis] - at), (at >= 0) & (at < shape[axis])) for step in (0, 1)]
        for axis in range(3)
    ]
    maps = np.zeros((2, size))
    for (i, share_i, in_i), (j, share_j, in_j), (k, share_k, in_k) in itertools.product(*sides):
        inside = in_i & in_j & in_k
        share = share_i * share_j * share_k
        flat = np.ravel_multi_index((i[inside], j[inside], k[inside]), shape)
        maps[0] += np.bincount(flat, share[inside], minlength=size)
        maps[1] += np.bincount(flat, (share * strength)[inside], minlength=size)
    sigma = np.maximum(0.25 * radius / spacing, SMOOTHING_VOXELS)
    count, total = (
        ndimage.gaussian_filter(one.astype(np.float32).reshape(shape), sigma, mode="constant", truncate=3.0)
        for one in maps
    )
    return count, total


@lru_cache
def _ideal_of(radius: float, spacing: tuple[float, ...], minimum_gradient: float) -> tuple[float, float]:
    size = np.array(spacing)
    half, fine = np.ceil(radius / size).astype(int) + 3, 5
    # a quarter of a voxel from the middle of one along each axis, which is neither the best place nor the worst
    axes = [
        ((np.arange(fine * (2 * n + 1)) + 0.5) / fine - 0.5 - n - 0.25) * edge
        for n, edge in zip(half, size, strict=True)
    ]
    inside = sum(np.square(np.meshgrid(*axes, indexing="ij"))) <= radius**2
    shape = 2 * half + 1
    share = inside.reshape(shape[0], fine, shape[1], fine, shape[2], fine).mean(axis=(1, 3, 5))
    sphere = (SPHERE_CONTRAST * (1 - share)).astype(np.float32)
    count, total = _vote(*_voters(sphere, size, minimum_gradient), sphere.shape, radius, size)
    return float(count.max()), float(total.max()) / SPHERE_CONTRAST


def _ideal(radius: float, spacing: np.ndarray, minimum_gradient: float) -> tuple[float, float]:
    """The highest smoothed number of votes of a dark sphere, and their sum a unit of its contrast."""
    return _ideal_of(float(radius), tuple(spacing.tolist()), float(minimum_gradient))


class RadialSymmetryInferer(TwoStageInferer):
    """
    The two-stage inferer with radial symmetry in place of the trained detector; stage 2 is the same.

    A candidate is a local maximum of the highest radial symmetry of all radii, with none higher within ``merge_mm``.
    Its place is refined by a parabola through the neighbours along each axis. Its score is the symmetry, on the scale
    of the image: about the contrast of an ideal sphere. Its diameter is twice the largest radius whose symmetry is at
    least 0.4 of the highest one, since in the middle of a large sphere the votes of a smaller radius meet, too, while
    those of a larger one do not.

    Args:
        spacing: voxel spacing of the model's grid in mm.
        radii_mm: radii looked for.
        alpha: radial strictness, see :func:`radial_symmetry`.
        minimum_gradient: see :func:`radial_symmetry`; SWI is scaled so that tissue is 0.5.
        candidate_threshold: lower maxima are no candidates.
        kwargs: as of :class:`~.inferers.TwoStageInferer`.

    Example:
        >>> i, j, k = torch.meshgrid(*[torch.arange(24) * 0.5] * 3, indexing="ij")
        >>> distance = torch.sqrt((i - 5) ** 2 + (j - 6) ** 2 + (k - 6) ** 2)
        >>> swi = 0.5 - 0.4 * ((1.5 - distance) / 0.5 + 0.5).clamp(0, 1)  # a dark sphere 3 mm wide
        >>> inferer = RadialSymmetryInferer(spacing=(0.5, 0.5, 0.5), radii_mm=(1.0, 1.5, 3.0))
        >>> candidate = inferer.find_candidates(swi[None])[0]
        >>> round(candidate.diameter_mm, 2), round(candidate.detector_score, 2), candidate.n_slices
        (3.0, 0.57, 6)
    """

    decides_jointly = False

    def __init__(
        self,
        spacing: tuple[float, float, float],
        radii_mm: Sequence[float] = RADII_MM,
        alpha: float = 2.0,
        minimum_gradient: float = 0.05,
        candidate_threshold: float = 0.3,
        **kwargs: object,
    ) -> None:
        super().__init__(spacing, candidate_threshold=candidate_threshold, **kwargs)
        self.radii_mm, self.alpha, self.minimum_gradient = tuple(radii_mm), alpha, minimum_gradient

    def ranked_candidates(self, volume: torch.Tensor, detector: torch.nn.Module | None = None) -> list[Candidate]:
        """Stage 1: all candidates of a volume (2, i, j, k), best score first.

        Args:
            volume: channel 0 is SWI, 0 outside of the head.
            detector: not used.
        """
        swi = volume[0].float().cpu().numpy()
        # the head's own outline is no edge of a lesion
        head = ~ndimage.binary_dilation(background(swi))
        symmetry = radial_symmetry(swi, self.spacing, self.radii_mm, self.alpha, self.minimum_gradient, mask=head)
        best = symmetry.max(axis=0) * head
        places = np.argwhere(
            (best >= self.candidate_threshold) & (best > 0) & (best == ndimage.maximum_filter(best, 3))
        )
        score = best[tuple(places.T)]
        order = np.argsort(-score, kind="stable")
        kept = suppressed_by(places[order] * self.spacing, self.merge_mm, drop_at_distance=True) < 0
        order = order[kept]
        places, score = places[order], score[order]
        found = symmetry[(slice(None), *places.T)]
        enough = found >= 0.4 * found.max(axis=0, initial=0)
        diameter = 2 * np.where(enough, np.array(self.radii_mm)[:, None], 0).max(axis=0)
        columns = {
            **dict(zip("ijk", (places + _parabola(best, places)).T, strict=True)),
            "diameter_mm": diameter,
            "detector_score": score,
            "n_slices": np.maximum(1, np.round(diameter / self.spacing[2])),
            **dict.fromkeys(("classifier_probability", "probability"), np.full(len(score), np.nan)),
        }
        table = np.column_stack([columns[name] for name in CANDIDATE_COLUMNS])
        return candidates_from_table(torch.as_tensor(table, dtype=torch.float32))


def _parabola(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """From each place (N, 3) to the top of the parabola through it and its two neighbours, along each axis."""
    padded = np.pad(values, 1)
    shift = np.zeros(places.shape)
    middle = padded[tuple((places + 1).T)]
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        before, after = (padded[tuple((places + 1 + sign * step).T)] for sign in (-1, 1))
        bend = 2 * middle - before - after
        shift[:, axis] = np.where(bend > 0, (after - before) / np.where(bend > 0, 2 * bend, 1), 0)
    return shift.clip(-0.5, 0.5)
