"""Finding the subjects of a folder, splitting them, and loading them although some are broken."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import DataLoader, MetaTensor, get_track_meta
from monai.transforms import (
    Compose,
    Lambdad,
    LoadImaged,
    OneOf,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandomizableTransform,
    Transform,
)

from cmb_bundle.scripts.data.datasets import CohortDataset, PatchDataset, SeededItems, SubjectDataset
from cmb_bundle.scripts.data.labels import LabelConvention, count_points
from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.data.splits import Split, assign_folds, make_datalist
from cmb_bundle.scripts.errors import LabelError, SubjectError

REAL = Path(__file__).parents[3] / "shared/data/real"


def part(dataset_dir, datalist_file=None, subset="all", subjects=None, **options):
    """A part of a split made for the purpose."""
    return Split(dataset_dir, datalist_file, **options).part(subset, subjects)


def touch(root, *names):
    """Make empty files: finding subjects reads names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root):
    """The subjects of a folder, with paths relative to it."""
    words = ("subject", "notices")
    return [
        {key: value if key in words else str(Path(value).relative_to(root)) for key, value in subject.items()}
        for subject in find_subjects(root)
    ]


def label(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def cohort(root, lesions):
    """A data set in the layout of per-modality folders; None for a subject without a label."""
    for name, number in lesions.items():
        touch(root, f"Data/SWI/{name}.nii.gz", f"Data/Phase/{name}.nii.gz")
        if number is not None:
            label(root / f"Label/{name}.xlsx", [(index + 1, 5, 5) for index in range(number)])
    return root


# Layouts


def test_a_folder_for_each_modality(tmp_path):
    touch(tmp_path, "Data/SWI/02.nii.gz", "Data/SWI/01.nii.gz", "Data/Phase/01.nii.gz", "Data/Magnitude/01.nii")
    touch(tmp_path, "Label/01.xlsx", "Truth/01.json", "Label/~$01.xlsx", "Label/.DS_Store", "Data/SWI/notes.txt")
    assert found(tmp_path) == [
        {
            "subject": "01",
            "image": "Data/SWI/01.nii.gz",
            "phase": "Data/Phase/01.nii.gz",
            "magnitude": "Data/Magnitude/01.nii",
            "label": "Label/01.xlsx",
            "truth": "Truth/01.json",
        },
        {"subject": "02", "image": "Data/SWI/02.nii.gz"},
    ]


@pytest.mark.parametrize("folders", [("swi", "Pha", "MAG"), ("SWI", "phase", "magnitude")])
def test_names_of_modality_folders(tmp_path, folders):
    touch(tmp_path, *(f"data/{folder}/01_{folder}.nrrd" for folder in folders), "LABEL/01.csv")
    (subject,) = found(tmp_path)
    assert subject == {
        "subject": "01",
        "image": f"data/{folders[0]}/01_{folders[0]}.nrrd",
        "phase": f"data/{folders[1]}/01_{folders[1]}.nrrd",
        "magnitude": f"data/{folders[2]}/01_{folders[2]}.nrrd",
        "label": "LABEL/01.csv",
    }


@pytest.mark.parametrize("data", ["Data/", ""])
def test_a_folder_for_each_subject(tmp_path, data):
    touch(tmp_path, f"{data}s1/SWI_Images.nii.gz", f"{data}s1/Pha_Images.nii.gz", f"{data}s1/mIP_Images.nii.gz")
    touch(tmp_path, f"{data}s2/s2_mag.mha", f"{data}s2/s2_phase.mha", f"{data}s2/s2_label.nii.gz", "Label/s1.nii.gz")
    assert found(tmp_path) == [
        {
            "subject": "s1",
            "image": f"{data}s1/SWI_Images.nii.gz",
            "phase": f"{data}s1/Pha_Images.nii.gz",
            "label": "Label/s1.nii.gz",
            "notices": "mIP_Images.nii.gz was skipped: its name says that it is a projection.",
        },
        {
            "subject": "s2",
            "phase": f"{data}s2/s2_phase.mha",
            "magnitude": f"{data}s2/s2_mag.mha",
            "label": f"{data}s2/s2_label.nii.gz",
        },
    ]


@pytest.mark.parametrize("data", ["Data/", ""])
def test_suffixes_in_one_folder(tmp_path, data):
    touch(tmp_path, f"{data}01_swi.nii.gz", f"{data}01_phase.nii.gz", f"{data}01_mag.nii.gz", f"{data}01.xlsx")
    touch(tmp_path, f"{data}02_SWI.nii.gz", f"{data}02_label.csv", f"{data}participants.csv", f"{data}02_mask.nii.gz")
    assert found(tmp_path) == [
        {
            "subject": "01",
            "image": f"{data}01_swi.nii.gz",
            "phase": f"{data}01_phase.nii.gz",
            "magnitude": f"{data}01_mag.nii.gz",
            "label": f"{data}01.xlsx",
        },
        {
            "subject": "02",
            "image": f"{data}02_SWI.nii.gz",
            "label": f"{data}02_label.csv",
            "notices": "02_mask.nii.gz was skipped: its name says that it is a mask or what a mask left.",
        },
    ]


@pytest.mark.parametrize("name", ["magda", "pham", "swiss", "labelle", "ph_7", "mag-1", "swi.3", "CMB_label_4"])
@pytest.mark.parametrize("pattern", ["Data/SWI/{}.nii.gz", "{}_swi.nii.gz", "{0}/{0}_swi.nii.gz", "{}/swi.nii.gz"])
def test_words_count_whole_and_last(tmp_path, name, pattern):
    path = pattern.format(name)
    touch(tmp_path, path)
    assert found(tmp_path) == [{"subject": name, "image": path}]


def test_parts_of_an_swi_sequence(tmp_path):
    touch(tmp_path, "01_swi.nii.gz", "01_swi_phase.nii.gz", "01_swi_mag.nii.gz", "SWI_02.nii.gz", "SWI_pha_02.nii.gz")
    touch(tmp_path, "sub-3_part-mag_GRE.nii.gz", "sub-3_part-phase_GRE.nii.gz")
    subjects = {subject.pop("subject"): subject for subject in found(tmp_path)}
    assert subjects["01"] == {
        "image": "01_swi.nii.gz",
        "phase": "01_swi_phase.nii.gz",
        "magnitude": "01_swi_mag.nii.gz",
    }
    assert subjects["02"] == {"image": "SWI_02.nii.gz", "phase": "SWI_pha_02.nii.gz"}
    assert subjects["sub-3"] == {
        "phase": "sub-3_part-phase_GRE.nii.gz",
        "magnitude": "sub-3_part-mag_GRE.nii.gz",
    }


def test_the_folder_of_one_subject(tmp_path):
    touch(tmp_path / "anna", "swi.nii.gz", "phase.nii.gz")
    assert found(tmp_path / "anna") == [{"subject": "anna", "image": "swi.nii.gz", "phase": "phase.nii.gz"}]


def test_magnitude_named_as_its_phase(tmp_path):
    touch(tmp_path, "a/8_gre_e1.nii.gz", "a/8_gre_e2.nii.gz", "a/9_gre_e2_ph.nii.gz", "b_e2.nii.gz", "b_e2_ph.nii.gz")
    assert found(tmp_path) == [
        {
            "subject": "a",
            "phase": "a/9_gre_e2_ph.nii.gz",
            "magnitude": "a/8_gre_e2.nii.gz",
            "notices": "Of 2 echoes, 8_gre_e2.nii.gz was taken; not read: 8_gre_e1.nii.gz.",
        },
        {"subject": "b_e2", "phase": "b_e2_ph.nii.gz", "magnitude": "b_e2.nii.gz"},
    ]


def test_an_image_without_a_word_is_not_taken_for_a_magnitude(tmp_path):
    touch(tmp_path, "Data/01.nii.gz", "Data/01_phase.nii.gz", "Data/02_swi.nii.gz")
    assert "other" in errors(tmp_path)["01"]


def test_names_of_real_scans_are_recognised():
    if not REAL.is_dir():
        pytest.skip(f"the real scans are not at {REAL}")
    names = [
        (folder, Path(subject["magnitude"]).name, Path(subject["phase"]).name)
        for folder in ("gre_crop", "head_philips", "head_siemens")
        for subject in find_subjects(REAL / folder)
    ]
    philips = "2001_WIP_fcMRI_Field_Mapping_enh_e2"
    assert names == [
        ("gre_crop", "mag.nii.gz", "phase.nii.gz"),
        ("head_philips", f"{philips}.nii.gz", f"{philips}_ph.nii.gz"),
        ("head_siemens", "8_gre_field_mapping_e2.nii.gz", "9_gre_field_mapping_e2_ph.nii.gz"),
    ]


def test_results_beside_the_images_are_passed_over(tmp_path):
    touch(tmp_path, "1_swi.nii.gz", "1_swi_cmb.nii.gz", "1_cmb.csv", "1_cmb.nii.gz")
    assert found(tmp_path) == [{"subject": "1", "image": "1_swi.nii.gz"}]


def test_label_folder_within_data(tmp_path):
    touch(tmp_path, "Data/SWI/1.nii.gz", "Data/Labels/1.xlsx")
    assert found(tmp_path) == [{"subject": "1", "image": "Data/SWI/1.nii.gz", "label": "Data/Labels/1.xlsx"}]


# Folders that are slightly wrong


def errors(root):
    return {subject["subject"]: subject["error"] for subject in find_subjects(root) if "error" in subject}


def test_subjects_that_cannot_be_used_are_reported_not_lost(tmp_path):
    touch(tmp_path, "Data/SWI/01.nii.gz", "Data/Phase/P01.nii.gz", "Label/001.xlsx", "Data/t2.nii.gz")
    touch(tmp_path, "Data/s3/flair.nii.gz", "Data/s4/IM0001.dcm")
    messages = errors(tmp_path)
    assert set(messages) == {"P01", "001", "t2", "s3", "s4"}
    assert "but phase" in messages["P01"] and "P01.nii.gz" in messages["P01"]
    assert "but label" in messages["001"] and "the same id in every folder" in messages["001"]
    assert "flair.nii.gz" in messages["s3"] and "the words swi, phase" in messages["s3"]
    assert "no image" in messages["s4"]
    assert [subject["subject"] for subject in find_subjects(tmp_path) if "image" in subject] == ["01"]


def test_folder_with_a_file_of_another_subject_is_reported(tmp_path):
    touch(tmp_path, "01/swi.nii.gz", "02/01_t2.nii.gz")
    assert "01_t2.nii.gz" in errors(tmp_path)["02"]


@pytest.mark.parametrize(
    "names",
    [
        ("Data/SWI/01.nii", "Data/SWI/01.nii.gz"),
        ("Data/SWI/01.nii", "Data/01_swi.nii.gz"),
        ("Data/01/swi.nii", "Data/01/swi_b.nii.gz"),
        ("01_swi.nii", "01_SWI.nrrd"),
        ("Data/SWI/01.nii", "Label/01.xlsx", "Label/01.csv"),
    ],
)
def test_two_files_of_one_kind_are_an_error_of_their_subject(tmp_path, names):
    data = "Data/" if names[0].startswith("Data") else ""
    touch(tmp_path, *names, f"{data}02_swi.nii.gz")
    (message,) = errors(tmp_path).values()
    assert "two files or more of one kind" in message
    assert all(Path(name).name in message for name in names)


def test_an_id_without_end_is_said_in_short(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps({"unlabelled": [{"subject": "a" * 5000, "image": "a_swi.nii"}]}))
    with pytest.raises(SubjectError, match=r"\n  a{20}\.\.\.: has an id of 5000 bytes, a{20}\.\.\.,") as caught:
        find_subjects(tmp_path / "list.json")
    assert len(str(caught.value)) < 1800


def test_nothing_found_shows_files_and_layouts(tmp_path):
    touch(tmp_path, "scan1.nii.gz", "notes.txt")
    with pytest.raises(SubjectError, match=r"none of the 1 subjects can be used:\n  scan1: ") as caught:
        find_subjects(tmp_path)
    assert "Label/<id>.xlsx" in str(caught.value)
    (tmp_path / "scan1.nii.gz").unlink()
    touch(tmp_path, "Data/SWI/1.xyz")
    with pytest.raises(
        SubjectError, match=r"no subjects found. It holds Data/SWI/1.xyz, notes.txt. Layouts:\n  \(a\) Data/SWI"
    ):
        find_subjects(tmp_path)


def test_folder_above_the_data_set_is_recognised(tmp_path):
    touch(tmp_path, "gachon/Data/SWI/01.nii.gz")
    with pytest.raises(SubjectError, match=f"Did you mean {tmp_path / 'gachon'}"):
        find_subjects(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(SubjectError, match="no such folder"):
        find_subjects(tmp_path / "nowhere")


# Datalists given by hand


def test_explicit_datalist(tmp_path):
    touch(tmp_path, "x/swi.nii.gz", "x/p.nii.gz", "x/l.csv", "dicom/b/1.dcm")
    entries = [
        {"subject": "b", "image": "dicom/b", "fold": 2},
        {"subject": "a", "image": "x/swi.nii.gz", "phase": str(tmp_path / "x/p.nii.gz"), "label": "x/l.csv"},
        {"subject": "c", "image": "x/gone.nii.gz"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    subjects = find_subjects(tmp_path / "list.json")
    assert subjects[:2] == [
        {
            "subject": "a",
            "image": str(tmp_path / "x/swi.nii.gz"),
            "phase": str(tmp_path / "x/p.nii.gz"),
            "label": str(tmp_path / "x/l.csv"),
        },
        {"subject": "b", "image": str(tmp_path / "dicom/b"), "fold": 2},
    ]
    assert "gone.nii.gz" in subjects[2]["error"]

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/list.json").write_text(json.dumps({"dataset_dir": "..", "training": entries}))
    assert find_subjects(tmp_path / "sub/list.json")[1]["image"] == str(tmp_path / "sub/../dicom/b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "has no subjects"),
        ('{"train": [{"subject": "a"}]}', "has no subjects"),
        ('"text"', "has no subjects"),
        ('[{"image": "a.nii"}]', 'entry 1 has no "subject"'),
        ('[{"subject": 7}]', 'entry 1 has no "subject"'),
        ('[{"subject": ""}]', 'entry 1 has no "subject", an id as text: .* Give it one'),
        ('[{"subject": "a", "image": "i"}, {"subject": "a"}]', "the subject a appears twice"),
    ],
)
def test_wrong_datalists(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SubjectError, match=message) as caught:
        find_subjects(tmp_path / "list.json")
    assert "list.json" in str(caught.value)


@pytest.mark.parametrize("key", ["validation", "test"])
def test_lists_that_are_not_read_are_refused(tmp_path, key):
    touch(tmp_path, "a.nii.gz")
    entry = {"subject": "a", "image": "a.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry], key: [entry | {"subject": "b"}]}))
    with pytest.raises(SubjectError, match=rf"has the list\(s\) {key}, which are not read"):
        find_subjects(tmp_path / "list.json")
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry], key: []}))
    assert len(find_subjects(tmp_path / "list.json")) == 1


