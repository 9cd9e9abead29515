"""What a microbleed does to the voxels of a scan: the simulator's spheres, seen as the scanner sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..phantom.acquire import slice_profile
from ..phantom.grid import Grid
from ..phantom.lesions import Lesion, signal_factor
from ..phantom.physics import homodyne

FINE_MM = 0.6  # widest step of the grid that the signal is computed on; each holds the mean over its sub-voxels
REACH_DIAMETERS = 3.0
FILTER_CUTOFF = 0.125  # cycles/mm; 64 lines of 256 mm, the usual homodyne filter
FILTER_MARGIN_MM = 20.0  # beyond which the low-pass of the filter sees nothing of a lesion
INTERPOLATED = 1.1  # ratio of resolution and voxel size from which k-space was filled with zeros


@dataclass(frozen=True)
class View:
    """How a scan sees what is in it.

    Attributes:
        spacing: voxel size (i, j, k) in mm; the slices lie along k, which is the direction of the main field.
        resolution: size in mm along i and j of what was acquired; larger than the voxel in a scan that was
            interpolated.
        gap_mm: gap between slices, a part of the spacing along k.
        field_tesla: main field.
        te_ms: echo time.
    """

    spacing: tuple[float, float, float]
    resolution: tuple[float, float]
    gap_mm: float = 0.0
    field_tesla: float = 3.0
    te_ms: float = 20.0


@dataclass(frozen=True)
class Change:
    """What a lesion multiplies the complex signal with.

    Attributes:
        window: slices into the scan, all that the lesion changes.
        factor: complex64, the shape of the window; 1 where nothing changes.
        filtered: the same with its phase high-pass filtered, as the phase of most SWI is.
    """

    window: tuple[slice, slice, slice]
    factor: np.ndarray
    filtered: np.ndarray


def change(lesions: Sequence[Lesion], view: View, shape: Sequence[int]) -> Change:
    """
    The change that a lesion makes in a scan.

    On a fine grid each step has the mean of exp(i phase) and decay of the spheres in it (the analytic field of a
    sphere). The scan sees this through its voxel in plane, through its slice profile and, where it was interpolated,
    without the frequencies that were not acquired. Its tissue is taken as smooth on the scale of a voxel. From 80 % of
    three diameters on the change is faded out; a lesion that is small for the slices keeps those that it lies in.

    Args:
        lesions: the lesion, and what belongs to it; centres in mm from the centre of voxel (0, 0, 0).
        view: how the scan sees.
        shape: voxels (i, j, k) of the scan.

    Example:
        >>> bleed = Lesion("microbleed", np.array([20.0, 20.0, 20.0]), 1.0, 3.0, 0.8, "")
        >>> seen = change([bleed], View((1.0, 1.0, 2.0), (1.0, 1.0)), (40, 40, 20))
        >>> [(part.start, part.stop) for part in seen.window]
        [(11, 30), (11, 30), (6, 15)]
        >>> bool(abs(seen.factor[9, 9, 4]) < 0.3), complex(seen.factor[0, 0, 0])  # in its middle, and far away
        (True, (1+0j))
    """
    spacing, main = np.array(view.spacing), lesions[0]
    limit = max(REACH_DIAMETERS * main.diameter, main.diameter / 2 + 1.2 * spacing.max())
    centre = main.centre / spacing
    low, high = np.ceil(centre - limit / spacing).astype(int), np.floor(centre + limit / spacing).astype(int) + 1
    seen = _sampled(lesions, view, low, high)
    away = [spacing[axis] * np.arange(low[axis], high[axis]) - main.centre[axis] for axis in range(3)]
    distance = np.sqrt(sum(part**2 for part in np.meshgrid(*away, indexing="ij", sparse=True)))
    fade = np.clip((limit - distance) / (0.2 * limit), 0, 1).astype(np.float32)
    margin = np.ceil(FILTER_MARGIN_MM / spacing[:2]).astype(int)
    padded = np.pad(seen, [(n, n) for n in margin] + [(0, 0)], constant_values=1)
    phase = homodyne(padded, view.spacing, FILTER_CUTOFF)[margin[0] : -margin[0], margin[1] : -margin[1]]
    factor = 1 + (seen - 1) * fade
    size = 1 + (np.abs(seen) - 1) * fade
    filtered = (size * np.exp(1j * phase * fade)).astype(np.complex64)
    ends = list(zip(low.tolist(), high.tolist(), map(int, shape), strict=True))
    inside = tuple(slice(max(0, -a), n - a) for a, _, n in ends)
    window = tuple(slice(max(0, a), min(b, n)) for a, b, n in ends)
    return Change(window, factor[inside].astype(np.complex64), filtered[inside])


def _sampled(lesions: Sequence[Lesion], view: View, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The complex factor at the voxels from low to high, complex64."""
    spacing = np.array(view.spacing)
    # an odd number of steps a voxel has one at the voxel's middle
    steps = np.ceil(spacing / FINE_MM - 1e-6).astype(int) // 2 * 2 + 1
    step = spacing / steps
    shape = (high - low) * steps
    fine = Grid(tuple(low * spacing - (steps - 1) / 2 * step), tuple(step), tuple(int(n) for n in shape))
    whole = np.ones(fine.shape, np.complex64)
    for lesion in lesions:
        part = signal_factor(lesion, fine, view.field_tesla, view.te_ms, 1.0)
        if part is not None:
            whole[part[0]] *= part[1]
    profile = slice_profile(int(steps[2]), view.spacing[2], view.gap_mm)
    whole = ndimage.correlate1d(whole, profile, axis=2, mode="constant", cval=1.0)[:, :, steps[2] // 2 :: steps[2]]
    spectrum = np.fft.fft2(whole - 1, axes=(0, 1))
    for axis, size in enumerate(view.resolution):
        frequency = np.fft.fftfreq(fine.shape[axis], step[axis])
        # a step is the mean over itself already
        window = np.sinc(frequency * size) / np.sinc(frequency * step[axis])
        if size > INTERPOLATED * spacing[axis]:
            window *= np.abs(frequency) <= 0.5 / size
        spectrum *= window.reshape([-1 if a == axis else 1 for a in range(3)])
    seen = 1 + np.fft.ifft2(spectrum, axes=(0, 1))
    return seen[steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]].astype(np.complex64)
