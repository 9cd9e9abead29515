"""A physics simulator of susceptibility-weighted scans with microbleeds; it stands alone."""

from .cohort import default_cohort, make_cohort, write_subject
from .simulate import Phantom, simulate
from .spec import HR, LR, PRESETS, SMALL, TINY, PhantomSpec

__all__ = [
    "HR",
    "LR",
    "PRESETS",
    "SMALL",
    "TINY",
    "Phantom",
    "PhantomSpec",
    "default_cohort",
    "make_cohort",
    "simulate",
    "write_subject",
]
