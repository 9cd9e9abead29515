"""A glass brain: outlines of the head in three planes, and where in it the findings are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from ..geometry import to_voxel

PLANES = {
    "from below": ((0, -1), (1, 1), 2, ("R", "L", "A", "P")),
    "from the front": ((0, -1), (2, 1), 1, ("R", "L", "S", "I")),
    "from the left": ((1, -1), (2, 1), 0, ("A", "P", "S", "I")),
}
"""For each view the axis (of right, anterior, superior) that runs across the picture and which way, the one that runs
up, the one looked along, and the letters at the left, right, top and bottom edge."""
COARSE_MM, ROUGH_MM = 2.0, 0.6
"""The mask is looked at every so many mm, and its outline may leave out corners that are so small."""
LEAST_DOT_MM, MARGIN_MM = 6.0, 14.0
MOST_NUMBERED = 30
"""The numbers of more findings would hide each other."""


def outlines(mask: np.ndarray, spacing: np.ndarray, axis: int) -> list[np.ndarray]:
    """
    The outlines of a mask's projection.

    Args:
        mask: bool (i, j, k).
        spacing: (3,) mm.
        axis: along which to project.

    Returns:
        closed lines, each (N, 2), in mm from the centre of the first voxel along the two other axes.

    Example:
        >>> mask = np.zeros((20, 20, 20), bool)
        >>> mask[5:15, 5:15, 8:12] = True
        >>> lines = outlines(mask, np.ones(3), axis=2)
        >>> len(lines), float(lines[0].min()), float(lines[0].max())
        (1, 4.5, 14.5)
    """
    flat = np.pad(mask.any(axis=axis), 1)
    step = np.delete(spacing, axis)
    lines = [(line - 1) * step for line in find_contours(flat.astype(float), 0.5)]
    return [approximate_polygon(line, ROUGH_MM) for line in lines if len(line) > 8]


def draw_glass_brain(
    head: np.ndarray,
    affine: np.ndarray,
    findings: Sequence[Mapping],
    brain: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[dict]:
    """
    Draw three views as SVG.

    Args:
        head: bool (i, j, k), axes in RAS order.
        affine: (4, 4), voxel to RAS mm.
        findings: with ``ras_mm``, ``diameter_mm``, ``probability``; numbered from 1.
        brain: another mask and its affine, drawn within the head.

    Returns:
        ``name`` and ``svg`` of each view. A finding is a dot of its size, 6 mm at least, and paler where it is less
        probable.
    """
    step = np.maximum(1, np.floor(COARSE_MM / np.linalg.norm(affine[:3, :3], axis=0))).astype(int)
    coarse = np.asarray(head)[tuple(slice(None, None, s) for s in step)]
    own = np.asarray(affine, dtype=float) @ np.diag([*step, 1.0])
    masks = [("#f2f4f6", "#7a858f", coarse, own)]
    if brain is not None:
        masks.append(("#e3e9ee", "#a0abb5", *brain))
    spacing = np.linalg.norm(own[:3, :3], axis=0)
    size = np.array(coarse.shape) * spacing

    def place(ras_mm: np.ndarray) -> np.ndarray:
        return to_voxel(own, ras_mm) * spacing

    views = []
    for name, ((across, across_sign), (up, _), along, letters) in PLANES.items():
        width, height = size[across], size[up]

        def at(mm, across=across, up=up, sign=across_sign, width=width, height=height):
            x = width - mm[across] if sign < 0 else mm[across]
            return x, height - mm[up]

        parts = []
        for fill, stroke, mask, mask_affine in masks:
            mask_spacing = np.linalg.norm(mask_affine[:3, :3], axis=0)
            # both grids run along the same axes but for a small turn, which the picture leaves out
            shift = place(mask_affine[:3, 3])
            kept = [axis for axis in range(3) if axis != along]
            for line in outlines(np.asarray(mask, dtype=bool), mask_spacing, along):
                points = []
                for one in line:
                    mm = np.zeros(3)
                    mm[kept] = one + shift[kept]
                    mm = np.clip(mm, 0, size)  # a template is larger than a slab
                    points.append("{:.1f} {:.1f}".format(*at(mm)))
                parts.append(f'<path d="M{"L".join(points)}Z" fill="{fill}" stroke="{stroke}" stroke-width="0.8"/>')
        for number, finding in enumerate(findings, 1):
            x, y = at(place(np.array(finding["ras_mm"])))
            radius = max(float(finding.get("diameter_mm") or 0), LEAST_DOT_MM) / 2
            opacity = 0.35 + 0.65 * float(finding.get("probability") or 0)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#c0392b" opacity="{opacity:.2f}"/>')
            if len(findings) > MOST_NUMBERED:
                continue
            parts.append(f'<text x="{x + radius + 0.5:.1f}" y="{y + 5:.1f}">{number}</text>')
        edges = ((-7, height / 2 + 5), (width + 7, height / 2 + 5), (width / 2, -2), (width / 2, height + 12))
        parts += [
            f'<text class="edge" x="{x:.1f}" y="{y:.1f}">{letter}</text>'
            for (x, y), letter in zip(edges, letters, strict=True)
        ]
        whole = width + 2 * MARGIN_MM
        box = f'viewBox="{-MARGIN_MM:g} {-MARGIN_MM:g} {whole:.1f} {height + 2 * MARGIN_MM:.1f}"'
        svg = f'<svg {box} role="img" aria-label="findings {name}">{"".join(parts)}</svg>'
        views.append({"name": name, "svg": svg, "width": round(float(whole), 1)})
    return views
