"""One page on what was found in a scan, to look at and to print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from ..dicom.writers import bundle_version
from ..files import write_whole
from ..regions.summary import summarise
from .glass import draw_glass_brain
from .html import environment
from .strips import channels_of, cut_slices, jpeg, on_a_voxel

SIZE_MM, PIXEL_MM = 24.0, 0.4
"""Edge and pixels of the pictures of a finding."""
WITH_PICTURES, IN_TABLE = 12, 32
"""Findings with pictures, and further ones in the table: more than two sheets of paper do not hold."""


def write_patient_page(
    path: str | Path, subject: str, scan: Mapping, result: Mapping, read: Mapping, region_map=None
) -> Path:
    """
    Write the page: one sheet of A4 for few findings, two for many.

    Args:
        path: HTML file to write.
        subject: identifier.
        scan: ``swi`` (1, i, j, k), MetaTensor in RAS order at the input's resolution; ``head``, bool on its grid; and
            ``input_phase`` on its grid in rad, if any.
        result: with ``microbleeds``, ``candidates``, ``probability_threshold``; ``summary`` where there is one.
        read: ``contrast``, ``notices`` and ``warnings``.
        region_map: :class:`~..regions.region_map.RegionMap`, whose outline is drawn within the head's.

    Returns:
        the path.
    """
    swi = scan["swi"]
    affine = np.asarray(swi.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    head = np.asarray(scan["head"][0].cpu()).astype(bool)
    bleeds = result["microbleeds"]
    shown = {"image": swi.cpu(), "mask": head[None], "phase": scan.get("input_phase")}
    channels = channels_of(shown, read.get("contrast"))
    rows = [
        {
            **bleed,
            "number": number,
            "strip": jpeg(cut_slices(channels, affine, on_a_voxel(affine, bleed["ras_mm"]), SIZE_MM, PIXEL_MM, 3))
            if number <= WITH_PICTURES
            else None,
        }
        for number, bleed in enumerate(bleeds, 1)
    ]
    summary = result.get("summary") or summarise(bleeds)
    page = (
        environment()
        .get_template("patient.html")
        .render(
            subject=subject,
            read={name: read.get(name) or "" for name in ("contrast", "notices", "warnings")},
            summary=summary,
            n_candidates=len(result["candidates"]),
            threshold=result["probability_threshold"],
            views=draw_glass_brain(head, affine, bleeds, None if region_map is None else _in_ras_order(region_map)),
            channels=[channel.name for channel in channels],
            rows=rows[:WITH_PICTURES],
            rest=rows[WITH_PICTURES : WITH_PICTURES + IN_TABLE],
            unsaid=max(0, len(rows) - WITH_PICTURES - IN_TABLE),
            size_mm=SIZE_MM,
            with_regions=region_map is not None,
            voxel=" x ".join(f"{mm:.2g}" for mm in spacing),
            version=bundle_version(),
        )
    )
    return write_whole(path, lambda aside: aside.write_text(page, encoding="utf-8"))


def _in_ras_order(region_map) -> tuple[np.ndarray, np.ndarray]:
    """Where there is any region, with the axes turned to right, anterior, superior; and the affine."""
    turn = nib.io_orientation(region_map.affine)
    inside = nib.orientations.apply_orientation(region_map.region > 0, turn)
    return inside, region_map.affine @ nib.orientations.inv_ornt_aff(turn, region_map.region.shape)
