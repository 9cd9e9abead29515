"""Scans that lie where nothing looks for them: said, not lost."""

import pytest

from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.files import walk

from ..dicom.test_reader import SWI_TYPE, write  # noqa: F401  (a fixture)


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(folder):
    """Keys or the reason of each subject."""
    return {one["subject"]: one.get("error") or set(one) - {"subject", "notices"} for one in find_subjects(folder)}


@pytest.mark.parametrize(
    ("good", "deep", "owner"),
    [
        ("P1_swi.nii.gz", "site2/x/P2_swi.nii.gz", "site2"),
        ("P1/swi.nii.gz", "P2/2025-01-01/swi.nii.gz", "P2"),
        ("P1/swi.nii.gz", "P2/2025-01-01/swi.nii.xz", "P2"),
        ("Data/SWI/P1.nii.gz", "Data/SWI/batch2/P2.nii.gz", "batch2"),
        ("Data/SWI/P1.nii.gz", "P7/swi.nii.gz", "P7"),
    ],
)
def test_a_scan_in_a_folder_that_is_not_looked_at_is_a_failed_subject(tmp_path, good, deep, owner):
    touch(tmp_path, good, deep)
    subjects = found(tmp_path)
    assert list(subjects) == sorted(["P1", owner]) and subjects["P1"] == {"image"}
    assert subjects[owner].startswith(f"has scans in folders that are not looked at: {tmp_path / deep}. Expected them")


def test_a_copy_with_implants_is_no_subject_of_the_folder_that_it_lies_in(tmp_path, caplog):
    touch(tmp_path, "P1_swi.nii.gz", "implanted/Data/SWI/P1.nii.gz", "implanted/implant.json")
    assert found(tmp_path) == {"P1": {"image"}}
    assert f"Not read, as it is a copy with microbleeds put in: {tmp_path / 'implanted'}" in caplog.text
    assert list(found(tmp_path / "implanted")) == ["P1"]
    (tmp_path / "implanted" / "implant.json").unlink()
    assert "implanted" in found(tmp_path)


def test_what_lies_below_a_subject_that_is_read_is_mentioned(tmp_path):
    touch(tmp_path, "P1/swi.nii.gz", "P1/old/swi.nii.gz", "P1/old/P1_cmb_swi.nii.gz", "P1/mask/swi.nii.gz")
    (subject,) = find_subjects(tmp_path)
    assert subject["notices"] == (
        "old/swi.nii.gz was not looked at: only what is directly in the folder of a subject is."
    )


def test_folders_that_hold_no_scans_of_ours_are_passed_over(tmp_path):
    bids = ("sub-01/anat/sub-01_T2starw", "sub-01/func/sub-01_part-phase_bold", "sub-02/func/sub-02_part-phase_bold")
    touch(tmp_path, *(f"{name}.nii.gz" for name in bids), "derivatives/a/sub-01/sub-01_swi.nii.gz")
    touch(tmp_path, ".hidden/x/P2_swi.nii.gz", "Label/x/P2_swi.nii.gz", "notes/x/T1.nii.gz")
    assert found(tmp_path) == {"sub-01": {"t2star"}}


def test_folders_that_are_links_are_followed(tmp_path, write):  # noqa: F811
    write("SWI_Images", 7, SWI_TYPE)
    (tmp_path / "study").rename(tmp_path / "elsewhere")
    touch(tmp_path, "scans/P1/swi.nii.gz", "disk/swi.nii.gz")
    for link, of in (("P2", "disk"), ("study", "elsewhere"), ("P9/x", "disk"), ("loop", "scans"), ("P1/loop", "scans")):
        (tmp_path / "scans" / link).parent.mkdir(exist_ok=True)
        (tmp_path / "scans" / link).symlink_to(tmp_path / of)
    subjects = found(tmp_path / "scans")
    assert subjects.pop("P9").startswith("has scans in folders that are not looked at")
    assert subjects == {"P1": {"image"}, "P2": {"image"}, "P01": {"dicom"}}
    assert [path.name for path, _ in walk(tmp_path / "scans")].count("loop") == 0


def test_packed_files_are_logged(tmp_path, caplog):
    touch(tmp_path, "P1_swi.nii.gz", "P2.zip", "more/P3.tar.gz", "more/P4/IM1.dcm.gz")
    assert found(tmp_path) == {"P1": {"image"}}
    assert "unpack them if they hold scans: P2.zip, more/P3.tar.gz, more/P4/IM1.dcm.gz" in caplog.text


def test_loose_dicom_files_among_images_are_mentioned(tmp_path, write, caplog):  # noqa: F811
    """As where dcm2niix wrote into the folder of its input."""
    write("SWI_Images", 7, SWI_TYPE)
    touch(tmp_path, "P1_swi.nii.gz", "P2/swi.nii.gz")
    for path in sorted((tmp_path / "study").iterdir()):
        (tmp_path / f"{path.name}.IMA").write_bytes(path.read_bytes())
        path.rename(tmp_path / "P2" / path.name)
    (tmp_path / "study").rmdir()
    subjects = {subject["subject"]: subject for subject in find_subjects(tmp_path)}
    assert set(subjects) == {"P1", "P2"} and "notices" not in subjects["P1"]
    assert subjects["P2"]["notices"].startswith("4 DICOM files, such as ")
    assert (
        f"4 DICOM files, such as IM0070000.IMA, were not read: beside them are images of other forms in {tmp_path}"
        in caplog.text
    )
    caplog.clear()
    (tmp_path / "P1_swi.nii.gz").rename(tmp_path / "T1.nii.gz")
    for path in (tmp_path / "P2").iterdir():
        path.unlink()
    assert [subject["subject"] for subject in find_subjects(tmp_path) if "error" not in subject] == ["P01"]
    assert "were not read" not in caplog.text


def test_what_lies_beside_dicom_studies_is_not_lost(tmp_path, write):  # noqa: F811
    write("SWI_Images", 7, SWI_TYPE)
    touch(tmp_path, "P2_phase.nii.gz", "P3_swi.nii.xz", "x/y/P4_swi.nii.gz", "T1.nii.gz", "P01_phase.nii.gz")
    (tmp_path / "P01_label.csv").write_text("2,3,3\n")
    subjects = found(tmp_path)
    assert sorted(subjects) == ["P01", "P01_files", "P2", "P3", "x"]
    assert subjects["P01"] == {"dicom"}, "a label beside a phase of its name may be of that"
    assert "has no SWI" in subjects["P01_files"] and "has no SWI" in subjects["P2"] and "form" in subjects["P3"]
    assert "not looked at" in subjects["x"]


def test_a_label_named_after_a_dicom_study_is_its_own(tmp_path, write):  # noqa: F811
    write("SWI_Images", 7, SWI_TYPE)
    (tmp_path / "Label").mkdir()
    (tmp_path / "Label" / "P01.csv").write_text("2,3,3\n")
    (tmp_path / "Label" / "P99.csv").write_text("2,3,3\n")
    subject, other = find_subjects(tmp_path)
    assert subject["label"] == str(tmp_path / "Label" / "P01.csv") and len(subject["dicom"]) == 4
    assert other["subject"] == "P99" and "but label" in other["error"]


def test_folders_that_link_to_each_other_have_an_end(tmp_path):
    names = "abcdefghij"
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.dcm").touch()
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    found = [file for _, files in walk(tmp_path) for file in files]
    assert set(found) == {f"{name}.dcm" for name in names}
    assert len(found) <= 2 * len(names) ** 2
