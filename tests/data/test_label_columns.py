"""Columns of a table of points beside slice, x and y: rows that are denied, rows of others, and what was not read."""

import logging

import nibabel as nib
import numpy as np
import openpyxl
import pytest

from cmb_bundle.scripts.data.label_columns import _id, _is_id_of
from cmb_bundle.scripts.data.labels import count_points, read_points
from cmb_bundle.scripts.errors import LabelError
from cmb_bundle.scripts.transforms import LoadSubjectd, ReadPointsd

SHAPE, AFFINE = (64, 48, 20), np.diag([0.5, 0.5, 2.0, 1.0])
PLACES = ("1;2;3", "2;5;9", "7;10;20", "9;40;30")
VOXELS = [[1, 2, 0], [4, 8, 1], [9, 19, 6], [39, 29, 8]]


def table(tmp_path, header, *rows, name="P1.csv"):
    """A row for each of the places, with cells of other columns behind it."""
    lines = [f"{place};{row}" for place, row in zip(PLACES, rows, strict=False)]
    path = tmp_path / name
    path.write_text("\n".join([f"slice;x;y;{header}", *lines]) + "\n", encoding="utf-8")
    return path


def read(path, subject="P1"):
    return read_points(path, SHAPE, AFFINE, subject=subject)


def error_of(path, subject="P1"):
    with pytest.raises(LabelError) as caught:
        read(path, subject)
    with pytest.raises(LabelError):
        count_points(path, subject)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# Rows that a column denies


@pytest.mark.parametrize(
    ("header", "yes", "no"),
    [
        ("Consensus", "1", "0"),
        ("consensus", "y", "n"),
        ("Final consensus", "1", "0"),
        ("rating", "1", "0"),
        ("status", "1", "0"),
        ("status", "y", "n"),
        ("decision", "1", "0"),
        ("decision", "2", "0"),
        ("gt", "1", "0"),
        ("ground_truth", "1.0", "0.0"),
        ("CMB (1/0)", "1", "0"),
        ("CMB (0/1)", "1", "0"),
        ("CMB 0/1", "1", "0"),
        ("isCMB", "True", "False"),
        ("label (1=CMB, 2=no)", "1", "2"),
        ("CMB (0=yes, 1=no)", "0", "1"),
        ("agree", "yes", "no"),
        ("n_CMB", "1", "0"),
        ("count", "1", "0"),
        ("certainty", "possible", "unlikely"),
        ("Level of confidence", "high", "very unlikely"),
        ("Bemerkung", "", "unwahrscheinlich"),
        ("remove", "", "x"),
        ("Rater1", "1", "0"),
        ("type", "CMB", "siderosis"),
    ],
)
def test_a_no_to_what_the_header_asks_is_refused(tmp_path, header, yes, no):
    assert error_of(table(tmp_path, header, yes, no)) == (
        f"row 3, column 4 ({header}) holds {no!r}, but there is no column class, so that the row would count as a "
        "microbleed. Name the column class, with cmb and mimic in it, or remove the row; if the column says something "
        "else, rename it."
    )
    assert len(read(table(tmp_path, header, yes, yes))) == 2


@pytest.mark.parametrize(
    "cell",
    [
        "no CMB on review",
        "Not a microbleed, vein",
        "false positive after consensus",
        "duplicate of 1",
        "Duplicate (of row 2)",
        "duplicate #3",
        "rejected by R2",
        "removed",
        "Dropped",
        "dropped: vessel",
        "unlikely a microbleed",
        "not confirmed",
        "ruled out on CT",
        "verworfen nach Konsens",
    ],
)
@pytest.mark.parametrize("header", ["status", "comment", "", "Bemerkung"])
def test_a_cell_that_denies_its_row_is_refused_in_any_column(tmp_path, header, cell):
    message = error_of(table(tmp_path, header, "ok", cell))
    assert message.startswith(f"row 3, column 4 ({header}) holds {cell!r}, but there is no column class")
    assert message.endswith("or remove the row.")


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("rating", ("0", "3")),
        ("status", ("0", "0")),
        ("type", ("0", "1", "2")),
        ("comment", ("no other CMB", "removed skull shows it well", "unlikely a vein")),
        ("comment", ("same as in 2019", "no")),
        ("vessel", ("unlikely", "no")),
        ("confidence", ("0", "1")),
        ("location", ("0", "1")),
        ("Rater1;Rater2", ("1;0", "0;1")),
        ("Rater1;Rater2;consensus", ("1;1;1", "0;0;1")),
        ("R1;R2", ("x;", ";x")),
    ],
)
def test_what_may_be_said_of_a_microbleed_is_read(tmp_path, header, cells):
    assert read(table(tmp_path, header, *cells)).voxel.tolist() == VOXELS[: len(cells)]


