"""End in order when asked to by a signal."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class StopSignals:
    """
    Note SIGINT (Ctrl-C) and SIGTERM instead of dying of them, within a ``with`` block; a second one ends at once.

    Outside of the main thread, where Python takes no signals, it notes nothing.

    Attributes:
        received: number of the signal that was received; None if none was.

    Example:
        >>> with StopSignals() as stop:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     stop.received == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, object] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._former = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that loads scans got it too, as Ctrl-C goes to all of them
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        # print() may not be called again while it is at work
        os.write(
            2, f"\n{signal.Signals(number).name}: ends after what is under way; once more ends at once.\n".encode()
        )
