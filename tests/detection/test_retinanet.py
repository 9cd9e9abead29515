"""Tests of the RetinaNet detector."""

import json
import math
import shlex

import numpy as np
import pytest
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector

from cmb_bundle.scripts.detection.retinanet import RetinaNet2DDetector, RetinaNet2DNetwork
from cmb_bundle.scripts.errors import CheckpointError

from ..helpers import CONFIGS
from ..helpers.commands import commands
from ..helpers.configuration import configuration
from ..helpers.processes import run_module

SIZES = [[4, 6, 8], [12, 16, 20]]


def detector(network=None, **arguments) -> RetinaNet2DDetector:
    torch.manual_seed(0)
    return RetinaNet2DDetector(network or RetinaNet2DNetwork(width=0.25), **{"anchor_sizes": SIZES, **arguments})


def target(*boxes, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64) if labels is None else labels}


def anchor_index(level, row, column, anchor, size=(32, 48)):
    """Place of an anchor in the raw tensor: level, row, column, anchor."""
    before = [0, (size[0] // 4) * (size[1] // 4) * 3][level]
    return before + (row * (size[1] // (4, 8)[level]) + column) * 3 + anchor


# ------------------------------------------------------------------------------------------------------ raw and boxes


def test_raw_tensor_holds_the_heads_outputs_in_the_order_of_the_anchors():
    network = RetinaNet2DNetwork(width=0.25, num_classes=2).eval()
    seen = {}
    network.classification_head.register_forward_hook(lambda _, __, output: seen.update(classes=output))
    network.regression_head.register_forward_hook(lambda _, __, output: seen.update(boxes=output))
    raw = network(torch.rand(2, 2, 32, 48))
    assert [tuple(level.shape[2:]) for level in seen["classes"]] == [(8, 12), (4, 6)]
    assert raw.shape == (2, 6, 3 * (8 * 12 + 4 * 6))
    for level, row, column, anchor in ((0, 5, 7, 2), (0, 0, 11, 0), (1, 3, 4, 1)):
        index = anchor_index(level, row, column, anchor)
        classes = seen["classes"][level][:, 2 * anchor : 2 * anchor + 2, row, column]
        boxes = seen["boxes"][level][:, 4 * anchor : 4 * anchor + 4, row, column]
        torch.testing.assert_close(raw[:, :, index], torch.cat([classes, boxes], dim=1), rtol=0, atol=0)


def test_anchors_are_centred_on_the_cells():
    anchors, places = detector().image_anchors((32, 48), torch.zeros(1))
    assert places == [8 * 12, 4 * 6]
    # the middle of pixels 20 to 23 and 28 to 31, in pixel edges; half edges 2, 3, 4
    assert anchors[anchor_index(0, 5, 7, 0)].tolist() == [20, 28, 24, 32]
    assert anchors[anchor_index(0, 5, 7, 2)].tolist() == [18, 26, 26, 34]
    assert anchors[anchor_index(1, 3, 4, 1)].tolist() == [28 - 8, 36 - 8, 28 + 8, 36 + 8]


def known_raw(size=(32, 48)):
    raw = torch.zeros(1, 5, 3 * (size[0] * size[1] // 16 + size[0] * size[1] // 64))
    raw[:, 0] = -20.0
    return raw


def test_boxes_of_a_known_raw_tensor():
    raw = known_raw()
    index = anchor_index(0, 2, 3, 2)
    # centre (10, 14), edge 8: moved by half of it and minus a quarter, twice as long along axis 0
    raw[0, :, index] = torch.tensor([2.0, 0.5, -0.25, math.log(2), 0.0])
    boxes, probabilities = detector().decode(raw, (32, 48))
    torch.testing.assert_close(boxes[0, index], torch.tensor([6.0, 8.0, 22.0, 16.0]))
    assert probabilities[0, index].item() == pytest.approx(1 / (1 + math.exp(-2)))
    found = detector(score_thresh=0.5).detections(raw, [(20, 40)], (32, 48))[0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[6.0, 8.0, 20.0, 16.0]]))
    assert found["scores"].tolist() == pytest.approx([1 / (1 + math.exp(-2))])
    assert found["labels"].tolist() == [0]


def test_detections_are_those_of_monai():
    """Its loop over boxes is the oracle; score, overlap and number limit what is found.

    MONAI also drops what is thinner than a pixel after clipping, so there are no boxes at the border.
    """
    limits = {"score_thresh": 0.3, "nms_thresh": 0.2, "detections_per_image": 20}
    ours = detector(RetinaNet2DNetwork(width=0.25, num_classes=2), **limits).eval()
    torch.manual_seed(1)
    raw = torch.randn(2, 6, 3 * (16 * 16 + 8 * 8)) * torch.tensor([2, 2, 0.2, 0.2, 0.2, 0.2])[:, None]
    anchors, places = ours.image_anchors((64, 64), raw)
    raw[:, :2, (anchors < 10).any(1) | (anchors > 54).any(1)] = -20.0
    sizes = [(64, 64), (63, 62)]
    found = ours.detections(raw, sizes, (64, 64))
    ours.set_box_selector_parameters(score_thresh=0.3, nms_thresh=0.2, detections_per_img=20)
    head = {ours.cls_key: raw[:, :2].transpose(1, 2), ours.box_reg_key: raw[:, 2:].transpose(1, 2)}
    expected = RetinaNetDetector.postprocess_detections(ours, head, [anchors] * 2, sizes, places)
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) == 20
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[key], other[key])


def test_images_of_any_size_are_padded():
    network = detector(score_thresh=0.0).eval()
    images = [torch.rand(2, 30, 41), torch.rand(2, 17, 50)]
    found = network(images)
    for image, one in zip(images, found, strict=True):
        assert 0 < len(one["boxes"]) <= 100
        assert (one["boxes"] >= 0).all() and (one["boxes"] <= torch.tensor([*image.shape[1:], *image.shape[1:]])).all()
        assert (one["scores"].diff() <= 0).all()


# ------------------------------------------------------------------------------------------------------------- losses


def test_box_loss_by_hand():
    ours = detector(box_weight=3.0)
    truth = np.array([9.0, 13.0, 17.0, 19.0])
    anchors, places = ours.image_anchors((32, 48), torch.zeros(1))
    matched = ours.compute_anchor_matched_idxs([anchors], [target(truth.tolist())], places)[0]
    assert 0 < (matched == 0).sum() < 12 and set(matched.tolist()) == {-1, 0}
    terms = []
    for low0, low1, high0, high1 in anchors[matched == 0].numpy():
        edge, centre = high0 - low0, np.array([(low0 + high0) / 2, (low1 + high1) / 2])
        wanted = [*(np.array([13.0, 16.0]) - centre) / edge, math.log(8 / edge), math.log(6 / edge)]
        assert edge == high1 - low1
        terms += [4.5 * d * d if abs(d) < 1 / 9 else abs(d) - 1 / 18 for d in wanted]
    losses = ours.losses(torch.zeros(1, 5, len(anchors)), [target(truth.tolist())], (32, 48))
    assert losses["box_regression"].item() == pytest.approx(3 * np.mean(terms), rel=1e-5)
    assert losses["classification"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_class_loss_takes_the_matched_anchors_and_the_hardest_negatives():
    ours = detector(samples_per_image=64, min_negatives=16, pool_size=1)
    raw = known_raw()
    raw[0, 0, 100:116] = 3.0
    losses = ours.losses(raw, [target()], (32, 48))
    assert losses["classification"].item() == pytest.approx(math.log1p(math.exp(3)), rel=1e-5)
    anchors, places = ours.image_anchors((32, 48), raw)
    truth = target([20.0, 36.0, 26.0, 42.0])
    positive = int((ours.compute_anchor_matched_idxs([anchors], [truth], places)[0] >= 0).sum())
    losses = ours.losses(raw, [truth], (32, 48))
    expected = (16 * math.log1p(math.exp(3)) + positive * 20) / (16 + positive)
    assert losses["classification"].item() == pytest.approx(expected, rel=1e-5)


def test_classes_are_told_apart():
    ours = detector(RetinaNet2DNetwork(width=0.25, num_classes=2), pool_size=1)
    truth = target([8.0, 8.0, 16.0, 16.0], labels=torch.tensor([1]))
    anchors, places = ours.image_anchors((32, 48), torch.zeros(1))
    positive = ours.compute_anchor_matched_idxs([anchors], [truth], places)[0] >= 0
    raw = torch.full((1, 6, len(anchors)), -20.0)
    raw[0, 1, positive] = 20.0
    assert ours.losses(raw, [truth], (32, 48))["classification"].item() < 1e-6
    raw[0, :2] = raw[0, [1, 0]]
    assert ours.losses(raw, [truth], (32, 48))["classification"].item() > 2


@pytest.mark.parametrize("matcher", ["ATSS", "one that finds nothing"])
def test_every_object_has_an_anchor(matcher):
    ours = detector()
    if matcher != "ATSS":
        found = ours.proposal_matcher
        ours.proposal_matcher = lambda *given: (found(*given)[0], torch.full_like(found(*given)[1], -1))
    generator = np.random.default_rng(0)
    low = generator.uniform(0, 40, (30, 2))
    truth = target(*np.hstack([low, low + generator.uniform(4, 20, (30, 2))]).tolist())
    anchors, places = ours.image_anchors((64, 64), torch.zeros(1))
    matched = ours.compute_anchor_matched_idxs([anchors], [truth], places)[0]
    if matcher == "ATSS":
        low = torch.tensor([[3.0 * n, 4.0 * n] for n in range(10)])
        apart = target(*torch.cat([low, low + torch.linspace(4, 20, 10)[:, None]], dim=1).tolist())
        matched = ours.compute_anchor_matched_idxs([anchors], [apart], places)[0]
        assert set(matched.tolist()) == {-1, *range(10)}
    else:
        assert len(set(matched.tolist())) > 20


def test_a_batch_without_boxes_has_finite_losses_and_gradients():
    ours = detector().train()
    losses = ours(torch.rand(2, 2, 32, 32), [target(), target()])
    assert set(losses) == {"classification", "box_regression"}
    assert losses["box_regression"].item() == 0
    assert 0 < losses["classification"].item() < 1
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in ours.parameters())
    mixed = ours(torch.rand(2, 2, 32, 32), [target(), target([3.0, 4.0, 9.5, 10.5])])
    assert all(torch.isfinite(loss) and loss > 0 for loss in mixed.values())


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="targets"):
        detector().train()(torch.rand(1, 2, 32, 32))


def test_one_image_is_learned():
    torch.manual_seed(0)
    image = torch.rand(1, 2, 64, 64) * 0.3 + 0.5
    truth = target([6.0, 8.0, 11.0, 13.0], [30.0, 36.0, 38.0, 44.0], [40.0, 10.0, 56.0, 26.0])
    for low0, low1, high0, high1 in truth["boxes"].int().tolist():
        image[:, :, low0:high0, low1:high1] = 0.1
    ours = detector(RetinaNet2DNetwork(width=0.5), score_thresh=0.5).train()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(ours(image, [truth]).values()).backward()
        optimizer.step()
    found = ours.eval()(image)[0]
    assert len(found["boxes"]) == 3
    order = found["boxes"][:, 0].argsort()
    torch.testing.assert_close(found["boxes"][order], truth["boxes"], rtol=0, atol=0.5)


# ------------------------------------------------------------------------------------------------ errors and workflow


@pytest.mark.parametrize("sizes", [[[4, 6, 8]], [[4, 6], [8, 12]], [[4, 6, 8], [12, 16, 15]], [[4, 6, 8], [0, 12, 16]]])
def test_bad_anchor_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"expected 3 even sizes for each of the 2 levels with the strides \[4, 8\]"):
        detector(anchor_sizes=sizes)