def test_a_code_of_the_header_that_means_a_mimic_is_refused(tmp_path):
    message = error_of(table(tmp_path, "class code (1=CMB, 2=mimic)", "1", "2"))
    assert message.startswith("row 3, column 4 (class code (1=CMB, 2=mimic)) holds '2', but there is no column class")


def test_a_row_that_all_readers_deny_is_refused(tmp_path):
    message = error_of(table(tmp_path, "Rater1;Reader B (0/1);R3", "1;0;1", "0;no;"))
    assert message.startswith("row 3, columns 4, 5 (Rater1, Reader B (0/1)) hold '0', 'no', but there is no column")
    assert message.endswith("if these say something else, rename them.")


def test_numbers_and_truths_of_excel_deny_as_their_texts_do(tmp_path):
    for number, cell in enumerate((0, 0.0, False, "0")):
        book = openpyxl.Workbook()
        for row in (("slice", "x", "y", "Consensus"), (1, 2, 3, 1), (2, 5, 9, cell)):
            book.active.append(row)
        book.save(tmp_path / f"{number}.xlsx")
        assert error_of(tmp_path / f"{number}.xlsx").startswith("row 3, column 4 (Consensus) holds")


def test_the_class_decides_against_another_column_with_a_notice(tmp_path):
    points = read(table(tmp_path, "class;Consensus;comment", "1;1;", "1;0;mimic", "0;0;", "cmb;;no CMB"))
    assert points.voxel.tolist() == [VOXELS[0], VOXELS[1], VOXELS[3]]
    assert points.notices == (
        "P1.csv: 2 row(s) count as microbleeds by the column class, though another column denies it: row 3, column 5 "
        "(Consensus) holds '0'.",
    )
    assert read(table(tmp_path, "class;Rater1;type", "1;1;deep", "mimic;0;vein")).notices == ()


# What was not read


@pytest.mark.parametrize(
    ("header", "cells", "said"),
    [
        ("comment;Rater1;Rater2", ("big;1;0", ";0;1"), "columns comment, Rater1 (0, 1) and Rater2 (0, 1) were"),
        ("comment;Rater1", ("x y;1", "?;1"), "column comment was"),
        ("MARS", ("definite", "possible"), "column MARS (definite, possible) was"),
        ("marked", ("x", "", "x"), "column marked (x, blank) was"),
        ("CMB", ("yes", ""), "column CMB (yes, blank) was"),
        ("confidence", ("5", "10", "5"), "column confidence (5, 10) was"),
        ("probability", ("0.9", "0.8", "0.1", "0.05"), "column probability (0.05, 0.1, 0.8, 0.9) was"),
        ("decided", ("a", "this is too long to be shown"), "column decided was"),
        ("", ("here", "there"), "column number 4 (here, there) was"),
        ("a;b;c;d;e;f;g", ("9;2;3;4;5;6;7",) * 2, "columns a (9), b (2), c (3), d (4), e (5) and 2 more were"),
        (
            "b;c;d;e;f;g",
            ("so long that it is not shown;2;3;4;5;6",) * 2,
            "columns c (2), d (3), e (4), f (5), g (6) and 1 more were",
        ),
        ("TP", ("0", "0"), "column TP (0) was"),
        ("ID", ("P7", "P7"), "column ID (P7) was"),
    ],
)
def test_columns_that_were_not_read_are_named_with_their_values(tmp_path, header, cells, said):
    points = read(table(tmp_path, header, *cells))
    assert points.voxel.tolist() == VOXELS[: len(cells)]
    assert points.notices == (f"P1.csv: the {said} not read; each row counts as a microbleed.",)


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("location;Region;side", ("deep;basal ganglia;L", "lobar;frontal;R")),
        ("comment;remarks", (";", ";")),
        ("Name;date;reader;visit", ("M;2024-05-01;AB;1",) * 2),
        ("diameter;Volume (ml);max. diameter [mm]", ("3;0.1;2", "4;0.2;3")),
        ("No.;Lesion ID;ID", ("1;a;x1", "2;b;x2")),
        ("CMB;mimic;status", ("1;0;confirmed", "1;;definite")),
        ("", ("1", "2")),
        ("subject;age;scanner", ("P1;70;A",) * 2),
        ("classifier_probability;probability;detector_score", ("0.1;0.2;0.3", "0.2;0.3;0.4")),
    ],
)
def test_columns_that_judge_no_row_make_no_notice(tmp_path, header, cells):
    points = read(table(tmp_path, header, *cells))
    assert points.voxel.tolist() == VOXELS[:2] and points.notices == ()


