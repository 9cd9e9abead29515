"""Read detectors from darknet's ``.cfg`` and ``.weights`` files, and write them as such files."""

from __future__ import annotations

import copy
import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..detection.yolov2 import YOLOv2Detector
from ..errors import DarknetError
from ..files import write_whole
from .cfg import Section, write_cfg
from .layers import Convolution
from .network import DarknetNetwork

logger = logging.getLogger(__name__)

THIRD_CHANNELS = ("zero", "mean", "swi", "phase")
LOSS_OPTIONS = {
    "object_scale": 1.0,
    "noobject_scale": 1.0,
    "class_scale": 1.0,
    "coord_scale": 1.0,
    "thresh": 0.5,
    "rescore": 0,
    "bias_match": 0,
}
"""Options of the region layer that the loss uses, with darknet's defaults (``parse_region`` in ``src/parser.c``)."""


def fold_input_channels(weight: Tensor, channels: Sequence[int | None], third_channel: str = "zero") -> Tensor:
    """Convert the weights of a first convolution to fewer input channels, with the same output.

    Args:
        weight: (F, C, k, k).
        channels: for each channel of the new input, its index among the C; None for a channel that did not exist and
            gets weights of 0.
        third_channel: what darknet's images held in the channels that ``channels`` does not name: ``zero``,
            ``mean`` of all new channels, or a copy of the first (``swi``) or of the second (``phase``).

    Returns:
        (F, len(channels), k, k).

    Raises:
        DarknetError: an argument has another value.
    """
    named = [channel for channel in channels if channel is not None]
    available = weight.shape[1]
    if len(set(named)) != len(named) or any(not 0 <= channel < available for channel in named):
        raise DarknetError(
            f"channels is {list(channels)}, but the weights have {available} input channels; expected different "
            f"numbers from 0 to {available - 1}, or null for a channel that they were not trained with."
        )
    if third_channel not in THIRD_CHANNELS:
        raise DarknetError(f"third_channel is {third_channel!r}; expected one of {', '.join(THIRD_CHANNELS)}.")
    folded = torch.stack(
        [torch.zeros_like(weight[:, 0]) if channel is None else weight[:, channel] for channel in channels], dim=1
    )
    others = [channel for channel in range(available) if channel not in named]
    if not others or third_channel == "zero":
        return folded
    rest = weight[:, others].sum(1, keepdim=True)
    if third_channel == "mean":
        return folded + rest / len(channels)
    copied = ("swi", "phase").index(third_channel)
    if copied >= len(channels):
        raise DarknetError(f"third_channel is {third_channel!r}, but the new input has {len(channels)} channel.")
    folded[:, copied : copied + 1] += rest
    return folded


