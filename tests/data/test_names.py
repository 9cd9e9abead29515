"""What the names of files say: T2*-weighted magnitudes in every form, and what is no scan."""

import json
import logging
import unicodedata
from pathlib import Path

import pytest

from cmb_bundle.scripts.data.layouts import complete_subject, find_subjects
from cmb_bundle.scripts.data.sidecars import Acquisition, read_sidecar
from cmb_bundle.scripts.data.splits import Split, make_datalist
from cmb_bundle.scripts.dicom.kinds import nearest_echo
from cmb_bundle.scripts.errors import SubjectError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root):
    """Each subject's files, relative to the folder, and what is said of it."""
    return {
        subject["subject"]: {
            key: value if key in ("notices", "error") else str(Path(value).relative_to(root))
            for key, value in subject.items()
            if key != "subject"
        }
        for subject in find_subjects(root)
    }


@pytest.mark.parametrize(
    ("name", "subject", "key"),
    [
        ("01_T2starw.nii.gz", "01", "t2star"),
        ("01_t2star.nii", "01", "t2star"),
        ("01_t2s.nrrd", "01", "t2star"),
        ("01_gre.nii.gz", "01", "t2star"),
        ("01_T2S.mha", "01", "t2star"),
        ("T2S_01.nii.gz", "01", "t2star"),
        ("gre_t2star_01.nii.gz", "01", "t2star"),
        ("01_magnitude.nii.gz", "01", "magnitude"),
        ("01_mag.nii.gz", "01", "magnitude"),
        ("sub-101_space-T2S_desc-masked_T2S.nii.gz", "sub-101", "t2star"),
        ("sub-1_ses-2_T2starw.nii.gz", "sub-1_ses-2", "t2star"),
        ("sub-1_acq-2d_run-3_T2starw.nii.gz", "sub-1_acq-2d_run-3", "t2star"),
        ("sub-1_part-mag_T2starw.nii.gz", "sub-1", "magnitude"),
        ("Data/T2star/07.nii.gz", "07", "t2star"),
        ("Data/T2S/sub-101_space-T2S_desc-masked_T2S.nii.gz", "sub-101", "t2star"),
        ("Data/T2starw/07_T2starw.nii.gz", "07", "t2star"),
        ("Data/Magnitude/07.nii.gz", "07", "magnitude"),
        ("Data/07/t2s.nii.gz", "07", "t2star"),
        ("sub-101/sub-101_space-T2S_desc-masked_T2S.nii.gz", "sub-101", "t2star"),
        ("gre/mag.nii.gz", "gre", "magnitude"),
    ],
)
def test_each_form_of_a_name(tmp_path, name, subject, key):
    assert found(touch(tmp_path, name)) == {subject: {key: name}}


def test_the_filtered_phase_of_ge_is_of_the_image_that_its_name_ends_with(tmp_path):
    names = ("P1_SWAN.nii.gz", "P1_FILT_PHA_SWAN.nii.gz", "P2_swan.nii.gz", "P2_filt_phase.nii.gz")
    assert found(touch(tmp_path, *names)) == {
        "P1": {"image": names[0], "phase": names[1]},
        "P2": {"image": names[2], "phase": names[3]},
    }


@pytest.mark.parametrize("folder", ["", "sub-101/", "Data/", "Data/sub-101/"])
@pytest.mark.parametrize("label", ["sub-101_space-T2S_CMB", "sub-101_space-T2S_desc-masked_CMB"])
def test_valdo_gives_the_t2star_and_its_label_map(tmp_path, folder, label):
    start, label = f"{folder}sub-101_space-T2S_desc-masked", f"{folder}{label}.nii.gz"
    touch(tmp_path, f"{start}_T1.nii.gz", f"{start}_T2.nii.gz", f"{start}_T2S.nii.gz", label)
    touch(tmp_path, f"{folder}sub-101_cmb.nii.gz")  # a result of an earlier run
    skipped = "sub-101_space-T2S_desc-masked_T1.nii.gz, sub-101_space-T2S_desc-masked_T2.nii.gz were skipped"
    notice = f"{skipped}: no word of the name says SWI, phase, magnitude or T2*."
    assert found(tmp_path) == {"sub-101": {"t2star": f"{start}_T2S.nii.gz", "label": label, "notices": notice}}


