"""Options that a person gives, checked with errors that say what is expected."""

from __future__ import annotations

import inspect
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from .errors import OptionError, enclosing_workflows, root_cause

SEPARATOR = ReferenceResolver.sep
NONE = "$None"
"""What to write on the command line for None, since MONAI passes over an option that is None itself."""
OF_MONAI = {
    "imports", "initialize", "run", "finalize", "bundle_root", "output_dir", "save_execute_config",
    *(key for settings in DEFAULT_EXP_MGMT_SETTINGS.values() for key in settings["configs"]),
}  # fmt: skip
"""Top-level keys that MONAI itself reads or adds."""


def check_options() -> None:
    """
    Refuse, before any work is done, options that do not exist or have a value that they cannot have.

    For the ``initialize`` list of a config: the options are those of the workflow that is being initialised. Values
    that a config computes are left to where they are used, but for those that cost nothing to compute.

    Raises:
        OptionError: an option, or the action to run, does not exist, or a value is wrong.
    """
    workflow = enclosing_workflow()
    if workflow.run_id != "run" and workflow.run_id not in workflow.parser:
        actions = [key for key, value in workflow.parser.get().items() if _is_part(value)]
        raise OptionError(_no_such("action", workflow.run_id, actions))
    refuse_unknown_options(workflow)
    refuse_lost_none(workflow)
    check_values(workflow.parser)


def enclosing_workflow() -> ConfigWorkflow:
    """
    The workflow whose configuration is being instantiated, found up the call stack.

    Raises:
        OptionError: there is none.
    """
    workflows = enclosing_workflows()
    if not workflows:
        raise OptionError("This is done by a bundle's configuration only: python -m monai.bundle run.")
    return workflows[0]


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


TINY = 1e-9
"""The smallest value of what must be above zero."""
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
        ("num_workers", "seed", "bootstrap", "gallery", "detector_patience", "classifier_patience"), _COUNT_OR_0),
    **dict.fromkeys(("merge_mm", "box_mm", "distance_mm", "strict_mm"), _MM),
    **dict.fromkeys(("join_mm", "duplicate_mm"), _MM_OR_0),
    **dict.fromkeys(("detector_learning_rate", "classifier_learning_rate"), _RATE),
    **dict.fromkeys(("candidate_threshold", "probability_threshold", "cache_rate"), _SHARE),
    **dict.fromkeys(
        ("accept_any", "debug", "resume", "cohort_files", "silent", "picture", "regions", "compare_with_baseline",
         "number_microbleeds",
         "detector_from_checkpoint", "classifier_from_checkpoint", "detector_schedule_by_epoch"), _FLAG),
    "patch_size": (
        lambda v: is_number(1, 512, whole=True)(v) or is_list(is_number(1, 512, whole=True), 3)(v),
        "a number of voxels, 1 to 512, or three of them",
    ),
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
        if name not in EVALUATED and _is_computed(config[name]) and config[name] != NONE:
            continue
        value = _value(parser, name)
        if value is None and name in ("candidate_threshold", "probability_threshold") and "thresholds" in config:
            continue  # that of the operating point
        check, expected = VALUES.get(name, (lambda v: True, ""))
        if not check(value):
            raise OptionError(f"{name} is {value!r}; expected {expected}.")
    if "output_dir" in config:
        check_output_dir(_value(parser, "output_dir"))


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


def refuse_unknown_options(workflow: ConfigWorkflow) -> None:
    """
    Refuse keys that mean nothing: MONAI adds whatever is given on the command line or in a file to the configuration.

    A top-level key is known if a main config has it (one with ``initialize``) that the run is made of, if another
    part of the configuration refers to it, or if MONAI reads it. In a file, it may also be a component, a list of
    actions, or an option of another config of the bundle, since one overlay serves training and inference.
    Components are known by their signatures.

    Args:
        workflow: the configuration, parsed, and the names of its actions.

    Raises:
        OptionError: a key is not known.
    """
    config = workflow.parser.get()
    shipped = _shipped_configs(workflow)
    main = {key for one in shipped if "initialize" in one and one.keys() <= config.keys() for key in one}
    known = main | OF_MONAI | {workflow.init_id, workflow.run_id, workflow.final_id}
    known |= {key for key in config if key.startswith("_")} | _referenced(config)
    files, given = _command_line()
    given += _lost_none()
    # what is given to a cross-validation applies to the evaluation of its folds too
    evaluation = [workflow.config_root_path / name for name in config.get("evaluation_configs") or ()]
    files = [*files, *(ConfigParser.load_config_file(str(path)) for path in evaluation if path.is_file())]
    in_files = known | {_first(key) for file in files for key in file}
    elsewhere = {_first(key) for one in shipped for key in one}
    for key, value in config.items():
        if key in (in_files if key in given else known):
            continue
        if key not in given and (_is_part(value) or key in elsewhere):
            continue
        raise OptionError(_no_such("option", key, sorted(in_files)))
    for key in {_first(key) for key in _lost_none()} - in_files:
        raise OptionError(_no_such("option", key, sorted(in_files)))
    before = ConfigParser.load_config_files([str(path) for path in _command_line_files()]) if given else {}
    for key in given:
        _check_nested(ConfigParser(before), key)
    for id, part in _components(config):
        names = _argument_names(workflow.parser.locator, part)
        for name in part:
            if names is not None and not name.startswith("_") and name not in names:
                raise OptionError(_no_such("option", f"{id}#{name}", [f"{id}#{one}" for one in names]))


