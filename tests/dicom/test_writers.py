"""DICOM SEG and SR of findings, read back with pydicom and highdicom."""

import json
import logging
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import highdicom as hd
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.engines import IterationEvents
from nibabel.affines import apply_affine

from cmb_bundle.scripts.dicom.series import choose_series, study_of
from cmb_bundle.scripts.dicom.writers import site_of, write_dicom
from cmb_bundle.scripts.errors import CohortError
from cmb_bundle.scripts.inference.evaluator import CohortEvaluator
from cmb_bundle.scripts.inference.writers import SubjectWriter
from cmb_bundle.scripts.regions.mars import REGIONS

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
    for path in paths:
        check_values(path)
    return hd.seg.segread(paths[0]), hd.sr.srread(paths[1])


def check_values(path):
    """Each value is one that DICOM allows for its type, and the file can be written as a whole DICOM file."""
    former = pydicom.config.settings.reading_validation_mode, pydicom.config.settings.writing_validation_mode
    try:
        pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
        pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE
        dataset = pydicom.dcmread(path)
        assert sum(1 for element in dataset.iterall() if element.value is not None) > 100
        dataset.save_as(path.with_suffix(".copy"), enforce_file_format=True)
    finally:
        pydicom.config.settings.reading_validation_mode, pydicom.config.settings.writing_validation_mode = former


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


def test_the_site_is_that_of_the_region_in_snomed_ct(tmp_path):
    volume = swi(tmp_path)
    places = [("frontal", "left"), ("brainstem", "middle")]
    bleeds = [bleed | {"region": region, "side": side} for bleed, (region, side) in zip(BLEEDS, places, strict=True)]
    paths = write_dicom(tmp_path / "out", "x", volume.source, {"microbleeds": bleeds, "candidates": []}, label_map())
    for path in paths:
        check_values(path)
        check_by_dciodvfy(path)
    segmentation, report = hd.seg.segread(paths[0]), hd.sr.srread(paths[1])
    groups = report.content.get_volumetric_roi_measurement_groups()
    sites = [site for group in groups for site in group.finding_sites]
    assert [(site.value.scheme_designator, site.value.value, site.value.meaning) for site in sites] == [
        ("SCT", "83251001", "Frontal lobe"), ("SCT", "119238007", "Brain Stem"),
    ]  # fmt: skip
    assert sites[0].laterality.value == "7771000" and sites[0].laterality.meaning == "Left"
    assert sites[1].laterality is None
    (summary,) = report.content.get_image_measurement_groups()
    assert [site.value.meaning for site in summary.finding_sites] == ["Brain"]
    assert [s.AnatomicRegionSequence[0].CodeValue for s in segmentation.SegmentSequence] == ["83251001", "119238007"]


def test_every_region_has_a_site_of_its_own_or_brain():
    found = {region: site_of({"region": region, "side": "right"}) for region in (*REGIONS, None)}
    assert {region for region, (site, _) in found.items() if site.meaning == "Brain"} == {"basal ganglia", None}
    assert len({site.value for site, _ in found.values()}) == len(REGIONS)
    assert {side.meaning for site, side in found.values() if site.meaning != "Brain"} == {"Right"}


