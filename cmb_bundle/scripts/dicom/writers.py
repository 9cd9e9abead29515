"""Write findings as DICOM with highdicom: a segmentation (SEG) and a structured report (SR, TID 1500)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_whole
from .reader import require

NAME = "cmb_bundle"
DESCRIPTION = "CMB by program, research only"
CONTENT_LABEL = "CMB_RESEARCH"
MICROBLEED = ("723857007", "SCT", "Silent micro-hemorrhage of brain")
"""SNOMED CT's code for a microbleed; DICOM's own code lists have only "Hemorrhage"."""
SITES = {
    "frontal": "FrontalLobe",
    "parietal": "ParietalLobe",
    "temporal": "TemporalLobe",
    "occipital": "OccipitalLobe",
    "insula": "Insula",
    "lobe not known": "CerebralHemisphere",
    "thalamus": "Thalamus",
    "internal capsule": "InternalCapsule",
    "external capsule": "ExternalCapsule",
    "corpus callosum": "CorpusCallosum",
    "deep and periventricular white matter": "CerebralWhiteMatter",
    "brainstem": "BrainStem",
    "cerebellum": "Cerebellum",
}
"""The regions of the Microbleed Anatomical Rating Scale by their names in pydicom's dictionary of SNOMED CT, which has
no code for the basal ganglia as a whole: a finding there, or in no region, has the site "Brain"."""

SEG_SERIES, SR_SERIES = 9001, 9002
IDENTITY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes of the patient and the study that may be empty but must be present; anonymisers remove some."""


def write_dicom(
    folder: str | os.PathLike,
    subject: str,
    source: str,
    result: Mapping,
    label_map,
    version: str | None = None,
    warnings: str = "",
) -> tuple[Path, Path]:
    """
    Write ``<subject>_cmb_seg.dcm`` and ``<subject>_cmb_sr.dcm``.

    Args:
        folder: output folder.
        subject: identifier, used only in the file names; the patient is taken from the source.
        source: origin of the slices of the SWI, see ``Volume.source`` in :mod:`.reader`.
        result: ``microbleeds``, see :class:`~..inference.findings.Findingsd`.
        label_map: (1, i, j, k) on the source's grid, 0 for background, 1..n the microbleeds.
        version: of the bundle; None reads it from its metadata.
        warnings: sentences that the report must carry.

    Returns:
        the two paths.

    Raises:
        DicomError: pydicom or highdicom is missing.
    """
    images, frames = read_source(source)
    labels = np.asarray(label_map[0].cpu() if hasattr(label_map, "cpu") else label_map[0])
    version = version or bundle_version()
    segmentation = make_segmentation(images, frames, labels, result["microbleeds"], version)
    report = make_report(images, segmentation, result["microbleeds"], version, warnings)
    paths = []
    for dataset, ending in ((segmentation, "seg"), (report, "sr")):
        path = Path(folder) / f"{subject}_cmb_{ending}.dcm"
        paths.append(write_whole(path, lambda aside, d=dataset: d.save_as(aside)))
    return paths[0], paths[1]


def bundle_version() -> str:
    """The version in the metadata of the bundle that contains this file."""
    metadata = Path(__file__).resolve().parents[2] / "configs" / "metadata.json"
    return str(json.loads(metadata.read_text(encoding="utf-8"))["version"])


def site_of(microbleed: Mapping) -> tuple[Any, Any]:
    """
    The codes of a finding's site and side.

    Args:
        microbleed: with ``region`` and ``side`` where regions were asked for.

    Returns:
        the site in SNOMED CT, "Brain" where there is no better code; and left or right, else None. A neighbouring
        region is not told: DICOM would have it as a second site of the finding.

    Example:
        >>> site, side = site_of({"region": "frontal", "side": "left", "neighbours": ["insula"]})
        >>> site.value, site.meaning, side.meaning
        ('83251001', 'Frontal lobe', 'Left')
        >>> site_of({"region": "basal ganglia", "side": "left"})[0].meaning, site_of({})[1]
        ('Brain', None)
    """
    require("pydicom")
    from pydicom.sr.codedict import codes

    name = SITES.get(microbleed.get("region"))
    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right}
    return (codes.SCT.Brain, None) if name is None else (getattr(codes.SCT, name), sides.get(microbleed.get("side")))


