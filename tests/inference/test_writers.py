"""The files of a subject's findings."""

import json

import itk
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor

from cmb_bundle.scripts.data.labels import LabelConvention, read_points
from cmb_bundle.scripts.inference.writers import TABLE_HEADER, findings_table, write_findings

HEADER = (
    "lesion,slice,x,y,voxel_i,voxel_j,voxel_k,ras_r_mm,ras_a_mm,ras_s_mm,diameter_mm,detector_score,"
    "classifier_probability,probability"
)
SHAPE = (20, 30, 10)
CONVENTIONS = [
    LabelConvention(),
    LabelConvention(index_base=0),
    LabelConvention(swap_xy=True, flip_slice=True),
    LabelConvention(index_base=0, flip_x=True, flip_y=True),
    LabelConvention(swap_xy=True, flip_x=True),
]


@pytest.fixture
def affine():
    """Turned by 20 degrees about an oblique axis, a left-handed order of axes, anisotropic."""
    cosine, sine = np.cos(0.35), np.sin(0.35)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]]) @ np.array(
        [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]
    )
    return nib.affines.from_matvec(turn @ np.diag([-0.5, 0.6, 2.0]), [10, -20, 30.5])


def microbleed(voxel, affine, **more):
    ras = nib.affines.apply_affine(affine, voxel)
    return {
        "voxel": list(voxel),
        "ras_mm": [float(v) for v in ras],
        "diameter_mm": 3.25,
        "detector_score": 0.75,
        "classifier_probability": 0.8,
        "probability": 0.9,
        **more,
    }


def write(folder, bleeds, affine, convention=None, **more):
    label_map = MetaTensor(torch.zeros((1, *SHAPE), dtype=torch.int16), affine=torch.as_tensor(affine))
    for number, bleed in enumerate(bleeds, 1):
        label_map[(0, *np.round(bleed["voxel"]).astype(int))] = number
    result = {"microbleeds": bleeds, "candidates": [{**b, "accepted": True, "reason": "accepted"} for b in bleeds]}
    return write_findings(folder, "s 1", result, label_map, convention, **more), result


def test_three_files_and_their_contents(tmp_path, affine):
    bleeds = [
        microbleed((3.2, 7.6, 5.0), affine),
        microbleed((12.0, 0.0, 9.0), affine, probability=0.6, detector_score=0.2),
    ]
    folder, result = write(tmp_path, bleeds, affine, notices="No phase.")
    assert folder == tmp_path / "s 1"
    assert sorted(p.name for p in folder.iterdir()) == ["s 1_cmb.csv", "s 1_cmb.json", "s 1_cmb.nii.gz"]

    lines = (folder / "s 1_cmb.csv").read_text().splitlines()
    assert lines[0] == HEADER == ",".join(TABLE_HEADER)
    first = dict(zip(TABLE_HEADER, lines[1].split(","), strict=True))
    # default convention: 1-based, x = i + 1, y = j + 1, slice = k + 1, at the nearest whole voxel (3, 8, 5)
    assert [first[k] for k in ("lesion", "slice", "x", "y")] == ["1", "6", "4", "9"]
    assert [float(first[k]) for k in ("voxel_i", "voxel_j", "voxel_k")] == [3.2, 7.6, 5.0]
    ras = nib.affines.apply_affine(affine, (3.2, 7.6, 5.0))
    np.testing.assert_allclose([float(first[f"ras_{a}_mm"]) for a in "ras"], ras, atol=1e-9)
    assert [float(first[k]) for k in ("diameter_mm", "detector_score", "classifier_probability", "probability")] == [
        3.25, 0.75, 0.8, 0.9,
    ]  # fmt: skip
    assert lines[2].startswith("2,10,13,1,")
    assert len(lines) == 3

    assert json.loads((folder / "s 1_cmb.json").read_text()) == {"subject": "s 1", "notices": "No phase.", **result}

    image = nib.load(folder / "s 1_cmb.nii.gz")
    array = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.int16
    assert [tuple(np.argwhere(array == n)[0]) for n in (1, 2)] == [(3, 8, 5), (12, 0, 9)]
    assert (array > 0).sum() == 2


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_table_is_read_again_as_labels(tmp_path, affine, convention):
    voxels = np.array([[3.2, 7.6, 5.0], [3.2, 7.6, 6.0], [18.9, 28.7, 0.1], [0.4, 0.0, 9.0]])
    folder, _ = write(tmp_path, [microbleed(v, affine) for v in voxels], affine, convention)
    points = read_points(folder / "s 1_cmb.csv", SHAPE, affine, convention)
    # the two on neighbouring slices are two lesions, as the column lesion says
    np.testing.assert_allclose(points.voxel, np.round(voxels), atol=1e-9)
    np.testing.assert_allclose(points.ras_mm, nib.affines.apply_affine(affine, np.round(voxels)), atol=1e-9)
    np.testing.assert_allclose(points.diameter_mm, 3.25)


