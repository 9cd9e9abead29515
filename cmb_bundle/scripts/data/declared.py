"""What a header says that a scan is, where that is no susceptibility-weighted scan of a head."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from ..files import IMAGE_SUFFIXES, read_json

SHORTEST_ECHO_MS = 6.0
"""At an echo time below this a gradient echo has no T2* weighting at any field."""

OTHER_BODY = {
    "ABDOMEN", "PELVIS", "LIVER", "KIDNEY", "CHEST", "THORAX", "HEART", "BREAST", "SPINE", "CSPINE", "TSPINE", "LSPINE",
    "CERVICALSPINE", "THORACICSPINE", "LUMBARSPINE", "KNEE", "HIP", "SHOULDER", "ELBOW", "WRIST", "HAND", "ANKLE",
    "FOOT", "LEG", "ARM", "PROSTATE", "UTERUS", "PHANTOM",
}  # fmt: skip
"""Values of BodyPartExamined, without spaces; what is not among them may be a head."""

SUSCEPTIBILITY = re.compile(r"\b(swip?|swan2?|e?swan|veno ?bold|fsbb|t2 ?star\w*|t2s|susceptibility)\b|t2\*")
OTHER_SEQUENCE = {
    "a field map": re.compile(r"\b(field ?map(ping)?|b0 ?map(ping)?)\b"),
    "T1-weighted": re.compile(r"\b(t1w?|mp2?rage|bravo|fspgr|vibe)\b"),
    "of fluid inversion": re.compile(r"\bflair\b"),
    "an angiogram": re.compile(r"\b(tof|angio\w*|mra)\b"),
    "diffusion-weighted": re.compile(r"\b(dwi|dti|adc|diff\w*)\b"),
    "a series over time": re.compile(r"\b(bold|fmri|asl|perfusion)\b"),
    "a localizer": re.compile(r"\b(localizer|scout)\b"),
    "of a phantom": re.compile(r"\b(phantom|bottle)\b"),
}
"""Words of SeriesDescription and ProtocolName, in lower case with spaces for other signs."""

PROJECTION = re.compile(r"\b(min ?ip|mnip|mip)(s|\d+(mm)?)?\b|\bmin\w* intensity\b")
"""A minimum intensity projection, by SeriesDescription or a value of ImageType, written like that. A protocol's name is
that of all its series, the scan itself among them."""


def read_declared(image: str | PathLike) -> dict:
    """
    Read the JSON file beside an image, as dcm2niix and BIDS write it; an empty dictionary where there is none.

    Args:
        image: such as ``sub-01_swi.nii.gz``, whose file is ``sub-01_swi.json``.
    """
    path = Path(image)
    stem = next((path.name[: -len(s)] for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), "")
    try:
        content = read_json(path.parent / f"{stem}.json")
    except (OSError, ValueError, RecursionError):
        return {}
    return content if stem and isinstance(content, dict) else {}


def problem_of_header(declared: Mapping, echo_ms: float | None = None) -> str:
    """
    Say why a header is of no susceptibility-weighted scan of a head, in a sentence; empty where it may be.

    Args:
        declared: ``Modality``, ``BodyPartExamined``, ``ImageType``, ``ScanningSequence``, ``InversionTime``,
            ``SeriesDescription`` and ``ProtocolName`` as in DICOM, as far as they are known.
        echo_ms: echo time, if known.

    Example:
        >>> problem_of_header({"SeriesDescription": "t1_mprage_sag"}, 2.9)
        "Its header says 't1_mprage_sag', which is T1-weighted."
        >>> problem_of_header({"Modality": "MR", "ScanningSequence": "GR", "ProtocolName": "SWI_t1_like"}, 20.0)
        ''
        >>> problem_of_header({}, 4.6)
        'Its echo time is 4.6 ms, at which a gradient echo shows no microbleed.'
    """
    modality = str(declared.get("Modality") or "MR").strip().upper()
    if modality != "MR":
        return f"Its header says that it is of the modality {modality}."
    body = re.sub(r"[^A-Z]", "", str(declared.get("BodyPartExamined") or "").upper())
    if body in OTHER_BODY:
        return f"Its header says that it is of the {body}."
    names = [str(declared.get(key) or "") for key in ("SeriesDescription", "ProtocolName")]
    words = [_words(name) for name in names]
    kinds = declared.get("ImageType")
    for name in (names[0], *(kinds if isinstance(kinds, list) else ())):
        if PROJECTION.search(_words(str(name))):
            return (
                f"Its header says {str(name)!r}, which is a minimum intensity projection: each slice shows the "
                "microbleeds and the veins of several."
            )
    if any(SUSCEPTIBILITY.search(text) for text in words):
        return ""
    for name, text in zip(names, words, strict=True):
        for what, pattern in OTHER_SEQUENCE.items():
            if pattern.search(text):
                return f"Its header says {name!r}, which is {what}."
    sequence = declared.get("ScanningSequence")
    parts = {str(part).upper() for part in sequence} if isinstance(sequence, list) else set()
    parts |= set(re.split(r"[^A-Z]+", str(sequence or "").upper())) if not isinstance(sequence, list) else set()
    if "SE" in parts:
        return "Its header says that it is a spin echo, which shows no microbleed."
    inversion = declared.get("InversionTime")
    inverted = isinstance(inversion, (int, float)) and not isinstance(inversion, bool) and inversion > 0
    if "IR" in parts or inverted:
        return "Its header says that it is inversion-prepared, as T1-weighted scans are."
    if echo_ms is not None and math.isfinite(echo_ms) and echo_ms < SHORTEST_ECHO_MS:
        return f"Its echo time is {echo_ms:g} ms, at which a gradient echo shows no microbleed."
    return ""


def _words(text: str) -> str:
    """In lower case, with a space for each sign that is not a letter, a digit or a star."""
    return re.sub(r"[^a-z0-9*]+", " ", text.lower())
