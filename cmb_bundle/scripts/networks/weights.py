"""Load weights, with errors that say what is wrong with a file."""

from __future__ import annotations

import argparse
import logging
import pathlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError
from ..files import write_whole
from ..options import check_flags
from .evidence import Evidence
from .surroundings import Surroundings

logger = logging.getLogger(__name__)

NOT_WEIGHTS = "Expected a PyTorch state_dict; copy the file again or train again."

WRAPPERS = ("state_dict", "model_state_dict", "network_weights", "network", "model", "net")
"""Keys under which training programs keep the weights beside the rest of their state."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""First words that DataParallel, torch.compile and Lightning put before the name of every tensor."""

PLAIN = [argparse.Namespace, pathlib.PosixPath, pathlib.WindowsPath, np.dtype, np.ndarray,
         np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0],  # how numpy's scalars and arrays are made again
         *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?"))]  # fmt: skip
"""Classes of harmless values that often lie beside weights: options, paths, the best score so far."""


def load_weights(
    network: torch.nn.Module,
    path: str | Path,
    map_location="cpu",
    stages: Mapping[str, bool] | None = None,
) -> torch.nn.Module:
    """
    Load a plain state_dict into a network, or into some of its children.

    A stage imported from another program brings its own weights; then only the other stage is loaded.

    Args:
        network: the module.
        path: a file of the network's ``state_dict()``, written by :func:`torch.save`, or a checkpoint with one, see
            :func:`plain_weights`; if a single stage is loaded, a file of only that stage will do
            (``detector_best.pt`` of a training). Not needed if no stage is loaded.
        map_location: see :func:`torch.load`.
        stages: names of children, and whether to load them; None loads everything.

    Returns:
        the network.

    Raises:
        CheckpointError: the file is missing, unreadable, or of another architecture.
        OptionError: the value for a stage is not True or False.
    """
    check_flags(**{f"{stage}_from_checkpoint": wanted for stage, wanted in (stages or {}).items()})
    children = None if stages is None or all(stages.values()) else [s for s, wanted in stages.items() if wanted]
    if children == []:
        return network
    if not isinstance(path, str | Path):
        raise CheckpointError(f"checkpoint is {path!r}; expected the path of a file of weights.")
    if not Path(path).is_file():
        raise CheckpointError(
            f"The weights {path} do not exist. Train first (run training), or give their path by --checkpoint."
        )
    state = plain_weights(read_state(path, map_location, NOT_WEIGHTS), path)
    if not any(bool(value.any()) for value in state.values() if torch.is_tensor(value)):
        raise CheckpointError(f"{path}: all weights are 0. Copy the file again, or train again.")
    if children is None:
        fit_weights(network, state, path)
        return network
    if len(children) == 1 and not any(key.split(".")[0] in stages for key in state):
        state = {f"{children[0]}.{key}": tensor for key, tensor in state.items()}
    for child in children:
        part = {key.removeprefix(f"{child}."): state[key] for key in state if key.startswith(f"{child}.")}
        fit_weights(getattr(network, child), part, path)
    return network


def initialize(network: torch.nn.Module, path: str | Path | None = None) -> torch.nn.Module:
    """
    Load the weights that training starts from, in place of random ones.

    Weights of a detector that sees single slices can start one that also sees neighbouring slices (``context``): the
    weights for the neighbours start at 0, so that the output is the same until it has learned to use them.

    Args:
        network: both stages.
        path: weights of both stages, such as ``models/model.pt``, or a checkpoint with them, see
            :func:`plain_weights`; None leaves the network unchanged.

    Returns:
        the network.

    Raises:
        CheckpointError: the file is missing, unreadable, or of another architecture.
    """
    if path is None:
        return network
    if not Path(path).is_file():
        raise CheckpointError(
            f"initial_weights {path} do not exist. Give a file of weights of both stages, such as models/model.pt of "
            "the bundle, or none to start from random weights."
        )
    state = plain_weights(read_state(path, "cpu", NOT_WEIGHTS), path)
    wanted = network.state_dict()
    fit_weights(network, {key: _with_neighbours(tensor, wanted.get(key)) for key, tensor in state.items()}, path)
    return network


def _with_neighbours(weight: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """Widen a convolution's weight from single slices to slices with neighbours; return any other weight unchanged."""
    if wanted is None or wanted.ndim != 4 or weight.ndim != 4 or weight.shape == wanted.shape:
        return weight
    slices, rest = divmod(wanted.shape[1], weight.shape[1])
    if rest or slices % 2 == 0:
        return weight
    widened = weight.new_zeros(weight.shape[0], wanted.shape[1], *weight.shape[2:])
    widened[:, slices // 2 :: slices] = weight
    return widened


def read_state(path: str | Path, map_location: object, advice: str) -> dict:
    """Read a dictionary that :func:`torch.save` wrote; if that fails, the error ends with ``advice``."""
    try:
        _check_zip(path)
        torch.serialization.add_safe_globals(PLAIN)
        state = torch.load(path, map_location=map_location, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}){_objects(path)}. {advice}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}. {advice}")
    return state


