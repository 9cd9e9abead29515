"""Damaged files are refused: a wrong count would look like any other."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from cmb_bundle.scripts.data.declared import read_declared
from cmb_bundle.scripts.data.labels import LabelConvention, read_points
from cmb_bundle.scripts.data.sidecars import read_sidecar
from cmb_bundle.scripts.dicom.pixels import read_pixels
from cmb_bundle.scripts.dicom.reader import dicom_files, read_volumes
from cmb_bundle.scripts.errors import CheckpointError, DicomError, LabelError, SubjectError
from cmb_bundle.scripts.files import check_gzip
from cmb_bundle.scripts.inference.inferers import TwoStageInferer
from cmb_bundle.scripts.networks.weights import load_weights
from cmb_bundle.scripts.transforms.load import LoadSubjectd
from cmb_bundle.scripts.transforms.plausible import check_extremes

from .helpers.dicom_series import Study, write_dicom_series


def write_scan(path, shape=(16, 16, 6)):
    voxels = np.random.default_rng(0).integers(1, 1000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 2.0, 1.0])), path)
    return path


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("place", [-3, -6], ids=["length", "checksum"])
def test_a_changed_byte_of_a_compressed_scan_is_a_failed_subject(tmp_path, place):
    path = write_scan(tmp_path / "s1_swi.nii.gz")
    assert LoadSubjectd()({"subject": "s1", "image": str(path)})["image"].shape == (1, 16, 16, 6)
    change_byte(path, place)
    assert nib.load(path).get_fdata().shape == (16, 16, 6), "nibabel alone does not notice"
    with pytest.raises(SubjectError, match=rf"s1: the SWI {path} cannot be read .* copy or convert it again"):
        LoadSubjectd()({"subject": "s1", "image": str(path)})


def test_any_changed_byte_is_noticed(tmp_path):
    path = write_scan(tmp_path / "s1_swi.nii.gz")
    whole = path.read_bytes()
    # the ten bytes of the gzip header hold a time and a system, which no checksum covers
    for place in np.random.default_rng(0).integers(10, len(whole), 30):
        path.write_bytes(whole)
        change_byte(path, int(place))
        with pytest.raises(SubjectError):
            LoadSubjectd()({"subject": "s1", "image": str(path)})


def test_a_damaged_label_map_is_refused(tmp_path):
    voxels = np.zeros((16, 16, 6), np.uint8)
    voxels[4, 5, 2] = 1
    path, affine = tmp_path / "s1_label.nii.gz", np.diag([0.8, 0.8, 2.0, 1.0])
    nib.save(nib.Nifti1Image(voxels, affine), path)
    assert len(read_points(path, voxels.shape, affine, LabelConvention()).ras_mm) == 1
    change_byte(path, -6)
    with pytest.raises(LabelError, match=f"{path}: cannot be read as an image"):
        read_points(path, voxels.shape, affine, LabelConvention())


def test_files_that_are_not_compressed_are_left_alone(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"not gzip")
    check_gzip(path)
    with gzip.open(tmp_path / "scan.nii.gz", "wb") as file:
        file.write(b"whole")
    check_gzip(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("enhanced", [False, True])
def test_dicom_with_too_few_pixels_is_refused(tmp_path, enhanced):
    voxels = np.random.default_rng(0).integers(0, 4095, (8, 6, 4), endpoint=True)
    write_dicom_series(
        tmp_path, voxels, np.diag([0.8, 0.8, 2.0, 1.0]), Study(), "SWI_Images", 7, r"ORIGINAL\PRIMARY\M\SWI",
        enhanced=enhanced,
    )  # fmt: skip
    [volume] = read_volumes(dicom_files(tmp_path))
    assert read_pixels(volume)[0].shape == (8, 6, 4)
    path = next(dicom_files(tmp_path))
    header = dcmread(path)
    assert header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    header.PixelData = header.PixelData[:-16]
    header.save_as(path)
    [volume] = read_volumes(dicom_files(tmp_path))
    with pytest.raises(DicomError, match=r"bytes of pixels; its header asks for \d+"):
        read_pixels(volume)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    state = network.state_dict()
    torch.save(state, tmp_path / "whole.pt")
    load_weights(network, tmp_path / "whole.pt")
    damaged = {**state, "0.weight": state["0.weight"].clone()}
    damaged["0.weight"][1, 0, 2, 2] = value
    torch.save(damaged, tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=r"damaged\.pt is damaged: 1 of the 18 values of 0\.weight"):
        load_weights(network, tmp_path / "damaged.pt")


def test_no_candidate_stays_without_a_probability():
    class Broken(torch.nn.Module):
        def forward(self, patches):
            return torch.full((len(patches), 2), torch.nan)

    inferer = TwoStageInferer(spacing=(0.6, 0.6, 2.0))
    with pytest.raises(CheckpointError, match="values of stage 2 that are not finite"):
        inferer.logits(torch.zeros(2, 32, 32, 16), torch.tensor([[16.0, 16.0, 8.0]]), Broken())


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_file_that_is_longer_than_its_header_says_is_refused(tmp_path, ending):
    path = write_scan(tmp_path / "s1_swi.nii")
    whole = path.read_bytes()
    fewer = whole[:46] + (4).to_bytes(2, "little") + whole[48:]  # dim[3] was 6: slices would be left out
    path = tmp_path / f"s1_swi.{ending}"
    path.write_bytes(gzip.compress(fewer) if ending == "nii.gz" else fewer)
    assert nib.load(path).get_fdata().shape == (16, 16, 4), "nibabel alone does not notice"
    with pytest.raises(SubjectError, match=r"tells of 16 x 16 x 4 values, 2048 bytes, and 3072 follow: a size in the"):
        LoadSubjectd()({"subject": "s1", "image": str(path)})
    path.write_bytes(gzip.compress(whole + bytes(512)) if ending == "nii.gz" else whole + bytes(512))
    assert LoadSubjectd()({"subject": "s1", "image": str(path)})["image"].shape == (1, 16, 16, 6)


@pytest.mark.parametrize("form", ["nii.gz", "mha"])
def test_a_size_beyond_any_scan_is_refused_before_it_takes_memory(tmp_path, form):
    path = tmp_path / f"s1_swi.{form}"
    write_scan(tmp_path / "s1_swi.nii")
    whole = (tmp_path / "s1_swi.nii").read_bytes()
    if form == "mha":
        sizes = (
            "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 6\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        )
        path.write_bytes(sizes.encode() + whole[352:])
    else:
        path.write_bytes(gzip.compress(whole[:42] + (30000).to_bytes(2, "little") * 2 + whole[46:]))
    with pytest.raises(SubjectError, match="tells of 30000 x 30000 x 6 values; expected at most 268435456 in a volume"):
        LoadSubjectd()({"subject": "s1", "image": str(path)})


@pytest.mark.parametrize(("value", "other"), [(3e10, 1.0), (-3e10, 1.0), (1e38, 1e38)])
def test_single_values_beyond_all_others_are_refused(tmp_path, value, other):
    voxels = np.random.default_rng(0).uniform(1, 1000, (16, 16, 6)).astype(np.float32) * np.float32(other)
    voxels[4, 5, 2] = value
    nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 2.0, 1.0])), tmp_path / "s1_swi.nii")
    with pytest.raises(SubjectError, match=r"has \d+ (value|values that are)"):
        LoadSubjectd()({"subject": "s1", "image": str(tmp_path / "s1_swi.nii")})


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (84, 2.4, "two voxel sizes, 0.8 x 0.8 x 2 mm (sform, which was used) and 0.8 x 2.4 x 2 mm"),
        (280, -0.8, "two orientations, LAS (sform, which was used) and RAS (qform)"),
        (280, 0.801, ""),
    ],
)
def test_what_a_header_says_twice_must_agree(tmp_path, place, value, said):
    path = tmp_path / "s1_swi.nii"
    image = nib.load(write_scan(path))
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    content = bytearray(image.to_bytes())
    content[place : place + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    warnings = LoadSubjectd()({"subject": "s1", "image": str(path)}).get("warnings", "")
    assert said in warnings
    assert bool(said) == ("The header gives two" in warnings)


def test_a_damaged_value_of_a_dicom_header_is_named(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4095, (8, 6, 4), endpoint=True)
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    write_dicom_series(tmp_path, voxels, affine, Study(), "SWI_Images", 7, r"ORIGINAL\PRIMARY\M\SWI", slope=2)
    files = list(dicom_files(tmp_path))
    header = dcmread(files[1])
    header.RescaleSlope = "-2"
    header.save_as(files[1])
    [volume] = read_volumes(files)
    assert volume.problem == "has a RescaleSlope of -2 in some slices and of 2 in others"
    content = files[1].read_bytes()
    files[1].write_bytes(content.replace(b"0.8", b"x.8"))
    with pytest.raises(
        DicomError, match=rf"{files[1]} has a value in its header that cannot be read \(.*copy or export"
    ):
        read_volumes(files)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"EchoTime": %s, "MagneticFieldStrength": 3}' % ("9" * 400)])
def test_a_damaged_json_file_beside_a_scan_tells_nothing(tmp_path, text):
    (tmp_path / "s1_swi.json").write_text(text)
    assert read_sidecar(tmp_path / "s1_swi.nii").echo_ms == ()
    assert read_declared(tmp_path / "s1_swi.nii") in ({}, {"EchoTime": int("9" * 400), "MagneticFieldStrength": 3})


def test_what_interpolation_leaves_around_the_head_is_no_damage():
    values = np.random.default_rng(0).uniform(200, 900, (40, 40, 10))
    values[:30] *= 1e-9
    check_extremes("sub-1: the SWI a.nii", torch.tensor(values))
    values[5, 5, 5] = 1e10
    with pytest.raises(SubjectError, match=r"1 value\(s\) such as 1e\+10"):
        check_extremes("sub-1: the SWI a.nii", torch.tensor(values))


def test_weights_with_a_negative_variance_are_refused(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    state = network.state_dict()
    torch.save({**state, "1.running_var": -state["1.running_var"]}, tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=r"1\.running_var is a variance, and negative"):
        load_weights(network, tmp_path / "damaged.pt")
