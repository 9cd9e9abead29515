"""Names that dcm2niix gives, echoes as files, images loose in a folder, and one file as the data set."""

import json
import shutil
from pathlib import Path

import pytest

from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.data.splits import Split, make_datalist
from cmb_bundle.scripts.errors import SubjectError

from .test_names import found, touch

SHARED = Path(__file__).parents[3] / "shared/data"
GRE, SWI = "In_me_GRE_20180502123244", "In_t2_swi_tra_20180502123244"
SIEMENS = {
    "5": (["ORIGINAL", "PRIMARY", "M", "ND"], "Mag_Images"),
    "6_ph": (["ORIGINAL", "PRIMARY", "P", "ND"], "Pha_Images"),
    "7": (["ORIGINAL", "PRIMARY", "M", "ND", "MNIP"], "mIP_Images(SW)"),
    "8": (["ORIGINAL", "PRIMARY", "M", "ND", "SWI"], "SWI_Images"),
}


def sidecars(root, names):
    """JSON files as dcm2niix writes them: their content by the name of the image."""
    for name, content in names.items():
        (root / f"{name}.json").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.json").write_text(json.dumps(content))


def siemens(root, folder="", first=5):
    """The four series of a Siemens SWI, all of one protocol name, with their JSON files."""
    for end, (kind, description) in SIEMENS.items():
        number, _, tag = end.partition("_")
        name = f"{folder}{SWI}_{int(number) + first - 5}{'_' * bool(tag)}{tag}"
        touch(root, f"{name}.nii.gz")
        about = {"ImageType": kind, "SeriesDescription": description, "SeriesNumber": int(number) + first - 5}
        sidecars(root, {name: about})


@pytest.mark.parametrize("folder", ["", "P1/"])
def test_series_number_last(tmp_path, folder):
    touch(tmp_path, *(f"{folder}{GRE}_{end}.nii.gz" for end in ("2_e1", "2_e2", "3_e2_ph")))
    assert found(tmp_path) == {
        "P1" if folder else GRE: {
            "magnitude": f"{folder}{GRE}_2_e2.nii.gz",
            "phase": f"{folder}{GRE}_3_e2_ph.nii.gz",
            "notices": f"Of 2 echoes, {GRE}_2_e2.nii.gz was taken; not read: {GRE}_2_e1.nii.gz.",
        }
    }


@pytest.mark.parametrize(("echo", "taken"), [(-1, 2), (0, 1), (1, 2)])
@pytest.mark.parametrize("first", ["2_e1", "2"])
def test_the_option_echo_chooses(tmp_path, echo, taken, first):
    """Older versions give the first echo no _e1."""
    touch(tmp_path, f"{GRE}_{first}.nii.gz", f"{GRE}_2_e2.nii.gz", f"{GRE}_3{first[1:]}_ph.nii.gz")
    touch(tmp_path, f"{GRE}_3_e2_ph.nii.gz")
    (subject,) = find_subjects(tmp_path, echo)
    expected = ("2_e2", "3_e2_ph") if taken == 2 else (first, f"3{first[1:]}_ph")
    assert (Path(subject["magnitude"]).name, Path(subject["phase"]).name) == tuple(
        f"{GRE}_{end}.nii.gz" for end in expected
    )


@pytest.mark.parametrize("end", ["_e{}", "_echo-{}"])
def test_echoes_by_words_are_one_subject(tmp_path, end):
    for n in (1, 2, 3):
        touch(tmp_path, f"01_mag{end.format(n)}.nii.gz", f"01_phase{end.format(n)}.nii.gz", "e4_swi.nii.gz")
    files = found(tmp_path)
    assert list(files) == ["01", "e4"]
    assert files["01"]["magnitude"] == f"01_mag{end.format(3)}.nii.gz"
    assert files["01"]["phase"] == f"01_phase{end.format(3)}.nii.gz"


