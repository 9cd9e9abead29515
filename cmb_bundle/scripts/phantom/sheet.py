"""A contact sheet: slices of simulated subjects, with their lesions and mimics marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .simulate import Phantom, simulate
from .spec import HR, LR

MARKS = {
    "microbleed": ("o", "#ff4040"),
    "calcification": ("s", "#40c0ff"),
    "vein": ("^", "#ffd040"),
    "flow_void": ("D", "#60e060"),
}


def _marked(phantom: Phantom, k: int) -> list[tuple[str, list[float]]]:
    """Kind and voxel of all that shows in slice k."""
    everything = [("microbleed", x) for x in phantom.truth["microbleeds"]]
    everything += [(x["kind"], x) for x in phantom.truth["mimics"]]
    thickness = phantom.spec.spacing[2]
    return [
        (kind, x["voxel"])
        for kind, x in everything
        if abs(x["voxel"][2] - k) * thickness < 0.5 * thickness + 0.5 * x["diameter_mm"]
    ]


def _busiest(phantom: Phantom, low: float, high: float) -> int:
    """The slice between two heights (share of the stack) that shows most kinds, microbleeds twice, then most marks."""
    count = phantom.spec.shape[2]

    def interest(k: int) -> tuple[int, int]:
        kinds = [kind for kind, _ in _marked(phantom, k)]
        return ("microbleed" in kinds) + len(set(kinds)), len(kinds)

    return max(range(int(low * count), int(high * count)), key=interest)


def contact_sheet(path: str | Path, seed: int = 12) -> str:
    """Draw one HR and one LR subject: rows are slices; columns SWI, phase and magnitude.

    Args:
        path: picture to write.
        seed: seed of the HR subject; the LR subject has the next one.

    Returns:
        The path.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image, ImageColor

    rows = []
    for number, spec in enumerate((HR, LR)):
        phantom = simulate(spec.changed(seed=seed + number, microbleeds=30))
        rows += [(phantom, _busiest(phantom, *band)) for band in ((0.2, 0.36), (0.4, 0.5), (0.6, 0.8))]
    figure, axes = plt.subplots(len(rows), 3, figsize=(11.7, 4.9 * len(rows)), facecolor="black")
    for (phantom, k), line in zip(rows, axes, strict=True):
        spec = phantom.spec
        size = [n * d for n, d in zip(spec.shape[:2], spec.spacing[:2], strict=True)]
        bright = 1.25 * np.median(phantom.magnitude[..., k][phantom.magnitude[..., k] > 300])
        for axis, name in zip(line, ("swi", "phase", "magnitude"), strict=True):
            low, high = (-np.pi / 2, np.pi / 2) if name == "phase" else (0, bright)
            plane = getattr(phantom, name)[..., k].T
            extent = (-size[0] / 2, size[0] / 2, -size[1] / 2, size[1] / 2)
            axis.imshow(plane, origin="lower", cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="lanczos")
            for kind, voxel in _marked(phantom, k):
                place = [(v + 0.5) * d - s / 2 for v, d, s in zip(voxel, spec.spacing, size, strict=False)]
                shape, colour = MARKS[kind]
                axis.plot(*place, shape, markerfacecolor="none", markeredgecolor=colour, markersize=12)
            axis.set(xlim=(-82, 82), ylim=(-104, 100), xticks=[], yticks=[])
            label = f"{spec.name} slice {k}: {'SWI' if name == 'swi' else name}"
            axis.text(-80, 92, label, color="white", fontsize=11)
    handles = [
        plt.Line2D([], [], marker=m, color="none", markeredgecolor=c, markerfacecolor="none", markersize=11, label=k)
        for k, (m, c) in ((kind.replace("_", " "), mark) for kind, mark in MARKS.items())
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, labelcolor="white", fontsize=12)
    figure.subplots_adjust(0, 0.02, 1, 1, 0.01, 0.01)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75, facecolor="black")
    plt.close(figure)
    # A palette of greys and the marks' colours: a third of the bytes.
    colours = [(round(g), round(g), round(g)) for g in np.linspace(0, 255, 60)]
    colours += [ImageColor.getrgb(colour) for _, colour in MARKS.values()]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in colours for value in colour])
    Image.open(path).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    return str(path)
