"""MR phase: to radians, to high-pass filtered, to the sign in which paramagnetic is positive, and SWI from it."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.transforms.utils import generate_spatial_bounding_box
from scipy import ndimage

from ..errors import SubjectError
from .notices import add_notice, add_warning
from .phase_scale import phase_to_radians


class NormalizePhased(MapTransform):
    """
    Bring the phase to the one form that everything after it expects: radians, high-pass filtered, paramagnetic
    positive.

    Args:
        keys: key of the phase.
        scale: radians a stored unit; None finds it from the range.
        sign: 1 if the stored phase of a vein is positive, -1 if it is negative, ``"auto"`` to find it from the dark
            structures of the image; where that does not decide, it is the manufacturer's, where known, else the stored
            one is kept: a guess, which ``sign_guessed`` of the dictionary describes.
        filter_phase: whether to apply the homodyne filter; ``"auto"`` applies it to a raw phase only.
        lines: width of the homodyne filter's window in k-space lines.

    Raises:
        ValueError: ``scale``, ``sign`` or ``filter_phase`` is none of the values above.
        SubjectError: it is no phase, see :func:`~.phase_scale.phase_to_radians`.

    Example:
        >>> stored = MetaTensor(torch.tensor([0.0, 1024.0, 2048.0, 4095.0]).reshape(1, 4, 1, 1))  # 0 to 4095
        >>> image, mask = torch.ones_like(stored), torch.ones_like(stored)
        >>> normalize = NormalizePhased(sign=-1, filter_phase=False)
        >>> phase = normalize({"image": image, "mask": mask, "phase": stored})["phase"]
        >>> [round(value, 3) for value in phase.flatten().tolist()]
        [3.142, 1.571, -0.0, -3.14]
    """

    def __init__(self, keys="phase", scale: float | None = None, sign="auto", filter_phase="auto", lines: int = 64):
        super().__init__(keys, allow_missing_keys=True)
        if sign not in ("auto", 1, -1):
            raise ValueError(f"phase sign is {sign!r}; expected 'auto', 1 or -1.")
        if filter_phase not in ("auto", True, False):
            raise ValueError(f"filter_phase is {filter_phase!r}; expected 'auto', true or false.")
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"phase scale is {scale!r}; expected radians per stored unit, above 0, or None.")
        self.scale = scale
        self.sign = sign
        self.filter_phase = filter_phase
        self.lines = lines

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            stored = d[key]
            image = d["image"] if d.get("image") is not None else d["magnitude"]
            mask = d["mask"].as_tensor().bool()
            header_scale = stored.meta.get("radians_per_unit") if self.scale is None else None
            scale = self.scale if header_scale is None else float(header_scale)
            about = {name: stored.meta[name] for name in PHASE_META if stored.meta.get(name) is not None}
            try:
                phase, notice, warning = phase_to_radians(stored.as_tensor(), scale, **about)
            except SubjectError as error:
                raise SubjectError(f"{d.get('subject', 'subject')}: {error}") from error
            if header_scale is not None:
                why = stored.meta.get("scale_from", "its DICOM header says")
                notice = f"Phase was scaled by {scale:g} rad a unit, as {why}."
            add_notice(d, notice)
            if warning:
                add_warning(d, warning)
            raw = is_raw(phase, image.as_tensor(), mask) if self.filter_phase == "auto" else self.filter_phase
            if raw:
                phase = homodyne_filter(phase, image.as_tensor(), self.lines)
                add_notice(d, f"It was high-pass filtered ({self.lines} lines).")
            sign = self.sign
            if sign == "auto":
                sign, correlation = paramagnetic_sign(phase, image.as_tensor(), mask, image.pixdim)
                decided = {1: "kept", -1: "turned", 0: "kept, for want of evidence"}[sign]
                if sign == 0:
                    maker, sign = sign_of_manufacturer(str(stored.meta.get("manufacturer") or ""))
                    if sign:
                        usual = f"as is usual for {maker} without further processing"
                        decided = f"{'kept' if sign > 0 else 'turned'}, {usual}, for want of evidence"
                    elif correlation <= -FAINT:
                        sign, decided = -1, "turned, as its veins faintly say, for want of evidence"
                    d["sign_guessed"] = decided
                add_notice(d, f"Its sign was {decided} (dark structures correlate at {correlation:+.2f}).")
            d[key] = MetaTensor(phase if sign >= 0 else -phase, meta=stored.meta)
        return d


class ComputeSWId(Transform):
    """
    Where there is no SWI, compute it from the magnitude and the normalised phase.

    Returns:
        the dictionary with the SWI (1, i, j, k) as ``image``, without ``magnitude``, and with ``swi_computed``: True
        where the SWI was computed, so that the writer saves it beside the results.

    Example:
        >>> magnitude = MetaTensor(torch.full((1, 3, 1, 1), 100.0))
        >>> phase = MetaTensor(torch.tensor([-1.0, 0.0, math.pi / 2]).reshape(1, 3, 1, 1))
        >>> subject = ComputeSWId()({"magnitude": magnitude, "phase": phase})
        >>> subject["image"].flatten().tolist(), "magnitude" in subject
        ([100.0, 100.0, 6.25], False)
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        magnitude = d.pop("magnitude", None)
        d["swi_computed"] = d.get("image") is None
        if d["swi_computed"]:
            swi = susceptibility_weighted(magnitude.as_tensor(), d["phase"].as_tensor())
            d["image"] = MetaTensor(swi, meta=magnitude.meta)
            add_notice(d, "SWI was computed from magnitude and phase.")
        return d