def test_the_notice_is_logged_and_a_warning_of_the_subject(tmp_path, caplog):
    nib.save(
        nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE), AFFINE), tmp_path / "P1_swi.nii.gz"
    )
    said = "P1.csv: the column Rater1 (1, blank) was not read; each row counts as a microbleed."
    subject = {"subject": "P1", "image": str(tmp_path / "P1_swi.nii.gz")}
    subject["label"] = str(table(tmp_path, "Rater1", "1", ""))
    with caplog.at_level(logging.WARNING):
        read_subject = ReadPointsd()(LoadSubjectd(keys="image")(subject))
    assert said in read_subject["warnings"] and said in caplog.text


# Rows of several subjects

HEADERS = ("subject", "Patient", "patient_id", "subject_id", "participant_id", "Subject ID", "PatientID", "Pat-Nr.")
PERHAPS = ("ID", "case", "Fall", "Case ID", "study_id")


@pytest.mark.parametrize("header", [*HEADERS, *PERHAPS])
@pytest.mark.parametrize(("one", "other"), [("P1", "P2"), ("p01", "P11"), ("sub-P1", "sub-P2")])
def test_of_several_subjects_only_the_own_rows_are_read(tmp_path, header, one, other):
    path = table(tmp_path, header, one, other, one)
    points = read(path)
    assert points.voxel.tolist() == [VOXELS[0], VOXELS[2]] and count_points(path, "P1") == 2
    notice = f"P1.csv: only the 2 row(s) with {one} in the column {header!r} were read."
    assert points.notices == (() if header == "subject" else (notice,))


def test_a_session_is_named_by_its_participant(tmp_path):
    points = read(table(tmp_path, "ID", "sub-01", "sub-02", "sub-01"), "sub-01_ses-02")
    assert points.voxel.tolist() == [VOXELS[0], VOXELS[2]]


@pytest.mark.parametrize("header", HEADERS)
def test_a_table_of_others_is_refused(tmp_path, header):
    path = table(tmp_path, header, "P1", "P1", name="P3.csv")
    assert error_of(path, "P3").startswith(f"the column {header} says P1 in place of P3. Is it the table of another")
    path = table(tmp_path, header, "P1", "P2", name="P3.csv")
    assert error_of(path, "P3").startswith("has rows of 2 subjects (P1, P2), and P3 is none of them.")
    with pytest.raises(LabelError, match="which of them to read was not said"):
        count_points(path)
    assert count_points(table(tmp_path, header, "P1", "p1")) == 2
    with pytest.raises(LabelError, match="but row 3 has none in the column"):
        read(table(tmp_path, header, "P1", "", "P2"))


