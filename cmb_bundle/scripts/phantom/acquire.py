"""The signal: tissue on a fine grid, the field about it, and the complex image averaged from both."""

from __future__ import annotations

import numpy as np
from scipy.fft import next_fast_len
from scipy.special import erf

from . import physics
from .anatomy import Head, Pose, Shape, load_template, outside_brain
from .grid import Grid, covering, resample
from .maps import MapPose, SusceptibilityMap
from .spec import PhantomSpec

FINE_MM = 0.6  # widest voxel of the fine grid
FINE_2D_MM = (1.0, 1.0, 0.7)  # the same for thick 2D slices, where dephasing along the slice decides
SLAB_MARGIN_MM = 4.0
BACKGROUND_MM = 2.5  # voxel of the grid for the fields of air and bone
CHUNK = 16  # sub-slices worked on at a time
INFLOW_SIGNAL = 1.7  # fresh arterial blood against white matter; 2.8 if wholly unsaturated
EDGE_SHARE = 0.15  # width of the edge of a slice profile, as a share of the slice


def image_grid(spec: PhantomSpec) -> Grid:
    """The acquired voxel centres in scanner mm."""
    origin = np.array(spec.centre_mm) - (np.array(spec.shape) - 1) / 2 * np.array(spec.spacing)
    return Grid(tuple(map(float, origin)), tuple(map(float, spec.spacing)), tuple(spec.shape))


def slice_profile(count: int, pitch_mm: float, gap_mm: float) -> np.ndarray:
    """Weights of the sub-slices between the middles of two gaps, float32 (count,), which add up to one.

    A 2D slice is excited by a shaped pulse: a box with soft edges, here of Gaussian width 0.15 of the slice, as of a
    sinc pulse of few lobes (Bernstein et al., Handbook of MRI Pulse Sequences, 2004, chapter 2.3). What lies in the
    gap gives little signal. Without a gap every sub-slice counts alike, as in a 3D acquisition.

    >>> (100 * slice_profile(5, 5.0, 2.0)).round().tolist()
    [2.0, 31.0, 33.0, 31.0, 2.0]
    """
    if not gap_mm:
        return np.full(count, 1 / count, np.float32)
    thickness = pitch_mm - gap_mm
    z = ((np.arange(count) + 0.5) / count - 0.5) * pitch_mm
    width = EDGE_SHARE * thickness
    weight = erf((z + thickness / 2) / width) - erf((z - thickness / 2) / width)
    return (weight / weight.sum()).astype(np.float32)


def fine_grid(spec: PhantomSpec, image: Grid) -> tuple[Grid, np.ndarray, np.ndarray]:
    """The grid that the signal is computed on, its factor to the image and the image voxel that it starts at."""
    factor = np.ceil(np.array(spec.spacing) / (FINE_2D_MM if spec.gap_mm else FINE_MM) - 1e-6).astype(int)
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


def background_field(pose: Pose | MapPose, shape: Shape) -> tuple[np.ndarray, Grid]:
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


def signals(spec: PhantomSpec, rng: np.random.Generator) -> dict[str, float]:
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
        "inflow": INFLOW_SIGNAL if spec.content.arterial_signal is None else spec.content.arterial_signal,
    }


def coil_curves(points: list[np.ndarray], rng: np.random.Generator, strength: float) -> tuple[np.ndarray, ...]:
    """Sensitivity as a product of one smooth curve along each axis: weaker in the middle, with a random slope."""
    curves = []
    for axis, half in zip(points, (75.0, 95.0, 85.0), strict=True):
        u = axis / half
        curves.append((1 + strength * (0.35 * u**2 + rng.normal(0, 0.35) * u)).clip(0.3, 2.5).astype(np.float32))
    return tuple(curves)


