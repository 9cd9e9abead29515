"""YOLOv2's training loss, with the gradients of darknet's region layer."""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

MAX_LOG_SCALE = 10.0


def split_predictions(raw: Tensor, num_anchors: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split a raw tensor of the network by meaning.

    Args:
        raw: (B, A * (5 + C), H, W), the channels of each anchor being tx, ty, tw, th, objectness, classes.
        num_anchors: A.

    Returns:
        offsets in the cell after the logistic function (B, A, 2, H, W), column first; log scales of the
        anchor (B, A, 2, H, W), width first; objectness logits (B, A, H, W); class logits (B, A, C, H, W). All
        are float32, or float64 if ``raw`` is.
    """
    if raw.dtype != torch.float64:
        raw = raw.float()
    raw = raw.unflatten(1, (num_anchors, -1))
    return raw[:, :, 0:2].sigmoid(), raw[:, :, 2:4], raw[:, :, 4], raw[:, :, 5:]


def predicted_boxes(offsets: Tensor, log_scales: Tensor, anchors: Tensor) -> Tensor:
    """Make boxes of predictions, in units of the cell.

    A box has its centre at (column + offset x, row + offset y) and the size of the anchor times the
    exponential of the log scales ("YOLO9000", 2017, section 2). Log scales are cut at 10, so that a wild
    network cannot produce infinite boxes.

    Args:
        offsets: (B, A, 2, H, W), column first, in [0, 1].
        log_scales: (B, A, 2, H, W), width first.
        anchors: (A, 2) widths and heights.

    Returns:
        (B, A, H, W, 4): centre column, centre row, width, height.

    Example:
        >>> offsets, log_scales = torch.full((1, 1, 2, 2, 2), 0.5), torch.zeros(1, 1, 2, 2, 2)
        >>> predicted_boxes(offsets, log_scales, anchors=torch.tensor([[2.0, 1.0]]))[0, 0, 1].tolist()  # the second row
        [[0.5, 1.5, 2.0, 1.0], [1.5, 1.5, 2.0, 1.0]]
    """
    rows = torch.arange(offsets.shape[-2], device=offsets.device, dtype=offsets.dtype)
    columns = torch.arange(offsets.shape[-1], device=offsets.device, dtype=offsets.dtype)
    sizes = log_scales.clamp(max=MAX_LOG_SCALE).exp() * anchors.to(offsets.dtype)[None, :, :, None, None]
    centre_columns = offsets[:, :, 0] + columns
    centre_rows = offsets[:, :, 1] + rows[:, None]
    return torch.stack([centre_columns, centre_rows, sizes[:, :, 0], sizes[:, :, 1]], dim=-1)


def centre_size_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) given by centre and size; the shapes broadcast.

    It is 0 where both boxes are empty.

    Example:
        >>> centre_size_iou(torch.tensor([2.0, 2.0, 4.0, 4.0]), torch.tensor([3.0, 2.0, 4.0, 4.0]))  # 12 / 20
        tensor(0.6000)
    """
    low = torch.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    high = torch.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    intersection = (high - low).clamp(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


class RegionLoss(nn.Module):
    """The losses whose gradients are the deltas of darknet's ``src/region_layer.c``.

    Darknet writes deltas (the negative gradients with regard to the raw tensor) without a loss. Rules, all
    from that file (``forward_region_layer``, and ``delta_region_box`` and ``delta_region_class`` that it calls), in
    its order:

    - **No object.** Every anchor of every cell is pulled to an objectness of 0, unless its predicted box has
      an intersection over union above ``thresh`` with some true box. The delta is (0 - p) times the
      logistic's gradient p (1 - p): half a squared error.
    - **Responsible anchor.** A true box belongs to the cell of its centre, and there to the anchor most like
      it in shape. With ``bias_match`` the anchors' own shapes are compared, else the predicted ones.
    - **Object.** The responsible anchor's objectness is pulled to the intersection over union of its
      predicted box with the true one (``rescore``) or else to 1; half a squared error times ``object_scale``.
      No gradient flows through the target.
    - **Coordinates.** Half a squared error on the offsets (after the logistic function) and on the log
      scales, times ``coord_scale``, and with ``weight_small_boxes`` times (2 - w h), with w and h the true size over
      the image's size. Redmon's repository has this weight in YOLOv2's last state, AlexeyAB's fork has not; for
      a microbleed it is a factor of 2. Sizes are ``absolute``: anchors are in cells, not parts of the image.
    - **Class.** Cross-entropy of the softmax times ``class_scale``.
    - **Warm-up.** While fewer than ``warmup_images`` images have been seen (those of the present batch
      included, as darknet counts), anchors that are not responsible are pulled to the centre of
      their cell and to their own shape, weight 0.01 (``coord_scale`` does not count). Darknet counts by
      subdivisions of a batch, so its warm-up ends within a batch, by less than a batch later.
    - **Overwriting.** If two true boxes have the same responsible anchor, the later one in the list replaces
      the earlier in all of these.

    Where darknet's layer leaves out the logistic's gradient, its ``backward_region_layer_gpu`` multiplies by it.
    Darknet sums over the images of a batch and divides the learning rate by their number; here the sums are
    divided. Its limit of 30 true boxes an image is not kept.

    Args:
        anchors: (A, 2) width and height of the anchors in units of the cell; width is along the last axis.
        num_classes: classes of object.
        object_scale: weight of the object loss.
        noobject_scale: weight of the no-object loss.
        class_scale: weight of the class loss.
        coord_scale: weight of the coordinate loss.
        thresh: intersection over union above which a prediction is not called a false one.
        rescore: whether objectness learns the intersection over union.
        bias_match: whether true boxes are matched with the anchors' own shapes.
        weight_small_boxes: whether the coordinates of small boxes count for more, see above.
        objectness_loss: ``squared_error`` as darknet's YOLOv2, whose gradient vanishes for an anchor that is sure
            of the wrong answer; or ``cross_entropy``, the rule of YOLOv3 (Redmon and Farhadi, 2018), which learns
            from scratch.
        warmup_images: number of images of the warm-up, those of all processes together.

    Raises:
        ValueError: if the anchors are not pairs of positive numbers.

    Attributes:
        anchors: buffer (A, 2); it is saved with the weights, which mean nothing without it.
        seen: buffer, the number of images seen in training mode; saved, so that resumed training does not
            warm up again.

    Example:
        >>> loss = RegionLoss([[1.0, 1.0]], objectness_loss="cross_entropy", warmup_images=0)
        >>> target = {"boxes": torch.tensor([[4.0, 4.0, 12.0, 12.0]]), "labels": torch.tensor([0])}
        >>> losses = loss(torch.zeros(1, 6, 4, 4), [target], stride=8)
        >>> {name: round(float(value), 3) for name, value in losses.items()}
        {'coordinate': 0.484, 'object': 3.466, 'no_object': 10.397, 'class': 0.0, 'anchor_warmup': 0.0}
    """

    def __init__(
        self,
        anchors: Sequence[Sequence[float]] | Tensor,
        num_classes: int = 1,
        object_scale: float = 5.0,
        noobject_scale: float = 1.0,
        class_scale: float = 1.0,
        coord_scale: float = 1.0,
        thresh: float = 0.6,
        rescore: bool = True,
        bias_match: bool = True,
        weight_small_boxes: bool = True,
        objectness_loss: str = "squared_error",
        warmup_images: int = 12800,
    ) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.as_tensor(anchors, dtype=torch.float32).clone())
        if self.anchors.ndim != 2 or self.anchors.shape[1] != 2 or not bool((self.anchors > 0).all()):
            raise ValueError(f"anchors must be pairs of positive (width, height), got {anchors}.")
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.num_classes = num_classes
        self.object_scale = object_scale
        self.noobject_scale = noobject_scale
        self.class_scale = class_scale
        self.coord_scale = coord_scale
        self.thresh = thresh
        self.rescore = rescore
        self.bias_match = bias_match
        self.weight_small_boxes = weight_small_boxes
        if objectness_loss not in ("squared_error", "cross_entropy"):
            raise ValueError(f"objectness_loss is {objectness_loss!r}; expected squared_error or cross_entropy.")
        self.objectness_loss = objectness_loss
        self.warmup_images = warmup_images

    @torch.jit.unused
    def forward(self, raw: Tensor, targets: Sequence[dict[str, Tensor]], stride: int) -> dict[str, Tensor]:
        """Compute the losses; in training mode also count the images.

        Args:
            raw: (B, A * (5 + C), H, W) from the network; the work is done in float32 whatever its type.
            targets: for each image "boxes" (N, 4), (axis 0 min, axis 1 min, axis 0 max, axis 1 max) in pixel
                edges, and "labels" (N,), from 0. A centre outside the image counts for the nearest cell.
            stride: pixels a cell.

        Returns:
            scalars "coordinate", "object", "no_object", "class", "anchor_warmup"; their sum is the loss.

        Raises:
            ValueError: if a box is empty, or a label is no class.
        """
        if self.training:
            self.seen += idist.all_reduce(raw.shape[0])
        with torch.autocast(raw.device.type, enabled=False):
            offsets, log_scales, objectness, classes = split_predictions(raw, len(self.anchors))
            return self._losses(offsets, log_scales, objectness, classes, targets, stride)

    def _losses(
        self,
        offsets: Tensor,
        log_scales: Tensor,
        objectness: Tensor,
        classes: Tensor,
        targets: Sequence[dict[str, Tensor]],
        stride: int,
    ) -> dict[str, Tensor]:
        batch, _, rows, columns = objectness.shape
        truths, labels = self._truths(targets, stride, objectness)
        boxes = predicted_boxes(offsets.detach(), log_scales.detach(), self.anchors)

        image, row, column, anchor, true_boxes, true_labels = self._responsible(boxes, truths, labels)
        is_responsible = torch.zeros_like(objectness, dtype=torch.bool)
        is_responsible[image, anchor, row, column] = True
        is_background = ~is_responsible & (self._best_iou(boxes, truths) <= self.thresh)

        cell = torch.stack([column, row], dim=1)
        offset_error = (true_boxes[:, :2] - cell).clamp(0, 1) - offsets[image, anchor, :, row, column]
        true_log_scales = (true_boxes[:, 2:] / self.anchors.to(true_boxes)[anchor]).log()
        scale_error = true_log_scales - log_scales[image, anchor, :, row, column]
        share = true_boxes[:, 2:].prod(1) / (rows * columns)
        weight = self.coord_scale * (2 - share if self.weight_small_boxes else torch.ones_like(share))
        coordinate = (weight * (offset_error**2 + scale_error**2).sum(1)).sum() / 2

        predicted_objectness = objectness[image, anchor, row, column]
        objectness_target = torch.ones_like(predicted_objectness)
        if self.rescore:
            objectness_target = centre_size_iou(boxes[image, anchor, row, column], true_boxes)
        object_loss = self.object_scale * self._objectness(predicted_objectness, objectness_target)
        background = objectness[is_background]
        no_object = self.noobject_scale * self._objectness(background, torch.zeros_like(background))
        class_loss = self.class_scale * F.cross_entropy(
            classes[image, anchor, :, row, column], true_labels, reduction="sum"
        )

        anchor_warmup = objectness.new_zeros(())
        if self.seen < self.warmup_images:
            pull = ((offsets - 0.5) ** 2 + log_scales**2).sum(2)
            anchor_warmup = 0.01 * pull[~is_responsible].sum() / 2
        losses = {
            "coordinate": coordinate,
            "object": object_loss,
            "no_object": no_object,
            "class": class_loss,
            "anchor_warmup": anchor_warmup,
        }
        return {name: value / batch for name, value in losses.items()}

    def _objectness(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.objectness_loss == "cross_entropy":
            return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        return ((target - logits.sigmoid()) ** 2).sum() / 2

    def _truths(
        self, targets: Sequence[dict[str, Tensor]], stride: int, like: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Turn the targets into (centre column, centre row, width, height) in cells, and labels."""
        truths, labels = [], []
        for number, target in enumerate(targets):
            corners = torch.as_tensor(target["boxes"]).to(like).reshape(-1, 4) / stride
            label = torch.as_tensor(target["labels"]).to(like.device, torch.int64).reshape(-1)
            size = corners[:, 2:] - corners[:, :2]
            if not bool((size > 0).all()):
                raise ValueError(f"Image {number} of the batch has an empty box: {target['boxes']}; drop it.")
            if not bool(((label >= 0) & (label < self.num_classes)).all()):
                raise ValueError(
                    f"Image {number} of the batch has labels {label.tolist()}; "
                    f"with {self.num_classes} classes they must be 0 to {self.num_classes - 1}."
                )
            centre = corners[:, :2] + size / 2
            truths.append(torch.cat([centre.flip(1), size.flip(1)], dim=1))
            labels.append(label)
        return truths, labels

    def _responsible(
        self, boxes: Tensor, truths: list[Tensor], labels: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Find image, row, column and anchor of every true box that is not replaced by a later one."""
        _, num_anchors, rows, columns, _ = boxes.shape
        truth = torch.cat(truths)
        label = torch.cat(labels)
        numbers = torch.tensor([len(t) for t in truths], device=boxes.device)
        image = torch.arange(len(truths), device=boxes.device).repeat_interleave(numbers)
        column = truth[:, 0].floor().long().clamp(0, columns - 1)
        row = truth[:, 1].floor().long().clamp(0, rows - 1)
        if self.bias_match:
            shapes = self.anchors.to(truth).expand(len(truth), -1, -1)
        else:
            shapes = boxes[image, :, row, column, 2:]
        at_origin = F.pad(truth[:, None, 2:], (2, 0))
        anchor = centre_size_iou(F.pad(shapes, (2, 0)), at_origin).argmax(1)

        order = torch.arange(len(truth), device=boxes.device)
        place = ((image * num_anchors + anchor) * rows + row) * columns + column
        last = torch.full((boxes[..., 0].numel(),), -1, device=boxes.device)
        last.scatter_reduce_(0, place, order, "amax")
        kept = last[place] == order
        return image[kept], row[kept], column[kept], anchor[kept], truth[kept], label[kept]

    @staticmethod
    def _best_iou(boxes: Tensor, truths: list[Tensor]) -> Tensor:
        """Return for each predicted box (B, A, H, W) its highest overlap with a true box of its image."""
        padded = pad_sequence(truths, batch_first=True)
        if padded.shape[1] == 0:
            return torch.zeros_like(boxes[..., 0])
        overlap = centre_size_iou(boxes.flatten(1, 3)[:, :, None], padded[:, None])
        return overlap.amax(-1).view(boxes.shape[:-1])
