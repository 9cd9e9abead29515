"""Build stage 2 from files that Keras wrote, without Keras."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from nibabel.orientations import axcodes2ornt, ornt_transform
from torch import Tensor, nn

from ..errors import KerasError
from .files import Layer, chain_of_layers, fits, read_architecture, read_weights
from .layers import LAYERS

_OPPOSITE = {"L": "R", "P": "A", "I": "S"}


class KerasClassifier(nn.Module):
    """
    A Keras network that is called like :class:`~..networks.classifier.PatchClassifier`.

    Args:
        layers: the layers in order, in Keras' own layout; the last one returns logits.
        channels_last: whether they expect (B, 16, 32, 16, 1), or (B, 16, 16, 16, 2).
        microbleed_class: index of the microbleed class, 0 or 1.
        phase_first: whether they expect the phase before the SWI.
        axes: directions of the axes of their patches, such as ``RAS`` or ``LPS``.
        two_channels: whether they expect SWI and phase as two channels, and not side by side.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        channels_last: bool = False,
        microbleed_class: int = 1,
        phase_first: bool = False,
        axes: str = "RAS",
        two_channels: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.two_channels = two_channels
        self.channels_last, self.microbleed_class, self.phase_first = channels_last, microbleed_class, phase_first
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
        self.flipped = [2 + axis for axis in range(3) if turn[axis, 1] < 0]
        self.order = [0, 1, *(2 + int(axis) for axis in turn[:, 0].argsort())]

    def arrange(self, x: Tensor) -> Tensor:
        """Bring patches, RAS and SWI first, as in :meth:`forward`, into the layout that the layers expect."""
        halves = x.split(1, dim=1) if x.shape[1] == 2 else x.chunk(2, dim=3)
        halves = [half.flip(self.flipped).permute(self.order) for half in halves]
        x = torch.cat(halves[::-1] if self.phase_first else halves, dim=1 if self.two_channels else 3)
        return x.movedim(1, -1) if self.channels_last else x

    def forward(self, x: Tensor) -> Tensor:
        """
        Classify.

        Args:
            x: (B, 2, s, s, s), SWI and complement phase, values in [0, 1]; or (B, 1, s, 2 s, s), them side by side.

        Returns:
            (B, 2) logits, the microbleed last; their softmax gives the probabilities that Keras computes.
        """
        logits = self.layers(self.arrange(x))
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.flip(1) if self.microbleed_class == 0 else logits

    @torch.no_grad()
    def scale_logit(self, slope: float, offset: float) -> None:
        """Change the last layer as :meth:`~..networks.classifier.PatchClassifier.scale_logit` does.

        Raises:
            KerasError: the network does not end with a dense layer that has a bias.
        """
        last = [module for module in self.layers.modules() if next(module.parameters(recurse=False), None) is not None][
            -1
        ]
        if not isinstance(last, nn.Linear) or last.bias is None:
            raise KerasError(
                f"the model's last layer with weights is {last}; expected a dense layer with a bias, which "
                "can be scaled. The probability stays that of the model."
            )
        last.weight.mul_(slope)
        last.bias.mul_(slope)
        of_microbleed = -1 if self.microbleed_class == 1 else 0
        # a single unit is the logit of class 1
        last.bias[of_microbleed] += -offset if last.out_features == 1 and self.microbleed_class == 0 else offset


