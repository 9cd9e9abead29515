"""A physics simulator of susceptibility-weighted scans with microbleeds; it stands alone."""

from .cohort import default_cohort, make_cohort, write_subject
from .kinds import KINDS, draw_kind
from .sessions import Session, another_protocol, draw_sessions, simulate_sessions
from .simulate import Phantom, simulate
from .spec import HR, LR, PRESETS, SMALL, T2STAR, TINY, PhantomSpec
from .variety import Content, Processing

__all__ = [
    "HR",
    "KINDS",
    "LR",
    "PRESETS",
    "SMALL",
    "T2STAR",
    "TINY",
    "Content",
    "Phantom",
    "PhantomSpec",
    "Processing",
    "Session",
    "another_protocol",
    "default_cohort",
    "draw_kind",
    "draw_sessions",
    "make_cohort",
    "simulate",
    "simulate_sessions",
    "write_subject",
]
