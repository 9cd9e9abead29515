"""Tests of decoding, NMS, the detector as a whole, and the fitting of anchors."""

import math

import monai
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmb_bundle.scripts.detection.anchors import fit_anchors
from cmb_bundle.scripts.detection.boxes import non_max_suppression, select_boxes
from cmb_bundle.scripts.detection.yolov2 import YOLOv2Detector
from cmb_bundle.scripts.errors import CheckpointError
from cmb_bundle.scripts.networks.classifier import PatchClassifier
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork
from cmb_bundle.scripts.networks.yolov2 import YOLOv2Network

from ..helpers import STRIDE_8_STAGES

ANCHORS = [[1.0, 2.0], [3.0, 1.5]]


class FixedNetwork(nn.Module):
    """A network that gives the raw tensor it was made with, for images of the right padded size."""

    def __init__(self, raw, num_anchors=2, num_classes=1, stride=8):
        super().__init__()
        self.raw, self.num_anchors, self.num_classes, self.stride = raw, num_anchors, num_classes, stride

    def forward(self, images):
        assert tuple(images.shape[-2:]) == tuple(self.stride * size for size in self.raw.shape[-2:])
        return self.raw


def silent(batch=1, rows=4, columns=6, num_classes=1):
    """Raw predictions (B, A, 5 + C, H, W) without any object."""
    raw = torch.zeros(batch, 2, 5 + num_classes, rows, columns)
    raw[:, :, 4] = -20
    return raw


def fixed_detector(raw, **arguments):
    network = FixedNetwork(raw.flatten(1, 2), num_classes=raw.shape[2] - 5)
    return YOLOv2Detector(network, ANCHORS, **arguments).eval()


coordinate = st.floats(0.05, 0.95)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1),
    st.integers(0, 3),
    st.integers(0, 5),
    st.tuples(coordinate, coordinate),
    st.tuples(st.floats(0.5, 60), st.floats(0.5, 60)),
    st.floats(0.06, 0.99),
)
def test_an_encoded_box_is_decoded(anchor, row, column, offset, size, score):
    """Axis 0 has 4 cells and axis 1 has 6, so that exchanged axes cannot pass."""
    raw = silent()
    cell = raw[0, anchor, :, row, column]
    cell[0] = math.log(offset[1] / (1 - offset[1]))
    cell[1] = math.log(offset[0] / (1 - offset[0]))
    cell[2] = math.log(size[1] / 8 / ANCHORS[anchor][0])
    cell[3] = math.log(size[0] / 8 / ANCHORS[anchor][1])
    cell[4] = math.log(score / (1 - score))
    centre = ((row + offset[0]) * 8, (column + offset[1]) * 8)
    box = [centre[0] - size[0] / 2, centre[1] - size[1] / 2, centre[0] + size[0] / 2, centre[1] + size[1] / 2]

    detector = fixed_detector(raw)
    boxes, scores = detector.decode(raw.flatten(1, 2))
    index = (anchor * 4 + row) * 6 + column
    assert boxes.shape == (1, 48, 4)
    assert scores.argmax().item() == index
    assert boxes[0, index].tolist() == pytest.approx(box, abs=1e-3)

    [found] = detector(torch.zeros(1, 2, 32, 48))
    clipped = np.clip(box, 0, [32, 48, 32, 48])
    assert found["boxes"].numpy() == pytest.approx(clipped[None], abs=1e-3)
    assert found["scores"].tolist() == pytest.approx([score], abs=1e-5)
    assert found["labels"].tolist() == [0]