def darknet_detector(
    cfg: str | Path,
    weights: str | Path | None = None,
    *,
    in_channels: int | None = None,
    third_channel: str = "zero",
    channels: Sequence[int | None] | None = None,
    batch_norm_epsilon: float | str = 1e-5,
    axes: str = "RA",
    loss_parameters: dict[str, Any] | None = None,
    **detector_arguments: Any,
) -> YOLOv2Detector:
    """Build a detector from darknet's files.

    Anchors, and for training the scales, ``thresh``, ``rescore`` and ``bias_match``, come from the region layer;
    darknet reads ``absolute`` but never uses it, and the loss always behaves as with 1.

    Args:
        cfg: the ``.cfg`` file.
        weights: the ``.weights`` file; None leaves the network untrained.
        in_channels: channels of the slices; by default those of the ``.cfg``.
        third_channel: see :func:`fold_input_channels`.
        channels: see :func:`fold_input_channels`; by default the first ``in_channels``, in order.
        batch_norm_epsilon: see :class:`~.network.DarknetNetwork`.
        axes: see :class:`~.network.DarknetNetwork`.
        loss_parameters: arguments of :class:`~..detection.region_loss.RegionLoss` that override those of the file.
        detector_arguments: further arguments of :class:`~..detection.yolov2.YOLOv2Detector`, such as ``score_thresh``.

    Returns:
        the detector.

    Raises:
        DarknetError: a file cannot be read or does not fit; see :func:`read_weights`.
    """
    network = DarknetNetwork(cfg, in_channels, batch_norm_epsilon, axes)
    region = network.region
    if network.stride is None:
        net = network.sections[0]
        raise region.error(
            f"{net.text('width')} x {net.text('height')} pixels (width x height in [net]) do not give cells of whole "
            "pixels; expected multiples of the strides, and paddings that keep the size."
        )
    anchors = region.reals("anchors")
    if len(anchors) != 2 * network.num_anchors or min(anchors) <= 0:
        raise region.error(
            f"anchors={region.options['anchors']}; expected {2 * network.num_anchors} positive numbers, width and "
            f"height of each of {network.num_anchors} anchors (num).",
            "anchors",
        )
    pairs = [anchors[start : start + 2] for start in range(0, len(anchors), 2)]
    if network.transposed:
        pairs = [pair[::-1] for pair in pairs]
    parameters = {key: region.real(key, default) for key, default in LOSS_OPTIONS.items()}
    parameters |= {key: parameters[key] != 0 for key in ("rescore", "bias_match")}
    detector = YOLOv2Detector(
        network, pairs, loss_parameters={**parameters, **(loss_parameters or {})}, **detector_arguments
    )
    if weights is not None:
        detector.loss.seen.fill_(read_weights(network, weights, third_channel, channels))
    return detector