def test_a_subject_of_valdo_without_its_label_map_is_unlabelled_and_one_without_its_scan_fails(tmp_path):
    touch(tmp_path, "sub-101/sub-101_space-T2S_desc-masked_T2S.nii.gz", "sub-102/sub-102_space-T2S_CMB.nii.gz")
    files = found(tmp_path)
    assert "label" not in files["sub-101"] and "error" not in files["sub-101"]
    assert "has no SWI, magnitude or T2*-weighted image, but label" in files["sub-102"]["error"]


def test_valdo_label_maps_may_lie_in_a_folder_of_their_own(tmp_path):
    names = ("Data/sub-101_space-T2S_desc-masked_T2S.nii.gz", "Label/sub-101_space-T2S_CMB.nii.gz")
    assert found(touch(tmp_path, *names)) == {"sub-101": {"t2star": names[0], "label": names[1]}}


def test_a_table_says_that_a_subject_of_valdo_has_no_microbleeds(tmp_path):
    names = ("sub-101/sub-101_space-T2S_desc-masked_T2S.nii.gz", "Label/sub-101.csv")
    assert found(touch(tmp_path, *names)) == {"sub-101": {"t2star": names[0], "label": names[1]}}


def test_many_other_images_are_counted(tmp_path):
    touch(tmp_path, "a/swi.nii.gz", *(f"a/dwi_{number}.nii.gz" for number in range(7)))
    assert "dwi_3.nii.gz, dwi_4.nii.gz and 2 others were skipped" in found(tmp_path)["a"]["notices"]


@pytest.mark.parametrize("label", ["Label/01.xlsx", "Label/01_T2S.csv", "Data/01_T2S.csv"])
def test_a_label_may_be_named_as_its_t2star(tmp_path, label):
    touch(tmp_path, "Data/01_T2S.nii.gz", label)
    assert found(tmp_path) == {"01": {"t2star": "Data/01_T2S.nii.gz", "label": label}}


def test_bids_magnitude_with_its_phase_is_one_subject(tmp_path):
    names = ("sub-1_part-mag_T2starw.nii.gz", "sub-1_part-phase_T2starw.nii.gz")
    assert found(touch(tmp_path, *names)) == {"sub-1": {"magnitude": names[0], "phase": names[1]}}


def test_a_label_belongs_to_a_t2star_as_to_an_swi(tmp_path):
    touch(tmp_path, "01_T2S.nii.gz", "01.csv", "02_gre.nii.gz", "02_label.xlsx")
    assert found(tmp_path) == {
        "01": {"t2star": "01_T2S.nii.gz", "label": "01.csv"},
        "02": {"t2star": "02_gre.nii.gz", "label": "02_label.xlsx"},
    }


@pytest.mark.parametrize(
    "name", ["8_gre_field_mapping_e2.nii.gz", "t1_gre.nii.gz", "t2.nii.gz", "localizer_gre.nii.gz"]
)
def test_other_gradient_echoes_are_no_t2star(tmp_path, name):
    files = found(touch(tmp_path, "9_swi.nii.gz", f"a/{name}", "a/x_swi.nii.gz"))["a"]
    assert files.pop("notices") == f"{name} was skipped: no word of the name says SWI, phase, magnitude or T2*."
    assert files == {"image": "a/x_swi.nii.gz"}
    touch(tmp_path / "alone", f"b/{name}")
    with pytest.raises(SubjectError, match="has no SWI, magnitude or T2\\*-weighted image, but other"):
        find_subjects(tmp_path / "alone")


