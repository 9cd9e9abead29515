"""Cross-entropy with class weights as Keras computes it."""

from __future__ import annotations

from torch import Tensor, nn


class BatchMeanCrossEntropy(nn.CrossEntropyLoss):
    """
    Cross-entropy, each sample's times the weight of its class, averaged over the number of samples.

    This is what ``class_weight`` does in ``fit`` of Keras. The mean of PyTorch's CrossEntropyLoss is over the sum of
    the weights instead, so that there a batch with many microbleeds has no more weight than one with few.

    Args:
        weight: (C,), weights of the classes.
    """

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__(weight=weight, reduction="none")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss, a scalar, from logits (B, C) and class labels (B,)."""
        return super().forward(input, target).mean()
