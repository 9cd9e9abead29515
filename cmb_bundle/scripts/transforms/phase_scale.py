"""The scale of a stored phase: by its unit where one is known, else by the range of its values."""

from __future__ import annotations

import math

import torch

from ..errors import SubjectError
from .plausible import SAMPLE, different, sample

OUTLIERS = (0.0, 1e-4, 1e-3)
"""Shares of the values that may lie beyond the range that tells the unit: a few voxels, of a filter or of unwrapping,
are often far outside."""

FILLED, OUTER = 0.01, 0.9
"""A phase fills its circle where at least the first share of the values is beyond the second share of the range, on
either side. Noise spreads evenly, 5 % on a side; of a map, which has no circle, only the tails are there."""

WRAPPED = 1e-3
"""A phase is wrapped, and its range the circle, where at least this share of neighbours differs by more than half of
the range. Wraps and the noise of air make 1.5 % or more of the neighbours so; what was unwrapped, or never was a phase,
none."""

FLOATS = 0.00367
"""Half a circle in the floats of some reconstructions."""

FEWEST_SLICES = 4
"""About how many slices at least jumps are looked for in, fewer in a thin stack; the outer ones may be empty."""

FEWEST = 16
"""Different whole numbers of a phase; what has fewer was rounded, as radians are in a file of these, or is a mask."""

MOST_RADIANS = 100.0
"""Largest value in rad that unwrapping leaves in a head: 500 Hz, as above the sinuses, at an echo time of 32 ms."""

HERTZ_PER_TESLA = 42.577e6
"""Of protons, gamma / (2 pi)."""

UNITS = {
    "rad": 1.0, "radian": 1.0, "radians": 1.0, "mrad": 1e-3, "milliradian": 1e-3, "milliradians": 1e-3,
    "deg": math.pi / 180, "degree": math.pi / 180, "degrees": math.pi / 180,
}  # fmt: skip
"""Radians of units that BIDS and others write; those of a field are in :func:`field_to_radians`."""

ADVICE = "Give the phase as the scanner or dcm2niix writes it, or set phase_scale to the radians of one unit."


def phase_to_radians(
    phase: torch.Tensor,
    scale: float | None = None,
    units: str = "",
    manufacturer: str = "",
    echo_ms: float | None = None,
    field_tesla: float | None = None,
) -> tuple[torch.Tensor, str, str]:
    """
    Scale a stored phase to radians: as given, by its unit, or by its range.

    Ranges that are known: radians, wrapped or not; degrees; +-1 in units of pi; integers of +-4096 or 0..4095 over the
    circle (Siemens); milliradians (GE). Any other range is taken to span the circle where the values fill it and
    jump from one end to the other, as those of a phase that was not filtered do. Values of a few voxels beyond the
    range of all others are wrapped.

    Args:
        phase: stored values, (C, i, j, k) with slices along k, or fewer axes.
        scale: radians a stored unit; None finds it.
        units: of the values, as a JSON file beside the image tells; empty or "arbitrary" where not known.
        manufacturer: of the scanner; decides between +-4096 and milliradians, where the range fits both.
        echo_ms: echo time, with which a field in Hz or ppm becomes a phase.
        field_tesla: field strength, likewise for ppm.

    Returns:
        the phase in [-pi, pi] as float32, a sentence that says how it was read, and one that warns of a doubtful
        reading, or an empty one.

    Raises:
        SubjectError: it is a field in Hz or ppm, values of no known form, or fewer than 16 different ones, all whole,
            among a thousand or more.

    Example:
        >>> phase, *_ = phase_to_radians(torch.tensor([-4096.0, 0.0, 2048.0]))
        >>> phase
        tensor([-3.1416,  0.0000,  1.5708])
        >>> phase, *_ = phase_to_radians(torch.tensor([10.0, 350.0]), scale=math.pi / 180)
        >>> phase
        tensor([ 0.1745, -0.1745])
        >>> phase_to_radians(torch.tensor([-50.0, 0.0, 20.0]), units="Hz", echo_ms=10.0)[1]
        'Phase was computed from a field in Hz and the echo time of 10 ms.'
    """
    phase = phase.float()
    values = sample(phase)
    number = different(values, more_than=FEWEST)
    if number < FEWEST and phase.numel() > 1000 and torch.equal(values, values.round()):
        raise SubjectError(
            f"The phase has {number} different values: it was rounded, as radians are where they are saved as "
            "whole numbers, or it is a mask. Give the phase as the scanner or dcm2niix writes it."
        )
    if scale is not None:
        return wrap(phase * scale), f"Phase was scaled by {scale:g} rad a unit, as configured.", ""
    unit = units.strip().lower()
    if unit in ("hz", "rad/s", "ppm", "ppb"):
        factor, words = field_to_radians(units, echo_ms, field_tesla)
        return wrap(phase * factor), words, ""
    if unit in UNITS:
        largest = float(phase.abs().max())
        if largest * UNITS[unit] <= MOST_RADIANS:
            return wrap(phase * UNITS[unit]), f"Phase was read in {units}, as the JSON file beside it says.", ""
        phase, notice, warning = _by_range(phase, manufacturer)
        contradicts = f"The JSON file beside the phase says {units}, but its values reach {largest:.4g}."
        return phase, notice, f"{contradicts} {warning}".strip()
    return _by_range(phase, manufacturer)