def read_source(source: str) -> tuple[list[Any], list[tuple[int, int]]]:
    """
    Read the headers of the source slices, to which a result refers.

    Args:
        source: see ``Volume.source``.

    Returns:
        pydicom Datasets without pixels, one per file, in the order of first use by the slices; and for each slice
        the position in this list and the index of the frame.
    """
    pydicom = require("pydicom")
    slices = json.loads(source)
    files = list(dict.fromkeys(file for file, _ in slices))
    images = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    frames = [(files.index(file), int(index)) for file, index in slices]
    frame_of_reference = images[0].get("FrameOfReferenceUID") or pydicom.uid.generate_uid()
    for image in images:
        for name in IDENTITY:
            if name not in image:
                setattr(image, name, "")
        _empty_what_is_invalid(image)
        _say_in_utf8(image)
        image.FrameOfReferenceUID = image.get("FrameOfReferenceUID") or frame_of_reference
    _complete_geometry(images, frames)
    return images, frames


def _empty_what_is_invalid(image: Any) -> None:
    """Empty dates, times and a sex that DICOM does not know, such as the ``***`` of an anonymiser."""
    from pydicom.valuerep import validate_value

    for element in [image[name] for name in IDENTITY]:
        if element.VR in ("DA", "TM"):
            try:
                validate_value(element.VR, str(element.value or ""), require("pydicom").config.RAISE)
            except ValueError:
                element.value = ""
    if image.PatientSex not in ("M", "F", "O"):
        image.PatientSex = ""


def _say_in_utf8(image: Any) -> None:
    """
    Read the patient and the study by the image's own character set and say, in memory, that they are in UTF-8.

    What is written takes up the character set of the image, and highdicom refuses some that DICOM has: an empty first
    one, as Korean and Japanese scanners write it, and the default one by its name.
    """
    for element in [image[name] for name in IDENTITY]:
        if element.VR == "PN":  # keeps the bytes of the file besides
            element.value = str(element.value)
    image.SpecificCharacterSet = "ISO_IR 192"


def _complete_geometry(images: list[Any], frames: list[tuple[int, int]]) -> None:
    """
    Put, in memory, the geometry of the sources where highdicom looks for it.

    It asks for pixel size and orientation of an enhanced file in the shared functional groups, while most scanners
    write them in those of each frame, and for SliceThickness, which some leave out. The frames of a volume have one
    pixel size and one orientation.
    """
    hd = require("highdicom")
    positions = [_position(images[i], n) for i, n in frames]
    gap = float(np.linalg.norm(positions[1] - positions[0])) if len(positions) > 1 else 1.0
    for number, image in enumerate(images):
        if "PerFrameFunctionalGroupsSequence" not in image:
            image.SliceThickness = image.get("SliceThickness") or f"{gap:.6g}"
            continue
        if not image.get("SharedFunctionalGroupsSequence"):
            image.SharedFunctionalGroupsSequence = [require("pydicom").Dataset()]
        shared = image.SharedFunctionalGroupsSequence[0]
        index = next(n for i, n in frames if i == number)
        measures = _group(image, index, "PixelMeasuresSequence")[0]
        thickness = float(measures.get("SliceThickness") or gap)
        orientation = _group(image, index, "PlaneOrientationSequence")[0].ImageOrientationPatient
        # made anew: numbers of scanners can have more digits than DICOM allows
        spacing = [float(mm) for mm in measures.PixelSpacing]
        shared.PixelMeasuresSequence = hd.PixelMeasuresSequence(spacing, thickness, gap)
        patient = hd.CoordinateSystemNames.PATIENT
        shared.PlaneOrientationSequence = hd.PlaneOrientationSequence(patient, [float(v) for v in orientation])


def _group(image: Any, index: int, name: str) -> Any:
    """A sequence of a frame's functional groups, or of those that all frames share."""
    own = image.PerFrameFunctionalGroupsSequence[index]
    shared = image.get("SharedFunctionalGroupsSequence") or [{}]
    return own.get(name) or shared[0].get(name)


def _position(image: Any, index: int) -> np.ndarray:
    """Position of a frame in LPS mm."""
    enhanced = "PerFrameFunctionalGroupsSequence" in image
    place = _group(image, index, "PlanePositionSequence")[0] if enhanced else image
    return np.array(place.ImagePositionPatient, dtype=float)


