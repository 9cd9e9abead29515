"""The fast part: some broken inputs of each kind, and that the judge of them notices what is wrong."""

import dataclasses

import pytest

from . import scans
from .__main__ import table_of
from .judge import Outcome, in_process_of_its_own, judge, problem_of_line
from .parts import PARTS
