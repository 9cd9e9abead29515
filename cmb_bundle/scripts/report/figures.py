"""Draw the figures of the report as self-contained SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ..evaluation.curves import Curve, rate_name

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe & Ito's palette, which colour-blind readers can distinguish."""
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "report",
}


def draw_froc(curves: Mapping[str, Curve], threshold: str) -> str | None:
    """
    Draw the FROC curves of one stage.

    Args:
        curves: curves by system.
        threshold: description of the operating threshold, for the legend.

    Returns:
        a data URI; None if there are no lesions, so that no system has a curve.
    """
    drawn = {name: curve for name, curve in curves.items() if curve.points.sensitivity is not None}
    if not drawn:
        return None
    first = 1 / 16
    last = max(float(curve.rates[-1]) for curve in drawn.values())
    with rc_context(STYLE):
        figure, axes = _figure(7.2, 4.3)
        for colour, (name, curve) in zip(COLOURS * len(drawn), drawn.items(), strict=False):
            if not np.isnan(curve.low).all():
                axes.fill_between(curve.rates, curve.low, curve.high, step="post", color=colour, alpha=0.15, lw=0)
            axes.step(*_corners(curve, first), where="post", color=colour, lw=1.8, label=name)
            rate, sensitivity = curve.operating
            axes.plot(max(rate, first), sensitivity, "o", ms=8, color=colour, mec="white", mew=1.2, zorder=5)
        axes.plot([], [], "o", ms=8, color="#777777", label=f"operating point ({threshold})")
        axes.set_xscale("log", base=2)
        ticks = 2.0 ** np.arange(-4, np.ceil(np.log2(last)) + 1)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_name(rate)))
        axes.set(xlim=(first, last * 1.05), ylim=(-0.02, 1.02))
        axes.set(xlabel="false positives per subject", ylabel="sensitivity")
        axes.legend(loc="lower right")
        return _uri(figure)


def _corners(curve: Curve, first: float) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the stepped curve, from the left edge of the picture."""
    points = curve.points
    x = np.maximum(np.append(0.0, points.false_positives_per_subject), first)
    y = np.append(0.0, points.sensitivity)
    kept = np.append(True, np.diff(y) > 0)
    kept[-1] = True
    return x[kept], y[kept]


def draw_strata(strata: Mapping[str, Sequence[Mapping]], stage: str = "end_to_end") -> str | None:
    """
    Draw the sensitivity by class with intervals, one panel per kind of stratum.

    Args:
        strata: rows of :func:`~..evaluation.strata.lesion_strata` by the title of the panel.
        stage: stage whose sensitivity is drawn.

    Returns:
        a data URI; None if there is nothing to draw.
    """
    panels = {title: rows for title, rows in strata.items() if any(row["n_lesions"] for row in rows)}
    if not panels:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
            for number, row in enumerate(rows):
                axes.bar(number, row[stage] or 0, width=0.62, color=COLOURS[0], alpha=0.85)
                interval = row["intervals"][stage]
                if interval:
                    axes.plot([number, number], interval, color="#222222", lw=1.4)
            labels = [f"{row['name']}\n{row[f'{stage}_found']}/{row['n_lesions']}" for row in rows]
            axes.set_xticks(range(len(rows)), labels)
            axes.tick_params(axis="x", labelsize=8.5, length=0)
            axes.set(title=title, ylim=(0, 1.05), xlim=(-0.6, len(rows) - 0.4))
            axes.title.set_size(10)
            axes.grid(visible=False, axis="x")
        all_axes[0].set_ylabel("sensitivity")
        return _uri(figure)


def draw_bland_altman(truth: Sequence[int], counted: Sequence[int], limits: Mapping[str, float | None]) -> str:
    """
    Draw the differences of counts against their means; the area of a point is proportional to its number of subjects.

    Args:
        truth: (N,) lesions of each subject in the ground truth.
        counted: (N,) detections of each subject.
        limits: "bias", "lower" and "upper", see :func:`~..evaluation.agreement.bland_altman`.

    Returns:
        a data URI.
    """
    pairs, number = np.unique(np.column_stack([truth, counted]).astype(float), axis=0, return_counts=True)
    with rc_context(STYLE):
        figure, axes = _figure(7.2, 3.6)
        axes.axhline(0, color="#999999", lw=0.8)
        axes.scatter(pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0], s=26 * number, color=COLOURS[0], alpha=0.65, lw=0)
        for name, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
            if limits[name] is not None:
                axes.axhline(limits[name], color=COLOURS[1], lw=1.3, ls=style)
                label = {"bias": "bias", "lower": "lower limit", "upper": "upper limit"}[name]
                axes.annotate(
                    f"{label} {limits[name]:+.2f}", (1.005, limits[name]), xycoords=("axes fraction", "data"),
                    va="center", color=COLOURS[1], size=8.5, annotation_clip=False,
                )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(0.08, 0.15)
        axes.set(xlabel="mean of both counts", ylabel="program - ground truth")
        return _uri(figure)


def _figure(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _uri(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
