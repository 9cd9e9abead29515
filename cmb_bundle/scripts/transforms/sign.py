"""The sign of the phase: whether what is paramagnetic, such as a vein, is positive or negative in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms.utils import generate_spatial_bounding_box
from scipy import fft, ndimage

MANUFACTURER_SIGNS = {"siemens": 1, "philips": 1, "ge": -1}
"""Sign of the phase of what is paramagnetic, such as a vein along B0, in the phase that scanners write: it rises with
the field on those of Siemens and Philips (seen above the air of the sphenoid sinus in a scan of each, of software XA30
and 5.7.1) and falls on those of GE. Radiologists call the first left-handed and the second right-handed, and often
count Philips' filtered phase among the second; software and processing after the scan differ, so that this is a guess.
"""

SIGN_MARGIN = 0.12
"""Correlation of darkness and phase below which the veins do not decide. Without veins in the phase it is within 0.01
(simulated without susceptibility) to 0.02 (a scan with echoes of 4 to 12 ms). Of 188 simulated scans, 8 of the 30 below
0.06 had the wrong sign by it, and one of the others; of 48 made from susceptibility maps, one at 0.11."""

FAINT = 0.03
"""Correlation that decides nothing, but is a better guess than the stored sign where no manufacturer is named."""

SOURCE_MARGIN, SKEW_MARGIN = 0.02, 0.08
"""Correlation of darkness and susceptibility, and skewness of the susceptibility, from which both together decide."""

BOTH_MARGIN = 0.04
"""Correlation of darkness both with the phase and with the susceptibility, of one sign, from which they decide where
the susceptibility is not skewed: a magnitude of healthy tissue has faint veins and no iron to speak of. Of 35 scans of
susceptibility maps that nothing else decides, 14 of them by another simulator, 22 have both; all 22 are right."""

TAIL = 0.005
"""Share of the voxels in each tail of the susceptibility that its skewness looks at."""

CONE = 0.2
"""Where the field of a source, in k-space, is less than this part of it, it is divided by this instead. Source: Shmueli
et al., Magn Reson Med 62:1510-1522 (2009)."""

SIGN_SLICES = 16
"""Slices that the check of the sign looks at, evenly spaced."""

VEIN_MM, EDGE_MM, AROUND_MM = 2.5, 20.0, 5.0
"""For the check of the sign: dark structures up to twice the first wide are veins and microbleeds; the scalp, the skull
and the fluid around the brain lie within the second of the head's edge; the surroundings of a voxel reach to the third.
"""


def find_sign(
    phase: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float]
) -> tuple[int, float, str]:
    """
    The sign by :func:`paramagnetic_sign`, where the veins are faint by :func:`susceptibility_sign`, and where that is
    not skewed by the correlations of both, if they agree.

    Args:
        phase: as both take it, as are ``image``, ``mask`` and ``spacing``.

    Returns:
        +1 or -1 to multiply the phase with, or 0 where it cannot be told; the correlation of phase and darkness; and
        the evidence in words.
    """
    sign, correlation = paramagnetic_sign(phase, image, mask, spacing)
    evidence = f"dark structures correlate at {correlation:+.2f}"
    if sign or _too_wide(spacing):
        return sign, correlation, evidence
    sign, with_source, skewness = susceptibility_sign(phase, image, mask, spacing)
    evidence += f", with susceptibility at {with_source:+.2f}, which is skewed by {skewness:+.2f}"
    if sign == 0 and min(correlation * np.sign(with_source), abs(with_source)) >= BOTH_MARGIN:
        sign = int(np.sign(with_source))
    return sign, correlation, evidence


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
        spacing: voxel size (i, j, k) in mm.

    Returns:
        +1 or -1 to multiply the phase with, or 0 where it cannot be told, as with voxels wider than a vein; and the
        correlation between phase and darkness (in [-1, 1]) that decided.
    """
    if _too_wide(spacing):
        return 0, 0.0
    darkness, places = _thin_and_dark(phase, image, mask, spacing)
    correlation = correlation_of(darkness, _at(phase[0].numpy(), places).clip(-1, 1))
    if abs(correlation) < SIGN_MARGIN:
        return 0, correlation
    return (1 if correlation > 0 else -1), correlation


