"""A picture of a patient's lesions over time: a row of patches for each lesion, a column for each scan."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from nibabel.affines import apply_affine
from scipy import ndimage

from .comparison import Comparison
from .lesions import ABSENT, BELOW, BELOW_NOW, BELOW_THEN, DARK, FOUND, GONE, NEW, NOT_TOLD, STABLE, UNSEEN
from .scans import FoundScan

MOST_ROWS = 24
PATCH_MM, PIXEL_MM = 24.0, 0.4
ORDER = (NEW, BELOW_THEN, GONE, BELOW_NOW, NOT_TOLD, STABLE, ABSENT)
"""Of the rows where there are more than fit: what has changed comes first."""
COLOURS = {
    NEW: "#ff5050", GONE: "#50b0ff", STABLE: "#60d060", BELOW_THEN: "#ffb000", BELOW_NOW: "#ffb000",
    NOT_TOLD: "#c0c0c0", ABSENT: "#c0c0c0",
}  # fmt: skip
CIRCLES = {FOUND: "-", BELOW: ":", DARK: ":"}


def patch(scan: FoundScan, to_own: np.ndarray, place_mm: np.ndarray) -> np.ndarray:
    """
    Cut a square about a place, along the axes of the first scan, so that the head is turned alike in all.

    Args:
        scan: the image that it is cut from.
        to_own: (4, 4), RAS mm of the first scan to those of this one.
        place_mm: (3,), RAS mm of the first scan.

    Returns:
        (n, n), rows from anterior to posterior, columns from the patient's right to left; NaN outside of the image.
    """
    n = round(PATCH_MM / PIXEL_MM) + 1
    offset = (np.arange(n) - n // 2) * PIXEL_MM
    anterior, right = np.meshgrid(offset[::-1], offset[::-1], indexing="ij")
    points = np.stack([place_mm[0] + right, place_mm[1] + anterior, np.full_like(right, place_mm[2])], axis=-1)
    index = np.moveaxis(apply_affine(np.linalg.inv(scan.affine) @ to_own, points), -1, 0)
    return ndimage.map_coordinates(scan.image, index, order=1, mode="constant", cval=np.nan)


def draw_timeline(path: str | Path, done: Comparison, statement: str) -> None:
    """
    Draw the timeline of a patient.

    Args:
        path: PNG to write.
        done: the follow-up.
        statement: what stands below the picture.
    """
    lesions = sorted(done.lesions, key=lambda one: (ORDER.index(one.status), one.number))[:MOST_ROWS]
    lesions.sort(key=lambda one: one.number)
    columns, rows = len(done.scans), max(len(lesions), 1)
    width, height = max(1.9 * columns + 1.6, 6.5), 1.75 * rows + 1.9
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)
    limits = [_limits(scan) for scan in done.scans]
    left, below, top = 1.6 / width, 0.75 / height, 1 - 1.05 / height
    cell = (1 - left) / columns, (top - below) / rows
    for n, scan in enumerate(done.scans):
        protocol = scan.protocol
        known = "" if protocol.weighting is None else f"\n{protocol.field_tesla:g} T, {protocol.echo_ms:g} ms"
        text = f"{_short(scan.session.subject)}\n{_day(scan.session.date)} {protocol.contrast}{known}"
        place = left + (n + 0.5) * cell[0], top + 0.08 / height
        figure.text(*place, text, color="white", fontsize=7, ha="center", va="bottom")
    for row, lesion in enumerate(lesions):
        colour = COLOURS[lesion.status]
        sure = "certain" if lesion.certain else "possible"
        text = "\n".join([f"{lesion.number}", *wrap(lesion.status, 16), f"{sure}, {lesion.probability:.2f}"])
        figure.text(0.1 / width, top - (row + 0.5) * cell[1], text, color=colour, fontsize=8, va="center")
        for n, (scan, registration) in enumerate(zip(done.scans, done.registrations, strict=True)):
            box = [left + n * cell[0], top - (row + 1) * cell[1] + 0.22 / height, cell[0] * 0.94]
            axes = figure.add_axes([*box, cell[1] - 0.26 / height])
            axes.set_axis_off()
            shown = patch(scan, np.linalg.inv(registration.to_first), np.array(lesion.place_mm))
            half = PATCH_MM / 2
            axes.imshow(shown, cmap="gray", vmin=limits[n][0], vmax=limits[n][1], extent=[-half, half, -half, half])
            seen = lesion.seen.get(n)
            if lesion.states[n] in CIRCLES:
                offset = np.array(lesion.place_mm if seen is None else seen.first_mm) - lesion.place_mm
                style = {"color": colour, "fill": False, "linestyle": CIRCLES[lesion.states[n]], "linewidth": 0.9}
                radius = max((0 if seen is None else seen.diameter_mm or 0) / 2 + 1.5, 3.0)
                circle = axes.add_patch(Circle((-offset[0], offset[1]), radius, **style))
                circle.set_clip_on(True)
            words = lesion.states[n] if seen is None else f"{lesion.states[n]}, {seen.probability:.2f}"
            if lesion.states[n] == UNSEEN:
                words = lesion.reasons[n] or words
            middle = box[0] + box[2] / 2, box[1] - 0.03 / height
            figure.text(*middle, words, color="white", fontsize=6, ha="center", va="top")
    if not lesions:
        figure.text(0.5, (top + below) / 2, "No microbleed was found in any scan.", color="white", ha="center")
    hidden = len(done.lesions) - len(lesions)
    more = f" {hidden} more in the table." if hidden else ""
    letters = int(width * 13)
    title = f"{done.patient}: lesions over time, by the program.{more} Right is on the left."
    title = "\n".join(wrap(title, letters))
    figure.text(0.5, 1 - 0.08 / height, title, color="white", fontsize=9, ha="center", va="top")
    figure.text(0.5, 0.06 / height, "\n".join(wrap(statement, letters)), color="#c0c0c0", fontsize=7, ha="center")
    warnings = "\n".join(wrap(" ".join(done.notices), int(letters * 1.2))[:3])
    figure.text(0.5, 0.38 / height, warnings, color="#ff6060", fontsize=6.5, ha="center")
    figure.savefig(path, dpi=110, facecolor="black")


def _day(date: str) -> str:
    """A date without the time of day."""
    return date[:8] if date[:8].isdigit() else re.split(r"T|\s+(?=\d+:)", date)[0][:16]


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"...{text[-most + 3 :]}"


def _limits(scan: FoundScan) -> tuple[float, float]:
    tissue = scan.image[scan.head][::7]
    return tuple(np.percentile(tissue, [1, 99.5])) if tissue.size else (0.0, 1.0)
