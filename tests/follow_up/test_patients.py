"""Which scans are of one patient, in which order."""

import json

import numpy as np
import pytest
from pydicom import dcmread

from cmb_bundle.scripts.data import find_subjects
from cmb_bundle.scripts.follow_up import patients_of, session_of
from cmb_bundle.scripts.follow_up.patients import Session
from cmb_bundle.scripts.follow_up.run import _two_people

from ..helpers.dicom_series import Study, write_dicom_series


def order(entries):
    return {patient: [one.label for one in sessions] for patient, sessions in patients_of(entries).items()}


def test_names_tell_the_session():
    names = ["sub-01_ses-10", "sub-01_ses-2", "P1_ses-b", "P1_ses-a", "alone", "sub-02_ses-1_run-2"]
    assert order([{"subject": name} for name in names]) == {
        "P1": ["ses-a", "ses-b"],
        "alone": ["alone"],
        "sub-01": ["ses-2", "ses-10"],
        "sub-02": ["ses-1"],
    }


def test_the_table_of_sessions_tells_their_order(tmp_path):
    folder = tmp_path / "sub-01"
    entries = []
    for label in ("a", "b"):
        image = folder / f"ses-{label}" / "swi" / f"sub-01_ses-{label}_swi.nii.gz"
        image.parent.mkdir(parents=True)
        entries.append({"subject": f"sub-01_ses-{label}", "image": str(image)})
    table = folder / "sub-01_sessions.tsv"
    table.write_text("session_id\tacq_time\nses-a\t2024-05-01T00:00:00\nses-b\t2023-05-01T00:00:00\n")
    assert order(entries) == {"sub-01": ["ses-b", "ses-a"]}
    table.write_text("session_id\tacq_time\nses-a\t2024-05-01T00:00:00\nses-b\tn/a\n")
    assert order(entries) == {"sub-01": ["ses-a", "ses-b"]}  # by name, as not all have a time
    table.write_text("session_id\tacq_time\nses-a\t03.11.2019\nses-b\t21.02.2018\n", encoding="utf-8-sig")
    assert order(entries) == {"sub-01": ["ses-b", "ses-a"]}


def test_a_datalist_names_patient_session_and_date(tmp_path):
    scans = []
    for number, date in enumerate(("2024-03-01", "2022-01-01")):
        (tmp_path / f"{number}_swi.nii.gz").touch()
        one = {"subject": f"scan{number}", "image": f"{number}_swi.nii.gz", "patient": "A", "session": f"t{number}"}
        scans.append({**one, "date": date})
    scans.append({"subject": "gone", "image": "none.nii.gz", "patient": "A", "date": "2020-01-01"})
    (tmp_path / "list.json").write_text(json.dumps(scans))
    found = patients_of(find_subjects(tmp_path / "list.json"))
    assert [one.label for one in found["A"]] == ["gone", "t1", "t0"]


def test_dicom_headers_tell_patient_and_date(tmp_path):
    for number, date in enumerate(("20240301", "20220101")):
        study = Study("ID 7", date)
        volume = np.arange(4 * 4 * 3, dtype=np.int16).reshape(4, 4, 3)
        folder = tmp_path / f"study{number}"
        write_dicom_series(folder, volume, np.eye(4), study, "SWI", 1, r"ORIGINAL\PRIMARY\M\SWI")
        for path in folder.iterdir():
            data = dcmread(path)
            data.PatientSex, data.PatientBirthDate = "F", "19500101"
            data.save_as(path)
    sessions = list(patients_of(find_subjects(tmp_path))["ID 7"])
    assert [one.date[:8] for one in sessions] == ["20220101", "20240301"]
    assert (sessions[0].sex, sessions[0].born) == ("F", "19500101")


def test_what_failed_is_still_a_scan_of_its_patient():
    assert session_of({"subject": "sub-1_ses-2", "error": "no SWI"}).patient == "sub-1"
    assert patients_of([{"subject": "file a b.dcm", "error": "broken"}]) == {}


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        (("F", "19500101"), ("F", "19500101"), ""),
        (("F", "19500101"), ("F", "19600101"), "another birth date"),
        (("F", "19500101"), ("M", "19500101"), "another sex"),
        (("F", "19500101"), ("O", "19500101"), ""),  # O is what anonymisers write
        (("F", "19500101"), ("", ""), ""),
    ],
)
def test_headers_that_name_two_people(first, later, said):
    one, other = (Session(name, "P", name, "", {}, born, sex) for name, (sex, born) in (("a", first), ("b", later)))
    found = _two_people(one, other)
    assert (f"has {said} of the patient than that of a" in found) if said else found == ""
