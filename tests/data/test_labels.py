"""Point labels: conventions, tables, label maps and their errors, against numbers worked out by hand."""

import itertools
import tracemalloc

import nibabel as nib
import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data import ITKWriter

from cmb_bundle.scripts.data.labels import LabelConvention, count_points, read_points
from cmb_bundle.scripts.errors import LabelError

CONVENTIONS = [LabelConvention(base, *flags) for base in (0, 1) for flags in itertools.product((False, True), repeat=4)]
SHAPE = (64, 48, 20)
# 0.5 x 0.8 mm in the plane, slices of 2 mm; the first axis runs to the left, and the origin is not 0.
AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.8, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]])


def excel(path, rows, sheets=()):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name, more in sheets:
        sheet = book.create_sheet(name)
        for row in more:
            sheet.append(row)
    book.save(path)
    return path


def text(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def label_map(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def error_of(path, **options):
    with pytest.raises(LabelError) as caught:
        read_points(path, SHAPE, AFFINE, **options)
    assert path.name in str(caught.value)
    return str(caught.value)


# Conventions


def test_default_convention_by_hand():
    voxel = LabelConvention().to_voxel([(7, 10, 20), (1, 1, 1)], SHAPE)
    assert voxel.tolist() == [[9, 19, 6], [0, 0, 0]]


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        (LabelConvention(index_base=0), (10, 20, 7)),
        (LabelConvention(swap_xy=True), (19, 9, 6)),
        (LabelConvention(flip_x=True), (64 - 10, 19, 6)),
        (LabelConvention(flip_y=True), (9, 48 - 20, 6)),
        (LabelConvention(flip_slice=True), (9, 19, 20 - 7)),
        # With x along the second axis it is mirrored about 48, and y about 64.
        (LabelConvention(swap_xy=True, flip_x=True), (19, 48 - 10, 6)),
        (LabelConvention(swap_xy=True, flip_y=True), (64 - 20, 9, 6)),
    ],
)
def test_each_flag_by_hand(convention, expected):
    assert convention.to_voxel([(7, 10, 20)], SHAPE).tolist() == [list(expected)]


def test_the_32_conventions_all_differ():
    places = {tuple(convention.to_voxel([(7, 10, 20)], SHAPE)[0]) for convention in CONVENTIONS}
    assert len(CONVENTIONS) == len(places) == 32


@given(
    convention=st.sampled_from(CONVENTIONS),
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    rows=st.lists(st.tuples(*[st.integers(-1200, 1200).map(lambda number: number / 2)] * 3), max_size=5),
)
def test_round_trip_is_exact(convention, shape, rows):
    rows = np.array(rows, dtype=float).reshape(-1, 3)
    voxel = convention.to_voxel(rows, shape)
    assert voxel.shape == rows.shape
    np.testing.assert_array_equal(convention.from_voxel(voxel, shape), rows)


@given(convention=st.sampled_from(CONVENTIONS), data=st.data())
def test_rows_of_an_image_stay_in_the_image(convention, data):
    voxel = np.array([[data.draw(st.integers(0, extent - 1)) for extent in SHAPE]])
    rows = convention.from_voxel(voxel, SHAPE)
    assert (rows >= convention.index_base).all()
    np.testing.assert_array_equal(convention.to_voxel(rows, SHAPE), voxel)


def test_index_base_of_2_is_refused():
    with pytest.raises(LabelError, match="must be 0 or 1"):
        LabelConvention(index_base=2)


# Tables that are read


@pytest.mark.parametrize("name", ["s.xlsx", "s.csv"])
def test_rows_without_header(tmp_path, name):
    rows = [(7, 10, 20), (12, 30.5, 40)]
    path = tmp_path / name
    if name.endswith("xlsx"):
        excel(path, rows)
    else:
        text(path, "7,10,20\n12,30.5,40\n")
    points = read_points(path, SHAPE, AFFINE)
    np.testing.assert_array_equal(points.voxel, [[9, 19, 6], [29.5, 39, 11]])
    # By hand: R = 10 - 0.5 i, A = -20 + 0.8 j, S = 5 + 2 k.
    np.testing.assert_allclose(points.ras_mm, [[5.5, -4.8, 17], [-4.75, 11.2, 27]])
    assert np.isnan(points.diameter_mm).all()
    assert len(points) == count_points(path) == 2


def test_convention_is_applied(tmp_path):
    path = excel(tmp_path / "s.xlsx", [(7, 10, 20)])
    points = read_points(path, SHAPE, AFFINE, LabelConvention(index_base=0, swap_xy=True, flip_slice=True))
    np.testing.assert_array_equal(points.voxel, [[20, 10, 12]])