@pytest.mark.parametrize(
    ("subject", "cells"),
    [
        ("P4", ("P4", "p4")),
        ("1", ("0001", "0001")),
        ("0001", ("1", "1.0")),
        ("sub-01_ses-02", ("01", "sub-01")),
        ("sub-01_ses-02", ("sub-01_ses-02",) * 2),
        ("P007", ("7", "7")),
        ("7", ("P007", "P007")),
        ("P1_baseline", ("P1", "P1")),
        ("P1", ("P1", "")),
    ],
)
def test_another_spelling_of_the_id_is_the_same_subject(tmp_path, subject, cells):
    points = read(table(tmp_path, "Patient", *cells), subject)
    assert points.voxel.tolist() == VOXELS[:2] and points.notices == ()


@pytest.mark.parametrize(
    ("named", "subject", "strictly", "loosely"),
    [
        ("P10", "P1", False, False),
        ("A7", "B7", False, False),
        ("P1_2", "P1", False, False),
        ("100", "10", False, False),
        ("P1", "P1_2", False, True),
        ("7", "A7", False, True),
        ("SUB-007", "7", True, True),
    ],
)
def test_ids_that_are_the_same(named, subject, strictly, loosely):
    assert (_is_id_of(named, subject, False), _is_id_of(named, subject, True)) == (strictly, loosely)
    assert _id("Site01-P0010") == "site1-p10"


def test_two_spellings_beside_another_subject_are_refused(tmp_path):
    message = error_of(table(tmp_path, "subject", "01", "1", "2"), "1")
    assert message.startswith("has rows of 01, 1 in the column subject, which may be one subject or several.")


@pytest.mark.parametrize(
    ("header", "cells", "subject"),
    [
        ("ID", ("1", "2", "3"), "P1"),
        ("ID", ("1", "2", "2"), "P2"),
        ("case", ("P1_1", "P1_2", "P1_3"), "P1"),
        ("ID", ("a", "b", "c"), "P1"),
    ],
)
def test_a_column_that_numbers_the_lesions_names_no_subject(tmp_path, header, cells, subject):
    points = read(table(tmp_path, header, *cells), subject)
    assert points.voxel.tolist() == VOXELS[:3] and points.notices == ()


def test_numbers_that_may_be_of_lesions_or_of_subjects(tmp_path):
    points = read(table(tmp_path, "ID", "1", "2", "3"), "002")
    assert points.voxel.tolist() == VOXELS[:3]
    assert points.notices == ("P1.csv: the column ID (1, 2, 3) was not read; each row counts as a microbleed.",)
    assert error_of(table(tmp_path, "ID", "1", "1", "2"), "002") == (
        "the column 'ID' holds 2 numbers (1, 2), one of which is the id of this subject, so that they may be those of "
        "subjects or of lesions. Name the column subject or lesion."
    )


def test_of_two_columns_the_one_with_the_id_names_the_subject(tmp_path):
    path = table(tmp_path, "Patient;ID", "Meier;P1", "Schulz;P2", "Meier;P1")
    assert read(path).voxel.tolist() == [VOXELS[0], VOXELS[2]]
    path = table(tmp_path, "subject;patient_id", "P1;77", "P1;77")
    assert read(path).voxel.tolist() == VOXELS[:2]


# Rows of several readings


@pytest.mark.parametrize(
    ("header", "cells", "what"),
    [
        ("TP", ("1", "2"), "visits"),
        ("sequence", ("SWI", "T2*"), "images"),
        ("Series", ("SWI", "mIP"), "images"),
        ("Series Description", ("SWI", "mIP"), "images"),
        ("Rater 1/2", ("1", "2"), "readers"),
        ("Reader (1/2)", ("1", "2"), "readers"),
        ("Initials", ("AB", "CD"), "readers"),
    ],
)
def test_rows_of_several_readings_are_not_added_up(tmp_path, header, cells, what):
    assert error_of(table(tmp_path, header, *cells)) == (
        f"the column {header!r} names 2 {what} ({', '.join(cells)}), whose microbleeds would be added up. Expected the "
        f"rows of one: save a table for each, or keep one of them; if they are no {what}, rename the column."
    )
    points = read(table(tmp_path, header, cells[0], cells[0]))
    assert len(points) == 2 and points.notices == ()
