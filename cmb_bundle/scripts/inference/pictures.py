"""Pictures of findings."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from ..geometry import to_voxel

MAXIMUM_SLICES = 12
TILE, TITLE, HEAD, GAP = 3.2, 0.25, 0.6, 0.05
"""A slice, its title, the title of the picture, and what lies at both sides of a slice, in inches."""
DPI = 110
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
    lines = wrap(f"Warning: {warnings}", width=LETTERS * columns) if warnings else []
    below = 0.15 * len(lines)
    wide_mm, tall_mm = volume.shape[0] * spacing[0], volume.shape[1] * spacing[1]
    tall = TILE * float(np.clip(tall_mm / wide_mm, 0.7, 1.4))
    width, height = TILE * columns, (tall + TITLE) * rows + HEAD + below
    pixels_per_mm = DPI * min((TILE - 2 * GAP) / wide_mm, tall / tall_mm)
    size = [max(1, round(pixels_per_mm * mm)) for mm in (wide_mm, tall_mm)]
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    tissue = volume[::4, ::4]  # a sixteenth tells as much
    tissue = tissue[tissue > 0]
    limits = np.percentile(tissue, [1, 99.5]) if tissue.size else (0, 1)
    for position, k in enumerate(slices):
        row, column = divmod(position, columns)
        bottom = round(DPI * (below + (tall + TITLE) * (rows - 1 - row) + tall / 2) - size[1] / 2)
        left = round(DPI * TILE * (column + 0.5) - size[0] / 2)
        # axes that draw nothing but an image would take most of the time
        grey = np.clip((volume[::-1, :, k].T - limits[0]) * (255 / max(limits[1] - limits[0], 1e-6)), 0, 255)
        shown = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
        figure.figimage(shown, left, bottom, cmap="gray", vmin=0, vmax=255, origin="lower")
        middle, top = left + size[0] / 2, bottom + size[1]
        figure.text(
            middle / DPI / width,
            (top + 6) / DPI / height,
            f"slice k = {k} (RAS order)",
            color="white",
            fontsize=8,
            ha="center",
        )
        for number in np.flatnonzero(on_slice == k):
            voxel = (voxels[number, :2] + 0.5) * spacing[:2] * pixels_per_mm
            x, y = (left + size[0] - voxel[0]) / DPI / width, (bottom + voxel[1]) / DPI / height
            figure.add_artist(Line2D([x], [y], marker="o", markersize=13, markerfacecolor="none", color="#ffb000"))
            text = f"{number + 1}: {microbleeds[number]['probability']:.2f}"
            label = figure.text(x + 9 / 72 / width, y + 6 / 72 / height, text, color="#ffb000", fontsize=8)
            label.set_path_effects([withStroke(linewidth=2, foreground="black")])
    hidden = len(np.unique(on_slice)) - len(slices) if len(microbleeds) else 0
    more = f", {hidden} more slices in the table" if hidden > 0 else ""
    found = f"{len(microbleeds)} microbleed{'' if len(microbleeds) == 1 else 's'}"
    title = f"{subject}: {found} by the program{more}.\nRight is on the left. Not for diagnosis."
    figure.suptitle(title, color="white", fontsize=9, wrap=True)
    if lines:
        figure.text(0.02, 0.05 / height, "\n".join(lines), color="#ff6060", fontsize=8, va="bottom")
    figure.savefig(path, dpi=DPI, facecolor="black", pil_kwargs={"compress_level": 1})
