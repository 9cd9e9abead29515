"""DICOM SEG and SR of findings, read back with pydicom and highdicom."""

import logging
import math
import sys
from types import SimpleNamespace

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine

from cmb_bundle.scripts.dicom.series import choose_series, study_of
from cmb_bundle.scripts.dicom.writers import write_dicom
from cmb_bundle.scripts.inference.writers import SubjectWriter

from ..helpers.dicom_series import Study, write_dicom_series

AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(*np.radians([15, -8, 25])) @ np.diag([-0.8, -0.6, 2.0]), [40.5, 31.25, -12.0]
)
BLEEDS = [
    {
        "voxel": [3, 4, 2],
        "ras_mm": [0, 0, 0],
        "diameter_mm": 3.2,
        "detector_score": 0.7,
        "classifier_probability": 0.8,
        "probability": 0.9134,
    },
    {
        "voxel": [9, 2, 5],
        "ras_mm": [0, 0, 0],
        "diameter_mm": 2.24,
        "detector_score": 0.4,
        "classifier_probability": 0.6,
        "probability": 0.5,
    },
]


def label_map(number=2):
    labels = np.zeros((12, 10, 8), np.int16)
    if number:
        labels[2:5, 4, 2], labels[3, 3:6, 3], labels[9, 2:4, 5:7] = 1, 1, 2
    return torch.as_tensor(labels)[None]


def swi(tmp_path, enhanced=False, **more):
    volume = np.random.default_rng(1).integers(0, 4095, (12, 10, 8))
    image_type = r"ORIGINAL\PRIMARY\M\SWI"
    write_dicom_series(
        tmp_path / "in", volume, AFFINE, Study("P^07"), "SWI_Images", 7, image_type, enhanced=enhanced, **more
    )
    return choose_series(study_of(tmp_path / "in")).volumes["image"]


def written(tmp_path, volume, number=2):
    result = {"microbleeds": BLEEDS[:number], "candidates": []}
    paths = write_dicom(tmp_path / "out", "x", volume.source, result, label_map(number))
    assert [path.name for path in paths] == ["x_cmb_seg.dcm", "x_cmb_sr.dcm"]
    return hd.seg.segread(paths[0]), hd.sr.srread(paths[1])


def segmented(segmentation, volume, number):
    """The voxels of a segment in the source's (i, j, k), by the positions that stand in the segmentation itself."""
    found = set()
    for frame, groups in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        along = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
        row_step, column_step = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for j, i in np.argwhere(frame):
            lps = position + i * column_step * along[0] + j * row_step * along[1]
            voxel = apply_affine(np.linalg.inv(volume.affine), lps * [-1, -1, 1])
            np.testing.assert_allclose(voxel, voxel.round(), atol=1e-3)
            found.add(tuple(voxel.round().astype(int).tolist()))
    return found


def check_segments(segmentation, volume):
    for number in (1, 2):
        expected = set(map(tuple, np.argwhere(label_map()[0].numpy() == number).tolist()))
        assert segmented(segmentation, volume, number) == expected


def test_segmentation_has_a_segment_a_microbleed_on_the_source_grid(tmp_path):
    volume = swi(tmp_path)
    segmentation, _ = written(tmp_path, volume)
    check_segments(segmentation, volume)
    source = pydicom.dcmread(volume.frames[0].file)
    assert segmentation.StudyInstanceUID == source.StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert segmentation.PatientID == "P^07"
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert segmentation.SeriesInstanceUID != source.SeriesInstanceUID
    assert segmentation.SeriesDescription == "CMB by program, research only"
    assert segmentation.ContentDescription == "CMB by program, research only"
    assert segmentation.ContentLabel == "CMB_RESEARCH"
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["Cerebral microbleed 1", "Cerebral microbleed 2"]
    for segment in segmentation.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "723857007"
        assert segment.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    # each frame refers to the slice that it was drawn on
    slices = {str(pydicom.dcmread(f.file).SOPInstanceUID): f.position for f in volume.frames}
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(groups.PlanePositionSequence[0].ImagePositionPatient, slices[uid], atol=1e-6)