@pytest.mark.parametrize(("key", "meant"), [("phas", "phase"), ("Phase", "phase"), ("mag", "magnitude")])
def test_a_mistyped_key_of_a_datalist_fails_its_subject_alone(tmp_path, key, meant):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    entries = [{"subject": "a", "image": "a.nii.gz", key: "b.nii.gz"}, {"subject": "b", "image": "b.nii.gz", "age": 70}]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    mistyped, good = find_subjects(tmp_path / "list.json")
    assert mistyped["error"] == f'has "{key}" in the datalist, which is not read; write it as "{meant}"'
    assert set(good) == {"subject", "image"}


@pytest.mark.parametrize("name", ["sub-01/ses-1", "../x", "/x", "a\\b", ".", "..", " "])
def test_ids_that_would_leave_the_output_folder_are_refused(tmp_path, name):
    touch(tmp_path, "swi.nii.gz")
    entries = {"training": [{"subject": "a.[1]", "image": "swi.nii.gz"}], "unlabelled": []}
    (tmp_path / "list.json").write_text(json.dumps(entries))
    assert [subject["subject"] for subject in find_subjects(tmp_path / "list.json")] == ["a.[1]"]
    entries["unlabelled"] = [{"subject": name, "image": "swi.nii.gz"}]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    with pytest.raises(SubjectError) as caught:
        find_subjects(tmp_path / "list.json")
    assert str(caught.value) == (
        f'Datalist {tmp_path / "list.json"}: entry 2 has the "subject" {name!r}; expected an id that can name a '
        "folder for its results: without / and \\, and not ., .. or blank. Rename it, as sub-1_ses-1 for sub-1/ses-1."
    )


