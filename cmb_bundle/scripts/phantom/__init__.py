"""A physics simulator of susceptibility-weighted scans with microbleeds; it stands alone."""

from .cohort import default_cohort, make_cohort, write_subject
from .simulate import Phantom, simulate
from .spec import HR, LR, PRESETS, SMALL, T2STAR, TINY, PhantomSpec
from .variety import Content, Processing

__all__ = [
    "HR",
    "LR",
    "PRESETS",
    "SMALL",
    "T2STAR",
    "TINY",
    "Content",
    "Phantom",
    "PhantomSpec",
    "Processing",
    "default_cohort",
    "make_cohort",
    "simulate",
    "write_subject",
]
