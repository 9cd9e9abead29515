"""The network of YOLOv2, at any width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import convolution_block, scaled_channels

Stages = Sequence[Sequence[Sequence[int]]]

YOLOV2_STAGES: Stages = (
    ((3, 32),),
    ((3, 64),),
    ((3, 128), (1, 64), (3, 128)),
    ((3, 256), (1, 128), (3, 256)),
    ((3, 512), (1, 256), (3, 512), (1, 256), (3, 512)),
    ((3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024), (3, 1024), (3, 1024)),
)
"""The layer list of YOLOv2 (Redmon and Farhadi, "YOLO9000", 2017), stride 32."""


class YOLOv2Network(nn.Module):
    """YOLOv2 without its region layer: slices in, raw predictions out.

    The stages are separated by 2 x 2 max pooling. The output of the last stage but one passes a 1 x 1
    convolution, is moved from space to channels (YOLOv2's "reorg", stride 2) and is concatenated in front of
    the output of the last stage. A 3 x 3 convolution and a linear 1 x 1 convolution follow. Reorg orders
    channels as :func:`torch.nn.functional.pixel_unshuffle` does, which differs from darknet.

    The raw tensor has darknet's layout: for each anchor in turn tx, ty, tw, th, objectness and one value per
    class. tx and tw belong to the last array axis (the columns, darknet's x), ty and th to the one before it.

    Args:
        in_channels: channels of a slice.
        num_anchors: anchors per cell.
        num_classes: classes of objects.
        width: multiplies every number of channels, see :func:`scaled_channels`.
        stages: for each stage its convolutions as (kernel size, channels); two stages at least.
        passthrough: channels of the 1 x 1 convolution before reorg.
        objectness_prior: probability of an object that an untrained network assigns to every anchor, through the
            bias of the last layer (Lin et al., "Focal loss", 2017, section 4.1). None leaves this bias at 0,
            as darknet does.

    Attributes:
        stride: pixels per cell, 2 to the power of the number of poolings.

    Raises:
        ValueError: if there are fewer than two stages.
    """

    def __init__(
        self,
        in_channels: int = 2,
        num_anchors: int = 5,
        num_classes: int = 1,
        width: float = 1.0,
        stages: Stages = YOLOV2_STAGES,
        passthrough: int = 64,
        objectness_prior: float | None = 0.01,
    ) -> None:
        super().__init__()
        if len(stages) < 2:
            raise ValueError(f"stages has {len(stages)} entries; reorg needs two stages at least.")
        self.in_channels = in_channels
        self.num_anchors = num_anchors
        self.num_classes = num_classes
        self.stride = 2 ** (len(stages) - 1)

        channels = in_channels
        self.stages = nn.ModuleList()
        stage_channels = []
        for number, stage in enumerate(stages):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for kernel_size, block_channels in stage:
                out_channels = scaled_channels(block_channels, width)
                layers.append(convolution_block(channels, out_channels, kernel_size))
                channels = out_channels
            self.stages.append(nn.Sequential(*layers))
            stage_channels.append(channels)
        passthrough = scaled_channels(passthrough, width)
        self.passthrough = convolution_block(stage_channels[-2], passthrough, 1)
        self.reorg = nn.PixelUnshuffle(2)
        self.head = convolution_block(4 * passthrough + channels, channels, 3)
        self.predictions = nn.Conv2d(channels, num_anchors * (5 + num_classes), 1)
        self._initialise(objectness_prior)
        # convolutions run in the memory format of their weights: 1.5 times as fast on a CPU, and faster on tensor cores
        self.to(memory_format=torch.channels_last)

    def _initialise(self, objectness_prior: float | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.predictions.weight, std=0.01)
        nn.init.zeros_(self.predictions.bias)
        if objectness_prior is not None:
            with torch.no_grad():
                per_anchor = self.predictions.bias.view(self.num_anchors, 5 + self.num_classes)
                per_anchor[:, 4] = math.log(objectness_prior / (1 - objectness_prior))

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: (B, in_channels, H, W); H and W are multiples of :attr:`stride`.

        Returns:
            (B, num_anchors * (5 + num_classes), H / stride, W / stride), raw.
        """
        fine = x
        for stage in self.stages:
            fine, x = x, stage(x)
        return self.predictions(self.head(torch.cat([self.reorg(self.passthrough(fine)), x], dim=1)))