@pytest.mark.parametrize("arguments", [{"channels": [8, 16]}, {"blocks": [1, 1, 1]}, {"num_levels": 4}])
def test_bad_networks_are_refused(arguments):
    with pytest.raises(ValueError, match="need four numbers each"):
        RetinaNet2DNetwork(**arguments)


@pytest.mark.parametrize("training", [True, False])
def test_values_that_are_not_finite_are_refused(training):
    ours = detector().train(training)
    ours.network.forward = lambda x: torch.full((1, 5, 240), torch.nan)
    with pytest.raises(CheckpointError, match="gave values that are not finite"):
        ours(torch.rand(1, 2, 32, 32), [target()] if training else None)


def test_export_with_dynamic_sizes():
    network = RetinaNet2DNetwork(width=0.25).eval()
    size = {0: torch.export.Dim("batch", max=64), 2: 16 * torch.export.Dim("rows", max=32), 3: None}
    exported = torch.export.export(network, (torch.rand(2, 2, 32, 48),), dynamic_shapes=(size,)).module()
    images = torch.rand(3, 2, 64, 48)
    torch.testing.assert_close(exported(images), network(images))


def test_commands_of_the_page(tiny_cohort, tmp_path):
    """Two epochs of each stage, and an evaluation, by the commands as they stand."""
    (tmp_path / "cmb_bundle").symlink_to(CONFIGS.parent)
    (tmp_path / "scans").symlink_to(tiny_cohort)
    train, evaluate = commands(CONFIGS.parents[1] / "docs" / "reference" / "detectors.md")
    width = " --network_def#detector#network#width 0.25"
    quick = " --folds 3 --detector_epochs 2 --classifier_epochs 2 --val_interval 1 --slices_per_subject 4"
    for command in (train + width + quick, evaluate + width + " --folds 3 --candidate_threshold 0 --picture False"):
        done = run_module(shlex.split(command)[2:], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    log = np.genfromtxt(tmp_path / "training" / "detector_log.csv", delimiter=",", names=True)
    assert list(log["epoch"]) == [1, 2]
    assert np.isfinite(log["loss"]).all() and (log["loss"] > 0).all()
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["end_to_end"]["n_subjects"] >= 1
    results = [json.loads(path.read_text()) for path in (tmp_path / "evaluation").glob("*/*_cmb.json")]
    assert sum(len(result["candidates"]) for result in results) > 0


def test_weights_fit_the_size_that_a_model_file_may_have():
    ours = configuration("retinanet.json").get_parsed_content("network_def#detector")
    assert ours.network.in_channels == 10
    assert sum(4 * v.numel() for v in ours.state_dict().values()) < 10e6
