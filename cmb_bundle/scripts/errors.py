"""The errors that a user can mend, each with the file, what was found, what was expected and what to do."""

from __future__ import annotations

import sys
from types import TracebackType


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


class CohortError(InputError, RuntimeError):
    """Some subjects of a cohort failed; the others are done."""


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


def show_cause_last() -> None:
    """
    End the program on an error of the user's input with that error's own sentence.

    MONAI wraps errors in the config entry that raised them, which hides the message that tells what to do. This sets
    ``sys.excepthook``; the traceback is still printed, before the sentence.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        cause = root_cause(error)
        if isinstance(cause, InputError):
            print(f"\n{cause}", file=sys.stderr)

    sys.excepthook = hook
