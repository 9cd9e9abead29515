"""Building blocks shared by the networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def side_by_side(patches: Tensor) -> Tensor:
    """Put the C channels of patches (B, C, s, s, s) side by side, SWI first: (B, 1, s, C s, s).

    Example:
        >>> side_by_side(torch.arange(16.0).reshape(1, 2, 2, 2, 2))[0, 0, 0]
        tensor([[ 0.,  1.],
                [ 2.,  3.],
                [ 8.,  9.],
                [10., 11.]])
    """
    return torch.cat(patches.unbind(1), dim=2).unsqueeze(1)


def scaled_channels(channels: int, width: float) -> int:
    """Multiply a number of channels and round it to a multiple of 8, but never below 8.

    A width of 1 returns ``channels`` unchanged.
    """
    if width == 1:
        return channels
    return max(8, 8 * math.floor(channels * width / 8 + 0.5))


def convolution_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Darknet's convolution: no bias, same size, then batch normalisation and leaky ReLU of slope 0.1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1, inplace=True),
    )
