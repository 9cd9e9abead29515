"""What values each option may have, with errors that say what is expected."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..errors import OptionError, root_cause

TINY = 1e-9
"""The smallest value of what must be above zero."""
NONE = "$None"
"""What to write on the command line for None, since MONAI passes over an option that is None itself."""


def is_number(low: float = -math.inf, high: float = math.inf, whole: bool = False) -> Callable[[Any], bool]:
    """A check of one value: a number from ``low`` to ``high``, both included; a truth value is no number."""
    kinds = (int, np.integer) if whole else (int, float, np.number)
    return lambda v: isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) and low <= v <= high


def is_list(of: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    """A check of one value: a list, tuple or array whose items all pass a check, of a given length."""
    return lambda v: (
        isinstance(v, list | tuple | np.ndarray) and len(v) == (length or len(v)) and all(of(item) for item in v)
    )


def is_one_of(*values: Any) -> Callable[[Any], bool]:
    """A check of one value: one of these, of the same type."""
    return lambda v: any(type(v) is type(value) and v == value for value in values)


def optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A check that lets None pass, too."""
    return lambda v: v is None or check(v)


_IDS = is_list(lambda v: isinstance(v, str) or is_number(whole=True)(v))
_COUNT = (is_number(1, whole=True), "a whole number, 1 or more")
_ODD = (lambda v: is_number(1, 99, whole=True)(v) and v % 2 == 1, "an odd number of slices, 1 to 99")
_COUNT_OR_0 = (is_number(0, whole=True), "a whole number, 0 or more")
_MM = (is_number(TINY), "a length in mm, above 0")
_MM_OR_0 = (is_number(0), "a length in mm, 0 or more")
_RATE = (is_number(0.0), "a number of 0 or more")
_SHARE = (is_number(0, 1), "a number from 0 to 1")
_FLAG = (lambda v: isinstance(v, bool | np.bool_), "a truth value, on the command line True or False")
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("detector_epochs", "classifier_epochs", "detector_batch_size", "classifier_batch_size", "slices_per_subject",
         "val_interval", "classifier_val_interval", "detector_save_interval", "detector_iterations", "max_candidates",
         "folds"), _COUNT),
    **dict.fromkeys(("average", "context"), _ODD),
    "score_slices": (is_number(1, 999, whole=True), "a whole number, 1 to 999"),
    **dict.fromkeys(
        ("num_workers", "seed", "bootstrap", "gallery", "detector_patience", "classifier_patience",
         "surroundings_epochs"), _COUNT_OR_0),
    **dict.fromkeys(("merge_mm", "box_mm", "distance_mm", "strict_mm"), _MM),
    **dict.fromkeys(("join_mm", "duplicate_mm"), _MM_OR_0),
    **dict.fromkeys(("detector_learning_rate", "classifier_learning_rate"), _RATE),
    **dict.fromkeys(("candidate_threshold", "probability_threshold", "cache_rate"), _SHARE),
    **dict.fromkeys(
        ("accept_any", "debug", "resume", "cohort_files", "silent", "picture", "regions", "compare_with_baseline",
         "number_microbleeds",
         "detector_from_checkpoint", "classifier_from_checkpoint", "detector_schedule_by_epoch"), _FLAG),
    **dict.fromkeys(("patch_size", "surroundings_size"), (
        lambda v: is_number(1, 512, whole=True)(v) or is_list(is_number(1, 512, whole=True), 3)(v),
        "a number of voxels, 1 to 512, or three of them",
    )),
    "microbleeds": (optional(_COUNT[0]), "a whole number, 1 or more, or None for the published distribution"),
    "calcifications": _COUNT_OR_0,
    "diameter_mm": (is_list(is_number(0.5, 20), 2), "the smallest and the largest, 0.5 to 20 mm, as '[2,5]'"),
    "field_tesla": (optional(is_number(0.1, 20)), "a field in tesla, or None for that of the header"),
    "te_ms": (optional(is_number(0.1, 1000)), "a time in ms, or None for that of the header"),
    "gap_mm": _MM_OR_0,
    "resolution_mm": (optional(is_list(is_number(0.05, 20), 2)), "two lengths in mm, as '[0.8,0.8]', or None"),
    "label_convention": (
        lambda v: isinstance(v, dict),
        "an object of index_base, swap_xy, flip_x, flip_y and flip_slice; --label_convention#index_base 0 changes one",
    ),
    "echo": (is_number(whole=True), "the number of an echo; -1 is the last"),
    "fold": (is_number(-1, whole=True), "the number of a fold, counted from 0; -1 for none"),
    "spacing": (is_list(is_number(0.1, 20), 3), "three lengths of 0.1 to 20 mm, as '[0.6,0.6,2.0]'"),
    "slice_size": (is_list(is_number(1, whole=True), 2), "two whole numbers of pixels, as '[176,176]'"),
    "detector_sizes": (optional(is_list(is_number(1, whole=True))), "a list of whole numbers, or None"),
    "subjects": (optional(_IDS), "a list of ids, as \"['P03']\", or None for all"),
    **dict.fromkeys(
        ("participant_label", "session_label"),
        (optional(lambda v: isinstance(v, str) or is_number(0, whole=True)(v) or _IDS(v)),
         "a label or a list of labels, as \"['01','02']\", or None for all")),
    "phase_scale": (optional(is_number(TINY)), "radians per stored unit, above 0, or None to find it"),
    "phase_sign": (is_one_of("auto", 1, -1), "auto, 1 or -1"),
    "phase_channel": (is_one_of("complement", "zero", "none"), "complement, zero or none"),
    "workers": (optional(_COUNT[0]), "a whole number, 1 or more, or None for as many as there is place for"),
    "worker_gb": (is_number(0.5), "a size in GB, 0.5 or more"),
    "subject_minutes": (is_number(TINY), "a time in minutes, above 0"),
    "compare_files": (is_one_of("time", "content"), "time or content"),
    "subset": (is_one_of("all", "train", "validation", "test"), "all, train, validation or test"),
    "dicom_output": (is_one_of("auto", True, False), "auto, True or False"),
    "output_layout": (is_one_of("default", "bids"), "default or bids"),
    "precision": (is_one_of("auto", "float32", "bfloat16"), "auto (inference alone), float32 or bfloat16"),
}  # fmt: skip
"""The check of each option's value, and what it expects in words."""
EVALUATED = ("candidate_threshold", "probability_threshold", "thresholds", "amp", "device", "output_dir")
"""Options that are checked even where the config computes them, since that costs nothing."""


