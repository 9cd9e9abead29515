"""Read ground truth files, which say more about microbleeds and mimics than their locations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from ..errors import LabelError
from .matching import match
from .records import Lesion, Mimic


@dataclass(frozen=True)
class Truth:
    """
    Content of a ground truth file.

    Args:
        microbleeds: with region and diameter if the file has them.
        mimics: microbleed mimics; None if the file has no list of them.
        simulated: whether the file says how the scan was simulated.
        implanted: whether the program put the microbleeds into the scan.
    """

    microbleeds: list[Lesion]
    mimics: list[Mimic] | None
    simulated: bool
    implanted: bool = False


def read_truth(path: str | PathLike) -> Truth:
    """
    Read a ground truth file: JSON with the lists ``microbleeds`` and ``mimics``.

    Each entry has ``ras_mm``, three numbers in mm, and may have ``diameter_mm`` and ``region`` (such as lobar, deep,
    infratentorial); a mimic has a ``kind``. Other keys are ignored; ``spec`` marks a simulation, and
    ``implanted`` a scan into which :mod:`~..implant` put microbleeds.

    Raises:
        LabelError: the file cannot be read or has other content.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        microbleeds = [
            Lesion(_place(m), _number(m.get("diameter_mm")), _text(m.get("region")))
            for m in content.get("microbleeds", [])
        ]
        mimics = content.get("mimics")
        if mimics is not None:
            mimics = [Mimic(_place(m), str(m["kind"]), _number(m.get("diameter_mm"))) for m in mimics]
        return Truth(microbleeds, mimics, "spec" in content, "implanted" in content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelError(
            f"{path}: cannot be read as a truth file ({type(error).__name__}: {error}). Expected JSON with the lists "
            '"microbleeds" and "mimics" of objects with "ras_mm", three numbers; a mimic with "kind".'
        ) from error


def complete(lesions: Sequence[Lesion], truth: Truth, distance_mm: float = 3.0) -> list[Lesion]:
    """
    Complete labelled lesions with the regions and missing diameters from a ground truth file.

    Args:
        lesions: lesions of the label; their locations are kept.
        truth: ground truth of the same subject.
        distance_mm: a lesion farther than this from all microbleeds of the file is left unchanged. A label rounded to
            whole voxels is off by up to half a voxel diagonal.
    """
    own, known = ([one.ras_mm for one in group] for group in (lesions, truth.microbleeds))
    pairs = match(np.array(own), np.ones(len(own)), np.array(known), distance_mm).lesion_of_detection
    result = []
    for lesion, number in zip(lesions, pairs, strict=True):
        if number >= 0:
            found = truth.microbleeds[number]
            size = found.diameter_mm if lesion.diameter_mm is None else lesion.diameter_mm
            lesion = replace(lesion, diameter_mm=size, region=lesion.region or found.region)
        result.append(lesion)
    return result


def _place(entry: dict) -> tuple[float, float, float]:
    r, a, s = (float(x) for x in entry["ras_mm"])
    return r, a, s


def _number(value: object) -> float | None:
    return None if value is None else float(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
