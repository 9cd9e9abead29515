"""The network that a darknet ``.cfg`` file of the YOLOv2 family describes."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import DarknetError
from ..options import TINY, is_number, is_one_of
from .cfg import Section, read_cfg
from .layers import ACTIVATIONS, BUILDS, Convolution, MaxPool, Reorg, Route, Shortcut

logger = logging.getLogger(__name__)

CHANGES_OUTPUT = {
    "antialiasing": "0", "assisted_excitation": "0", "background": "0", "binary": "0", "cbn": "0", "classfix": "0",
    "dilation": "1", "dontload": "0", "dontloadscales": "0", "extra": "0", "flatten": "0", "flipped": "0",
    "group_id": "0", "groups": "1", "map": "", "maxpool_depth": "0", "rotate": "0", "share_index": "",
    "stretch": "0", "stretch_sway": "0", "sway": "0", "tree": "", "weights_type": "none", "xnor": "0",
    "alpha": "1", "beta": "1", "stride_x": "", "stride_y": "",
}  # fmt: skip
"""Darknet options that would change the output and are not supported, with the value that has no effect."""

TRAINING_ONLY = {
    "absolute", "clip", "dont_update", "focal_loss", "jitter", "learning_rate", "log", "mask_scale", "max",
    "onlyforward", "random", "sqrt", "stopbackward",
}  # fmt: skip
"""Options of layers that darknet reads only for training, or (``absolute``) reads and never uses."""

READ_BY_DETECTOR = {
    "anchors", "bias_match", "class_scale", "coord_scale", "noobject_scale", "object_scale", "rescore", "thresh",
}  # fmt: skip
"""Options of the region layer that :func:`~.detector.darknet_detector` reads."""


class DarknetNetwork(nn.Module):
    """The network of a ``.cfg`` file, up to its region layer.

    The raw tensor has the layout of :class:`~..networks.yolov2.YOLOv2Network`. Layers without parameters are also in
    ``layers``, so that the layer numbers are darknet's.

    Args:
        cfg: the file. Sections ``net``, ``convolutional``, ``maxpool``, ``route``, ``reorg``, ``shortcut``, and one
            ``region`` at the end.
        in_channels: channels of the input; by default those of the file.
        batch_norm_epsilon: a number is added to the variance, under the square root. Programs that run such files
            differ: both forks of darknet on a GPU (``gpu``) and AlexeyAB's on a CPU (``alexeyab_cpu``) add 1e-5 there,
            OpenCV adds 1e-6, and pjreddie's darknet on a CPU (``pjreddie_cpu``) adds 1e-6 to the root. The
            difference matters for variances of this size.
        axes: directions of the rows and the columns of darknet's images, two of the letters R, L, A, P. The input
            always has rows to R and columns to A, like slices of a RAS volume; ``RA`` leaves it unchanged. For
            other directions it is flipped and transposed before the layers, and the raw tensor is turned back.

    Attributes:
        sections: sections of the file.
        region: the last section.
        cfg_channels: channels in the file.
        stride: pixels per cell; None if width and height in the file do not give cells of whole pixels.
        num_anchors: anchors of each cell.
        num_classes: classes of object.

    Raises:
        DarknetError: the file cannot be read, has a layer or an option that is not supported, or layers that do not
            fit each other; the message names file, line and layer.
    """

    def __init__(
        self,
        cfg: str | Path,
        in_channels: int | None = None,
        batch_norm_epsilon: float | str = 1e-5,
        axes: str = "RA",
    ) -> None:
        super().__init__()
        if not (is_number(TINY)(batch_norm_epsilon) or is_one_of(*BUILDS)(batch_norm_epsilon)):
            raise DarknetError(
                f"batch_norm_epsilon (darknet_epsilon) is {batch_norm_epsilon!r}; expected a number above 0, such as "
                f"1e-5, or one of {', '.join(BUILDS)}."
            )
        if axes not in ("RA", "RP", "LA", "LP", "AR", "AL", "PR", "PL"):
            raise DarknetError(f"axes is {axes!r}; expected one of R and L with one of A and P, such as PL.")
        self.transposed = axes[0] in "AP"
        self.rows_flipped, self.columns_flipped = axes[0] in "LP", axes[1] in "LP"
        self.sections = read_cfg(cfg)
        net, *layers = self.sections
        if len(layers) < 2 or layers[-1].name != "region":
            raise self.sections[-1].error("this is the last section; expected layers and, as the last, [region].")
        self.region = layers[-1]
        self.cfg_channels = net.integer("channels", minimum=1)
        self.in_channels = in_channels or self.cfg_channels

        size = (net.integer("height", minimum=1), net.integer("width", minimum=1))
        shapes = [(self.in_channels, *size)]
        self.layers = nn.ModuleList()
        for section in layers[:-1]:
            if section.name not in BUILDERS:
                raise section.error(
                    f"this kind of layer is not supported; expected one of {', '.join(BUILDERS)} and, last, region."
                )
            layer, shape = BUILDERS[section.name](section, shapes, batch_norm_epsilon)
            if min(shape) < 1:
                raise section.error(
                    f"no output is left of an input of {_show(shapes[-1])} (channels x rows x columns)."
                )
            _check_options(section)
            self.layers.append(layer)
            shapes.append(shape)
        referred = {source for layer in self.layers for source in getattr(layer, "sources", [])}
        self.kept = [number in referred for number in range(len(self.layers))]
        self._read_region(shapes[-1], size)
        # convolutions run in the memory format of their weights, see YOLOv2Network
        self.to(memory_format=torch.channels_last)

    def _read_region(self, shape: tuple[int, ...], size: tuple[int, ...]) -> None:
        region = self.region
        if region.integer("coords", 4) != 4:
            raise region.error("coords must be 4.", "coords")
        self.num_classes = region.integer("classes", 20, minimum=1)
        self.num_anchors = region.integer("num", 1, minimum=1)
        if not region.integer("softmax", 0):
            raise region.error("expected softmax=1; other rules for the classes are not supported.", "softmax")
        expected = self.num_anchors * (5 + self.num_classes)
        if shape[0] != expected:
            raise region.error(
                f"the layer before has {shape[0]} channels; {self.num_anchors} anchors (num) and {self.num_classes} "
                f"classes need {expected}: {self.num_anchors} x (5 + {self.num_classes})."
            )
        _check_options(region)
        stride = max(1, round(size[0] / shape[1]))
        self.stride = stride if size == (shape[1] * stride, shape[2] * stride) else None

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: (B, in_channels, H, W); H and W are multiples of :attr:`stride`.

        Returns:
            (B, num_anchors * (5 + num_classes), H / stride, W / stride), raw.
        """
        if self.transposed:
            x = x.transpose(2, 3)
        x = self._flip(x)
        outputs: dict[int, Tensor] = {}
        for number, layer in enumerate(self.layers):
            x = layer(x, outputs)
            if self.kept[number]:
                outputs[number] = x
        return self._to_input_axes(x)

    def _flip(self, x: Tensor) -> Tensor:
        if self.rows_flipped:
            x = x.flip(2)
        if self.columns_flipped:
            x = x.flip(3)
        return x

    def _to_input_axes(self, raw: Tensor) -> Tensor:
        """Bring cells and box predictions from darknet's axes to those of the input."""
        if not (self.transposed or self.rows_flipped or self.columns_flipped):
            return raw
        raw = raw.unflatten(1, (self.num_anchors, 5 + self.num_classes))
        x, y, width, height, rest = raw.split([1, 1, 1, 1, 1 + self.num_classes], dim=2)
        # seen from the other side, an offset p in the cell is 1 - p, and sigmoid(-t) = 1 - sigmoid(t)
        if self.columns_flipped:
            x = -x
        if self.rows_flipped:
            y = -y
        parts = [y, x, height, width, rest] if self.transposed else [x, y, width, height, rest]
        raw = self._flip(torch.cat(parts, dim=2).flatten(1, 2))
        return raw.transpose(2, 3) if self.transposed else raw


