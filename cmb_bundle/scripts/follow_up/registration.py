"""Lay a later scan of a head on the first one: a rigid registration, and whether it can be right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from threadpoolctl import threadpool_limits

from ..geometry import to_voxel
from ..regions.volumes import coarse_volume, load_elastix, similarity_of

STEP_MM = 2.0
BLOCK_MM = 20.0
REACH_MM = 8.0
"""How far from its place each block of the first scan is looked for in the later one."""
FILLED = 0.6
"""Share of a block that must lie in both heads."""
TEXTURE = 0.02
"""Least standard deviation of a block, as a share of the brightest of the head, in which anything can be found."""
AWAY_MM = 3.0
"""A block that fits best so far from its place does not fit there."""
LARGEST_AWAY, LARGEST_AWAY_OF_OTHER = 0.4, 0.66
"""Share of blocks that may fit better elsewhere, of scans of one contrast and of two: of the same head few, of another
one most."""
LEAST_OVERLAP = 0.2
FINDING_MARGIN_MM = 3.0


@dataclass(frozen=True)
class HeadScan:
    """
    What is registered of a scan.

    Attributes:
        image: (i, j, k), in RAS order.
        affine: (4, 4), voxel to RAS mm.
        head: bool (i, j, k).
        findings: RAS mm and diameter in mm of what is left out.
        contrast: "t2star" for a T2*-weighted magnitude; any other is susceptibility-weighted.
    """

    image: np.ndarray
    affine: np.ndarray
    head: np.ndarray
    findings: Sequence[tuple[Sequence[float], float]] = ()
    contrast: str = ""


@dataclass(frozen=True)
class Registration:
    """
    A later scan that lies on the first.

    Attributes:
        to_first: (4, 4), RAS mm of the later scan to RAS mm of the first.
        similarity: normalised mutual information of the two where both have the head, 1 to 2; 1 is unrelated.
        overlap: share of the smaller head that lies in the other scan.
        away: share of blocks of the first scan that fit better 3 mm or more away from where they lie; None where there
            are none to compare.
        doubts: why the registration looks wrong, in words; empty where it does not.
    """

    to_first: np.ndarray
    similarity: float
    overlap: float
    away: float | None
    doubts: tuple[str, ...] = ()


def register_rigidly(first: HeadScan, later: HeadScan) -> Registration:
    """
    Register a later scan to the first by mutual information, from where the headers say that it lies; where that looks
    wrong, from the middle of both heads, too.

    Raises:
        OptionError: itk-elastix is not installed.
    """
    itk = load_elastix("a follow-up registers the scans of a patient", ".")
    fixed, moving = (_Coarse.of(scan) for scan in (first, later))
    found = _judged(fixed, moving, _run_elastix(itk, fixed, moving, np.eye(4)))
    if found.doubts:
        shift = fixed.middle - moving.middle
        again = _judged(fixed, moving, _run_elastix(itk, fixed, moving, nib.affines.from_matvec(np.eye(3), shift)))
        found = max(found, again, key=lambda one: (not one.doubts, -1.0 if one.away is None else -one.away))
    return found


@dataclass(frozen=True)
class _Coarse:
    """A scan at about 2 mm; its grid, its head, and what of it is compared."""

    image: np.ndarray
    affine: np.ndarray
    head: np.ndarray
    compared: np.ndarray
    contrast: str

    @staticmethod
    def of(scan: HeadScan) -> _Coarse:
        image, affine, head = coarse_volume(scan.image, scan.affine, scan.head)
        kept = np.ones(head.shape, bool)
        step = np.linalg.norm(affine[:3, :3], axis=0)
        for ras_mm, diameter_mm in scan.findings:
            reach = (diameter_mm or 0.0) / 2 + FINDING_MARGIN_MM
            centre = to_voxel(affine, ras_mm)
            low = np.clip(np.floor(centre - reach / step).astype(int), 0, head.shape)
            high = np.clip(np.ceil(centre + reach / step).astype(int) + 1, 0, head.shape)
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            axes = [(np.arange(a, b) - c) * s for a, b, c, s in zip(low, high, centre, step, strict=True)]
            x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
            kept[box] &= x**2 + y**2 + z**2 > reach**2
        return _Coarse(image.astype(np.float32), affine, head, kept, scan.contrast)

    @property
    def middle(self) -> np.ndarray:
        """RAS mm of the middle of the head."""
        inside = np.argwhere(self.head) if self.head.any() else np.argwhere(np.ones(self.head.shape, bool))
        return apply_affine(self.affine, inside.mean(0))


def _itk_image(itk, array: np.ndarray, affine: np.ndarray):
    """An image of itk that lies where an affine without shear says; RAS mm are taken as itk's own."""
    step = np.linalg.norm(affine[:3, :3], axis=0)
    image = itk.image_view_from_array(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(step.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(np.ascontiguousarray(affine[:3, :3] / step))
    return image


def _parameters(itk, thinnest: int):
    parameters = itk.ParameterObject.New()
    rigid = parameters.GetDefaultParameterMap("rigid", 3)
    along = [min(n, max(1, thinnest // 8)) for n in (4, 2, 1)]  # a slab of few slices is not smoothed along them
    for name, value in {
        "AutomaticTransformInitialization": ["false"],
        "AutomaticScalesEstimation": ["true"],
        "Metric": ["AdvancedMattesMutualInformation"],
        "NumberOfHistogramBins": ["32"],
        "NumberOfSpatialSamples": ["4000"],
        "ImageSampler": ["RandomCoordinate"],
        "NewSamplesEveryIteration": ["true"],
        "NumberOfResolutions": ["3"],
        "FixedImagePyramid": ["FixedSmoothingImagePyramid"],
        "MovingImagePyramid": ["MovingSmoothingImagePyramid"],
        "ImagePyramidSchedule": [str(n) for z, xy in zip(along, (4, 2, 1), strict=True) for n in (xy, xy, z)],
        "MaximumNumberOfIterations": ["250"],
        "RandomSeed": ["1"],
        "ErodeMask": ["false"],
        "RequiredRatioOfValidSamples": ["0.05"],
        "WriteResultImage": ["false"],
    }.items():
        rigid[name] = value
    parameters.AddParameterMap(rigid)
    return parameters


def _run_elastix(itk, fixed: _Coarse, moving: _Coarse, start: np.ndarray) -> np.ndarray | None:
    """
    Register from a start, (4, 4) of the later scan's RAS mm to those of the first.

    Returns:
        (4, 4) of the same kind; None where elastix stops, as without overlap.
    """
    around = ndimage.binary_dilation(fixed.head, iterations=2) & fixed.compared
    images = [
        _itk_image(itk, fixed.image, fixed.affine),
        _itk_image(itk, moving.image, start @ moving.affine),
        _itk_image(itk, around.astype(np.uint8), fixed.affine),
        _itk_image(itk, moving.compared.astype(np.uint8), start @ moving.affine),
    ]
    method = itk.ElastixRegistrationMethod[type(images[0]), type(images[1])].New()
    method.SetFixedImage(images[0])
    method.SetMovingImage(images[1])
    method.SetFixedMask(images[2])
    method.SetMovingMask(images[3])
    method.SetParameterObject(_parameters(itk, min(fixed.image.shape[2], moving.image.shape[2])))
    method.SetLogToConsole(False)
    try:
        with threadpool_limits(1):
            method.UpdateLargestPossibleRegion()
    except RuntimeError:
        return None
    found = method.GetTransformParameterObject().GetParameterMap(0)
    euler = itk.Euler3DTransform[itk.D].New()
    euler.SetComputeZYX(found["ComputeZYX"][0] == "true")
    euler.SetCenter([float(v) for v in found["CenterOfRotationPoint"]])
    euler.SetParameters(itk.OptimizerParameters[itk.D]([float(v) for v in found["TransformParameters"]]))
    corners = np.vstack([np.zeros(3), np.eye(3)])
    there = np.array([list(euler.TransformPoint(corner.tolist())) for corner in corners])
    to_moved = nib.affines.from_matvec((there[1:] - there[0]).T, there[0])  # of the first to the later, at the start
    return np.linalg.inv(to_moved) @ start


def _judged(fixed: _Coarse, moving: _Coarse, to_first: np.ndarray | None) -> Registration:
    if to_first is None:
        return Registration(np.eye(4), 1.0, 0.0, None, ("elastix stopped: too little of the two scans overlaps",))
    one, other, both, overlap = _together(fixed, moving, to_first)
    similarity = similarity_of(one[both], other[both])
    away = _share_away(one, other, both)
    found = Registration(to_first, round(similarity, 4), round(overlap, 3), away)
    alike = (fixed.contrast == "t2star") == (moving.contrast == "t2star")
    return replace(found, doubts=_doubts(found, LARGEST_AWAY if alike else LARGEST_AWAY_OF_OTHER))


def _together(
    fixed: _Coarse, moving: _Coarse, to_first: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Both scans at 2 mm along the axes of the first, where both have the head, and the share of the smaller head."""
    step = np.linalg.norm(fixed.affine[:3, :3], axis=0)
    shape = np.maximum(np.floor((np.array(fixed.image.shape) - 1) * step / STEP_MM).astype(int) + 1, 1)
    to_fixed = np.diag([*(STEP_MM / step), 1.0])
    to_moving = np.linalg.inv(moving.affine) @ np.linalg.inv(to_first) @ fixed.affine @ to_fixed
    grid = np.indices(shape, dtype=np.float32).reshape(3, -1)

    def at(volume: np.ndarray, matrix: np.ndarray, order: int = 1) -> np.ndarray:
        index = (matrix[:3, :3] @ grid + matrix[:3, 3:]).astype(np.float32)
        return ndimage.map_coordinates(volume.astype(np.float32), index, order=order).reshape(shape)

    heads = at(fixed.head & fixed.compared, to_fixed) > 0.5, at(moving.head & moving.compared, to_moving) > 0.5
    both = heads[0] & heads[1]
    voxels = [c.head.sum() * np.prod(np.linalg.norm(c.affine[:3, :3], axis=0)) for c in (fixed, moving)]
    overlap = float(both.sum() * STEP_MM**3 / max(min(voxels), 1.0))
    return at(fixed.image, to_fixed), at(moving.image, to_moving), both, min(overlap, 1.0)


def _share_away(one: np.ndarray, other: np.ndarray, both: np.ndarray) -> float | None:
    """
    Of the blocks of a scan, the share that fits another scan better 3 mm or more from where it lies.

    A block fits where its squared correlation is highest, so that sequences of other contrast compare, too.
    """
    n = round(BLOCK_MM / STEP_MM)
    reach = round(REACH_MM / STEP_MM)
    size = [min(n, length) for length in one.shape]
    counts = [length // s for length, s in zip(one.shape, size, strict=True)]
    cut = tuple(slice(0, c * s) for c, s in zip(counts, size, strict=True))

    def sums(values: np.ndarray) -> np.ndarray:
        blocks = [part for pair in zip(counts, size, strict=True) for part in pair]
        return values[cut].reshape(blocks).sum((1, 3, 5), dtype=np.float64)

    a = np.where(both, one, 0)
    padded, known = (np.pad(v, reach) for v in (np.where(both, other, 0), both))
    best, where = (np.full(counts, value) for value in (-1.0, 0.0))
    possible = sums(both) > FILLED * np.prod(size)
    mean = sums(a) / np.maximum(sums(both), 1)
    deviation = np.sqrt(np.maximum(sums(a**2) / np.maximum(sums(both), 1) - mean**2, 0))
    possible &= deviation > TEXTURE
    if possible.sum() < 4:
        return None
    for shift in itertools.product(range(-reach, reach + 1), repeat=3):
        window = tuple(slice(reach + d, reach + d + length) for d, length in zip(shift, one.shape, strict=True))
        b, seen = padded[window], known[window] & both
        count = np.maximum(sums(seen), 1)
        x, y = a * seen, b * seen
        sx, sy = sums(x), sums(y)
        variance = (sums(x * x) - sx**2 / count) * (sums(y * y) - sy**2 / count)
        fit = (sums(x * y) - sx * sy / count) ** 2 / np.maximum(variance, 1e-9)
        fit = np.where(count > 0.5 * np.prod(size), fit, 0)
        better = fit > best
        best, where = np.where(better, fit, best), np.where(better, STEP_MM * np.linalg.norm(shift), where)
    return round(float((where[possible] >= AWAY_MM).mean()), 3)


def _doubts(found: Registration, largest_away: float) -> tuple[str, ...]:
    doubts = []
    if found.overlap < LEAST_OVERLAP:
        doubts.append(f"only {100 * found.overlap:.0f} % of the smaller scan's head lies in the other")
    if found.away is None:
        doubts.append("there is too little in both scans to compare")
    elif found.away > largest_away:
        doubts.append(f"{100 * found.away:.0f} % of the head fits better somewhere else")
    return tuple(doubts)
