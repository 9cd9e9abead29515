"""The bundle under a MONAI Label server: how it knows, and where trainings and their weights go.

A server drives the bundle's own configs, so what must differ there is decided here: an annotator's training starts
in a folder of its own, and its weights stand beside the shipped ones, which are never written to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from .errors import CheckpointError
from .files import write_whole
from .options import threshold_at

RETRAINED = "retrained.pt"
SERVER_FOLDER = "MONAI_LABEL_APP_DIR"


def is_served() -> bool:
    """Whether this process is a MONAI Label server, or was started by one: they set ``MONAI_LABEL_APP_DIR``."""
    return bool(os.environ.get(SERVER_FOLDER))


def not_served() -> bool:
    """The contrary of :func:`is_served`, for use in a config."""
    return not is_served()


def training_dir(default: str | os.PathLike = "output") -> str:
    """
    The folder that a training writes to, where none is named.

    Args:
        default: the folder outside of a server.

    Returns:
        its absolute path; under a server ``<app>/trainings/<time>``, a new one for each training, so that one
        neither resumes nor overwrites another. The processes of one torchrun job share theirs.
    """
    if not is_served():
        return str(Path(default).absolute())
    job = os.environ.get("TORCHELASTIC_RUN_ID") or datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return str(Path(os.environ[SERVER_FOLDER]).absolute() / "trainings" / job)


def points_on_offer(operating_points: Iterable[str], operating_point: str) -> list[str]:
    """The names of the operating points, the configured one first, as a server's client shows a choice."""
    return sorted(operating_points, key=lambda name: name != operating_point)


def chosen_threshold(
    name: str,
    asked: Mapping[str, float | str | Sequence[str]],
    configured: Mapping[str, float | str],
    operating_points: Mapping[str, Mapping[str, float]],
) -> float:
    """
    The threshold that a request means, which holds all options, those that a person changed and those left alone.

    Args:
        name: of the threshold.
        asked: the request's thresholds and ``operating_point``; a list of the points on offer is its first.
        configured: the same as configured.
        operating_points: thresholds by name, for each point.

    Returns:
        the threshold asked for, where it is not the configured one; else that of the operating point, where it is not
        the configured one; else the configured threshold.

    Raises:
        OptionError: there is no such operating point.
    """
    point = asked["operating_point"]
    point = point if isinstance(point, str) else point[0]
    of_point = threshold_at(operating_points, point, name)
    if float(asked[name]) == float(configured[name]) and point != configured["operating_point"]:
        return float(of_point)
    return float(asked[name])


def publish_weights(path: str | os.PathLike, models_dir: str | os.PathLike) -> Path | None:
    """
    Under a server, copy the weights of a finished training to where inference offers them.

    Args:
        path: the weights of both stages.
        models_dir: the bundle's ``models`` folder; ``retrained.pt`` is written there, in place of the one of the
            training before, and no other file is touched.

    Returns:
        the file written; None outside of a server.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    if not is_served():
        return None
    try:
        # not with the times of the source: MONAI Label tells by them whether it must read a file again
        return write_whole(Path(models_dir) / RETRAINED, lambda aside: shutil.copyfile(path, aside))
    except OSError as error:
        raise CheckpointError(
            f"The retrained weights are in {path}, but cannot be written to {models_dir} ({error}). Expected a bundle "
            "folder that the server may write to; copy the bundle into the app's model folder in place of a link."
        ) from error
