"""Scans by a forward model of its own: does what was learned on the phantom's hold elsewhere?

``python benchmarks/second_simulator.py DIR --maps FOLDER`` makes labelled cohorts from measured susceptibility maps
(NIfTI, ppm), two scans of each kind from each map, for ``accuracy.py`` or to be evaluated with ``--subset all``
(docs/evaluate.md).

Microbleeds are spheres of 0.8 to 3.2 mm (2 to 8 mm on the scan, as they bloom). No mimics are planted: false positives
are at the map's own veins, nuclei and edges, or at noise. What may be a microbleed of the map itself is named in the
truth, by ``phantom.maps.foci``; nothing else here is the phantom's. The tissue is made up: smooth contrast, decay in
proportion to susceptibility, a scalp. Phase is filtered by a Hanning window of a quarter of k-space.
"""

from __future__ import annotations

import json
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
from scipy import fft, ndimage
from tqdm import tqdm

from cmb_bundle.scripts.phantom.maps import foci, load_map

GAMMA_MHZ = 42.577
KINDS = ("swi_phase", "swi_only", "t2star")
COUNTS = {0: 0.2, 1: 0.2, 2: 0.2, 3: 0.15, 5: 0.15, 8: 0.1}
"""Microbleeds of a scan, and how often."""
SUPPORT = 4
"""Samples along each side of a voxel that tell how much of it a sphere fills."""
RIM = np.array([12, 12, 8])
"""Voxels added on either side of a map."""


