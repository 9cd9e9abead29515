"""Options that a person gives, checked with errors that say what is expected."""

from .check import check_options, enclosing_workflow
from .names import OF_MONAI
from .thresholds import Thresholds
from .values import TINY, check_flags, is_number, is_one_of

__all__ = [
    "OF_MONAI",
    "TINY",
    "Thresholds",
    "check_flags",
    "check_options",
    "enclosing_workflow",
    "is_number",
    "is_one_of",
]