def test_what_the_loss_wants_is_what_decoding_gives():
    """Predictions that make the coordinate loss vanish decode to the target's boxes."""
    raw = silent().requires_grad_()
    targets = [{"boxes": torch.tensor([[3.0, 17.0, 22.0, 25.0]]), "labels": torch.tensor([0])}]
    detector = fixed_detector(raw).train()
    optimizer = torch.optim.SGD([raw], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        detector.loss(raw.flatten(1, 2), targets, 8)["coordinate"].backward()
        optimizer.step()
    boxes, _ = detector.decode(raw.flatten(1, 2))
    moved = (raw.detach() - silent()).abs()[0, :, :4].sum(1).flatten().nonzero().flatten()
    assert len(moved) == 1
    assert boxes[0, moved[0]].tolist() == pytest.approx([3, 17, 22, 25], abs=0.05)


boxes_and_scores = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(1, 15),
        st.integers(1, 15),
        st.integers(0, 8),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(boxes_and_scores, st.sampled_from([0.0, 0.2, 0.45, 0.9]))
def test_nms_is_monais(rows, threshold):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    boxes = torch.cat([values[:, :2], values[:, :2] + values[:, 2:4]], dim=1)
    scores = values[:, 4] / 8
    expected = monai.data.box_utils.non_max_suppression(boxes, scores, threshold)
    assert non_max_suppression(boxes, scores, threshold).tolist() == expected.tolist()


def objects(*cells):
    """Raw predictions with an object of anchor 0, 8 x 16 pixels, at each (row, column, objectness logit)."""
    raw = silent()
    for row, column, logit in cells:
        raw[0, 0, 4, row, column] = logit
    return raw


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_best_first_and_limits():
    raw = objects((0, 0, 1.0), (0, 5, 3.0), (3, 2, 2.0), (3, 4, -2.0))
    image = torch.zeros(1, 2, 32, 48)
    scores = [sigmoid(3), sigmoid(2), sigmoid(1), sigmoid(-2)]
    assert fixed_detector(raw)(image)[0]["scores"].tolist() == pytest.approx(scores)
    for arguments, number in (
        ({"detections_per_image": 2}, 2),
        ({"topk_candidates": 3}, 3),
        ({"score_thresh": 0.5}, 3),
        ({"score_thresh": 0.9}, 1),
    ):
        found = fixed_detector(raw, **arguments)(image)[0]
        assert found["scores"].tolist() == pytest.approx(scores[:number])
        assert found["boxes"].shape == (number, 4)
    assert fixed_detector(raw)(image)[0]["boxes"][0].tolist() == [0, 40, 12, 48]


def test_nms_threshold_is_used():
    """Boxes 16 high in neighbouring rows of cells overlap by 8 of 24."""
    raw = objects((1, 2, 2.0), (2, 2, 1.0))
    image = torch.zeros(1, 2, 32, 48)
    assert len(fixed_detector(raw, nms_thresh=0.34)(image)[0]["boxes"]) == 2
    [found] = fixed_detector(raw, nms_thresh=0.32)(image)
    assert found["boxes"].tolist() == [[4, 16, 20, 24]]


def test_classes_are_told_apart():
    raw = silent(num_classes=3)
    raw[0, 0, 4, 1, 1] = raw[0, 1, 4, 1, 1] = 10
    raw[0, 1, 2:4, 1, 1] = torch.tensor([math.log(1 / 3), math.log(2 / 1.5)])
    raw[0, 0, 5:, 1, 1] = torch.log(torch.tensor([0.1, 0.3, 0.6]))
    raw[0, 1, 5:, 1, 1] = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    [found] = fixed_detector(raw, score_thresh=0.45)(torch.zeros(1, 2, 32, 48))
    torch.testing.assert_close(found["boxes"], torch.tensor([[4.0, 8, 20, 16]]).repeat(2, 1))
    assert found["labels"].tolist() == [2, 0]
    assert found["scores"].tolist() == pytest.approx([0.6 * sigmoid(10), 0.5 * sigmoid(10)])


def darknets_boxes(boxes, probabilities, thresh, nms):
    """`get_region_detections` and `do_nms_sort` of darknet written out: rows of box, class, probability."""

    def overlap(a, b):
        inter = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
        return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)

    kept = np.where(probabilities > thresh, probabilities, 0)
    for k in range(probabilities.shape[1]):
        order = np.argsort(-kept[:, k], kind="stable")
        for place, i in enumerate(order):
            if kept[i, k] == 0:
                continue
            for j in order[place + 1 :]:
                if overlap(boxes[i], boxes[j]) > nms:
                    kept[j, k] = 0
    return sorted((*boxes[i], k, kept[i, k]) for i, k in zip(*kept.nonzero(), strict=True))