def sphere(shape: tuple, voxel: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """The share of each voxel that a sphere fills; all in mm from the first voxel's middle."""
    share = np.zeros(shape, np.float32)
    low = np.maximum(np.floor((centre - radius) / voxel).astype(int), 0)
    high = np.minimum(np.ceil((centre + radius) / voxel).astype(int) + 1, shape)
    offsets = (np.arange(SUPPORT) + 0.5) / SUPPORT - 0.5
    squares = [((np.arange(low[a], high[a])[:, None] + offsets).ravel() * voxel[a] - centre[a]) ** 2 for a in range(3)]
    inside = squares[0][:, None, None] + squares[1][None, :, None] + squares[2] < radius**2
    size = high - low
    blocks = inside.reshape(size[0], SUPPORT, size[1], SUPPORT, size[2], SUPPORT)
    share[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = blocks.mean(axis=(1, 3, 5))
    return share


def field_of(chi: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Relative field, ppm, of a susceptibility map, ppm; the main field is along the third axis."""
    padded = [fft.next_fast_len(int(1.3 * n), real=True) for n in chi.shape]
    k = [fft.fftfreq(n, d) for n, d in zip(padded, voxel, strict=True)]
    k[2] = fft.rfftfreq(padded[2], voxel[2])
    x, y, z = (axis**2 for axis in np.meshgrid(*k, indexing="ij", sparse=True))
    square = x + y + z
    square[0, 0, 0] = 1.0
    kernel = (1 / 3 - z / square).astype(np.float32)
    kernel[0, 0, 0] = 0.0
    field = fft.irfftn(fft.rfftn(chi, padded) * kernel, padded)
    return field[tuple(slice(n) for n in chi.shape)]


def in_plane(signal: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Multiply the in-plane k-space of each slice by a window whose middle is the middle of k-space."""
    return fft.ifft2(fft.fft2(signal, axes=(0, 1)) * fft.ifftshift(window)[..., None], axes=(0, 1))


def window_of(shape: tuple, share: float, hanning: bool) -> np.ndarray:
    """A rectangle or a Hanning window over the middle ``share`` of k-space along both axes."""
    sides = []
    for n in shape[:2]:
        width = 2 * round(n * share / 2)
        side = np.zeros(n)
        start = n // 2 - width // 2
        side[start : start + width] = np.hanning(width) if hanning else 1.0
        sides.append(side)
    return sides[0][:, None] * sides[1]


def simulate(path: Path, kind: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, dict]:
    """One scan.

    Args:
        path: the map, ppm, about 1 x 1 x 2 mm, 0 outside of the brain.
        kind: one of :data:`KINDS`.
        rng: source of randomness.

    Returns:
        Images by folder, ``Label`` among them, each (X, Y, Z); their affine (4, 4); and the truth, as the phantom's.
    """
    image = nib.as_closest_canonical(nib.load(path))
    ppm, thick = image.get_fdata(dtype=np.float32), kind == "t2star"
    voxel = np.array(image.header.get_zooms()) / (2, 2, 2)
    chi = np.pad(ndimage.zoom(ppm, 2, order=1, grid_mode=True, mode="nearest"), [(n, n) for n in RIM])
    brain = ndimage.binary_closing(chi != 0, iterations=4) | (chi != 0)
    depth = ndimage.distance_transform_edt(brain, sampling=voxel)
    tesla = rng.choice([1.5, 3.0])
    te = rng.uniform(0.018, 0.028) * (1.0 if tesla == 3.0 else 1.4)

    texture = ndimage.gaussian_filter(rng.standard_normal(chi.shape).astype(np.float32), 3 / voxel)
    shading = ndimage.zoom(rng.standard_normal((4, 4, 3)), np.array(chi.shape) / (4, 4, 3), order=3)
    density = (1 + 0.05 * texture / texture.std()) * np.exp(0.15 * shading)
    decay = 17 + 120 * np.abs(chi) * tesla / 3
    outside = ndimage.distance_transform_edt(~brain, sampling=voxel)
    scalp = (outside > 4) & (outside < 8)
    density = np.where(brain, density, np.where(scalp, 0.7, 0.03)).astype(np.float32)
    decay = np.where(brain, decay, 25)

    smooth = ndimage.uniform_filter(np.abs(chi), 5)
    places = np.argwhere((depth > 5) & (smooth < 0.03)) * voxel
    bleeds, label, centres, diameters = np.zeros_like(chi), np.zeros(chi.shape, np.uint8), [], []
    for _ in range(rng.choice(list(COUNTS), p=list(COUNTS.values()))):
        far = [
            p for p in places[rng.integers(len(places), size=50)] if all(np.linalg.norm(p - c) > 12 for c in centres)
        ]
        if not far:
            continue
        radius = rng.uniform(0.4, 1.6)
        filled = sphere(chi.shape, voxel, far[0], radius)
        bleeds += filled * rng.uniform(0.8, 2.5)
        density *= 1 - 0.6 * filled
        diameters.append(max(3 * radius, 2.4))
        label[sphere(chi.shape, voxel, far[0], diameters[-1] / 2) > 0.5] = 1
        centres.append(far[0])

    slope = sum(
        rng.normal(0, 0.002) * (np.arange(n) - n / 2).reshape([-1 if a == b else 1 for b in range(3)]) * d
        for a, (n, d) in enumerate(zip(chi.shape, voxel, strict=True))
    )
    angle = 2 * np.pi * GAMMA_MHZ * tesla * te * (field_of(chi + bleeds, voxel) + slope)
    signal = density * np.exp(-te * decay) * np.exp(1j * angle)

    slices = rng.integers(3, 6) if thick else 2
    kept = chi.shape[2] // slices * slices
    by_slice = [x[..., :kept].reshape(*chi.shape[:2], -1, slices) for x in (signal, label, depth)]
    signal, label, inner = by_slice[0].mean(axis=-1), by_slice[1].max(axis=-1), by_slice[2].mean(axis=-1) > 5
    signal = in_plane(signal, window_of(signal.shape, 0.5 if thick else 0.75, hanning=False))
    noise = np.abs(signal)[inner].mean() / rng.uniform(12, 35) / np.sqrt(2)
    signal = signal + noise * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    phase = np.angle(signal * np.conj(in_plane(signal, window_of(signal.shape, 0.25, hanning=True))))
    magnitude = np.abs(signal) / np.abs(signal).max() * 3000

    spacing = voxel * (1, 1, slices)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * magnitude.shape / 2
    first = affine[:3, 3] - (spacing - voxel) * (0, 0, 0.5)  # the middle of the first voxel before slices were averaged
    chi_map = load_map(path)
    own = [chi_map.grid.index(x.centre[None])[0] - 1 for x in foci(chi_map)]  # it has a rim of one voxel
    truth = {
        "spec": {"chi_map": path.name, "field_tesla": float(tesla), "te_ms": round(1000 * te, 1)},
        "microbleeds": [
            {"ras_mm": (first + c).round(3).tolist(), "diameter_mm": round(d, 3)}
            for c, d in zip(centres, diameters, strict=True)
        ],
        "mimics": [{"kind": "focus", "ras_mm": (first + (2 * x + 0.5 + RIM) * voxel).round(3).tolist()} for x in own],
    }
    if thick:
        return {"Data/T2star": magnitude.astype(np.int16), "Label": label}, affine, truth
    swi = magnitude * np.clip(1 - phase / np.pi, 0, 1) ** 4
    images = {"Data/SWI": swi.astype(np.int16), "Label": label}
    if kind == "swi_phase":
        images["Data/Phase"] = (2048 + 2047 * phase / np.pi).astype(np.int16)
    return images, affine, truth


def make(folder: str, maps: str, scans: int = 2, seed: int = 0) -> None:
    """Make a cohort of each kind from all maps of a folder.

    Args:
        folder: where the cohorts go, a folder for each kind.
        maps: folder with susceptibility maps, ``*.nii.gz``.
        scans: of each map and kind.
        seed: of everything drawn.
    """
    paths = sorted(Path(maps).glob("*.nii.gz"))
    if not paths:
        raise SystemExit(f"{maps}: no susceptibility map; expected files *.nii.gz.")
    todo = [(kind, path, scan) for kind in KINDS for path in paths for scan in range(scans)]
    for kind, path, scan in tqdm(todo, unit="scan"):
        rng = np.random.default_rng([seed, KINDS.index(kind), paths.index(path), scan])
        images, affine, truth = simulate(path, kind, rng)
        name = f"{path.name.split('.')[0]}-{scan + 1}"
        for part in (*images, "Truth"):
            (Path(folder) / kind / part).mkdir(parents=True, exist_ok=True)
        for part, data in images.items():
            image = nib.Nifti1Image(data, affine)
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, Path(folder) / kind / part / f"{name}.nii.gz")
        (Path(folder) / kind / "Truth" / f"{name}.json").write_text(json.dumps(truth, indent=2))


if __name__ == "__main__":
    fire.Fire(make)
