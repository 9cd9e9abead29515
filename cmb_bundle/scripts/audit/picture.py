"""Draw the picture of a label audit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CROP_MM, MAXIMUM_CROPS = 20.0, 60
FLAGS = ("swap_xy", "flip_x", "flip_y", "flip_slice")


def draw_audit(path: str | Path, content: Mapping[str, Any], table: pd.DataFrame, crops: Sequence[np.ndarray]) -> None:
    """Draw the contrast of each convention, and the SWI under the points with the best one, least dark first.

    Args:
        path: PNG to write.
        content: content of ``label_audit.json``.
        table: content of ``label_audit.csv``.
        crops: for each row of the table the SWI around the point, (j, i), as multiples of the head's median.
    """
    order = np.argsort(table["darkest_contrast"].fillna(-np.inf).to_numpy(), kind="stable")[:MAXIMUM_CROPS]
    columns = 10
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(14, 3.6 + 1.75 * rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    top, below = figure.subfigures(2, 1, height_ratios=[3.6, max(0.1, 1.75 * rows)])
    _draw_scores(top.add_subplot(), content)
    top.suptitle(f"Label audit: {content['verdict']}. {content['reason']}", fontsize=10, wrap=True)
    if not len(order):
        figure.savefig(path, dpi=90)
        return
    hidden = len(table) - len(order)
    title = "SWI under the points with the best convention, least dark first; i to the right, j down; 20 mm wide"
    below.suptitle(title + (f"; {hidden} darker ones are not shown" if hidden else ""), fontsize=9)
    cells = below.subplots(rows, columns, squeeze=False).flat
    for axes, row in itertools.zip_longest(cells, order):
        axes.set_xticks([])
        axes.set_yticks([])
        if row is None:
            axes.set_axis_off()
            continue
        line = table.iloc[row]
        good = line["sits_on"] == "dark"
        half = CROP_MM / 2
        axes.imshow(
            crops[row].astype(float), cmap="gray", vmin=0, vmax=1.6, origin="upper", extent=(-half, half, half, -half)
        )
        axes.plot([0], [0], "o", markersize=16, markerfacecolor="none", markeredgecolor="#ffb000", markeredgewidth=0.8)
        for side in axes.spines.values():
            side.set(color="#666666" if good else "#d00000", linewidth=1 if good else 2.5)
        text = f"{line['subject']}\nslice {line['slice']:g}, {line['x']:g}, {line['y']:g}"
        axes.set_title(text if good else f"{text}\n{line['sits_on']}", fontsize=6, color="black" if good else "#d00000")
    figure.savefig(path, dpi=90)


def _draw_scores(axes, content: Mapping[str, Any]) -> None:
    conventions = content["conventions"]
    names = [f"base {c['index_base']}" + "".join(f", {key}" for key in FLAGS if c[key]) for c in conventions]
    scores = [c["contrast"] if c["contrast"] is not None else 0.0 for c in conventions]
    colours = ["#ffb000" if n == 0 and content["best"] else "#7f8fa6" for n in range(len(conventions))]
    axes.bar(range(len(names)), scores, color=colours)
    for number, convention in enumerate(conventions):
        if convention["contrast"] is None:
            text = f"{convention['points_outside']} points outside"
            axes.text(number, 0.03, text, rotation=90, ha="center", va="bottom", fontsize=6)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=6)
    axes.set_ylabel("mean contrast, in spreads", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
