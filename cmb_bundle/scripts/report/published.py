"""Published results, each on its own patients: comparable in order of magnitude, not for ranking."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """
    A published result.

    Args:
        system: method.
        data: data that it was evaluated on.
        stage: "stage 1", "stage 2 given stage 1" or "end to end"; defined as in our tables.
        sensitivity: fraction, None if not published.
        precision: fraction, None if not published.
        false_positives_per_subject: None if not published.
        f1: None if not published.
        note: how to read the numbers.
    """

    system: str
    data: str
    stage: str
    sensitivity: float | None = None
    precision: float | None = None
    false_positives_per_subject: float | None = None
    f1: float | None = None
    note: str = ""


_TWO_STAGES = "Al-masni et al. 2020, YOLOv2 + 3D CNN"
_HIGH = "72 patients, 188 CMBs, 0.50 x 0.50 mm in plane"
_LOW = "107 patients, 572 CMBs, 0.80 x 0.80 mm in plane"
_COUNTS = "computed from its counts"
_RECALLED = "not re-read in the paper; fits whole counts"

PUBLISHED = (
    Published(_TWO_STAGES, _HIGH, "stage 1", 0.9362, None, 52.18),
    Published(_TWO_STAGES, _HIGH, "stage 2 given stage 1", 0.9432, 0.6194, 1.42, note=_RECALLED),
    Published(_TWO_STAGES, _HIGH, "end to end", 0.883, None, 1.42, note=_COUNTS),
    Published(_TWO_STAGES, _LOW, "stage 1", 0.7885, None, 155.50),
    Published(_TWO_STAGES, _LOW, "stage 2 given stage 1", 0.9180, 0.6721, 1.89, note=_RECALLED),
    Published(_TWO_STAGES, _LOW, "end to end", 0.724, None, 1.89, note=_COUNTS),
    Published("3D FRST + ResNet", "its own patients", "end to end", 0.958, None, 1.6),
    Published("U-Net + RPN on SWI and phase", "its own patients", "end to end", 0.947, None, 0.86),
    Published("CMB-HUNT", "its own patients", "end to end", 0.90, None, 0.54),
    Published("microbleednet", "its own patients", "end to end", 0.90, note="about 0.90, fewer than 2 FPavg"),
    Published("SHIVA-CMB", "its own patients", "end to end", 0.67, None, 0.6),
    Published("VALDO 2021, winner", "patients of the challenge", "end to end", f1=0.684, note="by its rules"),
)
"""Those of Al-masni et al. are from five-fold cross-validation; FPavg is false positives over all subjects."""
