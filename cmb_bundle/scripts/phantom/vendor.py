"""What comes after the reconstruction: grey values, masks and what stands outside the head."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .grid import Grid, resample
from .spec import PhantomSpec

MAGNITUDE_WHITE = 600.0  # stored value of white matter at 12 bits
FULL_SCALE_PERCENTILE = 99.8  # of the grey values, stored as the largest value at other depths
HEAD_SIGNAL = 0.1  # over white matter's; below it lies air


def head_mask(image: np.ndarray) -> np.ndarray:
    """Where the noise-free complex image (i, j, k) shows a head, without holes in any slice."""
    seen = ndimage.gaussian_filter(np.abs(image), (1, 1, 0)) > HEAD_SIGNAL
    seen = ndimage.binary_closing(seen, np.ones((5, 5, 1)))
    return np.stack([ndimage.binary_fill_holes(seen[..., k]) for k in range(seen.shape[2])], axis=2)


def rough_mask(distance: np.ndarray, spacing: tuple, reach_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A brain mask as a hasty tool makes it: it cuts into the brain here and leaves skull there.

    Args:
        distance: signed distance to the brain's surface in mm, (i, j, k).
        spacing: voxel size in mm.
        reach_mm: how far the mask strays, about twice the standard deviation of its error.
        rng: source of randomness.

    Returns:
        bool (i, j, k).
    """
    size = [max(int(n * d / 15), 1) + 2 for n, d in zip(distance.shape, spacing, strict=True)]
    coarse = rng.standard_normal(size).astype(np.float32)
    grid = Grid((0.0,) * 3, (1.0,) * 3, tuple(size))
    error = resample(coarse, grid, [np.linspace(0, s - 1, n) for s, n in zip(size, distance.shape, strict=True)])
    return distance + 0.5 * reach_mm / max(float(error.std()), 1e-6) * error < 0.5


def _grey(volume: np.ndarray, coil: np.ndarray, spacing: tuple, spec: PhantomSpec) -> np.ndarray:
    how = spec.processing
    if how.normalise:
        volume = volume / coil**how.normalise
    if how.unsharp:
        sigma = [how.unsharp_mm / d for d in spacing[:2]]
        volume = np.maximum(volume + how.unsharp * (volume - ndimage.gaussian_filter(volume, (*sigma, 0))), 0)
    if how.gamma != 1:
        volume = volume**how.gamma
    return volume


def _quantised(volume: np.ndarray, bits: int) -> np.ndarray:
    top = 2**bits - 1
    scale = MAGNITUDE_WHITE if bits == 12 else top / max(float(np.percentile(volume, FULL_SCALE_PERCENTILE)), 1e-6)
    return np.clip(np.rint(volume * scale), 0, top).astype(np.int16 if bits < 16 else np.uint16)


def finish(
    volumes: dict[str, np.ndarray],
    coil: np.ndarray,
    head: np.ndarray | None,
    kept: np.ndarray | None,
    spacing: tuple[float, float, float],
    spec: PhantomSpec,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Magnitude and SWI as stored integers (floats with NaN), phase as radians, masked.

    Args:
        volumes: "Magnitude", "SWI" and "Phase" in units of white matter and radians.
        coil: sensitivity on the same grid.
        head: where the head lies; None if nothing stands outside it but what was measured.
        kept: mask of a stripped skull, None without one.
        spacing: voxel size in mm.
        spec: the processing.
        rng: source of the noise outside.
    """
    how, out = spec.processing, dict(volumes)
    shape = out["Magnitude"].shape
    outside = None
    if kept is not None:
        outside = ~kept
    elif head is not None and how.outside != "keep":
        outside = ~head
    empty = np.zeros(shape[2], bool)
    empty[: how.empty_slices[0]] = True
    empty[shape[2] - how.empty_slices[1] :] = True
    for name in ("Magnitude", "SWI"):
        grey = _grey(out[name], coil, spacing, spec)
        if outside is not None:
            grey = grey * ~outside
            if how.outside == "noise":
                # Three times the noise of the image: the amplifier's, scaled up where the coils see nothing.
                noise = rng.rayleigh(3 / spec.snr, int(outside.sum()))
                grey[outside] = noise.astype(np.float32)
        grey[..., empty] = 0
        out[name] = _quantised(grey, how.bits)
    if outside is not None:
        out["Phase"] = out["Phase"] * ~outside
        if how.outside == "noise":
            out["Phase"][outside] = rng.uniform(-np.pi, np.pi, int(outside.sum())).astype(np.float32)
    out["Phase"][..., empty] = 0
    if how.outside == "nan" and outside is not None:
        nowhere = outside | empty
        for name in out:
            if name != "Phase" or spec.phase_scale in ("pi", "odd"):
                out[name] = np.where(nowhere, np.nan, out[name]).astype(np.float32)
    return out