def test_rows_of_class_0_are_left_out(tmp_path):
    path = excel(tmp_path / "s.xlsx", [(7, 10, 20, 1), (8, 40, 20, 0), (9, 5, 5, 2)])
    np.testing.assert_array_equal(read_points(path, SHAPE, AFFINE).voxel, [[9, 19, 6], [4, 4, 8]])
    assert count_points(path) == 2


def test_header_names_columns_in_any_order(tmp_path):
    path = excel(
        tmp_path / "s.xlsx",
        [("Y", "X", "Slice", "note", "class", "diameter_mm"), (20, 10, 7, "sure", 1, 2.5), (1, 1, 1, "", 1, None)],
    )
    points = read_points(path, SHAPE, AFFINE)
    np.testing.assert_array_equal(points.voxel, [[9, 19, 6], [0, 0, 0]])
    np.testing.assert_array_equal(points.diameter_mm, [2.5, np.nan])


def test_own_output_table_can_be_read_as_labels(tmp_path):
    header = (
        "lesion,slice,x,y,voxel_i,voxel_j,voxel_k,ras_r_mm,ras_a_mm,ras_s_mm,diameter_mm,detector_score,probability"
    )
    rows = "1,7.5,10,20,9,19,6.5,5.5,-4.8,18,2.6,0.9,0.8\n2,8.5,10.5,20,9.5,19,7.5,5.3,-4.8,20,3.1,0.9,0.7\n"
    points = read_points(text(tmp_path / "s_cmb.csv", f"{header}\n{rows}"), SHAPE, AFFINE)
    # The two are within 3 mm on slices that follow each other, but are two lesions by their numbers.
    np.testing.assert_allclose(points.voxel, [[9, 19, 6.5], [9.5, 19, 7.5]])
    np.testing.assert_array_equal(points.diameter_mm, [2.6, 3.1])
    assert len(read_points(text(tmp_path / "none_cmb.csv", header + "\n"), SHAPE, AFFINE)) == 0


def test_rows_of_one_lesion_number_become_one(tmp_path):
    path = text(tmp_path / "s.csv", "lesion,slice,x,y\n5,3,10,10\n5,4,14,10\n2,3,10,12\n")
    np.testing.assert_array_equal(read_points(path, SHAPE, AFFINE).voxel, [[11, 9, 2.5], [9, 11, 2]])


@pytest.mark.parametrize(
    "content", ["\ufeff7,10,20\r\n", "7;10;20\n", "7\t10\t20\n", "\n 7 , 10 , 20 \n\n", "7,10,20,,,\n,,,\n"]
)
def test_ways_of_writing_csv(tmp_path, content):
    points = read_points(text(tmp_path / "s.csv", content), SHAPE, AFFINE)
    np.testing.assert_array_equal(points.voxel, [[9, 19, 6]])


def test_numbers_stored_as_text_and_blank_rows_of_excel(tmp_path):
    path = excel(tmp_path / "S.XLSX", [("7", "10", "20"), (None, None, None), (9, 5, 5)])
    np.testing.assert_array_equal(read_points(path, SHAPE, AFFINE).voxel, [[9, 19, 6], [4, 4, 8]])


@pytest.mark.parametrize("rows", [[], [(None, None, None)], [(" ", None)], [("slice", "x", "y")], [(4, 5, 6, 0)]])
def test_no_microbleeds_is_ordinary(tmp_path, rows):
    path = excel(tmp_path / "s.xlsx", rows)
    points = read_points(path, SHAPE, AFFINE)
    assert points.voxel.shape == points.ras_mm.shape == (0, 3)
    assert points.diameter_mm.shape == (0,)
    assert count_points(path) == 0


def test_csv_of_blank_lines_is_an_empty_sheet(tmp_path):
    assert len(read_points(text(tmp_path / "s.csv", "\r\n"), SHAPE, AFFINE)) == 0


# Rows joined to lesions


def points_of(tmp_path, rows, **options):
    return read_points(excel(tmp_path / "s.xlsx", rows), SHAPE, AFFINE, **options)


def test_a_lesion_on_three_slices_is_one_point_at_the_mean(tmp_path):
    points = points_of(tmp_path, [(5, 10, 20), (7, 13, 20), (6, 10, 23), (6, 40, 20)])
    np.testing.assert_allclose(points.voxel, [[10, 20, 5], [39, 19, 5]])


def test_join_distance_is_in_mm_of_the_plane_and_exclusive(tmp_path):
    # 5 voxels along the first axis are 2.5 mm, along the second 4 mm.
    assert len(points_of(tmp_path, [(5, 10, 20), (6, 15, 20)])) == 1
    assert len(points_of(tmp_path, [(5, 10, 20), (6, 10, 25)])) == 2
    assert len(points_of(tmp_path, [(5, 10, 20), (6, 16, 20)])) == 2
    assert len(points_of(tmp_path, [(5, 10, 20), (6, 16, 20)], join_mm=3.01)) == 1
    assert len(points_of(tmp_path, [(5, 10, 20), (6, 10, 20)], join_mm=0)) == 2


