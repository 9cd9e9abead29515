"""Files of weights, read with errors that say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..files import write_whole
from ..options import check_flags

NOT_WEIGHTS = "Expected a PyTorch state_dict; copy the file again or train anew."


def load_weights(
    network: torch.nn.Module,
    path: str | Path,
    map_location="cpu",
    stages: Mapping[str, bool] | None = None,
) -> torch.nn.Module:
    """
    Load a plain state_dict into a network, or into some of its children.

    A stage that was imported from another program brings its weights with it; only the others are then loaded.

    Args:
        network: the module.
        path: a file that :func:`torch.save` wrote of its ``state_dict()``; where a single stage is loaded, a file of
            that stage alone will do (``detector_best.pt`` of a training). It is not needed where no stage is loaded.
        map_location: as of :func:`torch.load`.
        stages: names of children, and whether they are loaded; None loads all there is.

    Returns:
        the network.

    Raises:
        CheckpointError: the file is missing, unreadable, or of another architecture.
        OptionError: a stage is given something other than True or False.
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
    Give a network the weights that a training starts from, in place of random ones.

    Weights of a detector that sees single slices start one that sees neighbours too (``context``): it gives what
    they gave until it has learned to use the neighbours, whose weights start at 0.

    Args:
        network: both stages.
        path: weights of both stages, such as ``models/model.pt``; None leaves the network as it is.

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
            "the bundle, or none to train from nothing."
        )
    state = read_state(path, "cpu", NOT_WEIGHTS)
    wanted = network.state_dict()
    fit_weights(network, {key: _with_neighbours(tensor, wanted.get(key)) for key, tensor in state.items()}, path)
    return network


def _with_neighbours(weight: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """A convolution's weight for channels that are slices, from one for the middle slice of each, if it is one."""
    if wanted is None or wanted.ndim != 4 or weight.ndim != 4 or weight.shape == wanted.shape:
        return weight
    slices, rest = divmod(wanted.shape[1], weight.shape[1])
    if rest or slices % 2 == 0:
        return weight
    widened = weight.new_zeros(weight.shape[0], wanted.shape[1], *weight.shape[2:])
    widened[:, slices // 2 :: slices] = weight
    return widened


def read_state(path: str | Path, map_location: object, advice: str) -> dict:
    """Read a dictionary that :func:`torch.save` wrote; where that fails, the error ends with ``advice``."""
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}). {advice}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}. {advice}")
    return state


def fit_weights(network: torch.nn.Module, state: Mapping, path: str | Path) -> None:
    """Load a state_dict, with an error that says how ``path`` differs from the network where it does."""
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
    """Write the state_dict of a network, on the CPU, whole."""
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    return write_whole(path, lambda aside: torch.save(state, aside))
