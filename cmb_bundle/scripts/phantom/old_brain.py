"""Large lesions of old brains that are no microbleeds, drawn into the tissue maps; and small mimics in greater numbers.

Sizes and shares: lacune 3-15 mm (STRIVE-2, Duering et al., Lancet Neurol 2023;22:602); superficial siderosis follows
the surface of neighbouring gyri (Linn et al., Neurology 2010;74:1346); a haemorrhage of more than 10 mm is no
microbleed (Greenberg et al., Lancet Neurol 2009;8:165); a cavernoma has a mixed core and a full rim of haemosiderin
(type II of Zabramski et al., J Neurosurg 1994;80:422). Susceptibility of haemosiderin about 0.5-1.5 ppm in bulk, in the
range that is published for microbleeds.
"""

from __future__ import annotations

import numpy as np

from .anatomy import Head, soft
from .lesions import Lesion, apparent_to_true_radius
from .placement import Placer, near, region_of
from .variety import Content
from .veins import Vessels

EDGE_MM = 8.0  # large lesions keep so far from the ends of the box


def _somewhere(head: Head, where: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator):
    """Scanner mm of a random voxel of a mask within a box; None if there is none."""
    axes = [head.grid.axis(d) for d in range(3)]
    i, j, k = ((a >= lo) & (a <= hi) for a, lo, hi in zip(axes, low, high, strict=True))
    index = np.argwhere(where & i[:, None, None] & j[:, None] & k)
    if not len(index):
        return None
    return np.array(head.grid.origin) + np.array(head.grid.step) * index[rng.integers(len(index))]


def _window(head: Head, centre: np.ndarray, reach: float) -> tuple[slice, ...]:
    """Slices of the head's grid within a reach in mm of a centre."""
    index = head.grid.index(centre[None])[0]
    low = np.maximum(np.floor(index - reach / np.array(head.grid.step)), 0).astype(int)
    high = np.ceil(index + reach / np.array(head.grid.step)).astype(int) + 1
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _distance(head: Head, window: tuple, centre: np.ndarray, axes: np.ndarray, rng: np.random.Generator, rough: float):
    """Signed distance in mm, float32 over a window, to an ellipsoid of semi-axes with a rough surface."""
    offset = [head.grid.axis(d)[window[d]] - centre[d] for d in range(3)]
    x, y, z = np.meshgrid(*offset, indexing="ij", sparse=True)
    signed = (np.sqrt((x / axes[0]) ** 2 + (y / axes[1]) ** 2 + (z / axes[2]) ** 2) - 1) * min(axes)
    waves = np.zeros((1, 1, 1))
    for c, p in zip(rng.normal(0, 2.5 / max(axes), (4, 3)), rng.uniform(0, 6.3, 4), strict=True):
        waves = waves + np.sin(c[0] * x + c[1] * y + c[2] * z + p)
    return (signed + rough * min(axes) * 0.5 * waves).astype(np.float32)


def _cavity(head: Head, window: tuple, share: np.ndarray) -> None:
    head.fluid[window] = np.maximum(head.fluid[window], share)
    head.white[window] *= 1 - share
    head.iron[window] *= 1 - share


def _record(head: Head, kind: str, centre: np.ndarray, radius: float, chi: float) -> Lesion:
    index = np.clip(np.rint(head.grid.index(centre[None])[0]).astype(int), 0, np.array(head.grid.shape) - 1)
    region = str(region_of(head.template_mm[(slice(None), *index)][:, None])[0])
    return Lesion(kind, centre, radius, 2 * radius, chi, region)