def refuse_lost_none(workflow: ConfigWorkflow) -> None:
    """
    Refuse an option given as None where the config has another value: MONAI leaves it out, and the value would stay.

    Args:
        workflow: the configuration, parsed, as the command line left it.

    Raises:
        OptionError: an option was given as None and is not None.
    """
    for key in _lost_none():
        name = key.lstrip("+").replace(SEPARATOR, "#")
        kept = workflow.parser.get(name)
        if kept is None and name in workflow.parser:
            continue
        check, expected = VALUES.get(name, (lambda v: True, ""))
        if not check(None):
            raise OptionError(f"{name} is None; expected {expected}.")
        stays = "as it is" if kept is None else repr(kept)
        raise OptionError(
            f"{name} was given as None, which MONAI passes over: it would stay {stays}. Leave it out to keep that, or "
            f"write --{name} '{NONE}', with the quotes, or null in a config file, for None."
        )


def _no_such(what: str, key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, 1, cutoff=0.75)
    return f"no such {what}: {key}" + (f"; did you mean {close[0]}?" if close else ".")


def _check_nested(before: ConfigParser, key: str) -> None:
    """Refuse a key of the command line within a plain part of the files, such as a section, that has no such key."""
    path, _, name = key.replace(SEPARATOR, "#").rpartition("#")
    section = before.get(path) if path else None
    if isinstance(section, dict) and "_target_" not in section and name not in section:
        raise OptionError(_no_such("option", key, [f"{path}#{one}" for one in section]))


def _shipped_configs(workflow: ConfigWorkflow) -> list[dict[str, Any]]:
    """The configs of the bundle, and those beside the first file of the run."""
    folders = {Path(workflow.parser.get_parsed_content("bundle_root")) / "configs", workflow.config_root_path}
    configs = []
    for path in sorted({path.resolve() for folder in folders for path in folder.glob("*.json")}):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # whatever else lies beside a config is none of our business
            continue
        if isinstance(content, dict) and "network_data_format" not in content:
            configs.append(content)
    return configs


def _run_arguments() -> dict[str, Any]:
    """The arguments of ``monai.bundle.create_workflow``, through which the command line goes; {} without it."""
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code.co_name == "create_workflow" and "_args" in frame.f_locals:
            return frame.f_locals["_args"] | {"config_file": frame.f_locals.get("config_file")}
    return {}


def _command_line_files() -> list[Path]:
    files = _run_arguments().get("config_file") or []
    return [Path(files)] if isinstance(files, str) else [Path(file) for file in files]


def _command_line() -> tuple[list[dict[str, Any]], list[str]]:
    """The files of a run that the command line started, and the keys that it overrides."""
    parameters = inspect.signature(ConfigWorkflow.__init__).parameters
    given = [key for key in _run_arguments() if key not in parameters]
    return [ConfigParser.load_config_file(str(path)) for path in _command_line_files()], given


def _lost_none() -> list[str]:
    """The keys that the command line, or a call of ``monai.bundle.run``, gives as None; MONAI drops them."""
    parameters = inspect.signature(ConfigWorkflow.__init__).parameters
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code.co_name == "create_workflow" and "kwargs" in frame.f_locals:
            return [key for key, value in frame.f_locals["kwargs"].items() if value is None and key not in parameters]
    return []


def _first(key: str) -> str:
    return key.lstrip("+").replace(SEPARATOR, "#").split("#")[0]


