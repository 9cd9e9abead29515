"""Recognise from a DICOM header what an image shows: SWI, phase, magnitude or something else; and a phase's unit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

MR_CLASSES = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
"""SOP classes MR, Enhanced MR and Legacy Converted Enhanced MR Image Storage (DICOM PS3.4 B.5)."""

COMPONENTS = {
    "MAGNITUDE": "magnitude", "M": "magnitude", "M_FFE": "magnitude", "M_PCA": "magnitude",
    "PHASE": "phase", "P": "phase", "PHASE MAP": "phase", "PHASE_MAP": "phase",
    "SW_P_FFE": "phase", "SW_P": "phase",
    "REAL": "real", "R": "real", "IMAGINARY": "imaginary", "I": "imaginary",
}  # fmt: skip
"""Values of ImageType and of ComplexImageComponent that name a part of the complex image. Siemens writes M and P,
Philips M_FFE and PHASE MAP, of SWIp SW_P_FFE, the enhanced classes MAGNITUDE and PHASE (DICOM PS3.3 C.8.13.3.1)."""

SWI_TYPES = ("SWI", "SW_M_FFE", "SW_M")
"""Values of ImageType of an SWI: Siemens', and Philips' of SWIp, whose phase is SW_P_FFE in the same series."""

GE_COMPONENTS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}
"""GE's private (0043,xx2F) of the creator GEMS_PARM_01."""

T2STAR_ECHO_MS = 12.0
"""Shortest echo time of a T2*-weighted gradient echo: those of T1-weighted ones, angiograms and field maps are below 10
ms at 1.5 and 3 T."""

USUAL_ECHO_MS = (20.0, 25.0)
"""Of several echoes of a T2*-weighted scan, the one nearest to this range is read: what such scans are made with."""

# patterns for a description in lower case, in which everything except letters and digits has become a space
PROJECTION = re.compile(
    r"\b((mip|mnip|minip|min ip|max ip|mpr)(\d+(mm)?)?|minimum intensity|projection( image)?|reformatted)\b"
)
PROJECTED = ("MIN_IP", "MAX_IP", "MPR", "CURVED_MPR", "VOLUME_RENDER", "SURFACE_RENDER")
DERIVED_MAP = re.compile(r"\b(qsm|r2star|r2 map|t2star map|susceptibility map)\b")
PHASE = re.compile(r"\b(pha|phase|ph)\b")
SURELY_PHASE = re.compile(r"\bfilt pha\b|^pha images\b")
MAGNITUDE = re.compile(r"\b(mag|magnitude)\b")
SWI = re.compile(r"\b((ax|tra|t2)?[23]?d?swi(p|[23]d)?|e?swan2?|veno? ?bold|fsbb|susceptibility weighted)\b")
HITACHI_SWI = re.compile(r"\bbsi\b")
"""Hitachi's, now Fujifilm's, Blood Sensitive Imaging; of other makers the three letters can mean anything."""
SURELY_SWI = re.compile(r"^swi images\b|^swip?$")


@dataclass(frozen=True)
class Header:
    """The attributes of an image's or a frame's header that are used; texts are empty where an attribute is absent."""

    sop_class: str = ""
    manufacturer: str = ""
    description: str = ""
    image_type: tuple[str, ...] = ()
    component: str = ""
    calculation: str = ""
    ge_component: int | None = None
    gradient_echo: bool = False
    echo_ms: float | None = None


@dataclass(frozen=True)
class Kind:
    """
    What an image shows.

    Attributes:
        name: swi, phase, magnitude or other.
        why: the attribute or the reason that decided it.
        sure: False when the evidence is weak.
    """

    name: str
    why: str
    sure: bool = True


