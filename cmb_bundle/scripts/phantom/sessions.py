"""Several scans of one head: the same veins, nuclei and lesions, in another pose, with other noise and protocols."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from .acquire import background_field, image_grid, signals
from .anatomy import Head, Pose
from .grid import covering
from .lesions import Lesion, apparent_diameter
from .profiles import moment
from .simulate import Patient, Phantom, box_of, make_patient, scan
from .spec import T2STAR, PhantomSpec
from .veins import Vessels

TURN_DEG, SHIFT_MM = 3.0, 3.0
"""Standard deviations, about and along each axis, of how else a head lies in a later scan. Choices: heads are laid and
slices planned by hand, to within some degrees and mm."""
NEW_MICROBLEEDS = 1.5
"""Mean number of new ones from one scan to the next, Poisson, in scans whose number is not given. A choice: far more
than in patients, for a follow-up to be measured."""
CHANGES = ("field", "echo", "voxels", "sequence")
"""What another protocol changes."""


@dataclass(frozen=True)
class Session:
    """One scan of a patient.

    Attributes:
        spec: protocol and grid; its seed and its content are those of the patient.
        motion: (4, 4), scanner mm of this scan to those of the first.
        new: how many microbleeds are new in it.
    """

    spec: PhantomSpec
    motion: np.ndarray
    new: int = 0


@dataclass(frozen=True)
class _MovedPose:
    """The pose of a head that has moved in the scanner."""

    pose: Pose
    motion: np.ndarray

    def to_template(self, points: np.ndarray) -> np.ndarray:
        flat = self.motion[:3, :3] @ points.reshape(3, -1) + self.motion[:3, 3:]
        return self.pose.to_template(flat.astype(np.float32)).reshape(points.shape)


def rigid(turn_deg: Sequence[float], shift_mm: Sequence[float]) -> np.ndarray:
    """A turn about each axis in degrees, one after the other, then a shift.

    >>> rigid((0, 0, 90), (1, 0, 0)).round(6).tolist()[0]
    [0.0, -1.0, 0.0, 1.0]
    """
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(turn_deg)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return nib.affines.from_matvec(matrix, shift_mm)


def another_protocol(spec: PhantomSpec, change: str, rng: np.random.Generator) -> PhantomSpec:
    """The same person at another time, in another scanner or by another protocol.

    Args:
        spec: the first scan's.
        change: one of CHANGES: "field" is 1.5 T for 3 T and the reverse, with the echo time of the other field;
            "echo" is 0.7 to 1.4 of the echo time; "voxels" are 0.75 to 1.3 times as wide and 0.75 to 1.5 times as
            thick, over the same extent; "sequence" is a T2*-weighted magnitude for SWI, and the reverse.
        rng: source of randomness.

    Raises:
        ValueError: an unknown change.
    """
    extent = np.array(spec.shape) * np.array(spec.spacing)
    if change == "field":
        field, te = (1.5, 40.0) if spec.field_tesla > 2 else (3.0, 20.0)
        return spec.changed(field_tesla=field, te_ms=te, tr_ms=max(spec.tr_ms, te + 9))
    if change == "echo":
        te = round(spec.te_ms * float(rng.choice([rng.uniform(0.7, 0.85), rng.uniform(1.15, 1.4)])), 1)
        return spec.changed(te_ms=te, tr_ms=max(spec.tr_ms, te + 6))
    if change == "voxels":
        wide, thick = spec.spacing[0] * rng.uniform(0.75, 1.3), spec.spacing[2] * rng.uniform(0.75, 1.5)
        spacing = (round(float(wide), 2), round(float(wide), 2), round(float(thick), 2))
        return spec.changed(spacing=spacing, shape=_shape(extent, spacing), gap_mm=min(spec.gap_mm, spacing[2] / 4))
    if change == "sequence":
        other = T2STAR if "T2star" not in spec.outputs else PhantomSpec()
        spacing = other.spacing if "T2star" in other.outputs else (0.8, 0.8, 2.0)
        names = ("te_ms", "tr_ms", "flip_deg", "snr", "gap_mm", "outputs")
        return spec.changed(
            spacing=spacing, shape=_shape(extent, spacing), **{name: getattr(other, name) for name in names}
        )
    raise ValueError(f"change is {change!r}; expected one of {CHANGES}")


def _shape(extent: np.ndarray, spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    i, j = (2 * round(float(length) / step / 2) for length, step in zip(extent[:2], spacing[:2], strict=True))
    return i, j, max(3, round(float(extent[2]) / spacing[2]))


def draw_sessions(
    spec: PhantomSpec, sessions: int, other_protocol: float = 0.0, new: float | int = NEW_MICROBLEEDS
) -> list[Session]:
    """The scans of one patient.

    Args:
        spec: of the first; its seed is that of the patient.
        sessions: how many.
        other_protocol: share of later scans that are made by another protocol.
        new: mean number of new microbleeds in each later scan, Poisson.

    Raises:
        ValueError: fewer than one session, or a head from a susceptibility map.
    """
    if sessions < 1:
        raise ValueError(f"sessions is {sessions}; expected at least 1")
    if spec.chi_map and sessions > 1:
        raise ValueError("sessions is more than 1 for a susceptibility map; expected a simulated head")
    rng = np.random.default_rng([spec.seed, 30])
    found = [Session(spec, np.eye(4))]
    for _ in range(1, sessions):
        turn, shift = rng.normal(0, TURN_DEG, 3), rng.normal(0, SHIFT_MM, 3)
        other, change = rng.random() < other_protocol, str(rng.choice(CHANGES))
        number, snr = int(rng.poisson(new)), float(round(spec.snr * np.exp(rng.normal(0, 0.1)), 2))
        later = another_protocol(spec.changed(snr=snr), change, rng) if other else spec.changed(snr=snr)
        found.append(Session(later, rigid(turn, shift), number))
    return found


def simulate_sessions(sessions: Sequence[Session]) -> list[Phantom]:
    """Simulate the scans of one patient; the same sessions give the same bytes.

    Args:
        sessions: of which the first has all microbleeds that are not new in a later one, see :func:`draw_sessions`.

    Returns:
        a phantom for each. In its truth each of the "microbleeds" that lie in its stack of slices has "lesion", a
        number that is the same in all scans, and "new", whether the scan before did not have it; "session" is the
        number of the scan, from 1, and "to_first", (4, 4), brings RAS mm of the scan to those of the first.
    """
    with threadpool_limits(1):
        return _simulate_sessions(sessions)


def _simulate_sessions(sessions: Sequence[Session]) -> list[Phantom]:
    first, seed = sessions[0].spec, sessions[0].spec.seed
    later = sum(session.new for session in sessions)
    corners = np.concatenate([_corners(box_of(s.spec), s.motion) for s in sessions])
    box = corners.min(0), corners.max(0)
    phantoms, base, made = [], np.eye(4), None
    for number, session in enumerate(sessions):
        streams = [np.random.default_rng([seed, n]) for n in (0, 1, 2, 6)]
        signal = signals(session.spec, np.random.default_rng([seed, 3]))
        # lesions are placed in the first scan, and by its protocol, in each turn again; another protocol has another
        # signal about the brain, and nothing else of a patient depends on it
        if made is None or made[0] != signal:
            made = signal, make_patient(first, streams, signal, box, later)[0]
        patient = made[1]
        born = sum(other.new for other in sessions[: number + 1])
        seen = _without(patient, len(patient.microbleeds) - max(later - born, 0))
        moved = seen if number == 0 else _moved(seen, session, box_of(session.spec))
        views = [np.random.default_rng([seed, n, 31, number]) for n in (3, 4, 5, 7)]
        field, grid = background_field(_MovedPose(patient.pose, session.motion), patient.shape)
        field *= np.float32(session.spec.susceptibility_scale)
        spec = session.spec.changed(content=first.content)
        phantom = scan(_bloomed(moved, first, spec), spec, (field, grid), views, signal)
        to_world = phantom.affine @ np.linalg.inv(_scanner_affine(phantom, spec))
        if number == 0:
            base = to_world
        truth = dict(phantom.truth) | {
            "session": number + 1,
            "to_first": (base @ session.motion @ np.linalg.inv(to_world)).round(6).tolist(),
        }
        known = len(patient.microbleeds) - later
        before = known + sum(other.new for other in sessions[1:number])
        truth["microbleeds"] = [
            {**record, "lesion": n + 1, "new": number > 0 and n >= before}
            for n, record in enumerate(truth["microbleeds"])
            if _in_stack(record["voxel"], phantom.swi.shape)
        ]
        phantoms.append(replace(phantom, truth=truth))
    return phantoms


def _scanner_affine(phantom: Phantom, spec: PhantomSpec) -> np.ndarray:
    """Voxel of the written grid to scanner mm."""
    step = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    return nib.affines.from_matvec(np.diag(step), image_grid(spec).origin)


def _corners(box: tuple[np.ndarray, np.ndarray], motion: np.ndarray) -> np.ndarray:
    low, high = box
    corners = np.array([[(low, high)[bit >> d & 1][d] for d in range(3)] for bit in range(8)])
    return nib.affines.apply_affine(motion, corners)


def _in_stack(voxel: Sequence[float], shape: Sequence[int]) -> bool:
    return all(0 <= v <= n - 1 for v, n in zip(voxel, shape, strict=True))


def _without(patient: Patient, number: int) -> Patient:
    """With the first microbleeds alone."""
    kept = patient.microbleeds[:number]
    parts = patient.parts[:number] + patient.parts[len(patient.microbleeds) :]
    return replace(patient, microbleeds=kept, parts=parts)


def _moved(patient: Patient, session: Session, box: tuple[np.ndarray, np.ndarray]) -> Patient:
    """A patient in the scanner mm of a later scan."""
    back = np.linalg.inv(session.motion)

    def place(centres: np.ndarray) -> np.ndarray:
        return nib.affines.apply_affine(back, centres)

    def spheres(lesions: Sequence[Lesion]) -> tuple[Lesion, ...]:
        return tuple(replace(x, centre=place(x.centre)) for x in lesions)

    head = patient.head
    grid = covering(*box, 1.0)
    index = head.grid.index(nib.affines.apply_affine(session.motion, grid.points().reshape(3, -1).T)).T
    index = index.astype(np.float32)

    def map_of(volume: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(volume, index, order=1, mode="nearest").reshape(grid.shape)

    maps = {name: map_of(getattr(head, name)) for name in ("white", "fluid", "iron", "brain", "outer")}
    template = np.stack([map_of(one) for one in head.template_mm])
    moved = Head(grid, template, **maps, brain_distance=map_of(head.brain_distance))
    return replace(
        patient,
        head=moved,
        added_iron=None if patient.added_iron is None else map_of(patient.added_iron),
        vessels=tuple(Vessels(place(v.points), v.radii) for v in patient.vessels),
        microbleeds=spheres(patient.microbleeds),
        mimics=spheres(patient.mimics),
        parts=tuple(spheres(parts) for parts in patient.parts),
    )


def _bloomed(patient: Patient, first: PhantomSpec, spec: PhantomSpec) -> Patient:
    """With the apparent diameters of another protocol; what a lesion is made of stays the same."""
    if (first.field_tesla, first.te_ms) == (spec.field_tesla, spec.te_ms):
        return patient

    def width(lesion: Lesion, how: PhantomSpec) -> float:
        chi = lesion.susceptibility * moment(lesion.layers)
        return apparent_diameter(lesion.radius, chi, how.field_tesla, how.te_ms)

    changed = [
        tuple(replace(x, diameter=x.diameter * width(x, spec) / width(x, first)) if x.susceptibility else x for x in of)
        for of in (patient.microbleeds, patient.mimics)
    ]
    return replace(patient, microbleeds=changed[0], mimics=changed[1])


def files_of_session(phantom: Phantom, participant: str, session: int) -> dict[str, np.ndarray | dict]:
    """What is written of a scan, by its path in a BIDS data set: images as arrays, the rest as JSON.

    Args:
        phantom: the scan.
        participant: such as "sub-001".
        session: from 1.
    """
    stem = f"{participant}_ses-{session}"
    folder = Path(participant, f"ses-{session}")
    names = {
        "SWI": f"swi/{stem}_swi",
        "Magnitude": f"swi/{stem}_part-mag_GRE",
        "Phase": f"swi/{stem}_part-phase_GRE",
        "T2star": f"anat/{stem}_T2starw",
    }
    spec, found = phantom.spec, {}
    about = {"EchoTime": round(spec.te_ms / 1000, 6), "MagneticFieldStrength": spec.field_tesla}
    for name, array in phantom.images.items():
        found[(folder / f"{names[name]}.nii.gz").as_posix()] = array
        found[(folder / f"{names[name]}.json").as_posix()] = about
    found[f"Truth/{stem}.json"] = json.loads(json.dumps({"subject": stem, **phantom.truth}))
    return found