def test_echoes_that_only_their_json_files_number(tmp_path):
    touch(tmp_path, "P1/a_mag.nii.gz", "P1/b_mag.nii.gz", "P1/a_phase.nii.gz", "P1/b_phase.nii.gz")
    for kind in ("mag", "phase"):
        sidecars(tmp_path, {f"P1/a_{kind}": {"EchoTime": 0.03}, f"P1/b_{kind}": {"EchoTime": 0.01}})
    assert found(tmp_path)["P1"]["magnitude"] == "P1/a_mag.nii.gz", "the longer"
    assert found(tmp_path)["P1"]["phase"] == "P1/a_phase.nii.gz"
    (tmp_path / "P1/a_mag.json").unlink()
    with pytest.raises(SubjectError, match="two files or more of one kind"):
        find_subjects(tmp_path)


def test_subjects_that_are_numbered_e_are_not_echoes(tmp_path):
    touch(tmp_path, "site_e1_swi.nii.gz", "site_e2_swi.nii.gz")
    assert list(found(tmp_path)) == ["site_e1", "site_e2"]


@pytest.mark.parametrize("folder", ["", "P1/"])
def test_the_four_series_of_one_protocol_are_told_apart(tmp_path, folder):
    siemens(tmp_path, folder)
    touch(tmp_path, f"{folder}x_t1_mprage_20180502123244_2.nii.gz")
    files = found(tmp_path)["P1" if folder else SWI]
    assert files.pop("notices").startswith(f"{SWI}_7.nii.gz was skipped: its name or JSON file says")
    ends = {"image": "8", "phase": "6_ph", "magnitude": "5"}
    assert files == {role: f"{folder}{SWI}_{end}.nii.gz" for role, end in ends.items()}


def test_a_repetition_is_a_subject_of_its_own(tmp_path):
    siemens(tmp_path)
    siemens(tmp_path, first=15)
    files = found(tmp_path)
    assert {name: one["image"] for name, one in files.items()} == {
        f"{SWI}_5": f"{SWI}_8.nii.gz",
        f"{SWI}_15": f"{SWI}_18.nii.gz",
    }
    assert files[f"{SWI}_15"]["phase"] == f"{SWI}_16_ph.nii.gz"


def test_one_series_in_two_files_is_refused(tmp_path):
    siemens(tmp_path)
    touch(tmp_path, f"{SWI}_8.nii")
    with pytest.raises(SubjectError, match=f"{SWI}: has two files or more of one kind"):
        find_subjects(tmp_path)


@pytest.mark.parametrize("ends", [("5", "6_ph", "7", "8"), ("5", "7", "8")])
def test_without_json_files_no_projection_is_taken_for_the_swi(tmp_path, ends):
    touch(tmp_path, *(f"{SWI}_{end}.nii.gz" for end in ends))
    with pytest.raises(SubjectError, match=f"{SWI}: has two files or more of one kind"):
        find_subjects(tmp_path)


def test_a_field_map_beside_an_swi_is_not_read(tmp_path):
    siemens(tmp_path, "P1/")
    touch(tmp_path, "P1/In_gre_field_mapping_20180502123244_2_e2.nii.gz")
    touch(tmp_path, "P1/In_gre_field_mapping_20180502123244_3_e2_ph.nii.gz")
    files = found(tmp_path)["P1"]
    assert files["phase"] == f"P1/{SWI}_6_ph.nii.gz"
    assert "field_mapping_20180502123244_3_e2_ph.nii.gz were not read: there is a better scan" in files["notices"]


def test_numbers_of_patients_are_not_those_of_series(tmp_path):
    touch(tmp_path, "01_gre_e2.nii.gz", "01_gre_e2_ph.nii.gz", "02_gre_e2.nii.gz", "02_gre_e2_ph.nii.gz")
    touch(tmp_path, "P_3_swi.nii.gz", "P_4_swi_ph.nii.gz", "P_4_swi.nii.gz")
    assert [(name, files.get("phase")) for name, files in found(tmp_path).items()] == [
        ("01_gre_e2", "01_gre_e2_ph.nii.gz"),
        ("02_gre_e2", "02_gre_e2_ph.nii.gz"),
        ("P_3", None),
        ("P_4", "P_4_swi_ph.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("folder", "magnitude", "phase"),
    [
        ("scanners/siemens_d13_field_map", "{}_2_e2", "{}_3_e2_ph"),
        ("real/head_siemens", "8_gre_field_mapping_e2", "9_gre_field_mapping_e2_ph"),
        (
            "real/head_philips",
            "2001_WIP_fcMRI_Field_Mapping_enh_e2",
            "2001_WIP_fcMRI_Field_Mapping_enh_e2_ph",
        ),
        ("real/gre_crop", "mag", "phase"),
    ],
)
@pytest.mark.parametrize("level", ["beside others", "alone", "without JSON"])
def test_real_names(tmp_path, folder, magnitude, phase, level):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"the real scans are not at {SHARED / folder}")
    ignored = shutil.ignore_patterns("*.json") if level == "without JSON" else None
    shutil.copytree(SHARED / folder, tmp_path / "a/P1", ignore=ignored)
    (subject,) = find_subjects(tmp_path / ("a/P1" if level != "beside others" else "a"))
    name = "In_me_FieldMap_GRE_20180502123244"
    assert Path(subject["magnitude"]).name == f"{magnitude.format(name)}.nii.gz"
    assert Path(subject["phase"]).name == f"{phase.format(name)}.nii.gz"
    assert subject["subject"] == "P1" or level != "beside others"


