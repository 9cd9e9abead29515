"""Microbleeds and their mimics: how many, how large, where, and what they do to the signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .anatomy import Grid, Head, ellipsoid
from .physics import iron_cloud_r2star, radians_per_ppm, sphere_field
from .veins import Vessels

REGION_SHARE = {"lobar": 0.73, "deep": 0.13, "infratentorial": 0.13}
# Number of microbleeds in a positive scan: share, lowest, highest.
COUNT_CLASSES = ((0.49, 1, 1), (0.28, 2, 4), (0.10, 5, 10), (0.13, 11, 83))
DIAMETER_MEDIAN_MM, DIAMETER_SIGMA = 2.7, 0.36
SUSCEPTIBILITY_RANGE_PPM = (0.05, 2.0)
CRITICAL_PHASE = 0.9  # radians; see apparent_to_true_radius


@dataclass(frozen=True)
class Lesion:
    """A sphere in scanner mm.

    Attributes:
        kind: "microbleed", "calcification", "flow_void" or "vein".
        centre: (3,) scanner mm.
        radius: true radius in mm.
        diameter: apparent diameter in mm.
        susceptibility: ppm against the surroundings.
        region: where it lies.
    """

    kind: str
    centre: np.ndarray
    radius: float
    diameter: float
    susceptibility: float
    region: str


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
    """Susceptibility of a microbleed in ppm: lognormal about 0.5, within the published range."""
    return float(np.clip(np.exp(rng.normal(np.log(0.5), 0.6)), *SUSCEPTIBILITY_RANGE_PPM))


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


def region_of(template_mm: np.ndarray) -> np.ndarray:
    """Region name for template mm (3, n): infratentorial under a tent-shaped surface, deep by an ellipsoid."""
    x, y, z = np.abs(template_mm[0]), template_mm[1], template_mm[2]
    tent = 1.0 - 0.5 * x - 0.45 * np.maximum(-55 - y, 0)
    cerebellum = (y < -36) & (z < np.minimum(tent, 0))
    brainstem = (x < 16) & (y < -10) & (y >= -45) & (z < -8)
    deep = ellipsoid(template_mm, (0.0, -6.0, 6.0), (36.0, 32.0, 17.0)) < 0
    return np.where(cerebellum | brainstem, "infratentorial", np.where(deep, "deep", "lobar"))


def _sample(volume: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Nearest values (n,) of a head map at scanner mm (n, 3)."""
    index = np.clip(np.rint(grid.index(points)).astype(int), 0, np.array(grid.shape) - 1)
    return volume[tuple(index.T)]


def _near(head: Head, template_point: tuple, rng: np.random.Generator, spread: float) -> np.ndarray | None:
    """Scanner mm of the voxel nearest to a jittered template point; None if that is outside the maps."""
    target = np.array(template_point) + rng.normal(0, spread, 3)
    d2 = ((head.template_mm - target[:, None, None, None].astype(np.float32)) ** 2).sum(0)
    best = np.unravel_index(np.argmin(d2), d2.shape)
    if d2[best] > 1.5:
        return None
    return np.array(head.grid.origin) + np.array(head.grid.step) * best