def check_by_dciodvfy(path):
    """The validator of dicom3tools, where it is installed, finds no error in the file."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        return
    done = subprocess.run([validator, "-new", str(path)], capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert errors == [], "\n".join(errors)


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


@pytest.mark.parametrize("case", ["classic", "enhanced", "beside a phase", "two files"])
def test_geometry_in_each_frame_and_no_slice_thickness(tmp_path, case):
    array, series, study = np.random.default_rng(1).integers(0, 4095, (12, 10, 8)), hd.UID(), Study()
    parts = [(range(0), None)] if case != "two files" else [(range(4), None), (range(4, 8), None)]
    if case == "beside a phase":
        array, parts = np.concatenate([array, array], axis=2), [(range(0), ["PHASE"] * 8 + ["MAGNITUDE"] * 8)]
    for number, (left_out, component) in enumerate(parts):
        write_dicom_series(
            tmp_path / "in", array, AFFINE, study, "SWI", 7, r"ORIGINAL\PRIMARY\M\SWI", enhanced=case != "classic",
            per_frame=True, skip=left_out, prefix=f"{number}", series=series, component=component,
        )  # fmt: skip
    if case == "beside a phase":  # at the same places
        (path,) = (tmp_path / "in").iterdir()
        dataset = pydicom.dcmread(path)
        groups = dataset.PerFrameFunctionalGroupsSequence
        kinds = [group.MRImageFrameTypeSequence[0].ComplexImageComponent for group in groups]
        lower = [g.PlanePositionSequence for g, kind in zip(groups, kinds, strict=True) if kind == "PHASE"]
        for place, group in zip(lower, [g for g, k in zip(groups, kinds, strict=True) if k != "PHASE"], strict=True):
            group.PlanePositionSequence = place
        dataset.save_as(path)
    volume = choose_series(study_of(tmp_path / "in")).volumes["image"]
    before = [pydicom.dcmread(path) for path in sorted((tmp_path / "in").iterdir())]
    segmentation, report = written(tmp_path, volume)
    check_segments(segmentation, volume)
    places = {(pydicom.dcmread(f.file).SOPInstanceUID, f.index + 1): f.position for f in volume.frames}
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        position = places[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1)]
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, position, atol=1e-6)
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(2.0)
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 2
    assert [pydicom.dcmread(path) for path in sorted((tmp_path / "in").iterdir())] == before


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


@pytest.mark.parametrize("number", [0, 2])
def test_the_report_carries_the_warnings(tmp_path, number):
    volume, warning = swi(tmp_path), "The slice thickness is 7 mm; SWI was tested with 1 to 5 mm only."
    result = {"microbleeds": BLEEDS[:number], "candidates": []}
    for said in (warning, ""):
        _, path = write_dicom(tmp_path / "out", "x", volume.source, result, label_map(number), warnings=said)
        check_values(path)
        report = pydicom.dcmread(path)
        texts = [element.value for element in report.iterall() if element.keyword == "TextValue"]
        assert texts.count(f"Warning: {warning}") == (number + 1 if said else 0)
        assert ("with a warning" in report.SeriesDescription) == bool(said)


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


@pytest.mark.parametrize("enhanced", [False, True])
def test_sources_with_dates_that_are_none(tmp_path, enhanced):
    volume = swi(tmp_path, enhanced=enhanced)
    for path in {frame.file for frame in volume.frames}:
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.SpecificCharacterSet = "김^철수", "ISO_IR 192"
        for name, value in (("StudyDate", "***"), ("StudyTime", "XX"), ("PatientBirthDate", "0"), ("PatientSex", "?")):
            dataset[name]._value = value
        dataset.save_as(path)
    for result in written(tmp_path, volume):
        assert [result[name].value for name in ("StudyDate", "StudyTime", "PatientBirthDate", "PatientSex")] == [""] * 4
        assert (result.PatientName, result.PatientID) == ("김^철수", "P^07")
        assert result.StudyInstanceUID == volume.study


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (["", "ISO 2022 IR 149"], "김^철수"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 6", "Mueller"),
        ("ISO 2022 IR 100", "Müller"),
        ("ISO_IR 100", "Müller"),
        ("GB18030", "王^小明"),
    ],
)
def test_character_sets_of_the_sources(tmp_path, character_set, name):
    volume = swi(tmp_path)
    for frame in volume.frames:
        dataset = pydicom.dcmread(frame.file)
        dataset.SpecificCharacterSet, dataset.PatientName, dataset.StudyID = character_set, name, "é" * ("ü" in name)
        dataset.save_as(frame.file)
    for result in written(tmp_path, volume):
        assert (result.PatientName, result.StudyID) == (name, "é" * ("ü" in name))


def finished(volume):
    """What the writer of a run is handed of one subject."""
    labels = MetaTensor(label_map(0), affine=torch.as_tensor(AFFINE))
    result = {"microbleeds": [], "candidates": []}
    batch = {"subject": "x", "notices": "", "swi": labels} | ({"dicom_source": volume.source} if volume else {})
    state = SimpleNamespace(batch=[batch], output=[{"result": result, "pred": labels}])
    return SimpleNamespace(state=state, incomplete={})


def test_output_follows_the_source_unless_it_is_configured(tmp_path, caplog, monkeypatch):
    volume = swi(tmp_path)

    def files(output, mode, source):
        engine = finished(source)
        SubjectWriter(tmp_path / output, picture=False, dicom_output=mode).write(engine)
        assert bool(engine.incomplete) == (output == "f")
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


def test_segments_are_told_apart_where_the_label_map_is_binary(tmp_path):
    volume = swi(tmp_path)
    engine = finished(volume)
    numbered = MetaTensor(label_map(), affine=torch.as_tensor(AFFINE))
    engine.state.output[0] = {
        "result": {"microbleeds": BLEEDS, "candidates": []},
        "pred": (numbered > 0).to(torch.int16),
        "numbered": numbered,
    }
    SubjectWriter(tmp_path / "out", picture=False).write(engine)
    assert np.unique(nib.load(tmp_path / "out" / "x" / "x_cmb.nii.gz").dataobj).tolist() == [0, 1]
    check_segments(hd.seg.segread(tmp_path / "out" / "x" / "x_cmb_seg.dcm"), volume)


def test_a_subject_without_seg_and_sr_is_in_the_failures_with_its_results_kept(tmp_path, capsys):
    volume = swi(tmp_path)
    lost = json.dumps([[str(tmp_path / "gone.dcm"), 0]])
    source = iter([volume.source, lost, volume.source])
    writer = SubjectWriter(tmp_path / "out", picture=False)

    def results(engine, batch):
        labels = MetaTensor(label_map(0), affine=torch.as_tensor(AFFINE))
        one = {"subject": batch["subject"][0], "notices": "", "swi": labels, "dicom_source": next(source)}
        engine.state.batch = [one]
        engine.state.output = [{"result": {"microbleeds": [], "candidates": []}, "pred": labels}]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    evaluator = CohortEvaluator(
        device=torch.device("cpu"), val_data_loader=[{"subject": [f"s{n}"]} for n in range(3)], epoch_length=3,
        network=torch.nn.Identity(), iteration_update=results, val_handlers=[writer],
        failures_file=tmp_path / "out" / "failures.csv", decollate=False,
    )  # fmt: skip
    with pytest.raises(
        CohortError, match="0 of 3 subjects failed; 1 without DICOM SEG and SR; the others are done"
    ) as e:
        evaluator.run()
    assert "s1: no DICOM SEG and SR were written (FileNotFoundError" in str(e.value)
    reasons = pd.read_csv(tmp_path / "out" / "failures.csv").set_index("subject")["reason"]
    assert list(reasons.index) == ["s1"] and "gone.dcm" in reasons["s1"]
    kept = {n: sorted(p.name[6:] for p in (tmp_path / "out" / f"s{n}").iterdir()) for n in range(3)}
    results_of_all = [".csv", ".json", ".nii.gz"]
    both = [*results_of_all, "_seg.dcm", "_sr.dcm"]
    assert kept == {0: both, 1: results_of_all, 2: both}
    entries = [json.loads((tmp_path / "out" / f"s{n}" / f"s{n}_cmb.json").read_text()) for n in range(3)]
    assert [entry.get("dicom_error") for entry in entries] == [None, reasons["s1"], None]
    assert "Warning: s1: no DICOM SEG and SR were written" in capsys.readouterr().out


def test_version_is_that_of_the_bundle(tmp_path):
    import cmb_bundle

    segmentation, report = written(tmp_path, swi(tmp_path))
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == report.SoftwareVersions == cmb_bundle.__version__
    assert report.Manufacturer == segmentation.Manufacturer == "cmb_bundle"
