"""Cerebral veins and large arteries, grown on the template and carried to the subject by its warp."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from .anatomy import Pose, load_template
from .grid import Grid

# Deep veins and sinuses: radius in mm and way points (x, y, z) in template mm; those with x > 0 are mirrored.
# Courses after Duvernoy, "Human Brain Stem Vessels" and "The Human Brain: Surface, Blood Supply", 1999.
TRUNKS = (
    (1.0, ((2.0, 3.0, 10.0), (3.0, -8.0, 15.0), (3.5, -20.0, 15.0), (2.0, -34.0, 11.0), (0.0, -40.0, 9.0))),
    (0.7, ((14.0, 24.0, 12.0), (6.0, 22.0, 14.0), (2.0, 12.0, 14.0), (2.0, 3.0, 10.0))),
    (0.7, ((22.0, -26.0, 24.0), (18.0, -14.0, 20.0), (13.0, 0.0, 15.0), (6.0, 3.0, 11.0), (2.0, 3.0, 10.0))),
    (0.6, ((30.0, -46.0, 10.0), (22.0, -44.0, 14.0), (12.0, -42.0, 13.0), (0.0, -40.0, 9.0))),
    (0.8, ((22.0, 2.0, -18.0), (18.0, -8.0, -17.0), (17.0, -22.0, -10.0), (12.0, -33.0, -2.0), (0.0, -40.0, 9.0))),
    (1.6, ((0.0, -40.0, 9.0), (0.0, -46.0, 9.0), (0.0, -52.0, 6.0), (0.0, -70.0, -2.0), (0.0, -97.0, -14.0))),
    (
        3.0,
        ((0.0, -99.0, -14.0), (25.0, -93.0, -24.0), (46.0, -72.0, -34.0), (58.0, -46.0, -40.0), (50.0, -36.0, -58.0)),
    ),
)
SAGITTAL_RADIUS_MM = (1.0, 3.6)
# The large arteries about the base, in the same form: carotid and middle cerebral, anterior cerebral, basilar,
# posterior cerebral, vertebral.
ARTERIES = (
    (2.2, ((22.0, -2.0, -52.0), (15.0, 4.0, -36.0), (13.0, 2.0, -22.0), (13.0, 5.0, -14.0))),
    (1.4, ((45.0, -28.0, 14.0), (43.0, -12.0, 0.0), (41.0, -2.0, -10.0), (26.0, 4.0, -16.0), (13.0, 5.0, -14.0))),
    (
        1.1,
        (
            (2.0, 2.0, 33.0),
            (2.0, 30.0, 22.0),
            (2.0, 38.0, 4.0),
            (2.0, 20.0, -8.0),
            (4.0, 12.0, -15.0),
            (13.0, 5.0, -14.0),
        ),
    ),
    (1.6, ((0.0, -16.0, -16.0), (0.0, -13.0, -28.0), (0.0, -17.0, -42.0))),
    (1.0, ((14.0, -62.0, 2.0), (21.0, -42.0, -3.0), (20.0, -28.0, -10.0), (10.0, -18.0, -15.0), (0.0, -16.0, -16.0))),
    (1.4, ((0.0, -17.0, -42.0), (6.0, -22.0, -52.0), (9.0, -28.0, -66.0))),
)
SAMPLE_MM = 0.25


@dataclass(frozen=True)
class Vessels:
    """Centre-line samples: points in scanner mm (n, 3) and radii in mm (n,)."""

    points: np.ndarray
    radii: np.ndarray


@lru_cache(maxsize=1)
def _guides() -> dict[str, np.ndarray]:
    """Smooth 2 mm volumes that steer growth: gradients of distances and of T1."""
    template = load_template()
    t1 = np.pad(template.t1, 40)[::2, ::2, ::2]
    brain = ndimage.gaussian_filter(template.brain_distance, 1.5)
    ventricle = ndimage.gaussian_filter(template.ventricle_distance, 1.0)
    dark = ndimage.gaussian_filter(np.where(template.brain_distance > 0, 0.35, t1), 0.7)
    return {
        "brain": np.stack(np.gradient(brain)).astype(np.float32),
        "ventricle": np.stack(np.gradient(ventricle)).astype(np.float32),
        "dark": -np.stack(np.gradient(dark)).astype(np.float32),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-6)


def _guide(name: str, points: np.ndarray) -> np.ndarray:
    grid = load_template().coarse
    index = (points - np.array(grid.origin)[:, None]) / 2.0
    return np.stack([ndimage.map_coordinates(g, index, order=1, mode="nearest") for g in _guides()[name]])


def _smooth_path(way_points: np.ndarray, radius: np.ndarray, rng: np.random.Generator, jitter: float) -> tuple:
    """Spline through way points with a jitter, a point every mm."""
    way_points = way_points + rng.normal(0, jitter, way_points.shape) * np.array([0.5, 1, 1])
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(way_points, axis=0), axis=1))])
    t = np.arange(0, knots[-1], 1.0)
    path = make_interp_spline(knots, way_points, k=min(3, len(knots) - 1))(t)
    return path, np.interp(t, knots, radius)


def _named(courses: tuple, rng: np.random.Generator) -> list[tuple]:
    """Vessels of known course, on both sides if they leave the midline; the venous sinuses differ between sides."""
    paths = []
    for radius, way_points in courses:
        way_points = np.array(way_points)
        radii = np.linspace(0.55, 1, len(way_points)) * radius * np.exp(rng.normal(0, 0.12))
        for side in (1, -1) if way_points[:, 0].max() > 0 else (1,):
            size = np.exp(rng.normal(0, 0.25)) if radius >= 3 else 1.0
            paths.append(_smooth_path(way_points * [side, 1, 1], radii * size, rng, 0.8))
    return paths


def _sagittal_sinus(rng: np.random.Generator) -> tuple:
    """The superior sagittal sinus, along the upper rim of the brain in the midline."""
    template = load_template()
    angle = np.deg2rad(np.linspace(-5, 188, 40))
    ray = np.stack([np.zeros(40), np.cos(angle), np.sin(angle)])
    start = np.array([0.0, -22.0, -2.0])[:, None]
    reach = np.arange(20, 140, 0.5)
    points = start[..., None] + ray[..., None] * reach
    # Beside the midline, for the fissure opens the hull between the hemispheres.
    points[0] = 6.0
    outside = template.at("brain_distance", points) > 1.0
    rim = (start + ray * reach[np.argmax(outside, axis=1)]).T
    return _smooth_path(rim, np.linspace(*SAGITTAL_RADIUS_MM, 40), rng, 0.3)


def _medullary(rng: np.random.Generator, count: int) -> list[tuple]:
    """Veins of the deep white matter that run straight to the ventricle's wall."""
    template = load_template()
    index = np.argwhere(
        (template.ventricle_distance > 4) & (template.ventricle_distance < 24) & (template.brain_distance < -10)
    )
    points = (index[rng.integers(len(index), size=6 * count)] * 2.0 + np.array(template.coarse.origin)).T
    points = points + rng.uniform(-1, 1, points.shape)
    keep = (template.at("white", points) > 0.7) & (points[2] > 4)
    points = points[:, np.flatnonzero(keep)[:count]]
    heading = -_unit(_guide("ventricle", points))
    track = [points]
    for _ in range(34):
        heading = _unit(0.6 * heading - 0.4 * _unit(_guide("ventricle", points)) + rng.normal(0, 0.10, points.shape))
        points = points + heading
        track.append(points)
    track = np.stack(track)
    wall = template.at("ventricle_distance", track.transpose(1, 0, 2))
    paths = []
    top = rng.uniform(0.16, 0.38, points.shape[1])
    for n in range(points.shape[1]):
        stop = int(np.argmax(wall[:, n] < 0.5)) or len(track)
        if stop > 4:
            paths.append((track[:stop, :, n], np.linspace(0.45, 1, stop) * top[n]))
    return paths