# Folds


@given(counts=st.lists(st.integers(0, 20), min_size=5, max_size=40), folds=st.integers(3, 6), seed=st.integers(0, 9))
def test_folds_are_balanced(counts, folds, seed):
    names = [f"s{index}" for index in range(len(counts))]
    chosen = assign_folds(names, counts, folds, seed)
    assert set(chosen) == set(names)
    members = [
        [count for name, count in zip(names, counts, strict=True) if chosen[name] == fold] for fold in range(folds)
    ]

    def spread(numbers):
        return max(numbers) - min(numbers)

    assert spread([len(fold) for fold in members]) <= 1
    assert spread([sum(count > 0 for count in fold) for fold in members]) <= 1
    assert spread([sum(count == 0 for count in fold) for fold in members]) <= 1
    assert spread([sum(fold) for fold in members]) <= max(counts)


def test_large_subjects_are_dealt_first():
    chosen = assign_folds("abcd", [1, 1, 9, 1], 3)
    assert [name for name in "abd" if chosen[name] == chosen["c"]] == []


def test_rounds_even_out():
    chosen = assign_folds("abcdef", [9, 5, 4, 3, 2, 1], 3)
    assert [chosen[name] for name in "abc"] == [chosen[name] for name in "fed"]


@given(order=st.permutations(range(12)))
def test_folds_do_not_depend_on_the_order(order):
    names, counts = [f"s{index}" for index in range(12)], [0, 0, 0, 1, 1, 1, 1, 2, 2, 5, 9, 0]
    shuffled = assign_folds([names[index] for index in order], [counts[index] for index in order], 5, 3)
    assert shuffled == assign_folds(names, counts, 5, 3)


