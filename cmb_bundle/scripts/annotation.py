"""The bundle under a MONAI Label server: how it knows, and where trainings and their weights go.

A server drives the bundle's own configs, so what must differ there is decided here: an annotator's training starts
in a folder of its own, and its weights stand beside the shipped ones, which are never written to.
"""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from .errors import CheckpointError
from .files import write_whole

RETRAINED = "retrained.pt"
SERVER_FOLDER = "MONAI_LABEL_APP_DIR"


def is_served() -> bool:
    """Whether this process is a MONAI Label server, or was started by one: they set ``MONAI_LABEL_APP_DIR``."""
    return bool(os.environ.get(SERVER_FOLDER))


def number_by_default() -> bool:
    """Whether the label map numbers the microbleeds where nothing is said: not for a server, whose labels are fixed."""
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