def check_values(parser: ConfigParser) -> None:
    """
    Check the values of the options that a configuration has.

    Args:
        parser: the configuration, parsed.

    Raises:
        OptionError: a value is wrong.
    """
    config = parser.get()
    if "device" in config:
        check_device(_value(parser, "device"))
    for name in [key for key in config if key in VALUES or key in EVALUATED]:
        if name not in EVALUATED and is_computed(config[name]) and config[name] != NONE:
            continue
        value = _value(parser, name)
        if value is None and name in ("candidate_threshold", "probability_threshold") and "thresholds" in config:
            continue  # that of the operating point
        check, expected = VALUES.get(name, (lambda v: True, ""))
        if not check(value):
            raise OptionError(f"{name} is {value!r}; expected {expected}.")
    if "output_dir" in config:
        check_output_dir(_value(parser, "output_dir"))


def check_flags(**flags: object) -> None:
    """
    Refuse what is no truth value: ``false`` on the command line is a word, and any word counts as true.

    Raises:
        OptionError: one of them is neither True nor False.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise OptionError(
                f"{name} is {value!r}; expected a truth value, on the command line True or False with a capital letter."
            )


def check_device(device: torch.device | str) -> None:
    """
    Refuse a device that is not there.

    Raises:
        OptionError: it is no name of a device, or this computer has none such.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise OptionError(f"device is {device!r}; expected cpu, cuda, or cuda:0, cuda:1, ...") from error
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            there = f"CUDA has {count} devices here, counted from 0" if count else "there is no CUDA device here"
            raise OptionError(f"device is {str(found)!r}, but {there}. Choose another, or cpu, which always works.")
    elif found.type != "cpu":
        try:
            torch.ones(1, device=found).item()
        except Exception as error:
            raise OptionError(f"device is {str(found)!r}, which cannot be used here ({error}). Choose cpu.") from error


def check_output_dir(path: str | os.PathLike) -> None:
    """
    Refuse an output folder that cannot be written to; it is not made.

    Raises:
        OptionError: it is no path, it or a folder above it is a file, or it may not be written to.
    """
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise OptionError(f"output_dir is {path!r}; expected the path of a folder.")
    there = Path(path).absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise OptionError(f"output_dir is {path}, but {there} is a file; expected a folder. Give another output_dir.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(
            f"output_dir is {path}, but the folder {there} cannot be written to. Change its permissions, or give "
            "another output_dir."
        )


def _value(parser: ConfigParser, name: str) -> Any:
    try:
        return parser.get_parsed_content(name)
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, OptionError):
            raise
        raise OptionError(f"{name} is {parser[name]!r}, which gives no value: {cause}") from error


def is_computed(value: Any) -> bool:
    """Whether a config computes a value: an expression, a reference, or a component."""
    if isinstance(value, Mapping):
        return "_target_" in value
    if isinstance(value, list | tuple):
        return any(is_computed(item) for item in value)
    return isinstance(value, str) and value.startswith(("$", "@", "%"))