@pytest.mark.parametrize("classes", [1, 3])
def test_a_box_is_an_object_of_each_class_that_reaches_the_threshold_as_in_darknet(classes):
    torch.manual_seed(classes)
    raw = torch.randn(1, 2, 5 + classes, 4, 6)
    raw[:, :, :4] *= 0.5
    raw[:, :, 4] += 1.0
    detector = fixed_detector(raw, score_thresh=0.15, nms_thresh=0.3)
    boxes, probabilities = (value[0].double().numpy() for value in detector._decode(raw.flatten(1, 2)))
    expected = np.array(darknets_boxes(boxes, probabilities, 0.15, 0.3))
    expected[:, :4] = expected[:, :4].clip(0, [32, 48, 32, 48])
    [found] = detector(torch.zeros(1, 2, 32, 48))
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    rows = torch.cat([found["boxes"], found["labels"][:, None], found["scores"][:, None]], dim=1).numpy()
    assert len(rows) == len(expected) > 10
    # by class and probability, since clipping makes equal edges
    rows, expected = (np.array(sorted(table.tolist(), key=lambda row: row[4:])) for table in (rows, expected))
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    if classes > 1:
        places = {tuple(np.round(row[:4], 3)) for row in rows}
        assert len(places) < len(rows), "one place, several classes"


def test_boxes_are_compared_as_they_are_and_clipped_afterwards():
    """Rows -24 to 24 and -8 to 24: they overlap by 32 of 48, and by all of it if the outside were cut off before."""
    raw = objects((0, 1, 3.0), (1, 1, 2.0))
    raw[0, 0, 1, :2, 1] = -20.0  # the centres at the first edge of their cells, rows 0 and 8
    raw[0, 0, 3, 0, 1], raw[0, 0, 3, 1, 1] = math.log(3), math.log(2)
    both = torch.tensor([[0.0, 8, 24, 16]]).repeat(2, 1)
    for threshold, number in ((0.7, 2), (0.6, 1)):
        [found] = fixed_detector(raw, nms_thresh=threshold)(torch.zeros(1, 2, 32, 48))
        torch.testing.assert_close(found["boxes"], both[:number], atol=1e-3, rtol=0)
    first = select_boxes(
        torch.tensor([[-24.0, 8, 24, 16], [-8.0, 8, 24, 16]]), torch.tensor([0.9, 0.8]), torch.zeros(2), (32, 48),
        0.1, 0.7, 10, 10, clip_first=True,
    )  # fmt: skip
    assert len(first["boxes"]) == 1


def test_an_endless_box_is_no_fault():
    raw = objects((1, 1, 3.0), (2, 2, 2.0))
    raw[0, 0, 2:4, 1, 1] = 200.0
    [found] = fixed_detector(raw)(torch.zeros(1, 2, 32, 48))
    assert found["boxes"][0].tolist() == [0, 0, 32, 48] and len(found["boxes"]) == 2


def test_boxes_are_clipped_to_the_image_without_padding():
    """Two images of a list, padded to 32 x 48; an object in the padding of the second one only."""
    raw = silent(batch=2)
    raw[:, 0, 4, 3, 5] = 2.0
    raw[1, 0, 4, 1, 3] = 1.0
    detector = fixed_detector(raw)
    first, second = detector([torch.zeros(2, 31, 44), torch.zeros(2, 14, 30)])
    assert first["boxes"].tolist() == [[20, 40, 31, 44]]
    assert second["boxes"].tolist() == [[4, 24, 14, 30]]
    assert second["scores"].tolist() == pytest.approx([sigmoid(1)])


def test_nothing_found_and_meta_tensors():
    image = monai.data.MetaTensor(torch.zeros(1, 2, 32, 48))
    [found] = fixed_detector(silent())(image)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
    }
    assert not isinstance(found["boxes"], monai.data.MetaTensor)


def test_the_network_is_given_plain_tensors_in_the_order_in_memory_that_they_have():
    detector, seen = fixed_detector(silent(2)), []
    detector.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.zeros(2, 2, 32, 48).to(memory_format=torch.channels_last)
    detector(images)
    detector(monai.data.MetaTensor(images))
    detector([monai.data.MetaTensor(torch.zeros(2, 32, 48))] * 2)
    assert [type(x) for x in seen] == 3 * [torch.Tensor]
    assert seen[0].data_ptr() == images.data_ptr()
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


def small_detector(**arguments):
    torch.manual_seed(0)
    network = YOLOv2Network(in_channels=1, num_anchors=2, width=0.25, stages=STRIDE_8_STAGES)
    return YOLOv2Detector(network, [[0.8, 0.8], [1.2, 2.0]], **arguments)