@pytest.mark.parametrize("names", [("{}swi.nii.gz",), ("{}mag.nii.gz", "{}phase.nii.gz")])
@pytest.mark.parametrize("start", ["01_", "01/"])
def test_what_is_better_than_a_t2star_is_taken_with_a_notice(tmp_path, names, start):
    touch(tmp_path, *(name.format(start) for name in names), f"{start}t2star.nii.gz", f"{start}gre_e1.nii.gz")
    files = found(tmp_path)["01"]
    left = f"{'01_' if start == '01_' else ''}gre_e1.nii.gz, {'01_' if start == '01_' else ''}t2star.nii.gz"
    what = "an SWI" if len(names) == 1 else "a magnitude with its phase"
    assert files.pop("notices") == f"The T2*-weighted image {left} was not read: there is {what} of the subject."
    assert sorted(files.values()) == sorted(name.format(start) for name in names)
    assert list(found(tmp_path)) == ["01"]


def test_two_images_that_can_be_the_scan_are_refused(tmp_path):
    touch(tmp_path, "01_mag.nii.gz", "01_t2star.nii.gz", "02_swi.nii.gz")
    assert "a magnitude without phase and a T2*, keep one" in found(tmp_path)["01"]["error"]
    touch(tmp_path, "03_t2star.nii.gz", "03_T2S.nii.gz")
    assert "two files or more of one kind" in found(tmp_path)["03"]["error"]


@pytest.mark.parametrize("start", ["P1_gre_", "P1/gre_", "P1_echo-"])
def test_of_several_echoes_the_one_near_20_to_25_ms_is_taken(tmp_path, start):
    ends = [f"{n}_T2starw" if start.endswith("echo-") else f"e{n}" for n in (1, 2, 3)]
    for end, echo in zip(ends, (0.008, 0.019, 0.035), strict=True):
        touch(tmp_path, f"{start}{end}.nii.gz")
        (tmp_path / f"{start}{end}.json").write_text(json.dumps({"EchoTime": echo}))
    name = f"{start}{ends[1]}.nii.gz"
    others = ", ".join(Path(f"{start}{end}.nii.gz").name for end in (ends[0], ends[2]))
    said = f"Of 3 echoes, {Path(name).name} was taken (19 ms); not read: {others}."
    assert found(tmp_path) == {"P1": {"t2star": name, "notices": said}}
    (tmp_path / f"{start}{ends[0]}.json").unlink()
    assert found(tmp_path)["P1"]["t2star"] == f"{start}{ends[2]}.nii.gz", "the last, where the times are not known"


def test_nearest_echo():
    assert nearest_echo([5, 12, 19, 40]) == 2
    assert nearest_echo([20, 25]) == 1
    assert nearest_echo([10, 35]) == 1


