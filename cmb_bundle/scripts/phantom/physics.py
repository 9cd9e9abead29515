"""Magnetic resonance physics of a gradient-echo scan: numpy in, numpy out.

Susceptibilities and relative fields are in ppm (SI), susceptibilities relative to water; times are in seconds.
The sources of the constants are repeated, with their reasons, in docs/reference/phantom.md.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

GAMMA_HZ_PER_TESLA = 42.577478518e6  # proton gyromagnetic ratio over 2 pi, CODATA 2018

# T2* of cortex and white matter at 1.5, 3 and 7 T in ms: Peters et al., Magn Reson Imaging 2007;25:748.
_FIELDS_TESLA = (1.5, 3.0, 7.0)
_T2STAR_MS = {"grey": (84.0, 66.0, 33.2), "white": (66.2, 53.2, 26.8)}

# T1 = factor * (Larmor frequency in Hz) ** power, in s: Rooney et al., Magn Reson Med 2007;57:308.
_T1_LAW = {"grey": (0.00116, 0.376), "white": (0.00071, 0.382), "blood": (0.00335, 0.340)}
# Nearly independent of the field: fluid (Rooney 2007); fat (de Bazelaire et al., Radiology 2004;230:652);
# muscle (Stanisz et al., Magn Reson Med 2005;54:507).
_T1_FIXED = {"fluid": 4.3, "fat": 0.38, "muscle": 1.41}

# R2* at 3 T in 1/s: fluid, fat and muscle are round values of the 3 T literature; venous blood of oxygenation
# 0.65 by 122.0 (1 - Y) + 7.0, Blockley et al., Proc. ISMRM 2006, abstract 2516.
_R2STAR_3T = {"fluid": 2.0, "fat": 25.0, "muscle": 33.0, "blood": 122.0 * (1 - 0.65) + 7.0}

# Proton density relative to water: Tofts, Quantitative MRI of the Brain, 2003, chapter 4 (blood as grey matter).
PROTON_DENSITY = {"grey": 0.82, "white": 0.70, "fluid": 1.0, "blood": 0.82, "fat": 0.90, "muscle": 0.75}

# Susceptibility of tissue: white and grey matter against fluid, Duyn & Schenck, NMR Biomed 2017;30:e3546;
# air and fat: Schenck, Med Phys 1996;23:815; bone (-2.1 +- 0.6; and air, 9.2 +- 1.3): Buch et al., MRM 2015;73:2185.
SUSCEPTIBILITY_PPM = {"white": -0.03, "grey": 0.01, "fluid": 0.0, "air": 9.4, "bone": -2.1, "fat": 0.6}
# Venous blood against water: 4 pi 0.27 ppm x haematocrit 0.4 x (1 - 0.65); Spees et al., MRM 2001;45:533.
VEIN_SUSCEPTIBILITY_PPM = 4 * np.pi * 0.27 * 0.40 * (1 - 0.65)

# Slope of R2* over susceptibility in iron-rich nuclei, 1/s per ppm per T: set so that the pallidum, 0.19 ppm, decays
# some 22 1/s faster than the tissue about it at 3 T, as in maps of R2* in vivo.
IRON_R2STAR_PER_PPM_TESLA = 40.0


def radians_per_ppm(field_tesla: float, te_ms: float) -> float:
    """Phase in radians that a relative field of 1 ppm builds up in one echo time."""
    return 2 * np.pi * GAMMA_HZ_PER_TESLA * 1e-6 * field_tesla * te_ms * 1e-3


def relaxation(kind: str, field_tesla: float) -> tuple[float, float]:
    """T1 in s and R2* in 1/s of a tissue ("white", "grey", "fluid", "blood", "fat", "muscle") at a field."""
    if kind in _T1_LAW:
        factor, power = _T1_LAW[kind]
        t1 = factor * (GAMMA_HZ_PER_TESLA * field_tesla) ** power
    else:
        t1 = _T1_FIXED[kind]
    if kind in _T2STAR_MS:
        r2star = float(np.interp(field_tesla, _FIELDS_TESLA, 1e3 / np.asarray(_T2STAR_MS[kind])))
    else:
        r2star = _R2STAR_3T[kind] * (field_tesla / 3.0) ** (1.5 if kind == "blood" else 0.5)
    return t1, r2star


def signal(kind: str, field_tesla: float, te_ms: float, tr_ms: float, flip_deg: float) -> float:
    """Magnitude of a tissue in a spoiled gradient echo (Ernst & Anderson 1966) with T2* decay."""
    t1, r2star = relaxation(kind, field_tesla)
    e1, flip = np.exp(-tr_ms * 1e-3 / t1), np.deg2rad(flip_deg)
    steady_state = np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1)
    return float(PROTON_DENSITY[kind] * steady_state * np.exp(-te_ms * 1e-3 * r2star))


def dipole_field(susceptibility: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Relative field of a susceptibility map by convolution with the unit dipole, B0 along the last axis.

    The kernel 1/3 - kz^2 / k^2 (Salomir et al., Concepts Magn Reson 2003;19B:26; Marques & Bowtell 2005;25B:65)
    includes the Lorentz sphere; the mean field is set to zero. The map repeats periodically: pad it.

    Args:
        susceptibility: float32 (i, j, k), ppm.
        spacing: voxel size in mm.

    Returns:
        float32 (i, j, k), ppm.
    """
    shape = susceptibility.shape
    spectrum = scipy.fft.rfftn(susceptibility.astype(np.float32, copy=False), workers=1)
    squares = [np.fft.fftfreq(n, d).astype(np.float32) ** 2 for n, d in zip(shape[:2], spacing[:2], strict=True)]
    kz2 = np.fft.rfftfreq(shape[2], spacing[2]).astype(np.float32) ** 2
    for i, kx2 in enumerate(squares[0]):
        k2 = kx2 + squares[1][:, None] + kz2[None, :]
        if i == 0:
            k2[0, 0] = 1.0
        spectrum[i] *= np.float32(1 / 3) - kz2 / k2
    spectrum[0, 0, 0] = 0
    return scipy.fft.irfftn(spectrum, s=shape, workers=1, overwrite_x=True)


