"""Which options there are: MONAI takes any key, and passes over None, without a word."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from ..errors import OptionError
from .values import NONE, VALUES, is_computed

SEPARATOR = ReferenceResolver.sep
OF_MONAI = {
    "imports", "initialize", "run", "finalize", "bundle_root", "output_dir", "save_execute_config",
    *(key for settings in DEFAULT_EXP_MGMT_SETTINGS.values() for key in settings["configs"]),
}  # fmt: skip
"""Top-level keys that MONAI itself reads or adds."""


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
        if key not in given and (is_part(value) or key in elsewhere):
            continue
        raise OptionError(no_such("option", key, sorted(in_files)))
    for key in {_first(key) for key in _lost_none()} - in_files:
        raise OptionError(no_such("option", key, sorted(in_files)))
    before = ConfigParser.load_config_files([str(path) for path in _command_line_files()]) if given else {}
    for key in given:
        _check_nested(ConfigParser(before), key)
    for id, part in _components(config):
        names = _argument_names(workflow.parser.locator, part)
        for name in part:
            if names is not None and not name.startswith("_") and name not in names:
                raise OptionError(no_such("option", f"{id}#{name}", [f"{id}#{one}" for one in names]))


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


def no_such(what: str, key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, 1, cutoff=0.75)
    return f"no such {what}: {key}" + (f"; did you mean {close[0]}?" if close else ".")


def _check_nested(before: ConfigParser, key: str) -> None:
    """Refuse a key of the command line within a plain part of the files, such as a section, that has no such key."""
    path, _, name = key.replace(SEPARATOR, "#").rpartition("#")
    section = before.get(path) if path else None
    if isinstance(section, dict) and "_target_" not in section and name not in section:
        raise OptionError(no_such("option", key, [f"{path}#{one}" for one in section]))


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


def is_part(value: Any) -> bool:
    """Whether a value can be run by itself: a component, a list of actions, or a section that holds components."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(is_part(one) for one in value.values() if isinstance(one, Mapping))
    return isinstance(value, list) and any(is_computed(item) for item in value)


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
