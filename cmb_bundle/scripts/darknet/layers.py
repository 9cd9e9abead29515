"""The layers of darknet's YOLOv2 family as modules that compute exactly what darknet does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "logistic": nn.Sigmoid,
}


class RootBatchNorm2d(nn.BatchNorm2d):
    """
    Batch normalisation whose epsilon is added to the root of the variance, and not below the root.

    So does pjreddie's darknet on a CPU: ``normalize_cpu`` in ``src/blas.c`` divides by ``sqrt(variance) + .000001f``.

    Example:
        >>> norm = RootBatchNorm2d(1, eps=1.0).eval()
        >>> norm.running_var.fill_(9.0)
        tensor([9.])
        >>> norm(torch.full((1, 1, 1, 1), 8.0)).item()
        2.0
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), with the statistics of the batch in training and the running ones in evaluation."""
        if self.training:
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            number = x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * number / max(1, number - 1), self.momentum)
                self.num_batches_tracked.add_(1)
        else:
            variance, mean = self.running_var, self.running_mean
        scale = self.weight / (variance.sqrt() + self.eps)
        shift = self.bias - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def equivalent(self) -> nn.BatchNorm2d:
        """A usual batch normalisation with the same output in evaluation mode, whose own epsilon is 0."""
        usual = nn.BatchNorm2d(self.num_features, eps=0.0).eval()
        usual.load_state_dict(self.state_dict() | {"running_var": (self.running_var.sqrt() + self.eps) ** 2})
        return usual.to(self.running_var.device)


BUILDS = {
    "gpu": (nn.BatchNorm2d, 1e-5),
    "alexeyab_cpu": (nn.BatchNorm2d, 1e-5),
    "pjreddie_cpu": (RootBatchNorm2d, 1e-6),
}
"""Batch normalisation as the builds of darknet compute it; ``gpu`` is that of both pjreddie's and AlexeyAB's."""


def normalisation(channels: int, epsilon: float | str) -> nn.BatchNorm2d:
    """Batch normalisation that adds ``epsilon`` to the variance, or as one of the :data:`BUILDS` computes it."""
    kind, value = BUILDS[epsilon] if isinstance(epsilon, str) else (nn.BatchNorm2d, epsilon)
    # darknet keeps 0.99 of the running statistics per batch
    return kind(channels, eps=value, momentum=0.01)


class Convolution(nn.Module):
    """Convolution, batch normalisation or a bias, activation (``src/convolutional_layer.c``)."""

    def __init__(self, conv: nn.Conv2d, batch_norm_epsilon: float | str | None, activation: str) -> None:
        super().__init__()
        self.conv = conv
        self.norm: nn.Module = nn.Identity()
        if batch_norm_epsilon is not None:
            self.norm = normalisation(conv.out_channels, batch_norm_epsilon)
        self.activation = ACTIVATIONS[activation]()
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, outputs: dict[int, Tensor]) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class MaxPool(nn.Module):
    """Darknet's max pooling (``src/maxpool_layer.c``): ``padding`` pixels in total, the smaller half before.

    Pixels outside count as minus infinity. The default padding of ``size`` - 1 gives as many pixels as the input
    has, divided by the stride and rounded up.
    """

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.before, self.after = padding // 2, padding - padding // 2
        # PyTorch gives the same numbers without a padded copy
        self.plain = (size, stride, padding) == (2, 2, 1)

    def forward(self, x: Tensor, outputs: dict[int, Tensor]) -> Tensor:
        if self.plain:
            return F.max_pool2d(x, 2, 2, ceil_mode=True)
        x = F.pad(x, [self.before, self.after, self.before, self.after], value=-float("inf"))
        return F.max_pool2d(x, self.size, self.stride)


class Route(nn.Module):
    """The outputs of earlier layers, concatenated along the channels."""

    def __init__(self, sources: list[int]) -> None:
        super().__init__()
        self.sources = sources

    def forward(self, x: Tensor, outputs: dict[int, Tensor]) -> Tensor:
        return torch.cat([outputs[source] for source in self.sources], dim=1)


class Shortcut(nn.Module):
    """The input plus the output of an earlier layer, then an activation."""

    def __init__(self, source: int, activation: str) -> None:
        super().__init__()
        self.sources = [source]
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor, outputs: dict[int, Tensor]) -> Tensor:
        return self.activation(x + outputs[self.sources[0]])


class Reorg(nn.Module):
    """Darknet's reorg (``reorg_cpu`` in ``src/blas.c``), which does not do what the paper says.

    Forwards, it reinterprets the memory of the C x H x W input as an image of C / s^2 x sH x sW, moves each s x s
    block of it to channels, and reinterprets the memory of the result as s^2 C x H / s x W / s. This mixes rows and
    channels, so no reordering of channels makes it equal to :func:`torch.nn.functional.pixel_unshuffle`. With
    ``reverse``, it moves channels to s x s blocks, without reinterpreting shapes.
    """

    def __init__(self, stride: int, reverse: bool) -> None:
        super().__init__()
        self.stride, self.reverse = stride, reverse

    def forward(self, x: Tensor, outputs: dict[int, Tensor]) -> Tensor:
        batch, channels, rows, columns = x.shape
        s = self.stride
        few = channels // (s * s)
        if self.reverse:
            blocks = x.reshape(batch, s, s, few, rows, columns)
            return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, few, rows * s, columns * s)
        blocks = x.reshape(batch, few, rows, s, columns, s)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * s * s, rows // s, columns // s)
