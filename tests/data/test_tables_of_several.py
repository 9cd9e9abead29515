"""One table for the labels of several subjects, as the page for review writes it."""

import nibabel as nib
import numpy as np
import pytest

from cmb_bundle.scripts.data.label_files import subjects_of_table
from cmb_bundle.scripts.data.labels import count_points, read_points
from cmb_bundle.scripts.data.splits import Split, labelled_by, make_datalist
from cmb_bundle.scripts.errors import LabelError

SHAPE, AFFINE = (64, 48, 20), np.diag([0.5, 0.5, 2.0, 1.0])
TABLE = """\
subject,lesion,slice,x,y,class,diameter_mm,comment
a,1,3.4,10.5,20,cmb,3.1,
a,2,4,10,20,no cmb,2,a vein
a,3,4,11,20,cmb,,
b,1,5,30,7,unsure,2.5,
b,2,6,30,7,no cmb,2.5,
c,0,,,,none,,
d,1,6,30,7,undecided,2.5,
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "review.csv"
    path.write_text("\ufeff" + TABLE, encoding="utf-8")
    return path


def test_each_subject_has_its_own_rows(table):
    points = read_points(table, SHAPE, AFFINE, subject="a")
    # not joined, though they are near: each has a number of its own
    np.testing.assert_allclose(points.voxel, [[9.5, 19, 2.4], [10, 19, 3]])
    np.testing.assert_allclose(points.diameter_mm, [3.1, np.nan])
    assert points.notices == ()
    assert [count_points(table, name) for name in "abc"] == [2, 0, 0]
    assert subjects_of_table(table) == ["a", "b", "c", "d"]


def test_what_a_reader_was_unsure_of_is_left_out_with_a_notice(table):
    assert read_points(table, SHAPE, AFFINE, subject="b").notices == (
        "review.csv: 1 place(s) of which the reader was unsure do not count as microbleeds.",
    )


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("d", "1 rows of this subject are undecided, row 8 is the first"),
        ("e", "has rows of 4 subjects (a, b, c, d), and e is none of them"),
        (None, "which of them to read was not said"),
    ],
)
def test_what_is_no_label_is_refused(table, subject, said):
    with pytest.raises(LabelError) as error:
        read_points(table, SHAPE, AFFINE, subject=subject)
    assert said in str(error.value)


def test_a_row_without_a_subject_is_refused(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("subject,slice,x,y\na,1,2,3\n,1,2,3\nb,1,2,3\n")
    with pytest.raises(LabelError, match="row 3 has none in the column subject"):
        read_points(path, SHAPE, AFFINE, subject="a")


def test_a_table_of_one_subject_is_read_however_it_writes_the_id(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("subject,slice,x,y\n0001,1,2,3\n0001,9,2,3\n")
    assert len(read_points(path, SHAPE, AFFINE, subject="1")) == 2


def test_a_table_without_subjects_is_none_for_several(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("slice,x,y\n1,2,3\n")
    with pytest.raises(LabelError, match="has no column subject"):
        subjects_of_table(path)
    with pytest.raises(LabelError, match="is no table"):
        (tmp_path / "a.nii").write_bytes(b"x")
        subjects_of_table(tmp_path / "a.nii")


@pytest.fixture
def scans(tmp_path):
    for name in "abcdef":
        path = tmp_path / "scans" / f"{name}_swi.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), path)
    (tmp_path / "scans" / "e_label.csv").write_text("slice,x,y\n1,2,3\n")
    (tmp_path / "scans" / "a_label.csv").write_text("slice,x,y\n1,2,3\n")
    return tmp_path / "scans"


def test_the_table_takes_the_place_of_all_labels(scans, table, tmp_path):
    found = make_datalist(scans, tmp_path / "datalist.json", folds=3, label_file=table)
    assert {entry["subject"]: (entry["label"], entry["lesions"]) for entry in found["training"]} == {
        "a": (str(table), 2), "b": (str(table), 0), "c": (str(table), 0),
    }  # fmt: skip
    assert [entry["subject"] for entry in found["unlabelled"]] == ["e", "f"]
    assert "undecided" in found["failures"]["d"]
    # a datalist that is there has the labels of the table, too, and without it those that it was made with
    split = Split(scans, tmp_path / "datalist.json", folds=3, label_file=table)
    assert [entry["lesions"] for entry in split.datalist["training"]] == [2, 0, 0]
    again = Split(scans, tmp_path / "datalist.json", folds=3)
    assert {entry["label"] for entry in again.part("train")} <= {str(table)}
    every = {entry["subject"]: entry.get("label") for entry in split.part("all")}
    assert every == dict.fromkeys("abcd", str(table)) | {"e": None, "f": None}


def test_an_older_datalist_takes_the_labels_of_the_table(scans, table, tmp_path):
    for name in "bcdf":
        (scans / f"{name}_label.csv").write_text("slice,x,y\n1,2,3\n")
    make_datalist(scans, tmp_path / "datalist.json", folds=3)
    found = make_datalist(scans, tmp_path / "datalist.json", folds=3, label_file=table)
    assert {entry["subject"]: entry["lesions"] for entry in found["training"]} == {"a": 2, "b": 0, "c": 0}
    assert set(found["failures"]) == {"d", "e", "f"}


def test_a_table_of_another_data_set_is_refused(scans, table):
    with pytest.raises(LabelError, match="names x, of which"):
        table.write_text("subject,slice,x,y,class\na,1,2,3,cmb\nx,1,2,3,cmb\n")
        labelled_by([{"subject": "a"}], table, scans)