@pytest.mark.parametrize("case", ["whole", "part", "files"])
def test_segmentation_of_enhanced_sources(tmp_path, case):
    if case == "part":
        # the other frames are a phase at the same places
        volume = swi(tmp_path, enhanced=True)
        (path,) = (tmp_path / "in").iterdir()
        dataset = pydicom.dcmread(path)
        dataset.NumberOfFrames = 16
        dataset.PixelData = dataset.PixelData + dataset.PixelData
        frames = list(dataset.PerFrameFunctionalGroupsSequence)
        copies = [pydicom.Dataset.from_json(frame.to_json()) for frame in frames]
        for copy in copies:
            copy.MRImageFrameTypeSequence[0].ComplexImageComponent = "PHASE"
        dataset.PerFrameFunctionalGroupsSequence = copies + frames
        dataset.save_as(path)
        volume = choose_series(study_of(tmp_path / "in")).volumes["image"]
        assert {frame.index for frame in volume.frames} == set(range(8, 16))
    elif case == "files":
        array, series = np.random.default_rng(1).integers(0, 4095, (12, 10, 8)), hd.UID()
        study, image_type = Study(), r"ORIGINAL\PRIMARY\M\SWI"
        for half, left_out in enumerate((range(4), range(4, 8))):
            write_dicom_series(
                tmp_path / "in", array, AFFINE, study, "SWI", 7, image_type, enhanced=True, skip=left_out,
                prefix=f"{half}", series=series,
            )  # fmt: skip
        volume = choose_series(study_of(tmp_path / "in")).volumes["image"]
        assert len({frame.file for frame in volume.frames}) == 2
    else:
        volume = swi(tmp_path, enhanced=True)
    segmentation, report = written(tmp_path, volume)
    check_segments(segmentation, volume)
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == volume.series
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 2
    assert segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == pytest.approx(2.0)


def measurements(group):
    return {m.name.meaning: (float(m.value), m.unit.value) for m in group.get_measurements()}


def test_report_has_a_group_a_microbleed(tmp_path):
    volume = swi(tmp_path)
    segmentation, report = written(tmp_path, volume)
    assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.SeriesDescription == "CMB by program, research only"
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [measurements(group) for group in groups] == [
        {
            "Diameter": (3.2, "mm"),
            "Volume": (round(math.pi / 6 * 3.2**3, 2), "mm3"),
            "Certainty of Finding": (91.34, "%"),
        },
        {
            "Diameter": (2.24, "mm"),
            "Volume": (round(math.pi / 6 * 2.24**3, 2), "mm3"),
            "Certainty of Finding": (50.0, "%"),
        },
    ]
    for number, (group, segment) in enumerate(zip(groups, segmentation.SegmentSequence, strict=True), 1):
        assert group.tracking_uid == segment.TrackingUID
        assert group.tracking_identifier == segment.TrackingID == f"Cerebral microbleed {number}"
        assert group.finding_type.value == "723857007"
        assert [site.value.meaning for site in group.finding_sites] == ["Brain"]
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == number
    (summary,) = report.content.get_image_measurement_groups()
    assert measurements(summary) == {"Number of lesions (observable entity)": (2.0, "1")}
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    other = getattr(report, "PertinentOtherEvidenceSequence", None)
    series = [*evidence, *(other[0].ReferencedSeriesSequence if other else [])]
    named = {str(item.ReferencedSOPInstanceUID) for one in series for item in one.ReferencedSOPSequence}
    slices = {str(pydicom.dcmread(frame.file).SOPInstanceUID) for frame in volume.frames}
    assert named == slices | {str(segmentation.SOPInstanceUID)}


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("slices", [1, 2])
def test_a_scan_with_one_microbleed_has_both_files(tmp_path, enhanced, slices):
    volume, labels = swi(tmp_path, enhanced), np.zeros((12, 10, 8), np.int16)
    labels[2:5, 4, 2 : 2 + slices] = 1
    result = {"microbleeds": BLEEDS[:1], "candidates": []}
    paths = write_dicom(tmp_path / "out", "x", volume.source, result, torch.as_tensor(labels)[None])
    segmentation, report = hd.seg.segread(paths[0]), hd.sr.srread(paths[1])
    assert segmentation.pixel_array.sum() == 3 * slices
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["Cerebral microbleed 1"]
    shared, *frames = segmentation.SharedFunctionalGroupsSequence[0], *segmentation.PerFrameFunctionalGroupsSequence
    stands_in = ["SegmentIdentificationSequence" in groups for groups in (shared, *frames)]
    assert stands_in == [True] + [False] * slices, "DICOM wants it in one place or the other"
    [group] = report.content.get_volumetric_roi_measurement_groups()
    assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    assert {m.name.meaning: m.value for m in group.get_measurements()}["Diameter"] == 3.2


