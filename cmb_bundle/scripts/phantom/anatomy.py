"""The head of one subject: tissue maps of the MNI152 template under a pose and a warp of its own.

Two spaces: template mm (MNI152) and scanner mm (origin in the middle of the brain, axes right, anterior, superior).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from .grid import Grid, covering, resample

TEMPLATE_CENTRE = np.array([0.0, -18.0, 6.0])  # template mm that lies at the scanner's origin
COARSE_MM = 3.0


@dataclass(frozen=True)
class Template:
    """MNI152 maps at 1 mm (share of white matter; T1 with sulci, 0..1) and at 2 mm (signed distances in mm)."""

    grid: Grid
    white: np.ndarray
    t1: np.ndarray
    coarse: Grid
    brain_distance: np.ndarray
    ventricle_distance: np.ndarray

    def at(self, name: str, points: np.ndarray) -> np.ndarray:
        """Values of a map at template mm (3, ...), float32."""
        volume = getattr(self, name)
        grid = self.coarse if name.endswith("distance") else self.grid
        shift = np.array(grid.origin, np.float32).reshape(3, *[1] * (points.ndim - 1))
        return ndimage.map_coordinates(volume, (points - shift) / np.float32(grid.step[0]), order=1, mode="nearest")


def _distance(mask: np.ndarray) -> np.ndarray:
    """The same as SciPy's transform, without its three copies of the volume in double precision."""
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    squares = np.zeros(mask.shape, np.int32)
    for axis, index in enumerate(nearest):
        away = index - np.arange(mask.shape[axis], dtype=np.int32).reshape([-1 if d == axis else 1 for d in range(3)])
        squares += away * away
    return np.sqrt(squares)


def _signed_distance(mask: np.ndarray, step: float) -> np.ndarray:
    outside, inside = _distance(~mask), _distance(mask)
    return ((outside - inside) * step + np.where(mask, 0.5, -0.5) * step).astype(np.float32)


