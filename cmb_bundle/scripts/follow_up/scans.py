"""What a follow-up needs of one scan: the image, read again, and what was found in it, from its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from ..errors import FollowUpError, root_cause
from .matching import Sighting
from .patients import Session
from .protocol import Coverage, Protocol
from .registration import HeadScan

DUPLICATES = ("within ", "outside of the head", "not classified")
"""Beginnings of the reasons for which a candidate is no place of its own."""


@dataclass(frozen=True)
class FoundScan:
    """
    One scan and what was found in it.

    Attributes:
        session: which scan it is.
        image: float32 (i, j, k), the SWI or magnitude in RAS order.
        affine: (4, 4), voxel to RAS mm.
        head: bool (i, j, k).
        protocol: how it was made.
        candidates: as the JSON of its results has them, those that are a place of their own.
        found: of each candidate its number in the label map, 0 for those below the threshold.
        threshold: probability from which a candidate was found.
        labels: its label map, on the file's own grid.
        warnings: on how it was read.
        folder: of its results.
        dicom_source: of a DICOM study, where its slices come from, see ``Volume.source`` in :mod:`..dicom.reader`.
    """

    session: Session
    image: np.ndarray
    affine: np.ndarray
    head: np.ndarray
    protocol: Protocol
    candidates: tuple[dict, ...]
    found: tuple[int, ...]
    threshold: float
    labels: nib.Nifti1Image
    warnings: str = ""
    folder: Path = Path()
    dicom_source: str = ""

    @property
    def segmentation_file(self) -> Path:
        """DICOM SEG of its results."""
        return self.folder / f"{self.session.subject}_cmb_seg.dcm"

    @property
    def report_file(self) -> Path:
        """DICOM SR of its results."""
        return self.folder / f"{self.session.subject}_cmb_sr.dcm"

    @property
    def has_report(self) -> bool:
        """Whether its results have been written as DICOM."""
        return bool(self.dicom_source) and self.segmentation_file.is_file() and self.report_file.is_file()

    @property
    def coverage(self) -> Coverage:
        return Coverage(self.affine, self.head)

    @property
    def head_scan(self) -> HeadScan:
        """For the registration, which leaves out what was found."""
        shown = [(c["ras_mm"], c["diameter_mm"]) for c, n in zip(self.candidates, self.found, strict=True) if n]
        return HeadScan(self.image, self.affine, self.head, shown, self.protocol.contrast)

    def sightings(self, to_first: np.ndarray, least: float) -> list[Sighting]:
        """
        The candidates, brought to the first scan.

        Args:
            to_first: (4, 4), RAS mm of this scan to those of the first.
            least: smallest probability of those below the threshold.
        """
        return [
            Sighting(
                tuple(float(v) for v in apply_affine(to_first, one["ras_mm"])),
                tuple(one["ras_mm"]),
                one["probability"],
                number > 0,
                number,
                one["diameter_mm"],
                str(one.get("region") or ""),
                str(one.get("side") or ""),
            )
            for one, number in zip(self.candidates, self.found, strict=True)
            if number or one["probability"] >= least
        ]


def read_scan(session: Session, output_dir: str | Path, reader: Callable[[Mapping], Mapping]) -> FoundScan:
    """
    Read a scan and its results.

    Args:
        session: which one.
        output_dir: folder of results, with ``<subject>/<subject>_cmb.json``.
        reader: transforms that load a subject in RAS order, with its ``mask``.

    Raises:
        FollowUpError: it cannot be read, or its results are not there.
    """
    name = session.subject
    folder = Path(output_dir) / name
    try:
        content = json.loads((folder / f"{name}_cmb.json").read_text(encoding="utf-8"))
        labels = nib.load(folder / f"{name}_cmb.nii.gz")
        labels = nib.Nifti1Image(np.asanyarray(labels.dataobj), labels.affine)
        data = reader(dict(session.entry))
    except Exception as error:
        cause = root_cause(error)
        raise FollowUpError(f"{name} cannot be read ({type(cause).__name__}: {cause}).") from error
    volume = data["image"] if data.get("image") is not None else data["magnitude"]
    affine, image = np.asarray(volume.affine, float), np.asarray(volume[0], np.float32)
    meta = volume.meta
    computed = folder / f"{name}_cmb_swi.nii.gz"
    if computed.is_file():
        swi = nib.as_closest_canonical(nib.load(computed))
        image, affine = np.asarray(swi.dataobj, np.float32), swi.affine
    candidates, found, microbleeds = [], [], iter(enumerate(content["microbleeds"], 1))
    for one in content["candidates"]:
        if one["accepted"]:
            number, finding = next(microbleeds)
            candidates.append({**one, **finding})
            found.append(number)
        elif one["probability"] is not None and not one["reason"].startswith(DUPLICATES):
            candidates.append(one)
            found.append(0)
    return FoundScan(
        session, image, affine, np.asarray(data["mask"][0]) > 0, _protocol(content, volume, meta),
        tuple(candidates), tuple(found), content["probability_threshold"], labels, content.get("warnings") or "",
        folder, data.get("dicom_source") or "",
    )  # fmt: skip


def _protocol(content: Mapping, volume, meta: Mapping) -> Protocol:
    known = [None if meta.get(key) is None else round(float(meta[key]), 3) for key in ("field_tesla", "echo_ms")]
    edges = tuple(round(float(step), 4) for step in volume.pixdim)
    return Protocol(content.get("contrast") or "", edges, *known)


def relabelled(scan: FoundScan, numbers: Sequence[int]) -> nib.Nifti1Image:
    """
    The label map of a scan with the numbers of a follow-up.

    Args:
        scan: whose label map has 1 to n.
        numbers: new ones of 1 to n.

    Raises:
        FollowUpError: the label map has other labels.
    """
    values = np.asanyarray(scan.labels.dataobj)
    if values.size and int(values.max()) > len(numbers):
        raise FollowUpError(
            f"The label map of {scan.session.subject} has the label {int(values.max())}, but its JSON has "
            f"{len(numbers)} microbleeds. Remove its folder of results, and run again."
        )
    table = np.array([0, *numbers], np.int16)
    image = nib.Nifti1Image(table[values.astype(int)], scan.labels.affine)
    image.header.set_xyzt_units("mm")
    return image
