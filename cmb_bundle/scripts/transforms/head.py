"""Refuse what is no head, or by its header no susceptibility-weighted scan: it cannot show a microbleed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.transforms import Transform
from scipy import ndimage

from ..errors import SubjectError
from ..options import check_flags
from .notices import add_warning

WHOLE_MM = 120.0
"""A field of view at least this wide, both ways, has air in its corners; a crop of a head may have none."""
CORNER, AS_BRIGHT = 0.06, 0.6
"""Share of the width of the field of view that is a corner, and how bright it is, of the head, where it is no air:
parallel imaging leaves noise of up to a third."""
SMALLEST_MM, LARGEST_MM = (85.0, 115.0), (270.0, 300.0)
"""Width and length of what is too small or too large for a head. Heads are 130 to 190 mm wide and 150 to 230 mm long,
those of newborns 90 and 115 mm; bodies are 300 mm wide and more."""
CROP_MM = 60.0
"""A field of view that is smaller than this is a crop, see :mod:`.tested`."""
LEAST_OF_CT, AIR_OF_CT = -1100.0, -900.0
"""In Hounsfield units."""
EVEN, EVEN_VOXELS = 0.08, 200
"""From the 1st to the 99th percentile of the brightness of even material, relative to its surroundings, at 4 mm; 67
scans of heads, simulated, stripped or real, have 0.15 to 1.7. Fewer blocks of 4 mm tell nothing."""

ADVICE = (
    "If it is a head all the same, set accept_any to True: it is then read, and the results carry this as a warning."
)


class CheckHeadd(Transform):
    """
    Refuse a subject whose header or image says that it is no susceptibility-weighted scan of a head.

    Args:
        accept_any: True reads it, with a warning.

    Returns:
        the dictionary; ``doubts`` of :class:`~.load.LoadSubjectd`, and what the image itself tells, in ``warnings``
        if ``accept_any``.

    Raises:
        SubjectError: it is none, and not to be accepted.
        OptionError: ``accept_any`` is no truth value.

    Example:
        >>> from monai.data import MetaTensor
        >>> noise = MetaTensor(torch.rand(1, 60, 60, 20), affine=torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])))
        >>> d = CheckHeadd(accept_any=True)({"image": noise, "mask": torch.ones_like(noise)})
        >>> d["warnings"][:52]
        'Its corners are as bright as its middle, which is no'
    """

    def __init__(self, accept_any: bool = False) -> None:
        check_flags(accept_any=accept_any)
        self.accept_any = accept_any

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        image = d["image"] if d.get("image") is not None else d["magnitude"]
        mask = np.asarray(d["mask"][0]).astype(bool)
        doubts = d.get("doubts") or problem_of_head(image[0].numpy(), mask, image.pixdim.tolist())
        if doubts and not self.accept_any:
            name = d.get("subject") or image.meta.get("subject", "subject")
            raise SubjectError(f"{name}: {doubts} Expected an SWI, a magnitude or a T2* of a head. {ADVICE}")
        if doubts:
            add_warning(d, f"{doubts} It was read since accept_any is True; the results may mean nothing.")
        return d


def problem_of_head(image: np.ndarray, mask: np.ndarray, spacing: list[float]) -> str:
    """
    Say why an image shows no head, in a sentence; empty where it may.

    Args:
        image: (i, j, k), in RAS order.
        mask: the same shape, bool, see :class:`~.head_mask.HeadMaskd`.
        spacing: voxel size in mm.

    Example:
        >>> body = np.zeros((100, 80, 10))
        >>> body[5:95, 10:70] = np.random.default_rng(0).gamma(4, 100, (90, 60, 10))
        >>> problem_of_head(body, body > 0, [4.0, 4.0, 5.0])
        'What is in its air is 360 x 240 mm wide and long, which is no head, or the voxel size in its header is wrong.'
    """
    field = [size * edge for size, edge in zip(image.shape[:2], spacing[:2], strict=True)]
    if min(field) < CROP_MM or not mask.any():
        return ""
    outside = _corners(image)
    at = float(np.median(outside))
    if at < LEAST_OF_CT:
        return f"Its air has {at:.0f}, which is padding, or of CT; an MR image has 0 or noise there."
    if at <= AIR_OF_CT:
        return "Its air has -1000, as of CT in Hounsfield units."
    some = image[::3, ::3][mask[::3, ::3]]  # a ninth of the voxels tells as much
    air = at < AS_BRIGHT * float(np.median(some if some.size else image[mask]))
    if min(field) >= WHOLE_MM and not air:
        return "Its corners are as bright as its middle, which is no head in air: noise, or a phase or a computed map."
    extent = _extents(mask, spacing)
    median, largest = np.median(extent, axis=0), extent.max(axis=0)
    if (median > LARGEST_MM).any() or (air and (largest < SMALLEST_MM).all()):
        wide, long = median if (median > LARGEST_MM).any() else largest
        return (
            f"What is in its air is {wide:.0f} x {long:.0f} mm wide and long, which is no head, or the voxel size in "
            "its header is wrong."
        )
    if _is_even(image, mask, spacing):
        return "It is equally bright everywhere, as a bottle is and no brain."
    return ""


def _corners(image: np.ndarray) -> np.ndarray:
    """The values in the four corners of the slices."""
    ends = [max(1, round(CORNER * size)) for size in image.shape[:2]]
    sides = [(slice(0, end), slice(-end, None)) for end in ends]
    return np.concatenate([image[first, second].ravel() for first in sides[0] for second in sides[1]])


def _extents(mask: np.ndarray, spacing: list[float]) -> np.ndarray:
    """(N, 2) width and length in mm of the mask on each slice on which it is."""
    found = []
    for axis in (1, 0):
        there = mask.any(axis=axis)  # (size, k)
        there = there[:, there.any(axis=0)]
        found.append(there.shape[0] - there.argmax(axis=0) - there[::-1].argmax(axis=0))
    return np.stack(found, axis=1) * np.array(spacing[:2])


def _is_even(image: np.ndarray, mask: np.ndarray, spacing: list[float]) -> bool:
    """Whether the inside of the mask is of one brightness, but for noise and for a slow change across it."""
    step = [max(1, round(4.0 / edge)) for edge in spacing]
    values, whole = (
        torch.nn.functional.avg_pool3d(
            torch.as_tensor(np.ascontiguousarray(a, dtype=np.float32))[None, None], step
        ).numpy()[0, 0]
        for a in (image, mask)
    )
    deep = ndimage.binary_erosion(whole > 0.99, np.ones((3, 3, 3)), iterations=2, border_value=1)
    if deep.sum() < EVEN_VOXELS:
        return False
    width = [12.0 / (edge * n) for edge, n in zip(spacing, step, strict=True)]
    around = ndimage.gaussian_filter(values * deep, width) / (ndimage.gaussian_filter(deep.astype(float), width) + 1e-9)
    relative = values[deep] / np.maximum(around[deep], 1e-9)
    low, high = np.percentile(relative, [1, 99])
    return bool(high - low < EVEN)