def _superficial(rng: np.random.Generator, count: int) -> list[tuple]:
    """Veins that start in a sulcus or under the cortex, climb to the surface and follow it towards a sinus."""
    template = load_template()
    index = np.argwhere((template.brain_distance < 0) & (template.brain_distance > -18))
    points = (index[rng.integers(len(index), size=count)] * 2.0 + np.array(template.coarse.origin)).T
    points = points + rng.uniform(-1, 1, points.shape)
    lower = points[2] < -12
    goal = np.where(
        lower,
        np.array([[0], [-95], [-14]]) + np.zeros_like(points),
        np.stack([0 * points[0], points[1] - 5, 0 * points[2] + 85]),
    )
    goal[0] += np.where(lower, np.sign(points[0]) * 45, 0)
    heading = _unit(_guide("dark", points) + 1e-3)
    track, on_surface = [points], np.zeros(points.shape[1], int)
    for _ in range(50):
        depth = template.at("brain_distance", points)
        outward = _unit(_guide("brain", points))
        surface = depth > -1.0
        on_surface += surface
        pull = _unit(goal - points)
        tangent = _unit(pull - outward * (pull * outward).sum(0))
        dark = _guide("dark", points) * 12
        inside_way = 0.55 * heading + 0.35 * outward + 0.9 * dark + rng.normal(0, 0.22, points.shape)
        surface_way = 0.75 * heading + 0.22 * tangent - outward * (0.35 * (depth - 0.6)) + 0.4 * dark
        surface_way = surface_way + rng.normal(0, 0.22, points.shape)
        heading = _unit(np.where(surface, surface_way, inside_way))
        points = points + 1.5 * heading
        track.append(points)
    track = np.stack(track)
    lengths = rng.integers(10, 51, points.shape[1])
    top = np.clip(np.exp(rng.normal(np.log(0.55), 0.45, points.shape[1])), 0.2, 1.6)
    paths = []
    for n in range(points.shape[1]):
        radii = np.minimum(np.linspace(0.35, 1.1, lengths[n]), 1.0) * top[n]
        paths.append((track[: lengths[n], :, n], radii))
    return paths


