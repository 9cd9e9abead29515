"""The check of all options of a run, for the ``initialize`` list of a config."""

from __future__ import annotations

from monai.bundle import ConfigWorkflow

from ..errors import OptionError, enclosing_workflows
from .names import is_part, no_such, refuse_lost_none, refuse_unknown_options
from .values import check_values


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
        actions = [key for key, value in workflow.parser.get().items() if is_part(value)]
        raise OptionError(no_such("action", workflow.run_id, actions))
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
