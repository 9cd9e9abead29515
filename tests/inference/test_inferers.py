"""The two stages on a volume, with networks whose answers are known."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cmb_bundle.scripts.errors import CheckpointError, OptionError
from cmb_bundle.scripts.inference.inferers import MixedPrecisionInferer, TwoStageInferer
from cmb_bundle.scripts.networks.decision import JointDecision

SPACING = (0.8, 0.8, 2.0)


class Spots(torch.nn.Module):
    """A detector that puts a box of 5 pixels around each pixel of channel 0 above 0.01, with its value as score."""

    score_thresh = 0.01

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(images)
        return [self.one(image[0]) for image in images]

    @staticmethod
    def one(plane):
        places = (plane > 0.01).nonzero()
        scores = plane[places[:, 0], places[:, 1]]
        return {"boxes": torch.cat([places - 2, places + 3], 1).float(), "scores": scores, "labels": scores * 0}


class CentreValue(torch.nn.Module):
    """A classifier whose probability is the value in the middle of the patch of one channel."""

    def __init__(self, channel=0):
        super().__init__()
        self.channel, self.batches = channel, []

    def forward(self, patches):
        self.batches.append(patches)
        i, j, k = patches.shape[2:]
        value = patches[:, self.channel, i // 2, j // 2, k // 2]
        return torch.stack([torch.zeros_like(value), torch.logit(value, eps=1e-6)], dim=1)


def network(channel=0):
    both = torch.nn.Module()
    both.detector, both.classifier = Spots(), CentreValue(channel)
    return both


def volume(*spots, shape=(40, 36, 11)):
    """Zeros but for spots (i, j, k, SWI, phase)."""
    image = torch.zeros(2, *shape)
    for i, j, k, swi, phase in spots:
        image[:, i, j, k] = torch.tensor([swi, phase])
    return image


def test_known_candidates_best_first():
    image = volume((10, 12, 3, 0.4, 0.7), (30, 5, 8, 0.9, 0.2), (39, 35, 10, 0.6, 0.5))
    table = TwoStageInferer(SPACING, average=1)(image[None], network())
    # boxes of 5 pixels of 0.8 mm are 4 mm wide
    expected = [
        [30, 5, 8, 4.0, 0.9, 1, 0.9, 0.9],
        [39, 35, 10, 4.0, 0.6, 1, 0.6, 0.6],
        [10, 12, 3, 4.0, 0.4, 1, 0.4, 0.4],
    ]
    assert table.shape == (1, 3, 8)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table[0], expected, rtol=1e-5)


def test_classifier_reads_the_phase_at_the_candidate_too():
    image = volume((10, 12, 3, 0.4, 0.7), (30, 5, 8, 0.9, 0.2))
    table = TwoStageInferer(SPACING, average=1)(image[None], network(channel=1))
    np.testing.assert_allclose(table[0, :, -1], [0.2, 0.7], rtol=1e-5)


@pytest.mark.parametrize("patch_size", [16, 20])
def test_patches_are_where_the_candidates_are(patch_size):
    image = torch.rand(2, 40, 36, 11, generator=torch.Generator().manual_seed(0)) * 0.009
    image[:, 20, 18, 5] = 0.5
    both = network()
    TwoStageInferer(SPACING, average=1, patch_size=patch_size)(image[None], both)
    (patches,) = both.classifier.batches
    assert patches.shape == (1, 2, patch_size, patch_size, patch_size)
    half = patch_size // 2
    for patch, channel in zip(patches[0], image, strict=True):
        np.testing.assert_array_equal(
            patch[:, :, half - 5 : half + 6], channel[20 - half : 20 + half, 18 - half : 18 + half]
        )
        assert not patch[:, :, : half - 5].any()
        assert not patch[:, :, half + 6 :].any()


def test_patches_may_have_another_size_along_each_axis():
    image = torch.rand(2, 40, 36, 11, generator=torch.Generator().manual_seed(0)) * 0.009
    image[:, 20, 18, 5] = 0.5
    TwoStageInferer(SPACING, average=1, patch_size=[24, 12, 8])(image[None], both := network())
    (patches,) = both.classifier.batches
    np.testing.assert_array_equal(patches[0], image[:, 8:32, 12:24, 1:9])


def test_the_probability_is_by_both_stages_where_the_network_has_a_decision():
    image = volume((10, 12, 3, 0.4, 0.7), (30, 5, 8, 0.8, 0.1))
    both = network(channel=1)
    alone = TwoStageInferer(SPACING, average=1)(image[None], both)
    np.testing.assert_allclose(alone[0, :, 6:], [[0.1, 0.1], [0.7, 0.7]], rtol=1e-5)
    both.decision = None
    assert torch.equal(TwoStageInferer(SPACING, average=1)(image[None], both), alone)
    both.decision = JointDecision(detector=2.0, classifier=0.5, offset=-0.25)
    joint = TwoStageInferer(SPACING, average=1)(image[None], both)
    assert torch.equal(joint[..., :7], alone[..., :7])
    # odds 4 and 1/9: 4^2 * (1/9)^0.5 * e^-0.25; and odds 2/3 and 7/3
    odds = np.array([16 / 3, (2 / 3) ** 2 * np.sqrt(7 / 3)]) * np.exp(-0.25)
    np.testing.assert_allclose(joint[0, :, 7], odds / (1 + odds), rtol=1e-5)


class Mirroring(CentreValue):
    """Where mirror images are averaged, the probability is the square root of the value in the middle."""

    average_flips = True

    def forward(self, patches, mirrored=True):
        logits = super().forward(patches)
        if not mirrored:
            self.batches.pop()
            return logits
        return torch.stack([logits[:, 0], torch.logit(logits[:, 1].sigmoid().sqrt(), eps=1e-6)], dim=1)


@pytest.mark.parametrize(
    ("decision", "likely"),
    [(None, [0.5, 0.0101]), (JointDecision(offset=2.0), [0.5, 0.0099, 0.0101]), (JointDecision(offset=-9.0), [])],
)
def test_mirror_images_are_looked_at_where_one_view_leaves_a_chance(decision, likely):
    places = (10, 12, 3, 0.9, 0.5), (30, 5, 8, 0.8, 0.0099), (20, 20, 5, 0.7, 0.0101)
    both = network()
    both.classifier, both.decision = Mirroring(channel=1), decision
    table = TwoStageInferer(SPACING, average=1)(volume(*places)[None], both)[0]
    expected = [value**0.5 if value in likely else value for *_, value in places]
    torch.testing.assert_close(table[:, 6], torch.tensor(expected), atol=1e-5, rtol=0)
    looked_at = [float(patch[1].max()) for batch in both.classifier.batches for patch in batch]
    assert looked_at == pytest.approx(likely)


@pytest.mark.parametrize("wrong", [{"offset": float("nan")}, {"detector": float("inf")}])
def test_a_decision_that_is_not_finite_is_refused(wrong):
    both = network()
    both.decision = JointDecision(**wrong)
    with pytest.raises(CheckpointError, match="values of the decision that are not finite"):
        TwoStageInferer(SPACING, average=1)(volume((10, 12, 3, 0.5, 0.7))[None], both)


@pytest.mark.parametrize("value", [[24, 24], [24, 24, 0], [24, 24, 8.0], [24, True, 8], "abc", []])
def test_three_sizes_of_a_patch_must_be_counts(value):
    with pytest.raises(OptionError, match=r"patch_size is .*; expected a whole number, 1 or more, or three of them"):
        TwoStageInferer(SPACING, patch_size=value)


def test_slices_are_averaged_for_the_detector_only():
    image = volume((10, 12, 4, 0.9, 0.3))
    table = TwoStageInferer(SPACING, average=3)(image[None], both := network())
    # the spot is seen at a third of its value on three slices
    np.testing.assert_allclose(table[0], [[10, 12, 4, 4.0, 0.3, 3, 0.9, 0.9]], rtol=1e-5)
    seen = torch.cat(both.detector.batches)[:, :, 10, 12]
    np.testing.assert_allclose(seen[:, 0], [0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(seen[:, 1], [0, 0, 0, 0.1, 0.1, 0.1, 0, 0, 0, 0, 0], atol=1e-6)


def test_the_detector_sees_the_neighbours_of_a_slice_and_the_classifier_does_not():
    image = volume((10, 12, 4, 0.9, 0.3))
    table = TwoStageInferer(SPACING, average=1, context=3)(image[None], both := network())
    seen = torch.cat(both.detector.batches)[:, :, 10, 12]
    assert seen.shape == (11, 6)
    # the slice before is the first channel, so that the spot is there one slice later
    np.testing.assert_allclose(seen[3:6, :3], [[0, 0, 0.9], [0, 0.9, 0], [0.9, 0, 0]])
    np.testing.assert_allclose(seen[3:6, 3:], [[0, 0, 0.3], [0, 0.3, 0], [0.3, 0, 0]])
    assert table[0, 0, 2] == 5
    assert both.classifier.batches[0].shape[1:] == (2, 16, 16, 16)


def test_boxes_below_the_threshold_are_no_candidates():
    image = volume((10, 12, 3, 0.3, 0.5), (30, 5, 8, 0.25, 0.5), (20, 20, 5, 0.24, 0.5))
    table = TwoStageInferer(SPACING, average=1, candidate_threshold=0.25)(image[None], network())
    np.testing.assert_allclose(table[0, :, 4], [0.3, 0.25])


def test_threshold_is_for_the_score_over_two_slices():
    bright = (10, 12, 3, 0.9, 0.5)
    faint_beside = (10, 12, 4, 0.2, 0.5)
    alone = (30, 5, 8, 0.9, 0.5)
    table = TwoStageInferer(SPACING, average=1, candidate_threshold=0.3, score_slices=2)(
        volume(bright, faint_beside, alone)[None], network()
    )
    # odds 9 and 1/4: 3/2. The one beside is under the threshold itself; the other spot is on one slice alone.
    np.testing.assert_allclose(table[0, :, [0, 4, 5]], [[10, 0.6, 2]], rtol=1e-5)


@pytest.mark.parametrize("score_thresh", [0.01, 0.1])
def test_a_slice_without_a_box_counts_half_of_what_the_detector_reports_at_least(score_thresh):
    both = network()
    both.detector.score_thresh = score_thresh
    inferer = TwoStageInferer(SPACING, average=1, candidate_threshold=0.0, score_slices=2)
    table = inferer(volume((10, 12, 3, 0.9, 0.5))[None], both)
    odds = np.sqrt(9 * (score_thresh / 2) / (1 - score_thresh / 2))
    np.testing.assert_allclose(table[0, :, 4], [odds / (1 + odds)], rtol=1e-5)


@pytest.mark.parametrize(("merge_mm", "number"), [(4.0, 1), (2.0, 2)])
def test_merge_mm_is_in_millimetres(merge_mm, number):
    image = volume((10, 12, 3, 0.4, 0.5), (14, 12, 3, 0.4, 0.5))  # 3.2 mm apart
    assert TwoStageInferer(SPACING, average=1, merge_mm=merge_mm)(image[None], network()).shape[1] == number


def test_best_candidates_are_kept_and_only_they_are_classified():
    image = volume((5, 5, 3, 0.2, 0.4), (30, 5, 8, 0.9, 0.4), (20, 20, 5, 0.6, 0.4))
    both = network(channel=1)
    table = TwoStageInferer(SPACING, average=1, max_candidates=2)(image[None], both)
    np.testing.assert_allclose(table[0, :, 4], [0.9, 0.6])
    assert sum(len(batch) for batch in both.classifier.batches) == 2


@pytest.mark.parametrize(
    ("probabilities", "looked_at"),
    [((0.9, 0.8, 0.9, 0.3, 0.9), 4), ((0.9, 0.4, 0.9, 0.9, 0.9), 2), ((0.9, 0.8, 0.6, 0.7, 0.9), 5)],
)
def test_the_budget_goes_on_while_more_than_half_of_it_are_likely_microbleeds(probabilities, looked_at):
    spots = [(4 + 7 * n, 30 - 6 * n, 1 + 2 * n, 0.9 - 0.1 * n, p) for n, p in enumerate(probabilities)]
    both = network(channel=1)
    table = TwoStageInferer(SPACING, average=1, max_candidates=2)(volume(*spots)[None], both)
    np.testing.assert_allclose(table[0, :, 4], [0.9, 0.8, 0.7, 0.6, 0.5][:looked_at], rtol=1e-5)
    np.testing.assert_allclose(table[0, :, 6], probabilities[:looked_at], rtol=1e-5)
    assert sum(len(batch) for batch in both.classifier.batches) == looked_at


def test_best_candidates_are_those_by_the_score_over_slices_and_not_by_the_best_box():
    # the brightest spot is on one slice alone, so that over two slices the other is better
    alone = (30, 5, 8, 0.9, 0.4)
    on_two = [(10, 12, 3, 0.7, 0.4), (10, 12, 4, 0.7, 0.4)]
    options = {"average": 1, "max_candidates": 1}
    table = TwoStageInferer(SPACING, **options)(volume(alone, *on_two)[None], network(channel=1))
    np.testing.assert_allclose(table[0, :, [0, 4]], [[30, 0.9]], rtol=1e-5)
    table = TwoStageInferer(SPACING, **options, score_slices=2)(volume(alone, *on_two)[None], network(channel=1))
    np.testing.assert_allclose(table[0, :, [0, 4]], [[10, 0.7]], rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batch_size_changes_nothing_but_the_batches(batch_size):
    spots = [(4 + 7 * n, 30 - 6 * n, 1 + 2 * n, 0.3 + 0.1 * n, 0.5) for n in range(5)]
    both = network()
    table = TwoStageInferer(SPACING, average=1, batch_size=batch_size, patch_batch_size=batch_size + 1)(
        volume(*spots)[None], both
    )
    expected = [[i, j, k, swi] for i, j, k, swi, _ in reversed(spots)]
    np.testing.assert_allclose(table[0][:, [0, 1, 2, 6]], expected, rtol=1e-5)
    assert max(len(batch) for batch in both.detector.batches) == min(batch_size, 11)
    assert max(len(batch) for batch in both.classifier.batches) == min(batch_size + 1, 5)


def test_without_the_second_stage_probabilities_are_unknown():
    both = network()
    both.classifier = None
    table = TwoStageInferer(SPACING, average=1, classify=False)(volume((10, 12, 3, 0.4, 0.7))[None], both)
    np.testing.assert_allclose(table[0], [[10, 12, 3, 4.0, 0.4, 1, np.nan, np.nan]], rtol=1e-5)


def test_subjects_of_a_batch_are_padded_with_nan():
    images = torch.stack([volume((10, 12, 3, 0.4, 0.7)), volume((10, 12, 3, 0.5, 0.7), (30, 5, 8, 0.9, 0.2)), volume()])
    table = TwoStageInferer(SPACING, average=1)(images, network())
    assert table.shape == (3, 2, 8)
    np.testing.assert_allclose(table[0], [[10, 12, 3, 4, 0.4, 1, 0.4, 0.4], [np.nan] * 8], rtol=1e-5)
    np.testing.assert_allclose(table[1, :, 4], [0.9, 0.5])
    assert table[2].isnan().all()


def test_volume_without_candidates():
    both = network()
    table = TwoStageInferer(SPACING)(volume()[None], both)
    assert table.shape == (1, 0, 8)
    assert both.classifier.batches == []


def test_meta_tensors_and_half_precision_are_taken():
    image = MetaTensor(volume((10, 12, 3, 0.5, 0.25))[None]).half()
    table = TwoStageInferer(SPACING, average=1)(image, both := network())
    assert type(table) is torch.Tensor
    np.testing.assert_allclose(table[0], [[10, 12, 3, 4, 0.5, 1, 0.5, 0.5]])
    assert both.detector.batches[0].dtype == both.classifier.batches[0].dtype == torch.float32
    assert type(both.detector.batches[0]) is torch.Tensor


def test_no_gradient_is_kept():
    both = network()
    both.detector.scale = torch.nn.Parameter(torch.tensor(1.0))
    image = volume((10, 12, 3, 0.5, 0.25)).requires_grad_()
    assert not TwoStageInferer(SPACING, average=1)(image[None], both).requires_grad


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_precision_is_that_of_the_convolutions_and_not_of_the_output(precision):
    seen = []

    class Network(torch.nn.Conv2d):
        def forward(self, x):
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    network = Network(1, 1, 3)
    output = MixedPrecisionInferer(precision)(torch.ones(1, 1, 8, 8), network)
    assert seen == [getattr(torch, precision)]
    assert output.dtype == network.weight.dtype == torch.float32


def test_an_unknown_training_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'half'; expected float32 or bfloat16"):
        MixedPrecisionInferer("half")


@pytest.mark.parametrize("name", ["batch_size", "patch_batch_size", "patch_size", "max_candidates"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_size_below_one_is_refused(name, value):
    with pytest.raises(OptionError, match=f"{name} is {value!r}; expected a whole number, 1 or more"):
        TwoStageInferer(spacing=(0.6, 0.6, 2.0), **{name: value})
