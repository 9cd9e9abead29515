"""Parcellations beside a scan: found, read, turned into regions, and refused."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from cmb_bundle.scripts.data import find_subjects
from cmb_bundle.scripts.errors import SubjectError
from cmb_bundle.scripts.regions import (
    REGIONS,
    FindParcellationd,
    check_covers,
    find_parcellation,
    freesurfer_numbers,
    read_parcellation,
    region_of_name,
)

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 2, 0], [0, 0, 0, 1]])  # the first axis runs to the left


def save(path, labels, dtype=np.int16, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.asarray(labels).astype(dtype), affine), path)
    return path


def names_of(region_map):
    return np.array(("none", *REGIONS))[region_map.region]


def row_of(*labels):
    """A map of labels along the first axis, five voxels wide."""
    return np.array(labels, dtype=float)[:, None, None] + np.zeros((1, 5, 5))


def column_of(tmp_path, *labels):
    """The regions along the first axis, in the order of the labels, without what lies outside."""
    found = read_parcellation(save(tmp_path / "p.nii.gz", row_of(*labels)))
    middle = names_of(found)[:, 2, 2]
    return middle.tolist()[-len(labels) :] if len(middle) > len(labels) else middle.tolist()


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1028, ("frontal", -1)), (2031, ("parietal", 1)), (1016, ("temporal", -1)), (2021, ("occipital", 1)),
     (1035, ("insula", -1)), (3, ("lobe not known", -1)), (49, ("thalamus", 1)), (26, ("basal ganglia", -1)),
     (53, ("temporal", 1)), (16, ("brainstem", 0)), (46, ("cerebellum", 1)), (253, ("corpus callosum", 0)),
     (77, ("white matter", 0)), (4, ("ventricle", -1)), (24, ("none", 0)), (4024, ("white matter", 1)),
     (1004, ("corpus callosum", -1)), (2000, ("none", 1)), (51, ("lentiform nucleus", 1)), (11, ("caudate", -1))],
)  # fmt: skip
def test_freesurfer_numbers(number, expected):
    assert freesurfer_numbers()[number] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ctx-rh-superiorfrontal", ("frontal", 1)), ("left cerebral white matter", ("white matter", -1)),
     ("wm-lh-insula", ("insula", -1)), ("Left-Cerebellum-Cortex", ("cerebellum", -1)),
     ("CC_Mid_Posterior", ("corpus callosum", 0)),
     ("WM-hypointensities", ("white matter", 0)), ("3rd-Ventricle", ("none", 0)), ("area 51", None)],
)  # fmt: skip
def test_names(name, expected):
    assert region_of_name(name) == expected


def test_white_matter_by_what_it_lies_near(tmp_path):
    # thalamus, white, pallidum: internal capsule; putamen, white, insula: external capsule; voxels of 2 mm
    assert column_of(tmp_path, 10, 2, 2, 13, 12, 2, 1035) == [
        "thalamus", *["internal capsule"] * 2, *["basal ganglia"] * 2, "external capsule", "insula",
    ]  # fmt: skip
    # within 5 mm of the ventricle, then of the lobe of the nearest cortex, here parietal
    assert column_of(tmp_path, 4, 2, 2, 2, 2, 1029) == [
        "none", *["deep and periventricular white matter"] * 2, "parietal", "parietal", "parietal",
    ]  # fmt: skip
    # between caudate and putamen runs the capsule's anterior limb
    assert column_of(tmp_path, 11, 2, 12)[1] == "internal capsule"
    assert column_of(tmp_path, 11, 2, 1028)[1] == "frontal"
    # no lobes in aseg
    assert column_of(tmp_path, 3, 2, 2)[1:] == ["lobe not known"] * 2


def test_sides_by_label_and_by_the_plane_between(tmp_path):
    labels = np.zeros((30, 12, 12))
    labels[1:14, 1:11, 1:11], labels[16:29, 1:11, 1:11], labels[10:20, 1:4, 1:4] = 2028, 1028, 16  # right comes first
    found = read_parcellation(save(tmp_path / "p.nii.gz", labels))
    assert names_of(found)[1, 5, 5] == "frontal"
    x = lambda i: AFFINE[0, 0] * i + AFFINE[0, 3]  # noqa: E731
    sides = {i: found.locate((x(i), -20 + 2 * 2, 2 * 2)).side for i in (5, 11, 14, 15, 18, 24)}
    assert sides == {5: "right", 11: "right", 14: "middle", 15: "middle", 18: "left", 24: "left"}


def test_without_two_sides_none_is_told(tmp_path):
    found = read_parcellation(save(tmp_path / "p.nii.gz", row_of(16, 16, 3)))
    assert found.locate(AFFINE[:3] @ (0, 2, 2, 1)).side == "not known"
    assert found.locate(AFFINE[:3] @ (2, 2, 2, 1)).side == "left"


def test_table_with_regions_of_its_own(tmp_path):
    save(tmp_path / "P1_dseg.nii.gz", row_of(7, 8, 9))
    (tmp_path / "P1_dseg.tsv").write_text(
        "index\tname\tregion\tside\n7\tA\tInsula\tleft\n8\tB\tnone\t\n9\tC\tcerebellum\tR\n"
    )
    found = read_parcellation(tmp_path / "P1_dseg.nii.gz")
    assert names_of(found)[-3:, 2, 2].tolist() == ["insula", "none", "cerebellum"]
    assert found.side[-3:, 2, 2].tolist()[::2] == [-1, 1]


def test_table_of_bids_with_names_of_freesurfer(tmp_path):
    save(tmp_path / "P1_dseg.nii.gz", row_of(1, 2))
    (tmp_path / "dseg.tsv").write_text("index\tname\n0\tair\n1\tctx-lh-cuneus\n2\tRight-Caudate\n")
    found = read_parcellation(tmp_path / "P1_dseg.nii.gz")
    assert names_of(found)[-2:, 2, 2].tolist() == ["occipital", "basal ganglia"]


def test_mgz(tmp_path):
    nib.save(nib.MGHImage(row_of(17, 17).astype(np.int32), AFFINE), tmp_path / "P1_aseg.mgz")
    assert names_of(read_parcellation(tmp_path / "P1_aseg.mgz"))[-2:, 2, 2].tolist() == ["temporal", "temporal"]


@pytest.mark.parametrize(
    ("labels", "table", "message"),
    [
        (
            row_of(3, 11101),
            None,
            "P1: the parcellation .* has 1 labels that FreeSurfer's aseg, .* does not have: 11101",
        ),
        (row_of(0, 0), None, "is empty: it has 0 everywhere"),
        (row_of(24, 24), None, "has no label of a region of the brain"),
        (row_of(3, 2.5), None, "values that are no whole numbers"),
        (row_of(3, -4), None, "has labels from -4 to 3"),
        (
            row_of(7, 8),
            "index\tname\n7\tPutamen\n8\tNucleus X\n",
            "'Nucleus X' for label 8, which is none of FreeSurfer",
        ),
        (row_of(7, 8), "index\tname\n7\tPutamen\n", "has 1 labels that the table .* does not have: 8"),
        (row_of(7), "index\tregion\n7\tPutamen\n", "the region 'putamen' for label 7; expected one of frontal"),
        (row_of(7), "index\tregion\tside\n7\tinsula\tup\n", "the side 'up' for label 7; expected left, right"),
        (row_of(7), "index\tregion\nseven\tinsula\n", "the index 'seven'; expected a whole number"),
        (row_of(7), "number,name\n7,insula\n", "has the columns number,name. Expected index and name"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, labels, table, message):
    path = save(tmp_path / "P1_dseg.nii.gz", labels, np.float32)
    if table:
        (tmp_path / "P1_dseg.tsv").write_text(table)
    with pytest.raises(SubjectError, match=message) as error:
        read_parcellation(path, subject="P1")
    assert str(path.parent) in str(error.value)


def test_unknown_labels_of_1(tmp_path):
    """1 is no label of FreeSurfer's that lies in a brain."""
    with pytest.raises(SubjectError, match="does not have: 1"):
        read_parcellation(save(tmp_path / "P1_dseg.nii.gz", row_of(1, 1)))