def test_a_scan_without_microbleeds_has_an_empty_segment_and_a_report_of_none(tmp_path):
    volume = swi(tmp_path)
    segmentation, report = written(tmp_path, volume, number=0)
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["No cerebral microbleed found"]
    assert segmentation.NumberOfFrames == 8
    assert not segmentation.pixel_array.any()
    assert report.content.get_volumetric_roi_measurement_groups() == []
    (summary,) = report.content.get_image_measurement_groups()
    assert measurements(summary) == {"Number of lesions (observable entity)": (0.0, "1")}


def test_sources_whose_identity_was_removed(tmp_path):
    volume = swi(tmp_path)
    for frame in volume.frames:
        dataset = pydicom.dcmread(frame.file)
        for name in ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyTime", "FrameOfReferenceUID"):
            delattr(dataset, name)
        dataset.save_as(frame.file)
    segmentation, report = written(tmp_path, volume)
    check_segments(segmentation, volume)
    assert report.PatientName == "" and report.PatientID == "P^07"


def finished(volume):
    """What the writer of a run is handed of one subject."""
    labels = MetaTensor(label_map(0), affine=torch.as_tensor(AFFINE))
    result = {"microbleeds": [], "candidates": []}
    batch = {"subject": "x", "notices": "", "swi": labels} | ({"dicom_source": volume.source} if volume else {})
    state = SimpleNamespace(batch=[batch], output=[{"result": result, "pred": labels}])
    return SimpleNamespace(state=state)


def test_output_follows_the_source_unless_it_is_configured(tmp_path, caplog, monkeypatch):
    volume = swi(tmp_path)

    def files(output, mode, source):
        SubjectWriter(tmp_path / output, picture=False, dicom_output=mode).write(finished(source))
        return sorted(p.name.removeprefix("x_cmb") for p in (tmp_path / output / "x").iterdir())

    results = [".csv", ".json", ".nii.gz"]
    assert files("a", "auto", volume) == [*results, "_seg.dcm", "_sr.dcm"]
    assert files("b", "auto", None) == results
    assert files("c", False, volume) == results
    with pytest.raises(ValueError, match="dicom_output is true, but the scan is not DICOM"):
        files("d", True, None)
    with pytest.raises(ValueError, match="dicom_output is 'yes'; expected 'auto', true or false"):
        files("e", "yes", volume)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with caplog.at_level(logging.ERROR):
        assert files("f", "auto", volume) == results
    assert "x: no DICOM SEG and SR were written (DicomError: DICOM needs the package highdicom" in caplog.text
    with pytest.raises(ValueError, match=r"Install the extra \[dicom\]"):
        files("g", True, volume)


def test_version_is_that_of_the_bundle(tmp_path):
    import cmb_bundle

    segmentation, report = written(tmp_path, swi(tmp_path))
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == report.SoftwareVersions == cmb_bundle.__version__
    assert report.Manufacturer == segmentation.Manufacturer == "cmb_bundle"
