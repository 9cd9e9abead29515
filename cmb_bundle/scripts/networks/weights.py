"""Load weights, with errors that say what is wrong with a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..files import write_whole
from ..options import check_flags

NOT_WEIGHTS = "Expected a PyTorch state_dict; copy the file again or train again."


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
        path: a file of the network's ``state_dict()``, written by :func:`torch.save`; if a single stage is loaded, a
            file of only that stage will do (``detector_best.pt`` of a training). Not needed if no stage is loaded.
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
    if not Path(path).is_file():
        raise CheckpointError(
            f"The weights {path} do not exist. Train first (run training), or give their path by --checkpoint."
        )
    state = read_state(path, map_location, NOT_WEIGHTS)
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
        path: weights of both stages, such as ``models/model.pt``; None leaves the network unchanged.

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
    state = read_state(path, "cpu", NOT_WEIGHTS)
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
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}). {advice}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}. {advice}")
    return state


def fit_weights(network: torch.nn.Module, state: Mapping, path: str | Path) -> None:
    """Load a state_dict, with an error that says how ``path`` differs from the network if it does not fit."""
    expected = network.state_dict()
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


def check_finite_weights(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """
    Refuse weights that are not numbers: a network with them finds nothing, and says nothing.

    Raises:
        CheckpointError: a tensor has a value that is NaN or infinite.
    """
    for name, tensor in state.items():
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