def field_to_radians(units: str, echo_ms: float | None, field_tesla: float | None) -> tuple[float, str]:
    """
    Tell the radians of one unit of a field, and say so in a sentence.

    Args:
        units: "Hz", "rad/s", "ppm" or "ppb".
        echo_ms: echo time.
        field_tesla: field strength.

    Raises:
        SubjectError: the echo time, or for ppm and ppb the field strength, is not known.
    """
    relative = units.lower() in ("ppm", "ppb")
    missing = [
        name
        for name, value in (("EchoTime", echo_ms), ("MagneticFieldStrength", field_tesla if relative else 1.0))
        if value is None
    ]
    if missing:
        raise SubjectError(
            f"The phase is a field in {units}, as the JSON file beside it says. Expected a phase; with "
            f"{' and '.join(missing)} in that file it can be computed. {ADVICE}"
        )
    turns = echo_ms / 1000  # of 1 Hz
    if relative:
        turns *= HERTZ_PER_TESLA * field_tesla * (1e-6 if units.lower() == "ppm" else 1e-9)
    elif units.lower() == "rad/s":
        turns /= 2 * math.pi
    at = f" and {field_tesla:g} T" if relative else ""
    return 2 * math.pi * turns, f"Phase was computed from a field in {units} and the echo time of {echo_ms:g} ms{at}."


def _by_range(phase: torch.Tensor, manufacturer: str) -> tuple[torch.Tensor, str, str]:
    """Read a phase by the range of its values: that of all, or without a few that are far beyond the others."""
    least, most = map(float, phase.aminmax())
    ordered, background = _tissue_and_air(phase)
    for share in OUTLIERS:
        cut = math.ceil(share * len(ordered))
        low, high = (float(ordered[cut]), float(ordered[-1 - cut])) if cut else (least, most)
        found = _known(low, high, manufacturer) or _over_the_circle(phase, ordered, low, high)
        if found is not None:
            scale, middle, words = found
            outside = (phase < low) | (phase > high)
            beyond = int((outside if background is None else outside & (phase != background)).sum()) if cut else 0
            more = f" {beyond} voxels beyond {low:.4g} to {high:.4g} were wrapped." if beyond else ""
            radians = (phase - middle) * scale
            radians = wrap(radians) if low >= 0 and middle == 0 else _wrap_beyond(radians)
            return radians, f"Phase was read as {words}.{more}", ""
    low, high = least, most
    extent = max(-low, high)
    if math.pi < extent <= MOST_RADIANS and low < 0:
        return (
            wrap(phase),
            f"Phase was read as unwrapped radians, from {low:.4g} to {high:.4g}, and wrapped.",
            f"The phase has values from {low:.4g} to {high:.4g}, which were taken as unwrapped radians. If they are a "
            "field in Hz, set phase_scale to 2 pi times the echo time in s.",
        )
    raise SubjectError(
        f"The phase has values from {low:.4g} to {high:.4g} that are of no known form and do not fill a circle evenly, "
        "with jumps from one end to the other: it may be a field map in Hz, a map in ppm or a processed image. "
        f"Expected a phase in radians, milliradians, degrees, +-4096 or 0..4095. {ADVICE}"
    )


def _tissue_and_air(phase: torch.Tensor) -> tuple[torch.Tensor, float | None]:
    """The values, sorted, without the one value of the background that a mask leaves, and it; a sample is enough."""
    values = sample(phase).sort().values
    background = _background(values)
    return values if background is None else values[values != background], background


