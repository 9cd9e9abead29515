"""One training at a time in an output folder."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
from filelock import FileLock

from ..errors import TrainingError
from ..files import take_lock

_held: dict[Path, FileLock] = {}


class OutputLock:
    """
    Keep a training's output folder for this process, until it releases the folder or ends.

    Two trainings in one folder would overwrite each other's states and end with weights of neither. The lock of a
    process that was killed is free. In the processes of one torchrun job the first one holds it. Within a process, the
    folder of a training that failed can be taken again.

    Args:
        output_dir: the folder; it is made where it is missing.

    Raises:
        TrainingError: another process is training in it.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> lock = OutputLock(folder)
        >>> lock.release()
    """

    NAME = ".training.lock"

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir).resolve() / self.NAME
        if idist.get_rank() > 0 or self.path in _held:
            return
        lock = take_lock(self.path)
        if lock is None:
            raise TrainingError(
                f"{output_dir} is the output folder of another training, which is running now. Expected one at a time: "
                "wait for it or stop it, which can be resumed, or give another output_dir."
            )
        _held[self.path] = lock

    def release(self) -> None:
        """Leave the folder to others."""
        if self.path in _held:
            _held.pop(self.path).release()