def kind_of(header: Header) -> Kind:
    """
    Decide what an image shows.

    Projections, localizers, real and imaginary parts and susceptibility maps are ``other``. An attribute that names
    the part of the complex image takes precedence over the words of the description, except for a few descriptions
    that scanners assign automatically. ``docs/reference/dicom.md`` has the rules as a table.
    """
    words = re.sub(r"[^a-z0-9]+", " ", header.description.lower()).strip()
    values = [value.strip().upper() for value in header.image_type]
    plain = [re.sub(r"[^a-z0-9]+", " ", value.lower()) for value in values]
    if header.sop_class not in MR_CLASSES:
        return Kind("other", "not an MR image")
    if header.calculation in PROJECTED or PROJECTION.search(words) or any(PROJECTION.fullmatch(v) for v in plain):
        return Kind("other", "a projection or reformatted")
    if "LOCALIZER" in values:
        return Kind("other", "a localizer")
    part, source = _component(header, values)
    if part is None and (DERIVED_MAP.search(words) or "QSM" in values):
        return Kind("other", "a computed map")
    if part == "phase" or SURELY_PHASE.search(words):
        return Kind("phase", source if part == "phase" else "SeriesDescription")
    if part in ("real", "imaginary"):
        return Kind("other", f"a {part} part")
    for value in values:
        # Philips' magnitude is an M_FFE: an SW_M is the SWI whatever the description says
        if value in SWI_TYPES and (value != "SWI" or not MAGNITUDE.search(words)):
            return Kind("swi", f"ImageType {value}")
    if part is None and PHASE.search(words):
        return Kind("phase", "SeriesDescription")
    hitachi = re.search("hitachi|fujifilm", header.manufacturer.lower()) and HITACHI_SWI.search(words)
    if (SWI.search(words) or hitachi) and not MAGNITUDE.search(words):
        sure = bool(SURELY_SWI.search(words)) or part is None or "DERIVED" in values
        return Kind("swi", "SeriesDescription", sure)
    if part == "magnitude" or MAGNITUDE.search(words):
        return Kind("magnitude", source or "SeriesDescription")
    if part is None and header.gradient_echo and (header.echo_ms or 0) >= T2STAR_ECHO_MS and "DERIVED" not in values:
        return Kind("magnitude", "a gradient echo with a long echo time", sure=False)
    return Kind("other", "no hint of SWI, phase or magnitude")


def _component(header: Header, values: Sequence[str]) -> tuple[str | None, str]:
    """The part of the complex image, and the attribute that names it."""
    if header.component in COMPONENTS:
        return COMPONENTS[header.component], f"ComplexImageComponent {header.component}"
    # values 1 and 2 are ORIGINAL or DERIVED and PRIMARY or SECONDARY; of Philips' M\FFE, P\FFE the first counts
    for value in values[2:]:
        if value in COMPONENTS:
            return COMPONENTS[value], f"ImageType {value}"
    if header.ge_component in GE_COMPONENTS:
        return GE_COMPONENTS[header.ge_component], f"GE's (0043,102F) = {header.ge_component}"
    return None, ""


def nearest_echo(echoes_ms: Sequence[float]) -> int:
    """
    Which of several echoes of a T2*-weighted scan to read: the nearest to ``USUAL_ECHO_MS``, of two the longer.

    Example:
        >>> nearest_echo([5.0, 12.0, 19.0, 40.0])
        2
    """
    low, high = USUAL_ECHO_MS
    off = [max(low - echo, echo - high, 0) for echo in echoes_ms]
    return min(range(len(off)), key=lambda n: (off[n], -echoes_ms[n]))


def phase_unit(
    manufacturer: str, bits: int, signed: bool, slope: float, intercept: float, unit: str = ""
) -> tuple[float, float] | None:
    """
    Determine the scale of a phase image from its header alone.

    In order of reliability: a unit stated in the header; the range that the stored type and the rescaling span, if
    it is a full circle in radians, in milliradians or in Siemens' +-4096; Siemens' 0..4095 without rescaling;
    GE's milliradians.

    Args:
        manufacturer: Manufacturer.
        bits: BitsStored.
        signed: PixelRepresentation.
        slope: RescaleSlope, 1 where absent.
        intercept: RescaleIntercept, 0 where absent.
        unit: RescaleType, or the code of the unit of the real world values.

    Returns:
        radians per unit of the rescaled value, and the rescaled value of phase 0; None if the header does not say.
    """
    if unit.lower() in ("rad", "mrad"):
        return (1.0 if unit.lower() == "rad" else 1e-3), 0.0
    span = (2**bits - 1) * abs(slope)
    for circle, scale in ((2 * math.pi, 1.0), (2000 * math.pi, 1e-3), (8192.0, math.pi / 4096)):
        if abs(span / circle - 1) < 0.01 and abs(_middle(bits, signed, slope, intercept)) < 0.01 * circle:
            return scale, 0.0
    if "siemens" in manufacturer.lower() and bits == 12 and not signed:
        return math.pi / (2048 * abs(slope)), _middle(bits, signed, slope, intercept)
    if manufacturer.upper().startswith("GE") and slope == 1 and intercept == 0:
        return 1e-3, 0.0
    return None


def _middle(bits: int, signed: bool, slope: float, intercept: float) -> float:
    return intercept + slope * (0 if signed else 2 ** (bits - 1))
