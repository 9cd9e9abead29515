"""Calibration against scikit-learn and known probabilities."""

import logging

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch import nn

from cmb_bundle.scripts.networks.classifier import ContextClassifier, PatchClassifier, scale_last
from cmb_bundle.scripts.networks.decision import JointDecision
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork
from cmb_bundle.scripts.training.calibration import FEWEST, STEEPEST, calibrate, fit_scaling

RANDOM = np.random.default_rng(0)
LOGIT = RANDOM.normal(0, 2, 20_000)
SCORES = expit(RANDOM.normal(-1, 1.5, 20_000))


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.4, 1.5), (2.5, -1.0)])
def test_known_scaling_is_found_as_logistic_regression_finds_it(slope, offset):
    labels = (RANDOM.random(len(LOGIT)) < expit(slope * LOGIT + offset)).astype(int)
    found = fit_scaling(LOGIT, labels)
    assert found == pytest.approx((slope, offset), abs=0.08)
    other = LogisticRegression(C=1e9).fit(LOGIT[:, None], labels)
    assert found == pytest.approx((other.coef_[0, 0], other.intercept_[0]), abs=5e-3)


def test_perfect_separation_gives_finite_numbers():
    slope, offset = fit_scaling(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert 1 / STEEPEST <= slope <= STEEPEST
    assert np.isfinite(offset)


class Pair(nn.Module):
    """Logits (0, x) of a patch whose only value is x."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 2)
        nn.init.zeros_(self.last.bias)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[0.0], [1.0]]))

    def forward(self, x):
        return self.last(x)

    @torch.no_grad()
    def scale_logit(self, slope, offset):
        scale_last(self.last, slope, offset)


def pair(decision=None):
    """Both stages, of which only the classifier is asked."""
    return TwoStageNetwork(nn.Identity(), Pair(), decision)


def batches(labels, source="candidate", scores=SCORES):
    values = torch.tensor(LOGIT, dtype=torch.float32)[: len(labels), None]
    for part in torch.arange(len(labels)).split(1000):
        yield {
            "image": values[part],
            "label": torch.as_tensor(labels)[part],
            "source": [source] * len(part),
            "detector_score": torch.as_tensor(scores)[part],
        }


def test_the_last_layer_gives_the_calibrated_probabilities():
    labels = (RANDOM.random(len(LOGIT)) < expit(0.5 * LOGIT - 1)).astype(int)
    network = pair()
    calibrate(network, batches(labels))
    slope, offset = fit_scaling(LOGIT.astype(np.float32).astype(float), labels)
    x = torch.tensor([[-2.0], [0.0], [3.0]])
    found = network.classifier(x).softmax(dim=1)[:, 1].detach().numpy()
    assert found == pytest.approx(expit(slope * x[:, 0].numpy() + offset), abs=1e-5)
    assert found == pytest.approx(expit(0.5 * x[:, 0].numpy() - 1), abs=0.02)


def context():
    """All parts of the shipped second stage, with weights that say something."""
    around = ContextClassifier(channels=(4, 4, 8), surroundings_size=(36, 36, 10))
    for parameter in around.surroundings.parameters():
        nn.init.normal_(parameter, std=0.3)
    return around


@pytest.mark.parametrize("make", [context, lambda: PatchClassifier(width=0.125)])
def test_all_that_is_added_up_is_scaled(make):
    torch.manual_seed(4)
    classifier = make().eval()
    size = (36, 36, 10) if make is context else (16, 16, 16)
    x = torch.rand(6, 2, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = classifier(x).diff(dim=1)
        classifier.scale_logit(0.3, 1.5)
        found = classifier(x).diff(dim=1)
    torch.testing.assert_close(found, 0.3 * before + 1.5)
    assert float(before.std()) > 1e-5


@pytest.mark.parametrize(("labels", "source"), [(np.zeros(50, int), "candidate"), (np.arange(50) % 2, "random")])
def test_without_candidates_of_both_kinds_nothing_changes(labels, source, caplog):
    for network in (pair(), pair(JointDecision(detector=0.5, classifier=1.5, offset=-0.5))):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert calibrate(network, batches(labels, source)) is None
        assert "Not calibrated" in caplog.text
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_decision_is_fitted_and_the_classifier_left_alone():
    total = 0.7 * np.log(SCORES / (1 - SCORES)) + 0.4 * LOGIT + 1.5
    labels = (np.random.default_rng(5).random(len(LOGIT)) < expit(total)).astype(int)
    network = pair(JointDecision())
    before = {name: value.clone() for name, value in network.classifier.state_dict().items()}
    calibrate(network, batches(labels))
    assert [*network.decision.weights.tolist(), float(network.decision.offset)] == pytest.approx(
        [0.7, 0.4, 1.5], abs=0.08
    )
    assert all(torch.equal(value, before[name]) for name, value in network.classifier.state_dict().items())


FITTED = {"detector": 0.5, "classifier": 0.8, "offset": -2.5}


@pytest.mark.parametrize("microbleeds", [FEWEST - 1, FEWEST])
def test_few_microbleeds_leave_a_decision_that_was_fitted(microbleeds, caplog):
    labels = np.zeros(3000, int)
    labels[np.argsort(-LOGIT[:3000])[:microbleeds]] = 1
    network = pair(JointDecision(**FITTED))
    with caplog.at_level(logging.WARNING):
        calibrate(network, batches(labels))
    values = [*network.decision.weights.tolist(), float(network.decision.offset)]
    if microbleeds < FEWEST:
        assert values == pytest.approx(list(FITTED.values()))
        assert f"stays: {microbleeds} of 3000 validation candidates" in caplog.text
    else:
        assert abs(values[2] - FITTED["offset"]) > 1
        assert not caplog.text


def test_few_microbleeds_are_enough_for_a_first_decision():
    labels = (np.arange(200) % 20 == 0).astype(int)
    network = pair(JointDecision())
    calibrate(network, batches(labels))
    assert float(network.decision.offset) < -1


def test_what_has_no_detector_score_does_not_count_in_the_decision():
    labels = (np.random.default_rng(5).random(3000) < expit(LOGIT[:3000])).astype(int)
    plain, mixed = pair(JointDecision()), pair(JointDecision())
    calibrate(plain, batches(labels))
    lesions = batches(np.ones(2000, int), "lesion", np.full(2000, np.nan))
    calibrate(mixed, [*batches(labels), *lesions])
    assert torch.equal(mixed.decision.weights, plain.decision.weights)
    assert torch.equal(mixed.decision.offset, plain.decision.offset)
