"""What a scan is like, in a few numbers, to find the odd ones of a cohort."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..data.results import results_of

DIFFERENCE = (1, -2, 1)
"""Second difference of neighbours, which smooth tissue hardly has; noise of 1 gives it a deviation of the root of 6."""


def scan_quality(batch: Mapping) -> dict[str, object]:
    """
    Describe a scan after preprocessing.

    Args:
        batch: ``swi``, MetaTensor (1, i, j, k) in RAS order at the input's resolution, whose meta data may have
            ``echo_ms`` and ``field_tesla``; and, where there, ``head``, bool on the same grid.

    Returns:
        ``size`` (voxels along R, A, S), ``voxel_mm``, ``echo_ms``, ``field_tesla`` (None where not known), ``head_ml``,
        ``intensity`` (median of the SWI in the head, as stored) and ``noise`` (robust standard deviation of the second
        differences in the head along R, over the root of 6, as a share of the median intensity); and ``checksum`` of
        the values, by which :func:`copies` tells a scan that is there twice.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> noisy = 100 + 5 * np.random.default_rng(0).standard_normal((1, 40, 40, 8))
        >>> found = scan_quality({"swi": MetaTensor(torch.as_tensor(noisy)), "head": torch.ones(1, 40, 40, 8)})
        >>> found["size"], found["head_ml"], round(found["intensity"]), round(found["noise"], 2)
        ([40, 40, 8], 12.8, 100, 0.05)
    """
    swi = batch["swi"]
    spacing = [float(step) for step in swi.pixdim]
    values = np.asarray(swi[0].cpu(), dtype=np.float32)
    head = np.asarray(batch["head"][0].cpu()).astype(bool) if "head" in batch else values > 0
    some = slice(None, None, max(1, values.shape[2] // 16))  # a few slices tell as much
    inside, part = head[:, :, some], values[:, :, some]
    within = part[inside]
    intensity = float(np.median(within)) if within.size else 0.0
    second = sum(factor * part[n : part.shape[0] - 2 + n] for n, factor in enumerate(DIFFERENCE))
    second = second[inside[:-2] & inside[1:-1] & inside[2:]]
    noise = 1.4826 * float(np.median(np.abs(second))) / np.sqrt(6) / intensity if second.size and intensity else None
    return {
        "size": list(values.shape),
        "voxel_mm": [round(step, 4) for step in spacing],
        "echo_ms": _number(swi.meta.get("echo_ms")),
        "field_tesla": _number(swi.meta.get("field_tesla")),
        "head_ml": round(float(head.sum()) * float(np.prod(spacing)) / 1000, 1),
        "intensity": round(intensity, 4),
        "noise": None if noise is None or not np.isfinite(noise) else round(float(noise), 5),
        # of every second voxel along each axis, since the whole takes a fortieth of the time of a scan
        "checksum": hashlib.blake2b(np.ascontiguousarray(values[::2, ::2, ::2]), digest_size=8).hexdigest(),
    }


def copies(output_dir: str | Path, subjects: Iterable[str], layout: str = "default") -> list[list[str]]:
    """
    Find the scans of a run that hold the same values.

    Args:
        output_dir: folder of results.
        subjects: whose results are there.
        layout: of the results.

    Returns:
        groups of two subjects or more; a subject whose results say nothing of it is in none.
    """
    groups: dict[str, list[str]] = {}
    for subject in sorted(subjects):
        manifest = results_of(output_dir, subject, layout).manifest
        scan = json.loads(manifest.read_text(encoding="utf-8")).get("scan", {}) if manifest.is_file() else {}
        if "checksum" in scan:
            groups.setdefault(scan["checksum"], []).append(subject)
    return [group for group in groups.values() if len(group) > 1]


def _number(value: object) -> float | None:
    return None if value is None else round(float(value), 4)