def _to_scanner(paths: list[tuple], pose: Pose) -> Vessels:
    """Carry paths to the subject and sample them every SAMPLE_MM along straight pieces."""
    ends = np.cumsum([len(path) for path, _ in paths])[:-1]
    points, radii = [], []
    for path, (_, radius) in zip(
        np.split(pose.to_scanner(np.concatenate([p for p, _ in paths])), ends), paths, strict=True
    ):
        knots = np.concatenate([[0], np.cumsum(np.sqrt((np.diff(path, axis=0) ** 2).sum(1)))])
        t = np.arange(0, knots[-1], SAMPLE_MM)
        points.append(np.stack([np.interp(t, knots, c) for c in path.T], axis=1))
        radii.append(np.interp(t, knots, radius))
    return Vessels(np.concatenate(points), np.concatenate(radii).astype(np.float32))


def grow(pose: Pose, rng: np.random.Generator) -> tuple[Vessels, Vessels]:
    """The veins and the large arteries of one subject in scanner mm.

    Args:
        pose: scanner to template.
        rng: source of randomness.
    """
    veins = [*_named(TRUNKS, rng), _sagittal_sinus(rng), *_medullary(rng, 420), *_superficial(rng, 1500)]
    return _to_scanner(veins, pose), _to_scanner(_named(ARTERIES, rng), pose)


def draw(vessels: Vessels, grid: Grid) -> np.ndarray:
    """Share of each voxel that is vessel, float32 on a grid in scanner mm.

    A vessel thinner than a voxel is drawn one voxel wide with its share lowered so that its area, and with it its
    magnetic moment, is kept.

    Args:
        vessels: centre lines.
        grid: the grid to draw on.
    """
    share = np.zeros(grid.shape, np.float32)
    flat = share.reshape(-1)
    step, shape = np.array(grid.step), np.array(grid.shape)
    h = float(step.max())
    index = grid.index(vessels.points)
    margin = (vessels.radii[:, None] + h) / step
    inside = ((index > -margin) & (index < shape - 1 + margin)).all(1)
    index, radii = index[inside], vessels.radii[inside]
    drawn = np.maximum(radii, 0.6 * h)
    # The soft edge adds pi h^2 / 12 to the area of the drawn disc.
    strength = radii**2 / (drawn**2 + h**2 / 12)
    reach = np.ceil((drawn + 0.5 * h) / step.min()).astype(int)
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    for size in np.unique(reach):
        chosen = np.flatnonzero(reach == size)
        # Wide vessels need fewer samples for a smooth tube.
        chosen = chosen[:: max(1, int(0.5 * drawn[chosen].min() / SAMPLE_MM))]
        offsets = np.arange(-size, size + 1)
        for part in np.array_split(chosen, max(1, len(chosen) * len(offsets) ** 3 // 4_000_000)):
            cells = np.rint(index[part]).astype(int)[..., None] + offsets
            squares = (((cells - index[part][..., None]) * step[:, None]) ** 2).astype(np.float32)
            squares[(cells < 0) | (cells >= shape[:, None])] = np.inf
            d2 = squares[:, 0, :, None, None] + squares[:, 1, None, :, None] + squares[:, 2, None, None, :]
            value = (drawn[part, None, None, None] - np.sqrt(d2)) / np.float32(h) + np.float32(0.5)
            value = np.minimum(value, 1) * strength[part, None, None, None]
            at = cells * strides[:, None]
            at = at[:, 0, :, None, None] + at[:, 1, None, :, None] + at[:, 2, None, None, :]
            hit = value > 0
            np.maximum.at(flat, at[hit], value[hit].astype(np.float32))
    return share