def _background(ordered: torch.Tensor) -> float | None:
    """The one value of the background, where there is one, of sorted values."""
    each, counts = torch.unique_consecutive(ordered, return_counts=True)
    most = counts.argmax()
    return float(each[most]) if 0.05 * len(ordered) < int(counts[most]) < len(ordered) else None


def _is_wrapped(phase: torch.Tensor, extent: float) -> bool:
    """Whether neighbours within a slice, but for the background, jump by more than half of the extent."""
    if phase.ndim > 2:
        number = max(FEWEST_SLICES, SAMPLE * phase.shape[-1] // phase.numel())
        phase = phase[..., torch.linspace(0, phase.shape[-1] - 1, number + 2).round().long()[1:-1].unique()]
    background = _background(phase.flatten().sort().values)
    jumps, pairs = 0, 0
    for axis in (-3, -2) if phase.ndim > 2 else (-1,):
        one, other = phase.narrow(axis, 1, phase.shape[axis] - 1), phase.narrow(axis, 0, phase.shape[axis] - 1)
        inside = torch.full(one.shape, True) if background is None else (one != background) & (other != background)
        jumps += int(((one - other).abs()[inside] > extent / 2).sum())
        pairs += int(inside.sum())
    return jumps > WRAPPED * pairs


def _known(low: float, high: float, manufacturer: str) -> tuple[float, float, str] | None:
    """The radians a unit, the value of phase 0, and the words for a range that one way of storing alone has."""
    extent = max(-low, high)
    siemens = manufacturer.lower().startswith("siemens")
    if low < 0:
        if 0.99 * FLOATS <= extent <= 1.001 * FLOATS:
            return math.pi / FLOATS, 0.0, f"+-{FLOATS} over the circle"
        if 0.98 <= extent <= 1.0:
            return math.pi, 0.0, "+-1 in units of pi"
        if 1.0 < extent <= 1.01 * math.pi:
            return 1.0, 0.0, "radians"
        if 179 <= extent <= 180.01:
            return math.pi / 180, 0.0, "degrees"
        if all(3141 <= abs(end) <= 3142 for end in (low, high)):  # of a scanner's integers they would hardly end here
            return 1e-3, 0.0, "milliradians"
        if 3145 < extent <= 4097 or 2040 <= extent <= 2048 or (siemens and 1000 < extent <= 4097):
            return math.pi / 4096, 0.0, "+-4096 over the circle"
        if 1000 < extent <= 3145:
            return 1e-3, 0.0, "milliradians"
        return None
    if 1.0 < high <= 2.02 * math.pi:
        return 1.0, 0.0, "radians from 0"
    if 2048 < high <= 4096:
        return math.pi / 2048, 2048.0, "0..4096 over the circle"
    return None


def _over_the_circle(
    phase: torch.Tensor, ordered: torch.Tensor, low: float, high: float
) -> tuple[float, float, str] | None:
    """The same for any other range, where the sorted values fill the circle that it spans and neighbours jump in it."""
    extent = max(-low, high)
    if low < 0:
        low, high = -extent, extent
    half, middle = (high - low) / 2, (high + low) / 2
    ends = torch.tensor([middle - OUTER * half, middle + OUTER * half], dtype=ordered.dtype)
    below, inside = torch.searchsorted(ordered, ends).tolist()
    if min(below, len(ordered) - inside) < FILLED * len(ordered) or half == 0 or not _is_wrapped(phase, 2 * half):
        return None
    words = f"+-{extent:.4g} over the circle, from its range" if low < 0 else f"0..{2 * half:g} over the circle"
    return math.pi / half, middle, words


def _wrap_beyond(phase: torch.Tensor) -> torch.Tensor:
    """Wrap where the phase is beyond pi by more than rounding; elsewhere pi stays pi."""
    limit = 1.001 * math.pi
    if all(abs(float(value)) <= limit for value in phase.aminmax()):
        return phase
    return torch.where(phase.abs() > limit, wrap(phase), phase)


def wrap(phase: torch.Tensor) -> torch.Tensor:
    """Bring a phase in radians into [-pi, pi).

    Example:
        >>> wrap(torch.tensor([0.5, 4.0, -math.pi, math.pi]))
        tensor([ 0.5000, -2.2832, -3.1416, -3.1416])
    """
    return torch.remainder(phase + math.pi, 2 * math.pi) - math.pi
