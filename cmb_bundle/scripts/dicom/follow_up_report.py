"""A follow-up as a DICOM structured report (TID 1500) that refers to the earlier reports of the same patient."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_whole
from .reader import require
from .writers import (
    bundle_version,
    group_values,
    measurements_of,
    read_source,
    report_of,
    site_of,
    with_segments_in_frames,
)

SERIES = 9003
SCHEME = "99CMB_BUNDLE"
"""Of codes that neither DICOM nor SNOMED CT has."""
CHANGE = ("CHANGE", SCHEME, "Change since the first scan")
CERTAIN = ("CERTAIN", SCHEME, "Certain by its joint probability")
NUMBER_OF = "Number since the first scan"


def tracking_uids(segmentation_file: str | os.PathLike) -> list[str]:
    """
    The tracking UIDs of a scan's microbleeds, in the order of its label map.

    Args:
        segmentation_file: ``<id>_cmb_seg.dcm``.
    """
    dataset = require("pydicom").dcmread(segmentation_file, stop_before_pixels=True)
    return [str(segment.TrackingUID) for segment in dataset.SegmentSequence]


def write_follow_up_report(
    path: str | os.PathLike,
    source: str,
    segmentation_file: str | os.PathLike,
    earlier_files: Sequence[str | os.PathLike],
    lesions: Sequence[Mapping],
    numbers: Mapping[str, int],
    time_point: tuple[str, int],
    warnings: str = "",
) -> Path:
    """
    Write the report of a later scan.

    The earlier reports are its Predecessor Documents, whose content it takes up. Each lesion has the tracking UID that
    it has in the segmentation of the scan in which it was found first, so that it is the same in all reports; a lesion
    that was found in this scan refers to its segment here. Each measurement group has the time point (TID 1502).

    Args:
        path: DICOM file to write.
        source: origin of the slices of the scan, see ``Volume.source`` in :mod:`.reader`.
        segmentation_file: ``<id>_cmb_seg.dcm`` of the scan.
        earlier_files: ``<id>_cmb_sr.dcm`` of the scans before it.
        lesions: each with its ``number`` and ``status``, ``certain``, ``probability`` (joint), ``tracking_uid``, and
            where it was found in this scan ``label``, the number of its segment, ``diameter_mm``, ``region``, ``side``.
        numbers: of lesions by status, which the first measurement group has.
        time_point: id of the scan, and its number in time from 1.
        warnings: sentences that the report must carry.

    Returns:
        the path.

    Raises:
        DicomError: pydicom or highdicom is missing.
    """
    hd, pydicom = require("highdicom"), require("pydicom")
    from pydicom.sr.codedict import codes

    images, _ = read_source(source)
    segmentation = hd.seg.segread(segmentation_file)
    earlier = [pydicom.dcmread(file) for file in earlier_files]
    version = bundle_version()
    when = hd.sr.TimePointContext(time_point=time_point[0], time_point_order=time_point[1])
    common = {**group_values(version, warnings), "time_point_context": when}
    found_now = sum(lesion.get("label") is not None for lesion in lesions)
    measured = [hd.sr.Measurement(codes.SCT.NumberOfLesions, found_now, codes.UCUM.NoUnits)]
    measured += [
        hd.sr.Measurement(hd.sr.CodedConcept(*_number_of(status)), number, codes.UCUM.NoUnits)
        for status, number in numbers.items()
    ]
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="Cerebral microbleeds, follow-up"),
            measurements=measured,
            finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
            **common,
        )
    ]
    identified = with_segments_in_frames(segmentation)
    for lesion in lesions:
        label = lesion.get("label")
        tracking = hd.sr.TrackingIdentifier(lesion["tracking_uid"], f"Lesion {lesion['number']}")
        certainty = codes.SCT.Yes if lesion["certain"] else codes.SCT.No
        told = [
            hd.sr.QualitativeEvaluation(hd.sr.CodedConcept(*CHANGE), hd.sr.CodedConcept(*_code(lesion["status"]))),
            hd.sr.QualitativeEvaluation(hd.sr.CodedConcept(*CERTAIN), certainty),
        ]
        values = {"tracking_identifier": tracking, "qualitative_evaluations": told, **common}
        values["finding_sites"] = [hd.sr.FindingSite(*site_of(lesion))]
        if label is None:
            groups.append(hd.sr.MeasurementsAndQualitativeEvaluations(**values))
            continue
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=hd.sr.ReferencedSegment.from_segmentation(identified, label),
                measurements=measurements_of(lesion["diameter_mm"], lesion["probability"]),
                **values,
            )
        )
    report = report_of(groups, [*images, segmentation], version, warnings, SERIES, earlier)
    return write_whole(path, lambda aside: report.save_as(aside))


def _code(status: str) -> tuple[str, str, str]:
    """
    The code of a status.

    >>> _code("below the threshold then")
    ('BELOW_THEN', '99CMB_BUNDLE', 'below the threshold then')
    """
    words = status.upper().replace(" THE THRESHOLD", "").replace(" ", "_")
    return words[:16], SCHEME, status


def _number_of(status: str) -> tuple[str, str, str]:
    value, scheme, meaning = _code(status)
    return f"N_{value}"[:16], scheme, f"{NUMBER_OF}: {meaning}"
