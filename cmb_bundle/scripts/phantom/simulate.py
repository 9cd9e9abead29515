"""One subject from a spec: head, veins, lesions, fields, signal, images and truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from . import physics
from .acquire import acquire, background_field, coil_curves, contrast, fine_grid, image_grid, signals, tissue
from .anatomy import Head, Pose, Shape, build_head
from .grid import Grid, resample
from .lesions import Lesion, companions, draw_count, signal_factor
from .maps import MapPose, SusceptibilityMap, foci, load_map, map_head, map_veins
from .old_brain import draw_large, place_small
from .placement import Placer, artery_of, continued, place_microbleeds, place_mimics
from .profiles import lobes
from .reconstruct import reconstruct
from .spec import PhantomSpec
from .veins import Vessels, draw, grow
from .vendor import finish, head_mask, rough_mask

ODD_PHASE_SCALE = 0.00367
MAP_AIR_SCALE = 0.75
IN_THE_MAPS = ("vein", "lacune", "siderosis", "haemorrhage", "cavernoma", "focus")  # drawn as tissue, not as spheres


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

    @property
    def images(self) -> dict[str, np.ndarray]:
        """What is to be written, by the name of its folder."""
        named = {"SWI": self.swi, "Magnitude": self.magnitude, "Phase": self.phase, "T2star": self.magnitude}
        return {n: named[n] for n in self.spec.outputs if n != "Phase" or self.spec.with_phase}


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
    if lesion.profile:
        record |= {"profile": lesion.profile, "decay": round(lesion.decay, 3)}
    if lesion.pair is not None:
        record["pair"] = lesion.pair
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


def _factors(lesions: list[Lesion], fine: Grid, spec: PhantomSpec) -> list[tuple]:
    how = (fine, spec.field_tesla, spec.te_ms, spec.susceptibility_scale)
    return [factor for factor in (signal_factor(x, *how) for x in lesions) if factor is not None]


def _paramagnetic(lesions: list[Lesion]) -> list[Lesion]:
    """The same lesions with calcified twins turned to what they are twins of."""
    return [x if x.pair is None else replace(x, susceptibility=abs(x.susceptibility)) for x in lesions]


@dataclass(frozen=True)
class Patient:
    """What stays the same from one scan of a person to the next, in the scanner mm of the first.

    Attributes:
        shape: of the head.
        head: its maps, with what is drawn into them.
        added_iron: ppm on the head's grid, of lesions that are drawn into the maps; None without any.
        vessels: veins and arteries.
        microbleeds: in the order in which they were placed.
        mimics: and large lesions, and what in a map may be a microbleed.
        parts: the spheres that make up each microbleed and each mimic beside its own.
        pose: scanner to template.
        chi_map: takes the place of the tissues' own susceptibility.
    """

    shape: Shape
    head: Head
    added_iron: np.ndarray | None
    vessels: tuple[Vessels, Vessels]
    microbleeds: tuple[Lesion, ...]
    mimics: tuple[Lesion, ...]
    parts: tuple[tuple[Lesion, ...], ...]
    pose: Pose | MapPose
    chi_map: SusceptibilityMap | None = None


def _simulate(spec: PhantomSpec) -> Phantom:
    # One stream a concern, so that a change of the acquisition leaves the anatomy as it is.
    streams = [np.random.default_rng([spec.seed, n]) for n in range(8)]
    signal = signals(spec, streams[3])
    patient, steep = make_patient(spec, [streams[0], streams[1], streams[2], streams[6]], signal, box_of(spec))
    return scan(patient, spec, steep, [streams[3], streams[4], streams[5], streams[7]], signal)


def box_of(spec: PhantomSpec) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of what the maps of a head must cover for a scan, scanner mm."""
    fine, _, _ = fine_grid(spec, image_grid(spec))
    return np.array(fine.origin) - 1.0, np.array(fine.origin) + np.array(fine.step) * fine.shape + 1.0