def _referenced(config: Mapping[str, Any]) -> set[str]:
    """Top-level keys that another part of the configuration refers to."""
    found: set[str] = set()
    for key, value in config.items():
        found |= {_first(id) for id in ReferenceResolver.find_refs_in_config(value, key)} - {key}
    return found


def _is_computed(value: Any) -> bool:
    """Whether a config computes a value: an expression, a reference, or a component."""
    if isinstance(value, Mapping):
        return "_target_" in value
    if isinstance(value, list | tuple):
        return any(_is_computed(item) for item in value)
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _is_part(value: Any) -> bool:
    """Whether a value can be run by itself: a component, a list of actions, or a section that holds components."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(_is_part(one) for one in value.values() if isinstance(one, Mapping))
    return isinstance(value, list) and any(_is_computed(item) for item in value)


def _value(parser: ConfigParser, name: str) -> Any:
    try:
        return parser.get_parsed_content(name)
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, OptionError):
            raise
        raise OptionError(f"{name} is {parser[name]!r}, which gives no value: {cause}") from error


def _components(config: Any, id: str = "") -> Iterator[tuple[str, dict]]:
    """Every component of a configuration, with its id."""
    if isinstance(config, dict) and isinstance(config.get("_target_"), str):
        yield id, config
    for key, part in (
        config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    ):
        yield from _components(part, f"{id}#{key}" if id else str(key))


def _argument_names(locator: ComponentLocator, part: dict) -> set[str] | None:
    """The arguments that a component takes; None where that is not known, or where it takes any."""
    try:
        name = ConfigComponent(config=part, id="", locator=locator).resolve_module_name()
        parameters = inspect.signature(locate(name) if isinstance(name, str) else name).parameters
    except Exception:  # it is not installed or not there: what is instantiated says so, and only if it is
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return set(parameters)


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


class Thresholds:
    """
    The thresholds of both stages: those of an operating point, or others given in their place.

    Args:
        operating_points: ``candidate_threshold`` and ``probability_threshold`` of each, by its name.
        operating_point: the name of one.
        candidate_threshold: smallest score of stage 1 that makes a candidate, in [0, 1]; None is that of the point.
        probability_threshold: smallest probability of stage 2 that makes a microbleed, likewise.

    Attributes:
        candidate: the candidate threshold.
        probability: the probability threshold.

    Raises:
        OptionError: there is no such operating point, or a threshold is no number from 0 to 1.

    Example:
        >>> points = {"balanced": {"candidate_threshold": 0.3, "probability_threshold": 0.4}}
        >>> thresholds = Thresholds(points, "balanced", probability_threshold=0.5)
        >>> thresholds.candidate, thresholds.probability
        (0.3, 0.5)
    """

    def __init__(
        self,
        operating_points: Mapping[str, Mapping[str, float]],
        operating_point: str,
        candidate_threshold: float | None = None,
        probability_threshold: float | None = None,
    ) -> None:
        if operating_point not in operating_points:
            raise OptionError(f"operating_point is {operating_point!r}; expected one of {', '.join(operating_points)}.")
        self.operating_points = operating_points
        self.operating_point = operating_point
        self.candidate = self._chosen("candidate_threshold", candidate_threshold)
        self.probability = self._chosen("probability_threshold", probability_threshold)

    def _chosen(self, name: str, given: float | None) -> float:
        value = self.operating_points[self.operating_point][name] if given is None else given
        check, expected = VALUES[name]
        if not check(value):
            raise OptionError(f"{name} is {value!r}; expected {expected}.")
        return value

    @property
    def point_names(self) -> list[str]:
        """The names of the operating points, the configured one first, as a server's client shows a choice."""
        return sorted(self.operating_points, key=lambda name: name != self.operating_point)

    def of_request(self, request: Mapping[str, Any]) -> Thresholds:
        """
        The thresholds that a server's request means, which holds all options, those left alone among them.

        Args:
            request: ``operating_point``, where a list means its first, ``candidate_threshold`` and
                ``probability_threshold``.

        Returns:
            for each stage the threshold of the request, where it differs from this one or the operating point is the
            same; else that of the request's operating point.

        Raises:
            OptionError: as of the class.
        """
        point = request["operating_point"]
        point = point if isinstance(point, str) else point[0]
        given = {
            "candidate_threshold": (float(request["candidate_threshold"]), self.candidate),
            "probability_threshold": (float(request["probability_threshold"]), self.probability),
        }
        same_point = point == self.operating_point
        changed = {name: asked for name, (asked, mine) in given.items() if same_point or asked != mine}
        return Thresholds(self.operating_points, point, **changed)