def test_damaged_file_and_four_dimensions(tmp_path):
    path = save(tmp_path / "P1_dseg.nii.gz", np.random.default_rng(0).integers(10, 14, (20, 20, 20)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SubjectError, match=r"P1_dseg.nii.gz cannot be read .* Expected a whole NIfTI or MGZ"):
        read_parcellation(path)
    path.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(SubjectError, match="cannot be read"):
        read_parcellation(path)
    with pytest.raises(SubjectError, match=r"has 4 x 4 x 4 x 2 values. Expected one volume of labels"):
        read_parcellation(save(path, np.full((4, 4, 4, 2), 10)))


def test_one_of_another_place_is_refused(tmp_path):
    labels = np.full((30, 20, 20), 10)
    found = read_parcellation(save(tmp_path / "p.nii.gz", labels))
    head = np.ones((40, 30, 30), bool)
    near = AFFINE @ nib.affines.from_matvec(np.eye(3), (-5, -5, -5))
    check_covers(found, head, near, "P1: the parcellation p")
    with pytest.raises(SubjectError, match="P1: the parcellation p does not lie in the scan's head: 0 % of it"):
        check_covers(found, head, AFFINE @ nib.affines.from_matvec(np.eye(3), (100, 0, 0)), "P1: the parcellation p")
    half = head.copy()
    half[:25] = False
    with pytest.raises(SubjectError, match=r"3. % of it, within the field of view, is in the head"):
        check_covers(found, half, near, "P1: the parcellation p")
    large = np.ones((80, 60, 60), bool)
    with pytest.raises(SubjectError, match="fills 4 % of the head"):
        check_covers(found, large, near, "P1: the parcellation p")
    # a slab sees a part of the parcellation only
    check_covers(found, head[:, :, :12], near, "P1: the parcellation p")


@pytest.mark.parametrize("name", ["P1_dseg.nii.gz", "P1_swi_dseg.nii", "P1_aparc+aseg.mgz", "P1_synthseg.nii.gz"])
def test_it_is_found_by_its_name_and_is_no_scan(tmp_path, name):
    save(tmp_path / "P1_swi.nii.gz", row_of(1, 2, 3))
    (tmp_path / name).touch()
    (tmp_path / "P2_dseg.nii.gz").touch()
    (tmp_path / "P1_dseg.tsv").touch()
    (subject,) = find_subjects(tmp_path)
    assert set(subject) == {"subject", "image"}
    found = FindParcellationd(True)(subject)
    assert found["parcellation"] == str(tmp_path / name)
    assert "parcellation" not in FindParcellationd(False)(subject)


def test_in_the_layout_of_folders_it_is_no_subject(tmp_path):
    folder = tmp_path / "Data" / "SWI"
    folder.mkdir(parents=True)
    save(folder / "P1.nii.gz", row_of(1, 2, 3))
    save(folder / "P1_dseg.nii.gz", row_of(1, 2, 3))
    assert [subject["subject"] for subject in find_subjects(tmp_path)] == ["P1"]
    assert FindParcellationd(True)(find_subjects(tmp_path)[0])["parcellation"] == str(folder / "P1_dseg.nii.gz")


def test_a_datalist_names_one(tmp_path):
    save(tmp_path / "swi.nii.gz", row_of(1, 2, 3))
    save(tmp_path / "regions.nii.gz", row_of(1, 2, 3))
    datalist = tmp_path / "list.json"
    datalist.write_text('[{"subject": "P1", "image": "swi.nii.gz", "parcellation": "regions.nii.gz"}]')
    (subject,) = find_subjects(datalist)
    assert FindParcellationd(True)(subject)["parcellation"] == str(tmp_path / "regions.nii.gz")
    with pytest.raises(SubjectError, match=r"P1: the parcellation nowhere.nii does not exist"):
        FindParcellationd(True)({"subject": "P1", "image": "swi.nii.gz", "parcellation": "nowhere.nii"})


def test_two_are_refused(tmp_path):
    (tmp_path / "P1_dseg.nii.gz").touch()
    (tmp_path / "P1_aseg.mgz").touch()
    with pytest.raises(SubjectError, match=r"P1: there are 2 parcellations: .*P1_aseg.mgz, .* remove the others"):
        find_parcellation([tmp_path / "P1_swi.nii.gz"], "P1")