def make_segmentation(
    images: list[Any], frames: list[tuple[int, int]], labels: np.ndarray, microbleeds: list[Mapping], version: str
) -> Any:
    """
    Make a binary segmentation with one segment per microbleed, in the order of the label map.

    DICOM requires at least one segment and one frame. A scan without microbleeds gets one segment with empty frames,
    labelled "No cerebral microbleed found".

    Args:
        images, frames: from :func:`read_source`.
        labels: (i, j, k) on the source's grid.
        microbleeds: see :class:`~..inference.findings.Findingsd`.
        version: of the bundle.

    Returns:
        a ``highdicom.seg.Segmentation``.
    """
    hd = require("highdicom")
    from pydicom.sr.codedict import codes

    names = [f"Cerebral microbleed {n}" for n in range(1, len(microbleeds) + 1)] or ["No cerebral microbleed found"]
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=hd.sr.CodedConcept(*MICROBLEED),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name=NAME, version=version, family=codes.DCM.ArtificialIntelligence
            ),
            tracking_uid=hd.UID(),
            tracking_id=name,
            anatomic_regions=[site_of(microbleed)[0]],
        )
        for number, (name, microbleed) in enumerate(zip(names, microbleeds or [{}], strict=True), 1)
    ]
    planes = np.ascontiguousarray(np.asarray(labels).transpose(2, 1, 0)).astype(np.uint16)
    segmentation = hd.seg.Segmentation(
        **_placed(images, frames, planes),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        omit_empty_frames=bool(microbleeds),
        series_number=SEG_SERIES,
        content_label=CONTENT_LABEL,
        content_description=DESCRIPTION,
        series_description=DESCRIPTION,
        **_made_by(hd, version),
    )
    _name_source_frames(segmentation, images, frames)
    return segmentation


def _name_source_frames(segmentation: Any, images: list[Any], frames: list[tuple[int, int]]) -> None:
    """
    Let each frame refer to the source frame that it was drawn on.

    Where an enhanced file has several frames at one place (echoes, a phase), highdicom names all of them, and of
    several files, those of the first alone.
    """
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        return
    hd = require("highdicom")
    from pydicom.sr.codedict import codes

    positions = np.array([_position(images[i], n) for i, n in frames])
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        image, index = frames[int(np.linalg.norm(positions - place, axis=1).argmin())]
        source = require("pydicom").Dataset()
        source.ReferencedSOPClassUID = images[image].SOPClassUID
        source.ReferencedSOPInstanceUID = images[image].SOPInstanceUID
        source.ReferencedFrameNumber = index + 1
        source.PurposeOfReferenceCodeSequence = [
            hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
        ]
        source.SpatialLocationsPreserved = "YES"
        derivation = require("pydicom").Dataset()
        derivation.DerivationCodeSequence = [hd.sr.CodedConcept.from_code(codes.DCM.SegmentationImageDerivation)]
        derivation.SourceImageSequence = [source]
        group.DerivationImageSequence = [derivation]


def _placed(images: list[Any], frames: list[tuple[int, int]], planes: np.ndarray) -> dict[str, Any]:
    """Source images, planes in their order, and plane positions where highdicom cannot take those of the sources."""
    hd = require("highdicom")
    single = all(int(image.get("NumberOfFrames") or 1) == 1 for image in images)
    if single and not any("PerFrameFunctionalGroupsSequence" in image for image in images):
        return {"source_images": images, "pixel_array": planes}
    order = np.argsort([index for _, index in frames])
    if len(images) == 1 and int(images[0].NumberOfFrames) == len(frames):
        return {"source_images": images, "pixel_array": planes[order]}
    first, shared = images[0], images[0].SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    positions = [_position(images[i], n) for i, n in frames]
    gap = float(np.linalg.norm(positions[1] - positions[0]))
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    patient = hd.CoordinateSystemNames.PATIENT
    return {
        "source_images": [first],
        "further_source_images": images[1:] or None,
        "pixel_array": planes,
        "plane_positions": [hd.PlanePositionSequence(patient, position) for position in positions],
        "plane_orientation": hd.PlaneOrientationSequence(patient, orientation),
        "pixel_measures": hd.PixelMeasuresSequence(measures.PixelSpacing, gap, gap),
    }


