"""Files of weights, read with errors that say what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from .files import write_whole

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A file of weights, or of the state of a training, cannot be read or does not fit."""


def load_weights(network: torch.nn.Module, path: str | Path, map_location="cpu") -> torch.nn.Module:
    """
    Load a plain state_dict into a network.

    A child whose attribute ``weights_from`` names a file got its weights from there, another program's; it keeps
    them, and what the state_dict has for it is not looked at.

    Args:
        network: the module.
        path: a file that :func:`torch.save` wrote of its ``state_dict()``.
        map_location: as of :func:`torch.load`.

    Returns:
        the network.

    Raises:
        CheckpointError: the file is missing, unreadable, or of another architecture.
    """
    children = dict(network.named_children())
    kept = {name: child for name, child in children.items() if getattr(child, "weights_from", None)}
    for name, child in kept.items():
        logger.info(f"The weights of the {name} are those of {child.weights_from}, not of {path}.")
    if kept and len(kept) == len(children):
        return network
    if not Path(path).is_file():
        raise CheckpointError(
            f"The weights {path} do not exist. Train first (run training), or give their path by --checkpoint."
        )
    state = read_state(path, map_location, "Expected a PyTorch state_dict; copy the file again or train anew.")
    for name, child in kept.items():
        own = {f"{name}.{key}": value for key, value in child.state_dict().items()}
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")} | own
    fit_weights(network, state, path)
    return network


def save_weights(network: torch.nn.Module, path: str | Path) -> Path:
    """Write the state_dict of a network, on the CPU, whole."""
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    return write_whole(path, lambda aside: torch.save(state, aside))


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
    network.load_state_dict(state)
