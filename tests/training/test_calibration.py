"""Calibration against scikit-learn and known probabilities."""

import logging

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch import nn

from cmb_bundle.scripts.training.calibration import STEEPEST, calibrate, fit_scaling

RANDOM = np.random.default_rng(0)
LOGIT = RANDOM.normal(0, 2, 20_000)


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


def batches(labels, source="candidate"):
    values = torch.tensor(LOGIT, dtype=torch.float32)[: len(labels), None]
    for part in torch.arange(len(labels)).split(1000):
        yield {"image": values[part], "label": torch.as_tensor(labels)[part], "source": [source] * len(part)}


def test_the_last_layer_gives_the_calibrated_probabilities():
    labels = (RANDOM.random(len(LOGIT)) < expit(0.5 * LOGIT - 1)).astype(int)
    network = Pair()
    slope, offset = calibrate(network, batches(labels))
    x = torch.tensor([[-2.0], [0.0], [3.0]])
    found = network(x).softmax(dim=1)[:, 1].detach().numpy()
    assert found == pytest.approx(expit(slope * x[:, 0].numpy() + offset), abs=1e-6)
    assert found == pytest.approx(expit(0.5 * x[:, 0].numpy() - 1), abs=0.02)


@pytest.mark.parametrize(("labels", "source"), [(np.zeros(50, int), "candidate"), (np.arange(50) % 2, "random")])
def test_without_candidates_of_both_kinds_nothing_changes(labels, source, caplog):
    network = Pair()
    with caplog.at_level(logging.WARNING):
        assert calibrate(network, batches(labels, source)) == (1.0, 0.0)
    assert "Not calibrated" in caplog.text
    assert network(torch.ones(1, 1)).tolist() == [[0.0, 1.0]]
