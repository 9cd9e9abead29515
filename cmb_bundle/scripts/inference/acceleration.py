"""The same networks, arranged so that inference is fast."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..darknet.layers import Convolution, RootBatchNorm2d
from ..networks.yolov2 import YOLOv2Network

PRECISIONS = ("auto", "float32", "bfloat16")


def accelerate(network: nn.Module, device: torch.device | str = "cpu", precision: str = "auto") -> nn.Module:
    """Copy a network of both stages for inference: fewer passes over memory, channels last, half the bits.

    A batch normalisation that follows a convolution becomes part of it, which is exact but for rounding; so does
    YOLOv2's reorg, which is exact. Pooling finds the largest value without its place. Weights are kept with the
    channels last, the order in which convolutions run fastest.

    Args:
        network: with children ``detector`` (with a child ``network``) and ``classifier``; it is not changed.
        device: where the copy is put.
        precision: "bfloat16" keeps weights and activations in 8 bits of mantissa; what is returned is float32. "auto"
            does so on a processor that multiplies matrices in it (Intel's AMX), where it is 1.7 (the default network)
            to 2 times (the literal YOLOv2) as fast. Elsewhere it does not: on an Intel processor that has vector
            instructions alone for it (AVX-512 BF16), float32 was 1.4 to 1.7 times as fast; others were not measured. On
            CUDA the evaluator's ``amp`` decides.
            Measured with the shipped weights on four scans with SWI and phase and four T2*-weighted ones: places move
            by up to 0.05 mm, detector scores by 0.014 and probabilities by 0.005 (95th percentiles; a probability by
            0.06 at most), 12 of 638 candidates, all below 0.06, come or go, and the same numbers of microbleeds are
            reported.

    Returns:
        the copy, in evaluation mode; it can only infer.

    Raises:
        ValueError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}.")
    device = torch.device(device)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cpu" and has_matrix_unit() else "float32"
    network = deepcopy(network).eval().requires_grad_(False)
    dtype = getattr(torch, precision)
    for parent, name in ((network.detector, "network"), (network, "classifier")):
        setattr(parent, name, Accelerated(getattr(parent, name), dtype))
    return network.to(device)


def has_matrix_unit() -> bool:
    """Whether the processor has Intel's AMX, and the installed PyTorch can tell."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


class MaxPool(nn.Module):
    """Max pooling without overlap, for inference, in a quarter of the time of PyTorch's on a CPU.

    PyTorch's looks for places too, which gradients need.

    Args:
        kernel: how many values become one along each of the last axes: two numbers for images, three for volumes.

    Example:
        >>> MaxPool([2, 2])(torch.arange(12.0).reshape(1, 1, 3, 4))
        tensor([[[[5., 7.]]]])
    """

    def __init__(self, kernel: Sequence[int]) -> None:
        super().__init__()
        self.kernel = tuple(kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same with each of the last axes that many times shorter, rounded down."""
        for axis, number in enumerate(self.kernel, start=-len(self.kernel)):
            if number > 1:
                length = x.shape[axis] // number * number
                parts = [x[(..., slice(n, length, number)) + (slice(None),) * (-axis - 1)] for n in range(number)]
                x = reduce(torch.maximum, parts)
        return x


class Accelerated(nn.Module):
    """A network with folded normalisation, which takes and returns float32 whatever it works in.

    Other attributes, such as a detector's ``stride``, are those of the network.

    Args:
        network: in evaluation mode; it is changed.
        dtype: what it works in.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        for module in [m for m in network.modules() if isinstance(m, nn.Sequential | Convolution)]:
            _fold(module)
        if isinstance(network, YOLOv2Network):
            _fold_reorg(network)
        _simplify(network)
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
        volumetric = any(isinstance(m, nn.Conv3d) for m in convolutions)
        self.memory_format = torch.channels_last_3d if volumetric else torch.channels_last
        self.network = network.to(dtype)
        for convolution in convolutions:
            convolution.to(memory_format=self.memory_format)
        self.dtype = dtype

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, x: Tensor, **options: object) -> Tensor:
        """Any input of the network (B, C, ...), with its output as float32."""
        return self.network(x.to(self.dtype, memory_format=self.memory_format), **options).float()


def _fold(sequence: nn.Sequential | Convolution) -> None:
    """Fold each normalisation that directly follows a convolution into it."""
    modules = sequence._modules
    for before, after in pairwise(list(modules)):
        norm = modules[after]
        if isinstance(modules[before], nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            norm = norm.equivalent() if isinstance(norm, RootBatchNorm2d) else norm
            modules[before] = fuse_conv_bn_eval(modules[before], norm)
            modules[after] = nn.Identity()


def _fold_reorg(network: YOLOv2Network) -> None:
    """Make the 1 x 1 convolution before reorg one of 2 x 2 and stride 2 that gives reorg's channels.

    Moving values from space to channels is a pass over memory against the order of channels-last.
    """
    old = network.passthrough[0]
    block = network.reorg.downscale_factor
    new = nn.Conv2d(old.in_channels, old.out_channels * block**2, block, stride=block)
    weight = torch.zeros(old.out_channels, block, block, old.in_channels, block, block)
    for row in range(block):
        for column in range(block):
            weight[:, row, column, :, row, column] = old.weight[:, :, 0, 0]
    new.weight = nn.Parameter(weight.flatten(0, 2), requires_grad=False)
    new.bias = nn.Parameter(old.bias.repeat_interleave(block**2), requires_grad=False)
    network.passthrough[0], network.reorg = new, nn.Identity()


def _simplify(network: nn.Module) -> None:
    """Put :class:`MaxPool` in the place of every plain max pooling without overlap; ReLU works in place."""
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.ReLU):
                module.inplace = True
            if isinstance(module, nn.MaxPool2d | nn.MaxPool3d):
                axes = 2 if isinstance(module, nn.MaxPool2d) else 3
                kernel, stride = (
                    n if isinstance(n, tuple) else (n,) * axes for n in (module.kernel_size, module.stride)
                )
                others = module.padding, module.dilation, module.return_indices, module.ceil_mode
                if kernel == stride and others == (0, 1, False, False):
                    setattr(parent, name, MaxPool(kernel))