Shape = tuple[int, ...]


def _show(shape: Shape) -> str:
    return " x ".join(str(extent) for extent in shape)


def _check_options(section: Section) -> None:
    for key in section.options.keys() - section.used - TRAINING_ONLY - READ_BY_DETECTOR:
        value = section.options[key]
        if value != CHANGES_OUTPUT.get(key, value):
            raise section.error(f"{key}={value} is not supported; remove it if the weights do not depend on it.", key)
        if key not in CHANGES_OUTPUT:
            logger.warning(section.error(f"{key} is not an option of this layer; it is ignored.", key))


def _convolutional(section: Section, shapes: list[Shape], batch_norm_epsilon: float | str) -> tuple[nn.Module, Shape]:
    channels, rows, columns = shapes[-1]
    filters = section.integer("filters", 1, minimum=1)
    size = section.integer("size", 1, minimum=1)
    stride = section.integer("stride", 1, minimum=1)
    padding = section.integer("padding", 0)
    if section.integer("pad", 0):
        padding = size // 2
    groups = section.integer("groups", 1, minimum=1)
    if channels % groups or filters % groups:
        raise section.error(f"groups={groups} does not divide {channels} channels and {filters} filters.", "groups")
    normalised = section.integer("batch_normalize", 0) > 0
    activation = section.choice("activation", "logistic", list(ACTIVATIONS))
    conv = nn.Conv2d(channels, filters, size, stride, padding, groups=groups, bias=not normalised)
    layer = Convolution(conv, batch_norm_epsilon if normalised else None, activation)
    return layer, (filters, *((extent + 2 * padding - size) // stride + 1 for extent in (rows, columns)))


def _maxpool(section: Section, shapes: list[Shape], _: float | str) -> tuple[nn.Module, Shape]:
    channels, rows, columns = shapes[-1]
    stride = section.integer("stride", 1, minimum=1)
    size = section.integer("size", stride, minimum=1)
    padding = section.integer("padding", size - 1)
    layer = MaxPool(size, stride, padding)
    return layer, (channels, *((extent + padding - size) // stride + 1 for extent in (rows, columns)))


def _source(section: Section, key: str, index: int) -> int:
    source = index if index >= 0 else section.number + index
    if not 0 <= source < section.number:
        raise section.error(
            f"{key}={section.options[key]} points to layer {source}; expected one of the layers before, from 0 to "
            f"{section.number - 1} or from -1 to {-section.number}.",
            key,
        )
    return source


def _route(section: Section, shapes: list[Shape], _: float | str) -> tuple[nn.Module, Shape]:
    sources = [_source(section, "layers", index) for index in section.integers("layers")]
    joined = [shapes[source + 1] for source in sources]
    if len({shape[1:] for shape in joined}) > 1:
        raise section.error(
            f"the layers {sources} have outputs of {', '.join(map(_show, joined))} (channels x rows x columns); "
            "expected the same rows and columns.",
            "layers",
        )
    return Route(sources), (sum(shape[0] for shape in joined), *joined[0][1:])


def _shortcut(section: Section, shapes: list[Shape], _: float | str) -> tuple[nn.Module, Shape]:
    source = _source(section, "from", section.integers("from")[0])
    if shapes[source + 1] != shapes[-1]:
        raise section.error(
            f"the layer before gives {_show(shapes[-1])} and layer {source} {_show(shapes[source + 1])} (channels x "
            "rows x columns); shortcuts between different sizes are not supported.",
            "from",
        )
    return Shortcut(source, section.choice("activation", "linear", list(ACTIVATIONS))), shapes[-1]


def _reorg(section: Section, shapes: list[Shape], _: float | str) -> tuple[nn.Module, Shape]:
    channels, rows, columns = shapes[-1]
    stride = section.integer("stride", 1, minimum=1)
    reverse = section.integer("reverse", 0) > 0
    if channels % stride**2:
        raise section.error(f"{channels} channels cannot be reorganised; expected a multiple of {stride**2}.")
    if reverse:
        return Reorg(stride, True), (channels // stride**2, rows * stride, columns * stride)
    if rows % stride or columns % stride:
        raise section.error(f"{rows} x {columns} pixels cannot be reorganised; expected multiples of {stride}.")
    return Reorg(stride, False), (channels * stride**2, rows // stride, columns // stride)


BUILDERS = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "route": _route,
    "shortcut": _shortcut,
    "reorg": _reorg,
}
