"""Put microbleeds into the scans of a folder, and write them with labels as a new data set."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm import tqdm

from ..data.layouts import find_subjects
from ..errors import CohortError, OptionError, SubjectError, root_cause
from ..files import write_csv, write_json
from ..phantom.cohort import write_scan
from ..phantom.lesions import (
    DIAMETER_MEDIAN_MM,
    DIAMETER_SIGMA,
    Lesion,
    apparent_to_true_radius,
    companions,
    draw_count,
    draw_susceptibility,
)
from ..phantom.profiles import twin
from ..transforms.phase_scale import phase_to_radians, wrap
from .change import INTERPOLATED, Change, View, change
from .places import clearance, place
from .scan import Scan, read_scan

logger = logging.getLogger(__name__)

MASK_POWER = 4
LEAST_MASK = 0.02  # of the phase mask to its power, below which it has left nothing that could be scaled
# Least darkening: in standard deviations of what is around it, as in the label audit; and as a share of the tissue.
VISIBLE_SPREADS, VISIBLE_SHARE = 2.5, 0.15
TRIES = 20


@dataclass(frozen=True)
class Implants:
    """
    What is put into each scan.

    Attributes:
        microbleeds: number; None draws it from the published distribution for scans with microbleeds.
        diameter_mm: smallest and largest apparent diameter; between them the published distribution holds.
        calcifications: number of calcified twins: like the first microbleeds, but of opposite susceptibility.
        seed: of everything random; a scan's own numbers follow from it and from the subject's id.
    """

    microbleeds: int | None = None
    diameter_mm: tuple[float, float] = (1.0, 10.0)
    calcifications: int = 0
    seed: int = 0


def implant_microbleeds(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    microbleeds: int | None = None,
    diameter_mm: Sequence[float] = (1.0, 10.0),
    calcifications: int = 0,
    seed: int = 0,
    field_tesla: float | None = None,
    te_ms: float | None = None,
    gap_mm: float = 0.0,
    resolution_mm: Sequence[float] | None = None,
    phase_scale: float | None = None,
    phase_sign: int | str = "auto",
    echo: int = -1,
    dicom_series: Mapping | None = None,
) -> pd.DataFrame:
    """
    Write a labelled copy of a data set, with microbleeds put into its scans.

    The folder has the layout of the published data set, a truth file for each subject, ``implanted.csv`` with a row
    for each, ``implant.json`` with the options, and ``failures.csv`` where some subjects failed. It appears when the
    last subject is done, or not at all; the data set is only read.

    Args:
        dataset_dir: as for :func:`~..data.layouts.find_subjects`; labels in it are not used.
        output_dir: a folder that is not there, or is empty.
        microbleeds, diameter_mm, calcifications, seed: see :class:`Implants`.
        field_tesla, te_ms, gap_mm, resolution_mm, phase_scale, phase_sign, echo, dicom_series: see
            :func:`~.scan.read_scan`.

    Returns:
        the table of ``implanted.csv``.

    Raises:
        OptionError: output_dir holds something or lies in the data set; the range of diameters is none.
        SubjectError: there are no subjects, or nothing could be put into any.
        CohortError: some subjects failed; the others are written.
    """
    source, folder = Path(dataset_dir or ".").expanduser().absolute(), Path(output_dir).expanduser().absolute()
    low, high = diameter_mm
    if not low < high:
        raise OptionError(f"diameter_mm is {list(diameter_mm)}; expected the smallest and the largest, as '[2,5]'.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"output_dir is {folder}, which is not empty. Name a folder that is not there.")
    if dataset_dir is not None and (folder == source or source in folder.parents):
        raise OptionError(f"output_dir is {folder}, within the data set {source}, which is not changed. Name another.")
    wanted = Implants(microbleeds, (float(low), float(high)), calcifications, seed)
    reading = {
        "field_tesla": field_tesla, "te_ms": te_ms, "gap_mm": gap_mm, "resolution_mm": resolution_mm,
        "phase_scale": phase_scale,
        "phase_sign": phase_sign, "echo": echo,
    }  # fmt: skip
    subjects = find_subjects(dataset_dir, echo)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-partial-", dir=folder.parent))
    rows, failures = [], {}
    try:
        for subject in tqdm(subjects, desc="Implanting", unit="subject"):
            name = subject["subject"]
            try:
                if "error" in subject:
                    raise SubjectError(f"{name}: {subject['error']}")
                scan = read_scan(subject, dicom_series=dicom_series, **reading)
                if "label" in subject:
                    scan.notices = f"{scan.notices} Its own labels are not in the copy.".strip()
                rows.append(_implant(scan, wanted, phase_scale, aside))
            except Exception as error:
                cause = root_cause(error)
                if isinstance(cause, MemoryError):
                    raise
                failures[name] = f"{type(cause).__name__}: {cause}"
                logger.error(f"{name} failed: {cause}")
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in sorted(failures.items()))
        if not rows:
            raise SubjectError(f"{source}: nothing was put into any of {len(subjects)} scans:\n{reasons}")
        table = pd.DataFrame(rows)
        write_csv(aside / "implanted.csv", table)
        write_json(aside / "implant.json", {**asdict(wanted), **reading})
        if failures:
            write_csv(aside / "failures.csv", pd.DataFrame(sorted(failures.items()), columns=["subject", "reason"]))
        aside.chmod(0o755)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"\n{table['microbleeds'].sum()} microbleeds were put into {len(table)} scans: {folder}")
    if failures:
        raise CohortError(f"{len(failures)} of {len(subjects)} subjects failed; the others are done.\n{reasons}")
    return table


def draw_diameter(low: float, high: float, rng: np.random.Generator) -> float:
    """
    Draw an apparent diameter in mm: the published lognormal distribution between two limits.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sizes = [draw_diameter(2.0, 5.0, rng) for _ in range(200)]
        >>> min(sizes) >= 2, max(sizes) <= 5, bool(2.7 < np.median(sizes) < 3.1)
        (True, True, True)
    """
    ends = (np.log([low, high]) - np.log(DIAMETER_MEDIAN_MM)) / DIAMETER_SIGMA
    drawn = stats.truncnorm.rvs(*ends, loc=np.log(DIAMETER_MEDIAN_MM), scale=DIAMETER_SIGMA, random_state=rng)
    return float(np.clip(np.exp(drawn), low, high))


def apply(scan: Scan, made: Change, rng: np.random.Generator, noise: float | None = None) -> dict[str, np.ndarray]:
    """
    Put a change into a scan's images; what the lesion takes from the noise is given back.

    Signal = image * factor + noise * sqrt(1 - |factor|^2), so that the noise within the lesion is that of the scan. A
    phase that was filtered gets the lesion's filtered phase. An SWI is scaled by the magnitude, and by the phase mask
    after over that before; without a phase, by the mask of the lesion's own filtered phase.

    Args:
        scan: is changed in place: its images, and its phase in radians.
        made: of :func:`~.change.change`.
        rng: source of the noise.
        noise: in place of ``scan.noise``.

    Returns:
        the change of each image within the window, stored units.
    """
    window, dark = made.window, scan.dark
    before = {key: volume[window].copy() for key, volume in scan.images.items()}
    own = before[dark]
    sigma = scan.noise if noise is None else noise
    random = _noise(made.factor.shape, scan.view, rng) * sigma
    lost = np.sqrt(np.clip(1 - np.abs(made.factor) ** 2, 0, 1))
    relative = random * lost / np.maximum(np.abs(own), max(sigma, 1e-12))
    plain, filtered = made.factor + relative, made.filtered + relative
    after = own * np.abs(plain)
    if scan.contrast in ("swi", "swi + phase"):
        added = np.angle(filtered)
        old = np.zeros_like(own) if scan.masking is None else scan.masking[window]
        new = _wrapped(old + added)
        share = np.maximum(_mask(new), LEAST_MASK) / np.maximum(_mask(old), LEAST_MASK)
        after = np.minimum(after * share, max(float(own.max()), 0.0))
        if scan.masking is not None:
            scan.masking[window] = new
    # what is far from the lesion keeps its bytes
    after = np.where(made.factor == 1, own, after)
    scan.images[dark][window] = _rounded(after, scan.images[dark], own)
    if "phase" in scan.images:
        turned = np.angle(plain if scan.raw else filtered)
        turned[made.factor == 1] = 0
        old = scan.radians[window]
        new = _wrapped(old + turned)
        # in the range in which the file stores a circle
        stored = before["phase"] + (new - old) / scan.unit
        circle = 2 * np.pi / abs(scan.unit)
        least, most = float(scan.images["phase"].min()), float(scan.images["phase"].max())
        stored = np.where((stored < least) & (stored + circle <= most), stored + circle, stored)
        stored = np.where((stored > most) & (stored - circle >= least), stored - circle, stored)
        stored = np.where(turned == 0, before["phase"], stored)
        scan.images["phase"][window] = _rounded(stored, scan.images["phase"], before["phase"])
        scan.radians[window] = np.where(turned == 0, old, new)
    return {key: scan.images[key][window] - before[key] for key in scan.images}


def darkening(scan: Scan, made: Change) -> float:
    """The largest share that a change takes from the image in which microbleeds are dark, in uniform tissue."""
    size = np.abs(made.factor)
    if scan.contrast.startswith("swi"):
        size = size * _mask(np.angle(made.filtered))
    return float(np.clip(1 - size.min(initial=1.0), 0, 1))


def _mask(phase: np.ndarray) -> np.ndarray:
    """The phase mask to its power (Haacke et al. 2004), paramagnetic positive."""
    return (1 - np.clip(phase, 0, np.pi) / np.pi) ** MASK_POWER


def _wrapped(phase: np.ndarray) -> np.ndarray:
    return np.angle(np.exp(1j * phase)).astype(np.float32)


def _rounded(values: np.ndarray, whole: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Whole numbers where the image holds nothing else."""
    return np.rint(values) if np.array_equal(before, np.rint(before)) and _is_whole(whole) else values


