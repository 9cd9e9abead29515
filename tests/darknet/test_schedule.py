"""Darknet's learning rate and update, against plain loops over its rules, and over a resume."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler

from cmb_bundle.scripts.darknet.schedule import DarknetSchedule, epochs_of, learning_rate_factor, parameter_groups
from cmb_bundle.scripts.training.checkpoint import TrainingCheckpoint

PUBLISHED = {"burn_in": 1000, "power": 4, "steps": [10000, 30000], "scales": [0.1, 0.1]}


@pytest.mark.parametrize(
    "iteration, rate",
    [
        (1, 5e-4 * 1e-12),
        (500, 5e-4 / 16),
        (999, 5e-4 * 0.999**4),
        (1000, 5e-4),
        (9999, 5e-4),
        (10000, 5e-5),
        (29999, 5e-5),
        (30000, 5e-6),
        (40000, 5e-6),
    ],
)
def test_published_rate(iteration, rate):
    assert 5e-4 * learning_rate_factor(iteration, **PUBLISHED) == pytest.approx(rate, rel=1e-12)


def darknet_rate(batch, rate, burn_in, power, steps, scales):
    if batch < burn_in:
        return rate * (batch / burn_in) ** power
    for step, scale in zip(steps, scales, strict=True):
        if step > batch:
            return rate
        rate *= scale
    return rate


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 40),
    st.floats(0.5, 5),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0.1, 0.5, 10.0])), max_size=4),
)
def test_rate_is_darknets(iteration, burn_in, power, pairs):
    steps = sorted(step for step, _ in pairs)
    scales = [scale for _, scale in pairs]
    expected = darknet_rate(iteration, 0.01, burn_in, power, steps, scales)
    assert 0.01 * learning_rate_factor(iteration, burn_in, power, steps, scales) == pytest.approx(expected)


def test_schedule_sets_the_rate_of_the_next_update():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = DarknetSchedule(optimizer, burn_in=4, power=2, steps=[6, 8], scales=[0.1, 0.5])
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5 / 16, 0.5 / 4, 0.5 * 9 / 16, 0.5, 0.5, 0.05, 0.05, 0.025, 0.025])


@pytest.mark.parametrize("steps, scales", [([10, 20], [0.1]), ([20, 10], [0.1, 0.1])])
def test_schedule_refuses_odd_steps(steps, scales):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(ValueError, match=r"as many scales as steps, and rising steps"):
        DarknetSchedule(optimizer, steps=steps, scales=scales)


@pytest.mark.parametrize("iterations, length, epochs", [(40000, 43, 931), (86, 43, 2), (87, 43, 3), (1, 43, 1)])
def test_epochs_hold_the_iterations(iterations, length, epochs):
    assert epochs_of(iterations, range(length)) == epochs


class Small(torch.nn.Module):
    """One convolution with batch normalisation and a linear one with a bias, on images of one pixel."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(2, 3, 1, bias=False)
        self.norm = torch.nn.BatchNorm2d(3)
        self.last = torch.nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


def test_only_weights_of_convolutions_decay():
    network = Small()
    decaying, others = parameter_groups(network, 0.0005)
    assert decaying["weight_decay"] == 0.0005
    assert others["weight_decay"] == 0
    assert {id(p) for p in decaying["params"]} == {id(network.first.weight), id(network.last.weight)}
    assert len(others["params"]) == 3
    assert len({id(p) for group in (decaying, others) for p in group["params"]}) == 5


def test_updates_are_darknets():
    """Sums over the batch, decay times the batch, the rate over the batch, momentum afterwards; a rate that changes."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = Small().double().train()
    batch, rate, momentum, decay = 4, 0.1, 0.9, 0.05
    optimizer = torch.optim.SGD(parameter_groups(network, decay), lr=rate, momentum=momentum)
    schedule = DarknetSchedule(optimizer, burn_in=3, steps=[5], scales=[0.1])
    values = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    updates = {name: np.zeros_like(value) for name, value in values.items()}
    for iteration in range(1, 8):
        images = torch.randn(batch, 2, 3, 3, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        (network(images).square().sum() / 2 / batch).backward()
        current = darknet_rate(iteration, rate, 3, 4, [5], [0.1])
        for name, parameter in network.named_parameters():
            updates[name] += -parameter.grad.numpy() * batch
            if name in ("first.weight", "last.weight"):
                updates[name] += -decay * batch * values[name]
            values[name] += current / batch * updates[name]
            updates[name] *= momentum
        optimizer.step()
        schedule.step()
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-10, atol=1e-12)


def train(folder, epochs, stop_after=None, length=3):
    """Train as the bundle does, with the rate by iterations; returns (iteration, rate) of the updates made."""
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    schedule = DarknetSchedule(optimizer, burn_in=4, steps=[8], scales=[0.1])
    rates = []

    def update(engine, batch):
        optimizer.zero_grad()
        network(torch.full((1, 1), float(engine.state.iteration))).square().mean().mul(1e-4).backward()
        rates.append((engine.state.iteration, optimizer.param_groups[0]["lr"]))
        optimizer.step()

    engine = Engine(update)
    engine.scaler = None
    LrScheduleHandler(schedule, epoch_level=False, print_lr=False).attach(engine)
    TrainingCheckpoint(folder, "net", network, {"optimizer": optimizer, "lr_scheduler": schedule}).attach(engine)
    if stop_after is not None:

        @engine.on(Events.EPOCH_COMPLETED(once=stop_after))
        def kill():
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        engine.run(range(length), max_epochs=epochs)
    return rates, network.state_dict()


def test_rate_by_iterations_is_the_same_after_a_resume(tmp_path):
    whole, weights = train(tmp_path / "whole", 5)
    assert [rate for _, rate in whole] == pytest.approx(
        [learning_rate_factor(n, 4, 4, [8], [0.1]) for n in range(1, 16)]
    )
    first, _ = train(tmp_path / "broken", 5, stop_after=2)
    second, resumed = train(tmp_path / "broken", 5)
    assert [n for n, _ in second] == list(range(7, 16))
    assert first + second == whole
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_rate_counts_updates_where_the_length_of_an_epoch_changes(tmp_path):
    train(tmp_path, 2, length=3)
    rates, _ = train(tmp_path, 4, length=2)
    assert [rate for _, rate in rates] == pytest.approx(
        [learning_rate_factor(n, 4, 4, [8], [0.1]) for n in range(7, 11)]
    )