def test_dicom_studies_beside_scans_by_name_are_not_lost(tmp_path):
    source = SHARED / "scanners/philips_enhanced_dual_echo"
    if not source.is_dir():
        pytest.skip(f"the real scans are not at {source}")
    shutil.copytree(source, tmp_path / "study")
    touch(tmp_path, "P1/swi.nii.gz", "derivatives/x.txt")
    named, study = sorted(find_subjects(tmp_path), key=lambda one: "dicom" in one)
    assert named["subject"] == "P1" and [Path(path).parent.name for path in study["dicom"]] == ["study"]


# Loose images, initials


def test_images_loose_in_a_folder_are_one_subject(tmp_path):
    touch(tmp_path / "r", "mag.nii.gz", "phase.nii.gz", "mIP.nii.gz", "SWI.nii.gz")
    assert found(tmp_path / "r") == {
        "r": {
            "image": "SWI.nii.gz",
            "phase": "phase.nii.gz",
            "magnitude": "mag.nii.gz",
            "notices": "mIP.nii.gz was skipped: its name says that it is a projection.",
        }
    }


def test_images_loose_in_a_folder_by_the_names_of_their_series(tmp_path):
    touch(tmp_path, "Mag_Images.nii.gz", "Pha_Images.nii.gz", "mIP_Images(SW).nii.gz", "SWI_Images.nii.gz")
    (files,) = found(tmp_path).values()
    assert files["image"] == "SWI_Images.nii.gz" and files["phase"] == "Pha_Images.nii.gz"


@pytest.mark.parametrize(
    ("name", "subject", "role"),
    [
        ("Ph_2_swi", "Ph_2", "image"),
        ("MAG_3_T2star", "MAG_3", "t2star"),
        ("Ph_4_gre", "Ph_4", "t2star"),
        ("MAG-5_mag", "MAG-5", "magnitude"),
        ("mag_gre_6", "gre_6", "magnitude"),
    ],
)
def test_initials_are_no_kind(tmp_path, name, subject, role):
    assert found(touch(tmp_path, f"{name}.nii.gz")) == {subject: {role: f"{name}.nii.gz"}}


def test_a_name_with_initials_alone_says_nothing(tmp_path):
    touch(tmp_path, "MAG_001.nii.gz", "Ph_002.nii.gz", "mag_3.nii.gz", "phase_3.nii.gz")
    files = found(tmp_path)
    assert "but other" in files["MAG_001"]["error"] and "but other" in files["Ph_002"]["error"]
    assert files["3"] == {"magnitude": "mag_3.nii.gz", "phase": "phase_3.nii.gz"}


# One file