PHASE_META = ("units", "manufacturer", "echo_ms", "field_tesla")
"""What the meta data of a phase tell of its unit, see :func:`~.phase_scale.phase_to_radians`."""

RAW_PHASE = 0.2
"""Median absolute phase of tissue in rad above which a phase counts as raw: the simulator's filtered scans stay below
0.15, down to a signal-to-noise ratio of 8, and its raw ones at 3 T and 20 ms are near 0.6."""

MANUFACTURER_SIGNS = {"siemens": 1, "philips": 1, "ge": -1}
"""Sign of the phase of what is paramagnetic, such as a vein along B0, in the phase that scanners write: it rises with
the field on those of Siemens and Philips (seen above the air of the sphenoid sinus in a scan of each, of software XA30
and 5.7.1) and falls on those of GE. Radiologists call the first left-handed and the second right-handed, and often
count Philips' filtered phase among the second; software and processing after the scan differ, so that this is a guess.
"""

SIGN_MARGIN = 0.06
"""Correlation of darkness and phase below which the automatic check of the sign does not decide. Without veins in
the phase it is within 0.01 (simulated without susceptibility) to 0.02 (a scan with echoes of 4 to 12 ms). Of 188
simulated scans, 8 of the 30 with less than this got the wrong sign by it alone, and one of the 158 with more."""

FAINT = 0.03
"""Correlation that decides nothing, but is a better guess than the stored sign where no manufacturer is named."""

SIGN_SLICES = 16
"""Slices that the check of the sign looks at, evenly spaced."""

VEIN_MM, EDGE_MM, AROUND_MM = 2.5, 20.0, 5.0
"""For the check of the sign: dark structures up to twice the first wide are veins and microbleeds; the scalp, the skull
and the fluid around the brain lie within the second of the head's edge; the surroundings of a voxel reach to the third.
"""


def homodyne_filter(phase: torch.Tensor, magnitude: torch.Tensor, lines: int = 64) -> torch.Tensor:
    """
    High-pass filter a phase slice by slice, as SWI does: divide the complex image by its own low-pass version.

    The low-pass is a Hann window of ``lines`` central k-space lines in each in-plane direction. Source: Haacke et
    al., Magn Reson Med 52:612-618 (2004), who used 64 x 64 of 512 x 512.

    Args:
        phase: (..., i, j, k) in rad, with k the slice axis.
        magnitude: the same shape; weights the complex image.
        lines: full width of the window in k-space lines, at most the matrix size.

    Returns:
        the filtered phase in rad, the same shape.

    Example:
        >>> i, j = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        >>> phase = 0.5 * torch.cos(2 * math.pi * i / 64)[..., None]  # slow, as of coils and air
        >>> phase[32, 32] += 1.0  # fast, as of a vein
        >>> filtered = homodyne_filter(phase, torch.ones_like(phase), lines=16)
        >>> [round(float(x[32, 32] - x[20, 20]), 2) for x in (phase, filtered)]
        [0.69, 0.97]
    """
    signal = torch.polar(magnitude.clamp(min=0).float(), phase.float())
    windows = []
    for size in signal.shape[-3:-1]:
        frequency = torch.fft.fftfreq(size, d=1.0 / size, device=signal.device)
        window = 0.5 + 0.5 * torch.cos(2 * math.pi * frequency / min(lines, size))
        windows.append(torch.where(frequency.abs() <= min(lines, size) / 2, window, torch.zeros_like(window)))
    spectrum = torch.fft.fft2(signal, dim=(-3, -2))
    spectrum *= windows[0][:, None, None] * windows[1][:, None]
    low_pass = torch.fft.ifft2(spectrum, dim=(-3, -2))
    return torch.angle(signal * low_pass.conj())


