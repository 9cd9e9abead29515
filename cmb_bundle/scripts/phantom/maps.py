"""A measured or synthetic susceptibility map as the anatomy of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from .anatomy import Head, Shape, load_template, outside_brain, soft
from .grid import Grid, covering, resample
from .lesions import Lesion
from .veins import Vessels

WHITE_AT_PPM, WIDTH_PPM = 0.0, 0.06  # white matter lies below, grey above; see tissue_shares
VEIN_PPM = 0.12  # above it a voxel outside the deep nuclei holds a vein
FOCUS_PPM, FOCUS_EDGE_PPM, FOCUS_MM, FOCUS_DEPTH_MM = 0.25, 0.08, 8.0, 6.0  # see foci
FOCUS_AROUND_MM, FOCUS_AROUND_PPM = (5.0, 7.5), 0.06


@dataclass(frozen=True)
class SusceptibilityMap:
    """A map in RAS order with its middle at the scanner's origin.

    Attributes:
        ppm: float32 (i, j, k), 0 outside the brain.
        brain: bool (i, j, k).
        grid: voxel centres in scanner mm; the box about the brain is centred.
    """

    ppm: np.ndarray
    brain: np.ndarray
    grid: Grid

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the box about the brain."""
        return tuple(float(np.ptp(np.nonzero(self.brain)[d]) + 1) * self.grid.step[d] for d in range(3))


@lru_cache(maxsize=2)
def load_map(path: str | Path) -> SusceptibilityMap:
    """Read a susceptibility map.

    Args:
        path: NIfTI file in ppm; voxels of 0 or NaN are outside the brain. A rotated affine is taken to the nearest
            RAS order.

    Raises:
        ValueError: it is not a volume, is empty, or its values are no susceptibilities of a brain in ppm.
    """
    image = nib.as_closest_canonical(nib.load(path))
    ppm = np.nan_to_num(np.asarray(image.dataobj, np.float32))
    if ppm.ndim != 3 or min(ppm.shape) < 8:
        raise ValueError(f"{path}: shape is {ppm.shape}; expected a volume of at least 8 voxels each way")
    labels, count = ndimage.label(ndimage.binary_opening(ppm != 0))
    if not count:
        raise ValueError(f"{path}: no brain; expected a map that is 0 outside the brain and not inside")
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    brain = ndimage.binary_fill_holes(ndimage.binary_dilation(largest) & ((ppm != 0) | largest))
    spread = float(np.percentile(np.abs(ppm[brain]), 99))
    if not 0.01 < spread < 1.0:
        raise ValueError(f"{path}: 99 % of the values lie within {spread:.3g}; expected 0.01 to 1 ppm: rescale the map")
    # A rim of zeros, for what lies beyond the map repeats its edge.
    ppm, brain = np.pad(ppm * brain, 1), np.pad(brain, 1)
    step = np.array(image.header.get_zooms()[:3], float)
    middle = np.array([(where.min() + where.max()) / 2 for where in np.nonzero(brain)])
    grid = Grid(tuple(map(float, -middle * step)), tuple(map(float, step)), ppm.shape)
    return SusceptibilityMap(ppm, brain, grid)


def extent_about(path: str | Path, height_mm: float) -> tuple[float, float, float]:
    """Extent in mm of a scan of a map: 20 mm beside the brain on either side in plane, along k within it.

    Args:
        path: of the map.
        height_mm: most of the extent along k.
    """
    across, along, height = load_map(path).extent_mm
    return across + 40.0, along + 40.0, min(height_mm, height - 4.0)


class MapPose:
    """Scanner mm to template mm by the boxes about both brains: good enough to tell lobes from deep nuclei."""

    def __init__(self, chi_map: SusceptibilityMap) -> None:
        """Match the boxes.

        Args:
            chi_map: the map; its box is centred at the origin.
        """
        template = load_template()
        inside = np.nonzero(template.brain_distance < 0)
        low, high = (
            np.array(template.coarse.origin) + 2.0 * np.array([edge(where) for where in inside])
            for edge in (np.min, np.max)
        )
        self.centre, self.scale = (low + high) / 2, (high - low + 2.0) / np.array(chi_map.extent_mm)

    def to_template(self, points: np.ndarray) -> np.ndarray:
        """Template mm (3, ...) of scanner mm (3, ...)."""
        column = (3,) + (1,) * (points.ndim - 1)
        return (points * self.scale.reshape(column) + self.centre.reshape(column)).astype(np.float32)

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """Scanner mm (n, 3) of template mm (n, 3)."""
        return (points - self.centre) / self.scale