@pytest.mark.parametrize("mixed", [False, True])
def test_one_image_is_learned_exactly(mixed):
    boxes = torch.tensor([[5.0, 6, 11, 13], [20, 30, 36, 40], [37, 9, 44, 15]])
    image = torch.rand(1, 1, 46, 47, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.7
    for low0, low1, high0, high1 in boxes.int().tolist():
        image[0, 0, low0:high0, low1:high1] = 0.1
    # the second image of the batch has no object
    images = torch.cat([image, torch.full_like(image, 0.7)])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [{"boxes": boxes, "labels": torch.zeros(3, dtype=torch.int64)}, empty]
    detector = small_detector(loss_parameters={"warmup_images": 20})
    optimizer = torch.optim.Adam(detector.parameters(), lr=2e-3)
    for _ in range(100):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            losses = detector(images, targets)
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"coordinate", "object", "no_object", "class", "anchor_warmup"}
    detector.eval()
    detector.score_thresh = 0.5
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        found, nothing = detector(images)
    found_boxes = found["boxes"][found["boxes"][:, 0].argsort()]
    np.testing.assert_allclose(found_boxes, boxes, atol=0.5)
    assert len(nothing["boxes"]) == 0


def test_two_stage_network_can_be_scripted():
    network = TwoStageNetwork(small_detector(), PatchClassifier(width=0.25)).eval()
    images = torch.rand(2, 1, 16, 24)
    torch.testing.assert_close(torch.jit.script(network)(images), network(images))
    assert {"detector.loss.anchors", "detector.loss.seen"} < set(network.state_dict())


def test_errors():
    with pytest.raises(ValueError, match="1 anchors were given to a network with 2"):
        YOLOv2Detector(FixedNetwork(silent()), [[1, 1]])
    detector = small_detector()
    with pytest.raises(ValueError, match="targets"):
        detector(torch.zeros(1, 1, 16, 16))
    raw = silent()
    raw[0, 1, 2, 3, 4] = math.nan
    with pytest.raises(CheckpointError, match="not finite"):
        fixed_detector(raw)(torch.zeros(1, 2, 32, 48))


def test_fitted_anchors_are_the_means_of_clusters_with_width_first():
    generator = np.random.default_rng(0)
    tall = np.array([16.0, 4.0]) * generator.uniform(0.95, 1.05, (40, 2))
    small = np.array([5.0, 5.0]) * generator.uniform(0.95, 1.05, (60, 2))
    wide = np.array([8.0, 24.0]) * generator.uniform(0.95, 1.05, (20, 2))
    sizes = np.concatenate([wide, tall, small])
    expected = [small.mean(0)[::-1] / 8, tall.mean(0)[::-1] / 8, wide.mean(0)[::-1] / 8]
    for seed in range(5):
        np.testing.assert_allclose(fit_anchors(sizes, 3, 8, seed), expected)


def test_fitted_anchors_are_the_same_for_the_same_seed_and_fixed_points():
    sizes = np.random.default_rng(1).lognormal(2, 0.4, (300, 2))
    anchors = np.array(fit_anchors(sizes, 5, 8, seed=3))
    assert anchors.tolist() == fit_anchors(sizes, 5, 8, seed=3)
    cells = sizes[:, ::-1] / 8
    overlap = np.array(
        [[min(w, a) * min(h, b) / (w * h + a * b - min(w, a) * min(h, b)) for a, b in anchors] for w, h in cells]
    )
    nearest = overlap.argmax(1)
    np.testing.assert_allclose([cells[nearest == n].mean(0) for n in range(5)], anchors)
    assert (np.diff(anchors.prod(1)) > 0).all()


def test_fewer_sizes_than_anchors():
    anchors = fit_anchors(np.array([[8.0, 8.0], [4.0, 6.0], [8.0, 8.0]]), 4, 4)
    root = math.sqrt(2)
    np.testing.assert_allclose(anchors, [[1.5, 1], [2, 2], [2 * root, 2 * root], [4, 4]])


@pytest.mark.parametrize("sizes", [np.zeros((0, 2)), np.array([[4.0, 0.0]])])
def test_anchors_need_boxes(sizes):
    with pytest.raises(ValueError, match="boxes of positive size"):
        fit_anchors(sizes, 2, 8)
