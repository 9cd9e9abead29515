"""MR phase: to radians, to high-pass filtered, to the sign in which paramagnetic is positive, and SWI from it."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import avg_pool2d

RAW_PHASE_DEVIATION = 1.0
"""Standard deviation in rad, within the head, above which a phase counts as raw (wrapped): a uniform phase has
pi / sqrt(3) = 1.81, a high-pass filtered one about 0.3."""

SIGN_MARGIN = 0.02
"""Correlation of darkness and phase below which the automatic check of the sign does not decide."""


def phase_to_radians(phase: torch.Tensor, scale: float | None = None) -> tuple[torch.Tensor, str]:
    """
    Scale a stored phase to radians, by its range where no scale is given.

    Known ways of storing: radians; integers of +-4096 or 0..4095 over the circle (Siemens); milliradians (GE); and
    any other range, which is taken to span the circle.

    Args:
        phase: stored values, any shape.
        scale: radians a stored unit; None finds it.

    Returns:
        the phase in [-pi, pi] as float32, and a sentence that says how it was read.
    """
    phase = phase.float()
    if scale is not None:
        return wrap(phase * scale), f"Phase was scaled by {scale:g} rad a unit, as configured."
    low, high = float(phase.min()), float(phase.max())
    extent = max(-low, high)
    if low < 0:
        if 1.0 <= extent <= 1.01 * math.pi:
            return phase.clone(), "Phase was read as radians."
        if 3100 < extent <= 3145:
            return phase / 1000.0, "Phase was read as milliradians."
        if 1000 < extent <= 4096:
            return phase * (math.pi / 4096), "Phase was read as +-4096 over the circle."
        return phase * (math.pi / extent), f"Phase was read as +-{extent:.4g} over the circle, from its range."
    if 1.0 <= high <= 2.02 * math.pi:
        return wrap(phase), "Phase was read as radians from 0."
    half = 2048.0 if 2048 < high <= 4096 else (high - low) / 2
    middle = half if half == 2048.0 else (high + low) / 2
    return (phase - middle) * (math.pi / half), f"Phase was read as 0..{2 * half:.4g} over the circle."


def wrap(phase: torch.Tensor) -> torch.Tensor:
    """Bring a phase in radians into [-pi, pi)."""
    return torch.remainder(phase + math.pi, 2 * math.pi) - math.pi


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


def is_raw(phase: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether a phase in rad has not been high-pass filtered, from its spread within the head ``mask``."""
    return float(phase[mask].std()) > RAW_PHASE_DEVIATION


def paramagnetic_sign(phase: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> tuple[int, float]:
    """
    The sign that makes paramagnetic tissue positive, from the veins: they are dark on SWI (and on magnitude).

    Args:
        phase: (1, i, j, k) high-pass filtered, in rad.
        image: the same shape, SWI or magnitude.
        mask: the same shape, bool, the head.

    Returns:
        +1 or -1 to multiply the phase with, or 0 where it cannot be told; and the correlation between phase and
        local darkness (in [-1, 1]) that decided.
    """
    slices = image.movedim(-1, 0).float()
    local_mean = avg_pool2d(slices, 9, stride=1, padding=4, count_include_pad=False)
    inside = mask.movedim(-1, 0).bool()
    inside = inside & (avg_pool2d(inside.float(), 21, stride=1, padding=10) > 0.99)
    if inside.sum() < 1000:
        inside = mask.movedim(-1, 0).bool()
    darkness = ((local_mean - slices) / local_mean.clamp(min=1e-6))[inside]
    value = phase.movedim(-1, 0)[inside]
    dark = darkness > torch.quantile(darkness[:: max(1, darkness.numel() // 100_000)], 0.9)
    darkness, value = darkness[dark].clamp(max=1.0), value[dark]
    value = value.clamp(-1.5, 1.5)
    norm = float(darkness.norm() * value.norm())
    correlation = float((darkness * value).sum()) / norm if norm > 0 else 0.0
    if abs(correlation) < SIGN_MARGIN:
        return 0, correlation
    return (1 if correlation > 0 else -1), correlation


def susceptibility_weighted(magnitude: torch.Tensor, phase: torch.Tensor, power: int = 4) -> torch.Tensor:
    """
    SWI: the magnitude times the phase mask to the 4th power, which darkens paramagnetic tissue.

    The mask falls linearly from 1 at phase 0 to 0 at phase pi, and is 1 for negative phase. Source: Haacke et al.,
    Magn Reson Med 52:612-618 (2004), for this project's sign (paramagnetic positive).

    Args:
        magnitude: any shape.
        phase: the same shape, high-pass filtered, in rad, paramagnetic positive.
        power: how often the mask is applied.
    """
    return magnitude * (1 - phase.clamp(min=0) / math.pi).pow(power)
