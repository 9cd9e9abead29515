"""Layers of Keras as torch modules, with Keras' own layout of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import KerasError


def weight_shapes(kind: str, config: Mapping) -> dict[str, tuple[int | None, ...]]:
    """
    Return the arrays of a layer, in the order in which Keras saves them.

    Args:
        kind: class of the layer, such as ``Conv3D``.
        config: configuration of the layer in the JSON.

    Returns:
        names and shapes, with None for a length that depends on the layer's input; empty for layers without weights.
    """
    if kind == "Conv3D":
        shapes = {"kernel": (*config["kernel_size"], None, config["filters"]), "bias": (config["filters"],)}
    elif kind == "Dense":
        shapes = {"kernel": (None, config["units"]), "bias": (config["units"],)}
    elif kind == "BatchNormalization":
        shapes = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (None,))
    else:
        return {}
    absent = {
        "bias": not config.get("use_bias", True),
        "gamma": not config.get("scale", True),
        "beta": not config.get("center", True),
    }
    return {name: shape for name, shape in shapes.items() if not absent.get(name)}


class AxisBatchNorm(nn.BatchNorm1d):
    """
    Batch normalisation over one axis of the array, whatever that axis means.

    Keras normalises over ``axis=-1`` by default, even if the channels come first. The 3D
    network of the published code is such a case: its tensors are (B, channels, 16, 32, 16), so every one of the 16
    positions along the last spatial axis has its own mean, variance, scale and shift, shared by all channels.
    ``nn.BatchNorm3d`` on the channels, as in :class:`~.PatchClassifier`, cannot give the same numbers.

    Args:
        num_features: length of the axis.
        axis: the axis, counted with the batch; negative counts from the end.
        eps: see ``nn.BatchNorm1d``.
        momentum: see ``nn.BatchNorm1d``; this is 1 minus Keras' momentum.
    """

    def __init__(self, num_features: int, axis: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, an array of two or more axes."""
        moved = x.movedim(self.axis, 1)
        flat = moved.flatten(2) if moved.ndim > 2 else moved
        return super().forward(flat).reshape(moved.shape).movedim(1, self.axis)


class ChannelsLast(nn.Module):
    """Apply a module that expects channels at axis 1 to an array that has them at the end."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the result with the channels at the end."""
        return self.module(x.movedim(-1, 1)).movedim(1, -1)