def tissue_shares(ppm: np.ndarray) -> np.ndarray:
    """Share of white matter by susceptibility: it is diamagnetic against grey matter.

    White -0.03, grey 0.01-0.03 ppm against fluid (Duyn & Schenck, NMR Biomed 2017;30:e3546); linear between.

    >>> tissue_shares(np.array([-0.05, 0.0, 0.05])).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.clip(0.5 - (ppm - WHITE_AT_PPM) / WIDTH_PPM, 0, 1)


def map_head(
    chi_map: SusceptibilityMap, pose: MapPose, shape: Shape, low: np.ndarray, high: np.ndarray, outer_signal: dict
) -> Head:
    """Maps of a head about a susceptibility map, on a 1 mm grid.

    The map gives the brain, grey and white matter and what decays with iron; the template gives the ventricles and what
    lies outside the brain.

    Args:
        chi_map: the map.
        pose: scanner to template.
        shape: gap, skull and scalp about the brain.
        low: lowest corner of the box, scanner mm.
        high: highest corner.
        outer_signal: signal of what lies outside the brain, against white matter.
    """
    grid = covering(low, high, 1.0)
    axes = [grid.axis(d) for d in range(3)]
    points = pose.to_template(grid.points())
    # The distance is measured on a grid that holds the whole brain, so that the ends of a slab are no surface.
    edge = np.array(chi_map.extent_mm) / 2 + 14.0
    whole = covering(np.minimum(low, -edge), np.maximum(high, edge), 2.0)
    inside = resample(chi_map.brain, chi_map.grid, [whole.axis(d) for d in range(3)]) > 0.5
    inside = ndimage.binary_closing(np.pad(inside, 4), iterations=3)[4:-4, 4:-4, 4:-4]
    outside_mm, inside_mm = (ndimage.distance_transform_edt(mask) * 2.0 for mask in (~inside, inside))
    distance = resample((outside_mm - inside_mm + np.where(inside, 1, -1)).astype(np.float32), whole, axes)
    chi = resample(chi_map.ppm, chi_map.grid, axes)
    brain = soft(distance - shape.gap)
    fluid = soft(load_template().at("ventricle_distance", points) - shape.ventricle, 1.5)
    fluid = np.maximum(fluid, np.clip((distance + 0.5) / 2.0, 0, 1))
    white = tissue_shares(ndimage.gaussian_filter(chi, 0.7)).astype(np.float32) * (1 - fluid)
    iron = np.maximum(chi, 0) * (1 - fluid)
    outer = np.zeros_like(white)
    rim = distance > shape.gap - 1
    shares = outside_brain(points[:, rim], distance[rim], shape)
    outer[rim] = sum(share * np.float32(outer_signal[name]) for name, share in shares.items())
    return Head(grid, points, white, fluid, iron, brain, outer, distance)


def map_veins(chi_map: SusceptibilityMap) -> Vessels:
    """Voxels of the map that hold a vein, as centre points, for lesions to keep away from."""
    index = np.argwhere(chi_map.ppm > VEIN_PPM)
    points = np.array(chi_map.grid.origin) + index * np.array(chi_map.grid.step)
    return Vessels(points.reshape(-1, 3), np.full(len(points), 0.5, np.float32))


def foci(chi_map: SusceptibilityMap) -> list[Lesion]:
    """What may be a microbleed of the map itself: a small, strong source deep in the brain with nothing around it.

    That is a group of connected voxels above 0.08 ppm, at most 8 mm long and at least 6 mm from the surface, whose
    highest value is 0.25 ppm or more; at 5 to 7.5 mm from its middle 95 % of the voxels lie within 0.06 ppm of 0. The
    values are choices. Nobody has read these heads, so that such a place is neither a microbleed nor a mimic, and
    findings there should not be counted.

    Args:
        chi_map: the map.

    Returns:
        Lesions of kind "focus", centres in scanner mm. Their susceptibility is the highest of their voxels.
    """
    step = np.array(chi_map.grid.step)
    depth = ndimage.distance_transform_edt(chi_map.brain, sampling=step)
    labels, _ = ndimage.label(chi_map.ppm > FOCUS_EDGE_PPM)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == number
        peak = float(chi_map.ppm[box][inside].max())
        if peak < FOCUS_PPM or max(inside.shape * step) > FOCUS_MM:
            continue
        middle = np.argwhere(inside).mean(axis=0) + [side.start for side in box]
        reach = np.ceil(FOCUS_AROUND_MM[1] / step).astype(int)
        low, high = np.maximum(np.round(middle).astype(int) - reach, 0), np.round(middle).astype(int) + reach + 1
        around = chi_map.ppm[tuple(map(slice, low, high))]
        index = np.indices(around.shape).reshape(3, -1).T + low
        distance = np.linalg.norm((index - middle) * step, axis=1)
        ring = np.abs(around.ravel()[(distance > FOCUS_AROUND_MM[0]) & (distance < FOCUS_AROUND_MM[1])])
        if depth[tuple(np.round(middle).astype(int))] < FOCUS_DEPTH_MM or np.percentile(ring, 95) > FOCUS_AROUND_PPM:
            continue
        diameter = float((6 / np.pi * inside.sum() * step.prod()) ** (1 / 3))
        found.append(Lesion("focus", chi_map.grid.origin + middle * step, diameter / 2, diameter, peak, "map"))
    return found
