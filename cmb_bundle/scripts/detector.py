"""YOLOv2 behind the interface of MONAI's detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.apps.detection.utils.detector_utils import check_training_targets, preprocess_images
from monai.data import MetaTensor
from monai.data.box_utils import box_iou
from torch import Tensor, nn

from .region_loss import RegionLoss, predicted_boxes, split_predictions


def without_meta(images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """Plain tensors; :func:`monai.utils.convert_to_tensor` would give up a channels-last order in memory."""
    if isinstance(images, list):
        return [without_meta(image) for image in images]
    return images.as_tensor() if isinstance(images, MetaTensor) else images


def non_max_suppression(boxes: Tensor, scores: Tensor, nms_thresh: float) -> Tensor:
    """Greedy NMS, the same as MONAI's, but with the overlaps of all pairs computed at once.

    Args:
        boxes: (N, 4) corners.
        scores: (N,).
        nms_thresh: a box that overlaps a better one by an intersection over union above this is dropped.

    Returns:
        indices of the boxes kept, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    suppresses = (box_iou(boxes[order], boxes[order]) > nms_thresh).cpu().numpy()
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
) -> dict[str, Tensor]:
    """Select the detections of an image: by score, clipped to the image, suppressed for each class by itself.

    Args:
        boxes: (N, 4) in pixel edges.
        scores: (N,).
        labels: (N,), from 0.
        size: (H, W) of the image.
        score_thresh: boxes with a lower score are dropped.
        nms_thresh: overlap above which the worse of two boxes is dropped.
        topk_candidates: only so many boxes, the best ones, enter NMS.
        detections_per_image: only so many boxes, the best ones, are returned.

    Returns:
        "boxes" (M, 4) inside the image, "labels" (M,) and "scores" (M,), best first.
    """
    chosen = (scores >= score_thresh).nonzero()[:, 0]
    best = scores[chosen].argsort(descending=True, stable=True)[:topk_candidates]
    chosen = chosen[best]
    # MONAI's clip_boxes_to_image would drop boxes of less than a pixel as empty
    boxes = boxes[chosen].clamp(min=0).minimum(boxes.new_tensor([*size, *size]))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores, labels = boxes[inside], scores[chosen][inside], labels[chosen][inside]
    apart = boxes + labels[:, None] * (2.0 * max(size))
    kept = non_max_suppression(apart, scores, nms_thresh)[:detections_per_image]
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}


def check_finite(raw: Tensor) -> None:
    """Raise ValueError if a value of a raw tensor is not finite."""
    if not bool(torch.isfinite(raw).all()):
        raise ValueError(
            "The detector's network gave values that are not finite. Look for such values in the images and in "
            "the weights; if the weights are at fault, train with a lower learning rate or without mixed precision."
        )


class YOLOv2Detector(nn.Module):
    """Detect objects in slices: the network, its region loss, and decoding with NMS.

    It is called like MONAI's ``RetinaNetDetector``. Boxes are (axis 0 min, axis 1 min, axis 0 max, axis 1
    max) in pixel edges: pixel p covers [p, p + 1).

    Args:
        network: a :class:`~.networks.YOLOv2Network`, or any module with ``stride``, ``num_anchors`` and
            ``num_classes`` that gives the same raw tensor.
        anchors: (A, 2) width and height in units of the cell; width is along the last axis.
        score_thresh: boxes with a lower score are dropped; darknet's ``test`` uses 0.5, its ``valid`` 0.005.
        nms_thresh: overlap above which the worse of two boxes is dropped; 0.45 is darknet's.
        topk_candidates: only so many boxes of an image, the best ones, enter NMS.
        detections_per_image: only so many boxes of an image, the best ones, are returned.
        loss_parameters: arguments of :class:`~.region_loss.RegionLoss` other than anchors and num_classes.

    Raises:
        ValueError: if the number of anchors is not the network's.
    """

    target_box_key = "boxes"
    target_label_key = "labels"
    pred_score_key = "scores"
    spatial_dims = 2

    def __init__(
        self,
        network: nn.Module,
        anchors: Sequence[Sequence[float]],
        score_thresh: float = 0.05,
        nms_thresh: float = 0.45,
        topk_candidates: int = 1000,
        detections_per_image: int = 100,
        loss_parameters: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(anchors) != network.num_anchors:
            raise ValueError(
                f"{len(anchors)} anchors were given to a network with {network.num_anchors}; make them equal."
            )
        self.network = network
        self.loss = RegionLoss(anchors, num_classes=network.num_classes, **(loss_parameters or {}))
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.topk_candidates = topk_candidates
        self.detections_per_image = detections_per_image

    @torch.jit.unused
    def forward(
        self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training mode, detections otherwise.

        Args:
            images: (B, C, H, W), or a list of (C, H, W) of any sizes; zeros are added at the ends of the axes
                up to a multiple of the network's stride.
            targets: needed in training, for each image "boxes" (N, 4) and "labels" (N,); N may be 0.

        Returns:
            in training the losses of :class:`~.region_loss.RegionLoss`; else for each image "boxes" (N, 4)
            inside the image, "labels" (N,) and "scores" (N,), best first.

        Raises:
            ValueError: in training without (valid) targets.
        """
        images = without_meta(images)
        if self.training:
            targets = check_training_targets(
                images, targets, self.spatial_dims, self.target_label_key, self.target_box_key
            )
        padded, image_sizes = preprocess_images(images, self.spatial_dims, self.network.stride)
        raw = self.network(padded)
        if self.training:
            return self.loss(raw, targets, self.network.stride)
        return self.detections(raw, image_sizes)

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the raw tensor into boxes and scores.

        Args:
            raw: (B, A * (5 + C), H, W).

        Returns:
            boxes (B, A * H * W, 4) in pixel edges, not clipped, and scores (B, A * H * W): objectness times
            the probability of the most probable class. The order is anchor, row, column.
        """
        boxes, probabilities = self._decode(raw)
        return boxes, probabilities.amax(-1)

    def detections(self, raw: Tensor, image_sizes: Sequence[Sequence[int]]) -> list[dict[str, Tensor]]:
        """Decode, select by score, clip, and suppress, for each image by itself and each class by itself.

        Args:
            raw: (B, A * (5 + C), H, W).
            image_sizes: for each image its (H, W) without padding, in pixels.

        Returns:
            as :meth:`forward`.

        Raises:
            ValueError: if a value of ``raw`` is not finite.
        """
        check_finite(raw)
        boxes, probabilities = self._decode(raw)
        scores, labels = probabilities.max(-1)
        return [
            select_boxes(
                boxes[number],
                scores[number],
                labels[number],
                size,
                self.score_thresh,
                self.nms_thresh,
                self.topk_candidates,
                self.detections_per_image,
            )
            for number, size in enumerate(image_sizes)
        ]

    def _decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, N, 4) and the probabilities of each class (B, N, C)."""
        with torch.autocast(raw.device.type, enabled=False):
            offsets, log_scales, objectness, classes = split_predictions(raw, len(self.loss.anchors))
            boxes = predicted_boxes(offsets, log_scales, self.loss.anchors) * self.network.stride
            centre, half_size = boxes[..., :2].flip(-1), boxes[..., 2:].flip(-1) / 2
            corners = torch.cat([centre - half_size, centre + half_size], dim=-1)
            probabilities = objectness.sigmoid()[:, :, None] * classes.softmax(2)
        return corners.flatten(1, 3), probabilities.movedim(2, -1).flatten(1, 3)


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
