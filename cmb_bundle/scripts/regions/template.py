"""The regions of the Microbleed Anatomical Rating Scale in the space of the MNI152 template.

The template and its map of white matter are those that the nilearn wheel carries. Which voxels are deep and which
infratentorial is the simulator's rule; what divides them, and the lobes, are landmarks of the template, given below in
mm (right, anterior, superior), since atlases of the lobes may not be shipped (see docs/regions.md).
"""

from __future__ import annotations

from functools import lru_cache

import nibabel as nib
import numpy as np
from scipy import ndimage

from ..phantom.anatomy import NUCLEI, ellipsoid, load_template
from ..phantom.placement import region_of
from .mars import REGIONS
from .region_map import MIDDLE_MM, RegionMap

CODE = {name: number for number, name in enumerate(REGIONS, 1)}
PERIVENTRICULAR_MM = 5.0
NUCLEUS_MM = 2.0
"""A nucleus of the simulator and what is this near are deep, wherever its rule ends."""
# y of the central sulcus by |x|: at the vertex, at the hand knob, at its lower end
CENTRAL_SULCUS = ((8, 38, 60), (-38, -24, -8))
# z of the lateral sulcus by y: behind, above Heschl's gyrus, at the insula, at the temporal pole
LATERAL_SULCUS = ((-62, -45, -30, -10, 5, 20), (13, 19, 17, 6, -7, -18))
# y of the border of the occipital lobe by z: at the midline the parieto-occipital sulcus, on the side from the
# preoccipital notch up; between |x| of 15 and 28 mm the one passes into the other
MEDIAL_OCCIPITAL = ((-15, 8, 45), (-60, -61, -83))
LATERAL_OCCIPITAL = ((-15, 8, 18, 32, 45), (-68, -68, -76, -83, -87))
INSULA = ((37.5, 1.0, 3.0), (9.0, 26.0, 18.0))


def lobe_of(template_mm: np.ndarray) -> np.ndarray:
    """
    The lobe of each place of the cerebrum.

    Args:
        template_mm: (3, ...).

    Returns:
        uint8, codes of regions; it says nothing of what is deep or infratentorial.

    Example:
        >>> places = np.array([(-40.0, 30, 30), (40, -60, 45), (55, -20, -15), (10, -95, 0), (38, 5, 0)]).T
        >>> [REGIONS[code - 1] for code in lobe_of(places)]
        ['frontal', 'parietal', 'temporal', 'occipital', 'insula']
    """
    x, y, z = np.abs(template_mm[0]), template_mm[1], template_mm[2]
    lobe = np.where(y > np.interp(x, *CENTRAL_SULCUS), CODE["frontal"], CODE["parietal"]).astype(np.uint8)
    lateral = (z < np.interp(y, *LATERAL_SULCUS)) & (x > 27) & (y < 22)
    medial = (x <= 27) & (z < np.where(y > 0, -18, -4)) & (y < 14)
    lobe[lateral | medial] = CODE["temporal"]
    lateral_share = np.interp(x, (15, 28), (0, 1))
    border = (1 - lateral_share) * np.interp(z, *MEDIAL_OCCIPITAL) + lateral_share * np.interp(z, *LATERAL_OCCIPITAL)
    lobe[y < border] = CODE["occipital"]
    lobe[ellipsoid(template_mm, *INSULA) < 0] = CODE["insula"]
    return lobe


def deep_of(template_mm: np.ndarray, white: np.ndarray) -> np.ndarray:
    """
    The part of each place that is deep.

    Args:
        template_mm: (3, n).
        white: (n,), the share of white matter.

    Returns:
        uint8 (n,), codes of regions: a nucleus where one is within 1.5 mm; else in white matter a capsule, the corpus
        callosum or deep and periventricular white matter; else the nearest nucleus.
    """
    away = {name: ellipsoid(template_mm, *NUCLEI[name][:3]) for name in ("caudate", "putamen", "pallidum", "thalamus")}
    ganglia = np.minimum(np.minimum(away["caudate"], away["putamen"]), away["pallidum"])
    lentiform = np.minimum(away["putamen"], away["pallidum"])
    x = np.abs(template_mm[0])
    nucleus = np.where(away["thalamus"] < ganglia, CODE["thalamus"], CODE["basal ganglia"])
    found = np.full(x.shape, CODE["deep and periventricular white matter"], np.uint8)
    found[x > 29] = CODE["external capsule"]
    inner = (lentiform < 7) & (np.minimum(away["caudate"], away["thalamus"]) < 7) & (x < 28)
    found[inner] = CODE["internal capsule"]
    is_nucleus = (np.minimum(ganglia, away["thalamus"]) < 1.5) | (white < 0.5)
    return np.where(is_nucleus, nucleus, found).astype(np.uint8)


def callosum(template_mm: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Which places lie in the corpus callosum: white matter near the midline, in an arch over the ventricles."""
    x, y, z = np.abs(template_mm[0]), template_mm[1], template_mm[2]
    height = 26 - 0.011 * (y + 5) ** 2
    arch = (np.abs(z - height) < 7) & (y > -42) & (y < 32)
    return (x < 10) & (arch & (white > 0.6))


@lru_cache(maxsize=1)
def template_regions() -> RegionMap:
    """
    The map of regions at 1 mm; outside of the brain and in the lateral ventricles there is none.

    Example:
        >>> found = template_regions()
        >>> found.locate((-45, 30, 20)).region, found.locate((45, 30, 20)).side, found.locate((0, -25, -35)).side
        ('frontal', 'right', 'middle')
    """
    template = load_template()
    points = template.grid.points()
    white = ndimage.gaussian_filter(template.white, 0.7)
    rough = region_of(points)
    region = lobe_of(points)
    ventricle = template.at("ventricle_distance", points)
    cerebrum = rough != "infratentorial"
    nuclei = [ellipsoid(points, *NUCLEI[name][:3]) for name in ("caudate", "putamen", "pallidum", "thalamus")]
    deep = (rough == "deep") | (cerebrum & (np.min(nuclei, axis=0) < NUCLEUS_MM))
    deep &= ~((region == CODE["insula"]) & (np.abs(points[0]) > 33))
    near = cerebrum & ~deep & (ventricle < PERIVENTRICULAR_MM) & (white > 0.5)
    region[near] = CODE["deep and periventricular white matter"]
    region[deep] = deep_of(points[:, deep], white[deep])
    region[callosum(points, white) & cerebrum] = CODE["corpus callosum"]
    x, y, z = np.abs(points[0]), points[1], points[2]
    stem = (x < 16) & (y < -10) & (y >= -42) & (z < -8)
    region[~cerebrum] = np.where(stem, CODE["brainstem"], CODE["cerebellum"])[~cerebrum]
    region[(template.t1 <= 0) | (ventricle < 0)] = 0
    side = np.where(x < MIDDLE_MM, 0, np.sign(points[0])).astype(np.int8)
    return RegionMap(region, side, nib.affines.from_matvec(np.eye(3), template.grid.origin))
