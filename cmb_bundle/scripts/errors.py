"""The errors that a user can mend, each with the file, what was found, what was expected and what to do."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from monai.bundle import ConfigWorkflow

LOG_NAME = "error.log"
"""The file in the output folder that gets the traceback of an error that a user can mend."""


class InputError(Exception):
    """The base of everything that a user can mend: a file, a folder, an option."""


class OptionError(InputError, ValueError):
    """An option has a value that it cannot have, or there is no such option."""


class SubjectError(InputError, ValueError):
    """A subject cannot be used, or a data set has none."""


class LabelError(InputError, ValueError):
    """A label file cannot be read, or does not fit its image."""


class DicomError(InputError, ValueError):
    """DICOM files cannot be read, or do not make up the volume that is needed."""


class CheckpointError(InputError, RuntimeError):
    """A file of weights cannot be read, or does not fit the network."""


class KerasError(CheckpointError):
    """A model that Keras wrote cannot be read, or holds what is not supported."""


class DarknetError(CheckpointError):
    """A file of darknet cannot be read, holds something that is not supported, or does not fit another."""


class RecordsError(InputError, ValueError):
    """A file of records cannot be used."""


class CrossValidationError(InputError, RuntimeError):
    """A cross-validation cannot be started, resumed or pooled as asked."""


class ProcessesError(InputError, RuntimeError):
    """A training in several processes was not started as such."""


class TrainingError(InputError, RuntimeError):
    """A stage cannot be trained: there is too little to learn from, or another training is in its folder."""


class OutputError(InputError, OSError):
    """
    Results cannot be written: the disk is full, or a folder is read-only.

    Attributes:
        of_disk: whether no file on the same disk can be written.
    """

    of_disk = False


class CohortError(InputError, RuntimeError):
    """Some subjects of a cohort failed; the others are done."""


class FollowUpError(InputError, ValueError):
    """The scans of a patient cannot be compared over time."""


class ClusterError(InputError, RuntimeError):
    """A cluster cannot be reached or started, or has lost a subject."""


def root_cause(error: BaseException) -> BaseException:
    """
    Return what an error comes from: the first error along its causes that a user can mend, else the last cause.

    Example:
        >>> try:
        ...     try:
        ...         raise OptionError("no such option")
        ...     except OptionError as cause:
        ...         raise RuntimeError("Failed to instantiate evaluator") from cause
        ... except RuntimeError as error:
        ...     print(root_cause(error))
        no such option
    """
    while not isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def show_cause_last(output_dir: str | os.PathLike | None = None, debug: bool = False) -> None:
    """
    End the program on an error that a user can mend with that error's own paragraph, and nothing else.

    MONAI wraps an error in those of the config entries that led to it, and prints all their tracebacks, which hide the
    message that says what to do. This sets ``sys.excepthook``: of an :class:`InputError` the traceback goes to
    ``error.log`` and the message is the last thing printed. Any other error is a fault of the program and keeps its
    traceback on the screen. A workflow that runs within another leaves the other's settings as they are.

    Args:
        output_dir: gets ``error.log`` where the folder is there and can be written to; it is not made for that. A log
            of a former run is removed.
        debug: True prints the traceback too, before the message.
    """
    if getattr(sys.excepthook, "of_workflow", False) and len(enclosing_workflows()) > 1:
        return
    _print_any_letter()
    log = None if output_dir is None else Path(str(output_dir)) / LOG_NAME
    if log is not None:
        with suppress(OSError):
            log.unlink(missing_ok=True)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = root_cause(error)
        if debug is True or not isinstance(cause, InputError):
            sys.__excepthook__(kind, error, trace)
        if isinstance(cause, InputError):
            where = None if debug is True else _write_log(log, kind, error, trace)
            if isinstance(cause, CohortError):  # which did not stop the others; a bar may stand before it
                print(f"\n\n{cause}", file=sys.stderr)
            else:
                print(f"\n{_pointer(where)}{cause}" if debug is not True else f"\n{cause}", file=sys.stderr)

    hook.of_workflow = True
    sys.excepthook = hook
    _keep_tracebacks_from_loggers(debug is True)


def _print_any_letter() -> None:
    """Let a console that lacks a letter show its number, rather than end the run at the summary."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def enclosing_workflows() -> list[ConfigWorkflow]:
    """The workflows up the call stack, the innermost first: those that are being initialised or run."""
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None)]
    return list({id(owner): owner for owner in owners if isinstance(owner, ConfigWorkflow)}.values())


def _pointer(log: Path | None) -> str:
    if log is None:
        return "Stopped. --debug True shows the traceback.\n\n"
    return f"Stopped. The traceback is in {log}; --debug True shows it here.\n\n"


def _write_log(
    log: Path | None, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> Path | None:
    if log is None or not log.parent.is_dir():
        return None
    try:
        told = "".join(traceback.format_exception(kind, error, trace))
        log.write_text(told, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    return log


def _keep_tracebacks_from_loggers(debug: bool) -> None:
    """Let log records of an :class:`InputError`, as MONAI's StatsHandler makes them, be without their traceback."""
    former = logging.getLogRecordFactory()
    former = getattr(former, "former", former)

    def factory(*args, **kwargs) -> logging.LogRecord:
        record = former(*args, **kwargs)
        if record.exc_info and record.exc_info[1] and isinstance(root_cause(record.exc_info[1]), InputError):
            record.exc_info = None
        return record

    factory.former = former
    logging.setLogRecordFactory(former if debug else factory)
