"""The record of one candidate, from the merging of boxes to the CSV, the JSON and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np


@dataclass
class Crop:
    """
    A small picture around a location.

    Args:
        channels: (2, height, width) uint8, SWI and complement phase, of the model's grid and of the slice nearest to
            the location, in radiological view: the patient's right is on the left, anterior is up, the location is in
            the middle. Square pixels.
        size_mm: width and height.
    """

    channels: np.ndarray
    size_mm: float


@dataclass
class Candidate:
    """
    A candidate of stage 1, to which each later step adds what it found out; None where it has not been there.

    Args:
        ras_mm: its centre, in RAS mm; from the findings on.
        detector_score: the score of stage 1; higher is more like a microbleed. Any scale.
        probability: of a microbleed, by both stages; None where it was not classified.
        accepted: whether the system reports it as a microbleed; from the findings on.
        diameter_mm: mean in-plane extent of its boxes in mm; of a microbleed, from the findings on, the diameter of a
            sphere of its volume. None where unknown.
        reason: why it was dropped, or "accepted", for the reader; from the findings on.
        crop: a picture of it, for the gallery of false positives of a report.
        n_slices: number of slices with one of its boxes.
        voxel: its centre, continuous 0-based voxel index on the input's own grid; from the findings on.
        model_voxel: its centre, continuous 0-based voxel index on the model's grid; up to the findings.
        classifier_probability: that of stage 2 alone; None where it was not classified.
    """

    ras_mm: tuple[float, float, float] | None
    detector_score: float
    probability: float | None = None
    accepted: bool = False
    diameter_mm: float | None = None
    reason: str | None = None
    crop: Crop | None = None
    n_slices: int | None = None
    voxel: tuple[float, float, float] | None = None
    model_voxel: tuple[float, float, float] | None = None
    classifier_probability: float | None = None

    def finding(self) -> dict:
        """Return what a microbleed says in the JSON and the CSV: where it is, how large, and its scores."""
        return {
            "voxel": list(self.voxel),
            "ras_mm": list(self.ras_mm),
            "diameter_mm": self.diameter_mm,
            "detector_score": self.detector_score,
            "classifier_probability": self.classifier_probability,
            "probability": self.probability,
            "n_slices": self.n_slices,
        }

    def judged(self) -> dict:
        """Return what a candidate says in the JSON: that of a finding, and whether and why it was accepted."""
        return {**self.finding(), "accepted": self.accepted, "reason": self.reason}

    @classmethod
    def from_json(cls, entry: Mapping) -> Candidate:
        """Make a record of an entry of the JSON; entries of other names are left out."""
        known = {f.name: entry[f.name] for f in fields(cls) if f.name in entry}
        for name in ("ras_mm", "voxel", "model_voxel"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        return cls(**known)
