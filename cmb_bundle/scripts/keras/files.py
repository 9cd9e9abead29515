"""Read Keras' files: the description of a model, and its weights."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import KerasError
from .layers import weight_shapes

Layer = tuple[str, str, Mapping]
"""Name, class and configuration of a layer."""

NAMES_OF_KERAS_3 = {"Conv3D": "conv3d", "BatchNormalization": "batch_normalization", "Dense": "dense"}


def read_architecture(path: str | Path) -> dict:
    """Read the description of a model from JSON, a ``.keras`` archive or a whole-model HDF5 file."""
    path = _existing(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            text = archive.read("config.json")
    elif path.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n":
        with _open_hdf5(path) as file:
            text = file.attrs.get("model_config")
            if text is None:
                raise KerasError(
                    f"{path} holds only weights. Give the JSON of model.to_json(), too, by --keras_architecture."
                )
    else:
        text = path.read_bytes()
    try:
        model = json.loads(text)
        # the output of model.to_json(), if dumped as JSON once more, is a string
        model = json.loads(model) if isinstance(model, str) else model
    except ValueError as error:
        raise KerasError(f"{path} is not JSON. Expected the output of model.to_json().") from error
    if not isinstance(model, dict) or model.get("class_name") not in ("Sequential", "Functional", "Model"):
        found = model.get("class_name") if isinstance(model, dict) else type(model).__name__
        raise KerasError(f"{path} describes a {found}; expected a Sequential or Functional model of Keras.")
    return model


def chain_of_layers(model: Mapping, path: str | Path) -> list[Layer]:
    """Return the layers of a model in the order of the data flow; KerasError if they do not form a chain."""
    config = model["config"]
    entries = config if isinstance(config, list) else config["layers"]
    layers = {e["config"].get("name", e.get("name", str(n))): e for n, e in enumerate(entries)}
    if model["class_name"] != "Sequential":
        follows: dict[str | None, str] = {}
        for name, entry in layers.items():
            sources = _sources(entry["inbound_nodes"]) or [None]
            if len(sources) != 1:
                raise KerasError(f"{path}: layer {name} joins {', '.join(sources)}; expected one chain of layers.")
            if sources[0] in follows:
                raise KerasError(
                    f"{path}: {follows[sources[0]]} and {name} both follow {sources[0] or 'an input'}; expected one "
                    "chain of layers."
                )
            follows[sources[0]] = name
        order, last = [], None
        while last in follows:
            last = follows[last]
            order.append(last)
        layers = {name: layers[name] for name in order}
    return [(name, entry["class_name"], entry["config"]) for name, entry in layers.items()]


def read_weights(path: str | Path, layers: Sequence[Layer]) -> list[dict[str, Tensor]]:
    """Read the weights of each layer, by the names in :func:`~.layers.weight_shapes`."""
    path = _existing(path)
    expected = [weight_shapes(kind, config) for _, kind, config in layers]
    with _open_hdf5(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            found = [a for a in _arrays_of_keras_2(group) if a]
            wanted = sum(1 for shapes in expected if shapes)
            if len(found) != wanted:
                raise KerasError(
                    f"{path} holds weights of {len(found)} layers, the description has {wanted} layers with weights. "
                    "Use the description and the weights of the same model."
                )
            remaining = iter(found)
            arrays = [next(remaining) if shapes else [] for shapes in expected]
        else:
            arrays = _arrays_of_keras_3(file, layers)
    tensors = []
    for (name, kind, _), shapes, values in zip(layers, expected, arrays, strict=True):
        agree = len(shapes) == len(values) and all(
            fits(shape, value.shape) for shape, value in zip(shapes.values(), values, strict=True)
        )
        if not agree:
            wanted = ", ".join(f"{key} {tuple('any' if s is None else s for s in v)}" for key, v in shapes.items())
            raise KerasError(
                f"{path}: the weights of layer {name} ({kind}) have the shapes {[v.shape for v in values]}; expected "
                f"{wanted}. Use the description and the weights of the same model."
            )
        tensors.append({key: torch.as_tensor(v).float() for key, v in zip(shapes, values, strict=True)})
    return tensors


def _arrays_of_keras_2(group: Any) -> list[list]:
    """Read the layout of Keras 2: layer_names and weight_names are attributes, split into pieces if long."""

    def names(of: Any, attribute: str) -> list[str]:
        pieces = [of.attrs[attribute]] if attribute in of.attrs else []
        while not pieces or f"{attribute}{len(pieces)}" in of.attrs:
            pieces.append(of.attrs[f"{attribute}{len(pieces)}"])
        return [n.decode() if isinstance(n, bytes) else str(n) for piece in pieces for n in piece]

    return [
        [group[layer][weight][()] for weight in names(group[layer], "weight_names")]
        for layer in names(group, "layer_names")
    ]


def _arrays_of_keras_3(file: Any, layers: Sequence[Layer]) -> list[list]:
    """Read the layout of Keras 3: groups named after a layer's class and a count, with vars/0, vars/1 ... in them."""
    paths: list[str] = []
    file.visit(paths.append)
    # files from Windows have backslashes in the names
    groups = {path.replace("\\", "/"): file[path] for path in paths}
    container = "layers" if any(path.startswith("layers/") for path in groups) else "_layer_checkpoint_dependencies"
    counts: dict[str, int] = {}
    arrays = []
    for _, kind, _ in layers:
        number = counts[kind] = counts.get(kind, -1) + 1
        name = NAMES_OF_KERAS_3.get(kind, "") + (f"_{number}" if number else "")
        found = groups.get(f"{container}/{name}/vars", {})
        arrays.append([found[str(index)][()] for index in range(len(found))])
    return arrays


@contextmanager
def _open_hdf5(path: Path):
    try:
        import h5py
    except ImportError as error:
        raise KerasError(
            "Reading weights of Keras needs h5py. Install it with pip install h5py, or the bundle with its extra: "
            "pip install 'cmb-bundle[keras]'."
        ) from error
    source = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" not in archive.namelist():
                raise KerasError(f"{path} is an archive without model.weights.h5; expected a .keras file.")
            source = io.BytesIO(archive.read("model.weights.h5"))
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise KerasError(f"{path} is neither HDF5 nor a .keras archive; expected weights that Keras saved.") from error
    with file:
        try:
            yield file
        except KeyError as error:
            raise KerasError(f"{path} is incomplete: {error}. Save the model in Keras again.") from error


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise KerasError(f"{path} is a folder; expected a file. Load a SavedModel in Keras and save it as .h5.")
    if not path.is_file():
        raise KerasError(f"{path} does not exist. Give the Keras model by --keras_weights and --keras_architecture.")
    return path


def _sources(node: Any) -> list[str]:
    """Find the layers named in an inbound_nodes entry, as written by Keras 2 or Keras 3."""
    if isinstance(node, Mapping):
        if "keras_history" in node:
            return [node["keras_history"][0]]
        return [name for value in node.values() for name in _sources(value)]
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            return [node[0]]
        return [name for value in node for name in _sources(value)]
    return []


def fits(shape: Sequence[int | None], of: Sequence[int]) -> bool:
    """Whether two shapes agree; None agrees with any length."""
    return len(shape) == len(of) and all(s is None or s == o for s, o in zip(shape, of, strict=True))