def shim(field: np.ndarray, points_mm: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Take away what first and second order shim coils can: a quadratic fitted within the brain.

    Args:
        field: (i, j, k) ppm.
        points_mm: (3, i, j, k) positions.
        within: bool (i, j, k), where the fit is made.

    Returns:
        float32 (i, j, k), ppm.
    """
    x, y, z = points_mm / np.float32(100)
    terms = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x, y * y, z * z])
    # The normal equations in double precision: ten unknowns, well scaled.
    matrix = terms[:, within].astype(np.float64)
    weights = np.linalg.solve(matrix @ matrix.T, matrix @ field[within])
    return field - np.tensordot(weights.astype(np.float32), terms, axes=1)


def sphere_field(offset_mm: np.ndarray, radius_mm: float, susceptibility_ppm: float) -> np.ndarray:
    """Relative field of a uniform sphere, with the Lorentz sphere: zero inside, a dipole outside.

    chi / 3 (a / r)^3 (3 cos^2 theta - 1), theta from B0 (Haacke et al., Magnetic Resonance Imaging, 1999, ch. 25).

    Args:
        offset_mm: (3, ...) offsets from the centre; the last of the three is along B0.
        radius_mm: radius a.
        susceptibility_ppm: susceptibility minus that of the surroundings.

    Returns:
        (...) field in ppm.
    """
    r2 = np.maximum((offset_mm**2).sum(0), 1e-9)
    outside = r2 >= radius_mm**2
    field = susceptibility_ppm / 3 * radius_mm**3 * r2**-1.5 * (3 * offset_mm[2] ** 2 / r2 - 1)
    return np.where(outside, field, 0).astype(np.float32)


def iron_cloud_r2star(susceptibility_ppm: float, field_tesla: float) -> float:
    """R2* in 1/s inside tissue filled with iron grains of a bulk susceptibility: static dephasing regime.

    2 pi / (9 sqrt 3) gamma B0 chi, Yablonskiy & Haacke, Magn Reson Med 1994;32:749.
    """
    omega_per_ppm = 2 * np.pi * GAMMA_HZ_PER_TESLA * 1e-6 * field_tesla
    return float(2 * np.pi / (9 * np.sqrt(3)) * omega_per_ppm * abs(susceptibility_ppm))


def homodyne(image: np.ndarray, spacing: tuple[float, float, float], cutoff: float) -> np.ndarray:
    """High-pass filtered phase in radians, slice by slice (Noll et al. 1991; Reichenbach & Haacke 2001).

    The image is divided by its own low-pass version, made with a Hann window in k-space.

    Args:
        image: complex (i, j, k).
        spacing: voxel size in mm.
        cutoff: radius of the window in cycles/mm.

    Returns:
        float32 (i, j, k) in (-pi, pi].
    """
    fi = np.fft.fftfreq(image.shape[0], spacing[0])[:, None]
    fj = np.fft.fftfreq(image.shape[1], spacing[1])[None, :]
    distance = np.minimum(np.hypot(fi, fj) / cutoff, 1.0)
    window = (0.5 * (1 + np.cos(np.pi * distance))).astype(np.float32)
    phase = np.empty(image.shape, np.float32)
    for k in range(image.shape[2]):
        plane = np.ascontiguousarray(image[..., k])
        low = scipy.fft.ifft2(scipy.fft.fft2(plane, workers=1) * window, workers=1)
        phase[..., k] = np.angle(plane * low.conj())
    return phase


def susceptibility_weighted(magnitude: np.ndarray, phase: np.ndarray, power: int = 4) -> np.ndarray:
    """Magnitude times the phase mask to a power (Haacke et al., Magn Reson Med 2004;52:612).

    The mask falls from 1 at a phase of 0 to 0 at pi and is 1 for negative phases; paramagnetic phase is positive.
    """
    mask = 1 - np.clip(phase, 0, np.pi) / np.float32(np.pi)
    return magnitude * mask**power


def ghost(image: np.ndarray, spacing: tuple[float, float, float], amplitude_mm: float, cycles: float) -> np.ndarray:
    """Copies of the head along i, as a periodic motion along i during the phase encoding makes them.

    Each k-space line gets the phase of its shift (the Fourier shift theorem).

    Args:
        image: complex (i, j, k).
        spacing: voxel size in mm.
        amplitude_mm: amplitude of the sinusoidal shift.
        cycles: periods of the motion during the scan.
    """
    n = image.shape[0]
    frequency = np.fft.fftfreq(n, spacing[0])
    shift = amplitude_mm * np.sin(2 * np.pi * cycles * np.fft.fftshift(np.arange(n)) / n)
    factor = np.exp(-2j * np.pi * frequency * shift).astype(np.complex64)[:, None, None]
    return scipy.fft.ifft(scipy.fft.fft(image, axis=0, workers=1) * factor, axis=0, workers=1, overwrite_x=True)