def test_convention_of_slice_x_and_y(affine):
    bleeds = [microbleed((3, 8, 5), affine)]
    rows = {
        LabelConvention(): [6, 4, 9],
        LabelConvention(index_base=0): [5, 3, 8],
        LabelConvention(swap_xy=True): [6, 9, 4],
        LabelConvention(flip_slice=True, flip_x=True, flip_y=True): [5, 17, 22],
    }
    for convention, row in rows.items():
        assert findings_table(bleeds, SHAPE, convention)[["slice", "x", "y"]].to_numpy().tolist() == [row]


def test_place_beyond_the_border_is_listed_on_the_border(affine):
    table = findings_table([microbleed((-0.8, 31.0, 9.7), affine)], SHAPE, LabelConvention())
    assert table[["slice", "x", "y"]].to_numpy().tolist() == [[10, 1, 30]]
    assert table[["voxel_i", "voxel_j", "voxel_k"]].to_numpy().tolist() == [[-0.8, 31.0, 9.7]]


def test_subject_without_microbleeds(tmp_path, affine):
    folder, _ = write(tmp_path, [], affine)
    assert (folder / "s 1_cmb.csv").read_text() == HEADER + "\n"
    assert len(read_points(folder / "s 1_cmb.csv", SHAPE, affine)) == 0
    content = json.loads((folder / "s 1_cmb.json").read_text())
    assert content == {"subject": "s 1", "microbleeds": [], "candidates": []}
    image = nib.load(folder / "s 1_cmb.nii.gz")
    assert image.shape == SHAPE
    assert not np.asarray(image.dataobj).any()
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)


def test_label_map_lies_where_the_input_does_for_other_readers_too(tmp_path, affine):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype=np.float32), affine), tmp_path / "input.nii.gz")
    folder, _ = write(tmp_path, [], affine)
    image = nib.load(folder / "s 1_cmb.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert int(image.header["sform_code"]) > 0
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.6, 2.0), atol=1e-6)
    expected, found = (itk.imread(str(p)) for p in (tmp_path / "input.nii.gz", folder / "s 1_cmb.nii.gz"))
    for index in ((0, 0, 0), (19, 0, 3), (5, 29, 9)):
        there = list(found.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(there, list(expected.TransformIndexToPhysicalPoint(index)), atol=1e-4)
        # ITK counts in LPS
        np.testing.assert_allclose(there * np.array([-1, -1, 1]), nib.affines.apply_affine(affine, index), atol=1e-4)


def test_failure_leaves_the_former_results(tmp_path, affine):
    folder, _ = write(tmp_path, [microbleed((3, 8, 5), affine)], affine)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path, [microbleed((3, 8, 5), affine)], affine, notices=float("nan"))
    assert sorted(p.name for p in folder.iterdir()) == sorted(before)
    assert (folder / "s 1_cmb.json").read_bytes() == before["s 1_cmb.json"]


def test_table_keeps_the_order_of_the_label_map(affine):
    bleeds = [microbleed((i, 5, 5), affine, probability=p) for i, p in ((9, 0.9), (2, 0.8), (15, 0.7))]
    table = findings_table(bleeds, SHAPE, LabelConvention())
    pd.testing.assert_series_equal(table["lesion"], pd.Series([1, 2, 3], name="lesion"), check_dtype=False)
    assert table["voxel_i"].tolist() == [9, 2, 15]