def test_points_of_one_slice_or_two_slices_apart_are_not_joined(tmp_path):
    assert len(points_of(tmp_path, [(5, 10, 20), (5, 11, 20)])) == 2
    assert len(points_of(tmp_path, [(5, 10, 20), (7, 10, 20)])) == 2


def test_two_lesions_side_by_side_stay_two(tmp_path):
    # Both of slice 6 are within 3 mm of both of slice 5; the nearest are joined first.
    points = points_of(tmp_path, [(5, 10, 20), (5, 13, 20), (6, 10, 20), (6, 13, 20)])
    np.testing.assert_allclose(points.voxel, [[9, 19, 4.5], [12, 19, 4.5]])
    # The pair at 0 mm goes before the one at 1.5 mm, which comes first by position.
    points = points_of(tmp_path, [(5, 10, 20), (5, 13, 20), (6, 13, 20)])
    np.testing.assert_allclose(points.voxel, [[9, 19, 4], [12, 19, 4.5]])
    # A third point of slice 5 has no partner left and must not tie two lesions together.
    assert len(points_of(tmp_path, [(5, 10, 20), (5, 14, 20), (6, 12, 20)])) == 2


def test_a_row_listed_twice_counts_once(tmp_path):
    points = points_of(tmp_path, [(5, 10, 20), (5, 10, 20), (6, 12, 20)])
    # The mean of the three rows, although two are equal.
    np.testing.assert_allclose(points.voxel, [[(9 + 9 + 11) / 3, 19, 13 / 3]])


def test_joined_diameter_is_the_largest_known(tmp_path):
    path = text(tmp_path / "s.csv", "slice,x,y,diameter_mm\n5,10,20,2\n6,10,20,3.5\n7,10,20,\n15,10,20,\n")
    np.testing.assert_array_equal(read_points(path, SHAPE, AFFINE).diameter_mm, [3.5, np.nan])


@given(order=st.permutations(range(5)), shift=st.tuples(st.integers(0, 20), st.integers(0, 10), st.integers(0, 8)))
def test_joining_depends_on_neither_order_nor_place(tmp_path_factory, order, shift):
    rows = [(3, 10, 10), (4, 11, 10), (4, 14, 10), (5, 12, 10), (9, 10, 10)]
    rows = [(slice_ + shift[2], x + shift[0], y + shift[1]) for slice_, x, y in rows]
    path = tmp_path_factory.mktemp("order") / "s.csv"
    pd.DataFrame([rows[index] for index in order]).to_csv(path, header=False, index=False)
    voxel = read_points(path, SHAPE, AFFINE).voxel - (shift[0], shift[1], shift[2])
    np.testing.assert_allclose(sorted(voxel.tolist()), [[9, 9, 8], [10, 9, 3], [13, 9, 3]])


# Tables that are refused


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([(5,), (6,)], ["row 1", "1 column", "slice, x, y"]),
        ([(5, 6)], ["row 1", "2 column"]),
        ([(1, 2, 3), (1, 2, 3, 1, 5)], ["row 2", "5 column"]),
        ([(1, 2, 3), ("six", 7, 8)], ["row 2", "column 1 (slice)", "'six'", "not a number"]),
        ([("none", None, None)], ["row 1", "1 column"]),
        ([(1, 2, 3), (None, None, None), (4, None, 6)], ["row 3", "column 2 (x)", "blank"]),
        ([(1, 2, 3), (4, 5)], ["row 2", "column 3 (y)", "blank"]),
        ([(1, 2, "nan")], ["row 1", "(y)", "'nan'"]),
        ([(1, 2, True)], ["row 1", "(y)", "True"]),
        ([(1.5, 2, 3)], ["row 1", "(slice)", "1.5", "not a whole number"]),
        ([(1, 2, 3, 0.5)], ["row 1", "(class)", "not a whole number"]),
        ([(1, 2, 3, 1), (1, 2, 3)], ["row 2", "(class)", "blank"]),
        ([("slice", "x"), (1, 2)], ["header row 1", "not y"]),
        ([("Slice name", "X", "Y"), (1, 2, 3)], ["header row 1", "slice name, x, y", "not slice"]),
        ([("a", "b", "c"), (1, 2, 3)], ["row 1", "'a'", "header row that names slice, x, y"]),
        ([("slice", "x", "y", "diameter_mm"), (1, 2, 3, -1)], ["row 2", "(diameter_mm)", "more than 0"]),
    ],
)
def test_wrong_columns_are_errors(tmp_path, rows, parts):
    path = excel(tmp_path / "s.xlsx", rows)
    message = error_of(path)
    for part in parts:
        assert part in message
    with pytest.raises(LabelError):
        count_points(path)