def draw_large(
    head: Head, content: Content, low: np.ndarray, high: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray | None, list[Lesion]]:
    """Draw lacunes, siderosis, haemorrhages and cavernomas into a head's maps, which change in place.

    Args:
        head: maps of the subject.
        content: how many of each.
        low: lowest corner of the box that they lie in, scanner mm.
        high: highest corner.
        rng: source of randomness.

    Returns:
        Added susceptibility in ppm on the head's grid (None without any), and what was drawn, for the truth.
    """
    if not (content.lacunes or content.siderosis or content.haemorrhages or content.cavernomas):
        return None, []
    iron, drawn = np.zeros(head.grid.shape, np.float32), []
    margin = np.minimum(EDGE_MM, (np.asarray(high) - low) / 4)
    box = (np.asarray(low) + margin, np.asarray(high) - margin)
    tissue = (head.fluid < 0.1) & (head.brain_distance < -4)
    deep = tissue & (region_of(head.template_mm.reshape(3, -1)).reshape(head.grid.shape) == "deep")
    white = tissue & (head.white > 0.7) & (head.brain_distance < -10)
    for _ in range(content.haemorrhages):
        centre = _somewhere(head, tissue & (head.brain_distance < -8), *box, rng)
        if centre is not None:
            axes, chi = rng.uniform(6, 18, 3) * np.array([0.7, 1.0, 0.8]), float(rng.uniform(0.6, 1.5))
            window = _window(head, centre, 2 * max(axes) + 4)
            signed, inside = _distance(head, window, centre, axes, rng, 0.15), head.brain_distance[window] < -1
            # A wall of haemosiderin, stained tissue within, and a cavity of fluid in part of it.
            iron[window] += (chi * soft(np.abs(signed + 1.0) - 1.0, 1.5) + 0.25 * chi * soft(signed + 2)) * inside
            depth, fluid = float(rng.uniform(2, 5)), float(rng.uniform(0.3, 1))
            _cavity(head, window, fluid * soft(signed + depth, 2.0) * inside)
            drawn.append(_record(head, "haemorrhage", centre, float(max(axes)), chi))
    for _ in range(content.cavernomas):
        centre = _somewhere(head, tissue, *box, rng)
        if centre is not None:
            radius, chi = float(rng.uniform(3.5, 10)), float(rng.uniform(0.6, 1.4))
            window = _window(head, centre, 1.6 * radius + 3)
            signed = _distance(head, window, centre, radius * rng.uniform(0.8, 1, 3), rng, 0.1)
            iron[window] += chi * soft(np.abs(signed) - 0.8, 1.5)
            for _ in range(rng.integers(6, 15)):
                direction = rng.standard_normal(3)
                at = centre + direction / np.linalg.norm(direction) * radius * rng.uniform(0, 0.7)
                size = np.full(3, rng.uniform(0.2, 0.4) * radius)
                cell = soft(_distance(head, window, at, size, rng, 0.0)) * (signed < 0)
                if rng.random() < 0.5:
                    iron[window] += 0.5 * chi * cell
                else:
                    _cavity(head, window, 0.6 * cell)
            drawn.append(_record(head, "cavernoma", centre, radius, chi))
    for _ in range(content.lacunes):
        centre = _somewhere(head, deep if rng.random() < 0.6 else white, *box, rng)
        if centre is not None:
            axes = rng.uniform(1.5, 7.5, 3) * np.array([0.8, 1.0, 0.8])
            window = _window(head, centre, 1.5 * max(axes) + 3)
            signed = _distance(head, window, centre, axes, rng, 0.1)
            _cavity(head, window, soft(signed))
            # A rim of old blood in some.
            chi = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.2 else 0.0
            iron[window] += chi * soft(np.abs(signed) - 0.5)
            drawn.append(_record(head, "lacune", centre, float(max(axes)), chi))
    for _ in range(content.siderosis):
        surface = (head.brain_distance > -5) & (head.brain_distance < -1) & (head.fluid > 0.2)
        centre = _somewhere(head, surface & (head.template_mm[2] > 5), *box, rng)
        if centre is not None:
            radius, chi = float(rng.uniform(10, 28)), float(rng.uniform(0.4, 1.2))
            window = _window(head, centre, 1.6 * radius + 4)
            near_it = soft(_distance(head, window, centre, np.full(3, radius), rng, 0.2), 4.0)
            fluid, depth = head.fluid[window], head.brain_distance[window]
            lining = 4 * fluid * (1 - fluid) * (depth < 0.5) * (depth > -14)
            iron[window] += chi * near_it * np.clip(lining, 0, 1)
            drawn.append(_record(head, "siderosis", centre, radius, chi))
    return iron, drawn


# Centre of the cluster in template mm (right side), spread in mm, fewest and most grains.
CLUSTERS = {
    "pallidum": ((18.5, -3.0, -1.0), (2.0, 4.0, 2.5), (3, 8)),
    "choroid plexus": ((27.0, -42.0, 10.0), (2.0, 3.5, 3.0), (2, 6)),
}


def place_small(
    placer: Placer, content: Content, field_tesla: float, te_ms: float
) -> tuple[list[Lesion], list[Vessels]]:
    """Mineralised pallidum and choroid, cortical veins end-on and flow voids.

    The vessels of an old pallidum hold grains of calcium and of iron; that 0.7 of them are diamagnetic is a choice.
    Calcified choroid plexus: 66 % (Daghighi et al., Folia Morphol 2007;66:115).

    Args:
        placer: where they may lie.
        content: how many.
        field_tesla: main field.
        te_ms: echo time.
    """
    rng, found, veins = placer.rng, [], []
    for name, (point, spread, (fewest, most)) in CLUSTERS.items():
        for side in (1, -1):
            if not content.mineral_clusters or rng.random() >= content.mineral_clusters:
                continue
            for _ in range(rng.integers(fewest, most + 1)):
                offset = rng.normal(0, 1, 3) * spread
                centre = near(placer.head, tuple(np.array(point) * [side, 1, 1] + offset), rng, 0.5)
                diameter, calcium = float(rng.uniform(1.0, 4.0)), rng.random() < 0.7
                chi = -float(rng.uniform(0.3, 1.5)) if calcium else float(rng.uniform(0.2, 1.0))
                if centre is None or not placer.inside(centre) or not placer.free(centre[None], diameter / 2, 0.0)[0]:
                    continue
                placer.take(centre, diameter / 2)
                radius = apparent_to_true_radius(diameter, chi, field_tesla, te_ms)
                kind = "calcification" if calcium else "mineral"
                found.append(Lesion(kind, centre, radius, diameter, chi, name))
    for _ in range(rng.poisson(content.flow_voids)):
        diameter = float(rng.uniform(1.2, 3.5))
        index = placer.place((placer.fluid > 0.5) * 1.0, diameter / 2, None)
        if index is not None:
            found.append(Lesion("flow_void", placer.points[index], diameter / 2, diameter, 0.0, "fluid"))
    for _ in range(rng.poisson(content.end_on_veins)):
        radius, half = float(rng.uniform(0.35, 1.0)), float(rng.uniform(1.5, 8.0))
        index = placer.place((placer.fluid > 0.2) * (placer.region == "lobar") * 1.0, radius, 0.3)
        if index is None:
            continue
        centre, t = placer.points[index], np.arange(-half, half, 0.2)[:, None]
        lean = np.array([*rng.normal(0, 0.2, 2), 1.0])
        veins.append(Vessels(centre + t * lean, np.full(len(t), radius, np.float32)))
        found.append(Lesion("vein", centre, radius, 2 * radius, 0.0, "vein"))
    return found, veins