class Placer:
    """Chooses places inside a box of scanner mm, away from each other and from visible veins."""

    def __init__(self, head: Head, veins: Vessels, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> None:
        """Sample candidate places.

        Args:
            head: the subject's maps.
            veins: the subject's veins.
            low: lowest corner of the box.
            high: highest corner.
            rng: source of randomness.
        """
        self.head, self.rng = head, rng
        self.low, self.high = low, high
        points = rng.uniform(low, high, (60_000, 3))
        inside = _sample(head.brain_distance, head.grid, points) < -2.5
        self.points = points[inside]
        self.white = _sample(head.white, head.grid, self.points)
        self.fluid = _sample(head.fluid, head.grid, self.points)
        iron = _sample(head.iron, head.grid, self.points)
        template = np.stack([_sample(t, head.grid, self.points) for t in head.template_mm])
        self.region = region_of(template)
        self.near_midline = np.abs(template[0]) < 3
        thick = veins.radii > 0.3
        tree = cKDTree(veins.points[thick])
        self.vein_distance, _ = tree.query(self.points, distance_upper_bound=12, workers=1)
        self.iron = iron
        self.taken: list[tuple[np.ndarray, float]] = []

    def free(self, points: np.ndarray, radius: float, gap: float = 3.0) -> np.ndarray:
        """Whether spheres of a radius at points (n, 3) keep a gap to all that is placed."""
        result = np.ones(len(points), bool)
        for centre, other in self.taken:
            result &= np.linalg.norm(points - centre, axis=1) > radius + other + gap
        return result

    def take(self, centre: np.ndarray, radius: float) -> None:
        """Mark a place as taken."""
        self.taken.append((centre, radius))

    def inside(self, centre: np.ndarray) -> bool:
        """Whether a point lies in the box."""
        return bool(((centre >= self.low) & (centre <= self.high)).all())

    def place(self, weights: np.ndarray, radius: float, vein_gap: float | None) -> int | None:
        """Draw a place with weights; None if there is none."""
        weights = weights * self.free(self.points, radius)
        if vein_gap is not None:
            weights = weights * (self.vein_distance > radius + vein_gap)
        if weights.sum() <= 0:
            return None
        chosen = int(self.rng.choice(len(weights), p=weights / weights.sum()))
        self.take(self.points[chosen], radius)
        return chosen


def place_microbleeds(placer: Placer, count: int, field_tesla: float, te_ms: float) -> list[Lesion]:
    """Microbleeds in parenchyma; a lobar one prefers the border of grey and white matter.

    Args:
        placer: where they may lie.
        count: how many; fewer are placed if there is no room.
        field_tesla: main field.
        te_ms: echo time.
    """
    white, rng = placer.white, placer.rng
    tissue = (placer.fluid < 0.15) & (placer.iron < 0.09) & ~placer.near_midline
    border = 0.35 + 4 * white * (1 - white)
    present = {r: (tissue & (placer.region == r)).mean() > 0.004 for r in REGION_SHARE}
    names = [r for r in REGION_SHARE if present[r]]
    share = np.array([REGION_SHARE[r] for r in names])
    lesions = []
    for _ in range(count):
        if not names:
            break
        region = names[rng.choice(len(names), p=share / share.sum())]
        diameter, chi = draw_diameter(rng), draw_susceptibility(rng)
        weights = tissue * (placer.region == region) * (border if region == "lobar" else 1.0)
        index = placer.place(weights, diameter / 2, 1.0)
        if index is None:
            continue
        radius = apparent_to_true_radius(diameter, chi, field_tesla, te_ms)
        lesions.append(Lesion("microbleed", placer.points[index], radius, diameter, chi, region))
    return lesions


# Physiological calcifications: template mm, jitter in mm, probability (Daghighi et al., Acta Radiol 2007;48:792:
# pineal 71 %, choroid plexus 66 %, falx 7 %; pallidum about 1 to 5 %, here more often to serve as a hard mimic).
CALCIFICATIONS = (
    ("pineal", (0.0, -31.0, 4.0), 1.0, 0.65),
    ("choroid plexus", (27.0, -42.0, 10.0), 2.0, 0.5),
    ("choroid plexus", (-27.0, -42.0, 10.0), 2.0, 0.5),
    ("falx", (0.0, 35.0, 42.0), 12.0, 0.15),
    ("pallidum", (18.5, -3.0, -1.0), 1.5, 0.12),
    ("pallidum", (-18.5, -3.0, -1.0), 1.5, 0.12),
)


def place_mimics(placer: Placer, field_tesla: float, te_ms: float) -> tuple[list[Lesion], list[Vessels]]:
    """Calcifications, flow voids and veins cut across; the last come as veins that run along the slice normal.

    Args:
        placer: where they may lie.
        field_tesla: main field.
        te_ms: echo time.
    """
    rng, mimics, cut_veins = placer.rng, [], []
    for name, point, jitter, probability in CALCIFICATIONS:
        wanted = rng.random() < probability
        diameter, chi = float(rng.uniform(1.5, 4.5)), -float(rng.uniform(0.5, 2.0))
        if name == "falx":
            point = (0.0, point[1] + rng.normal(0, 15), point[2])
        centre = _near(placer.head, point, rng, jitter * np.array([0.2 if name == "falx" else 1, 1, 1]))
        if not wanted or centre is None or not placer.inside(centre) or not placer.free(centre[None], diameter / 2)[0]:
            continue
        placer.take(centre, diameter / 2)
        radius = apparent_to_true_radius(diameter, chi, field_tesla, te_ms)
        mimics.append(Lesion("calcification", centre, radius, diameter, chi, name))
    for _ in range(rng.poisson(1.5)):
        diameter = float(rng.uniform(1.2, 3.0))
        index = placer.place((placer.fluid > 0.6) * 1.0, diameter / 2, None)
        if index is not None:
            mimics.append(Lesion("flow_void", placer.points[index], diameter / 2, diameter, 0.0, "fluid"))
    for _ in range(rng.poisson(4)):
        radius, half = float(rng.uniform(0.35, 0.9)), float(rng.uniform(2.0, 6.0))
        index = placer.place((placer.fluid < 0.9) * (0.1 + placer.fluid), radius, 0.5)
        if index is None:
            continue
        centre = placer.points[index]
        lean = np.array([*rng.normal(0, 0.15, 2), 1.0])
        t = np.arange(-half, half, 0.2)[:, None]
        cut_veins.append(Vessels(centre + t * lean, np.full(len(t), radius, np.float32)))
        mimics.append(Lesion("vein", centre, radius, 2 * radius, 0.0, "vein"))
    return mimics, cut_veins


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
    factor = np.exp(1j * per_ppm * sphere_field(offset, lesion.radius, chi)).astype(np.complex64)
    near = (offset**2).sum(0) < (2.5 * max(lesion.radius, 0.4) + max(grid.step)) ** 2
    n = int(np.clip(np.ceil(max(grid.step) / (0.25 * lesion.radius)), 3, 8))
    sub = (np.arange(n) + 0.5) / n - 0.5
    sub = np.stack(np.meshgrid(*(sub * s for s in grid.step), indexing="ij")).reshape(3, 1, -1)
    points = (offset[:, near][..., None] + sub).astype(np.float32)
    inside = (points**2).sum(0) < lesion.radius**2
    r2star = iron_cloud_r2star(chi, field_tesla)
    decay = {"microbleed": np.exp(-te_ms * 1e-3 * r2star), "calcification": 0.05, "flow_void": 0.05}[lesion.kind]
    signal = np.where(inside, decay, 1) * np.exp(1j * per_ppm * sphere_field(points, lesion.radius, chi))
    factor[near] = signal.mean(-1)
    return window, factor