def keras_classifier(
    weights: str | Path | None,
    architecture: str | Path | None = None,
    *,
    patch_size: Sequence[int] = (16, 32, 16),
    microbleed_class: int = 1,
    phase_first: bool = False,
    axes: str = "RAS",
) -> KerasClassifier:
    """
    Build stage 2 from a model that Keras 2 or Keras 3 saved.

    The network is built from the description, layer by layer, so models with other widths, orders, kernels or axes of
    batch normalisation can be loaded, too; :data:`~.layers.LAYERS` lists the supported layers. They must form a chain.
    Weights are assigned to the layers in order, as Keras itself does, whatever the layers are called. A final softmax
    is removed to return logits; one unit with a sigmoid becomes two logits.

    Batch normalisation is over the axis that the description names. Keras' default is the last array axis, even for
    tensors with channels first, see :class:`~.layers.AxisBatchNorm`.

    Args:
        weights: what ``model.save_weights`` or ``model.save`` wrote: ``.h5`` of Keras 2 or 3, ``.weights.h5`` or
            ``.keras``.
        architecture: output of ``model.to_json()``, or a ``.keras`` or whole-model ``.h5`` file; None if the weights
            file contains it.
        patch_size: voxels of a patch along its three axes, SWI and phase together. A model that takes them as two
            channels has half of it along the second axis: (16, 16, 16, 2) or (2, 16, 16, 16).
        microbleed_class: index of the model's microbleed class, 0 or 1.
        phase_first: whether the model was trained with the phase before the SWI.
        axes: directions of the axes of the patches that the model was trained on. ``RAS`` means to right, anterior
            and superior, as in this bundle; ``LPS`` is how DICOM images are stored.

    Raises:
        KerasError: h5py or a file is missing, a file is of the wrong kind, a layer is not supported, or weights and
            description do not fit each other or the patches.
    """
    if weights is None:
        raise KerasError("No Keras model was given. Give its files by --keras_weights and --keras_architecture.")
    if microbleed_class not in (0, 1):
        raise KerasError(f"microbleed_class is {microbleed_class!r}; expected 0 or 1.")
    if not isinstance(phase_first, bool):
        raise KerasError(f"phase_first is {phase_first!r}; expected True or False, with a capital letter.")
    if not isinstance(axes, str) or sorted("RAS".find(_OPPOSITE.get(a, a)) for a in axes) != [0, 1, 2]:
        raise KerasError(f"axes is {axes!r}; expected one of L and R, one of A and P and one of I and S, such as LPS.")
    model = read_architecture(architecture or weights)
    layers = chain_of_layers(model, architecture or weights)
    input_shape = _input_shape(model, layers)
    layers = [layer for layer in layers if layer[1] != "InputLayer"]
    arrays = read_weights(weights, layers)
    layers, end = _without_last_activation(layers)

    built = OrderedDict()
    for number, ((name, kind, config), tensors) in enumerate(zip(layers, arrays, strict=True)):
        if kind not in LAYERS:
            raise KerasError(f"Layer {name} is a {kind}, which is not supported; supported are {', '.join(LAYERS)}.")
        try:
            modules = LAYERS[kind](config, tensors)
        except KerasError as error:
            raise KerasError(f"Layer {name} ({kind}) is not supported: {error}.") from error
        built[f"{number:02d}_{name.replace('.', '_')}"] = nn.Sequential(*modules)

    channels_last, two_channels = _layout(input_shape, patch_size)
    classifier = KerasClassifier(built, channels_last, microbleed_class, phase_first, axes, two_channels)
    _check_output(classifier, patch_size, end)
    return classifier


def _input_shape(model: Mapping, layers: Sequence[Layer]) -> tuple[int | None, ...]:
    configs = [layers[0][2], model["config"] if isinstance(model["config"], dict) else {}]
    for key in ("batch_shape", "batch_input_shape", "build_input_shape"):
        for config in configs:
            if config.get(key):
                return tuple(config[key][1:])
    raise KerasError(
        "The description does not give the shape of the input. Build the model in Keras and save it again."
    )


def _layout(input_shape: Sequence[int | None], patch_size: Sequence[int]) -> tuple[bool, bool]:
    """Whether a model takes the channels last, and whether it takes SWI and phase as two channels."""
    i, j, k = patch_size
    beside, apart = [(1, i, j, k), (i, j, k, 1)], [(2, i, j // 2, k), (i, j // 2, k, 2)]
    for two_channels, shapes in ((False, beside), (True, apart)):
        for channels_last, shape in enumerate(shapes):
            if fits(input_shape, shape):
                return bool(channels_last), two_channels
    raise KerasError(
        f"The model takes patches of {input_shape}; expected {beside[0]} or {beside[1]}, SWI and phase side by side "
        f"along the second axis, or {apart[0]} or {apart[1]}, SWI and phase as channels. Set patch_size to the edge "
        "of the model's patches."
    )


def _without_last_activation(layers: list[Layer]) -> tuple[list[Layer], str]:
    """Remove the final activation; return the layers and the name of the activation."""
    name, kind, config = layers[-1]
    if kind == "Softmax":
        return [*layers[:-1], (name, "Activation", {"activation": "linear"})], "softmax"
    end = config.get("activation", "linear")
    if end not in ("softmax", "sigmoid", "linear"):
        raise KerasError(f"The last layer {name} has the activation {end!r}; expected softmax, sigmoid or linear.")
    return [*layers[:-1], (name, kind, {**config, "activation": "linear"})], end


def _check_output(classifier: KerasClassifier, patch_size: Sequence[int], end: str) -> None:
    """Check the shapes by passing a patch of zeros through, layer by layer."""
    training = classifier.training
    classifier.eval()
    x = classifier.arrange(torch.zeros(1, 1, *patch_size))
    for name, layer in classifier.layers.named_children():
        try:
            with torch.no_grad():
                y = layer(x)
        except (RuntimeError, ValueError, IndexError) as error:
            raise KerasError(
                f"Layer {name} does not accept the output of the layer before, {tuple(x.shape)}: {error}"
            ) from error
        x = y
    if tuple(x.shape[1:]) != ((1,) if end == "sigmoid" else (2,)):
        raise KerasError(
            f"The model ends with {tuple(x.shape[1:])} values and {end}; expected two classes with softmax (or "
            "logits), or one value with sigmoid."
        )
    classifier.train(training)