def test_points_on_the_second_sheet_are_not_overlooked(tmp_path):
    message = error_of(excel(tmp_path / "s.xlsx", [], sheets=[("Points", [(1, 2, 3)])]))
    assert "'Points'" in message and "first sheet" in message
    path = excel(tmp_path / "notes.xlsx", [(1, 2, 3)], sheets=[("Notes", [("ab",)]), ("Empty", [])])
    points = read_points(path, SHAPE, AFFINE)
    assert len(points) == 1
    assert points.notices == ("notes.xlsx: only the first sheet was read, not 'Notes', which may hold points, too.",)


@pytest.mark.parametrize("readme", [[("Labels of study X",)], [("Labels", "of", "study X")]])
def test_a_first_sheet_of_text_names_the_sheets_that_are_not_read(tmp_path, readme):
    path = excel(tmp_path / "s.xlsx", readme, sheets=[("Points", [("slice", "x", "y"), (1, 2, 3)])])
    assert "Only the first sheet is read: if the points are on 'Points', move it to the front." in error_of(path)
    assert "sheet" not in error_of(excel(tmp_path / "t.xlsx", readme)).removeprefix(str(tmp_path))


@pytest.mark.parametrize(
    "header", ["ras_r_mm,ras_a_mm,ras_s_mm", "voxel_i,voxel_j,voxel_k", "X (mm),Y (mm),Z (mm)", "x_mm,y_mm,z_mm,class"]
)
def test_places_in_mm_and_indices_of_voxels_are_refused_with_what_is_expected(tmp_path, header):
    row = ",".join("1" * (header.count(",") + 1))
    message = error_of(text(tmp_path / "s.csv", f"{header}\n{row}\n"))
    assert f"names {', '.join(header.removesuffix(',class').split(','))}, but not slice, x and y" in message
    assert "places in mm and indices of voxels are not read" in message


@pytest.mark.parametrize("name", ["s.xlsx", "s.csv", "s.nii.gz"])
def test_a_file_of_0_bytes_is_an_error(tmp_path, name):
    assert "0 bytes" in error_of(text(tmp_path / name, ""))


@pytest.mark.parametrize("content", [b"1,2,3\n", b"PK\x03\x04 cut off"])
def test_what_is_not_excel_is_an_error(tmp_path, content):
    (tmp_path / "s.xlsx").write_bytes(content)
    assert "cannot be read as an Excel file" in error_of(tmp_path / "s.xlsx")


def test_xls_without_its_package_tells_what_to_do(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise ImportError("Missing optional dependency 'xlrd'")

    monkeypatch.setattr(pd, "read_excel", refuse)
    (tmp_path / "s.xls").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + b"0" * 600)
    message = error_of(tmp_path / "s.xls")
    assert "xlrd" in message and "save the file as .xlsx or .csv" in message


def test_csv_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "s.csv").write_bytes(b"PK\x03\x04\x14\0\x06\0\x08\0\0\0")
    assert "let its name end in .xlsx" in error_of(tmp_path / "s.csv")


def test_missing_file_and_unknown_suffix(tmp_path):
    assert "no such label file" in error_of(tmp_path / "s.xlsx")
    assert ".xlsx, .xlsm, .xls, .csv, .tsv, .txt, .nii" in error_of(text(tmp_path / "s.doc", "1,2,3"))


# Points outside of the image


def test_point_outside_names_row_voxel_shape_and_what_would_fit(tmp_path):
    message = error_of(excel(tmp_path / "s.xlsx", [(3, 4, 5), (6, 20, 60)]))
    assert "row 2 (slice, x, y = (6, 20, 60)) is at voxel (19, 59, 5)" in message
    assert "shape (64, 48, 20) (1 of 2 points are)" in message
    assert "inside with index_base=1, swap_xy=True or with index_base=0, swap_xy=True;" in message
    assert "flip_x" in message


def test_rows_are_counted_as_they_stand_in_the_file(tmp_path):
    rows = [(3, 4, 5, 0), (None,), (3, 4, 5, 1), (3, 4, 500, 1)]
    assert "row 4 (slice" in error_of(excel(tmp_path / "s.xlsx", rows))


def test_number_0_suggests_index_base_0(tmp_path):
    message = error_of(excel(tmp_path / "s.xlsx", [(0, 64 - 1, 5)]))
    assert "inside with index_base=0, swap_xy=False;" in message