def is_raw(phase: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> bool:
    """
    Whether a phase has not been high-pass filtered: a filtered one is near zero in most of the tissue.

    Args:
        phase: (..., i, j, k), in rad.
        image: the same shape, SWI or magnitude; tissue is what is brighter in it than half of the head's mean.
        mask: the same shape, bool, the head.
    """
    some = mask[..., ::3, ::3, :]
    if some.any():  # a ninth of the voxels tells as much
        phase, image, mask = phase[..., ::3, ::3, :], image[..., ::3, ::3, :], some
    tissue = mask & (image > 0.5 * image[mask].mean())
    return float(phase[tissue].abs().median()) > RAW_PHASE


def paramagnetic_sign(
    phase: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float]
) -> tuple[int, float]:
    """
    The sign that makes paramagnetic tissue positive, from the veins: they are dark on SWI (and on magnitude).

    Darkness is that of thin structures: the black top-hat (closing minus image) in the plane of the slice, relative
    to the local mean. The rim of the head and places of wild phase, as above the sinuses, are left out.

    Args:
        phase: (1, i, j, k) high-pass filtered, in rad.
        image: the same shape, SWI or magnitude. SWI decides far more clearly: the phase is in it.
        mask: the same shape, bool, the head.
        spacing: voxel size (i, j, ...) in mm.

    Returns:
        +1 or -1 to multiply the phase with, or 0 where it cannot be told, as with voxels wider than a vein; and the
        correlation between phase and darkness (in [-1, 1]) that decided.
    """
    if max(float(s) for s in spacing[:2]) > VEIN_MM:
        return 0, 0.0
    chosen = np.unique(np.linspace(0, image.shape[-1] - 1, SIGN_SLICES + 2).round().astype(int)[1:-1])
    image, phase, inside = (x[0, ..., chosen].movedim(-1, 0).numpy() for x in (image.float(), phase, mask))
    deep = _interior(inside, spacing)
    inside = deep if deep.any() else inside
    around, vein = _window(AROUND_MM, spacing), _window(VEIN_MM, spacing)
    start, end = generate_spatial_bounding_box(inside[None], margin=around, allow_smaller=True)
    box = tuple(map(slice, start, end))
    image, phase, inside = image[box], phase[box], inside[box]
    inside = inside & (ndimage.uniform_filter(np.square(phase), around) < 1)
    darkness = ndimage.grey_closing(image, vein) - image
    darkness /= np.maximum(ndimage.uniform_filter(image, around), 1e-6)
    if inside.sum() < 2:
        return 0, 0.0
    with np.errstate(invalid="ignore"):
        correlation = float(np.nan_to_num(np.corrcoef(darkness[inside], phase[inside].clip(-1, 1))[0, 1]))
    if abs(correlation) < SIGN_MARGIN:
        return 0, correlation
    return (1 if correlation > 0 else -1), correlation


def sign_of_manufacturer(manufacturer: str) -> tuple[str, int]:
    """
    The manufacturer's name in short, and the sign of the phase that its scanners usually write; 0 where not known.

    Example:
        >>> sign_of_manufacturer("SIEMENS"), sign_of_manufacturer("GE MEDICAL SYSTEMS"), sign_of_manufacturer("Canon")
        (('Siemens', 1), ('GE', -1), ('', 0))
    """
    first = (re.findall(r"[a-z]+", manufacturer.lower()) or [""])[0]
    sign = MANUFACTURER_SIGNS.get(first, 0)
    return (first.upper() if first == "ge" else first.title()) if sign else "", sign


def _window(reach_mm: float, spacing: Sequence[float]) -> tuple[int, int, int]:
    """A window (1, i, j) in voxels that reaches so far to each side in the plane."""
    return 1, *(2 * max(1, round(reach_mm / float(s))) + 1 for s in spacing[:2])


def _interior(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The part of slices (k, i, j) that is farther than EDGE_MM, along each axis, from what is outside."""
    return ndimage.minimum_filter(inside.astype(np.uint8), _window(EDGE_MM, spacing), mode="constant").astype(bool)


def susceptibility_weighted(magnitude: torch.Tensor, phase: torch.Tensor, power: int = 4) -> torch.Tensor:
    """
    SWI: the magnitude times the phase mask to the 4th power, which darkens paramagnetic tissue.

    The mask falls linearly from 1 at phase 0 to 0 at phase pi, and is 1 for negative phase. Source: Haacke et al.,
    Magn Reson Med 52:612-618 (2004), for this project's sign (paramagnetic positive).

    Args:
        magnitude: any shape.
        phase: the same shape, high-pass filtered, in rad, paramagnetic positive.
        power: how often the mask is applied.

    Example:
        >>> susceptibility_weighted(torch.tensor(100.0), torch.tensor([-1.0, 0.0, math.pi / 2, math.pi]))
        tensor([100.0000, 100.0000,   6.2500,   0.0000])
    """
    return magnitude * (1 - phase.clamp(min=0) / math.pi).pow(power)