def make_patient(
    spec: PhantomSpec,
    streams: Sequence[np.random.Generator],
    signal: dict,
    box: tuple[np.ndarray, np.ndarray],
    later: int = 0,
) -> tuple[Patient, tuple[np.ndarray, Grid]]:
    """A head with its veins and lesions.

    Args:
        spec: of the first scan, in which all lesions lie and whose protocol gives their apparent diameter.
        streams: sources of anatomy, veins, lesions and large lesions.
        signal: of each tissue, as of :func:`~.acquire.signals`.
        box: corners of what the maps cover, scanner mm.
        later: further microbleeds, the last ones, which the first scan does not have.

    Returns:
        the patient, and the background field in ppm with its grid.
    """
    anatomy_rng, vein_rng, lesion_rng, content_rng = streams
    content, how = spec.content, spec.processing
    image = image_grid(spec)
    chi_map = load_map(spec.chi_map) if spec.chi_map else None
    pose = Pose(anatomy_rng) if chi_map is None else MapPose(chi_map)
    shape = Shape.draw(anatomy_rng)
    shape = replace(shape, ventricle=shape.ventricle + spec.atrophy, gap=shape.gap + spec.atrophy / 2)
    # Beside a map the air cells are drawn smaller: its mask leaves out the brain next to them.
    shape = replace(shape, air=content.air_scale * (1.0 if chi_map is None else MAP_AIR_SCALE))
    if chi_map is None:
        head = build_head(pose, shape, *box, anatomy_rng, signal)
        veins, arteries = grow(pose, vein_rng)
    else:
        head = map_head(chi_map, pose, shape, *box, signal)
        veins, arteries = map_veins(chi_map), Vessels(np.zeros((0, 3)), np.zeros(0, np.float32))

    background, background_grid = background_field(pose, shape)
    background *= np.float32(spec.susceptibility_scale)
    per_mm = np.stack(np.gradient(background, *background_grid.step))
    slice_phase = physics.radians_per_ppm(spec.field_tesla, spec.te_ms) * spec.spacing[2]
    steepness = slice_phase * np.sqrt((per_mm**2).sum(0)), background_grid
    first, last = np.array(image.origin), np.array(image.origin) + np.array(image.step) * (np.array(image.shape) - 1)
    # Lesions lie a slice within what is written.
    bottom = first + image.step * (1 + np.array([0, 0, how.empty_slices[0]]))
    top = last - image.step * (1 + np.array([0, 0, how.empty_slices[1]]))
    count = microbleed_count(spec, lesion_rng) + later
    added_iron, large = draw_large(head, content, bottom, top, content_rng)
    placer = Placer(head, veins, steepness, bottom, top, lesion_rng)
    for lesion in large:
        if lesion.kind != "siderosis":
            placer.take(lesion.centre, lesion.radius)
    mimics, cut_veins = place_mimics(placer, spec.field_tesla, spec.te_ms) if spec.mimics else ([], [])
    more, more_veins = place_small(placer, content, spec.field_tesla, spec.te_ms)
    placed = place_microbleeds(placer, count, spec.field_tesla, spec.te_ms, content)
    lesions = [x for x in placed if x.kind == "microbleed"]
    twins = [x for x in placed if x.kind != "microbleed"]
    grown = [lobes(x, lesion_rng) if x.profile == "lobed" else companions(x, lesion_rng) for x in lesions + twins]
    mimics = mimics + more
    courses = [artery_of(x, head, lesion_rng) if x.kind == "flow_void" else () for x in mimics]
    own = [] if chi_map is None else [x for x in foci(chi_map) if np.all((x.centre > bottom) & (x.centre < top))]
    # The veins of a map are in its susceptibility already; no artery is drawn there, so the list has no vessel.
    everything = [veins] if chi_map is None else [arteries]
    everything += [continued(vein, head, lesion_rng) for vein in (*cut_veins, *more_veins)]
    veins = Vessels(np.concatenate([v.points for v in everything]), np.concatenate([v.radii for v in everything]))
    parts = [*grown[: len(lesions)], *courses, *grown[len(lesions) :], *([()] * len(large + own))]
    patient = Patient(
        shape,
        head,
        added_iron,
        (veins, arteries),
        tuple(lesions),
        tuple(mimics + twins + large + own),
        tuple(map(tuple, parts)),
        pose,
        chi_map,
    )
    return patient, (background, background_grid)