def test_labels_of_another_image_are_recognised(tmp_path):
    assert "another image" in error_of(excel(tmp_path / "s.xlsx", [(3, 400, 500)]))


def test_the_border_of_the_image_is_half_a_voxel_out(tmp_path):
    path = text(tmp_path / "s.csv", "1,0.5,0.5\n20,64.5,48.5\n")
    np.testing.assert_array_equal(read_points(path, SHAPE, AFFINE).voxel, [[-0.5, -0.5, 0], [63.5, 47.5, 19]])
    for row in ["1,0.4,1", "1,64.6,1", "1,1,0.4", "1,1,48.6", "0,1,1", "21,1,1"]:
        assert "outside" in error_of(text(tmp_path / "s.csv", row))


# Label maps


def test_components_of_a_label_map(tmp_path):
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[10:13, 20:23, 5:8] = 1
    array[40, 30, 10] = array[41, 31, 11] = 1  # touching at a corner: one lesion
    array[50, 10, 3:5] = 2
    array[51, 10, 3:5] = 3  # touching, of another value: a lesion of its own
    path = label_map(tmp_path / "s.nii.gz", array)
    points = read_points(path, SHAPE, AFFINE)
    expected = {(11, 21, 6): 27, (40.5, 30.5, 10.5): 2, (50, 10, 3.5): 2, (51, 10, 3.5): 2}
    assert {tuple(voxel) for voxel in points.voxel} == set(expected)
    for voxel, ras_mm, diameter_mm in zip(points.voxel, points.ras_mm, points.diameter_mm, strict=True):
        volume_mm3 = expected[tuple(voxel)] * 0.5 * 0.8 * 2
        assert 4 / 3 * np.pi * (diameter_mm / 2) ** 3 == pytest.approx(volume_mm3)
        np.testing.assert_allclose(ras_mm, (10 - 0.5 * voxel[0], -20 + 0.8 * voxel[1], 5 + 2 * voxel[2]))
    assert count_points(path) == 4


def test_label_map_ignores_the_convention_and_may_be_empty(tmp_path):
    array = np.zeros(SHAPE, dtype=np.int16)
    path = label_map(tmp_path / "s.nii", array[..., None])
    assert len(read_points(path, SHAPE, AFFINE)) == count_points(path) == 0
    array[1, 2, 3] = 7
    path = label_map(tmp_path / "s.nii", array)
    voxel = read_points(path, SHAPE, AFFINE, LabelConvention(swap_xy=True, flip_slice=True)).voxel
    np.testing.assert_array_equal(voxel, [[1, 2, 3]])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_formats_give_the_same_point_as_nifti(tmp_path, suffix):
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[10, 20, 5:7] = 1
    writer = ITKWriter(output_dtype=np.uint8)
    writer.set_data_array(array, channel_dim=None)
    writer.set_metadata({"affine": AFFINE}, resample=False)
    writer.write(str(tmp_path / f"s{suffix}"))
    points = read_points(tmp_path / f"s{suffix}", SHAPE, AFFINE)
    np.testing.assert_array_equal(points.voxel, [[10, 20, 5.5]])
    np.testing.assert_allclose(points.ras_mm, [[5, -4, 16]])


def test_label_map_on_another_grid_is_an_error(tmp_path):
    array = np.zeros(SHAPE, dtype=np.uint8)
    assert "shape (64, 48, 10)" in error_of(label_map(tmp_path / "s.nii.gz", array[..., :10]))
    moved = AFFINE.copy()
    moved[0, 3] += 0.06
    message = error_of(label_map(tmp_path / "s.nii.gz", array, moved))
    assert "not on the grid" in message and "0.06 mm apart" in message and "Resample" in message
    moved[0, 3] = AFFINE[0, 3] + 0.04  # less than a tenth of the smallest voxel edge: rounding, not another grid
    assert len(read_points(label_map(tmp_path / "s.nii.gz", array, moved), SHAPE, AFFINE)) == 0
    mirrored = AFFINE @ np.diag([-1, 1, 1, 1])  # in the same place it would be turned; here it is beside the image
    assert "not on the grid" in error_of(label_map(tmp_path / "s.nii.gz", array, mirrored))


@pytest.mark.parametrize("value", [0.5, -1, np.nan])
def test_label_map_of_other_numbers_is_an_error(tmp_path, value):
    array = np.zeros(SHAPE, dtype=np.float32)
    array[1, 2, 3] = value
    assert "whole numbers" in error_of(label_map(tmp_path / "s.nii.gz", array))


def test_label_map_of_two_or_four_axes_is_an_error(tmp_path):
    message = error_of(label_map(tmp_path / "s.nii.gz", np.zeros((*SHAPE, 2), np.uint8)))
    assert "three axes" in message and "(64, 48, 20, 2)" in message


