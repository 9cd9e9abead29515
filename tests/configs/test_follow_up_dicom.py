"""A follow-up of DICOM studies: patients by their headers, order by date, and a report that refers to the earlier."""

import json
import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pandas as pd
import pydicom
import pytest
from monai.bundle import ConfigWorkflow
from pydicom.sr.codedict import codes

from cmb_bundle.scripts.errors import root_cause
from cmb_bundle.scripts.follow_up.results import clear
from cmb_bundle.scripts.phantom import TINY
from cmb_bundle.scripts.phantom.sessions import Session, rigid, simulate_sessions

from ..dicom.test_writers import check_by_dciodvfy
from ..helpers import CONFIGS
from ..helpers.dicom_series import Study, write_dicom_series

SWI_TYPE = r"ORIGINAL\PRIMARY\M\SWI\NORM\ND"
FIRST, LATER = "20220301", "20240105"


def write_study(folder, phantom, patient, date, sex="F", born="19500101"):
    """One study with the SWI alone; the name of its folder says nothing of the time."""
    study = Study(patient, date)
    write_dicom_series(folder / "7", phantom.swi, phantom.affine, study, "SWI_Images", 7, SWI_TYPE, field=3.0)
    for path in (folder / "7").iterdir():
        data = pydicom.dcmread(path)
        data.PatientSex, data.PatientBirthDate = sex, born
        data.save_as(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One patient with two studies; another, of whom the second study has the other sex."""
    here = tmp_path_factory.mktemp("follow_up_dicom")
    spec = TINY.changed(seed=52, microbleeds=3)
    moved = rigid((2, -1, 3), (2, -3, 1))
    first, later = simulate_sessions([Session(spec, np.eye(4)), Session(spec, moved, 2)])
    scans = here / "scans"
    write_study(scans / "a", later, "ID 1", LATER)  # the later one comes first by name
    write_study(scans / "b", first, "ID 1", FIRST)
    write_study(scans / "c", first, "ID 2", FIRST)
    write_study(scans / "d", later, "ID 2", LATER, sex="M")
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / "inference.json"), str(CONFIGS / "follow_up.json")],
        workflow_type="infer",
        dataset_dir=str(scans),
        output_dir=str(here / "out"),
        device="cpu",
        picture=False,
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    workflow.finalize()
    return here / "out", root_cause(raised.value), (first, later)


def content_of(output):
    return json.loads(next(output.glob("follow_up/ID 1/*_cmb_follow_up.json")).read_text())


def test_studies_of_a_patient_are_ordered_by_date(done):
    output, _, (_, later) = done
    content = content_of(output)
    assert content["patient"] == "ID 1"
    assert [scan["date"][:8] for scan in content["scans"]] == [FIRST, LATER]
    assert {path.name for path in (output / "follow_up").iterdir()} == {"ID 1", "follow_up.csv"}
    new = [one for one in content["lesions"] if one["status"] == "new"]
    stable = [one for one in content["lesions"] if one["status"] == "stable"]
    assert new and stable
    truth = {bleed["new"]: [] for bleed in later.truth["microbleeds"]}
    for bleed in later.truth["microbleeds"]:
        truth[bleed["new"]].append(bleed["ras_mm"])
    for lesions, is_new in ((new, True), (stable, False)):
        for lesion in lesions:
            place = lesion["scans"][1]["ras_mm"]
            distances = [sum((a - b) ** 2 for a, b in zip(place, one, strict=True)) ** 0.5 for one in truth[is_new]]
            assert min(distances) < 3


def test_two_people_under_one_id_are_refused_by_their_headers(done):
    output, error, _ = done
    lines = pd.read_csv(output / "failures.csv").set_index("subject")["reason"].to_dict()
    assert set(lines) == {"ID 2"}
    assert "its header has another sex of the patient than that of" in lines["ID 2"]
    assert "two people under one id?" in lines["ID 2"]
    assert lines["ID 2"] in str(error)


def test_the_report_refers_to_the_earlier_one_and_lesions_keep_their_uids(done):
    output, _, _ = done
    content = content_of(output)
    first, later = (scan["subject"] for scan in content["scans"])
    (path,) = output.glob("follow_up/ID 1/*_sr.dcm")
    assert path.name == f"{later}_cmb_follow_up_sr.dcm"
    check_by_dciodvfy(path)
    report = hd.sr.srread(path)
    before = pydicom.dcmread(output / first / f"{first}_cmb_sr.dcm")
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == before.StudyInstanceUID != report.StudyInstanceUID
    (series,) = study.ReferencedSeriesSequence
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [before.SOPInstanceUID]
    assert report.StudyDate == LATER and report.PatientID == "ID 1"

    (summary, *lost) = report.content.get_image_measurement_groups()
    numbers = {m.name.meaning: m.value for m in summary.get_measurements()}
    statuses = [one["status"] for one in content["lesions"]]
    assert numbers[codes.SCT.NumberOfLesions.meaning] == content["scans"][1]["microbleeds"]
    for status in ("new", "stable", "gone"):
        assert numbers[f"Number since the first scan: {status}"] == statuses.count(status)
    groups = {g.tracking_identifier: g for g in [*lost, *report.content.get_volumetric_roi_measurement_groups()]}
    assert len(groups) == len(content["lesions"])
    segments = {name: pydicom.dcmread(output / name / f"{name}_cmb_seg.dcm").SegmentSequence for name in (first, later)}
    for lesion in content["lesions"]:
        group = groups[f"Lesion {lesion['lesion']}"]
        told = {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}
        assert told["Change since the first scan"] == lesion["status"]
        label = lesion["scans"][1]["label"]
        if label is not None:
            assert group.referenced_segment.referenced_segment_numbers == [label]
        found = next((n for n in (0, 1) if lesion["scans"][n]["label"]), None)
        if found is not None:
            uid = segments[(first, later)[found]][lesion["scans"][found]["label"] - 1].TrackingUID
            assert group.tracking_uid == uid


def test_a_patient_is_followed_again_without_what_was_there(done, tmp_path):
    output, _, _ = done
    shutil.copytree(output / "follow_up", tmp_path / "follow_up")
    assert list(Path(tmp_path).glob("follow_up/ID 1/*_sr.dcm"))
    clear(tmp_path, "ID 1")
    assert not (tmp_path / "follow_up" / "ID 1").exists()
