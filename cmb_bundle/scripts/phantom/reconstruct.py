"""From the complex image to magnitude, phase and SWI: k-space, coils, phase filters, phase mask and projection."""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy import ndimage
from skimage.restoration import unwrap_phase

from . import physics
from .spec import PhantomSpec

VISIBLE = 0.15  # signal over white matter's, below which the phase is noise and is not unwrapped


def zero_fill(image: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Interpolate by adding zeros about k-space: the first voxel keeps its place, and so do grey values.

    Scanners do so to show twice the matrix that was acquired (Bernstein et al., J Magn Reson Imaging 2001;14:270).

    Args:
        image: complex (i, j, k).
        factors: how many times the voxels along each axis.

    Returns:
        complex64 (i fi, j fj, k fk).

    >>> zero_fill(np.ones((4, 6, 2), np.complex64), (2, 2, 1)).shape
    (8, 12, 2)
    """
    for axis, factor in enumerate(factors):
        if factor > 1:
            n = image.shape[axis]
            spectrum = scipy.fft.fftshift(scipy.fft.fft(image, axis=axis, workers=1), axes=axis)
            pad = [(0, 0)] * 3
            pad[axis] = (n * factor // 2 - n // 2, n * factor - n - (n * factor // 2 - n // 2))
            spectrum = scipy.fft.ifftshift(np.pad(spectrum, pad), axes=axis)
            image = (scipy.fft.ifft(spectrum, axis=axis, workers=1) * factor).astype(np.complex64)
    return image


def window_kspace(image: np.ndarray, resolution: float, apodisation: float) -> np.ndarray:
    """Leave out the outer lines along j and taper the edge of k-space in plane, by a cosine.

    Args:
        image: complex (i, j, k).
        resolution: share of the lines along j that were acquired.
        apodisation: width of the taper as a share of the radius; 0 is none.

    Returns:
        complex64 (i, j, k).
    """
    ki, kj = (2 * np.abs(np.fft.fftfreq(n)) for n in image.shape[:2])
    window = np.outer(np.ones_like(ki), kj <= resolution).astype(np.float32)
    if apodisation:
        radius = np.hypot(ki[:, None], kj[None, :] / resolution)
        window *= 0.5 * (1 + np.cos(np.pi * np.clip((radius - 1 + apodisation) / apodisation, 0, 1)))
    spectrum = scipy.fft.fft2(image, axes=(0, 1), workers=1) * window[..., None]
    return scipy.fft.ifft2(spectrum, axes=(0, 1), workers=1).astype(np.complex64)


def fringe_phase(shape: tuple[int, int, int], poles: np.ndarray) -> np.ndarray:
    """Phase with open-ended fringe lines: it turns once about each pole, in every slice.

    A pole is what is left where the coils' phases cancel when they are combined without a reference (Robinson et al.,
    NMR Biomed 2017;30:e3601). No unwrapping or smoothing removes it.

    Args:
        shape: (i, j, k).
        poles: (n, 4): i, j, sense of rotation (+-1), voxels that the pole moves along i from slice to slice.

    Returns:
        float32 (i, j, k) radians, not wrapped.
    """
    i, j, k = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    total = np.zeros(shape, np.float32)
    for pole_i, pole_j, sense, drift in poles:
        total += sense * np.arctan2(j - pole_j, i - pole_i - drift * (k - shape[2] / 2))
    return total


def coil_phase(shape: tuple[int, int, int], strength: float, fringes: int, rng: np.random.Generator) -> np.ndarray:
    """Phase that the coils add: a random quadratic of some radians across the head, and fringe lines at its rim.

    Args:
        shape: (i, j, k).
        strength: standard deviation of each coefficient, radians from the middle to the edge.
        fringes: number of open-ended fringe lines.
        rng: source of randomness.
    """
    u = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    terms = (1, u[0], u[1], u[2], u[0] ** 2, u[1] ** 2, u[0] * u[1], u[0] * u[2], u[1] * u[2])
    phase = np.zeros(shape, np.float32)
    for term, weight in zip(terms, rng.normal(0, strength, len(terms)), strict=True):
        phase += np.float32(weight) * term
    angle, reach = rng.uniform(0, 2 * np.pi, fringes), rng.uniform(0.35, 0.75, fringes)
    poles = [
        (
            shape[0] / 2 * (1 + r * np.cos(a)),
            shape[1] / 2 * (1 + r * np.sin(a)),
            rng.choice([-1, 1]),
            rng.normal(0, 0.03) * shape[0] / shape[2],
        )
        for a, r in zip(angle, reach, strict=True)
    ]
    return phase + fringe_phase(shape, np.array(poles).reshape(-1, 4)) if fringes else phase


def gaussian_highpass(image: np.ndarray, spacing: tuple[float, float, float], sigma_mm: float) -> np.ndarray:
    """Phase less its Gaussian average, unwrapped slice by slice (scikit-image) and wrapped again.

    The other filter in use besides homodyne, e.g. for sets whose vendor phase is not filtered (Rauscher et al., AJNR
    2005;26:736). Where the signal is noise the phase is left as it is. Unwrapping fails above air cavities, where the
    phase wraps within a voxel: there streaks remain, as in practice.

    Args:
        image: complex (i, j, k), white matter of about 1.
        spacing: voxel size in mm.
        sigma_mm: standard deviation of the average.

    Returns:
        float32 (i, j, k) in (-pi, pi].
    """
    phase = np.angle(image).astype(np.float32)
    sigma = [sigma_mm / d for d in spacing[:2]]
    seen = ndimage.gaussian_filter(np.abs(image), (1, 1, 0)) > VISIBLE
    for k in range(image.shape[2]):
        if seen[..., k].sum() < 16:
            continue
        plane = unwrap_phase(np.ma.masked_array(phase[..., k], ~seen[..., k]), rng=0).filled(0)
        weight = ndimage.gaussian_filter(seen[..., k].astype(np.float32), sigma)
        smooth = ndimage.gaussian_filter(plane.astype(np.float32) * seen[..., k], sigma) / np.maximum(weight, 1e-3)
        high = (plane - smooth)[seen[..., k]]
        phase[..., k][seen[..., k]] = np.angle(np.exp(1j * high))
    return phase


def minimum_projection(volume: np.ndarray, slices: int) -> np.ndarray:
    """Sliding minimum intensity projection along k, of the same shape; at the ends over the slices there are.

    >>> minimum_projection(np.array([[[3, 1, 2, 5, 4]]]), 2).tolist()
    [[[3, 1, 1, 2, 4]]]
    """
    return ndimage.minimum_filter1d(volume, slices, axis=2, mode="nearest")


def reconstruct(
    image: np.ndarray, for_swi: np.ndarray | None, spec: PhantomSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Magnitude, phase in radians and SWI on the written grid.

    Args:
        image: acquired complex image with its noise.
        for_swi: what the phase mask is made of, if that is another image; see Content.pairs_alike.
        spec: the processing.
        rng: source of the coils' phase.

    Returns:
        Three float32 volumes and the voxel size in mm.
    """
    how = spec.processing
    spacing = tuple(d / f for d, f in zip(spec.spacing, how.zero_fill, strict=True))
    added = None
    if how.receive_phase or how.fringes:
        added = np.exp(1j * coil_phase(image.shape, how.receive_phase, how.fringes, rng)).astype(np.complex64)

    def prepared(volume: np.ndarray) -> np.ndarray:
        volume = volume if added is None else volume * added
        if how.resolution < 1 or how.apodisation:
            volume = window_kspace(volume, how.resolution, how.apodisation)
        return zero_fill(volume, how.zero_fill)

    def filtered(volume: np.ndarray) -> np.ndarray:
        if how.phase_filter == "gaussian":
            return gaussian_highpass(volume, spacing, how.highpass_mm)
        return physics.homodyne(volume, spacing, spec.homodyne_cutoff)

    image = prepared(image)
    magnitude = np.abs(image)
    phase = np.zeros_like(magnitude)
    swi = magnitude
    if {"SWI", "Phase"} & set(spec.outputs):
        phase = filtered(image)
        masked = phase if for_swi is None else filtered(prepared(for_swi))
        swi = physics.susceptibility_weighted(magnitude, masked, how.swi_power)
        if how.minip > 1:
            swi = minimum_projection(swi, how.minip)
    if how.phase_filter == "none":
        phase = np.angle(image).astype(np.float32)
    return magnitude, phase, swi, spacing