def make_report(
    images: list[Any], segmentation: Any, microbleeds: list[Mapping], version: str, warnings: str = ""
) -> Any:
    """
    Make a report according to TID 1500: the number of microbleeds, and for each diameter, volume, certainty and site.

    The first measurement group (TID 1501) holds the number, which is 0 for a scan without microbleeds; one group
    (TID 1411) per microbleed refers to its segment. The probability is DICOM's "Certainty of Finding", in percent.

    Args:
        images: the source images.
        segmentation: from :func:`make_segmentation`.
        microbleeds: see :class:`~..inference.findings.Findingsd`.
        version: of the bundle.
        warnings: sentences on what of the scan is outside of what was tested; they are a parameter of the algorithm
            in each measurement group, and in SeriesDescription there is the word.

    Returns:
        a ``highdicom.sr.Comprehensive3DSR``.
    """
    hd = require("highdicom")
    from pydicom.sr.codedict import codes

    common = group_values(version, warnings)
    number = hd.sr.Measurement(codes.SCT.NumberOfLesions, len(microbleeds), codes.UCUM.NoUnits)
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="Cerebral microbleeds"),
            measurements=[number],
            finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
            **common,
        )
    ]
    identified = with_segments_in_frames(segmentation)
    for segment, bleed in zip(segmentation.SegmentSequence, microbleeds, strict=False):
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
                referenced_segment=hd.sr.ReferencedSegment.from_segmentation(identified, segment.SegmentNumber),
                measurements=measurements_of(bleed["diameter_mm"], bleed["probability"]),
                finding_sites=[hd.sr.FindingSite(*site_of(bleed))],
                **common,
            )
        )
    return report_of(groups, [*images, segmentation], version, warnings, SR_SERIES)


def group_values(version: str, warnings: str = "") -> dict[str, Any]:
    """What all measurement groups of a report share: that they are of microbleeds, and the algorithm."""
    hd = require("highdicom")
    from pydicom.sr.codedict import codes

    said = ["not for diagnosis", *([f"Warning: {warnings}"] if warnings else [])]
    return {
        "finding_type": hd.sr.CodedConcept(*MICROBLEED),
        "finding_category": codes.SCT.MorphologicallyAbnormalStructure,
        "algorithm_id": hd.sr.AlgorithmIdentification(name=NAME, version=version, parameters=said),
    }


def measurements_of(diameter_mm: float, probability: float) -> list[Any]:
    """Diameter, volume and certainty of a microbleed."""
    hd = require("highdicom")
    from pydicom.sr.codedict import codes

    values = [
        (codes.SCT.Diameter, float(diameter_mm), codes.UCUM.Millimeter),
        (codes.SCT.Volume, round(math.pi / 6 * float(diameter_mm) ** 3, 2), codes.UCUM.CubicMillimeter),
        (codes.DCM.CertaintyOfFinding, round(100 * float(probability), 2), codes.UCUM.Percent),
    ]
    return [hd.sr.Measurement(*value) for value in values]


def report_of(
    groups: list[Any], evidence: list[Any], version: str, warnings: str, series: int, earlier: Sequence[Any] = ()
) -> Any:
    """
    A report of measurement groups.

    Args:
        groups: of TID 1501 and 1411.
        evidence: images and segmentation that it refers to.
        version: of the bundle.
        warnings: whether there are any is in SeriesDescription.
        series: SeriesNumber.
        earlier: reports whose content it takes up.
    """
    hd = require("highdicom")
    from pydicom.sr.codedict import codes

    device = hd.sr.ObserverContext(
        codes.DCM.Device,
        hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name=NAME, model_name=DESCRIPTION),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.LN.BrainMRI,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    made_by = _made_by(hd, version)
    report = hd.sr.Comprehensive3DSR(
        evidence=evidence,
        content=content,
        series_number=series,
        series_description=f"{DESCRIPTION}{', with a warning' if warnings else ''}",
        previous_versions=list(earlier) or None,
        **{key: made_by[key] for key in ("series_instance_uid", "sop_instance_uid", "instance_number", "manufacturer")},
    )
    report.ManufacturerModelName, report.SoftwareVersions = NAME, version
    return report


def with_segments_in_frames(segmentation: Any) -> Any:
    """
    A view of a segmentation whose every frame names its segment.

    Where all frames are of one segment, highdicom writes its number once, into the shared functional groups, as DICOM
    has it; highdicom's references look for it in each frame alone.
    """
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" not in shared:
        return segmentation
    pydicom = require("pydicom")
    frames = [
        pydicom.Dataset({element.tag: element for element in frame})
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    for frame in frames:
        frame.SegmentIdentificationSequence = shared.SegmentIdentificationSequence
    view = pydicom.Dataset({element.tag: element for element in segmentation})
    # To assign to an element that is there would change the segmentation's own.
    del view.PerFrameFunctionalGroupsSequence
    view.PerFrameFunctionalGroupsSequence = frames
    return view


def _made_by(hd: Any, version: str) -> dict[str, Any]:
    return {
        "series_instance_uid": hd.UID(),
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": NAME,
        "manufacturer_model_name": NAME,
        "software_versions": version,
        "device_serial_number": "research",
    }