@pytest.mark.parametrize(
    ("others", "given", "subject"),
    [
        (["b_swi"], "b_swi", {"subject": "b", "image": "b_swi"}),
        (["b_swi", "b_swi_ph", "c_swi"], "b_swi", {"subject": "b", "image": "b_swi", "phase": "b_swi_ph"}),
        (["b_swi", "b_swi_ph", "b_mag"], "b_swi_ph", {"subject": "b", "image": "b_swi", "phase": "b_swi_ph"}),
        (["b_mag", "b_phase"], "b_mag", {"subject": "b", "magnitude": "b_mag", "phase": "b_phase"}),
        (["b_T2S", "b_swi"], "b_T2S", {"subject": "b", "t2star": "b_T2S"}),
        (["x", "x_ph"], "x", {"subject": "x", "magnitude": "x", "phase": "x_ph"}),
        (
            [f"{GRE}_2_e1", f"{GRE}_2_e2", f"{GRE}_3_e1_ph", f"{GRE}_3_e2_ph"],
            f"{GRE}_2_e1",
            {"subject": GRE, "magnitude": f"{GRE}_2_e1", "phase": f"{GRE}_3_e1_ph"},
        ),
    ],
)
def test_one_file_is_read_with_its_phase(tmp_path, others, given, subject):
    touch(tmp_path, *(f"{name}.nii.gz" for name in others))
    (one,) = find_subjects(tmp_path / f"{given}.nii.gz")
    assert {key: value if key == "subject" else Path(value).name[:-7] for key, value in one.items()} == subject


def test_one_file_whose_name_says_nothing(tmp_path):
    touch(tmp_path, "scan.nii.gz", "scan_phase.nii.gz", "other.nii.gz", "other_phase.nii.gz")
    (one,) = find_subjects(tmp_path / "scan.nii.gz")
    assert one == {
        "subject": "scan",
        "image": str(tmp_path / "scan.nii.gz"),
        "phase": str(tmp_path / "scan_phase.nii.gz"),
        "notices": "scan.nii.gz was taken for an SWI: its name does not say what it is.",
    }


def test_one_file_that_is_no_scan(tmp_path):
    touch(tmp_path, "b_mip.nii.gz", "b_swi.nii.gz", "b.txt")
    for name, message in (("b_mip.nii.gz", "was computed from a scan"), ("b.txt", "is no image"), ("c.nii", "no such")):
        with pytest.raises(SubjectError, match=message):
            find_subjects(tmp_path / name)


def test_one_file_in_a_split(tmp_path):
    touch(tmp_path, "b_swi.nii.gz", "b_phase.nii.gz", "c_swi.nii.gz")
    (one,) = Split(tmp_path / "b_swi.nii.gz").part("all")
    assert one["subject"] == "b"
    content = make_datalist(tmp_path / "b_swi.nii.gz")
    assert content["dataset_dir"] == str(tmp_path)
    assert content["unlabelled"] == [{"subject": "b", "image": "b_swi.nii.gz", "phase": "b_phase.nii.gz"}]


DESCRIBED = {"Mag_Images": "5", "Pha_Images": "6_ph", "mIP_Images(SW)": "7", "SWI_Images": "8"}


@pytest.mark.parametrize("patients", [["P1"], ["P1", "P2"]])
@pytest.mark.parametrize("with_sidecars", [True, False])
def test_series_named_by_their_descriptions_are_one_scan(tmp_path, patients, with_sidecars):
    """Read apart, the magnitude would be a T2*-weighted scan beside the SWI: each microbleed twice."""
    for patient in patients:
        for description, end in DESCRIBED.items():
            time = "" if with_sidecars else "_20180502123244"
            name = f"{patient}_{description}{time}_{end}"
            touch(tmp_path, f"{name}.nii.gz")
            if with_sidecars:
                about = {"ImageType": SIEMENS[end][0], "SeriesDescription": description, "SeriesNumber": int(end[0])}
                sidecars(tmp_path, {name: about})
    subjects = found(tmp_path)
    assert len(subjects) == len(patients)
    for patient, (name, files) in zip(patients, subjects.items(), strict=True):
        assert name.startswith(f"{patient}_Images")
        assert {"image", "phase"} <= set(files) and "error" not in files
        assert "SWI_Images" in files["image"] and "Pha_Images" in files["phase"]
        assert f"{patient}_mIP_Images(SW)" in files["notices"]


@pytest.mark.parametrize("word", ["SWI", "SWIp", "SWAN", "FSBB", "VenoBOLD", "3DSWI"])
def test_vendors_words_of_an_swi(tmp_path, word):
    touch(tmp_path, f"x_{word}_501.nii.gz", f"x_{word}_501_ph.nii.gz", f"y_{word}.nii.gz")
    assert found(tmp_path) == {
        f"x_{word}_501": {"image": f"x_{word}_501.nii.gz", "phase": f"x_{word}_501_ph.nii.gz"},
        "y": {"image": f"y_{word}.nii.gz"},
    }