def _with_sulci(t1: np.ndarray, white: np.ndarray, grid: Grid) -> np.ndarray:
    """T1 with the sulci that averaging over subjects blurred away.

    A sulcus lies midway between two blades of white matter, so on the ridges of the distance to white matter, where
    the gradient of that distance, elsewhere 1, drops to 0. The folia of the cerebellum are shells about the fourth
    ventricle, 4 mm apart.
    """
    distance = _distance(ndimage.gaussian_filter(white, 0.6) < 0.5).astype(np.float32)
    distance = ndimage.gaussian_filter(distance, 0.8)
    slope = np.sqrt(sum(np.gradient(distance, axis=d) ** 2 for d in range(3)))
    ridge = np.clip((0.75 - slope) / 0.5, 0, 1) * np.clip((distance - 1.3) / 0.8, 0, 1)
    points = grid.points()
    deep = ellipsoid(points, (0.0, -6.0, 4.0), (31.0, 26.0, 18.0)) < 0
    x, y, z = points
    shells = np.sin(2 * np.pi / 4.0 * np.sqrt((0.8 * x) ** 2 + (y + 42) ** 2 + (z + 26) ** 2))
    cerebellum = (y < -40) & (z < -10 - 0.35 * np.abs(x)) & (white < 0.5)
    folia = cerebellum * np.clip(shells - 0.2, 0, 1) * np.clip((0.78 - t1) / 0.1, 0, 1)
    detail = np.where(t1 > 0, t1 - ndimage.gaussian_filter(t1, 2.0), 0)
    return t1 - 0.25 * ridge * ~deep + np.minimum(0.7 * detail, 0) * ~deep - 0.2 * folia * (t1 > 0)


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The template, from the files that the nilearn wheel carries (nothing is downloaded)."""
    import nilearn

    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    maps = {}
    for name in ("t1", "wm"):
        path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; the installed nilearn should carry it: reinstall nilearn")
        image = nib.load(path)
        maps[name] = np.asarray(image.dataobj).astype(np.float32) / 255
    filled = np.nonzero(maps["t1"])
    low = [max(int(index.min()) - 2, 0) for index in filled]
    box = tuple(slice(start, int(index.max()) + 3) for start, index in zip(low, filled, strict=True))
    maps = {name: np.ascontiguousarray(volume[box]) for name, volume in maps.items()}
    grid = Grid(tuple(map(float, image.affine[:3, 3] + low)), (1.0,) * 3, maps["t1"].shape)
    pad = 40
    coarse_t1 = np.pad(maps["t1"], pad)[::2, ::2, ::2]
    coarse = Grid(tuple(np.array(grid.origin) - pad), (2.0,) * 3, coarse_t1.shape)
    x, y, z = coarse.points()
    tight = ndimage.binary_closing(coarse_t1 > 0, iterations=2)
    # Above the base the skull spans the fissure between the hemispheres.
    brain = tight | (ndimage.binary_closing(tight, iterations=8) & (z > -15))
    brain_distance = _signed_distance(ndimage.binary_fill_holes(brain), 2.0)
    fluid = (coarse_t1 > 0) & (coarse_t1 < 0.47) & (brain_distance < -16)
    middle = (np.abs(x) < 42) & (y > -62) & (y < 42) & (z > -16) & (z < 34) & ~((np.abs(x) < 6) & ((z < 0) | (y < -28)))
    ventricle = ndimage.binary_opening(fluid & middle)
    t1 = _with_sulci(maps["t1"], maps["wm"], grid)
    return Template(grid, maps["wm"], t1, coarse, brain_distance, _signed_distance(ventricle, 2.0))


# Centre (|x|, y, z) and semi-axes in template mm, turn about z in degrees (right side), susceptibility in ppm against
# fluid: means of Bilgic et al., NeuroImage 2012;59:2625 and Langkammer et al., NeuroImage 2012;62:1593.
NUCLEI = {
    "caudate": ((12.5, 13.0, 8.0), (5.0, 9.0, 9.0), 10.0, 0.06),
    "putamen": ((26.5, 2.0, 1.0), (5.5, 17.0, 10.0), 15.0, 0.07),
    "pallidum": ((19.5, -4.0, -1.0), (4.0, 9.5, 5.5), 25.0, 0.19),
    "thalamus": ((11.5, -20.0, 8.0), (7.5, 12.0, 7.5), 15.0, 0.02),
    "red nucleus": ((5.0, -20.5, -8.0), (3.0, 3.2, 4.5), 0.0, 0.12),
    "substantia nigra": ((10.0, -18.0, -12.0), (2.4, 7.0, 3.6), 38.0, 0.15),
    "dentate": ((14.0, -57.0, -34.0), (5.5, 9.0, 5.0), 20.0, 0.11),
}
# Air: centre (|x|, y, z) and semi-axes in template mm.
AIR = {
    "sphenoid sinus": ((7.0, 20.0, -36.0), (9.0, 13.0, 9.0)),
    "ethmoid cells": ((6.0, 46.0, -34.0), (7.0, 17.0, 11.0)),
    "frontal sinus": ((9.0, 80.0, -8.0), (9.0, 5.0, 12.0)),
    "maxillary sinus": ((27.0, 46.0, -62.0), (13.0, 15.0, 15.0)),
    "mastoid and ear canal": ((56.0, -26.0, -44.0), (13.0, 9.0, 7.0)),
    "nose and pharynx": ((0.0, 50.0, -62.0), (7.0, 40.0, 14.0)),
}
EYES = ((32.0, 62.0, -36.0), 12.0)


def ellipsoid(points: np.ndarray, centre: tuple, axes: tuple, turn_deg: float = 0.0) -> np.ndarray:
    """Approximate signed distance in mm to a pair of ellipsoids mirrored at x = 0, negative inside."""
    x, y, z = np.abs(points[0]) - centre[0], points[1] - centre[1], points[2] - centre[2]
    c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    u, v = c * x + s * y, -s * x + c * y
    return (np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2 + (z / axes[2]) ** 2) - 1) * min(axes)


class Pose:
    """Pull-back from scanner mm to template mm: rotation, scale, shift and a smooth random displacement."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw pose and warp.

        Args:
            rng: source of randomness.
        """
        angles = np.deg2rad(rng.normal(0, (4.0, 2.0, 3.0)))
        rotation = np.eye(3)
        for axis, angle in enumerate(angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            rotation = rotation @ turn
        # The template is larger than most heads (Lancaster et al., Hum Brain Mapp 2007;28:1194).
        size = rng.normal(0.93, 0.02) * rng.normal(1, 0.02, 3)
        self.matrix = rotation / size
        self.shift = TEMPLATE_CENTRE + rng.normal(0, (1.5, 2.5, 2.5))
        self.grid = Grid((-135.0,) * 3, (9.0,) * 3, (31,) * 3)
        noise = rng.standard_normal((3, *self.grid.shape)).astype(np.float32)
        fine, broad = (np.stack([ndimage.gaussian_filter(n, s) for n in noise]) for s in (1.2, 2.5))
        self.displacement = (1.8 * fine / fine.std() + 2.0 * broad / broad.std()).astype(np.float32)

    def to_template(self, points: np.ndarray) -> np.ndarray:
        """Template mm (3, ...) of scanner mm (3, ...)."""
        flat = points.reshape(3, -1).astype(np.float32)
        index = (flat - self.grid.origin[0]) / np.float32(self.grid.step[0])
        moved = np.stack([ndimage.map_coordinates(d, index, order=1, mode="nearest") for d in self.displacement])
        return (self.matrix.astype(np.float32) @ flat + self.shift[:, None].astype(np.float32) + moved).reshape(
            points.shape
        )

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """Scanner mm (n, 3) of template mm (n, 3), by fixed-point iteration."""
        inverse = np.linalg.inv(self.matrix)
        target = points.T
        guess = inverse @ (target - self.shift[:, None])
        for _ in range(5):
            guess = guess + inverse @ (target - self.to_template(guess))
        return guess.T


@dataclass
class Head:
    """Maps of one subject on a 1 mm grid in scanner mm, all float32 (i, j, k).

    Attributes:
        grid: where the maps lie.
        template_mm: (3, i, j, k) template position of each voxel.
        white: share of white matter; grey is what white and fluid leave in the brain.
        fluid: share of cerebrospinal fluid.
        iron: excess susceptibility of the deep nuclei, ppm.
        brain: share of brain and the fluid about it (inside the skull).
        outer: signal outside the skull's inner face, relative to white matter.
        brain_distance: signed distance to the brain's surface, mm.
    """

    grid: Grid
    template_mm: np.ndarray
    white: np.ndarray
    fluid: np.ndarray
    iron: np.ndarray
    brain: np.ndarray
    outer: np.ndarray
    brain_distance: np.ndarray


@dataclass(frozen=True)
class Shape:
    """What differs between subjects besides the pose: in mm; iron and air are factors, the fluid's is a threshold."""

    ventricle: float
    gap: float
    skull: float
    scalp: float
    iron: float
    fluid_threshold: float
    air: float = 1.0

    @staticmethod
    def draw(rng: np.random.Generator) -> Shape:
        """Draw a subject's shape."""
        return Shape(
            ventricle=float(rng.uniform(-0.8, 3.2)),
            gap=float(rng.uniform(1.0, 3.0)),
            skull=float(rng.uniform(5.0, 7.5)),
            scalp=float(rng.uniform(4.0, 7.0)),
            iron=float(np.exp(rng.normal(0, 0.2))),
            fluid_threshold=float(rng.uniform(0.53, 0.60)),
        )


