"""Where microbleeds and their mimics lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from .anatomy import Head, ellipsoid
from .grid import Grid
from .lesions import Lesion, apparent_to_true_radius, draw_diameter, draw_susceptibility
from .profiles import twin, with_profile
from .variety import Content
from .veins import Vessels

REGION_SHARE = {"lobar": 0.73, "deep": 0.13, "infratentorial": 0.13}
SHELTERED, ANYWHERE = "sheltered", "anywhere"
DEPTH_MM = {SHELTERED: 2.5, ANYWHERE: 1.5}
# Radians of background phase across a slice; at pi about a third of the signal is lost.
STEEPEST = {SHELTERED: 1.5, ANYWHERE: 2.5}
MOST_FLUID = {SHELTERED: 0.15, ANYWHERE: 0.4}
# More ppm than that are in the pallidum, whose grains of mineral cannot be told from microbleeds.
MOST_IRON = {SHELTERED: 0.09, ANYWHERE: 0.13}
AGAINST_VEIN_MM, PREFERENCE = 1.0, 20.0


def region_of(template_mm: np.ndarray) -> np.ndarray:
    """Region name for template mm (3, n): infratentorial under a tent-shaped surface, deep by an ellipsoid."""
    x, y, z = np.abs(template_mm[0]), template_mm[1], template_mm[2]
    tent = 1.0 - 0.5 * x - 0.45 * np.maximum(-55 - y, 0)
    cerebellum = (y < -36) & (z < np.minimum(tent, 0))
    brainstem = (x < 16) & (y < -10) & (y >= -45) & (z < -8)
    deep = ellipsoid(template_mm, (0.0, -6.0, 6.0), (36.0, 32.0, 17.0)) < 0
    return np.where(cerebellum | brainstem, "infratentorial", np.where(deep, "deep", "lobar"))


def _sample(volume: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Nearest values (n,) of a map at scanner mm (n, 3)."""
    index = np.clip(np.rint(grid.index(points)).astype(int), 0, np.array(grid.shape) - 1)
    return volume[tuple(index.T)]


def near(head: Head, template_point: tuple, rng: np.random.Generator, spread: float) -> np.ndarray | None:
    """Scanner mm of the voxel nearest to a jittered template point; None if that is outside the maps."""
    target = np.array(template_point) + rng.normal(0, spread, 3)
    d2 = ((head.template_mm - target[:, None, None, None].astype(np.float32)) ** 2).sum(0)
    best = np.unravel_index(np.argmin(d2), d2.shape)
    if d2[best] > 1.5:
        return None
    return np.array(head.grid.origin) + np.array(head.grid.step) * best


class Placer:
    """Chooses places inside a box of scanner mm, away from each other and from visible veins."""

    def __init__(
        self,
        head: Head,
        veins: Vessels,
        steepness: tuple[np.ndarray, Grid],
        low: np.ndarray,
        high: np.ndarray,
        rng: np.random.Generator,
        where: str = SHELTERED,
    ) -> None:
        """Sample candidate places.

        Args:
            head: the subject's maps.
            veins: the subject's veins.
            steepness: radians of background phase across a slice, and the grid of that map.
            low: lowest corner of the box.
            high: highest corner.
            rng: source of randomness.
            where: "sheltered" or "anywhere", see :attr:`~.variety.Content.anywhere`.
        """
        self.head, self.rng, self.where = head, rng, where
        self.low, self.high = low, high
        self.made_of = head, veins, steepness, low, high, rng
        points = rng.uniform(low, high, (60_000, 3))
        inside = _sample(head.brain_distance, head.grid, points) < -DEPTH_MM[where]
        # No reader sees a microbleed within the loss of signal above an air cavity.
        inside &= _sample(*steepness, points) < STEEPEST[where]
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

    def anywhere(self) -> Placer:
        """One that chooses places anywhere in the tissue; what either of them takes is taken for both."""
        other = Placer(*self.made_of, where=ANYWHERE)
        other.taken = self.taken
        return other

    def tissue(self) -> np.ndarray:
        """Which points microbleeds may lie at."""
        tissue = (self.fluid < MOST_FLUID[self.where]) & (self.iron < MOST_IRON[self.where])
        return tissue if self.where == ANYWHERE else tissue & ~self.near_midline

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


