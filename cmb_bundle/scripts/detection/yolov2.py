"""YOLOv2 behind the interface of MONAI's detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.apps.detection.utils.detector_utils import check_training_targets, preprocess_images
from torch import Tensor, nn

from .boxes import check_finite, select_boxes, without_meta
from .region_loss import RegionLoss, predicted_boxes, split_predictions


class YOLOv2Detector(nn.Module):
    """Detect objects in slices: the network, its region loss, and decoding with NMS.

    It is called like MONAI's ``RetinaNetDetector``. Boxes are (axis 0 min, axis 1 min, axis 0 max, axis 1
    max) in pixel edges: pixel p covers [p, p + 1).

    Args:
        network: a :class:`~..networks.yolov2.YOLOv2Network`, or any module with ``stride``, ``num_anchors`` and
            ``num_classes`` that gives the same raw tensor.
        anchors: (A, 2) width and height in units of the cell; width is along the last axis.
        score_thresh: boxes with a lower score are dropped; darknet's ``test`` uses 0.5, its ``valid`` 0.005.
        nms_thresh: overlap above which the worse of two boxes is dropped; 0.45 is darknet's.
        topk_candidates: only so many boxes of an image, the best ones, enter NMS.
        detections_per_image: only so many boxes of an image, the best ones, are returned.
        loss_parameters: arguments of :class:`~.region_loss.RegionLoss` other than anchors and num_classes.

    Raises:
        ValueError: if the number of anchors is not the network's.

    Example:
        >>> class OneBox(nn.Module):
        ...     stride, num_anchors, num_classes = 8, 1, 1
        ...     def forward(self, images):  # sure of one cell, the second down and the third across
        ...         raw = torch.full((len(images), 6, 4, 4), -9.0)
        ...         raw[:, :, 1, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0, 0.0])
        ...         return raw
        >>> detector = YOLOv2Detector(OneBox(), anchors=[[1.0, 0.5]]).eval()
        >>> detector(torch.zeros(1, 2, 32, 32))
        [{'boxes': tensor([[10., 16., 14., 24.]]), 'labels': tensor([0]), 'scores': tensor([0.9526])}]
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
        """Decode, select by score, suppress, and clip, for each image by itself and each class by itself.

        As in darknet, a box is an object of every class whose probability reaches ``score_thresh``.

        Args:
            raw: (B, A * (5 + C), H, W).
            image_sizes: for each image its (H, W) without padding, in pixels.

        Returns:
            as :meth:`forward`.

        Raises:
            CheckpointError: if a value of ``raw`` is not finite.
        """
        check_finite(raw)
        boxes, probabilities = self._decode(raw)
        classes = probabilities.shape[2]
        labels = torch.arange(classes, device=raw.device).repeat(boxes.shape[1])
        boxes, scores = boxes.repeat_interleave(classes, dim=1), probabilities.flatten(1)
        return [
            select_boxes(
                boxes[number],
                scores[number],
                labels,
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