def test_folds_depend_on_the_seed():
    names = [f"s{index}" for index in range(20)]
    splits = [assign_folds(names, [1] * 20, 5, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


LESIONS = {"a": 3, "b": 0, "c": 2, "d": 1, "e": 0, "f": 1, "g": None}


def test_datalist_is_written_and_reused(tmp_path):
    root, path = cohort(tmp_path / "set", LESIONS), tmp_path / "new/list.json"
    datalist = make_datalist(root, path, folds=3, convention={"index_base": 0})
    assert json.loads(path.read_text()) == datalist
    assert [item.name for item in path.parent.iterdir()] == ["list.json"]
    assert {key: datalist[key] for key in ("name", "dataset_dir", "folds", "seed", "unlabelled", "failures")} == {
        "name": "set",
        "dataset_dir": str(root),
        "folds": 3,
        "seed": 0,
        "unlabelled": [{"subject": "g", "image": "Data/SWI/g.nii.gz", "phase": "Data/Phase/g.nii.gz"}],
        "failures": {},
    }
    assert datalist["convention"] == asdict(LabelConvention(index_base=0))
    assert {entry["subject"]: entry["lesions"] for entry in datalist["training"]} == {
        name: number for name, number in LESIONS.items() if number is not None
    }
    assert datalist["training"][0]["label"] == "Label/a.xlsx"
    assert sorted(entry["fold"] for entry in datalist["training"]) == [0, 0, 1, 1, 2, 2]

    for entry in datalist["training"]:
        entry["fold"] = 0 if entry["subject"] in "ab" else 1 if entry["subject"] in "cd" else 2
    path.write_text(json.dumps(datalist))
    before = path.read_bytes()
    assert [subject["subject"] for subject in part(root, path, "test", fold=1, folds=3)] == ["c", "d"]
    assert path.read_bytes() == before


def test_a_data_set_that_was_moved(tmp_path):
    path = tmp_path / "list.json"
    make_datalist(cohort(tmp_path / "old", LESIONS), path, folds=3)
    (tmp_path / "old").rename(tmp_path / "new")
    for subject in part(tmp_path / "new", path, "train", folds=3):
        assert subject["image"] == str(tmp_path / f"new/Data/SWI/{subject['subject']}.nii.gz")


def test_datalist_that_does_not_fit(tmp_path):
    root, path = cohort(tmp_path / "set", LESIONS), tmp_path / "list.json"
    make_datalist(root, path, folds=3)
    with pytest.raises(SubjectError, match=r"with 2 folds it must be 0 to 1\. Correct the datalist"):
        make_datalist(root, path, folds=2)
    with pytest.raises(
        SubjectError, match=r"(?s)where none of its 7 subjects is with.*Data/SWI/a.nii.gz is absent.*delete"
    ):
        make_datalist(cohort(tmp_path / "other", {"z": 1}), path, folds=3)
    entries = [{"subject": "b", "image": "Data/SWI/b.nii.gz", "fold": 0}]
    path.write_text(json.dumps(entries))
    with pytest.raises(SubjectError, match="there is no label"):
        make_datalist(root, path, folds=3)
    path.write_text(json.dumps([entries[0] | {"label": "Label/b.xlsx", "fold": None}]))
    with pytest.raises(SubjectError, match="subject b is in fold None"):
        make_datalist(root, path, folds=3)


def test_a_subject_that_is_gone_or_was_repaired_is_told_on_reuse(tmp_path):
    root, path = cohort(tmp_path / "set", LESIONS), tmp_path / "list.json"
    (root / "Label/b.xlsx").write_bytes(b"")
    assert set(make_datalist(root, path, folds=3)["failures"]) == {"b"}
    (root / "Data/SWI/a.nii.gz").unlink()
    train = part(root, path, "train", folds=3)
    failed = {entry["subject"]: entry["error"] for entry in train if "error" in entry}
    assert set(failed) == {"a", "b"}
    assert "Data/SWI/a.nii.gz is absent" in failed["a"] and "0 bytes" in failed["b"]
    assert {"a", "b"} <= {entry["subject"] for entry in part(root, path, "test", folds=3) if "error" in entry}
    assert not any("error" in entry for entry in part(root, path, "validation", folds=3))
    label(root / "Label/b.xlsx", [(1, 2, 3)])
    assert set(make_datalist(root, path, folds=3)["failures"]) == {"a"}


def test_what_a_reused_datalist_leaves_out_is_logged(tmp_path, caplog):
    root, path = cohort(tmp_path / "set", LESIONS), tmp_path / "list.json"
    make_datalist(root, path, folds=3)
    label(root / "Label/g.xlsx", [])
    caplog.clear()
    make_datalist(root, path, folds=3, seed=5)
    assert "1 labelled subjects are not in the split" in caplog.text and "list.json: g" in caplog.text
    assert "seed 0, not 5" in caplog.text


def test_unreadable_labels_and_missing_labels_are_told(tmp_path, caplog):
    root = cohort(tmp_path, LESIONS)
    (root / "Label/a.xlsx").write_bytes(b"")
    label(root / "Label/c.xlsx", [("left", "frontal")])
    datalist = make_datalist(root, folds=3)
    assert set(datalist["failures"]) == {"a", "c"}
    assert "0 bytes" in datalist["failures"]["a"] and "row 1" in datalist["failures"]["c"]
    assert {entry["subject"] for entry in datalist["training"]} == {"b", "d", "e", "f"}
    assert "2 subjects cannot be used for training" in caplog.text and "0 bytes" in caplog.text
    assert "1 subjects have no label" in caplog.text and ": g" in caplog.text


def test_folds_of_an_explicit_datalist_are_kept(tmp_path):
    root = cohort(tmp_path, LESIONS)
    entries = make_datalist(root, folds=3)["training"]
    for number, entry in enumerate(entries):
        entry["fold"] = number // 2
    (root / "list.json").write_text(json.dumps(entries))
    assert [item["subject"] for item in part(root / "list.json", subset="test", folds=3)] == ["a", "b"]


# Parts


def test_parts_are_disjoint_and_each_subject_is_tested_once(tmp_path):
    root = cohort(tmp_path, LESIONS)
    tested = []
    for fold in range(3):
        parts = {
            subset: {subject["subject"]: subject for subject in part(root, subset=subset, fold=fold, folds=3)}
            for subset in ("train", "validation", "test")
        }
        names = [name for part in parts.values() for name in part]
        assert sorted(names) == list("abcdef")
        assert {subject["fold"] for subject in parts["test"].values()} == {fold}
        assert {subject["fold"] for subject in parts["validation"].values()} == {(fold + 1) % 3}
        tested += parts["test"]
    assert sorted(tested) == list("abcdef")
    assert parts["test"][tested[-1]] == {
        "subject": tested[-1],
        "image": str(root / f"Data/SWI/{tested[-1]}.nii.gz"),
        "phase": str(root / f"Data/Phase/{tested[-1]}.nii.gz"),
        "label": str(root / f"Label/{tested[-1]}.xlsx"),
        "fold": 2,
    }


def test_without_a_test_fold_all_others_train(tmp_path):
    root = cohort(tmp_path, LESIONS)
    parts = {name: part(root, subset=name, fold=-1, folds=3) for name in ("validation", "train")}
    assert {subject["fold"] for subject in parts["validation"]} == {0}
    assert {subject["fold"] for subject in parts["train"]} == {1, 2}
    with pytest.raises(SubjectError, match="no subject is in the test part of fold -1 of 3"):
        part(root, subset="test", fold=-1, folds=3)
    with pytest.raises(SubjectError, match="fold is -2"):
        part(root, subset="train", fold=-2, folds=3)


def test_all_needs_no_label_and_filters_by_id(tmp_path):
    touch(tmp_path, "01_swi.nii.gz", "02_swi.nii.gz", "03_phase.nii.gz")
    assert [("error" in subject) for subject in part(tmp_path)] == [False, False, True]
    assert part(tmp_path, subjects=["02"]) == [{"subject": "02", "image": str(tmp_path / "02_swi.nii.gz")}]
    with pytest.raises(SubjectError, match=r"2, there is no trace; there are 01, 02, 03\."):
        part(tmp_path, subjects=["01", "2"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "training"}, "must be all, test, validation, train"),
        ({"subset": "train", "folds": 2}, "3 folds or more"),
        ({"subset": "train", "fold": 5}, "fold is 5 and folds is 5"),
        (
            {"subset": "train", "folds": 7},
            "6 subjects have a label that can be read, fewer than the 7 folds; 1 have no",
        ),
        ({"subset": "test", "folds": 3, "subjects": []}, "none at all"),
    ],
)
def test_wrong_parts(tmp_path, options, message):
    with pytest.raises(SubjectError, match=message):
        part(cohort(tmp_path, LESIONS), **options)


