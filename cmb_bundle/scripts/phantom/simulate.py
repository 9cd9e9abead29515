"""One subject from a spec: head, veins, lesions, fields, signal, images and truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import next_fast_len
from threadpoolctl import threadpool_limits

from . import physics
from .anatomy import Head, Pose, Shape, build_head, load_template, outside_brain
from .grid import Grid, covering, resample
from .lesions import Lesion, companions, draw_count, signal_factor
from .placement import Placer, place_microbleeds, place_mimics
from .spec import PhantomSpec
from .veins import Vessels, draw, grow

FINE_MM = 0.6  # widest voxel of the fine grid
SLAB_MARGIN_MM = 4.0
BACKGROUND_MM = 2.5  # voxel of the grid for the fields of air and bone
CHUNK = 16  # sub-slices worked on at a time
MAGNITUDE_WHITE = 600.0  # stored value of white matter
INFLOW_SIGNAL = 1.7  # fresh arterial blood against white matter; 2.8 if wholly unsaturated
ODD_PHASE_SCALE = 0.00367


@dataclass(frozen=True)
class Phantom:
    """A simulated subject.

    Attributes:
        spec: what was asked for.
        swi: (i, j, k) int16.
        phase: (i, j, k) homodyne-filtered phase in the spec's scale.
        magnitude: (i, j, k) int16.
        affine: (4, 4) voxel to RAS mm.
        truth: microbleeds and mimics, as in the truth JSON (without the subject's name).
    """

    spec: PhantomSpec
    swi: np.ndarray
    phase: np.ndarray
    magnitude: np.ndarray
    affine: np.ndarray
    truth: dict


def image_grid(spec: PhantomSpec) -> Grid:
    """The image's voxel centres in scanner mm."""
    origin = np.array(spec.centre_mm) - (np.array(spec.shape) - 1) / 2 * np.array(spec.spacing)
    return Grid(tuple(map(float, origin)), tuple(map(float, spec.spacing)), tuple(spec.shape))


def _fine_grid(spec: PhantomSpec, image: Grid) -> tuple[Grid, np.ndarray, np.ndarray]:
    """The grid that the signal is computed on, its factor to the image and the image voxel that it starts at."""
    factor = np.ceil(np.array(spec.spacing) / FINE_MM - 1e-6).astype(int)
    # Only what can hold the head.
    head_low, head_high = np.array([-92.0, -112.0, -1e6]), np.array([92.0, 112.0, 1e6])
    edge = np.array(image.origin) - np.array(image.step) / 2
    start = np.maximum(np.floor((head_low - edge) / image.step), 0).astype(int)
    stop = np.minimum(np.ceil((head_high - edge) / image.step), image.shape).astype(int)
    margin = int(np.ceil(SLAB_MARGIN_MM / (image.step[2] / factor[2])))
    step = np.array(image.step) / factor
    origin = edge + start * np.array(image.step) + step / 2
    origin[2] -= margin * step[2]
    shape = (stop - start) * factor
    shape[2] += 2 * margin
    return Grid(tuple(origin), tuple(step), tuple(map(int, shape))), factor, start


def _background_field(pose: Pose, shape: Shape) -> tuple[np.ndarray, Grid]:
    """Shimmed relative field in ppm of air, bone and fat about the brain, on a coarse grid of the whole head."""
    grid = covering(np.array([-112.0, -136.0, -124.0]), np.array([112.0, 136.0, 124.0]), BACKGROUND_MM)
    grid = Grid(grid.origin, grid.step, tuple(next_fast_len(n, real=True) for n in grid.shape))
    lattice = covering(np.array(grid.origin), np.array(grid.origin) + BACKGROUND_MM * np.array(grid.shape), 6.0)
    axes = [grid.axis(d) for d in range(3)]
    points = np.stack([resample(c, lattice, axes) for c in pose.to_template(lattice.points())])
    distance = load_template().at("brain_distance", points)
    chi = np.zeros_like(distance)
    outside = distance > shape.gap - 1
    shares = outside_brain(points[:, outside], distance[outside], shape)
    chi[outside] = sum(physics.SUSCEPTIBILITY_PPM[name] * shares[name] for name in ("air", "bone", "fat"))
    field = physics.dipole_field(chi, grid.step)
    return physics.shim(field, grid.points(), distance < 0), grid


def _signals(spec: PhantomSpec, rng: np.random.Generator) -> dict[str, float]:
    """Signal of each tissue relative to white matter, with a subject's own contrast."""
    kinds = ("white", "grey", "fluid", "blood", "fat", "muscle")
    out = {k: physics.signal(k, spec.field_tesla, spec.te_ms, spec.tr_ms, spec.flip_deg) for k in kinds}
    out = {k: v / out["white"] * float(np.exp(rng.normal(0, 0.04))) for k, v in out.items()}
    out["white"] = 1.0
    return out | {
        "eye": 0.8 * out["fluid"],
        "marrow": 0.45 * out["fat"],
        "bone": 0.04,
        "air": 0.0,
        "inflow": INFLOW_SIGNAL,
    }


def _coil(points: list[np.ndarray], rng: np.random.Generator, strength: float) -> tuple[np.ndarray, ...]:
    """Sensitivity as a product of one smooth curve along each axis: weaker in the middle, with a random slope."""
    curves = []
    for axis, half in zip(points, (75.0, 95.0, 85.0), strict=True):
        u = axis / half
        curves.append((1 + strength * (0.35 * u**2 + rng.normal(0, 0.35) * u)).clip(0.3, 2.5).astype(np.float32))
    return tuple(curves)


def _tissue(
    head: Head, fine: Grid, veins: np.ndarray, arteries: np.ndarray, signals: dict, spec: PhantomSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and local susceptibility (ppm) on the fine grid."""
    table = physics.SUSCEPTIBILITY_PPM
    grey = 1 - head.white - head.fluid
    inner = head.white * signals["white"] + grey * signals["grey"] + head.fluid * signals["fluid"]
    iron_decay = physics.IRON_R2STAR_PER_PPM_TESLA * spec.field_tesla * spec.te_ms * 1e-3
    tissue_signal = head.brain * inner * np.exp(-iron_decay * head.iron) + head.outer
    tissue_chi = head.brain * (head.white * table["white"] + grey * table["grey"] + head.iron)
    amplitude = np.empty(fine.shape, np.float32)
    chi = np.empty(fine.shape, np.float32)
    axes = [fine.axis(d) for d in range(3)]
    for k in range(0, fine.shape[2], CHUNK):
        part = slice(k, min(k + CHUNK, fine.shape[2]))
        here = [axes[0], axes[1], axes[2][part]]
        for volume, source, vessel in (
            (amplitude, tissue_signal, ((veins, signals["blood"]), (arteries, signals["inflow"]))),
            (chi, tissue_chi, ((veins, physics.VEIN_SUSCEPTIBILITY_PPM),)),
        ):
            value = resample(source, head.grid, here)
            for share, content in vessel:
                value += share[..., part] * (np.float32(content) - value)
            volume[..., part] = value
    return amplitude, chi


def _acquire(amplitude, local, background, background_grid, factors, fine, factor, start, spec) -> np.ndarray:
    """Complex image: the fine complex signal averaged over each voxel."""
    image = np.zeros(spec.shape, np.complex64)
    per_ppm = np.float32(physics.radians_per_ppm(spec.field_tesla, spec.te_ms))
    margin = (fine.shape[2] - spec.shape[2] * factor[2]) // 2
    axes = [fine.axis(d) for d in range(3)]
    ni, nj = fine.shape[0] // factor[0], fine.shape[1] // factor[1]
    for k in range(spec.shape[2]):
        low = margin + k * factor[2]
        part = slice(low, low + factor[2])
        angle = local[..., part] + resample(background, background_grid, [axes[0], axes[1], axes[2][part]])
        angle *= per_ppm
        signal = np.empty(angle.shape, np.complex64)
        np.cos(angle, out=signal.real)
        np.sin(angle, out=signal.imag)
        signal *= amplitude[..., part]
        for (si, sj, sk), patch in factors:
            a, b = max(sk.start, part.start), min(sk.stop, part.stop)
            if a < b:
                signal[si, sj, a - low : b - low] *= patch[..., a - sk.start : b - sk.start]
        blocks = signal.reshape(ni, factor[0], nj, factor[1], factor[2])
        image[start[0] : start[0] + ni, start[1] : start[1] + nj, k] = blocks.mean((1, 3, 4))
    return image


def _scale_phase(phase: np.ndarray, spec: PhantomSpec) -> np.ndarray:
    phase = phase * np.float32(spec.phase_polarity)
    unit = phase / np.float32(np.pi)
    if spec.phase_scale == "signed4096":
        return np.clip(np.rint(unit * 4096), -4096, 4095).astype(np.int16)
    if spec.phase_scale == "unsigned4095":
        return np.clip(np.rint((unit + 1) * 2047.5), 0, 4095).astype(np.uint16)
    if spec.phase_scale == "odd":
        return (unit * ODD_PHASE_SCALE).astype(np.float32)
    return phase.astype(np.float32)


def _affine(spec: PhantomSpec, image: Grid, rng: np.random.Generator) -> np.ndarray:
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * spec.oblique_deg)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(image.step)
    affine[:3, 3] = rotation @ np.array(image.origin)
    return affine


def _record(lesion: Lesion, image: Grid, affine: np.ndarray) -> dict:
    voxel = image.index(lesion.centre[None])[0]
    ras = affine[:3, :3] @ voxel + affine[:3, 3]
    record = {"voxel": [round(float(v), 3) for v in voxel], "ras_mm": [round(float(v), 3) for v in ras]}
    record["radius_mm"] = round(float(lesion.radius), 4)
    record["diameter_mm"] = round(float(lesion.diameter), 3)
    record["susceptibility_ppm"] = round(float(lesion.susceptibility), 4)
    record["region"] = lesion.region
    return record if lesion.kind == "microbleed" else {"kind": lesion.kind, **record}


def simulate(spec: PhantomSpec) -> Phantom:
    """Simulate one subject; the same spec gives the same bytes.

    Args:
        spec: geometry, acquisition, content and seed.

    Returns:
        Images on the spec's grid, affine and truth.
    """
    with threadpool_limits(1):
        return _simulate(spec)


def microbleed_count(spec: PhantomSpec, rng: np.random.Generator) -> int:
    """How many microbleeds a subject is to have: the spec's number, or a draw.

    Beyond ten, a slab holds the share that its height has of a head (140 mm), for the highest class is of whole heads.

    Args:
        spec: the subject's spec.
        rng: source of randomness; it is used in the same way whatever the spec says.
    """
    positive, drawn = rng.random() < spec.positive_share, draw_count(rng)
    if spec.microbleeds is not None:
        return spec.microbleeds
    height = min(1.0, spec.shape[2] * spec.spacing[2] / 140)
    return positive * (min(drawn, 10) + round(max(drawn - 10, 0) * height))


def _simulate(spec: PhantomSpec) -> Phantom:
    # One stream a concern, so that a change of the acquisition leaves the anatomy as it is.
    streams = [np.random.default_rng([spec.seed, n]) for n in range(6)]
    anatomy_rng, vein_rng, lesion_rng, contrast_rng, noise_rng, view_rng = streams
    image = image_grid(spec)
    fine, factor, start = _fine_grid(spec, image)
    pose, shape = Pose(anatomy_rng), Shape.draw(anatomy_rng)
    shape = replace(shape, ventricle=shape.ventricle + spec.atrophy, gap=shape.gap + spec.atrophy / 2)
    signals = _signals(spec, contrast_rng)
    low = np.array(fine.origin) - 1.0
    high = np.array(fine.origin) + np.array(fine.step) * fine.shape + 1.0
    head = build_head(pose, shape, low, high, anatomy_rng, signals)
    veins, arteries = grow(pose, vein_rng)

    scale = np.float32(spec.susceptibility_scale)
    background, background_grid = _background_field(pose, shape)
    background *= scale
    per_mm = np.stack(np.gradient(background, *background_grid.step))
    slice_phase = physics.radians_per_ppm(spec.field_tesla, spec.te_ms) * spec.spacing[2]
    steepness = slice_phase * np.sqrt((per_mm**2).sum(0)), background_grid
    first, last = np.array(image.origin), np.array(image.origin) + np.array(image.step) * (np.array(image.shape) - 1)
    count = microbleed_count(spec, lesion_rng)
    placer = Placer(head, veins, steepness, first + image.step, last - image.step, lesion_rng)
    mimics, cut_veins = place_mimics(placer, spec.field_tesla, spec.te_ms) if spec.mimics else ([], [])
    lesions = place_microbleeds(placer, count, spec.field_tesla, spec.te_ms)
    everything = [veins, *cut_veins]
    veins = Vessels(np.concatenate([v.points for v in everything]), np.concatenate([v.radii for v in everything]))

    amplitude, chi = _tissue(head, fine, draw(veins, fine), draw(arteries, fine), signals, spec)
    coil = _coil([fine.axis(d) for d in range(3)], contrast_rng, spec.bias)
    amplitude *= coil[0][:, None, None]
    amplitude *= coil[1][:, None] * coil[2]
    chi *= scale
    local = physics.dipole_field(chi, fine.step)
    del chi
    spheres = [x for x in lesions + mimics if x.kind != "vein"]
    spheres += [other for lesion in lesions for other in companions(lesion, lesion_rng)]
    factors = [signal_factor(x, fine, spec.field_tesla, spec.te_ms, spec.susceptibility_scale) for x in spheres]
    factors = [f for f in factors if f is not None]
    complex_image = _acquire(amplitude, local, background, background_grid, factors, fine, factor, start, spec)
    if spec.ghosting:
        complex_image = physics.ghost(complex_image, spec.spacing, spec.ghosting, noise_rng.uniform(20, 60))
    noise = noise_rng.standard_normal((2, *spec.shape), np.float32) / np.float32(spec.snr)
    complex_image.real += noise[0]
    complex_image.imag += noise[1]
    magnitude = np.abs(complex_image)
    phase = physics.homodyne(complex_image, spec.spacing, spec.homodyne_cutoff)
    swi = physics.susceptibility_weighted(magnitude, phase)
    if spec.skull_stripped:
        mask = resample(head.brain_distance, head.grid, [image.axis(d) for d in range(3)]) < 0.5
        magnitude, swi, phase = magnitude * mask, swi * mask, phase * mask
    affine = _affine(spec, image, view_rng)
    truth = {
        "spec": spec.as_dict(),
        "microbleeds": [_record(x, image, affine) for x in lesions],
        "mimics": [_record(x, image, affine) for x in mimics],
    }
    stored = [np.clip(np.rint(x * MAGNITUDE_WHITE), 0, 4095).astype(np.int16) for x in (swi, magnitude)]
    return Phantom(spec, stored[0], _scale_phase(phase, spec), stored[1], affine, truth)