def scan(
    patient: Patient,
    spec: PhantomSpec,
    background: tuple[np.ndarray, Grid],
    streams: Sequence[np.random.Generator],
    signal: dict,
) -> Phantom:
    """Acquire and reconstruct a scan of a patient.

    Args:
        patient: in the scanner mm of this scan.
        spec: geometry, acquisition and processing; of its content only whether twins look alike.
        background: field of air, bone and fat in ppm, and its grid.
        streams: sources of coils, noise, view and processing.
        signal: of each tissue.
    """
    contrast_rng, noise_rng, view_rng, processing_rng = streams
    head, content, how = patient.head, spec.content, spec.processing
    lesions, mimics = list(patient.microbleeds), list(patient.mimics)
    image = image_grid(spec)
    fine, factor, start = fine_grid(spec, image)
    scale = np.float32(spec.susceptibility_scale)
    vessels = tuple(draw(one, fine) for one in patient.vessels)
    amplitude, chi = tissue(head, fine, vessels, signal, spec, patient.added_iron, patient.chi_map)
    del vessels
    coil = coil_curves([fine.axis(d) for d in range(3)], contrast_rng, spec.bias)
    amplitude *= coil[0][:, None, None]
    amplitude *= coil[1][:, None] * coil[2]
    chi *= scale
    local = physics.dipole_field(chi, fine.step)
    del chi
    spheres = [x for x in lesions + mimics if x.kind not in IN_THE_MAPS]
    spheres += [part for parts in patient.parts for part in parts]
    field = (amplitude, local, *background)
    complex_image = acquire(*field, _factors(spheres, fine, spec), fine, factor, start, spec)
    for_swi = None
    if any(x.pair is not None for x in mimics) and content.pairs_alike and "SWI" in spec.outputs:
        for_swi = acquire(*field, _factors(_paramagnetic(spheres), fine, spec), fine, factor, start, spec)
    seen = head_mask(complex_image) if how.outside != "keep" else None
    cycles = noise_rng.uniform(20, 60) if spec.ghosting else 0.0
    noise = noise_rng.standard_normal((2, *spec.shape), np.float32) / np.float32(spec.snr)
    measured = []
    for volume in (complex_image, for_swi):
        if volume is not None and spec.ghosting:
            volume = physics.ghost(volume, spec.spacing, spec.ghosting, cycles)
        if volume is not None:
            volume.real += noise[0]
            volume.imag += noise[1]
        measured.append(volume)
    magnitude, phase, swi, spacing = reconstruct(*measured, spec, processing_rng)
    written = Grid(image.origin, spacing, magnitude.shape)
    axes = [written.axis(d) for d in range(3)]
    kept = None
    if spec.skull_stripped or how.rough_mask_mm:
        distance = resample(head.brain_distance, head.grid, axes)
        kept = rough_mask(distance, spacing, how.rough_mask_mm, processing_rng) if how.rough_mask_mm else distance < 0.5
    if seen is not None:
        for axis, times in enumerate(how.zero_fill):
            seen = np.repeat(seen, times, axis)
    sensitivity = _sensitivity(coil, fine, axes) if how.normalise else np.ones((1, 1, 1), np.float32)
    volumes = {"SWI": swi, "Magnitude": magnitude, "Phase": phase}
    stored = finish(volumes, sensitivity, seen, kept, spacing, spec, processing_rng)
    affine = _affine(spec, written, view_rng)
    found = [_record(x, written, affine) for x in lesions]
    if content.profiles or spec.gap_mm:
        for lesion, record in zip(lesions, found, strict=True):
            alone = signal_factor(lesion, fine, spec.field_tesla, spec.te_ms, spec.susceptibility_scale)
            record["contrast"] = round(contrast(alone, fine, factor, spec), 3)
    truth = {
        "spec": spec.as_dict(),
        "microbleeds": found,
        "mimics": [_record(x, written, affine) for x in mimics],
    }
    return Phantom(spec, stored["SWI"], _scale_phase(stored["Phase"], spec), stored["Magnitude"], affine, truth)


def _sensitivity(coil: tuple[np.ndarray, ...], fine: Grid, axes: list[np.ndarray]) -> np.ndarray:
    """Coil sensitivity on the written grid, float32."""
    x, y, z = (np.interp(axes[d], fine.axis(d), coil[d]).astype(np.float32) for d in range(3))
    return x[:, None, None] * y[:, None] * z
