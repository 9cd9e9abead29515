"""Boxes of detections: selection by score and non-maximum suppression.

Boxes are (axis 0 min, axis 1 min, axis 0 max, axis 1 max) in pixel edges: pixel p covers [p, p + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.box_utils import box_iou
from torch import Tensor

from ..errors import CheckpointError


def without_meta(images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """Plain tensors; :func:`monai.utils.convert_to_tensor` would give up a channels-last order in memory."""
    if isinstance(images, list):
        return [without_meta(image) for image in images]
    return images.as_tensor() if isinstance(images, MetaTensor) else images


FAR = 1e6
"""Pixels from the first, beyond which the edge of a box is not looked for: raw values of 100 make endless boxes."""


def non_max_suppression(boxes: Tensor, scores: Tensor, nms_thresh: float, labels: Tensor | None = None) -> Tensor:
    """Greedy NMS, the same as MONAI's, but with the overlaps of all pairs computed at once.

    Args:
        boxes: (N, 4) corners.
        scores: (N,).
        nms_thresh: a box that overlaps a better one by an intersection over union above this is dropped.
        labels: (N,) classes, of which each is suppressed by itself; None takes all boxes for one class.

    Returns:
        indices of the boxes kept, best first.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 5.0, 4.0], [8.0, 8.0, 12.0, 12.0]])
        >>> non_max_suppression(boxes, torch.tensor([0.6, 0.9, 0.3]), nms_thresh=0.45)
        tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    suppresses = box_iou(boxes[order], boxes[order]) > nms_thresh
    if labels is not None:
        suppresses &= labels[order][:, None] == labels[order]
    suppresses = suppresses.cpu().numpy()
    dropped = np.zeros(len(order), dtype=bool)
    kept = []
    for index in range(len(order)):
        if not dropped[index]:
            kept.append(index)
            dropped |= suppresses[index]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def select_boxes(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    size: Sequence[int],
    score_thresh: float,
    nms_thresh: float,
    topk_candidates: int,
    detections_per_image: int,
    clip_first: bool = False,
) -> dict[str, Tensor]:
    """Select the detections of an image: by score, suppressed for each class by itself, clipped to the image.

    Args:
        boxes: (N, 4) in pixel edges.
        scores: (N,).
        labels: (N,), from 0.
        size: (H, W) of the image.
        score_thresh: boxes with a lower score are dropped.
        nms_thresh: overlap above which the worse of two boxes is dropped.
        topk_candidates: only so many boxes, the best ones, enter NMS.
        detections_per_image: only so many boxes, the best ones, are returned.
        clip_first: whether boxes are clipped before they are compared, as MONAI's detectors do, and not after, as
            darknet does. At the border of an image, the parts outside count for how much two boxes overlap.

    Returns:
        "boxes" (M, 4) inside the image, "labels" (M,) and "scores" (M,), best first.

    Example:
        >>> boxes = torch.tensor([[-2.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 12.0, 12.0]])
        >>> scores, labels = torch.tensor([0.9, 0.6, 0.01]), torch.zeros(3, dtype=torch.int64)
        >>> select_boxes(boxes, scores, labels, (16, 16), 0.05, 0.45, topk_candidates=100, detections_per_image=10)
        {'boxes': tensor([[0., 0., 4., 4.]]), 'labels': tensor([0]), 'scores': tensor([0.9000])}
        >>> boxes = torch.tensor([[-6.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
        >>> found = select_boxes(boxes, scores[:2], labels[:2], (16, 16), 0.05, 0.45, 100, 10)
        >>> len(found["boxes"])  # they overlap by 16 of 40 square pixels, and by all after clipping
        2
    """
    chosen = (scores >= score_thresh).nonzero()[:, 0]
    best = scores[chosen].argsort(descending=True, stable=True)[:topk_candidates]
    chosen = chosen[best]
    boxes, scores, labels = boxes[chosen].clamp(-FAR, FAR), scores[chosen], labels[chosen]
    # MONAI's clip_boxes_to_image would drop boxes of less than a pixel as empty
    clipped = boxes.clamp(min=0).minimum(boxes.new_tensor([*size, *size]))
    inside = (clipped[:, 2:] > clipped[:, :2]).all(1)
    if clip_first:
        boxes, clipped, scores, labels = clipped[inside], clipped[inside], scores[inside], labels[inside]
        inside = inside[inside]
    kept = non_max_suppression(boxes, scores, nms_thresh, labels)
    kept = kept[inside[kept]][:detections_per_image]
    return {"boxes": clipped[kept], "labels": labels[kept], "scores": scores[kept]}


def check_finite(raw: Tensor) -> None:
    """Raise CheckpointError if a value of a raw tensor is not finite."""
    if not bool(torch.isfinite(raw).all()):
        raise CheckpointError(
            "The detector's network gave values that are not finite. Look for such values in the images and in "
            "the weights; if the weights are at fault, train with a lower learning rate or without mixed precision."
        )
