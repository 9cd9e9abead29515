"""A picture of the regions on the scan, to see whether they lie where they should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap

import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage

from ..geometry import to_voxel
from .mars import REGIONS
from .region_map import RegionMap

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""The axes, of right, anterior and superior, that run to the right and up in the picture, and the one across."""
SHARES = (0.4, 0.62)
"""Where the planes cut the box around the regions."""
COLOURS = [colormaps["tab20"](number) for number in range(len(REGIONS))]


def draw_regions(
    path: str | Path, subject: str, swi, region_map: RegionMap, result: Mapping, warnings: str = ""
) -> None:
    """
    Draw the outlines of the regions on two slices of each plane of the scan, with the findings near them.

    Axial and coronal slices are in radiological view: patient's right is on the left of the picture.

    Args:
        path: PNG to write.
        subject: for the title.
        swi: MetaTensor (1, i, j, k), at the input's resolution.
        region_map: the regions.
        result: with ``microbleeds`` and ``regions``, see :class:`~.transforms.Regionsd`.
        warnings: sentences that are written below.
    """
    volume, affine = swi[0].numpy(), np.asarray(swi.affine, float)
    places = nib.affines.apply_affine(region_map.affine, np.argwhere(region_map.region)[::11])
    there = to_voxel(affine, places)
    there = ((there > -0.5) & (there < np.array(volume.shape) - 0.5)).all(1)
    places = places[there] if there.any() else places
    low, high = places.min(0) - 15, places.max(0) + 15
    centres = np.array([m["ras_mm"] for m in result["microbleeds"]]).reshape(-1, 3)
    tissue = volume[::3, ::3]
    tissue = tissue[tissue > 0]
    limits = np.percentile(tissue, [1, 99.5]) if tissue.size else (0, 1)
    lines = wrap(f"Warning: {warnings}", width=130) if warnings else []
    below = 0.3 + 0.16 * len(lines)
    figure = Figure(figsize=(11, 8.2 + below), facecolor="black")
    FigureCanvasAgg(figure)
    shown = set()
    for column, (name, (right, up, across)) in enumerate(PLANES.items()):
        for row, share in enumerate(SHARES):
            axes = figure.add_subplot(2, 3, 1 + column + 3 * row)
            at = low[across] + 15 + share * (high[across] - low[across] - 30)
            x, y = (np.arange(low[a], high[a]) for a in (right, up))
            grid = np.empty((len(x), len(y), 3))
            grid[..., right], grid[..., up], grid[..., across] = x[:, None], y, at
            on_scan = to_voxel(affine, grid)
            seen = ((on_scan > -0.5) & (on_scan < np.array(volume.shape) - 0.5)).all(-1)
            image = ndimage.map_coordinates(volume, np.moveaxis(on_scan, -1, 0), order=1)
            there = np.moveaxis(to_voxel(region_map.affine, grid), -1, 0)
            regions = ndimage.map_coordinates(region_map.region, there, order=0) * seen
            axes.imshow(
                image.T, cmap="gray", origin="lower", extent=(x[0], x[-1], y[0], y[-1]), vmin=limits[0], vmax=limits[1]
            )
            for number in np.unique(regions[regions > 0]):
                axes.contour(x, y, (regions == number).T, levels=[0.5], colors=[COLOURS[number - 1]], linewidths=0.9)
                shown.add(int(number))
            near = np.abs(centres[:, across] - at) < 5 if len(centres) else np.zeros(0, bool)
            axes.plot(centres[near, right], centres[near, up], "o", ms=8, mfc="none", mec="#ffb000")
            if name != "sagittal":
                axes.invert_xaxis()
            axes.set_title(f"{name}, {'RAS'[across]} = {at:.0f} mm", color="white", fontsize=8)
            axes.set_axis_off()
    handles = [Line2D([], [], color=COLOURS[number - 1], label=REGIONS[number - 1]) for number in sorted(shown)]
    height = figure.get_figheight()
    if handles:
        figure.legend(handles=handles, loc="lower center", ncol=5, fontsize=7, labelcolor="white", facecolor="black",
                      edgecolor="black", bbox_to_anchor=(0.5, (below - 0.2) / height))  # fmt: skip
    about = result["regions"]
    score = f", similarity {about['similarity']:.3f}" if about.get("similarity") is not None else ""
    figure.suptitle(
        f"{subject}: regions by {about['source']}{score}; circles are findings within 5 mm.\nRight is on the "
        "left. Not for diagnosis.",
        color="white",
        fontsize=9,
    )
    if lines:
        figure.text(0.02, 0.05 / height, "\n".join(lines), color="#ff6060", fontsize=8, va="bottom")
    figure.tight_layout(rect=(0, (below + 0.5) / height, 1, 1 - 0.3 / height))
    figure.savefig(path, dpi=100, facecolor="black")
