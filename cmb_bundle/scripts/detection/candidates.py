"""From boxes on slices to candidates in the volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import expit, logit
from torch import Tensor

from ..candidate import Candidate

DIP = 0.25
"""Within a microbleed that shows on several thick slices the score may fall this far between two of them."""

BRIGHTER = 0.15
"""By this share of a microbleed's contrast to its surroundings SWI may brighten between its two ends. Between two
microbleeds of 3 and 4 mm, 7 mm apart, it brightens by 0.23."""

SURROUNDINGS_MM = 10.0
"""Half the edge of the square whose median is taken for the surroundings of a candidate."""

CANDIDATE_COLUMNS = (
    "i", "j", "k", "diameter_mm", "detector_score", "n_slices", "classifier_probability", "probability",
)  # fmt: skip
"""Columns of a table of candidates, the form in which they pass through MONAI's engines, which take tensors apart and
put them together: continuous voxel index on the model's grid, and the fields of :class:`~..candidate.Candidate`."""


def candidates_to_table(candidates: Sequence[Candidate]) -> Tensor:
    """
    Put candidates into a table.

    Args:
        candidates: with a ``model_voxel``, a diameter and a number of slices each.

    Returns:
        (N, 8) float32 with the columns :data:`CANDIDATE_COLUMNS`; a probability is NaN where it is None.
    """
    rows = [
        [
            *c.model_voxel,
            c.diameter_mm,
            c.detector_score,
            c.n_slices,
            *(np.nan if p is None else p for p in (c.classifier_probability, c.probability)),
        ]
        for c in candidates
    ]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, len(CANDIDATE_COLUMNS))


def candidates_from_table(table: Tensor) -> list[Candidate]:
    """
    Read a table of candidates.

    Args:
        table: (N, 8) with the columns :data:`CANDIDATE_COLUMNS`. Rows of NaN, with which subjects of a batch are
            filled up to the same number, are skipped.
    """
    candidates = []
    for row in torch.as_tensor(table).double().cpu().numpy():
        value = dict(zip(CANDIDATE_COLUMNS, row.tolist(), strict=True))
        if np.isnan(value["i"]):
            continue
        candidates.append(
            Candidate(
                ras_mm=None,
                detector_score=value["detector_score"],
                **{name: None if np.isnan(value[name]) else value[name] for name in CANDIDATE_COLUMNS[-2:]},
                diameter_mm=value["diameter_mm"],
                n_slices=int(value["n_slices"]),
                model_voxel=(value["i"], value["j"], value["k"]),
            )
        )
    return candidates


