"""Register the MNI152 template to a scan, and bring its regions there."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from ..geometry import to_voxel
from ..phantom.anatomy import TEMPLATE_CENTRE, load_template
from ..phantom.grid import Grid, resample
from .region_map import RegionMap
from .template import template_regions
from .volumes import STEP_MM, coarse_volume, itk_image, load_elastix, sample_at, similarity_of

MAP_MM = 1.5
START_MM = 6.0
SIZE = 0.93
"""Template mm are larger than those of most heads (Lancaster et al., Hum Brain Mapp 2007;28:1194)."""
SKULL_MM, SCALP_MM, HEAD_MM = 3.0, 8.0, 15.0
"""How far from the brain skull and scalp begin and the head ends, roughly, in the image that is registered."""
BASE_MM = -10.0
"""Below this z, in template mm, the head is no shell around the brain, and only what is near it is compared."""
SHIFT_MM = 10.0
LARGEST_SHARE = 0.7
"""Of the mutual information, the most that may be left when the template is shifted by ``SHIFT_MM``."""
LEAST_SIMILARITY = 1.03
SIZES, MOST_FOLDED = (0.6, 1.6), 0.02
APART_MM, NEARLY = 24, 0.85
"""Another height is tried too, so far from the best one, if so much of the mutual information is left there."""
EVEN_MM = 25.0
"""Width of the Gaussian by which slow changes of brightness are told, as those of a coil."""
NODES_MM = 28
"""Of the B-spline's finest grid."""


@dataclass(frozen=True)
class Registration:
    """
    A template that lies on a scan.

    Args:
        region_map: the template's regions in the scan's space.
        similarity: normalised mutual information of scan and template within the head, 1 to 2; 1 is unrelated.
        doubts: why the registration looks wrong, in words; empty where it does not.
    """

    region_map: RegionMap
    similarity: float
    doubts: tuple[str, ...]


def register(
    image: np.ndarray, affine: np.ndarray, head: np.ndarray, findings: Sequence[tuple[Sequence[float], float]] = ()
) -> Registration:
    """
    Register the template to a scan by mutual information: a search, an affine map, then a coarse B-spline.

    The scan is resampled to 2 mm along the template's axes. Compared is what lies in the head and near it, without
    the findings. Thick slices, a stripped skull and a slab need nothing of their own: the template has a skull of
    other values than what is outside of a stripped one, and the search tries all heights.

    Args:
        image: (i, j, k), in RAS order.
        affine: (4, 4), voxel to RAS mm.
        head: bool (i, j, k); of a stripped image the brain.
        findings: RAS mm and diameter in mm of what is left out.

    Raises:
        OptionError: itk-elastix is not installed.
    """
    itk = load_elastix()
    volume, coarse_affine, mask = coarse_volume(image, affine, head)
    volume = _evened(volume, coarse_affine, mask)
    fits = [_fit(itk, volume, coarse_affine, mask, start, findings) for start in _search(volume, coarse_affine, mask)]
    best = min(fits, key=lambda one: (bool(one.failed or one.shape_doubts), -one.similarity))
    doubts = best.failed + _shift_doubts(best.values, best.places, best.similarity) + best.shape_doubts
    return Registration(_regions(best.target, best.grid, best.start), round(best.similarity, 4), doubts)