def _is_whole(volume: np.ndarray) -> bool:
    return bool((volume == np.rint(volume)).all())


def _noise(shape: tuple[int, ...], view: View, rng: np.random.Generator) -> np.ndarray:
    """Complex noise of one in each channel, as smooth in plane as that of an interpolated scan."""
    noise = rng.standard_normal((2, *shape)).astype(np.float32)
    noise = noise[0] + 1j * noise[1]
    keep = [
        np.abs(np.fft.fftfreq(n, d)) <= 0.5 / r if r > INTERPOLATED * d else np.ones(n, bool)
        for n, d, r in zip(shape[:2], view.spacing[:2], view.resolution, strict=True)
    ]
    share = keep[0].mean() * keep[1].mean()
    if share < 1:
        spectrum = np.fft.fft2(noise, axes=(0, 1)) * np.outer(*keep)[..., None]
        noise = np.fft.ifft2(spectrum, axes=(0, 1)) / np.sqrt(share)
    return noise


def _implant(scan: Scan, wanted: Implants, phase_scale: float | None, aside: Path) -> dict[str, Any]:
    """Put microbleeds into one scan and write it; returns its row of the table."""
    rng = np.random.default_rng([wanted.seed, zlib.crc32(scan.subject.encode())])
    view, shape = scan.view, scan.head.shape
    number = draw_count(rng) if wanted.microbleeds is None else wanted.microbleeds
    # large ones first: they find room in fewer places
    diameters = sorted((draw_diameter(*wanted.diameter_mm, rng) for _ in range(number)), reverse=True)
    calcified = wanted.calcifications if scan.radians is not None else 0
    distance, step = clearance(scan.images[scan.dark], scan.head, view.spacing)
    untouched = {key: volume.copy() for key, volume in scan.images.items()}
    taken, placed, twins = [], [], []
    for diameter in diameters:
        found = _one(scan, diameter, distance, step, taken, rng)
        if found is None:
            continue
        lesion, others, made, share = found
        if len(twins) < calcified:
            spot = place(distance, step, shape, view.spacing, diameter, taken, rng)
            if spot is not None:
                taken.append((np.array(spot.voxel), diameter / 2))
                pair = len(twins) + 1
                shift = np.array(spot.voxel) * view.spacing - lesion.centre
                lesion = replace(lesion, pair=pair)
                both = [twin(lesion, lesion.centre + shift, pair)]
                both += [twin(x, x.centre + shift, pair) for x in others]
                apply(scan, change(both, view, shape), rng)
                twins.append((both[0], share))
        apply(scan, made, rng)
        placed.append((lesion, share))
    if not placed:
        raise SubjectError(
            f"{scan.subject}: there is no room for a microbleed of {wanted.diameter_mm[0]:g} to "
            f"{wanted.diameter_mm[1]:g} mm that would be seen: no brain tissue was found that is wide and even enough. "
            "Give smaller diameters, or leave the scan out."
        )
    notices = [scan.notices] if scan.notices else []
    if len(placed) < number:
        notices.append(f"There was room for {len(placed)} of {number} microbleeds.")
    if len(twins) < wanted.calcifications:
        why = "there is no phase" if scan.radians is None else "there was no room for more"
        notices.append(f"It has {len(twins)} of {wanted.calcifications} calcifications: {why}.")
    for text in notices:
        logger.info(f"{scan.subject}: {text}")
    _check_phase(scan, untouched, phase_scale)
    affine = scan.file_affine()
    truth: dict[str, Any] = {
        "implanted": {
            "contrast": scan.contrast, "field_tesla": view.field_tesla, "te_ms": view.te_ms, "gap_mm": view.gap_mm,
            "resolution_mm": [round(r, 4) for r in view.resolution], "noise": float(f"{scan.noise:.4g}"),
            "seed": wanted.seed,
            "notices": " ".join(notices),
        },
        "microbleeds": [_record(x, share, scan, affine) for x, share in placed],
    }  # fmt: skip
    if wanted.calcifications:
        truth["mimics"] = [{"kind": "calcification", **_record(x, share, scan, affine)} for x, share in twins]
    images = {scan.folder(key): _stored(scan.to_file(volume)) for key, volume in scan.images.items()}
    write_scan(images, affine, truth, aside, scan.subject)
    sizes = [x.diameter for x, _ in placed]
    return {
        "subject": scan.subject, "contrast": scan.contrast, "microbleeds": len(placed), "calcifications": len(twins),
        "smallest_mm": round(min(sizes), 2), "largest_mm": round(max(sizes), 2), "field_tesla": view.field_tesla,
        "te_ms": view.te_ms,
        "resolution_i_mm": round(view.resolution[0], 4), "resolution_j_mm": round(view.resolution[1], 4),
        "noise": float(f"{scan.noise:.4g}"), "notices": " ".join(notices),
    }  # fmt: skip


