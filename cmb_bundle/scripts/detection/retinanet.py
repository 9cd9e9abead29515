"""MONAI's RetinaNet on slices, for objects of a few pixels, behind the interface of the other detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from monai.apps.detection.utils.detector_utils import check_training_targets, preprocess_images
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from monai.networks.nets import ResNet
from torch import Tensor, nn

from ..networks.blocks import scaled_channels
from .boxes import check_finite, select_boxes, without_meta


class ResNetPyramid(nn.Module):
    """
    The first levels of a feature pyramid (Lin et al., "Feature pyramid networks", 2017) on MONAI's ResNet.

    The stem keeps the resolution, so that the stages have strides of 2, 4, 8 and 16: the usual stem has lost an object
    of four pixels before the first stage. The last three stages enter the pyramid; its finest levels are returned, and
    the others only add what they see around.

    Args:
        in_channels: channels of a slice.
        channels: channels of the four stages.
        blocks: residual blocks of the four stages.
        out_channels: channels of each level.
        num_levels: levels returned, the finest ones, 1 to 3; their strides are 4, 8 and 16.

    Attributes:
        strides: of the levels returned.
        size_divisible: H and W must be multiples of this.

    Example:
        >>> pyramid = ResNetPyramid(2, channels=[8, 8, 8, 8], blocks=[1, 1, 1, 1], out_channels=8, num_levels=2)
        >>> [tuple(level.shape) for level in pyramid(torch.zeros(1, 2, 32, 48))], pyramid.strides
        ([(1, 8, 8, 12), (1, 8, 4, 6)], (4, 8))
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], blocks: Sequence[int], out_channels: int, num_levels: int
    ) -> None:
        super().__init__()
        if len(channels) != 4 or len(blocks) != 4 or num_levels not in (1, 2, 3):
            raise ValueError(
                f"channels {list(channels)} and blocks {list(blocks)} need four numbers each, one a stage, and "
                f"num_levels must be 1 to 3, got {num_levels}."
            )
        self.body = ResNet(
            "basic",
            list(blocks),
            list(channels),
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_size=3,
            conv1_t_stride=1,
            feed_forward=False,
        )
        self.pyramid = FeaturePyramidNetwork(2, list(channels[1:]), out_channels)
        for unused in range(num_levels, 3):
            self.pyramid.layer_blocks[unused] = nn.Identity()
        self.out_channels = out_channels
        self.strides = (4, 8, 16)[:num_levels]
        self.size_divisible = 16

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the levels (B, out_channels, H / stride, W / stride), the finest first."""
        body = self.body
        x = body.layer1(body.maxpool(body.act(body.bn1(body.conv1(x)))))
        features = {}
        for name in ("layer2", "layer3", "layer4"):
            x = features[name] = getattr(body, name)(x)
        return list(self.pyramid(features).values())[: len(self.strides)]


class RetinaNet2DNetwork(RetinaNet):
    """
    MONAI's RetinaNet with one tensor as its output.

    Args:
        in_channels: channels of a slice.
        num_anchors: anchors of each place, the same number on all levels.
        num_classes: classes of object.
        channels: channels of the four stages of the ResNet.
        blocks: residual blocks of the four stages.
        pyramid_channels: channels of the pyramid and of the heads, a multiple of 8.
        num_levels: levels of the pyramid, with strides of 4, 8 and 16.
        width: multiplies all channels, see :func:`~..networks.blocks.scaled_channels`.

    Example:
        >>> network = RetinaNet2DNetwork(num_anchors=1, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid_channels=8)
        >>> network(torch.zeros(1, 2, 32, 32)).shape  # 8 x 8 places of the first level and 4 x 4 of the second
        torch.Size([1, 5, 80])
    """

    def __init__(
        self,
        in_channels: int = 2,
        num_anchors: int = 3,
        num_classes: int = 1,
        channels: Sequence[int] = (24, 48, 96, 192),
        blocks: Sequence[int] = (2, 2, 2, 2),
        pyramid_channels: int = 48,
        num_levels: int = 2,
        width: float = 1.0,
    ) -> None:
        extractor = ResNetPyramid(
            in_channels,
            [scaled_channels(c, width) for c in channels],
            blocks,
            scaled_channels(pyramid_channels, width),
            num_levels,
        )
        super().__init__(2, num_classes, num_anchors, extractor, extractor.size_divisible)
        self.in_channels = in_channels
        self.strides = extractor.strides

    def forward(self, images: Tensor) -> Tensor:
        """
        Predict.

        Args:
            images: (B, in_channels, H, W); H and W are multiples of 16.

        Returns:
            (B, num_classes + 4, N): for each anchor the logits of its classes, then the regression of its box along
            axis 0 and axis 1 (centre, centre, size, size) as MONAI's BoxCoder has it. The N anchors are in the order
            of MONAI's AnchorGenerator: level, row, column, anchor.
        """
        # the gradient of GroupNorm writes outside its memory on a CPU (torch 2.13) where channels stand last in memory
        features = self.feature_extractor(images.contiguous())
        levels = zip(self.classification_head(features), self.regression_head(features), strict=True)
        flat = [torch.cat([self._flat(logits), self._flat(boxes)], dim=1) for logits, boxes in levels]
        return torch.cat(flat, dim=2)

    def _flat(self, level: Tensor) -> Tensor:
        """From (B, A * K, h, w) to (B, K, h * w * A)."""
        return level.unflatten(1, (self.num_anchors, -1)).permute(0, 2, 3, 4, 1).flatten(2)


class RetinaNet2DDetector(RetinaNetDetector):
    """
    MONAI's RetinaNetDetector on slices, called and answering as :class:`~.yolov2.YOLOv2Detector`.

    Training matches anchors by ATSS (Zhang et al., "Bridging the gap between anchor-based and anchor-free detection",
    2020), which needs no threshold of overlap: one of 0.5 is out of reach for many objects of four pixels. An object
    that ATSS leaves without anchor is given the one that overlaps it most. The class loss is binary cross-entropy on
    the matched anchors and on hard negatives, the box loss is smooth L1. torchvision is not needed.

    Args:
        network: a :class:`RetinaNet2DNetwork`.
        anchor_sizes: for each level the edges of its square anchors in pixels, even numbers (MONAI rounds half edges).
        score_thresh: boxes with a lower score are dropped.
        nms_thresh: overlap above which the worse of two boxes is dropped.
        topk_candidates: only so many boxes of an image, the best ones, enter NMS.
        detections_per_image: only so many boxes of an image, the best ones, are returned.
        atss_candidates: places a level that compete for an object.
        samples_per_image: anchors of an image that the class loss sees.
        positive_fraction: share of matched anchors among them, at most.
        min_negatives: negatives of an image, at least.
        pool_size: negatives are drawn at random from this many times as many of the highest scores.
        box_weight: factor of the box loss.

    Raises:
        ValueError: the anchors are not one number of even sizes for each level.

    Example:
        >>> network = RetinaNet2DNetwork(num_anchors=1, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid_channels=8)
        >>> for parameter in network.parameters():
        ...     _ = nn.init.zeros_(parameter)  # all logits are then 0, and the boxes are the anchors
        >>> detector = RetinaNet2DDetector(network, anchor_sizes=[[4], [8]], detections_per_image=2).eval()
        >>> found = detector(torch.zeros(1, 2, 32, 32))[0]
        >>> found["boxes"].tolist(), found["scores"].tolist()
        ([[0.0, 0.0, 4.0, 4.0], [0.0, 4.0, 4.0, 8.0]], [0.5, 0.5])
    """

    def __init__(
        self,
        network: RetinaNet2DNetwork,
        anchor_sizes: Sequence[Sequence[int]],
        score_thresh: float = 0.05,
        nms_thresh: float = 0.45,
        topk_candidates: int = 1000,
        detections_per_image: int = 100,
        atss_candidates: int = 4,
        samples_per_image: int = 64,
        positive_fraction: float = 0.3,
        min_negatives: int = 16,
        pool_size: float = 5,
        box_weight: float = 1.0,
    ) -> None:
        sizes = [tuple(level) for level in anchor_sizes]
        counts = [len(level) for level in sizes]
        even = all(size > 0 and size % 2 == 0 for level in sizes for size in level)
        if counts != [network.num_anchors] * len(network.strides) or not even:
            raise ValueError(
                f"anchor_sizes is {[list(level) for level in sizes]}; expected {network.num_anchors} even sizes for "
                f"each of the {len(network.strides)} levels with the strides {list(network.strides)}."
            )
        super().__init__(network, AnchorGenerator(sizes, ((1.0,),) * len(sizes)))
        self.set_target_keys("boxes", "labels")
        self.pred_score_key = "scores"
        self.set_atss_matcher(num_candidates=atss_candidates, center_in_gt=False)
        self.set_hard_negative_sampler(samples_per_image, positive_fraction, min_negatives, pool_size)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.topk_candidates, self.detections_per_image = topk_candidates, detections_per_image
        self.box_weight = box_weight

    @torch.jit.unused
    def forward(
        self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Return losses in training mode, detections otherwise.

        Args:
            images: (B, C, H, W), or a list of (C, H, W) of any sizes; zeros are added at the ends of the axes.
            targets: needed in training, for each image "boxes" (N, 4) and "labels" (N,); N may be 0.

        Returns:
            in training the losses "classification" and "box_regression"; else for each image "boxes" (N, 4) inside
            the image, (axis 0 min, axis 1 min, axis 0 max, axis 1 max) in pixel edges, "labels" (N,) and "scores"
            (N,), best first.

        Raises:
            ValueError: in training without (valid) targets.
            CheckpointError: a value is not finite.
        """
        images = without_meta(images)
        if self.training:
            targets = check_training_targets(
                images, targets, self.spatial_dims, self.target_label_key, self.target_box_key
            )
        padded, image_sizes = preprocess_images(images, self.spatial_dims, self.size_divisible)
        raw = self.network(padded)
        check_finite(raw)
        with torch.autocast(raw.device.type, enabled=False):
            if self.training:
                return self.losses(raw.float(), targets, padded.shape[2:])
            return self.detections(raw.float(), image_sizes, padded.shape[2:])

    def image_anchors(self, size: Sequence[int], like: Tensor) -> tuple[Tensor, list[int]]:
        """Return the anchors (N, 4) of an image of the (padded) size (H, W), and the places of each level."""
        maps = [like.new_empty((1, 1, size[0] // s, size[1] // s)) for s in self.network.strides]
        anchors = self.anchor_generator(like.new_empty((1, 1, *size)), maps)[0]
        return anchors, [level[0, 0].numel() for level in maps]

    def losses(self, raw: Tensor, targets: Sequence[dict[str, Tensor]], size: Sequence[int]) -> dict[str, Tensor]:
        """Compute the losses of a raw tensor (B, C + 4, N) of images of the padded size (H, W)."""
        anchors, places = self.image_anchors(size, raw)
        predictions = raw.transpose(1, 2)
        head = {
            self.cls_key: predictions[..., : self.num_classes],
            self.box_reg_key: predictions[..., self.num_classes :],
        }
        # a box that came as half precision would be matched and encoded so
        targets = [{**target, self.target_box_key: target[self.target_box_key].to(raw)} for target in targets]
        losses = self.compute_loss(head, targets, [anchors] * len(raw), places)
        losses[self.box_reg_key] = self.box_weight * losses[self.box_reg_key]
        return losses

    def compute_box_loss(self, box_regression, targets, anchors, matched_idxs) -> Tensor:
        """As MONAI's; without any box in the batch it is 0 but still part of the graph, as several GPUs need it."""
        if all(len(target[self.target_box_key]) == 0 for target in targets):
            return box_regression.sum() * 0
        return super().compute_box_loss(box_regression, targets, anchors, matched_idxs)

    def compute_anchor_matched_idxs(self, anchors, targets, num_anchor_locs_per_level) -> list[Tensor]:
        """
        Match anchors by ATSS.

        MONAI's own method asks first whether the matcher is torchvision's, which fails without torchvision.

        Returns:
            for each image (N,) the index of the box that an anchor is to find, -1 for none.
        """
        matched = []
        for image_anchors, target in zip(anchors, targets, strict=True):
            boxes = target[self.target_box_key]
            if len(boxes) == 0:
                matched.append(torch.full((len(image_anchors),), -1, dtype=torch.int64, device=image_anchors.device))
                continue
            overlaps, indices = self.proposal_matcher(
                boxes, image_anchors, num_anchor_locs_per_level, self.num_anchors_per_loc
            )
            without = torch.tensor([not bool((indices == n).any()) for n in range(len(boxes))], device=boxes.device)
            indices[overlaps.argmax(1)[without]] = without.nonzero()[:, 0]
            matched.append(indices)
        return matched

    def decode(self, raw: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """
        Turn the raw tensor into boxes and scores.

        Args:
            raw: (B, C + 4, N).
            size: (H, W) of the padded images.

        Returns:
            boxes (B, N, 4) in pixel edges, not clipped, and the probabilities of the classes (B, N, C).
        """
        anchors, _ = self.image_anchors(size, raw)
        predictions = raw.transpose(1, 2)
        regression = predictions[..., self.num_classes :]
        boxes = torch.stack([self.box_coder.decode_single(one, anchors) for one in regression])
        return boxes, predictions[..., : self.num_classes].sigmoid()

    def detections(
        self, raw: Tensor, image_sizes: Sequence[Sequence[int]], size: Sequence[int]
    ) -> list[dict[str, Tensor]]:
        """Decode, select by score, clip, and suppress; ``image_sizes`` are without, ``size`` is with padding."""
        boxes, probabilities = self.decode(raw, size)
        # as in MONAI, an anchor may be several classes
        labels = torch.arange(self.num_classes, device=raw.device).repeat(boxes.shape[1])
        boxes, scores = boxes.repeat_interleave(self.num_classes, dim=1), probabilities.flatten(1)
        limits = (self.score_thresh, self.nms_thresh, self.topk_candidates, self.detections_per_image)
        return [
            select_boxes(boxes[number], scores[number], labels, image_size, *limits, clip_first=True)
            for number, image_size in enumerate(image_sizes)
        ]
