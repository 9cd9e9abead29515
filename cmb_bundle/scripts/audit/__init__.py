"""Find the counting convention of a data set's labels, and labels that lie on nothing."""

from .audit import Scan, audit_labels, look, measure, options
from .picture import draw_audit
from .verdict import Darkness, Verdict, darkness, judge

__all__ = [
    "Darkness",
    "Scan",
    "Verdict",
    "audit_labels",
    "darkness",
    "draw_audit",
    "judge",
    "look",
    "measure",
    "options",
]