def _one(scan: Scan, diameter: float, distance: np.ndarray, step: np.ndarray, taken: list, rng: np.random.Generator):
    """A lesion that finds room and is seen: itself, its companions, its change and its darkening; None without."""
    view, shape = scan.view, scan.head.shape
    for _ in range(TRIES):
        spot = place(distance, step, shape, view.spacing, diameter, taken, rng)
        if spot is None:
            return None
        chi = draw_susceptibility(rng)
        radius = apparent_to_true_radius(diameter, chi, view.field_tesla, view.te_ms)
        lesion = Lesion("microbleed", np.array(spot.voxel) * view.spacing, radius, diameter, chi, "")
        others = companions(lesion, rng)
        made = change([lesion, *others], view, shape)
        share = darkening(scan, made)
        around = scan.images[scan.dark][made.window]
        tissue = float(np.median(around))
        spread = max(1.4826 * float(np.median(np.abs(around - tissue))), scan.noise)
        if share * tissue >= VISIBLE_SPREADS * spread and share >= VISIBLE_SHARE:
            taken.append((np.array(spot.voxel), diameter / 2))
            return lesion, others, made, share
    return None


def _record(lesion: Lesion, share: float, scan: Scan, affine: np.ndarray) -> dict[str, Any]:
    """A lesion as the truth file has it; voxel in the order of the file."""
    ras = scan.affine[:3, :3] @ (lesion.centre / scan.view.spacing) + scan.affine[:3, 3]
    voxel = np.linalg.inv(affine[:3, :3]) @ (ras - affine[:3, 3])
    record = {
        "voxel": [round(float(v), 3) for v in voxel],
        "ras_mm": [round(float(v), 3) for v in ras],
        "radius_mm": round(lesion.radius, 4),
        "diameter_mm": round(lesion.diameter, 3),
        "susceptibility_ppm": round(lesion.susceptibility, 4),
        "contrast": round(share, 3),
    }
    return record | ({} if lesion.pair is None else {"pair": lesion.pair})


def _check_phase(scan: Scan, untouched: Mapping[str, np.ndarray], phase_scale: float | None) -> None:
    """Refuse a copy whose phase would be read on another scale than the scan's: the range tells the scale."""
    if "phase" not in scan.images:
        return
    same = scan.images["phase"] == untouched["phase"]
    read, *_ = phase_to_radians(torch.as_tensor(scan.images["phase"]), phase_scale)
    sign = np.sign(scan.unit)
    apart = wrap(read * float(sign) - torch.as_tensor(scan.radians))[torch.as_tensor(same)].abs().max()
    if float(apart) > 0.01:
        raise SubjectError(
            f"{scan.subject}: the phase of the copy would be read on another scale than that of the scan, since the "
            "scale is told from the range of the values. Give --phase_scale, radians per stored unit."
        )


def _stored(volume: np.ndarray) -> np.ndarray:
    """The smallest type of whole numbers that holds an image, or float32."""
    if _is_whole(volume):
        for kind in (np.int16, np.uint16, np.int32):
            if np.iinfo(kind).min <= volume.min() and volume.max() <= np.iinfo(kind).max:
                return np.ascontiguousarray(volume.astype(kind))
    return np.ascontiguousarray(volume.astype(np.float32))