def merge_slices(
    detections: Sequence[tuple[Tensor, Tensor]],
    spacing_mm: Sequence[float],
    merge_mm: float = 3.0,
    max_gap: int = 1,
    score_slices: int = 1,
    missing_slice_score: float = 0.005,
    swi: Tensor | np.ndarray | None = None,
) -> list[Candidate]:
    """Merge the boxes of all slices of a volume to candidates.

    It is a suppression in 3D that keeps what it suppresses: the best box not yet taken becomes the seed of a
    candidate and takes every free box whose centre lies in a cylinder around its own, of radius ``merge_mm``
    and half height ``merge_mm`` (``max_gap`` slices at least), provided the slices in between are not empty
    of them. Linking neighbours and taking the connected components instead would chain all boxes along a
    vein, and any microbleed beside it, to one candidate with its centre nowhere; here nothing farther than
    ``merge_mm`` from the seed can be drawn in, so a vein gives a row of candidates and a microbleed keeps its
    own. A large or blooming microbleed shows on slices beyond the cylinder too, most of all where slices are thick or
    a minimum intensity projection. So that it is not counted twice, boxes right above and below the seed, within a
    quarter of ``merge_mm`` in the plane and on slices without a step of more than ``max_gap``, make no candidate of
    their own. They count towards the seed's position, which would otherwise be at one end where the ends have the best
    scores, but not towards its diameter and score. Another microbleed lies where the score rises again from less than
    ``DIP`` of what it rises to, or rises at all farther than a step beyond the cylinder, unless ``swi`` stays as dark
    as the seed all the way there.

    Args:
        detections: for each slice k in turn its boxes (N, 4), (axis 0 min, axis 1 min, axis 0 max, axis 1
            max) in pixel edges, and scores (N,), both tensors or arrays. N may be 0.
        spacing_mm: size of a voxel along i, j and k.
        merge_mm: radius in the plane and half height; the default is a little over the median apparent
            diameter of a microbleed (2.7 mm).
        max_gap: largest step between slices of a candidate; 1 allows no slice without a box in between.
        score_slices: slices that a candidate's score is taken over: the probability at the mean of the logits of
            the best scores on its best slices. 1 takes the best score; with 2, what is dark on one slice alone is
            ranked lower.
        missing_slice_score: what a slice without a box counts in such a score, and the least that a box counts: a
            score below the detector's ``score_thresh``, as the detector reports no box with less.
        swi: (i, j, k) SWI, 0 in the background. A slice is as dark as the seed if it is brighter by at most
            ``BRIGHTER`` of the seed's contrast. Without ``swi``, a score that rises again there is always another
            microbleed.

    Returns:
        the candidates, by best box, in numbers of single precision. Positions are means weighted by score over the
        boxes taken and those right above and below, diameters over the boxes taken; the centre of a box is at voxel
        index (min + max) / 2 - 0.5.

    Raises:
        ValueError: if ``merge_mm`` is not positive, ``max_gap`` or ``score_slices`` is below 1,
            ``missing_slice_score`` is not between 0 and 0.5, or a slice has other numbers of boxes and of scores.

    Example:
        >>> nothing = (torch.zeros(0, 4), torch.zeros(0))
        >>> above = (torch.tensor([[3.0, 3.0, 6.0, 6.0]]), torch.tensor([0.9]))
        >>> below = (torch.tensor([[4.0, 3.0, 7.0, 6.0]]), torch.tensor([0.3]))
        >>> [candidate] = merge_slices([nothing, above, below, nothing], spacing_mm=(0.6, 0.6, 2.0))
        >>> candidate.model_voxel, candidate.n_slices
        ((4.25, 4.0, 1.25), 2)
        >>> round(candidate.diameter_mm, 2), round(candidate.detector_score, 2)
        (1.8, 0.9)
    """
    if merge_mm <= 0 or max_gap < 1:
        raise ValueError(f"merge_mm must be positive and max_gap 1 or more, got {merge_mm} and {max_gap}.")
    if score_slices < 1:
        raise ValueError(f"score_slices is {score_slices}; expected 1 or more.")
    if not 0 < missing_slice_score < 0.5:
        raise ValueError(
            f"missing_slice_score is {missing_slice_score}; expected a number above 0 and below 0.5, such as half of "
            "the detector's score_thresh."
        )
    boxes, scores, slices = _gather(detections)
    if len(scores) == 0:
        return []
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    boxes, scores, slices = boxes[order], scores[order], slices[order]
    centres = np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5, slices])
    diameters = ((boxes[:, 2:] - boxes[:, :2]) * spacing[:2]).mean(1)
    weights = np.maximum(scores, np.finfo(np.float64).tiny)

    half_height = max(float(max_gap), np.floor(merge_mm / spacing[2] + 1e-6))
    scaled = centres * [*(spacing[:2] / merge_mm), 1 / half_height]
    tolerance = 1 + 1e-9
    neighbours = cKDTree(scaled).query_ball_point(scaled, np.sqrt(2) * tolerance)
    column = cKDTree(scaled[:, :2]).query_ball_point(scaled[:, :2], 0.25 * tolerance)
    values = None if swi is None else torch.as_tensor(swi).detach().float().cpu().numpy()
    free = np.ones(len(scores), dtype=bool)
    rows = []
    for seed in range(len(scores)):
        if not free[seed]:
            continue
        near = np.asarray(neighbours[seed])
        near = near[free[near]]
        distance = np.abs(scaled[near] - scaled[seed])
        near = near[(np.hypot(distance[:, 0], distance[:, 1]) <= tolerance) & (distance[:, 2] <= tolerance)]
        members = near[np.isin(slices[near], _run(slices[near], slices[seed], max_gap))]
        aligned = np.asarray(column[seed])
        dark = None if values is None else _dark(values, centres[seed], spacing)
        lesion = _lesion(slices[aligned], scores[aligned], slices[seed], max_gap, half_height + max_gap, dark)
        column_of_seed = aligned[free[aligned] & np.isin(slices[aligned], lesion)]
        whole = np.union1d(members, column_of_seed)
        free[whole] = False
        position = np.average(centres[whole], axis=0, weights=weights[whole])
        diameter = np.average(diameters[members], weights=weights[members])
        score = scores[seed]
        if score_slices > 1:
            score = _score_over_slices(scores[members], slices[members], score_slices, missing_slice_score)
        rows.append([*position, diameter, score, len(np.unique(slices[members])), np.nan, np.nan])
    return candidates_from_table(torch.tensor(rows, dtype=torch.float32))