def test_label_map_cut_off_is_an_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8)
    path = label_map(tmp_path / "s.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:3000])
    assert "cannot be read as an image" in error_of(path)


# Tables as people write them


def voxels_of(path):
    return read_points(path, SHAPE, AFFINE).voxel.tolist()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("1,4,50,60\n", ["row 1", "'60'", "hardly a class", "delete the first"]),
        ("7,10,20,1\n8,10,20,-1\n", ["row 2", "'-1'", "hardly a class"]),
        ("1,4,30,5\n2,9,31,6\n3,11,12,7\n", ["only counts up, 1 to 3", "header row"]),
        ("0,4,30,5\n1,9,31,6\n", ["only counts up, 0 to 1"]),
    ],
)
def test_an_index_is_not_read_as_the_slice(tmp_path, content, parts):
    message = error_of(text(tmp_path / "s.csv", content))
    assert all(part in message for part in parts)


def test_four_columns_that_are_slice_x_y_class_are_read(tmp_path):
    assert voxels_of(text(tmp_path / "s.csv", "3,10,20,1\n9,5,5,2\n")) == [[9, 19, 2], [4, 4, 8]]
    assert len(voxels_of(text(tmp_path / "s.csv", "slice,x,y,class\n1,10,20,1\n2,50,20,12\n"))) == 2


@pytest.mark.parametrize(
    "content",
    [
        "7;10,5;20\n",
        "sep=;\n7;10,5;20\n",
        "sep=\t\n7\t10,5\t20\n",
        '7,"10,5",20\n',
        "7 10.5 20\n",
        "z;X (px);Y [voxel]\n7;10,5;20\n",
        "Slice Nr;x;y\n7;10,5;20\n",
        "Z [slice];X [px];Y [px]\n7;10,5;20\n",
        "Slice index,x,y\n7,10.5,20\n",
        "Slice (z),x,y\n7,10.5,20\n",
        "Slice Nr.,X_px,Y_px\n7,10.5,20\n",
        ",slice,x,y\n1,7,10.5,20\n",
        'slice,x,y,comment\n7,10.5,20,"sure; on the left"\n',
        "slice,x,y,comment\n7,10.5,20,sure; left\n",
        "x;y;slice;Klasse\n10,5;20;7;CMB\n1;1;1;mimic\n2;2;2;no\n",
    ],
)
@pytest.mark.parametrize("name", ["s.csv", "s.txt", "s.tsv"])
def test_european_tables(tmp_path, content, name):
    assert voxels_of(text(tmp_path / name, content)) == [[9.5, 19, 6]]


