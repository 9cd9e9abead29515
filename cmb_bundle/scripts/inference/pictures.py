"""Pictures of findings."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..geometry import to_voxel

MAXIMUM_SLICES = 12
TILE, TITLE, HEAD, GAP = 3.2, 0.25, 0.6, 0.05
"""A slice, its title, the title of the picture, and what lies at both sides of a slice, in inches."""
LETTERS = 50
"""How many letters of a warning fit below one slice."""


def draw_findings(path: str | Path, subject: str, swi, result: dict, warnings: str = "") -> None:
    """
    Draw the slices with microbleeds, each circled with its number and probability, in radiological view.

    A subject without any gets its evenly spaced slices, so that one can see what was looked at. Patient's right is
    on the left of the picture, anterior is up.

    Args:
        path: PNG to write.
        subject: for the title.
        swi: MetaTensor (1, i, j, k) in RAS order, at the input's resolution.
        result: see :class:`~.findings.Findingsd`.
        warnings: sentences that are written below the slices.
    """
    microbleeds = result["microbleeds"]
    volume, spacing = swi[0].numpy(), swi.pixdim.numpy()
    centres = np.array([m["ras_mm"] for m in microbleeds]).reshape(-1, 3)
    voxels = to_voxel(swi.affine.numpy(), centres)
    on_slice = np.clip(np.round(voxels[:, 2]).astype(int), 0, volume.shape[2] - 1)
    slices = np.unique(on_slice)[:MAXIMUM_SLICES]
    if len(slices) == 0:
        slices = np.unique(np.linspace(0, volume.shape[2] - 1, 6).round().astype(int))
    columns = min(4, len(slices))
    rows = -(-len(slices) // columns)
    extent = [
        -0.5 * spacing[0],
        (volume.shape[0] - 0.5) * spacing[0],
        -0.5 * spacing[1],
        (volume.shape[1] - 0.5) * spacing[1],
    ]
    lines = wrap(f"Warning: {warnings}", width=LETTERS * columns) if warnings else []
    below = 0.15 * len(lines)
    tall = TILE * float(np.clip(volume.shape[1] * spacing[1] / (volume.shape[0] * spacing[0]), 0.7, 1.4))
    width, height = TILE * columns, (tall + TITLE) * rows + HEAD + below
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)
    tissue = volume[::2, ::2]  # a quarter tells as much
    tissue = tissue[tissue > 0]
    limits = np.percentile(tissue, [1, 99.5]) if tissue.size else (0, 1)
    for position, k in enumerate(slices):
        row, column = divmod(position, columns)
        bottom = below + (tall + TITLE) * (rows - 1 - row)
        # placed by hand: a layout that fits itself draws everything twice
        axes = figure.add_axes(
            [(TILE * column + GAP) / width, bottom / height, (TILE - 2 * GAP) / width, tall / height]
        )
        axes.imshow(volume[:, :, k].T, cmap="gray", origin="lower", extent=extent, vmin=limits[0], vmax=limits[1])
        axes.invert_xaxis()
        axes.set_title(f"slice k = {k} (RAS order)", color="white", fontsize=8)
        axes.set_axis_off()
        for number in np.flatnonzero(on_slice == k):
            x, y = voxels[number, :2] * spacing[:2]
            axes.plot(x, y, "o", markersize=13, markerfacecolor="none", markeredgecolor="#ffb000")
            text = f"{number + 1}: {microbleeds[number]['probability']:.2f}"
            label = axes.annotate(text, (x, y), (9, 6), textcoords="offset points", color="#ffb000", fontsize=8)
            label.set_path_effects([withStroke(linewidth=2, foreground="black")])
    hidden = len(np.unique(on_slice)) - len(slices) if len(microbleeds) else 0
    more = f", {hidden} more slices in the table" if hidden > 0 else ""
    found = f"{len(microbleeds)} microbleed{'' if len(microbleeds) == 1 else 's'}"
    title = f"{subject}: {found} by the program{more}.\nR is left. Not for diagnosis."
    figure.suptitle(title, color="white", fontsize=9, wrap=True)
    if lines:
        figure.text(0.02, 0.05 / height, "\n".join(lines), color="#ff6060", fontsize=8, va="bottom")
    figure.savefig(path, dpi=110, facecolor="black", pil_kwargs={"compress_level": 1})
