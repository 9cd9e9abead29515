"""Tests of the region loss: values by hand, and gradients against a plain loop over darknet's rules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_bundle.scripts.detection.region_loss import RegionLoss, centre_size_iou

NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def target(*boxes, labels=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels or [0] * len(boxes)),
    }


def values(losses):
    return {name: value.item() for name, value in losses.items()}


def test_no_object():
    losses = values(RegionLoss([[1, 1], [2, 2]], warmup_images=0)(torch.zeros(2, 12, 3, 4), [NO_BOXES] * 2, 8))
    # every one of the 2 x 3 x 4 anchors of an image has an objectness of 1/2
    assert losses == {
        "coordinate": 0,
        "object": 0,
        "no_object": pytest.approx(0.5 * 24 * 0.25),
        "class": 0,
        "anchor_warmup": 0,
    }


def test_one_object_on_its_own_axes():
    """Box of 16 rows and 8 columns (2 and 1 cells), centre in row 1.25, column 2.75 of a grid of 3 x 4 cells."""
    box = [1.25 * 8 - 8, 2.75 * 8 - 4, 1.25 * 8 + 8, 2.75 * 8 + 4]
    loss = RegionLoss([[3, 3], [1.5, 1]], warmup_images=0)
    raw = torch.zeros(1, 12, 3, 4, requires_grad=True)
    losses = loss(raw, [target(box)], 8)
    # shapes (w, h): the truth 1 x 2 overlaps 3 x 3 by 2/9 and 1.5 x 1 by 1/2.5, so anchor 1 is responsible;
    # its prediction has its centre in the middle of cell (row 1, column 2) and the anchor's shape
    weight = 2 - (1 * 2) / 12
    coordinate = weight / 2 * (0.25**2 + 0.25**2 + math.log(1 / 1.5) ** 2 + math.log(2) ** 2)
    # columns: truth 2.25..3.25, predicted 1.75..3.25; rows: truth 0.25..2.25, predicted 1..2
    iou = 1 / (2 + 1.5 - 1)
    assert values(losses) == {
        "coordinate": pytest.approx(coordinate, rel=1e-5),
        "object": pytest.approx(5 / 2 * (iou - 0.5) ** 2, rel=1e-5),
        "no_object": pytest.approx(0.5 * 23 * 0.25),
        "class": 0,
        "anchor_warmup": 0,
    }
    losses["coordinate"].backward()
    gradient = raw.grad.unflatten(1, (2, 6))[0]
    assert gradient.nonzero()[:, [0, 2, 3]].unique(dim=0).tolist() == [[1, 1, 2]]
    # pulled right (0.25 of a cell), up (0.25), narrower and taller; 1/4 is the logistic's gradient
    assert gradient[1, :4, 1, 2].tolist() == pytest.approx(
        [-weight * 0.25 / 4, weight * 0.25 / 4, -weight * math.log(1 / 1.5), -weight * math.log(2)], rel=1e-5
    )


def test_without_rescore_objectness_learns_one():
    box = [0, 0, 8, 8]
    losses = RegionLoss([[1, 1]], rescore=False, warmup_images=0)(torch.zeros(1, 6, 2, 2), [target(box)], 8)
    assert losses["object"].item() == pytest.approx(5 / 2 * 0.25)


def test_a_good_prediction_is_not_called_false():
    """The anchor of 1.05 cells, not responsible, overlaps the truth of 1 cell by 0.907: above 0.6, below 0.95."""
    box = [8, 8, 16, 16]
    raw = torch.zeros(1, 12, 3, 3)
    for thresh, others in ((0.6, 16), (0.95, 17)):
        losses = RegionLoss([[1, 1], [1.05, 1.05]], thresh=thresh, warmup_images=0)(raw, [target(box)], 8)
        assert losses["no_object"].item() == pytest.approx(0.5 * others * 0.25)


def test_later_of_two_objects_with_the_same_anchor_wins():
    first, second = [8, 8, 16, 16], [9, 9, 15, 17]
    raw = torch.randn(1, 2 * 7, 3, 3, generator=torch.Generator().manual_seed(0))
    loss = RegionLoss([[1, 1], [4, 4]], num_classes=2, warmup_images=0, thresh=1)
    both = values(loss(raw, [target(first, second, labels=[0, 1])], 8))
    assert both == pytest.approx(values(loss(raw, [target(second, labels=[1])], 8)))
    swapped = values(loss(raw, [target(second, first, labels=[1, 0])], 8))
    assert swapped == pytest.approx(values(loss(raw, [target(first, labels=[0])], 8)))
    assert both["class"] != pytest.approx(swapped["class"])


def test_two_objects_in_one_cell_with_different_anchors_both_count():
    small, large = [8, 8, 16, 16], [-4, -4, 28, 28]
    losses = RegionLoss([[1, 1], [4, 4]], warmup_images=0)(torch.zeros(1, 12, 3, 3), [target(small, large)], 8)
    # both predictions are exact, so the objectness of both is pulled to 1
    assert losses["object"].item() == pytest.approx(2 * 5 / 2 * 0.25)
    assert losses["coordinate"].item() == pytest.approx(0, abs=1e-9)
    assert losses["no_object"].item() == pytest.approx(0.5 * 16 * 0.25)


@pytest.mark.parametrize(
    ("centre", "cell", "offset"),
    [((24, 32), (2, 3), (1, 1)), ((30, 40), (2, 3), (1, 1)), ((-3, 0), (0, 0), (0, 0)), ((8, 16), (1, 2), (0, 0))],
)
def test_object_at_the_border(centre, cell, offset):
    box = [centre[0] - 4, centre[1] - 4, centre[0] + 4, centre[1] + 4]
    raw = torch.zeros(1, 6, 3, 4, requires_grad=True)
    losses = RegionLoss([[1, 1]], warmup_images=0)(raw, [target(box)], 8)
    losses["coordinate"].backward()
    gradient = raw.grad[0]
    assert gradient.abs().sum(0).nonzero().tolist() == [list(cell)]
    weight = 2 - 1 / 12
    row, column = cell
    assert gradient[0, row, column].item() == pytest.approx(-weight * (offset[1] - 0.5) / 4)
    assert gradient[1, row, column].item() == pytest.approx(-weight * (offset[0] - 0.5) / 4)


def test_warm_up_pulls_all_but_responsible_anchors_until_the_images_are_seen():
    loss = RegionLoss([[1, 1], [4, 4]], warmup_images=6)
    raw = torch.zeros(2, 12, 2, 2)
    raw[:, 0] = math.log(3)  # the offset along the columns of anchor 0 is 3/4
    raw[:, 9] = 2.0  # the log scale of the height of anchor 1 is 2
    targets = [target([0, 0, 8, 8]), NO_BOXES]
    expected = 0.01 / 2 * (7 * 0.25**2 + 8 * 2**2) / 2
    assert loss(raw, targets, 8)["anchor_warmup"].item() == pytest.approx(expected)
    assert loss(raw, targets, 8)["anchor_warmup"].item() == pytest.approx(expected)
    assert loss(raw, targets, 8)["anchor_warmup"].item() == 0
    assert loss.seen.item() == 6


def test_seen_counts_training_images_only_and_is_saved():
    loss = RegionLoss([[1, 1]])
    loss(torch.zeros(3, 6, 2, 2), [NO_BOXES] * 3, 8)
    loss.eval()(torch.zeros(2, 6, 2, 2), [NO_BOXES] * 2, 8)
    other = RegionLoss([[2, 2]])
    other.load_state_dict(loss.state_dict())
    assert other.seen.item() == 3
    assert other.anchors.tolist() == [[1, 1]]


def loop_iou(a, b):
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def loop_deltas(raw, truths, anchors, num_classes, rescore, bias_match, thresh, warm):
    """Deltas of one image by the rules of darknet, one after the other; truths (x, y, w, h, class) in cells."""
    _, rows, columns = raw.shape
    x = raw.reshape(len(anchors), 5 + num_classes, rows, columns)
    delta = np.zeros_like(x)

    def logistic(value):
        return 1 / (1 + math.exp(-value))

    def predicted(n, j, i):
        t = x[n, :, j, i]
        return (
            i + logistic(t[0]),
            j + logistic(t[1]),
            math.exp(t[2]) * anchors[n][0],
            math.exp(t[3]) * anchors[n][1],
        )

    def pull_box(n, j, i, truth, scale):
        t = x[n, :, j, i]
        for axis, cell in ((0, i), (1, j)):
            p = logistic(t[axis])
            delta[n, axis, j, i] = scale * (truth[axis] - cell - p) * p * (1 - p)
            delta[n, 2 + axis, j, i] = scale * (math.log(truth[2 + axis] / anchors[n][axis]) - t[2 + axis])

    def pull_objectness(n, j, i, wanted, scale):
        p = logistic(x[n, 4, j, i])
        delta[n, 4, j, i] = scale * (wanted - p) * p * (1 - p)

    for n in range(len(anchors)):
        for j in range(rows):
            for i in range(columns):
                box = predicted(n, j, i)
                best = max([loop_iou(box, truth) for truth in truths], default=0)
                pull_objectness(n, j, i, 0, 0 if best > thresh else 1)
                if warm:
                    pull_box(n, j, i, (i + 0.5, j + 0.5, *anchors[n]), 0.01)
    for truth in truths:
        i, j = int(truth[0]), int(truth[1])
        shapes = [anchors[n] if bias_match else predicted(n, j, i)[2:] for n in range(len(anchors))]
        n = int(np.argmax([loop_iou((0, 0, *shape), (0, 0, *truth[2:4])) for shape in shapes]))
        pull_box(n, j, i, truth, 2 - truth[2] * truth[3] / (rows * columns))
        pull_objectness(n, j, i, loop_iou(predicted(n, j, i), truth) if rescore else 1, 5)
        probabilities = np.exp(x[n, 5:, j, i]) / np.exp(x[n, 5:, j, i]).sum()
        delta[n, 5:, j, i] = (np.arange(num_classes) == truth[4]) - probabilities
    return delta.reshape(raw.shape)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_gradients_are_darknets_deltas(seed, num_classes, rescore, bias_match, warm, numbers):
    generator = np.random.default_rng(seed)
    rows, columns, stride = 3, 4, 8
    anchors = generator.uniform(0.3, 3, (2, 2)).astype(np.float32).astype(np.float64)
    raw = generator.normal(size=(len(numbers), 2 * (5 + num_classes), rows, columns))
    targets, expected = [], []
    for image, number in enumerate(numbers):
        truths = np.column_stack(
            [
                generator.uniform(0, columns, number),
                generator.uniform(0, rows, number),
                generator.uniform(0.3, 3, (number, 2)),
                generator.integers(0, num_classes, number),
            ]
        )
        x, y, w, h, label = truths.T
        boxes = np.column_stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2]) * stride
        targets.append({"boxes": torch.tensor(boxes), "labels": torch.tensor(label).long()})
        expected.append(loop_deltas(raw[image], truths, anchors, num_classes, rescore, bias_match, 0.3, warm))
    loss = RegionLoss(
        anchors.tolist(),
        num_classes,
        rescore=rescore,
        bias_match=bias_match,
        thresh=0.3,
        warmup_images=1000 if warm else 0,
    )
    predictions = torch.tensor(raw, requires_grad=True)
    sum(loss(predictions, targets, stride).values()).backward()
    np.testing.assert_allclose(-predictions.grad.numpy() * len(numbers), expected, atol=1e-9)


def test_cross_entropy_by_hand():
    raw = torch.zeros(1, 12, 2, 2)
    raw[0, 4, 0, 0] = math.log(3)  # the objectness of the responsible anchor is 3/4
    losses = RegionLoss([[1, 1], [4, 4]], objectness_loss="cross_entropy", rescore=False, warmup_images=0)(
        raw, [target([0, 0, 8, 8])], 8
    )
    assert losses["object"].item() == pytest.approx(5 * math.log(4 / 3))
    # the anchor of 4 cells overlaps by less than 0.6: it and the three other cells have an objectness of 1/2
    assert losses["no_object"].item() == pytest.approx(7 * math.log(2))


def test_small_boxes_need_not_count_for_more():
    box = [1.25 * 8 - 8, 2.75 * 8 - 4, 1.25 * 8 + 8, 2.75 * 8 + 4]
    error = (0.25**2 + 0.25**2 + math.log(2) ** 2) / 2
    for weighted, weight in ((True, 2 - 2 / 12), (False, 1)):
        loss = RegionLoss([[1, 1]], coord_scale=3, weight_small_boxes=weighted, warmup_images=0)
        losses = loss(torch.zeros(1, 6, 3, 4), [target(box)], 8)
        assert losses["coordinate"].item() == pytest.approx(3 * weight * error, rel=1e-5)


@pytest.mark.parametrize("objectness_loss", ["squared_error", "cross_entropy"])
def test_gradcheck(objectness_loss):
    loss = RegionLoss([[1, 1], [2, 1]], num_classes=2, rescore=False, objectness_loss=objectness_loss).eval()
    raw = torch.randn(2, 14, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = [target([3, 2, 11, 15], [1, 1, 6, 9], labels=[1, 0]), NO_BOXES]
    assert torch.autograd.gradcheck(lambda x: tuple(loss(x, targets, 8).values()), raw.requires_grad_(), atol=1e-7)


def test_scales():
    raw = torch.randn(1, 14, 3, 3, generator=torch.Generator().manual_seed(2))
    targets = [target([8, 8, 16, 16], labels=[1])]
    one = {"object_scale": 1, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1}
    plain = RegionLoss([[1, 1], [2, 2]], 2, **one, warmup_images=0)(raw, targets, 8)
    factors = dict(zip(one, (2, 3, 4, 5), strict=True))
    scaled = RegionLoss([[1, 1], [2, 2]], 2, **factors, warmup_images=0)(raw, targets, 8)
    names = ("object", "no_object", "class", "coordinate")
    for name, factor in zip(names, factors.values(), strict=True):
        assert plain[name] > 0
        assert scaled[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-5)


def test_half_precision_is_computed_in_full():
    raw = torch.randn(1, 12, 3, 3, generator=torch.Generator().manual_seed(3)).bfloat16()
    targets = [target([8, 8, 16, 16])]
    loss = RegionLoss([[1, 1], [2, 2]]).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(raw, targets, 8)
    assert all(value.dtype == torch.float32 for value in mixed.values())
    assert values(mixed) == pytest.approx(values(loss(raw.float(), targets, 8)))


def test_wild_predictions_stay_finite():
    raw = torch.full((1, 6, 2, 2), 200.0, requires_grad=True)
    losses = RegionLoss([[1, 1]])(raw, [target([0, 0, 8, 8])], 8)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(raw.grad).all()


def test_iou_of_empty_boxes_is_zero():
    assert centre_size_iou(torch.zeros(4), torch.zeros(4)).item() == 0


def test_errors():
    loss = RegionLoss([[1, 1]], num_classes=2)
    raw = torch.zeros(2, 7, 2, 2)
    with pytest.raises(ValueError, match="Image 1 of the batch has an empty box"):
        loss(raw, [NO_BOXES, target([4, 4, 4, 8])], 8)
    with pytest.raises(ValueError, match=r"Image 0 of the batch has labels \[2\].*0 to 1"):
        loss(raw, [target([4, 4, 8, 8], labels=[2]), NO_BOXES], 8)
    with pytest.raises(ValueError, match="pairs of positive"):
        RegionLoss([[1, 0]])
