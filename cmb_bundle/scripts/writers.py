"""Files of a subject's findings, each written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from .files import write_csv, write_json, write_whole
from .labels import LabelConvention

TABLE_HEADER = [
    "lesion", "slice", "x", "y", "voxel_i", "voxel_j", "voxel_k", "ras_r_mm", "ras_a_mm", "ras_s_mm",
    "diameter_mm", "detector_score", "probability",
]  # fmt: skip


def findings_table(microbleeds: list[dict], shape: tuple, convention: LabelConvention) -> pd.DataFrame:
    """
    The table of microbleeds, which can be read again as labels.

    Args:
        microbleeds: as in ``result["microbleeds"]`` of :class:`Findingsd`.
        shape: (i, j, k) of the input.
        convention: how ``slice``, ``x`` and ``y`` count; they are rounded to whole pixels.

    Returns:
        a row a microbleed with the columns ``TABLE_HEADER``, in the order of the label map.
    """
    if not microbleeds:
        return pd.DataFrame(columns=TABLE_HEADER)
    voxel = np.array([m["voxel"] for m in microbleeds])
    inside = np.clip(np.round(voxel), 0, np.array(shape) - 1)
    rows = np.asarray(convention.from_voxel(inside, shape)).round().astype(int)
    scores = [[m[k] for k in TABLE_HEADER[10:]] for m in microbleeds]
    ras = np.array([m["ras_mm"] for m in microbleeds])
    table = pd.DataFrame(np.c_[voxel, ras, scores], columns=TABLE_HEADER[4:])
    table.insert(0, "lesion", np.arange(1, len(table) + 1))
    for column in range(3):
        table.insert(column + 1, TABLE_HEADER[column + 1], rows[:, column])
    return table


def write_findings(
    output_dir: str | os.PathLike,
    subject: str,
    result: Mapping,
    label_map,
    convention: LabelConvention | None = None,
    **more: object,
) -> Path:
    """
    Write ``<subject>_cmb.nii.gz``, ``_cmb.csv`` and ``_cmb.json`` into ``<output_dir>/<subject>/``.

    Args:
        output_dir: folder of all subjects' results.
        subject: identifier.
        result: ``microbleeds`` and ``candidates``, see :class:`Findingsd`.
        label_map: MetaTensor (1, i, j, k) on the input's grid.
        convention: how the table counts slices and pixels; the data set's by default.
        more: further entries of the JSON, such as how the subject was read.

    Returns:
        the subject's folder.
    """
    folder = Path(output_dir) / subject
    array = np.asarray(label_map[0].cpu(), dtype=np.int16)
    image = nib.Nifti1Image(array, np.asarray(label_map.affine, dtype=float))
    image.header.set_xyzt_units("mm")
    write_whole(folder / f"{subject}_cmb.nii.gz", lambda aside: nib.save(image, aside))
    table = findings_table(result["microbleeds"], array.shape, convention or LabelConvention())
    write_csv(folder / f"{subject}_cmb.csv", table)
    write_json(folder / f"{subject}_cmb.json", {"subject": subject, **more, **result})
    return folder