def susceptibility_sign(
    phase: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float]
) -> tuple[int, float, float]:
    """
    The same from the susceptibility: what is strongly magnetic in a brain is paramagnetic, and dark.

    In the phase, a vein across the main field has the opposite sign of one along it, and dark and bright lobes
    surround either; dark places on a magnitude hardly correlate with it. So the phase is divided by a dipole's in
    k-space, where that is not near 0. Veins and iron then make a tail of one sign. Sign of this skewness and of the
    correlation with darkness must agree. Of 94 simulated scans of all kinds, 44 of them magnitude and phase at 1.5 to
    7 T, both had the right sign in all.

    Args:
        phase: as :func:`paramagnetic_sign`, as are ``image``, ``mask`` and ``spacing``. The main field is taken to be
            along the third axis.

    Returns:
        +1, -1 or 0 as above; the correlation of susceptibility and darkness; and the skewness of the susceptibility,
        between its percentiles 0.5 and 99.5, in [-1, 1]: 0 where the tails are equally long.
    """
    volume, head = phase[0].float().numpy(), mask[0].numpy()
    around = (*_window(AROUND_MM, spacing)[1:], 1)
    quiet = head & (ndimage.uniform_filter(np.square(volume), around) < 1)
    source = _susceptibility(np.where(quiet, volume, 0), spacing)
    darkness, places = _thin_and_dark(phase, image, mask, spacing)
    source = _at(source, places)
    if source.size < 2:
        return 0, 0.0, 0.0
    low, middle, high = np.quantile(source, (TAIL, 0.5, 1 - TAIL))
    skewness = float((high + low - 2 * middle) / max(high - low, 1e-12))
    correlation = correlation_of(darkness, source.clip(low, high))
    agree = correlation * skewness > 0 and abs(correlation) >= SOURCE_MARGIN and abs(skewness) >= SKEW_MARGIN
    return int(np.sign(skewness)) if agree else 0, correlation, skewness


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


def _too_wide(spacing: Sequence[float]) -> bool:
    return max(float(s) for s in spacing[:2]) > VEIN_MM


def _thin_and_dark(
    phase: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float]
) -> tuple[np.ndarray, tuple]:
    """How dark thin structures are (N,), on some slices, where that and the phase can be trusted; and these places."""
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
    return darkness[inside], (chosen, box, inside)


def _at(volume: np.ndarray, places: tuple) -> np.ndarray:
    """(N,) values of a volume (i, j, k) where :func:`_thin_and_dark` looked."""
    chosen, box, inside = places
    return np.moveaxis(volume[..., chosen], -1, 0)[box][inside]


def correlation_of(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation, 0 where one of them has a single value."""
    if one.size < 2:
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.corrcoef(one, other)[0, 1]))


def _susceptibility(phase: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Susceptibility of any unit whose field would make a phase (i, j, k)."""
    shape = [fft.next_fast_len(n + 8, real=True) for n in phase.shape]  # opposite edges do not meet
    frequencies = [fft.fftfreq(n, float(d)) for n, d in zip(shape[:2], spacing[:2], strict=True)]
    frequencies.append(fft.rfftfreq(shape[2], float(spacing[2])))
    i, j, k = (f.astype(np.float32) ** 2 for f in np.meshgrid(*frequencies, indexing="ij", sparse=True))
    square = i + j + k
    square[0, 0, 0] = 1
    dipole = 1 / 3 - k / square
    dipole = np.where(np.abs(dipole) < CONE, np.copysign(np.float32(CONE), dipole), dipole)
    threads = torch.get_num_threads()  # as many as the rest of the program may use
    spectrum = fft.rfftn(phase, shape, workers=threads)
    spectrum /= dipole
    spectrum[0, 0, 0] = 0
    return fft.irfftn(spectrum, shape, workers=threads)[tuple(slice(n) for n in phase.shape)]


def _window(reach_mm: float, spacing: Sequence[float]) -> tuple[int, int, int]:
    """A window (1, i, j) in voxels that reaches so far to each side in the plane."""
    return 1, *(2 * max(1, round(reach_mm / float(s))) + 1 for s in spacing[:2])


def _interior(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The part of slices (k, i, j) that is farther than EDGE_MM, along each axis, from what is outside."""
    return ndimage.minimum_filter(inside.astype(np.uint8), _window(EDGE_MM, spacing), mode="constant").astype(bool)