def soft(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Share of a voxel that lies inside, 0..1, by its signed distance in mm to a border of a width in mm."""
    return np.clip(0.5 - distance / width, 0, 1)


def outside_brain(points: np.ndarray, distance: np.ndarray, shape: Shape) -> dict[str, np.ndarray]:
    """Shares of bone, marrow, fat, muscle, eye and air at template mm, given the distance to the brain.

    Args:
        points: (3, n) template mm.
        distance: (n,) signed distance to the brain's surface in mm.
        shape: the subject's shape.

    Returns:
        float32 (n,) for each name; they add up to 1 outside the inner face of the skull.
    """
    x, y, z = points
    inner = distance - shape.gap
    # Temporal muscle: the scalp is thicker over the temples.
    temple = np.exp(-(((y - 10) / 25) ** 2) - ((z + 15) / 22) ** 2) * soft(30 - np.abs(x), 20)
    depth = inner - shape.skull
    scalp = shape.scalp + 8 * temple
    face = ellipsoid(points, (0.0, 28.0, -62.0), (62.0, 66.0, 60.0))
    neck = ellipsoid(points, (0.0, -40.0, -100.0), (60.0, 60.0, 60.0))
    body = np.minimum(np.minimum(depth - scalp, face), neck)
    air = body
    eye = np.full_like(inner, -9)
    base = z < 6
    at_base, room = points[:, base], inner[base]
    for centre, axes in AIR.values():
        size = axes if shape.air == 1 else tuple(a * shape.air for a in axes)
        air[base] = np.maximum(air[base], np.minimum(-ellipsoid(at_base, centre, size), room - 2.5))
    eye_centre, eye_radius = EYES
    eye[base] = np.minimum(-ellipsoid(at_base, eye_centre, (eye_radius,) * 3), room - 3)
    marrow = np.minimum(0.2 * shape.skull - np.abs(inner - 0.5 * shape.skull), z + 25)
    skin_fat = body + 2.0 + 0.45 * shape.scalp
    streaks = 2.0 * (np.sin(x / 5) + np.sin(y / 6) + np.sin(z / 5) - 1.0)
    fat = np.maximum(skin_fat, np.minimum(streaks, -25 - z))
    rest = soft(-inner, 1.0)
    out = {}
    layers = (("air", air), ("eye", eye), ("marrow", marrow), ("bone", -depth), ("fat", fat))
    for name, membership in layers:
        share = soft(-membership, 2.0)
        out[name] = rest * share
        rest = rest * (1 - share)
    out["muscle"] = rest
    return out


def build_head(
    pose: Pose, shape: Shape, low: np.ndarray, high: np.ndarray, rng: np.random.Generator, outer_signal: dict
) -> Head:
    """Maps of a subject within a box.

    Args:
        pose: scanner to template.
        shape: the subject's shape.
        low: lowest corner of the box, scanner mm.
        high: highest corner.
        rng: source of the fine variation of the tissue borders.
        outer_signal: signal of "bone", "marrow", "fat", "muscle", "eye" and "air" relative to white matter.
    """
    template = load_template()
    grid = covering(low, high, 1.0)
    coarse = covering(np.asarray(low) - COARSE_MM, np.asarray(high) + COARSE_MM, COARSE_MM)
    coarse_template = pose.to_template(coarse.points())
    axes = [grid.axis(d) for d in range(3)]
    points = np.stack([resample(c, coarse, axes) for c in coarse_template])
    distance = template.at("brain_distance", points)
    inside = distance <= 0
    in_brain = points[:, inside]
    wobble = ndimage.zoom(rng.standard_normal([n // 4 + 2 for n in grid.shape]).astype(np.float32), 4, order=1)
    wobble = wobble[tuple(slice(0, n) for n in grid.shape)]
    rough = wobble[inside]
    white, fluid = np.zeros_like(distance), np.ones_like(distance)
    fluid[inside] = np.maximum(
        np.clip((shape.fluid_threshold + 0.03 * rough - template.at("t1", in_brain)) / 0.17, 0, 1),
        soft(template.at("ventricle_distance", in_brain) - shape.ventricle, 1.5),
    )
    white[inside] = np.clip((template.at("white", in_brain) - 0.5 + 0.08 * rough) * 1.8 + 0.5, 0, 1)
    white *= 1 - fluid
    iron = np.zeros_like(white)
    x, y, z = points
    central = (np.abs(x) < 36) & (np.abs(y + 24) < 50) & (np.abs(z + 12) < 34)
    where, roughness = points[:, central], wobble[central]
    excess = np.zeros(where.shape[1], np.float32)
    for name, (centre, semi_axes, turn, chi) in NUCLEI.items():
        signed = ellipsoid(where, centre, semi_axes, turn) + 0.25 * roughness
        if name == "dentate":
            signed = np.abs(signed + 0.8 * roughness) - 1.0
        excess = np.maximum(excess, chi * soft(signed, 1.6))
    iron[central] = excess
    iron *= shape.iron * (1 - fluid)
    outer = np.zeros_like(white)
    rim = distance > shape.gap - 1
    shares = outside_brain(points[:, rim], distance[rim], shape)
    outer[rim] = sum(share * np.float32(outer_signal[name]) for name, share in shares.items())
    outer *= 1 + 0.12 * wobble
    brain = soft(distance - shape.gap)
    return Head(grid, points, white, fluid, iron, brain, outer, distance)
