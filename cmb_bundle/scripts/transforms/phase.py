"""MR phase: to radians, to high-pass filtered, to the sign in which paramagnetic is positive, and SWI from it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ..errors import SubjectError
from .notices import add_notice, add_warning
from .phase_scale import phase_to_radians
from .sign import FAINT, correlation_of, find_sign, sign_of_manufacturer

COPY = 0.7
"""Correlation of a phase with its image from which it is none: 41 scans of all kinds have 0.30 at most."""


class NormalizePhased(MapTransform):
    """
    Bring the phase to the one form that everything after it expects: radians, high-pass filtered, paramagnetic
    positive.

    Args:
        keys: key of the phase.
        scale: radians a stored unit; None finds it from the range.
        sign: 1 if the stored phase of a vein is positive, -1 if it is negative, ``"auto"`` to find it from the dark
            structures of the image (:func:`~.sign.find_sign`); where that does not decide, it is the manufacturer's,
            where known, else the stored one is kept: a guess, which ``sign_guessed`` of the dictionary describes.
        filter_phase: whether to apply the homodyne filter; ``"auto"`` applies it to a raw phase only.
        lines: width of the homodyne filter's window in k-space lines.

    Raises:
        ValueError: ``scale``, ``sign`` or ``filter_phase`` is none of the values above.
        SubjectError: it is no phase, see :func:`~.phase_scale.phase_to_radians`, or the image once more.

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
            few = (..., slice(None, None, 4), slice(None, None, 4), slice(None))  # a sixteenth tells as much
            alike = correlation_of(*(volume.as_tensor()[few][mask[few]].numpy() for volume in (stored, image)))
            if abs(alike) >= COPY:
                raise SubjectError(
                    f"{d.get('subject', 'subject')}: the phase follows the image (correlation {alike:+.2f} in the "
                    "head), so that it is the image once more, or made from it. Give the phase of this scan, or none."
                )
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
                sign, correlation, evidence = find_sign(phase, image.as_tensor(), mask, image.pixdim)
                decided = {1: "kept", -1: "turned", 0: "kept, for want of evidence"}[sign]
                if sign == 0:
                    maker, sign = sign_of_manufacturer(str(stored.meta.get("manufacturer") or ""))
                    if sign:
                        usual = f"as is usual for {maker} without further processing"
                        decided = f"{'kept' if sign > 0 else 'turned'}, {usual}, for want of evidence"
                    elif correlation <= -FAINT:
                        sign, decided = -1, "turned, as its veins faintly say, for want of evidence"
                    d["sign_guessed"] = decided
                add_notice(d, f"Its sign was {decided} ({evidence}).")
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