def test_a_diameter_with_its_unit_in_brackets_and_a_decimal_comma(tmp_path):
    path = text(tmp_path / "s.csv", "slice;x;y;Diameter (mm)\n7;10;20;2,5\n")
    np.testing.assert_array_equal(read_points(path, SHAPE, AFFINE).diameter_mm, [2.5])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_encodings_of_text(tmp_path, encoding):
    path = tmp_path / "s.csv"
    path.write_bytes("Schicht;x;y;Bemerkung\r\n7;10;20;größer als 2 µm\r\n".encode(encoding))
    assert voxels_of(path) == [[9, 19, 6]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("slice,x,y\n7,10,5,20,5\n", ["row 2", "5 cells", "decimal commas"]),
        ("x (mm),y,slice\n1,2,3\n", ["not x"]),
        ("slice,z,x,y\n1,2,3,4\n", ["not"]),
        ("slice nr,z,x,y\n1,2,3,4\n", ["'slice nr'", "'z'", "mean slice"]),
        ("slice,x,y,class\n1,2,3,perhaps\n", ["(class)", "'perhaps'", "mimic"]),
        ("slice,x,y,type\n1,2,3,cmb\n2,5,9,mimic\n", ["row 3", "(type)", "Name the column class"]),
        ("slice,x,y,CMB\n1,2,3,yes\n2,5,9,no\n", ["row 3", "(CMB)", "Name the column class"]),
        ("slice,x,y,label\n1,2,3,1\n2,5,9,0\n", ["row 3", "(label)", "Name the column class"]),
        ("slice,x,y,mimic\n1,2,3,0\n2,5,9,1\n", ["row 3", "(mimic)", "Name the column class"]),
        ("slice;x;y;False positive?\n1;2;3;\n2;5;9;x\n", ["row 3", "(False positive?)", "Name the column class"]),
        ("slice,x,y,is_microbleed\n1,2,3,1\n2,5,9,0\n", ["row 3", "(is_microbleed)", "Name the column class"]),
        ('slice,x,y,note\n1,2,3,"sure\n5,6,7,\n', ["cannot be read as a table", "not closed"]),
        ("slice,x,y,note\n1,2,3," + "a" * 131073 + "\n", ["cannot be read as a table", "field larger"]),
        ("7,10,20\n" * 10_001, ["10001 rows", "label map"]),
    ],
)
def test_tables_that_would_be_read_wrongly(tmp_path, content, parts):
    path = text(tmp_path / "s.csv", content)
    if parts == ["not"]:  # a column that is named exactly goes before one that only means the same
        assert voxels_of(path) == [[2, 3, 0]]
        return
    message = error_of(path)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("status", "rejected"),
        ("status", "Reject"),
        ("status", "false"),
        ("type", "calcification"),
        ("type", "Vessel"),
        ("type", "FP"),
        ("verdict", "false positive"),
        ("verdict", "false-positive"),
        ("verdict", "0"),
        ("accepted", "no"),
        ("Keep?", "n"),
        ("CMB (yes/no)", "no"),
        ("is_cmb", "0"),
        ("diagnosis", "not a CMB"),
        ("diagnosis", "no"),
        ("comment", "artefact"),
        ("comment", "Probably vessel."),
        ("comment", "a vein"),
        ("Bemerkung", "Verkalkung"),
        ("calcified", "yes"),
        ("flow void", "1"),
    ],
)
def test_a_row_that_is_called_no_microbleed_in_any_column_is_refused(tmp_path, column, cell):
    message = error_of(text(tmp_path / "s.csv", f"slice,x,y,{column}\n1,2,3,ok\n2,5,9,{cell}\n"))
    assert f"row 3, column 4 ({column}) holds {cell!r}" in message and "Name the column class" in message


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("comment", "no calcification"),
        ("comment", "not a vessel"),
        ("comment", "near a vein"),
        ("comment", "vein or microbleed"),
        ("comment", "no"),
        ("rating", "0"),
        ("status", "0"),
        ("type", "0"),
        ("type", "none"),
        ("MARS", "possible"),
        ("location", "vein"),
        ("nearest_structure", "vessel"),
        ("differential diagnosis", "calcification"),
        ("mimic", "no"),
        ("symptomatic", "no"),
        ("accepted", ""),
        ("symbol", "FP"),
    ],
)
def test_a_remark_on_a_microbleed_is_no_denial(tmp_path, column, cell):
    path = text(tmp_path / "s.csv", f"slice,x,y,{column}\n1,2,3,ok\n2,5,9,{cell}\n")
    assert voxels_of(path) == [[1, 2, 0], [4, 8, 1]]


@pytest.mark.parametrize(
    ("column", "first", "second", "what"),
    [
        ("rater", "A", "B", "2 readers (A, B)"),
        ("Reader ID", "1", "2", "2 readers (1, 2)"),
        ("marked_by", "AB", "CD", "2 readers (AB, CD)"),
        ("visit", "baseline", "follow-up", "2 visits (baseline, follow-up)"),
        ("session", "ses-1", "ses-2", "2 visits (ses-1, ses-2)"),
        ("scan", "scanA", "scanB", "2 visits (scanA, scanB)"),
        ("date", "2024-05-01", "2025-05-01", "2 visits (2024-05-01, 2025-05-01)"),
    ],
)
def test_rows_of_two_readers_or_visits_are_not_added_up(tmp_path, column, first, second, what):
    path = text(tmp_path / "s.csv", f"slice,x,y,{column}\n1,2,3,{first}\n2,5,9,{second}\n")
    message = error_of(path)
    assert f"the column {column!r} names {what}" in message and "save a table for each" in message
    for same in (f"1,2,3,{first}\n2,5,9,{first.upper()}\n", f"1,2,3,{first}\n2,5,9,\n"):
        assert voxels_of(text(path, f"slice,x,y,{column}\n{same}")) == [[1, 2, 0], [4, 8, 1]]


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("date", ("2024-05-01 10:30", "2024-05-01T10:31:20")),
        ("reader 1", ("yes", "sure")),
        ("reader_confidence", ("1", "2")),
        ("visited", ("1", "2")),
    ],
)
def test_columns_that_tell_no_readers_or_visits_apart(tmp_path, column, cells):
    path = text(tmp_path / "s.csv", f"slice,x,y,{column}\n1,2,3,{cells[0]}\n2,5,9,{cells[1]}\n")
    assert voxels_of(path) == [[1, 2, 0], [4, 8, 1]]


