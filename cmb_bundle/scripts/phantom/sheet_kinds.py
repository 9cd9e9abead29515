"""A contact sheet of kinds of scan: a row for each scan, a column for each slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .cohort import map_files
from .kinds import chosen, draw_kind
from .simulate import Phantom, simulate
from .spec import SMALL, T2STAR, PhantomSpec

MARKS = {
    "microbleed": "#ff4040",
    "calcification": "#40c0ff",
    "mineral": "#ff80ff",
    "flow_void": "#60e060",
    "lacune": "#ffa040",
    "haemorrhage": "#c060ff",
    "cavernoma": "#ffffff",
    "siderosis": "#6080ff",
}


def _window(name: str, volume: np.ndarray, spec: PhantomSpec) -> tuple[float, float]:
    """Black and white of a picture."""
    if name == "Phase":
        middle = 2047.5 if spec.phase_scale == "unsigned4095" else 0.0
        reach = {"pi": np.pi, "signed4096": 4096.0, "unsigned4095": 2047.5, "odd": 0.00367}[spec.phase_scale]
        return middle - 0.6 * reach, middle + 0.6 * reach
    return 0.0, max(1.15 * float(np.nanpercentile(volume, 98.5)), 1.0)


def kinds_sheet(
    path: str | Path,
    kinds: str | Sequence[str] = "all",
    scans: int = 2,
    seed: int = 0,
    maps: str | Path | None = None,
    slices: int = 5,
) -> str:
    """Draw scans of each kind, with microbleeds and mimics (not veins) marked.

    Args:
        path: picture to write.
        kinds: kinds to draw, as in make_cohort.
        scans: scans of each kind.
        seed: seed of the draw.
        maps: susceptibility map or a folder of them, for the kinds of "map_".
        slices: columns.

    Returns:
        The path.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    files = map_files(maps)
    rows: list[tuple[str, Phantom, str, np.ndarray]] = []
    for kind in chosen(kinds, bool(files)):
        for index in range(scans):
            base = T2STAR if kind.endswith("t2star") else SMALL
            on_map = files[index % len(files)] if kind.startswith("map_") else None
            phantom = simulate(draw_kind(kind, index, seed, base, on_map))
            rows += [(f"{kind} {index}", phantom, name, volume) for name, volume in phantom.images.items()]
    figure, axes = plt.subplots(len(rows), slices, figsize=(3 * slices, 3.4 * len(rows)), squeeze=False)
    figure.patch.set_facecolor("black")
    for (label, phantom, name, volume), line in zip(rows, axes, strict=True):
        low, high = _window(name, volume, phantom.spec)
        step = np.linalg.norm(phantom.affine[:3, :3], axis=0)
        found = [("microbleed", x) for x in phantom.truth["microbleeds"]]
        found += [(x["kind"], x) for x in phantom.truth["mimics"] if x["kind"] in MARKS]
        for axis, k in zip(line, np.linspace(0.15, 0.85, slices) * (volume.shape[2] - 1), strict=True):
            k = round(k)
            plane = volume[..., k].T.astype(float)
            axis.imshow(plane, origin="lower", cmap="gray", vmin=low, vmax=high, aspect=step[1] / step[0])
            for kind, x in found:
                if abs(x["voxel"][2] - k) * step[2] < 0.5 * step[2] + 0.5 * x["diameter_mm"]:
                    axis.plot(*x["voxel"][:2], "o", mfc="none", mec=MARKS[kind], ms=10, mew=0.7)
            axis.set_axis_off()
            axis.set_title(f"{label} {name} slice {k}", color="white", fontsize=7)
    figure.subplots_adjust(0, 0, 1, 0.99, 0.01, 0.06)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75, facecolor="black")
    plt.close(figure)
    return str(path)