def test_a_datalist_names_a_t2star_or_a_magnitude_alone(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz", "c_swi.nii.gz")
    entries = [
        {"subject": "a", "t2star": "a.nii.gz"},
        {"subject": "b", "magnitude": "b.nii.gz"},
        {"subject": "c", "image": "c_swi.nii.gz", "t2star": "c.nii.gz"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    a, b, c = find_subjects(tmp_path / "list.json")
    assert a == {"subject": "a", "t2star": str(tmp_path / "a.nii.gz")}
    assert b == {"subject": "b", "magnitude": str(tmp_path / "b.nii.gz")}
    assert "t2star" not in c and c["notices"].startswith("The T2*-weighted image c.nii.gz was not read")


def test_training_reads_them(tmp_path):
    for name in "abcdef":
        touch(tmp_path, f"Data/T2star/{name}.nii.gz")
        (tmp_path / "Label").mkdir(exist_ok=True)
        (tmp_path / f"Label/{name}.csv").write_text("1,2,3\n")
    touch(tmp_path, "Data/T2star/a_mask.nii.gz")
    split = Split(tmp_path, folds=3)
    subjects = split.training + split.test
    assert {subject["t2star"] for subject in subjects} <= {str(tmp_path / f"Data/T2star/{n}.nii.gz") for n in "abcdef"}
    split = make_datalist(tmp_path, folds=3)
    assert split["training"][0]["t2star"] == "Data/T2star/a.nii.gz"
    assert "a_mask.nii.gz was skipped" in split["training"][0]["notices"]


def test_an_image_of_an_annotation_server_is_known_by_its_name(tmp_path):
    touch(tmp_path, "01_T2S.nii.gz", "02_swi.nii.gz")
    assert set(complete_subject({"image": tmp_path / "01_T2S.nii.gz"})) == {"subject", "t2star"}
    assert set(complete_subject({"image": tmp_path / "02_swi.nii.gz"})) == {"subject", "image"}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("P1_SWI_brain_mask", "a mask"),
        ("P1_swi_mip", "a projection"),
        ("P1_minIP_SWI", "a projection"),
        ("P1_SWAN_angio_mip", "a projection"),
        ("P1_mIP_Images(SW)_7", "a projection"),
        ("P1_swi_mIP8", "a projection"),
        ("P1_mip10_swi", "a projection"),
        ("P1_swi_minip8mm", "a projection"),
        ("P1_swi_min_ip", "a projection"),
        ("P1_swi_min-ip", "a projection"),
        ("P1_swi_projection", "a projection"),
        ("P1_swi_minimum", "a projection"),
        ("P1_QSM", "a susceptibility map"),
        ("P1_gre_R2star", "a relaxation map"),
        ("P1_T2starmap", "a relaxation map"),
        ("P1_b0", "a field map"),
        ("P1_swi_bet", "a mask or what a mask left"),
        ("P1_SWI_seg", "a mask"),
        ("P1_swi_Eq_1", "interpolated from a scan"),
        ("P1_swi_Tilt_1", "interpolated from a scan"),
        ("P1_swi_ROI1", "interpolated from a scan, or its overlay"),
        ("P1_T1_to_SWI", "another contrast"),
        ("P1_atlas_in_SWI_space", "another contrast"),
        ("P1_FLAIR_reg_SWI", "another contrast"),
        ("P1_SWI_FLAIR", "another contrast"),
    ],
)
@pytest.mark.parametrize("folder", ["", "Data/", "Data/SWI/", "P1/", "Data/P1/"])
def test_derived_maps_are_skipped_with_a_notice(tmp_path, name, what, folder):
    scan = f"{folder}P1_swi.nii.gz"
    files = found(touch(tmp_path, scan, f"{folder}{name}.nii.gz"))
    assert list(files) == ["P1"]
    assert files["P1"].pop("notices").startswith(f"{name}.nii.gz was skipped: its name says that it is {what}")
    assert files["P1"] == {"image": scan}


def test_time_points_and_sites_are_no_contrasts(tmp_path):
    names = ("P1_T1_swi", "P1_T2_swi", "FLAIR_07_swi", "In_01_swi", "P_2_swi", "MIP01_swi", "Min_3_swi")
    files = found(touch(tmp_path, *(f"{name}.nii.gz" for name in names)))
    assert sorted(files) == ["FLAIR_07", "In_01", "MIP01", "Min_3", "P1_T1", "P1_T2", "P_2"]
    assert all(set(one) == {"image"} for one in files.values())


def test_a_letter_in_one_character_or_two_names_one_subject(tmp_path):
    """A Mac writes u and two dots."""
    composed, apart = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{apart}_swi.nii.gz", f"{composed}_phase.nii.gz", f"Label/{apart}.csv")
    (subject,) = find_subjects(tmp_path)
    assert subject["subject"] == composed and {"image", "phase", "label"} <= set(subject)


def test_a_map_in_another_folder_than_its_scan(tmp_path, caplog):
    touch(tmp_path, "Data/SWI/P1.nii.gz", "Data/P1_mask.nii.gz", "Data/mIP/P1.nii.gz", "Label/P1_mask.nii.gz")
    with caplog.at_level(logging.WARNING):
        files = found(tmp_path)
    assert files["P1"]["image"] == "Data/SWI/P1.nii.gz" and "P1_mask.nii.gz was skipped" in files["P1"]["notices"]
    assert "mIP was skipped: its name says that it holds no scans" in caplog.text
    assert list(files) == ["P1", "P1_mask"], "a label whose name is of no image is reported, as ever"


def test_a_map_without_its_scan_fails_or_is_logged_but_is_not_lost(tmp_path, caplog):
    touch(tmp_path, "P1_swi.nii.gz", "P2_swi_mip.nii.gz", "MNI_mask.nii.gz")
    with caplog.at_level(logging.WARNING):
        files = found(tmp_path)
    assert list(files) == ["P1", "P2_swi_mip"]
    assert files["P2_swi_mip"]["error"].startswith("has only what its name says was computed from a scan: derived ")
    assert "P2_swi_mip.nii.gz. Give the scan itself; if it is the scan, rename it" in files["P2_swi_mip"]["error"]
    assert "masks or maps, not scans: MNI_mask.nii.gz" in caplog.text


@pytest.mark.parametrize("folder", ["", "Data/", "P1/"])
@pytest.mark.parametrize("end", ["bet", "brain"])
def test_what_a_brain_extraction_left_goes_with_the_other_images_of_its_subject(tmp_path, folder, end):
    names = [f"{folder}P1_{name}.nii.gz" for name in (f"swi_{end}", "phase", "mag")]
    touch(tmp_path, *names, "P1/label.csv" if folder == "P1/" else "Label/P1.csv")
    files = found(tmp_path)["P1"]
    assert files.pop("label")
    assert list(found(tmp_path)) == ["P1"]
    assert files == dict(zip(("image", "phase", "magnitude"), names, strict=True))


@pytest.mark.parametrize("end", ["bet", "brain"])
def test_what_a_brain_extraction_left_in_a_folder_for_each_kind(tmp_path, end):
    touch(tmp_path, f"Data/SWI/P1_{end}.nii.gz", "Data/Phase/P1.nii.gz")
    assert found(tmp_path) == {"P1": {"image": f"Data/SWI/P1_{end}.nii.gz", "phase": "Data/Phase/P1.nii.gz"}}


@pytest.mark.parametrize("folder", ["", "Data/", "P1/"])
@pytest.mark.parametrize("word", ["swi", "T2S"])
def test_what_a_brain_extraction_left_is_the_scan_where_there_is_no_other(tmp_path, folder, word):
    key = "image" if word == "swi" else "t2star"
    for end, subject in (("bet", "P1"), ("brain", "P1" if folder == "P1/" else "P1_brain")):
        root = tmp_path / end
        name = f"{folder}P1_{word}_{end}.nii.gz"
        assert found(touch(root, name)) == {subject: {key: name}}
        files = found(touch(root, f"{folder}P1_{word}.nii.gz"))
        assert list(files) == ["P1"] and files["P1"][key] == f"{folder}P1_{word}.nii.gz"
        assert files["P1"]["notices"].startswith(f"P1_{word}_{end}.nii.gz was skipped")


@pytest.mark.parametrize("word", ["gre", "t2star"])
def test_a_t2star_beside_its_phase_is_its_magnitude(tmp_path, word):
    touch(tmp_path, f"a_{word}.nii.gz", f"a_{word}_phase.nii.gz")
    assert found(tmp_path) == {f"a_{word}": {"magnitude": f"a_{word}.nii.gz", "phase": f"a_{word}_phase.nii.gz"}}


@pytest.mark.parametrize(
    ("content", "known"),
    [
        ('{"EchoTime": 0.02, "MagneticFieldStrength": 3}', Acquisition((20.0,), 3.0)),
        ('{"EchoTime": 20}', Acquisition((20.0,), None)),
        ('{"EchoTime": [0.01, 0.02]}', Acquisition((10.0, 20.0), None)),
        ('{"EchoTime": [0.01, "x"]}', Acquisition()),
        ('{"EchoTime": true, "MagneticFieldStrength": -3}', Acquisition()),
        ("[1]", Acquisition()),
        ("{", Acquisition()),
    ],
)
def test_what_a_file_beside_the_image_tells(tmp_path, content, known):
    (tmp_path / "a.b.json").write_text(content)
    assert read_sidecar(tmp_path / "a.b.nii.gz") == known
    assert read_sidecar(tmp_path / "a.nii.gz") == Acquisition()