def place_microbleeds(
    placer: Placer, count: int, field_tesla: float, te_ms: float, content: Content | None = None
) -> list[Lesion]:
    """Microbleeds in parenchyma; a lobar one prefers the border of grey and white matter.

    Args:
        placer: where they may lie.
        count: how many; fewer are placed if there is no room.
        field_tesla: main field.
        te_ms: echo time.
        content: profiles and sizes, and how many have a calcified twin, which follows its microbleed in the list.
    """
    content = content or Content()
    pairs, rng = 0, placer.rng
    anywhere = placer.anywhere() if content.anywhere else None
    present = {r: (placer.tissue() & (placer.region == r)).mean() > 0.004 for r in REGION_SHARE}
    names = [r for r in REGION_SHARE if present[r]]
    share = np.array([REGION_SHARE[r] for r in names])
    lesions = []
    for _ in range(count):
        if not names:
            break
        region = names[rng.choice(len(names), p=share / share.sum())]
        diameter, chi = float(np.clip(draw_diameter(rng), *content.diameter_range_mm)), draw_susceptibility(rng)
        chooser = anywhere if anywhere is not None and rng.random() < content.anywhere else placer
        weights, vein_gap = chooser.tissue() * (chooser.region == region) * 1.0, 1.0
        if region == "lobar":
            weights *= 0.35 + 4 * chooser.white * (1 - chooser.white)
        if chooser is anywhere:
            # The vein may run along the microbleed's edge, or just into it.
            vein_gap = -0.15 * diameter
            weights *= 1 + PREFERENCE * (chooser.vein_distance < diameter / 2 + AGAINST_VEIN_MM)
        index = chooser.place(weights, diameter / 2, vein_gap)
        if index is None:
            continue
        radius = apparent_to_true_radius(diameter, chi, field_tesla, te_ms)
        lesion = Lesion("microbleed", chooser.points[index], radius, diameter, chi, region)
        if content.profiles:
            lesion = with_profile(lesion, str(rng.choice(content.profiles)), content.decay, field_tesla, te_ms, rng)
        other = chooser.place(weights, diameter / 2, vein_gap) if pairs < content.pairs else None
        if other is None:
            lesions.append(lesion)
            continue
        pairs += 1
        lesions += [replace(lesion, pair=pairs), twin(lesion, chooser.points[other], pairs)]
    return lesions


# Physiological calcifications: template mm, jitter in mm, probability. Daghighi et al., Folia Morphol 2007;66:115:
# pineal 71 %, choroid plexus 66 %, falx and dura 7 %, basal ganglia 0.8 %; the two last are made more often than that,
# for they are the mimics that lie where a microbleed may.
CALCIFICATIONS = (
    ("pineal", (0.0, -31.0, 4.0), 1.0, 0.65),
    ("choroid plexus", (27.0, -42.0, 10.0), 2.0, 0.5),
    ("choroid plexus", (-27.0, -42.0, 10.0), 2.0, 0.5),
    ("falx", (0.0, 25.0, 48.0), 8.0, 0.15),
    ("pallidum", (18.5, -3.0, -1.0), 1.5, 0.12),
    ("pallidum", (-18.5, -3.0, -1.0), 1.5, 0.12),
)


ARTERY_MM, VEIN_MM = (4.0, 12.0), (8.0, 20.0)
"""How far a vessel goes on: a flow void to either side of its middle, a cut vein beyond either end."""


def course(
    head: Head, start: np.ndarray, heading: np.ndarray, length: float, step: float, rng: np.random.Generator
) -> np.ndarray:
    """The way of a small vessel, which winds through the fluid of its sulcus.

    Args:
        head: maps of the subject.
        start: scanner mm.
        heading: its first direction; of several, one for each row, that with most fluid ahead.
        length: of the way, mm.
        step: between two points, mm.
        rng: source of randomness.

    Returns:
        (n, 3) points in scanner mm, without the start.
    """
    way, headings = [start], np.atleast_2d(heading)
    for _ in np.arange(step, length, step):
        headings = headings / np.linalg.norm(headings, axis=1, keepdims=True)
        fluid = sum(_sample(head.fluid, head.grid, way[-1] + reach * headings) for reach in (1.0, 2.5))
        heading = headings[np.argmax(fluid + rng.uniform(0, 0.2, len(headings)))]
        way.append(way[-1] + step * heading)
        headings = heading + rng.normal(0, 0.3, (8, 3))
    return np.array(way[1:]).reshape(-1, 3)


def artery_of(void: Lesion, head: Head, rng: np.random.Generator) -> list[Lesion]:
    """The spheres that make a flow void a piece of an artery: a dot on one slice goes on beside it on the next.

    Args:
        void: its middle.
        head: maps of the subject.
        rng: source of randomness.
    """
    step, first = 0.6 * void.radius, rng.standard_normal((12, 3))
    there = course(head, void.centre, first, rng.uniform(*ARTERY_MM), step, rng)
    back = course(head, void.centre, void.centre - there[0], rng.uniform(*ARTERY_MM), step, rng)
    return [
        replace(void, centre=place, radius=radius)
        for way in (there, back)
        for place, radius in zip(way, np.linspace(1.0, 0.6, len(way)) * void.radius, strict=True)
    ]


def continued(vein: Vessels, head: Head, rng: np.random.Generator) -> Vessels:
    """A piece of a vein that was drawn straight, with its further way beyond both ends, ever thinner.

    Args:
        vein: the piece.
        head: maps of the subject.
        rng: source of randomness.
    """
    points, radii = [vein.points], [vein.radii]
    for end, before in ((0, 1), (-1, -2)):
        way = course(head, vein.points[end], vein.points[end] - vein.points[before], rng.uniform(*VEIN_MM), 0.2, rng)
        points.append(way)
        radii.append(np.linspace(1.0, 0.4, len(way), dtype=np.float32) * vein.radii[end])
    return Vessels(np.concatenate(points), np.concatenate(radii))


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
        centre = near(placer.head, point, rng, jitter * np.array([0.2 if name == "falx" else 1, 1, 1]))
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