def test_training_without_a_microbleed_is_explained(tmp_path):
    root = cohort(tmp_path, dict.fromkeys("abc", 0) | {"d": 1})
    fold = next(subject["fold"] for subject in make_datalist(root, folds=3)["training"] if subject["subject"] == "d")
    with pytest.raises(SubjectError, match=r"none of the . training subjects .* nothing to learn from"):
        part(root, subset="train", fold=fold, folds=3)
    assert part(root, subset="train", fold=(fold + 1) % 3, folds=3)


# Datasets


def images(root, values):
    """A subject for each value: a volume of that value; None for a file that is no image."""
    subjects = []
    for name, value in values.items():
        path = root / f"{name}_swi.nii.gz"
        if value is None:
            path.write_bytes(b"no image")
        else:
            nib.save(nib.Nifti1Image(np.full((4, 3, 2), value, dtype=np.float32), np.diag([0.5, 0.5, 2, 1])), path)
        subjects.append({"subject": name, "image": str(path)})
    return subjects


class Count:
    """Refuses volumes above 100, with a cause of its own as MONAI's transforms have it, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        if float(image.max()) > 100:
            raise SubjectError("too bright") from KeyError("bottom")
        if float(image.max()) < 0:
            raise RuntimeError("outer") from ValueError("inner")
        return image


def deterministic(count=None):
    return [LoadImaged(keys="image"), Lambdad(keys="image", func=count or Count())]


VALUES = {"a": 0.1, "b": None, "c": 200, "d": 0.4, "e": -1, "f": 0.6}


@pytest.mark.parametrize("cache_rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_cohort_leaves_out_failing_subjects(tmp_path, caplog, cache_rate, num_workers):
    data = [*images(tmp_path, VALUES), {"subject": "g", "error": "has no image"}]
    dataset = CohortDataset(data, deterministic(), cache_rate, num_workers, progress=False)
    assert [item["subject"] for item in dataset] == ["a", "d", "f"]
    np.testing.assert_allclose([float(item["image"].max()) for item in dataset], [0.1, 0.4, 0.6], atol=2**-12)
    assert list(dataset.failures) == ["b", "c", "e", "g"]
    assert dataset.failures["c"] == "SubjectError: too bright"
    assert dataset.failures["e"] == "ValueError: inner"
    assert dataset.failures["g"] == "SubjectError: has no image"
    assert "4 subjects could not be loaded" in caplog.text and "c: SubjectError: too bright" in caplog.text
    assert len(dataset) == 3 and dataset[-1]["subject"] == "f"
    with pytest.raises(IndexError):
        dataset[3]
    loaded = [batch["subject"][0] for batch in DataLoader(dataset, batch_size=1, num_workers=0)]
    assert loaded == ["a", "d", "f"]


def test_cohort_caches_as_told(tmp_path):
    count = Count()
    data = images(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    dataset = CohortDataset(data, deterministic(count), cache_rate=0.5, progress=False)
    assert count.calls == 4
    for index in range(4):
        dataset[index]
    assert count.calls == 6


def test_cohort_keeps_halves_and_hands_out_whole_numbers(tmp_path):
    path = images(tmp_path, {"a": 0.3, "big": 99})
    transform = [
        *deterministic(),
        Lambdad(keys="image", func=lambda image: image * 1e4 if float(image.max()) > 1 else image),
    ]
    dataset = CohortDataset(path, transform, progress=False)
    assert [item["image"].dtype for item in dataset._cache] == [torch.float16, torch.float32]
    item = dataset[0]
    assert item["image"].dtype == torch.float32
    assert float(item["image"].max()) == float(np.float16(0.3))
    np.testing.assert_allclose(np.asarray(item["image"].affine), np.diag([0.5, 0.5, 2, 1]))
    assert float(dataset[1]["image"].max()) == 990_000
    whole = CohortDataset(path[:1], transform, progress=False, half_keys=())
    assert whole._cache[0]["image"].dtype == torch.float32


class DoubleInPlace(RandomizableTransform):
    def __call__(self, data):
        data["image"].mul_(2)
        return data


@pytest.mark.parametrize("half_keys", [("image",), ()])
def test_random_transforms_do_not_change_the_cache(tmp_path, half_keys):
    transform = [*deterministic(), DoubleInPlace(), Lambdad(keys="image", func=lambda image: image + 1)]
    dataset = CohortDataset(images(tmp_path, {"a": 0.25}), transform, progress=False, half_keys=half_keys)
    for _ in range(3):
        item = dataset[0]
        assert float(item["image"].max()) == 1.5
        assert len(item["image"].applied_operations) == 2
    assert float(dataset._cache[0]["image"].max()) == 0.25
    assert len(dataset._cache[0]["image"].applied_operations) == 1


def test_cohort_of_failures_only_lists_them(tmp_path):
    with pytest.raises(
        SubjectError, match=r"None of 2 subjects could be loaded:\n  b: .*(\n.*)*  c: SubjectError: too b"
    ):
        CohortDataset(images(tmp_path, {"b": None, "c": 200}), deterministic(), progress=False)


def test_lack_of_memory_is_not_blamed_on_a_subject(tmp_path):
    def grab(image):
        raise MemoryError

    with pytest.raises(RuntimeError, match="applying transform"):
        CohortDataset(images(tmp_path, {"a": 1}), [LoadImaged(keys="image"), Lambdad("image", grab)], progress=False)


def test_subject_dataset_hands_out_errors_as_items(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    data = [*images(tmp_path, VALUES), {"subject": "g", "error": "has no image"}]
    items = list(SubjectDataset(data, deterministic()))
    assert [item["subject"] for item in items] == list("abcdefg")
    assert ["error" in item for item in items] == [False, True, True, False, True, False, True]
    assert items[2] == {"subject": "c", "error": "SubjectError: too bright"}
    assert items[4] == {"subject": "e", "error": "ValueError: inner"}
    assert items[6] == {"subject": "g", "error": "SubjectError: has no image"}
    assert "b_swi.nii.gz" in items[1]["error"]
    np.testing.assert_allclose(float(items[3]["image"].max()), 0.4, rtol=1e-6)


def test_subject_dataset_lets_an_interrupt_through(tmp_path):
    def interrupt(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SubjectDataset(images(tmp_path, {"a": 1}), [LoadImaged(keys="image"), Lambdad("image", interrupt)])[0]


def test_entries_without_an_id_are_named_by_their_image(tmp_path):
    path = tmp_path / "x.nii.gz"
    assert SubjectDataset([{"image": str(path)}], deterministic())[0]["subject"] == str(path)


def test_without_random_gives_the_cached_items_before_the_random_transforms():
    class Double(Transform):
        def __call__(self, data):
            return {**data, "image": data["image"] * 2}

    class Noise(RandomizableTransform):
        def __call__(self, data):
            return {**data, "image": data["image"] + self.R.random()}

    data = [{"subject": name, "image": torch.full((2,), float(number))} for number, name in enumerate("abc")]
    dataset = CohortDataset(data, Compose([Double(), Noise()]), cache_rate=0.67, progress=False)
    plain = dataset.without_random()
    assert [item["image"].tolist() for item in plain] == [[0, 0], [2, 2], [4, 4]]
    assert plain._cache is dataset._cache
    assert all(item["image"][0] != 2 * number for number, item in enumerate(dataset))


@pytest.mark.parametrize("key", ["label", "image", "phase"])
@pytest.mark.parametrize("value", [5, {"path": "a"}, ["01_swi.nii.gz", 3], True])
def test_a_datalist_entry_of_a_wrong_type_fails_alone(tmp_path, key, value):
    touch(tmp_path, "01_swi.nii.gz", "02_swi.nii.gz")
    entries = [{"subject": "01", "image": "01_swi.nii.gz", key: value}, {"subject": "02", "image": "02_swi.nii.gz"}]
    (tmp_path / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    first, second = find_subjects(tmp_path / "list.json")
    assert f'has {value!r} as "{key}" in the datalist, which is no path' in first["error"]
    assert "error" not in second


def test_labels_that_are_texts(tmp_path):
    touch(tmp_path, *(f"Data/SWI/0{n}.nii.gz" for n in range(1, 5)))
    touch(tmp_path, "Label/01.txt", "Label/02.tsv", "Label/03.xlsm", "Label/README.txt", "Label/notes 2024.txt")
    subjects = find_subjects(tmp_path)
    assert [Path(subject.get("label", "-")).name for subject in subjects] == ["01.txt", "02.tsv", "03.xlsm", "-"]
    assert not any("error" in subject for subject in subjects)


def test_a_text_beside_a_scan_is_no_label_unless_its_name_says_so(tmp_path):
    touch(tmp_path, "01_swi.nii.gz", "01.txt", "02_swi.nii.gz", "02_label.txt", "03_swi.nii.gz", "03.tsv")
    labels = [Path(subject.get("label", "-")).name for subject in find_subjects(tmp_path)]
    assert labels == ["-", "02_label.txt", "03.tsv"]


def test_a_label_in_a_form_that_is_not_read_fails_in_training_and_a_readable_one_beside_it_is_taken(tmp_path):
    for name in ("a", "b", "c", "d"):
        touch(tmp_path, f"Data/SWI/{name}.nii.gz")
    touch(tmp_path, "Label/a.ods", "Label/b.mrk.json", "Label/c.ods")
    for name in ("c", "d"):
        (tmp_path / "Label" / f"{name}.csv").write_text("1,2,3\n")
    files = {subject["subject"]: Path(subject["label"]).name for subject in find_subjects(tmp_path)}
    assert files == {"a": "a.ods", "b": "b.mrk.json", "c": "c.csv", "d": "d.csv"}
    with pytest.raises(LabelError, match=r"a\.ods: this kind of label file cannot be read; .* Save it in one of these"):
        count_points(tmp_path / "Label" / "a.ods")
    beside = touch(tmp_path / "beside", "a_swi.nii.gz", "a.numbers", "b_swi.nii.gz", "b.fcsv", "b.csv")
    assert [Path(subject["label"]).name for subject in find_subjects(beside)] == ["a.numbers", "b.csv"]


def test_a_table_that_is_no_label_by_its_name_is_mentioned(tmp_path):
    touch(
        tmp_path, "P1_swi.nii.gz", "P1_CMB.xlsx", "P1_cmb.csv", "P1.csv", "P1 (1).csv", "P2/swi.nii.gz", "P2/rater.csv"
    )
    touch(tmp_path, "demographics.xlsx", "P10_swi.nii.gz")
    found = {subject["subject"]: subject for subject in find_subjects(tmp_path)}
    assert Path(found["P1"]["label"]).name == "P1.csv"
    assert [line.split(" was not read")[0] for line in found["P1"]["notices"].split("label. ")] == [
        "P1 (1).csv", "P1_CMB.xlsx"
    ]  # fmt: skip
    assert found["P2"]["notices"].startswith("rater.csv was not read: a table of labels is named as its subject")
    assert "notices" not in found["P10"]


def test_a_csv_with_a_cell_too_long_fails_its_subject_alone(tmp_path):
    touch(tmp_path, *(f"Data/SWI/0{n}.nii.gz" for n in range(1, 6)))
    (tmp_path / "Label").mkdir()
    for n in range(1, 5):
        (tmp_path / f"Label/0{n}.csv").write_text(f"{n + 3},5,6\n", encoding="utf-8")
    (tmp_path / "Label/05.csv").write_text("slice,x,y,note\n1,2,3," + "a" * 131073 + "\n", encoding="utf-8")
    datalist = make_datalist(tmp_path, folds=3)
    assert [entry["subject"] for entry in datalist["training"]] == ["01", "02", "03", "04"]
    assert "cannot be read as a table" in datalist["failures"]["05"]


def test_patches_are_the_same_without_a_record_of_what_was_done_to_them():
    items = [{"image": torch.rand(2, 12, 12, 6, generator=torch.Generator().manual_seed(3))}] * 3
    turned = [RandAffined("image", prob=1.0, rotate_range=[0.0, 0.0, 3.0]), RandFlipd("image", prob=0.5)]
    recorded, plain = SeededItems(items, Compose(turned)), PatchDataset(items, Compose(turned))
    recorded.epoch_seed = plain.epoch_seed = 4
    for one, other in zip(recorded, plain, strict=True):
        assert type(other["image"]) is torch.Tensor and type(one["image"]) is MetaTensor
        assert torch.equal(one["image"].as_tensor(), other["image"])
    assert get_track_meta()


@pytest.mark.parametrize(
    "transform",
    [
        Compose([RandGaussianNoised("image", prob=1.0), Compose([RandGaussianNoised("image", prob=1.0)])]),
        OneOf([RandGaussianNoised("image", prob=1.0, std=std) for std in (0.1, 10.0)]),
        RandGaussianNoised("image", prob=1.0),
    ],
    ids=["nested", "one of", "alone"],
)
def test_an_item_depends_on_the_seed_and_its_index_and_not_on_the_order(transform):
    def items(seed, order):
        dataset = SeededItems([{"image": torch.zeros(1, 4, 4)}] * 6, transform)
        dataset.epoch_seed = seed
        found = {index: dataset[index]["image"].as_tensor() for index in order}
        return torch.stack([found[index] for index in range(6)])

    first, again, other = items(1, range(6)), items(1, (5, 0, 3, 3, 1, 2, 4)), items(2, range(6))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert len(first.flatten().unique()) == first.numel()
