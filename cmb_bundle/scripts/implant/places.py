"""Where in a scan a microbleed may be put: in brain tissue, away from whatever is dark or bright there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

WORKING_MM = 1.0  # pixels smaller than this are averaged
BRIDGE_MM, WITHIN_MM = 3.5, 3.0  # erosion that parts brain from scalp; distance of a place from the brain's surface
AROUND_MM = 6.0  # standard deviation of the average that a pixel is compared with
DARK, BRIGHT = 0.75, 1.35  # of that average; veins, iron, lesions; vessels, fat, fluid in T2*-weighted scans
CLEAR_MM, APART_MM, EDGE_MM = 1.0, 3.0, 2.0


@dataclass(frozen=True)
class Place:
    """A place: continuous voxel (i, j, k)."""

    voxel: tuple[float, float, float]


def clearance(image: np.ndarray, head: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """
    Distance of each pixel from what a microbleed must keep away from.

    The brain is the largest piece of the bright part of the head after an erosion that parts it from the scalp; of an
    image whose skull was stripped it is all of it.

    Args:
        image: (i, j, k), SWI or magnitude.
        head: (i, j, k) bool.
        spacing: voxel size in mm.

    Returns:
        distance in mm from the brain's surface and from whatever differs from its surroundings, float32, on pixels
        that are averages of several where these are small; and how many those are along i, j, k.

    Example:
        >>> image = np.full((60, 60, 10), 100.0)
        >>> image[30, 30] = 20.0  # a vein along k
        >>> distance, step = clearance(image, np.ones(image.shape, bool), (1.0, 1.0, 2.0))
        >>> float(distance[30, 30, 5]), float(distance[34, 30, 5]), step.tolist()
        (0.0, 4.0, [1, 1, 1])
    """
    step = np.array([max(1, round(WORKING_MM / s)) for s in spacing[:2]] + [1])
    image, inside = (_averaged(v.astype(np.float32), step) for v in (image, head))
    size = np.array(spacing) * step
    inside = inside > 0.5
    if not inside.any():
        return np.zeros(image.shape, np.float32), step
    middle = float(np.median(image[inside & (image > 0.5 * image[inside].mean())]))
    tissue = inside & (image > 0.5 * middle)
    # sulci, veins and nuclei are no holes in the brain
    closed = ndimage.binary_closing(np.pad(tissue, 4), _disc(2.0, size))[4:-4, 4:-4, 4:-4] | tissue
    core = _distance(closed, size) > BRIDGE_MM
    parts, number = ndimage.label(core)
    if not number:
        return np.zeros(image.shape, np.float32), step
    core = parts == 1 + np.argmax(ndimage.sum_labels(core, parts, range(1, number + 1)))
    brain = _distance(~core, size) < BRIDGE_MM if not core.all() else core
    sigma = (AROUND_MM / size[0], AROUND_MM / size[1], 0)
    weight = ndimage.gaussian_filter((tissue & brain).astype(np.float32), sigma)
    around = ndimage.gaussian_filter(image * (tissue & brain), sigma) / np.maximum(weight, 1e-3)
    slight = ndimage.gaussian_filter(image, (0.4 / size[0], 0.4 / size[1], 0)) / np.maximum(around, 1e-6)
    usual = brain & (_distance(brain, size) > WITHIN_MM) & (slight > DARK) & (slight < BRIGHT)
    return _distance(usual, size), step


def place(
    distance: np.ndarray,
    step: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    diameter_mm: float,
    taken: Sequence[tuple[np.ndarray, float]],
    rng: np.random.Generator,
) -> Place | None:
    """
    Draw a place for a microbleed.

    Args:
        distance, step: of :func:`clearance`.
        shape: voxels (i, j, k) of the scan.
        spacing: voxel size in mm.
        diameter_mm: its diameter.
        taken: continuous voxels and radii in mm of those that are placed already.
        rng: source of randomness.

    Returns:
        a place at least 1 mm from what is dark or bright, 3 mm from other microbleeds, and a slice and 2 mm from the
        scan's ends; None where there is none.

    Example:
        >>> free = np.full((40, 40, 10), 9.0)
        >>> found = place(free, np.ones(3, int), (40, 40, 10), (1.0, 1.0, 2.0), 3.0, [], np.random.default_rng(1))
        >>> bool(3 < found.voxel[0] < 36), bool(1 <= found.voxel[2] <= 8)
        (True, True)
    """
    spacing = np.array(spacing)
    radius = diameter_mm / 2
    edge = np.array([*((radius + EDGE_MM) / spacing[:2]), 1.0])
    indices = np.argwhere(distance > radius + CLEAR_MM)
    centres = indices * step + (step - 1) / 2
    free = ((centres >= edge) & (centres <= np.array(shape) - 1 - edge)).all(axis=1)
    for other, size in taken:
        free &= np.linalg.norm((centres - other) * spacing, axis=1) > radius + size + APART_MM + spacing.max() / 2
    centres = centres[free]
    if not len(centres):
        return None
    voxel = centres[rng.integers(len(centres))] + rng.uniform(-0.5, 0.5, 3)
    voxel[2] = np.clip(voxel[2], 1, shape[2] - 2)
    return Place(tuple(round(float(v), 3) for v in voxel))


def _averaged(volume: np.ndarray, step: np.ndarray) -> np.ndarray:
    pad = [(0, -n % s) for n, s in zip(volume.shape, step, strict=True)]
    n = (np.array(volume.shape) + [p[1] for p in pad]) // step
    blocks = np.pad(volume, pad, mode="edge").reshape(n[0], step[0], n[1], step[1], n[2], step[2])
    return blocks.mean((1, 3, 5))


def _distance(inside: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Distance in mm to what is not inside, float32; the ends of the scan are no border."""
    if inside.all():
        return np.full(inside.shape, np.inf, np.float32)
    return ndimage.distance_transform_edt(inside, sampling=size).astype(np.float32)


def _disc(radius_mm: float, size: np.ndarray) -> np.ndarray:
    """A disc in the plane, bool (i, j, 1)."""
    i, j = (np.arange(-round(radius_mm / s), round(radius_mm / s) + 1) * s for s in size[:2])
    return (i[:, None, None] ** 2 + j[None, :, None] ** 2) <= radius_mm**2