def _score_over_slices(scores: np.ndarray, slices: np.ndarray, number: int, missing: float) -> float:
    """Return the probability at the mean logit of the best scores on the ``number`` best slices."""
    best = np.sort([scores[slices == k].max() for k in np.unique(slices)])[::-1][:number]
    best = np.concatenate([best, np.full(number - len(best), missing)])
    return expit(logit(best.clip(missing, 1 - missing)).mean())


def _gather(detections: Sequence[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put the boxes (N, 4), scores (N,) and slice numbers (N,) of all slices together as float64 arrays."""
    boxes = [_array(b).reshape(-1, 4) for b, _ in detections]
    scores = [_array(s).reshape(-1) for _, s in detections]
    for number, (slice_boxes, slice_scores) in enumerate(zip(boxes, scores, strict=True)):
        if len(slice_boxes) != len(slice_scores):
            raise ValueError(f"Slice {number} has {len(slice_boxes)} boxes but {len(slice_scores)} scores.")
    slices = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]).astype(np.float64)
    return np.concatenate([np.zeros((0, 4)), *boxes]), np.concatenate([np.zeros(0), *scores]), slices


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(values).detach().double().cpu().numpy()


def _lesion(
    slices: np.ndarray, scores: np.ndarray, start: float, max_gap: int, reach: float, dark: np.ndarray | None
) -> list[float]:
    """Return the slices above and below one of them that scores and darkness say to be of the same lesion."""
    run = _run(slices, start, max_gap)
    found = []
    for way in (run[run >= start], run[run < start][::-1]):
        least = scores[slices == start].max()
        for k in way:
            score = scores[slices == k].max()
            between = slice(int(min(k, start)), int(max(k, start)) + 1)
            connected = abs(k - start) <= reach or (dark is not None and dark[between].all())
            if score > least and (least < DIP * score or not connected):
                break
            least = min(least, score)
            found.append(k)
    return found


def _dark(swi: np.ndarray, seed: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(k,) Whether each slice is as dark above or below the seed as it is there: see :func:`merge_slices`."""
    i, j, k = np.clip(np.round(seed).astype(int), 0, np.array(swi.shape) - 1)  # a box may reach beyond the slice
    x, y = np.ceil(SURROUNDINGS_MM / spacing[:2]).astype(int)
    around = swi[max(i - x, 0) : i + x + 1, max(j - y, 0) : j + y + 1, k]
    column = swi[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].min(axis=(0, 1))
    tissue = around[around > 0]
    if not len(tissue):
        return np.zeros(len(column), dtype=bool)
    return column <= column[k] + BRIGHTER * (np.median(tissue) - column[k])


def _run(slices: np.ndarray, start: float, max_gap: int) -> np.ndarray:
    """Return the slice numbers that can be reached from one of them in steps of ``max_gap`` or less."""
    present = np.unique(slices)
    group = np.concatenate([[0], np.cumsum(np.diff(present) > max_gap)])
    return present[group == group[np.searchsorted(present, start)]]
