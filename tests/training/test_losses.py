"""The loss of stage 2 in the published set-up."""

import math

import pytest
import torch

from cmb_bundle.scripts.training.losses import BatchMeanCrossEntropy


def test_mean_over_samples_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)], [0.0, math.log(3)]])
    labels = torch.tensor([1, 1, 1, 0])
    loss = BatchMeanCrossEntropy(torch.tensor([1.0, 5.0]))
    # probabilities of the right class: 1/2, 1/4, 3/4 of weight 5, and 1/4 of weight 1
    expected = (5 * math.log(2) + 5 * math.log(4) + 5 * math.log(4 / 3) + math.log(4)) / 4
    assert loss(logits, labels).item() == pytest.approx(expected)


def test_as_keras_computes_it():
    keras = pytest.importorskip("keras")
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 2, generator=generator), torch.tensor([0, 0, 1, 0, 1, 1, 0])
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Activation("softmax")])
    model.compile(loss="categorical_crossentropy")
    one_hot = torch.nn.functional.one_hot(labels, 2)
    history = model.fit(
        logits.numpy(), one_hot.numpy(), class_weight={0: 1.0, 1: 5.0}, batch_size=7, epochs=1, verbose=0
    )
    expected = history.history["loss"][0]
    assert BatchMeanCrossEntropy(torch.tensor([1.0, 5.0]))(logits, labels).item() == pytest.approx(expected, rel=1e-5)