def _evened(volume: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """
    Even out slow changes of brightness within the head: a coil's can be many times those of tissues.

    Args:
        volume: (i, j, k), 0 to 1.2.
        affine: voxel to mm.
        mask: bool (i, j, k), the head.

    Returns:
        as ``volume``.

    Example:
        >>> ramp = np.broadcast_to(np.linspace(0.2, 1, 80)[:, None, None], (80, 40, 40)).astype(np.float32)
        >>> even = _evened(ramp, np.diag([2.0, 2.0, 2.0, 1.0]), np.ones(ramp.shape, bool))
        >>> bool(np.ptp(even[20:60]) < 0.1 * np.ptp(ramp[20:60]))  # but for the ends
        True
    """
    if not mask.any():
        return volume
    width = EVEN_MM / np.linalg.norm(affine[:3, :3], axis=0)
    inside = mask.astype(np.float32)
    around = ndimage.gaussian_filter(volume * inside, width) / np.maximum(ndimage.gaussian_filter(inside, width), 1e-3)
    even = volume / np.maximum(around, 0.1 * float(np.median(volume[mask])) + 1e-6)
    return np.clip(even / max(float(np.percentile(even[mask], 99)), 1e-6), 0, 1.2).astype(np.float32)


@dataclass(frozen=True)
class _Fit:
    """
    The template laid on a scan from one rough place.

    Attributes:
        start: (4, 4), the rough place, see :func:`_search`.
        grid: of the scan on the template's axes.
        target: (3, i, j, k), the place in the template of each voxel of that grid.
        values: (n,) of the scan where it is compared.
        places: (3, n) template mm where they lie.
        similarity: their normalised mutual information.
        shape_doubts: see :func:`_shape_doubts`.
        failed: why elastix stopped, so that the template lies at the rough place.
    """

    start: np.ndarray
    grid: Grid
    target: np.ndarray
    values: np.ndarray
    places: np.ndarray
    similarity: float
    shape_doubts: tuple[str, ...]
    failed: tuple[str, ...]


def _fit(itk, volume: np.ndarray, affine: np.ndarray, mask: np.ndarray, start: np.ndarray, findings: Sequence) -> _Fit:
    """Lay the template on a scan from a rough place by an affine map and a B-spline."""
    fixed, grid, inside = _on_template_axes(volume, affine, mask, start, findings)
    moving, moving_grid, moving_mask = _moving()
    # where the search found the base of the head. A mask that moves with the template would let it grow until what
    # does not fit lies beyond the mask.
    near = ndimage.binary_dilation(moving_mask, iterations=2).astype(np.float32)
    inside &= sample_at(near, moving_grid, grid.points()) > 0.5
    failed: tuple[str, ...] = ()
    try:
        target = _run_elastix(itk, (fixed, grid, inside), (moving, moving_grid))
    except RuntimeError as error:  # elastix: too little of the scan lies on the template, or the like
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        target, failed = grid.points(), (f"elastix stopped, so that there is the rough place only: {reason}",)
    moved_mask = sample_at(moving_mask.astype(np.float32), moving_grid, target)
    compared = inside & (moved_mask > 0.5)
    places = target[:, compared][:, ::2]
    values = fixed[compared][::2]
    similarity = similarity_of(values, sample_at(moving, moving_grid, places))
    return _Fit(start, grid, target, values, places, similarity, _shape_doubts(target, grid, compared), failed)


@lru_cache(maxsize=1)
def _moving() -> tuple[np.ndarray, Grid, np.ndarray]:
    """What is registered, at 2 mm: the template's brain in a shell of fluid, bone and scalp; its grid; what counts."""
    template = load_template()
    grid = template.coarse
    axes = [grid.axis(d) for d in range(3)]
    low, high = np.array(template.grid.origin), np.array(template.grid.origin) + np.array(template.grid.shape) - 1
    t1 = resample(ndimage.gaussian_filter(template.t1, 0.8), template.grid, axes)
    inside = [(axis >= low[d]) & (axis <= high[d]) for d, axis in enumerate(axes)]
    brain = (t1 > 0.05) & inside[0][:, None, None] & inside[1][:, None] & inside[2]
    distance = template.brain_distance
    shell = np.select([distance < SKULL_MM, distance < SCALP_MM, distance < HEAD_MM], [0.3, 0.15, 0.55], 0.0)
    image = np.where(brain, t1, shell).astype(np.float32)
    reach = np.where(axes[2] > BASE_MM, HEAD_MM + 6, SKULL_MM)
    return ndimage.gaussian_filter(image, 0.5), grid, distance < reach


def _search(volume: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """
    Where the template lies, roughly: the best of many shifts, heights, and turns about the ears.

    Returns:
        (4, 4) each, RAS mm to template mm: a rotation, an enlargement and a shift. There are two where another height
        fits nearly as well, as of a slab whose field of view cuts the head on all sides.
    """
    moving, grid, _ = _moving()
    every = np.maximum(np.round(START_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int), 1)
    near = ndimage.binary_dilation(mask, iterations=2)
    index = np.argwhere(near[tuple(slice(None, None, int(n)) for n in every)]) * every
    values = ndimage.uniform_filter(volume, every.tolist())[tuple(index.T)]
    places = nib.affines.apply_affine(affine, index)
    inside = nib.affines.apply_affine(affine, np.argwhere(mask)[::17])
    centre = np.array([np.median(inside[:, 0]), np.median(inside[:, 1]), (inside[:, 2].min() + inside[:, 2].max()) / 2])
    best: dict[int, tuple[float, np.ndarray]] = {}
    for degrees, y, z in itertools.product((-16, -8, 0, 8, 16), range(-30, 31, 10), range(-60, 61, 6)):
        angle = np.deg2rad(degrees)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) / SIZE
        shift = TEMPLATE_CENTRE + np.array([0, y, z]) - turn @ centre
        there = (turn @ places.T + shift[:, None]).astype(np.float32)
        score = similarity_of(values, sample_at(moving, grid, there, order=0), bins=16)
        if z not in best or score > best[z][0]:
            best[z] = score, nib.affines.from_matvec(turn, shift)
    first = max(best, key=lambda z: best[z][0])
    others = [z for z in best if abs(z - first) >= APART_MM and best[z][0] - 1 > NEARLY * (best[first][0] - 1)]
    second = [max(others, key=lambda z: best[z][0])] if others else []
    return [best[z][1] for z in (first, *second)]


def _on_template_axes(
    volume: np.ndarray, affine: np.ndarray, mask: np.ndarray, start: np.ndarray, findings: Sequence
) -> tuple[np.ndarray, Grid, np.ndarray]:
    """The scan at 2 mm in the space that the search found; its grid; what is compared: the head, not the findings."""
    to_template = start @ affine
    corners = np.array(list(itertools.product(*((0, n - 1) for n in volume.shape))))
    reach = nib.affines.apply_affine(to_template, corners)
    brain = load_template().grid
    low = np.maximum(reach.min(0), np.array(brain.origin) - 24)
    high = np.minimum(reach.max(0), np.array(brain.origin) + np.array(brain.shape) + 24)
    shape = np.maximum(np.ceil((high - low) / STEP_MM).astype(int) + 1, 4)
    grid = Grid(tuple(map(float, low)), (STEP_MM,) * 3, tuple(map(int, shape)))
    points = grid.points()
    index = np.moveaxis(to_voxel(to_template, np.moveaxis(points, 0, -1)), -1, 0).astype(np.float32)
    fixed = ndimage.map_coordinates(volume, index, order=1, mode="constant").astype(np.float32)
    inside = ndimage.map_coordinates(mask.astype(np.float32), index, order=1, mode="constant") > 0.3
    edge = 1e-3
    seen = np.all([(one > -0.5 - edge) & (one < n - 0.5 + edge) for one, n in zip(index, volume.shape, strict=True)], 0)
    inside = ndimage.binary_dilation(inside, iterations=3) & seen
    for ras_mm, diameter_mm in findings:
        centre = nib.affines.apply_affine(start, ras_mm).reshape(3, 1, 1, 1)
        inside &= ((points - centre) ** 2).sum(0) > (diameter_mm / 2 + 3) ** 2
    return fixed, grid, inside


def _parameters(itk):
    """An affine map at three resolutions, then a B-spline at two."""
    parameters = itk.ParameterObject.New()
    common = {
        "AutomaticTransformInitialization": ["false"],
        "Metric": ["AdvancedMattesMutualInformation"],
        "NumberOfHistogramBins": ["32"],
        "NumberOfSpatialSamples": ["4000"],
        "ImageSampler": ["RandomCoordinate"],
        "NewSamplesEveryIteration": ["true"],
        "RandomSeed": ["1"],
        "ErodeMask": ["false"],
        "RequiredRatioOfValidSamples": ["0.02"],
        "WriteResultImage": ["false"],
    }
    affine = parameters.GetDefaultParameterMap("affine", 3)
    spline = parameters.GetDefaultParameterMap("bspline", 2, NODES_MM)
    for one, iterations in ((affine, "250"), (spline, "300")):
        for name, value in {**common, "MaximumNumberOfIterations": [iterations]}.items():
            one[name] = value
        parameters.AddParameterMap(one)
    return parameters


def _run_elastix(itk, fixed: tuple, moving: tuple) -> np.ndarray:
    """
    Register; ``fixed`` is an image, its grid, and a mask of what is compared; ``moving`` an image and its grid.

    Returns:
        the place in the template, mm, of each voxel of the fixed grid (3, i, j, k).
    """
    images = [itk_image(itk, image.astype(np.float32), grid) for image, grid in (fixed[:2], moving)]
    mask = itk_image(itk, fixed[2].astype(np.uint8), fixed[1])
    method = itk.ElastixRegistrationMethod[type(images[0]), type(images[1])].New()
    method.SetFixedImage(images[0])
    method.SetMovingImage(images[1])
    method.SetFixedMask(mask)
    method.SetParameterObject(_parameters(itk))
    method.SetLogToConsole(False)
    with threadpool_limits(1):
        method.UpdateLargestPossibleRegion()
    with tempfile.TemporaryDirectory() as folder:  # transformix writes the field, too, where it is told or stands
        field = itk.transformix_deformation_field(
            images[0], method.GetTransformParameterObject(), output_directory=folder
        )
        moved = itk.array_from_image(field).copy()
    moved = moved.transpose(3, 2, 1, 0)
    return fixed[1].points() + moved


def _shift_doubts(values: np.ndarray, places: np.ndarray, similarity: float) -> tuple[str, ...]:
    """
    Whether the template would fit as well, or better, elsewhere.

    Args:
        values: (n,), of the scan.
        places: (3, n), the template mm where they lie.
        similarity: their normalised mutual information.
    """
    moving, grid, _ = _moving()
    doubts = []
    if similarity < LEAST_SIMILARITY:
        doubts.append(f"the similarity is {similarity:.3f}, below {LEAST_SIMILARITY}")
    for axis, name in enumerate(("sideways", "forwards or backwards", "up or down")):
        shift = np.zeros((3, 1), np.float32)
        shift[axis] = SHIFT_MM
        others = [similarity_of(values, sample_at(moving, grid, places + sign * shift)) for sign in (1, -1)]
        if max(others) - 1 > LARGEST_SHARE * (similarity - 1):
            doubts.append(f"the template fits nearly as well {SHIFT_MM:g} mm {name}")
    return tuple(doubts)


def _shape_doubts(target: np.ndarray, grid: Grid, compared: np.ndarray) -> tuple[str, ...]:
    """Whether the template was squeezed, stretched or folded more than heads differ."""
    slopes = np.stack([np.stack(np.gradient(one, *grid.step)) for one in target.astype(np.float32)])
    volume = np.linalg.det(np.moveaxis(slopes[:, :, compared], -1, 0))
    if not len(volume):
        return ("the scan does not overlap with the template",)
    doubts = []
    median = float(np.median(volume))
    if not SIZES[0] < median < SIZES[1]:
        doubts.append(f"the head would be {1 / median:.2f} times as large as most")
    folded = float((volume < 0.1).mean())
    if folded > MOST_FOLDED:
        doubts.append(f"{100 * folded:.0f} % of the template is folded")
    return tuple(doubts)


def _regions(target: np.ndarray, grid: Grid, start: np.ndarray) -> RegionMap:
    """The template's regions at 1 mm, in the scan's space."""
    last = [grid.origin[d] + grid.step[d] * (grid.shape[d] - 1) for d in range(3)]
    axes = [np.arange(grid.origin[d], last[d] + 1e-3, MAP_MM) for d in range(3)]
    points = np.stack([resample(one, grid, axes) for one in target.astype(np.float32)])
    template = template_regions()
    index = np.rint(points - template.affine[:3, 3].reshape(3, 1, 1, 1)).astype(np.int16)
    shape = np.array(template.region.shape).reshape(3, 1, 1, 1)
    inside = ((index >= 0) & (index < shape)).all(0)
    index = np.clip(index, 0, shape - 1)
    region = np.where(inside, template.region[tuple(index)], 0).astype(np.uint8)
    side = np.where(np.abs(points[0]) < 2, 0, np.sign(points[0])).astype(np.int8)
    affine = np.linalg.inv(start) @ nib.affines.from_matvec(np.eye(3) * MAP_MM, grid.origin)
    return RegionMap(region, side, affine)
