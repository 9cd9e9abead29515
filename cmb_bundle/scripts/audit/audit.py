"""Audit the labels of a data set: find the convention to use, and write a table and a picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..data.labels import LabelConvention, read_points
from ..data.layouts import find_subjects
from ..errors import SubjectError, root_cause
from ..files import IMAGE_SUFFIXES, write_csv, write_json, write_whole
from ..transforms.head_mask import HeadMaskd
from ..transforms.image_files import MODALITIES
from ..transforms.load import LoadSubjectd
from .picture import CROP_MM, draw_audit
from .verdict import CONVENTIONS, MINIMUM_LESIONS, Darkness, Verdict, darkness, judge

logger = logging.getLogger(__name__)

DARK = 2.5
BEYOND_ANY_IMAGE = (1_000_000, 1_000_000, 1_000_000)


@dataclass
class Scan:
    """The labelled microbleeds of one scan under each convention.

    Args:
        subject: id.
        rows: (N, 3) slice, x, y; the mean for microbleeds that are listed on several slices.
        voxel: (32, N, 3) voxel under each of ``CONVENTIONS``.
        outside: (32, N) whether this voxel lies outside the image.
        darkness: under each convention; measured at the nearest voxel for locations outside the image.
        crops: (32, N, height, width) float16, SWI around the locations, (j, i), as multiples of its median in the head.
    """

    subject: str
    rows: np.ndarray
    voxel: np.ndarray
    outside: np.ndarray
    darkness: list[Darkness]
    crops: np.ndarray


def audit_labels(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    join_mm: float = 3.0,
    echo: int = -1,
    minimum_lesions: int = MINIMUM_LESIONS,
    dicom_series: Mapping | None = None,
) -> dict[str, Any]:
    """Find the label convention of a data set, and the labels that do not sit on anything dark under it.

    Writes ``label_audit.json``, ``label_audit.csv`` (one row per microbleed) and ``label_audit.png``, and prints
    the result. See :func:`~.verdict.judge` for the statistics.

    Args:
        dataset_dir: as for :func:`~..data.layouts.find_subjects`; only subjects with an Excel or CSV label are used.
        output_dir: folder of the files.
        join_mm: in-plane distance in mm below which points of consecutive slices are one microbleed.
        echo: index of the echo, if SWI is missing and magnitude and phase have several echoes.
        minimum_lesions: with fewer microbleeds no convention is decided on.
        dicom_series: which DICOM series to use, see :func:`~..dicom.series.choose_series`.

    Returns:
        the content of ``label_audit.json``.

    Raises:
        SubjectError: no subject has a table of points that can be audited.
    """
    scans, left_out = [], {}
    for subject in tqdm(find_subjects(dataset_dir, echo), desc="Label audit", unit="subject"):
        name = subject["subject"]
        try:
            if "error" in subject:
                raise SubjectError(subject["error"])
            if "label" not in subject:
                raise SubjectError("it has no label.")
            if str(subject["label"]).endswith(IMAGE_SUFFIXES):
                raise SubjectError("its label is a map, to which no convention applies.")
            scans.append(look(subject, join_mm, echo, dicom_series))
        except Exception as error:
            cause = root_cause(error)
            left_out[name] = f"{type(cause).__name__}: {cause}"
            logger.warning(f"{name} is left out of the audit: {cause}")
    if not scans:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in left_out.items())
        raise SubjectError(f"{dataset_dir}: no subject has a table of points that can be audited:{reasons}")
    lost = [scan.outside.all(axis=0) for scan in scans]
    contrast = [
        np.where(scan.outside, np.nan, [d.contrast for d in scan.darkness]).T[~gone]
        for scan, gone in zip(scans, lost, strict=True)
    ]
    of_scan = np.repeat(np.arange(len(scans)), [len(part) for part in contrast])
    verdict = judge(np.concatenate(contrast), of_scan, minimum_lesions)
    table = _lesions(scans, verdict.best)
    content = _content(dataset_dir, scans, verdict, table, left_out)
    shown = CONVENTIONS.index(verdict.best or LabelConvention())
    crops = [crop for scan in scans for crop in scan.crops[shown]]
    folder = Path(output_dir)
    write_json(folder / "label_audit.json", content)
    write_csv(folder / "label_audit.csv", table)
    write_whole(folder / "label_audit.png", lambda aside: draw_audit(aside, content, table, crops))
    _print(content, table, folder)
    return content


def look(subject: Mapping[str, Any], join_mm: float = 3.0, echo: int = -1, dicom_series: Mapping | None = None) -> Scan:
    """Measure the points of one subject under each convention.

    Args:
        subject: a dict of :func:`~..data.layouts.find_subjects` with a label.
        join_mm: see :func:`~..data.labels.read_points`.
        echo, dicom_series: see :class:`~..transforms.load.LoadSubjectd`.

    Raises:
        SubjectError: its image cannot be used.
        LabelError: its label cannot be read.
    """
    # an SWI file is enough, so a bad phase file does no harm; a DICOM study is searched for all series
    has_swi_file = subject.get("image") and not subject.get("dicom")
    keys = ("image",) if has_swi_file else ("dicom", *MODALITIES)
    given = {key: subject[key] for key in keys if subject.get(key)}
    data = LoadSubjectd(echo=echo, dicom_series=dicom_series)({"subject": subject["subject"], **given})
    key = "image" if "image" in data else "magnitude"
    image, head = data[key], HeadMaskd(keys=key)(data)["mask"]
    # a convention that changes nothing keeps x, y and slice as written, so that rows of one lesion can be joined
    spacing = image.pixdim.numpy()
    affine = np.diag([*[spacing[:2].mean()] * 2, spacing[2], 1.0])
    as_written = LabelConvention(index_base=0)
    points = read_points(subject["label"], BEYOND_ANY_IMAGE, affine, as_written, join_mm, subject["subject"])
    rows = points.voxel[:, [2, 0, 1]]
    return measure(subject["subject"], rows, image[0].numpy(), head[0].numpy().astype(bool), spacing)


def measure(subject: str, rows: np.ndarray, swi: np.ndarray, head: np.ndarray, spacing_mm: np.ndarray) -> Scan:
    """Measure points under each convention.

    Args:
        subject: id.
        rows: (N, 3) slice, x, y.
        swi: (i, j, k), on the grid that the rows refer to.
        head: (i, j, k) bool.
        spacing_mm: (3,) voxel size.
    """
    voxel = np.stack([convention.to_voxel(rows, swi.shape) for convention in CONVENTIONS])
    outside = ~((voxel >= -0.5) & (voxel <= np.array(swi.shape) - 0.5)).all(axis=2)
    places = voxel.clip(0, np.array(swi.shape) - 1)
    measured = [darkness(swi, head, one, spacing_mm) for one in places]
    half = np.round(CROP_MM / 2 / spacing_mm[:2]).astype(int)
    scaled = np.pad(swi / max(float(np.median(swi[head])), 1e-12), [(n, n) for n in half] + [(0, 0)])
    crops = np.zeros((*voxel.shape[:2], 2 * half[1] + 1, 2 * half[0] + 1), dtype=np.float16)
    for index in np.ndindex(*voxel.shape[:2]):
        i, j, k = np.round(places[index]).astype(int)
        crops[index] = scaled[i : i + 2 * half[0] + 1, j : j + 2 * half[1] + 1, k].T.clip(0, 4)
    return Scan(subject, rows, voxel, outside, measured, crops)


def _lesions(scans: list[Scan], best: LabelConvention | None) -> pd.DataFrame:
    """One row per microbleed: its location under the best (or else the default) convention, and what is there."""
    number = CONVENTIONS.index(best or LabelConvention())
    lines = []
    for scan in scans:
        dark = scan.darkness[number]
        for n, (row, voxel) in enumerate(zip(scan.rows, scan.voxel[number], strict=True)):
            verdict = "dark" if dark.darkest_contrast[n] >= DARK else "not dark"
            verdict = verdict if dark.in_head[n] else "outside the head"
            outside = scan.outside[number, n]
            numbers = (dark.contrast[n], dark.darkest_contrast[n], *dark.darkest_offset[n])
            lines.append(
                {"subject": scan.subject, "lesion": n + 1, **dict(zip(("slice", "x", "y"), row, strict=True)),
                 **dict(zip(("voxel_i", "voxel_j", "voxel_k"), voxel, strict=True)),
                 **dict(zip(("contrast", "darkest_contrast", "offset_i", "offset_j", "offset_k"),
                            [np.nan if outside else round(float(v), 3) for v in numbers], strict=True)),
                 "sits_on": "outside the image" if outside else verdict}
            )  # fmt: skip
    columns = ["subject", "lesion", "slice", "x", "y", "voxel_i", "voxel_j", "voxel_k", "contrast", "darkest_contrast",
               "offset_i", "offset_j", "offset_k", "sits_on"]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def options(convention: LabelConvention) -> str:
    """The command line options that set a convention."""
    return " ".join(f"--label_convention#{key} {value}" for key, value in asdict(convention).items())


def _content(
    dataset_dir: str | Path, scans: list[Scan], verdict: Verdict, table: pd.DataFrame, left_out: dict
) -> dict[str, Any]:
    outside = np.concatenate([scan.outside for scan in scans], axis=1)
    order = sorted(
        range(len(CONVENTIONS)), key=lambda n: (np.isnan(verdict.score[n]), -np.nan_to_num(verdict.score[n]))
    )
    numbers = {"contrast": verdict.score, "margin": verdict.margin, "margin_low": verdict.margin_low}
    conventions = [
        {**asdict(CONVENTIONS[n]),
         **{key: None if np.isnan(value[n]) else round(float(value[n]), 4) for key, value in numbers.items()},
         "points_outside": int(outside[n].sum())}
        for n in order
    ]  # fmt: skip
    margins = [c["margin"] for c in conventions[1:] if c["margin"] is not None]
    suspects = table[table["sits_on"] != "dark"]
    shift = table[["offset_i", "offset_j", "offset_k"]][table["sits_on"] == "dark"].median()
    return {
        "dataset_dir": str(dataset_dir),
        "scans": len(scans),
        "microbleeds": len(table),
        "verdict": "decided" if verdict.is_decided else "undecided",
        "reason": verdict.reason,
        "best": None if verdict.best is None else asdict(verdict.best),
        "decided": verdict.decided,
        "contrast": None if verdict.best is None else conventions[0]["contrast"],
        "margin": min(margins) if margins else None,
        "options": None if verdict.best is None else options(verdict.best),
        "median_offset_to_darkest_voxel": None if shift.isna().any() else [round(float(v), 2) for v in shift],
        "labels_not_on_anything_dark": [
            {key: line[key] for key in ("subject", "lesion", "slice", "x", "y", "sits_on")}
            for line in suspects.to_dict("records")
        ],
        "conventions": conventions,
        "left_out": left_out,
    }


def _print(content: Mapping[str, Any], table: pd.DataFrame, folder: Path) -> None:
    print(f"\nLabel audit of {content['microbleeds']} microbleeds in {content['scans']} scans: {content['verdict']}.")
    print(content["reason"])
    shown = pd.DataFrame(content["conventions"][:5])
    print(shown.to_string(index=False, na_rep="-"))
    if content["best"] is not None:
        settled = "Use" if content["verdict"] == "decided" else "The best so far, not settled, would be"
        print(f"{settled}: {content['options']}")
    suspects = len(content["labels_not_on_anything_dark"])
    print(f"{suspects} of {len(table)} labels do not sit on anything dark. See {folder.resolve() / 'label_audit.png'}")
