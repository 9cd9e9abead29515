"""Anchors of the detector, fitted to the boxes of a training set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch


def fit_anchors(sizes_hw: np.ndarray, num_anchors: int, stride: int, seed: int = 0) -> list[list[float]]:
    """Fit anchors to the sizes of true boxes by k-means with the distance 1 - IoU.

    This is the method of "YOLO9000" (2017), section 2; boxes are compared with a common centre. The first
    centres are drawn as in k-means++. If there are fewer distinct sizes than anchors, each anchor still
    missing is the largest so far times the square root of 2.

    Args:
        sizes_hw: (N, 2) extents of boxes along axis 0 and axis 1, in pixels.
        num_anchors: number of anchors.
        stride: pixels a cell.
        seed: seed of the first centres; the same seed gives the same anchors.

    Returns:
        num_anchors pairs (width, height) in units of the cell, by rising area; width is along the last axis.

    Raises:
        ValueError: if there are no boxes, or one of them is empty.

    Example:
        >>> small, large = [[3.0, 4.0], [4.0, 3.0], [4.0, 4.0]], [[10.0, 12.0], [12.0, 12.0]]
        >>> [[round(side, 2) for side in anchor] for anchor in fit_anchors(small + large, num_anchors=2, stride=4)]
        [[0.92, 0.92], [3.0, 2.75]]
    """
    sizes = np.asarray(sizes_hw, dtype=np.float64).reshape(-1, 2)[:, ::-1] / stride
    if len(sizes) == 0 or not (sizes > 0).all():
        raise ValueError(f"Anchors need boxes of positive size to be fitted to, got {len(sizes)} boxes: {sizes_hw}.")
    generator = np.random.default_rng(seed)
    distinct = np.unique(sizes, axis=0)
    if len(distinct) <= num_anchors:
        centres = distinct
    else:
        centres = sizes[generator.integers(len(sizes))][None]
        while len(centres) < num_anchors:
            distance = (1 - _shape_iou(sizes, centres)).min(1) ** 2
            centres = np.vstack([centres, sizes[generator.choice(len(sizes), p=distance / distance.sum())]])
        nearest = None
        for _ in range(1000):
            previous, nearest = nearest, _shape_iou(sizes, centres).argmax(1)
            if previous is not None and (previous == nearest).all():
                break
            centres = np.array(
                [
                    sizes[nearest == number].mean(0) if (nearest == number).any() else centre
                    for number, centre in enumerate(centres)
                ]
            )
    centres = centres[np.lexsort((centres[:, 0], centres.prod(1)))]
    while len(centres) < num_anchors:
        centres = np.vstack([centres, centres[-1] * np.sqrt(2)])
    return centres.tolist()


def _shape_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the (N, M) overlaps of sizes (N, 2) and (M, 2), with centres put together."""
    intersection = np.minimum(first[:, None], second[None]).prod(-1)
    return intersection / (first.prod(-1)[:, None] + second.prod(-1)[None] - intersection)


def fit_training_anchors(detector: torch.nn.Module, data_loader: Iterable[Mapping]) -> list[list[float]]:
    """
    Fit the detector's anchors to the boxes of one epoch of training slices, and print them for the config.

    Args:
        detector: tells the number of anchors and the stride.
        data_loader: batches of :func:`collate_slices`.

    Returns:
        pairs (width, height) in cells, see :func:`~.anchors.fit_anchors`.

    Raises:
        ValueError: there is no box in the slices.
    """
    boxes = torch.cat([target["boxes"] for batch in data_loader for target in batch["targets"]])
    sizes = (boxes[:, 2:] - boxes[:, :2]).numpy()
    anchors = fit_anchors(sizes, detector.network.num_anchors, detector.network.stride)
    print(f"network_def#detector#anchors of {len(sizes)} boxes: {[[round(side, 3) for side in a] for a in anchors]}")
    return anchors