def tissue(
    head: Head,
    fine: Grid,
    vessels: tuple[np.ndarray, np.ndarray],
    signal: dict,
    spec: PhantomSpec,
    added_iron: np.ndarray | None = None,
    chi_map: SusceptibilityMap | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and local susceptibility (ppm), both float32, on the fine grid.

    Args:
        head: the subject's maps.
        fine: the fine grid.
        vessels: shares of veins and of arteries on the fine grid.
        signal: signal of each tissue against white matter.
        spec: field and echo time.
        added_iron: ppm on the head's grid, of lesions that are drawn into the maps.
        chi_map: takes the place of the tissues' own susceptibility.
    """
    table, (veins, arteries) = physics.SUSCEPTIBILITY_PPM, vessels
    grey = 1 - head.white - head.fluid
    inner = head.white * signal["white"] + grey * signal["grey"] + head.fluid * signal["fluid"]
    iron_decay = physics.IRON_R2STAR_PER_PPM_TESLA * spec.field_tesla * spec.te_ms * 1e-3
    iron = head.iron if added_iron is None else head.iron + added_iron
    tissue_signal = head.brain * inner * np.exp(-iron_decay * iron) + head.outer
    if chi_map is None:
        chi_parts = [(head.brain * (head.white * table["white"] + grey * table["grey"] + iron), head.grid)]
    else:
        chi_parts = [(chi_map.ppm, chi_map.grid)] + ([] if added_iron is None else [(added_iron, head.grid)])
    amplitude = np.empty(fine.shape, np.float32)
    chi = np.empty(fine.shape, np.float32)
    axes = [fine.axis(d) for d in range(3)]
    for k in range(0, fine.shape[2], CHUNK):
        part = slice(k, min(k + CHUNK, fine.shape[2]))
        here = [axes[0], axes[1], axes[2][part]]
        for volume, sources, content in (
            (amplitude, [(tissue_signal, head.grid)], ((veins, signal["blood"]), (arteries, signal["inflow"]))),
            (chi, chi_parts, ((veins, physics.VEIN_SUSCEPTIBILITY_PPM),)),
        ):
            value = resample(*sources[0], here)
            for source in sources[1:]:
                value += resample(*source, here)
            for share, vessel in content:
                value += share[..., part] * (np.float32(vessel) - value)
            volume[..., part] = value
    return amplitude, chi


def acquire(amplitude, local, background, background_grid, factors, fine, factor, start, spec) -> np.ndarray:
    """Complex image (i, j, k): the fine complex signal averaged over each voxel, by the slice profile along k."""
    image = np.zeros(spec.shape, np.complex64)
    per_ppm = np.float32(physics.radians_per_ppm(spec.field_tesla, spec.te_ms))
    margin = (fine.shape[2] - spec.shape[2] * factor[2]) // 2
    axes = [fine.axis(d) for d in range(3)]
    profile = slice_profile(factor[2], spec.spacing[2], spec.gap_mm)
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
        image[start[0] : start[0] + ni, start[1] : start[1] + nj, k] = (
            blocks.mean((1, 3)) @ profile if spec.gap_mm else blocks.mean((1, 3, 4))
        )
    return image


def contrast(factor_of: tuple | None, fine: Grid, factor: np.ndarray, spec: PhantomSpec) -> float:
    """Largest share of the signal that a lesion takes from any voxel of the image, in uniform tissue, 0..1.

    What lies in a slice gap, or is small or faint against the voxel, has a contrast near 0 and shows on no scan.

    Args:
        factor_of: slices into the fine grid and complex factor, of signal_factor; None touches nothing.
        fine: the fine grid.
        factor: fine voxels in an acquired one.
        spec: the acquisition.
    """
    if factor_of is None:
        return 0.0
    window, patch = factor_of
    margin = np.array([0, 0, (fine.shape[2] - spec.shape[2] * factor[2]) // 2])
    offset = np.array([s.start for s in window]) - margin
    before = offset % factor
    after = -(before + patch.shape) % factor
    padded = np.pad(patch, list(zip(before, after, strict=True)), constant_values=1)
    first = (offset[2] - before[2]) // factor[2]
    counts = np.array(padded.shape) // factor
    blocks = padded.reshape(counts[0], factor[0], counts[1], factor[1], counts[2], factor[2]).mean((1, 3))
    means = np.abs(blocks @ slice_profile(factor[2], spec.spacing[2], spec.gap_mm))
    in_stack = (first + np.arange(counts[2]) >= 0) & (first + np.arange(counts[2]) < spec.shape[2])
    return float(np.clip(1 - means[..., in_stack].min(initial=1.0), 0, 1))
