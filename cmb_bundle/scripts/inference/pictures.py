"""Pictures of findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from ..data.labels import LabelConvention
from ..geometry import to_voxel

MAXIMUM_SLICES = 12
TILE, TITLE, HEAD, GAP = 3.2, 0.25, 0.6, 0.05
"""A slice, its title, the title of the picture, and what lies at both sides of a slice, in inches."""
DPI = 110
LETTERS = 50
"""How many letters of a warning fit below one slice."""
RING, FONT = 13, 8
"""Width of a circle and size of its label, in points."""
APART = np.array([(x, y) for y in (6, -12, 16, -22, 26, -32) for x in (9, -40, -15)])
"""Where a label may lie from the centre of its circle, its lower left corner, in points; the first is the best."""
WIDE, HIGH = 4.6, 9
"""Width of a letter of a label, and its height, in points."""


def draw_findings(
    path: str | Path,
    subject: str,
    swi,
    result: dict,
    warnings: str = "",
    convention: LabelConvention | None = None,
) -> None:
    """
    Draw the slices with microbleeds, each circled with its number and probability, in radiological view.

    A subject without any gets its evenly spaced slices, so that one can see what was looked at. Patient's right is
    on the left of the picture, anterior is up. A slice has the number that the table gives it.

    Args:
        path: PNG to write.
        subject: for the title.
        swi: MetaTensor (1, i, j, k) in RAS order, at the input's resolution; its meta data have ``original_affine`` and
            ``spatial_shape`` of the file.
        result: see :class:`~.findings.Findingsd`.
        warnings: sentences that are written below the slices.
        convention: how the table counts slices.
    """
    microbleeds = result["microbleeds"]
    volume, spacing = swi[0].numpy(), swi.pixdim.numpy()
    centres = np.array([m["ras_mm"] for m in microbleeds]).reshape(-1, 3)
    voxels = to_voxel(swi.affine.numpy(), centres)
    on_slice = _slices_of(swi, microbleeds)
    slices = np.unique(on_slice)[:MAXIMUM_SLICES]
    if len(slices) == 0:
        slices = np.unique(np.linspace(0, volume.shape[2] - 1, 6).round().astype(int))
    names = _names_of(swi, slices, convention or LabelConvention())
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
            names[position],
            color="white",
            fontsize=8,
            ha="center",
        )
        numbers = np.flatnonzero(on_slice == k)
        within = (voxels[numbers, :2] + 0.5) * spacing[:2] * pixels_per_mm
        circles = (np.array([left + size[0], bottom]) + within * [-1, 1]) * 72 / DPI
        texts = [f"{number + 1}: {microbleeds[number]['probability']:.2f}" for number in numbers]
        edges = np.array([[left, bottom], [left + size[0], top]]) * 72 / DPI
        points = 72 * np.array([width, height])
        corners = _places_of(circles, texts, edges)
        for (x, y), corner, text in zip(circles / points, corners / points, texts, strict=True):
            figure.add_artist(Line2D([x], [y], marker="o", markersize=RING, markerfacecolor="none", color="#ffb000"))
            label = figure.text(*corner, text, color="#ffb000", fontsize=FONT)
            label.set_path_effects([withStroke(linewidth=2, foreground="black")])
    hidden = len(np.unique(on_slice)) - len(slices) if len(microbleeds) else 0
    more = f", {hidden} more slices in the table" if hidden > 0 else ""
    found = f"{len(microbleeds)} microbleed{'' if len(microbleeds) == 1 else 's'}"
    title = f"{subject}: {found} by the program{more}.\nRight is on the left. Not for diagnosis."
    figure.suptitle(title, color="white", fontsize=9, wrap=True)
    if lines:
        figure.text(0.02, 0.05 / height, "\n".join(lines), color="#ff6060", fontsize=8, va="bottom")
    figure.savefig(path, dpi=DPI, facecolor="black", pil_kwargs={"compress_level": 1})


def _slices_of(swi, microbleeds: Sequence[dict]) -> np.ndarray:
    """The slice in RAS order of each microbleed: that of the voxel that the table names."""
    meta = swi.meta
    voxels = np.round(np.array([m["voxel"] for m in microbleeds]).reshape(-1, 3))
    voxels = np.clip(voxels, 0, np.array(meta["spatial_shape"]) - 1)
    ras = nib.affines.apply_affine(np.asarray(meta["original_affine"], dtype=float), voxels)
    return np.round(to_voxel(swi.affine.numpy(), ras)[:, 2]).astype(int)


def _names_of(swi, slices: np.ndarray, convention: LabelConvention) -> list[str]:
    """The number of slices in the table, with the column that has it: x or y in a file that is not stored axially."""
    axis = np.zeros((len(slices) + 2, 3))
    axis[:, 2] = [0, 1, *slices]
    ras = nib.affines.apply_affine(swi.affine.numpy(), axis)
    voxels = to_voxel(np.asarray(swi.meta["original_affine"], dtype=float), ras)
    rows = convention.from_voxel(voxels, swi.meta["spatial_shape"])
    column = int(np.argmax(np.abs(rows[1] - rows[0])))
    return [f"{('slice', 'x', 'y')[column]} {round(row[column])}" for row in rows[2:]]


def _places_of(circles: np.ndarray, texts: Sequence[str], shown: np.ndarray) -> np.ndarray:
    """The lower left corner of the label of each circle, in points: within the slice, over no other if it can be."""
    sizes = np.array([[WIDE * len(text), HIGH] for text in texts]).reshape(-1, 2)
    taken = [(circle - RING / 2, circle + RING / 2) for circle in circles]
    corners = np.empty_like(circles)
    for n, (circle, size) in enumerate(zip(circles, sizes, strict=True)):
        covered = [
            sum(_common(corner, corner + size, *box) for box in taken) - _common(corner, corner + size, *shown)
            for corner in circle + APART
        ]
        corners[n] = circle + APART[int(np.argmin(np.round(covered, 6)))]
        taken.append((corners[n], corners[n] + size))
    return corners


def _common(low: np.ndarray, high: np.ndarray, other_low: np.ndarray, other_high: np.ndarray) -> float:
    """The area that two boxes have in common."""
    return float(np.prod(np.clip(np.minimum(high, other_high) - np.maximum(low, other_low), 0, None)))