@pytest.mark.parametrize("session", ["ses-02", "02", "2"])
def test_of_several_sessions_those_rows_are_read_that_are_of_the_subjects_own(tmp_path, session):
    path = text(tmp_path / "s.csv", f"session,slice,x,y\nses-1,1,2,3\n{session},2,5,9\n{session},3,5,9\n")
    points = read_points(path, SHAPE, AFFINE, join_mm=0, subject="sub-01_ses-02")
    np.testing.assert_array_equal(points.voxel, [[4, 8, 1], [4, 8, 2]])
    assert points.notices == (f"s.csv: only the 2 row(s) with {session} in the column 'session' were read.",)
    assert count_points(path, "sub-01_ses-02") == 2
    with pytest.raises(LabelError, match="names 2 visits"):
        read_points(path, SHAPE, AFFINE, subject="sub-01_ses-03")


def test_many_rows_take_little_memory(tmp_path):
    rows = [(k, i, j) for k in range(1, 21) for i in range(1, 63, 2) for j in range(1, 47, 3)][:9000]
    path = text(tmp_path / "s.csv", "\n".join(",".join(map(str, row)) for row in rows))
    tracemalloc.start()
    points = read_points(path, SHAPE, AFFINE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(points) == 31 * 16  # each column of points over the slices is one lesion
    assert peak < 2e8  # all against all are 24 bytes * 9000^2 = 1.9e9


def test_hidden_rows_and_columns_are_mentioned(tmp_path):
    path = excel(tmp_path / "s.xlsm", [("slice", "x", "y", "class"), (7, 10, 20, 1), (9, 5, 5, 1), (4, 4, 4, "mimic")])
    book = openpyxl.load_workbook(path)
    book.active.row_dimensions[3].hidden = book.active.row_dimensions[30].hidden = True
    book.active.column_dimensions["D"].hidden = True
    book.save(path)
    points = read_points(path, SHAPE, AFFINE)
    assert len(points) == 2
    assert points.notices == ("s.xlsm hides row 3 and column D in Excel; they were read like the others.",)
    assert read_points(excel(tmp_path / "t.xlsx", [(7, 10, 20)]), SHAPE, AFFINE).notices == ()


def test_rows_that_are_struck_out_are_mentioned(tmp_path):
    path = excel(tmp_path / "s.xlsx", [("slice", "x", "y"), (7, 10, 20), (9, 5, 5)])
    book = openpyxl.load_workbook(path)
    for cell in book.active[3]:
        cell.font = openpyxl.styles.Font(strike=True)
    book.save(path)
    points = read_points(path, SHAPE, AFFINE)
    assert len(points) == 2
    assert points.notices == ("s.xlsx has row 3 struck out in Excel, which was read like the others.",)


def test_an_excel_file_with_a_password_is_named_as_that(tmp_path):
    content = bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le")
    (tmp_path / "s.xlsx").write_bytes(content)
    message = error_of(tmp_path / "s.xlsx")
    assert "with a password" in message and "zip" not in message


# Label maps as programs write them


@pytest.mark.parametrize(("axes", "flips"), [((0, 1, 2), (1, 0, 0)), ((2, 0, 1), (0, 1, 0)), ((1, 0, 2), (1, 1, 1))])
def test_a_label_map_with_other_axes_in_the_same_place_is_turned(tmp_path, axes, flips):
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[10, 20, 5] = 1
    array[50:52, 7, 15] = 1
    # by hand: new axis n is the old axis axes[n], counted from its far end where flips[n]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        turn[old, new] = -1 if flip else 1
        turn[old, 3] = SHAPE[old] - 1 if flip else 0
    turned = np.flip(array.transpose(axes), [n for n, flip in enumerate(flips) if flip])
    points = read_points(label_map(tmp_path / "s.nii.gz", turned, AFFINE @ turn), SHAPE, AFFINE)
    assert sorted(points.voxel.tolist()) == [[10, 20, 5], [50.5, 7, 15]]
    assert points.notices == ("The axes of s.nii.gz were turned to those of its image.",)


def test_values_of_scaled_label_maps(tmp_path):
    array = np.zeros(SHAPE, dtype=np.float32)
    array[10, 20, 5], array[30, 20, 5], array[50, 20, 5], array[0, 0, 0] = 0.9999999, 255, 254.9999, 1e-7
    assert len(read_points(label_map(tmp_path / "s.nii.gz", array), SHAPE, AFFINE)) == 3


def test_a_component_longer_than_20_mm_is_mentioned(tmp_path):
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2, 3, :10] = 1  # 20 mm
    points = read_points(label_map(tmp_path / "s.nii.gz", array), SHAPE, AFFINE)
    assert len(points) == 1 and points.notices == ()
    array[20, 10:36, 5] = 1  # 20.8 mm
    points = read_points(label_map(tmp_path / "s.nii.gz", array), SHAPE, AFFINE)
    assert len(points) == 2
    assert "1 component(s) longer than 20 mm" in points.notices[0] and "(20, 22, 5)" in points.notices[0]