def _check_zip(path: str | Path) -> None:
    """Refuse a file of which a byte has changed: PyTorch does not look at its checksums, and takes other weights."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} does not fit. Copy the file again.")


def _objects(path: str | Path) -> str:
    """What of a file is not read since reading it could run any program."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no file of torch.save at all, or PyTorch is older than 2.6
        return ""
    if not found:
        return ""
    return (
        f": it holds objects of {', '.join(sorted(found)[:5])}, which are not read, since that could run any program. "
        "In the program that wrote it, save the model's state_dict() alone"
    )


def plain_weights(state: Mapping, path: str | Path = "The file") -> dict[str, torch.Tensor]:
    """
    Find the weights in a checkpoint as others write it.

    Training programs save a dictionary with the weights under a key such as ``state_dict`` or ``model``, beside an
    optimizer and more; DataParallel puts ``module.`` before each name.

    Args:
        state: what :func:`read_state` read.
        path: its file, for the error.

    Returns:
        the tensors by their names in the network; sparse ones as dense ones.

    Raises:
        CheckpointError: there are no weights in it, or they may be under several keys.

    Example:
        >>> plain_weights({"state_dict": {"module.bias": torch.zeros(1)}, "epoch": 3})
        {'bias': tensor([0.])}
    """
    if not any(torch.is_tensor(value) for value in state.values()):
        holding = [key for key in WRAPPERS if _has_tensors(state.get(key))]
        if len(holding) != 1:
            found = ", ".join(map(str, list(state)[:8])) or "nothing"
            what = f"weights under {' and '.join(holding)}" if holding else f"no weights, but {found}"
            raise CheckpointError(
                f"{path} holds {what}; expected a state_dict, or one under one of {', '.join(WRAPPERS)}. Save it as "
                "that, or copy the file again."
            )
        logger.info(f"{path}: weights are taken from {holding[0]}, out of {', '.join(map(str, state))}")
        state = state[holding[0]]
    state = dict(state)
    while prefix := next((p for p in PREFIXES if state and all(str(key).startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value.to_dense() if torch.is_tensor(value) else value for key, value in state.items()}


def _has_tensors(part: object) -> bool:
    return isinstance(part, Mapping) and any(torch.is_tensor(value) for value in part.values())


def fit_weights(network: torch.nn.Module, state: Mapping, path: str | Path) -> None:
    """Load a state_dict, with an error that says how ``path`` differs from the network if it does not fit."""
    expected = network.state_dict()
    state = {**_untrained_evidence(network, state), **state}
    _check_surroundings(network, state, path)
    for name in [name for name in expected if name in state]:
        value, floating = state[name], expected[name].is_floating_point()
        kind = value.dtype if torch.is_tensor(value) else type(value).__name__
        if not torch.is_tensor(value) or value.is_floating_point() != floating:
            wanted = expected[name].dtype
            raise CheckpointError(f"{path}: {name} is {kind}; expected a tensor of {wanted}. {NOT_WEIGHTS}")
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    shapes = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    if missing or unknown or shapes:
        example = (shapes or missing or unknown)[0]
        found = tuple(state[example].shape) if example in state else "nothing"
        wanted = tuple(expected[example].shape) if example in expected else "nothing"
        raise CheckpointError(
            f"{path} is of another architecture: {len(missing)} tensors are missing, {len(unknown)} unknown, "
            f"{len(shapes)} of another shape; for example {example}: found {found}, expected {wanted}. "
            "Use the configuration it was trained with, or another output_dir or checkpoint."
        )
    check_finite_weights(state, path)
    network.load_state_dict(state)


def _untrained_evidence(network: torch.nn.Module, state: Mapping) -> dict[str, torch.Tensor]:
    """What weights of a stage 2 that did not look at surroundings or profile lack: such as say nothing."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, Evidence):
            lacking = module.untrained()
            if any(str(key).startswith(f"{name}.") for key in state):
                # weights from before its size was saved have all else
                lacking = {key: tensor for key, tensor in lacking.items() if key == "patch_size"}
            found |= {f"{name}.{key}": tensor for key, tensor in lacking.items()}
    return found


def _check_surroundings(network: torch.nn.Module, state: Mapping, path: str | Path) -> None:
    """Refuse what was learned from patches of another size: its parts may be as many, but lie elsewhere."""
    for name, module in network.named_modules():
        found = state.get(f"{name}.patch_size")
        if isinstance(module, Surroundings) and torch.is_tensor(found):
            size, expected = found.tolist(), module.patch_size.tolist()
            if size != expected:
                raise CheckpointError(
                    f"{path} was trained with surroundings_size {size}; this configuration has {expected}. Set "
                    f"surroundings_size to {size}, or train again."
                )


def check_finite_weights(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """
    Refuse weights that are not numbers: a network with them finds nothing, and says nothing.

    Raises:
        CheckpointError: a tensor has a value that is NaN or infinite, or a variance is negative.
    """
    for name, tensor in state.items():
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise CheckpointError(f"{path} is damaged: {name} is a variance, and negative. Copy the file again.")
        if torch.is_tensor(tensor) and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{path} is damaged: {count} of the {tensor.numel()} values of {name} are NaN or infinite. Expected "
                "finite weights; copy the file again, or train again with a lower learning rate."
            )


def save_weights(network: torch.nn.Module, path: str | Path) -> Path:
    """Write the state_dict of a network, moved to the CPU; nobody sees a half-written file."""
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    return write_whole(path, lambda aside: torch.save(state, aside))
