"""Microbleeds and their mimics: how many, how large, and what they do to the signal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .grid import Grid
from .physics import iron_cloud_r2star, radians_per_ppm, sphere_field

# Number of microbleeds in a positive scan: share, lowest, highest.
COUNT_CLASSES = ((0.49, 1, 1), (0.28, 2, 4), (0.10, 5, 10), (0.13, 11, 83))
DIAMETER_MEDIAN_MM, DIAMETER_SIGMA = 2.7, 0.36
SUSCEPTIBILITY_RANGE_PPM = (0.05, 2.0)
CRITICAL_PHASE = 2.6  # radians; see apparent_to_true_radius
NO_SIGNAL = 0.05  # of calcium and of a flow void


@dataclass(frozen=True)
class Lesion:
    """A sphere in scanner mm.

    Attributes:
        kind: "microbleed", "calcification", "mineral" (iron of old age), "flow_void", "vein", one of those that
            old_brain.py draws into the maps, or "focus", what in a susceptibility map may be a microbleed.
        centre: (3,) scanner mm.
        radius: true radius in mm.
        diameter: apparent diameter in mm.
        susceptibility: ppm against the surroundings.
        region: where it lies.
        profile: "" or one of PROFILES of variety.py.
        layers: concentric spheres that add up to the profile: radius over `radius`, susceptibility over
            `susceptibility`.
        decay: multiplies the decay within.
        pair: number of the pair of a microbleed and its twin, a calcification; None without one.
    """

    kind: str
    centre: np.ndarray
    radius: float
    diameter: float
    susceptibility: float
    region: str
    profile: str = ""
    layers: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    decay: float = 1.0
    pair: int | None = None

    @property
    def like_iron(self) -> bool:
        """Whether the signal within decays as about grains of iron, as in a microbleed and in its twin."""
        return self.kind in ("microbleed", "mineral") or self.pair is not None


def draw_count(rng: np.random.Generator) -> int:
    """Number of microbleeds of a positive scan; within the highest class log-uniform."""
    share, low, high = zip(*COUNT_CLASSES, strict=True)
    which = rng.choice(len(share), p=np.array(share) / sum(share))
    if high[which] <= 10:
        return int(rng.integers(low[which], high[which] + 1))
    return int(np.exp(rng.uniform(np.log(low[which]), np.log(high[which] + 1))))


def draw_diameter(rng: np.random.Generator) -> float:
    """Apparent diameter in mm: lognormal, kept within the 1 to 10 mm that readers call a microbleed."""
    while True:
        diameter = float(np.exp(rng.normal(np.log(DIAMETER_MEDIAN_MM), DIAMETER_SIGMA)))
        if 1.0 <= diameter <= 10.0:
            return diameter


def draw_susceptibility(rng: np.random.Generator) -> float:
    """Susceptibility of a microbleed in ppm: lognormal about 0.8, within the published range."""
    return float(np.clip(np.exp(rng.normal(np.log(0.8), 0.7)), *SUSCEPTIBILITY_RANGE_PPM))


def apparent_to_true_radius(diameter: float, susceptibility: float, field_tesla: float, te_ms: float) -> float:
    """True radius in mm of a sphere that looks a diameter wide.

    The sphere looks as large as the distance at which its equatorial phase, gamma B0 TE chi / 3 (a / r)^3, falls to
    CRITICAL_PHASE, and never smaller than it is. The apparent volume so grows in proportion to the echo time, near
    the factor 2.3 measured for a doubled echo time.

    Args:
        diameter: apparent diameter in mm.
        susceptibility: ppm, either sign.
        field_tesla: main field.
        te_ms: echo time.
    """
    blooming = radians_per_ppm(field_tesla, te_ms) * abs(susceptibility) / 3 / CRITICAL_PHASE
    return 0.5 * diameter * min(1.0, blooming ** (-1 / 3)) if blooming > 0 else 0.5 * diameter


def apparent_diameter(radius: float, susceptibility: float, field_tesla: float, te_ms: float) -> float:
    """How wide a sphere looks, in mm: the reverse of :func:`apparent_to_true_radius`.

    >>> radius = apparent_to_true_radius(4.0, 0.8, 3.0, 20.0)
    >>> round(apparent_diameter(radius, 0.8, 3.0, 20.0), 6), round(apparent_diameter(radius, 0.8, 3.0, 40.0), 2)
    (4.0, 5.04)

    Args:
        radius: true radius in mm.
        susceptibility: ppm, either sign.
        field_tesla: main field.
        te_ms: echo time.
    """
    blooming = radians_per_ppm(field_tesla, te_ms) * abs(susceptibility) / 3 / CRITICAL_PHASE
    return 2 * radius * max(1.0, blooming ** (1 / 3))


def companions(lesion: Lesion, rng: np.random.Generator) -> list[Lesion]:
    """Up to two small spheres that overlap a microbleed, so that it is round but not perfectly so."""
    others = []
    for _ in range(rng.integers(0, 3)):
        direction = rng.standard_normal(3)
        offset = direction / np.linalg.norm(direction) * lesion.radius * rng.uniform(0.6, 0.9)
        radius = lesion.radius * float(rng.uniform(0.25, 0.5))
        others.append(replace(lesion, centre=lesion.centre + offset, radius=radius))
    return others


def signal_factor(lesion: Lesion, grid: Grid, field_tesla: float, te_ms: float, scale: float) -> tuple | None:
    """What a lesion multiplies the complex signal of the fine grid with.

    Each voxel's factor is the mean over sub-voxels of exp(i phase) outside and of the decay inside, with the analytic
    field of the sphere, so that spheres smaller than a voxel are neither lost nor aliased.

    Args:
        lesion: the sphere.
        grid: the fine grid, scanner mm.
        field_tesla: main field.
        te_ms: echo time.
        scale: multiplies the susceptibility.

    Returns:
        Slices into the grid and the complex64 factor, or None if it touches no voxel.
    """
    chi = lesion.susceptibility * scale
    per_ppm = radians_per_ppm(field_tesla, te_ms)
    # Where the phase has fallen to 0.02 rad.
    reach = lesion.radius * max(1.5, (2 * per_ppm * abs(chi) / 3 / 0.02) ** (1 / 3)) + max(grid.step)
    centre = grid.index(lesion.centre[None])[0]
    span = reach / np.array(grid.step)
    low = np.maximum(np.floor(centre - span), 0).astype(int)
    high = np.minimum(np.ceil(centre + span) + 1, grid.shape).astype(int)
    if (high <= low).any():
        return None
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = [grid.origin[d] + grid.step[d] * np.arange(low[d], high[d]) - lesion.centre[d] for d in range(3)]
    offset = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    factor = np.exp(1j * per_ppm * _layered_field(lesion, offset, chi)).astype(np.complex64)
    near = (offset**2).sum(0) < (2.5 * max(lesion.radius, 0.4) + max(grid.step)) ** 2
    n = int(np.clip(np.ceil(max(grid.step) / (0.25 * lesion.radius)), 3, 8))
    sub = (np.arange(n) + 0.5) / n - 0.5
    sub = np.stack(np.meshgrid(*(sub * s for s in grid.step), indexing="ij")).reshape(3, 1, -1)
    points = (offset[:, near][..., None] + sub).astype(np.float32)
    attenuation = _attenuation(lesion, (points**2).sum(0), chi, field_tesla, te_ms)
    signal = attenuation * np.exp(1j * per_ppm * _layered_field(lesion, points, chi))
    factor[near] = signal.mean(-1)
    return window, factor


def _layered_field(lesion: Lesion, offset: np.ndarray, chi: float) -> np.ndarray:
    """Field in ppm of the concentric spheres of a lesion; fields add up."""
    return sum(sphere_field(offset, lesion.radius * size, chi * share) for size, share in lesion.layers)


def _attenuation(lesion: Lesion, r2: np.ndarray, chi: float, field_tesla: float, te_ms: float) -> np.ndarray:
    """What is left of the magnitude at squared distances (mm^2) from a lesion's centre."""
    if not lesion.like_iron:
        return np.where(r2 < lesion.radius**2, NO_SIGNAL, 1)
    exponent = te_ms * 1e-3 * iron_cloud_r2star(chi, field_tesla) * lesion.decay
    if len(lesion.layers) == 1:
        return np.where(r2 < lesion.radius**2, np.exp(-exponent), 1)
    iron = sum(np.where(r2 < (size * lesion.radius) ** 2, share, 0.0) for size, share in lesion.layers)
    return np.exp(-exponent * iron)