def read_weights(
    network: DarknetNetwork,
    path: str | Path,
    third_channel: str = "zero",
    channels: Sequence[int | None] | None = None,
) -> int:
    """Load a ``.weights`` file into a network.

    The layout is that of ``load_weights_upto`` in darknet's ``src/parser.c``, little-endian: three int32, the
    version (major, minor, revision); the number of images seen in training, uint64 from version 0.2 on, int32 before
    and for the major and minor numbers from 1000 on that an early darknet wrote; then float32, for each convolution
    its biases, with batch normalisation its scales, running means and running variances, and its weights.

    Args:
        network: network of the ``.cfg`` that the weights were trained with.
        path: the file.
        third_channel: for a network with other input channels than its ``.cfg``, see :func:`fold_input_channels`.
        channels: see :func:`fold_input_channels`.

    Returns:
        the number of images seen.

    Raises:
        DarknetError: the file is missing, longer or shorter than the network, or holds values that are not finite.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DarknetError(f"{path} cannot be read ({error.strerror}). Expected a darknet .weights file.") from None
    if len(data) < 16:
        raise DarknetError(f"{path} has {len(data)} bytes; a darknet .weights file has a header of 16 or 20.")
    major, minor, revision = struct.unpack_from("<3i", data)
    wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
    header = 20 if wide else 16
    if len(data) < header or (len(data) - header) % 4:
        raise DarknetError(
            f"{path} has {len(data)} bytes; after its header of {header} (version {major}.{minor}.{revision}), "
            "expected float32 numbers of 4 bytes. Is it a darknet .weights file, and copied whole?"
        )
    (seen,) = struct.unpack_from("<Q" if wide else "<i", data, 12)
    numbers = torch.from_numpy(np.frombuffer(data, "<f4", offset=header).astype(np.float32))
    parts = list(_parts(network))
    _check_length(network, parts, len(numbers), path)

    first = network.layers[0]
    foldable = isinstance(first, Convolution) and first.conv.groups == 1
    channels = list(range(network.in_channels) if channels is None else channels)
    if len(channels) != network.in_channels:
        raise DarknetError(
            f"channels has {len(channels)} entries, but the network takes {network.in_channels} channels; "
            "expected one for each."
        )
    if channels != list(range(network.cfg_channels)) and not foldable:
        raise network.sections[1].error(
            f"{network.cfg_channels} input channels can be converted to {channels} only in a convolution without "
            "groups."
        )
    with torch.no_grad():
        position = 0
        for section, name, tensor, shape in parts:
            found = numbers[position : position + shape.numel()].view(shape)
            position += shape.numel()
            if not bool(torch.isfinite(found).all()):
                raise section.error(f"its {name} in {path} are not finite: the training of this file failed.")
            if foldable and tensor is first.conv.weight:
                found = fold_input_channels(found, channels, third_channel)
            tensor.copy_(found)
    logger.info(f"Read {len(numbers)} numbers of {path}, darknet version {major}.{minor}.{revision}, {seen} images")
    return seen


def write_weights(network: DarknetNetwork, path: str | Path, seen: int = 0) -> Path:
    """Write a network as a ``.weights`` file of version 0.2; ``seen`` is the number of training images so far."""
    tensors = [tensor.detach().cpu().contiguous().numpy().astype("<f4") for _, _, tensor, _ in _parts(network)]
    data = struct.pack("<3iQ", 0, 2, 0, seen) + b"".join(tensor.tobytes() for tensor in tensors)
    return write_whole(path, lambda aside: aside.write_bytes(data))


def export_detector(detector: YOLOv2Detector, cfg: str | Path, weights: str | Path) -> tuple[Path, Path]:
    """Write a detector that :func:`darknet_detector` built as darknet's two files.

    The ``.cfg`` is the one that the detector was built from, with its current channels, anchors and loss. Reading both
    files again gives the same tensors, bit for bit.

    Returns:
        the two paths.

    Raises:
        DarknetError: the detector's network was not built from a ``.cfg``.
    """
    network, loss = detector.network, detector.loss
    if not isinstance(network, DarknetNetwork):
        raise DarknetError(
            f"A {type(network).__name__} cannot be written for darknet; expected a network that was built from a .cfg."
        )
    sections = copy.deepcopy(network.sections)
    sections[0].options["channels"] = str(network.in_channels)
    anchors = loss.anchors.flip(1) if network.transposed else loss.anchors
    region = sections[-1].options
    # nine digits restore the same float32
    region["anchors"] = ",".join(f"{value:.9g}" for value in anchors.flatten().tolist())
    region |= {key: f"{float(getattr(loss, key)):g}" for key in LOSS_OPTIONS}
    return write_cfg(sections, cfg), write_weights(network, weights, int(loss.seen))


def _parts(network: DarknetNetwork) -> Iterator[tuple[Section, str, Tensor, torch.Size]]:
    """Yield each tensor of a network in darknet's order, with its section, its name and its shape in the file."""
    for section, layer in zip(network.sections[1:-1], network.layers, strict=True):
        if not isinstance(layer, Convolution):
            continue
        conv, norm = layer.conv, layer.norm
        if isinstance(norm, torch.nn.BatchNorm2d):
            named = {"biases": norm.bias, "scales": norm.weight}
            named |= {"running means": norm.running_mean, "running variances": norm.running_var}
        else:
            named = {"biases": conv.bias}
        for name, tensor in named.items():
            yield section, name, tensor, tensor.shape
        shape = conv.weight.shape
        if section.number == 0:
            shape = torch.Size([shape[0], network.cfg_channels // conv.groups, *shape[2:]])
        yield section, "weights", conv.weight, shape


def _check_length(network: DarknetNetwork, parts: list, found: int, path: Path) -> None:
    expected = sum(shape.numel() for _, _, _, shape in parts)
    if found == expected:
        return
    cfg = network.sections[0].file
    advice = "Give the .cfg that these weights were trained with, or copy the file again."
    first = network.layers[0]
    if isinstance(first, Convolution):
        channels = network.cfg_channels + (found - expected) / first.conv.weight[:, 0].numel()
        if channels in (1, 2, 3, 4):
            advice = f"With channels={channels:g} instead of {network.cfg_channels} in [net], {cfg.name} would fit."
    if found > expected:
        raise DarknetError(
            f"{path} holds {found} numbers, {found - expected} more than all layers of {cfg} ({expected}). {advice}"
        )
    position = 0
    for section, name, _, shape in parts:
        if position + shape.numel() > found:
            raise section.error(
                f"{path} ends here, {found - position} of {shape.numel()} {name} in: it holds {found} numbers, the "
                f"layers need {expected}. {advice}"
            )
        position += shape.numel()
