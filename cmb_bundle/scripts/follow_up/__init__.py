"""The scans of a patient over time: registration, matching, what is new, and what cannot be told."""

from .comparison import Comparison
from .joint import joint_probability
from .lesions import Lesion, band, counts, judge
from .matching import Sighting, Track, pair, track
from .patients import Session, Visits, patients_of, session_of
from .protocol import Coverage, Protocol, less_sensitive, would_show
from .registration import HeadScan, Registration, register_rigidly
from .results import lesions_table
from .run import FollowUp
from .timeline import draw_timeline

__all__ = [
    "Comparison",
    "Coverage",
    "FollowUp",
    "HeadScan",
    "Lesion",
    "Protocol",
    "Registration",
    "Session",
    "Sighting",
    "Track",
    "Visits",
    "band",
    "counts",
    "draw_timeline",
    "joint_probability",
    "judge",
    "lesions_table",
    "less_sensitive",
    "pair",
    "patients_of",
    "register_rigidly",
    "session_of",
    "track",
    "would_show",
]
