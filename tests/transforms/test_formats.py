"""Each form of image that lies beside readable scans is read, or is a failed subject: none vanishes."""

import shutil

import itk
import nibabel as nib
import numpy as np
import pytest

from cmb_bundle.scripts.data.labels import LabelConvention, read_points
from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.errors import LabelError, SubjectError
from cmb_bundle.scripts.files import UNREAD_SUFFIXES
from cmb_bundle.scripts.transforms.grid import GUESSED_ANALYZE
from cmb_bundle.scripts.transforms.load import LoadSubjectd

VALUES = np.random.default_rng(0).integers(1, 1000, (24, 20, 8)).astype(np.int16)
AFFINE = np.array([[0.8, 0, 0, -9], [0, 0.9, 0, -8], [0, 0, 2, -7], [0, 0, 0, 1]])


def write(folder, stem, suffix, values=VALUES):
    path = folder / f"{stem}{suffix}"
    if suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(values, AFFINE), path)
    elif suffix == ".hdr":
        nib.save(nib.Nifti1Pair(values, AFFINE), path.with_suffix(".img"))
    elif suffix in (".nii", ".nii.gz", ".NII.GZ"):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    else:
        image = itk.image_from_array(np.ascontiguousarray(values.T))
        image.SetSpacing([0.8, 0.9, 2.0])
        image.SetOrigin([9.0, 8.0, -7.0])
        image.SetDirection(itk.matrix_from_array(np.diag([-1.0, -1.0, 1.0])))
        itk.imwrite(image, str(path), compression=suffix in (".mha", ".nrrd"))
    return path


SUFFIXES = [".nii", ".nii.gz", ".NII.GZ", ".hdr", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_form_of_image_is_found_and_read(tmp_path, suffix):
    path = write(tmp_path, "p1_swi", suffix)
    write(tmp_path, "p2_swi", ".nii.gz")
    first, second = find_subjects(tmp_path)
    assert first == {"subject": "p1", "image": str(path)}
    assert second["subject"] == "p2"
    d = LoadSubjectd()(first)
    assert np.array_equal(d["image"][0], VALUES)
    assert np.allclose(d["image"].affine, AFFINE, atol=1e-5)


def test_the_matrix_that_spm_writes_beside_an_image_is_no_scan(tmp_path):
    write(tmp_path, "p1_swi", ".hdr")
    (tmp_path / "p1_swi.mat").write_bytes(b"x")
    assert find_subjects(tmp_path) == [{"subject": "p1", "image": str(tmp_path / "p1_swi.hdr")}]


def test_an_analyze_file_has_no_orientation(tmp_path):
    nib.save(nib.AnalyzeImage(VALUES, np.diag([0.8, 0.9, 2.0, 1.0])), tmp_path / "p1_swi.img")
    [subject] = find_subjects(tmp_path)
    d = LoadSubjectd()(subject)
    assert np.array_equal(d["image"][0], VALUES)
    assert GUESSED_ANALYZE in d["warnings"]


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".NII.GZ"])
def test_each_form_of_label_map_is_read(tmp_path, suffix):
    points = np.zeros_like(VALUES)
    points[4, 5, 2] = points[10, 11, 6] = 1
    path = write(tmp_path, "p1_label", suffix, points)
    read = read_points(path, VALUES.shape, AFFINE, LabelConvention())
    assert sorted(np.round(read.voxel).tolist()) == [[4, 5, 2], [10, 11, 6]]


PARTS = {".hdr": ".img", ".nhdr": ".raw", ".mhd": ".raw"}


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".NII.GZ"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, suffix):
    path = write(tmp_path, "p1_swi", suffix)
    part = next(p for p in tmp_path.iterdir() if p.suffix != suffix) if suffix in PARTS else path
    content = part.read_bytes()
    part.write_bytes(content[: int(0.6 * len(content))])
    with pytest.raises(SubjectError, match=f"p1: the SWI {path} cannot be read"):
        LoadSubjectd()({"subject": "p1", "image": str(path)})
    shutil.copy(path, tmp_path / f"p1_label{suffix}")
    for other in tmp_path.glob("p1_swi.*"):
        if not (tmp_path / f"p1_label{other.suffix}").exists():
            shutil.copy(other, tmp_path / f"p1_label{other.suffix}")
    with pytest.raises(LabelError, match="cannot be read as an image"):
        read_points(tmp_path / f"p1_label{suffix}", VALUES.shape, AFFINE, LabelConvention())


@pytest.mark.parametrize("suffix", PARTS)
def test_a_header_without_its_image_is_refused(tmp_path, suffix):
    path = write(tmp_path, "p1_swi", suffix)
    next(p for p in tmp_path.iterdir() if p.suffix != suffix).unlink()
    write(tmp_path, "p2_swi", ".nii.gz")
    subject, _ = find_subjects(tmp_path)
    with pytest.raises(SubjectError, match=f"p1: the SWI {path} cannot be read"):
        LoadSubjectd()(subject)


def test_an_image_without_its_header_is_refused(tmp_path):
    write(tmp_path, "p1_swi", ".hdr").unlink()
    write(tmp_path, "p2_swi", ".nii.gz")
    subject, _ = find_subjects(tmp_path)
    assert subject["image"].endswith("p1_swi.img")
    with pytest.raises(SubjectError, match=r"p1_swi\.img cannot be read"):
        LoadSubjectd()(subject)


@pytest.mark.parametrize("suffix", UNREAD_SUFFIXES)
@pytest.mark.parametrize("layout", ["{}_swi", "Data/SWI/{}", "{}/swi"])
def test_a_form_that_is_not_read_is_a_failed_subject(tmp_path, suffix, layout):
    for name, ending in (("p1", suffix), ("p2", ".nii.gz")):
        path = tmp_path / (layout.format(name) + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    failed, good = find_subjects(tmp_path)
    assert failed["subject"] == "p1"
    assert f"{suffix}, whose form is not read" in failed["error"]
    assert set(good) == {"subject", "image"}


def test_a_companion_that_is_not_read_is_mentioned(tmp_path):
    for name in ("p1_swi.nii.gz", "p1_phase.mat", "study.zip", "p1_swi_mip.tif"):
        (tmp_path / name).write_bytes(b"x")
    [subject] = find_subjects(tmp_path)
    assert subject["notices"] == "p1_phase.mat was not read: convert it to .nii.gz if it is to be used."
