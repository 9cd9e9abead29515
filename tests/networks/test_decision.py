"""The decision of both stages, against numbers worked out by hand and weights that were planted."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from torch import nn

from cmb_bundle.scripts.networks.decision import JointDecision
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork


def drawn(detector, classifier, offset, number=20_000, seed=0):
    """Scores, logits and labels that follow these weights."""
    random = np.random.default_rng(seed)
    scores, logits = expit(random.normal(-1, 1.5, number)), random.normal(0, 2, number)
    chance = expit(detector * logit(scores) + classifier * logits + offset)
    return scores, logits, (random.random(number) < chance).astype(int)


def numbers(decision):
    return [*decision.weights.tolist(), float(decision.offset)]


def fitted(*data):
    decision = JointDecision()
    decision.fit(*data)
    return numbers(decision)


def test_the_probability_by_hand():
    decision = JointDecision(detector=2.0, classifier=0.5, offset=-1.0)
    scores, logits = torch.tensor([0.5, 0.8, 0.25]), torch.tensor([2.0, 0.0, -4.0])
    # odds: e^(1 - 1); 4^2 / e; (1/3)^2 / e^3
    odds = np.array([1.0, 16 / np.e, np.exp(-3) / 9])
    np.testing.assert_allclose(decision(scores, logits), odds / (1 + odds), rtol=1e-5)


def test_by_default_it_is_that_of_the_classifier():
    logits = torch.linspace(-9, 9, 30)
    torch.testing.assert_close(JointDecision()(torch.rand(30), logits), logits.sigmoid())


def test_scores_of_0_and_1_are_no_certainty():
    found = JointDecision(detector=1.0, classifier=1.0)(torch.tensor([0.0, 1.0]), torch.zeros(2))
    np.testing.assert_allclose(found, [JointDecision.clip, 1 - JointDecision.clip], rtol=1e-3)


@pytest.mark.parametrize("planted", [(0.5, 0.8, -1.0), (1.5, 0.3, 0.7), (0.0, 2.0, 0.0), (1.0, 0.0, -0.5)])
def test_planted_weights_are_found(planted):
    assert fitted(*drawn(*planted)) == pytest.approx(planted, abs=0.1)


def test_negatives_that_count_half_double_the_odds():
    scores, logits, labels = drawn(1.0, 0.5, -1.0)
    found = fitted(scores, logits, labels, np.where(labels, 1.0, 0.5))
    assert found == pytest.approx((1.0, 0.5, -1.0 + np.log(2)), abs=0.1)


@pytest.mark.parametrize("planted", [(-0.8, 1.0, 0.0), (1.0, -0.6, 0.0)])
def test_no_weight_is_negative(planted):
    found = fitted(*drawn(*planted))
    assert [value == 0 for value in found[:2]] == [value < 0 for value in planted[:2]]


def test_perfect_separation_gives_finite_numbers():
    scores, logits = np.array([0.0, 0.1, 0.9, 1.0]), np.array([-30.0, -20.0, 20.0, 30.0])
    decision = JointDecision()
    decision.fit(scores, logits, np.array([0, 0, 1, 1]))
    assert np.isfinite(numbers(decision)).all()
    found = decision(torch.tensor(scores).float(), torch.tensor(logits).float())
    assert found[:2].max() < 0.5 < found[2:].min()


def test_few_candidates_keep_the_weights_near_1():
    scores, logits = np.array([0.1, 0.2, 0.3, 0.6]), np.array([-2.0, 1.0, -0.5, 2.0])
    labels = np.array([0, 0, 1, 1])
    few = fitted(scores, logits, labels)
    many = fitted(*(np.tile(values, 5000) for values in (scores, logits, labels)))
    assert abs(few[0] - 1) < abs(many[0] - 1)
    assert np.abs(np.subtract(few[:2], 1)).max() < 1


def test_it_is_saved_and_loaded_with_the_weights(tmp_path):
    network = TwoStageNetwork(nn.Identity(), nn.Linear(1, 2), JointDecision())
    network.decision.fit(*drawn(0.5, 0.8, -1.0, number=500))
    assert {"decision.weights", "decision.offset"} <= set(network.state_dict())
    assert list(network.decision.parameters()) == []
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = TwoStageNetwork(nn.Identity(), nn.Linear(1, 2), JointDecision())
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert numbers(other.decision) == numbers(network.decision) != numbers(JointDecision())


def test_without_a_decision_there_is_nothing_of_it_in_the_weights():
    network = TwoStageNetwork(nn.Identity(), nn.Linear(1, 2))
    assert network.decision is None
    assert set(network.state_dict()) == {"classifier.weight", "classifier.bias"}
