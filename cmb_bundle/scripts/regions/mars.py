"""The regions of the Microbleed Anatomical Rating Scale, and which labels of other programs lie in them."""

from __future__ import annotations

import re

CATEGORIES = {
    "lobar": ("frontal", "parietal", "temporal", "occipital", "insula", "lobe not known"),
    "deep": (
        "basal ganglia",
        "thalamus",
        "internal capsule",
        "external capsule",
        "corpus callosum",
        "deep and periventricular white matter",
    ),
    "infratentorial": ("brainstem", "cerebellum"),
}
"""Gregoire et al., Neurology 2009;73:1759. "lobe not known" is for parcellations that do not divide the cortex."""

REGIONS = tuple(region for regions in CATEGORIES.values() for region in regions)
"""A region's number in a map is its place here, counted from 1; 0 is none."""

CATEGORY = {region: category for category, regions in CATEGORIES.items() for region in regions}
WHITE, FLUID, NONE = "white matter", "ventricle", "none"
"""What a label may be besides a region: white matter, whose region follows from its surroundings; a lateral ventricle;
something that lies in no region."""

CAUDATE, LENTIFORM = "caudate", "lentiform nucleus"
"""Parts of the basal ganglia, between which the internal capsule runs."""

LOBES = {
    "frontal": (
        *("superiorfrontal", "rostralmiddlefrontal", "caudalmiddlefrontal", "parsopercularis", "parstriangularis"),
        *("parsorbitalis", "lateralorbitofrontal", "medialorbitofrontal", "precentral", "paracentral", "frontalpole"),
        *("rostralanteriorcingulate", "caudalanteriorcingulate"),
    ),
    "parietal": (
        *("superiorparietal", "inferiorparietal", "supramarginal", "postcentral", "precuneus"),
        *("posteriorcingulate", "isthmuscingulate"),
    ),
    "temporal": (
        *("superiortemporal", "middletemporal", "inferiortemporal", "bankssts", "fusiform", "transversetemporal"),
        *("entorhinal", "temporalpole", "parahippocampal"),
    ),
    "occipital": ("lateraloccipital", "lingual", "cuneus", "pericalcarine"),
    "insula": ("insula",),
}
"""The gyri of Desikan et al., NeuroImage 2006;31:968, by lobe as FreeSurfer's page on cortical parcellation has them;
the cingulate gyrus goes with the lobe beside it."""

GYRI = (
    *("unknown", "bankssts", "caudalanteriorcingulate", "caudalmiddlefrontal", "corpuscallosum", "cuneus"),
    *("entorhinal", "fusiform", "inferiorparietal", "inferiortemporal", "isthmuscingulate", "lateraloccipital"),
    *("lateralorbitofrontal", "lingual", "medialorbitofrontal", "middletemporal", "parahippocampal", "paracentral"),
    *("parsopercularis", "parsorbitalis", "parstriangularis", "pericalcarine", "postcentral", "posteriorcingulate"),
    *("precentral", "precuneus", "rostralanteriorcingulate", "rostralmiddlefrontal", "superiorfrontal"),
    *("superiorparietal", "superiortemporal", "supramarginal", "frontalpole", "temporalpole", "transversetemporal"),
    "insula",
)
"""In the order of FreeSurfer's numbers: 1000 and 3000 more on the left, 2000 and 4000 more on the right."""

STRUCTURES = {
    "cerebralwhitematter": (WHITE, 2, 41),
    "cerebralcortex": ("lobe not known", 3, 42),
    "lateralventricle": (FLUID, 4, 43),
    "inflatvent": (NONE, 5, 44),
    "cerebellumwhitematter": ("cerebellum", 7, 46),
    "cerebellumcortex": ("cerebellum", 8, 47),
    "thalamus": ("thalamus", 10, 49),
    "thalamusproper": ("thalamus", 9, 48),
    "caudate": (CAUDATE, 11, 50),
    "putamen": (LENTIFORM, 12, 51),
    "pallidum": (LENTIFORM, 13, 52),
    "hippocampus": ("temporal", 17, 53),
    "amygdala": ("temporal", 18, 54),
    "accumbensarea": ("basal ganglia", 26, 58),
    "ventraldc": ("thalamus", 28, 60),
    "vessel": (NONE, 30, 62),
    "choroidplexus": (FLUID, 31, 63),
    "unsegmentedwhitematter": (WHITE, 5001, 5002),
    "3rdventricle": (NONE, 14),
    "4thventricle": (NONE, 15),
    "brainstem": ("brainstem", 16),
    "csf": (NONE, 24),
    "5thventricle": (NONE, 72),
    "wmhypointensities": (WHITE, 77, 78, 79),
    "nonwmhypointensities": (NONE, 80, 81, 82),
    "opticchiasm": (NONE, 85),
    "corpuscallosum": ("corpus callosum", 192),
    "ccposterior": ("corpus callosum", 251),
    "ccmidposterior": ("corpus callosum", 252),
    "cccentral": ("corpus callosum", 253),
    "ccmidanterior": ("corpus callosum", 254),
    "ccanterior": ("corpus callosum", 255),
    "background": (NONE, 0),
    "unknown": (NONE,),
}
"""Names of FreeSurfer's FreeSurferColorLUT.txt, which SynthSeg shares, without side and separators; what they are; and
their numbers, on the left and on the right where there are two."""

SIDES = {"left": -1, "lh": -1, "l": -1, "right": 1, "rh": 1, "r": 1}


def region_of_name(name: str) -> tuple[str, int] | None:
    """
    Find what FreeSurfer's name of a label means.

    Args:
        name: such as "ctx-lh-precentral" or "Left-Putamen", in upper or lower case, with any separators.

    Returns:
        a region, a part of one, ``WHITE``, ``FLUID`` or ``NONE``; and -1 on the left, 1 on the right, 0 without a side.
        None where the name is not known.

    Example:
        >>> region_of_name("ctx-lh-precentral"), region_of_name("Right-Thalamus-Proper"), region_of_name("brain-stem")
        (('frontal', -1), ('thalamus', 1), ('brainstem', 0))
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    side = next((SIDES[word] for word in words if word in SIDES), 0)
    words = [word for word in words if word not in SIDES]
    white = bool(words) and words[0] == "wm" and len(words) > 1 and words[1] != "hypointensities"
    bare = "".join(word for word in words if word != "ctx" and not (white and word == "wm"))
    for lobe, gyri in LOBES.items():
        if bare in gyri:
            return lobe, side
    return (STRUCTURES[bare][0], side) if bare in STRUCTURES else None


def freesurfer_numbers() -> dict[int, tuple[str, int]]:
    """
    What FreeSurfer's numbers mean, those of aseg, aparc+aseg and wmparc; SynthSeg has the same.

    Example:
        >>> numbers = freesurfer_numbers()
        >>> numbers[2024], numbers[2], numbers[251], numbers[3035]
        (('frontal', 1), ('white matter', -1), ('corpus callosum', 0), ('white matter', -1))
    """
    found: dict[int, tuple[str, int]] = {}
    for what, *numbers in STRUCTURES.values():
        sides = (-1, 1) if len(numbers) == 2 else (0,) * len(numbers)
        found |= {number: (what, side) for number, side in zip(numbers, sides, strict=True)}
    for start, side in ((1000, -1), (2000, 1)):
        for number, gyrus in enumerate(GYRI):
            meaning = region_of_name(gyrus) or (NONE, 0)
            found[start + number] = (meaning[0], side)
            # of wmparc; its white matter is divided anew, by the rules for all parcellations
            found[start + 2000 + number] = (WHITE, side)
    return found