class SamePadding(nn.Module):
    """
    TensorFlow's padding ``same``: an output of ceil(size / stride), and the odd voxel at the end.

    Args:
        kernel_size, stride, dilation: of the convolution or pooling that follows, along the three axes.
        value: value of the padding.
    """

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], value: float):
        super().__init__()
        self.kernel_size, self.stride, self.dilation, self.value = kernel_size, stride, dilation, value

    def forward(self, x: Tensor) -> Tensor:
        """Pad the last three axes of (B, C, i, j, k)."""
        pads: list[int] = []
        for size, kernel, stride, dilation in zip(
            x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            pads = [total // 2, total - total // 2, *pads]
        return F.pad(x, pads, value=self.value)


class KerasFlatten(nn.Module):
    """
    Keras' Flatten.

    Args:
        data_format: with ``channels_first`` Keras moves the channels to the end before it flattens, so that weights of
            the next layer are the same in both formats; with ``channels_last`` it flattens the array unchanged, even
            if its channels are in fact first.
    """

    def __init__(self, data_format: str) -> None:
        super().__init__()
        self.channels_first = data_format == "channels_first"

    def forward(self, x: Tensor) -> Tensor:
        """Flatten all axes but the first."""
        return (x.movedim(1, -1) if self.channels_first and x.ndim > 2 else x).flatten(1)


def _in_layout(config: Mapping, *modules: nn.Module) -> list[nn.Module]:
    module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    return [module if config.get("data_format") == "channels_first" else ChannelsLast(module)]


def _convolution(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    kernel, groups = weights["kernel"], config.get("groups", 1)
    size, stride, dilation = config["kernel_size"], config["strides"], config.get("dilation_rate", (1, 1, 1))
    layer = nn.Conv3d(
        kernel.shape[3] * groups, kernel.shape[4], size, stride, 0, dilation, groups, bias="bias" in weights
    )
    _fill(layer, weight=kernel.permute(4, 3, 0, 1, 2), bias=weights.get("bias"))
    padding = [SamePadding(size, stride, dilation, 0.0)] if _is_same(config) else []
    return [*_in_layout(config, *padding, layer), *activation(config.get("activation"))]


def _dense(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    layer = nn.Linear(*weights["kernel"].shape, bias="bias" in weights)
    _fill(layer, weight=weights["kernel"].T, bias=weights.get("bias"))
    return [layer, *activation(config.get("activation"))]


def _batch_normalization(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    axis = config.get("axis", -1)
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    if len(axes) != 1:
        raise KerasError(f"it normalises over the axes {axes}; expected one axis")
    mean = weights["moving_mean"]
    layer = AxisBatchNorm(len(mean), axes[0], config.get("epsilon", 1e-3), 1 - config.get("momentum", 0.99))
    _fill(
        layer,
        weight=weights.get("gamma"),
        bias=weights.get("beta"),
        running_mean=mean,
        running_var=weights["moving_variance"],
    )
    layer.weight.requires_grad_("gamma" in weights)
    layer.bias.requires_grad_("beta" in weights)
    return [layer]


def _pooling(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    size = config["pool_size"]
    stride = config.get("strides") or size
    padding = [SamePadding(size, stride, (1, 1, 1), -torch.inf)] if _is_same(config) else []
    return _in_layout(config, *padding, nn.MaxPool3d(tuple(size), tuple(stride)))


def _average_pooling(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    if _is_same(config):
        raise KerasError("its padding is 'same'; expected 'valid'")
    size = config["pool_size"]
    return _in_layout(config, nn.AvgPool3d(tuple(size), tuple(config.get("strides") or size)))


def _global_pooling(kind: type[nn.Module]) -> Callable:
    return lambda config, weights: [*_in_layout(config, kind(1)), nn.Flatten()]


def _zero_padding(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    pads = [edge for axis in reversed(config["padding"]) for edge in axis]
    return _in_layout(config, nn.ConstantPad3d(tuple(pads), 0.0))


def _relu(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    if config.get("max_value") is not None or config.get("threshold"):
        raise KerasError("it has a max_value or a threshold; expected a ReLU without")
    return [nn.LeakyReLU(config["negative_slope"]) if config.get("negative_slope") else nn.ReLU()]


def _leaky_relu(config: Mapping, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    return [nn.LeakyReLU(float(config.get("negative_slope", config.get("alpha", 0.3))))]


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(-1),
}

LAYERS: dict[str, Callable[[Mapping, Mapping[str, Tensor]], list[nn.Module]]] = {
    "Activation": lambda config, weights: activation(config["activation"]),
    "AveragePooling3D": _average_pooling,
    "BatchNormalization": _batch_normalization,
    "Conv3D": _convolution,
    "Dense": _dense,
    "Dropout": lambda config, weights: [nn.Dropout(config["rate"])],
    "ELU": lambda config, weights: [nn.ELU(float(config.get("alpha", 1.0)))],
    "Flatten": lambda config, weights: [KerasFlatten(config.get("data_format", "channels_last"))],
    "GlobalAveragePooling3D": _global_pooling(nn.AdaptiveAvgPool3d),
    "GlobalMaxPooling3D": _global_pooling(nn.AdaptiveMaxPool3d),
    "LeakyReLU": _leaky_relu,
    "MaxPooling3D": _pooling,
    "ReLU": _relu,
    "Softmax": lambda config, weights: [nn.Softmax(config.get("axis", -1))],
    "ZeroPadding3D": _zero_padding,
}
"""The supported layers: functions from a layer's configuration and weights to modules."""


def activation(name: object) -> list[nn.Module]:
    """Return the module of an activation in Keras' JSON; an empty list for ``linear``."""
    if name in (None, "linear"):
        return []
    if isinstance(name, Mapping) and name.get("class_name") in LAYERS:
        return LAYERS[name["class_name"]](name.get("config", {}), {})
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise KerasError(f"its activation is {name!r}; expected one of linear, {', '.join(ACTIVATIONS)}")
    return [ACTIVATIONS[name]()]


def _is_same(config: Mapping) -> bool:
    if config.get("padding") not in ("valid", "same"):
        raise KerasError(f"its padding is {config.get('padding')!r}; expected 'valid' or 'same'")
    return config["padding"] == "same"


@torch.no_grad()
def _fill(module: nn.Module, **values: Tensor | None) -> None:
    for name, value in values.items():
        if value is not None:
            if not bool(torch.isfinite(value).all()):
                raise KerasError(f"its {name} has values that are not finite; copy the file again, or train again")
            getattr(module, name).copy_(value)
