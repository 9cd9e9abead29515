"""Warn of scans outside of what the program was tested on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from monai.transforms import Transform

from ..errors import OptionError
from .grid import is_lost
from .notices import add_warning

QUANTITIES = {
    "in_plane_mm": ("voxel size in plane", "mm"),
    "slice_mm": ("slice thickness", "mm"),
    "field_tesla": ("field strength", "T"),
    "echo_ms": ("echo time", "ms"),
}
CONTRASTS = {"swi": "SWI", "t2star": "T2*-weighted magnitude"}
ROUNDING = 0.01
"""Share of a limit by which a value may be beyond it: headers are rounded, and a field of 3 T is written as 2.9."""
FIELD_ROUNDING = 0.05
OUTSIDE = "only, so that these results may be worse."
"""The end of the sentence about a quantity that is outside."""
TURNED = 1.5
"""How many times as thick as the other edges of a voxel the one is along which the slices lie."""
SMALL_MM = 60.0
"""Longest side of a crop; a head is 100 to 300 mm wide."""
HEAD_MM, FLAT_MM = 100.0, 60.0
"""Width of what is no crop, and the height below which hardly anybody scans with slices of 1 mm, which is also what
writers put that do not know the distance."""


class CheckRangesd(Transform):
    """
    Warn of a scan outside of the ranges for which figures exist.

    Args:
        tested: for the contrasts "swi" (also where it is computed from magnitude and phase) and "t2star", the lowest
            and highest value of "in_plane_mm", "slice_mm", "field_tesla" and "echo_ms"; a quantity that is left out is
            not checked. None checks nothing.

    Returns:
        the dictionary with ``warnings``, a sentence for each quantity that is known and outside, one if the image is
        far smaller than a head, or flat since its header gives a distance of 1 mm, one if its slices are not axial, and
        the same in ``notices``. The image, in RAS order,
        tells the voxel size; its meta data ``echo_ms`` and ``field_tesla``.

    Raises:
        OptionError: ``tested`` has another contrast or quantity, or a range that is not two numbers in order.

    Example:
        >>> from monai.data import MetaTensor
        >>> import torch
        >>> image = MetaTensor(torch.ones(1, 200, 200, 9), affine=torch.diag(torch.tensor([0.6, 0.6, 7.0, 1.0])))
        >>> check = CheckRangesd({"swi": {"in_plane_mm": [0.4, 1.0], "slice_mm": [1, 5]}})
        >>> check({"image": image, "contrast": "swi + phase"})["warnings"]
        'The slice thickness is 7 mm; SWI was tested with 1 to 5 mm only, so that these results may be worse.'
    """

    def __init__(self, tested: Mapping[str, Mapping[str, Sequence[float]]] | None) -> None:
        if not isinstance(tested, Mapping | None):
            raise OptionError(f"tested_ranges is {tested!r}; expected ranges of {', '.join(QUANTITIES)} by contrast.")
        self.tested = dict(tested or {})
        for contrast, ranges in self.tested.items():
            if contrast not in CONTRASTS or not isinstance(ranges, Mapping) or set(ranges) - set(QUANTITIES):
                raise OptionError(
                    f"tested_ranges has {contrast!r}: {ranges!r}; expected the contrasts {', '.join(CONTRASTS)}, each "
                    f"with ranges of {', '.join(QUANTITIES)}."
                )
            for name, limits in ranges.items():
                if np.shape(limits) != (2,) or not limits[0] <= limits[1]:
                    raise OptionError(
                        f"tested_ranges has {name} {limits!r} of {contrast}; expected the lowest and the highest value."
                    )

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        d.setdefault("warnings", "")
        contrast = "t2star" if d.get("contrast") == "t2star" else "swi"
        image = d["image"] if d.get("image") is not None else d["magnitude"]
        sides = image.pixdim.numpy() * image.shape[1:]
        if sides.max() < SMALL_MM:
            size = " x ".join(f"{side:.3g}" for side in sides)
            add_warning(
                d, f"The image is only {size} mm large. If it is no crop, the voxel size in its header is wrong."
            )
        right, anterior, superior = (float(s) for s in image.pixdim)
        lost = superior == 1 and not is_lost(np.asarray(image.affine))
        if lost and min(sides[:2]) >= HEAD_MM and sides[2] < FLAT_MM:
            add_warning(
                d,
                f"The image is {sides[0]:.0f} x {sides[1]:.0f} mm wide and long, but only {sides[2]:.0f} mm high, at a "
                "slice distance of exactly 1 mm, as programs write that have lost the voxel size. If its slices are "
                "not 1 mm apart, correct its header: sizes are wrong, and most microbleeds are missed.",
            )
        edges = {"sagittal": right, "coronal": anterior, "axial": superior}
        *others, thick = sorted(edges, key=edges.get)
        if thick != "axial" and edges[thick] >= TURNED * max(edges[name] for name in others):
            size = " x ".join(f"{edge:.3g}" for edge in edges.values())
            add_warning(
                d,
                f"The slices are {thick} (voxels of {size} mm from left to right, back to front and up), and the "
                "program was made for axial ones: most microbleeds are missed.",
            )
        known = {
            "in_plane_mm": (right, anterior),
            "slice_mm": (superior,),
            "field_tesla": (image.meta.get("field_tesla"),),
            "echo_ms": (image.meta.get("echo_ms"),),
        }
        for name, (low, high) in self.tested.get(contrast, {}).items():
            slack = FIELD_ROUNDING if name == "field_tesla" else ROUNDING
            values = [value for value in known[name] if value is not None]
            outside = [value for value in values if not low * (1 - slack) <= value <= high * (1 + slack)]
            if outside:
                words, unit = QUANTITIES[name]
                tested = f"{CONTRASTS[contrast]} was tested with {low:g} to {high:g} {unit} {OUTSIDE}"
                add_warning(d, f"The {words} is {outside[0]:.3g} {unit}; {tested}")
        return d


def is_outside_tested(warnings: str) -> bool:
    """
    Whether one of a subject's warnings says that its scan is outside of the tested ranges.

    Example:
        >>> is_outside_tested(f"The echo time is 60 ms; SWI was tested with 15 to 45 ms {OUTSIDE} The phase is flat.")
        True
        >>> is_outside_tested("The regions may be wrong.")
        False
    """
    return OUTSIDE in warnings
