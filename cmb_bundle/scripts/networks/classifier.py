"""The 3D convolutional network of stage 2, which separates microbleeds from mimics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import scaled_channels


class PatchClassifier(nn.Module):
    """Classify patches: a SWI cube and a phase cube side by side along the second axis.

    Sizes for a patch of 16 x 32 x 16: zero padding 18 x 34 x 18; convolution, 32 channels, 16 x 32 x 16;
    64 channels, 14 x 30 x 14; 64 channels, 12 x 28 x 12; max pooling 6 x 14 x 6; 128 channels, 4 x 12 x 4;
    128 channels, 2 x 10 x 2; max pooling 1 x 5 x 1; flattened 640; 32; 8; 2. All convolutions are 3 x 3 x 3
    without padding and are followed by ReLU, then batch normalisation over the channels with Keras' epsilon
    of 0.001. Dropout follows the layer of 32.

    Args:
        in_channels: channels of a patch.
        num_classes: number of logits; the last one is the microbleed.
        patch_size: voxels of a patch along its three axes.
        width: multiplies the channels of the convolutions, see :func:`~.blocks.scaled_channels`.
        dropout: probability of dropout.
        average_flips: in evaluation mode, whether the logits are the means over the patch and its mirror images along
            the first axis, the last, and both. Training mirrors patches at random, so that the four differ only by
            noise; it costs four times as much.

    Raises:
        ValueError: if a patch is too small for the convolutions.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        patch_size: Sequence[int] = (16, 32, 16),
        width: float = 1.0,
        dropout: float = 0.3,
        average_flips: bool = False,
    ) -> None:
        super().__init__()
        self.average_flips = average_flips
        final_size = [((size - 4) // 2 - 4) // 2 for size in patch_size]
        if len(patch_size) != 3 or min(final_size) < 1:
            raise ValueError(f"patch_size is {tuple(patch_size)}; give three numbers of voxels, each 16 or more.")
        layers: list[nn.Module] = [nn.ConstantPad3d(1, 0.0)]
        channels = in_channels
        for block in ((32, 64, 64), (128, 128)):
            for block_channels in block:
                out_channels = scaled_channels(block_channels, width)
                layers += [
                    nn.Conv3d(channels, out_channels, 3),
                    nn.ReLU(),
                    nn.BatchNorm3d(out_channels, eps=1e-3),
                ]
                channels = out_channels
            layers.append(nn.MaxPool3d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * math.prod(final_size), 32),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(32, 8),
            nn.ReLU(),
            nn.Linear(8, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: (B, in_channels, *patch_size), values in [0, 1].

        Returns:
            (B, num_classes) logits; the loss and the inferer apply the softmax.
        """
        if self.training or not self.average_flips:
            return self.head(self.features(x))
        flipped = torch.cat([x.flip(axes) for axes in ((), (2,), (4,), (2, 4))])
        return self.head(self.features(flipped)).unflatten(0, (4, -1)).mean(dim=0)
