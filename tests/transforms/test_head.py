"""What is no head, or by its header no susceptibility-weighted scan, is refused, or read with a warning."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom import dcmread
from scipy import ndimage

from cmb_bundle.scripts.data.declared import problem_of_header
from cmb_bundle.scripts.errors import OptionError, SubjectError
from cmb_bundle.scripts.transforms import CheckHeadd, CheckRangesd, HeadMaskd, LoadSubjectd

from ..helpers import REAL
from ..helpers.dicom_series import Study, write_dicom_series

SHAPE, EDGE = (60, 72, 16), (3.0, 3.0, 4.0)
RNG = np.random.default_rng(0)


def head(shape=SHAPE):
    """A bright ellipse with structure, in air with a little noise."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    inside = (grid[0] / 0.8) ** 2 + (grid[1] / 0.85) ** 2 < 1
    tissue = 300 + 60 * ndimage.gaussian_filter(RNG.normal(size=shape), 1.5) / 0.1
    return (np.where(inside, tissue.clip(50), 0) + 10 * RNG.random(shape)).astype(np.float32)


def bottle():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij"))
    inside = (grid[0] / 0.8) ** 2 + (grid[1] / 0.85) ** 2 < 1
    bright = 1000 * (1 + 0.3 * grid[0]) + 20 * RNG.normal(size=SHAPE)  # the coil is on one side
    blurred = ndimage.gaussian_filter(np.where(inside, bright, 0), 0.7)  # voxels at the edge are partly water
    return (blurred + 5 * RNG.random(SHAPE)).astype(np.float32)


def check(tmp_path, values, edge=EDGE, accept_any=False, key="image", **sidecar):
    path = tmp_path / "s1_swi.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([*edge, 1.0])), path)
    if sidecar:
        (tmp_path / "s1_swi.json").write_text(json.dumps(sidecar))
    d = HeadMaskd()(LoadSubjectd()({"subject": "s1", key: str(path)}))
    return CheckHeadd(accept_any)(d)


HEADER = [
    ({"Modality": "CT"}, "of the modality CT"),
    ({"BodyPartExamined": "ABDOMEN"}, "of the ABDOMEN"),
    ({"BodyPartExamined": "L SPINE"}, "of the LSPINE"),
    ({"SeriesDescription": "gre_field_mapping", "EchoTime": 0.01246}, "'gre_field_mapping', which is a field map"),
    ({"ProtocolName": "t1_mprage_sag_p2"}, "which is T1-weighted"),
    ({"SeriesDescription": "AX T2 FLAIR"}, "which is of fluid inversion"),
    ({"SeriesDescription": "tof_3d_multi-slab"}, "which is an angiogram"),
    ({"SeriesDescription": "ep2d_diff_3scan"}, "which is diffusion-weighted"),
    ({"SeriesDescription": "ep2d_bold_rest"}, "which is a series over time"),
    ({"SeriesDescription": "QA phantom"}, "which is of a phantom"),
    ({"SeriesDescription": "mIP_Images(SW)"}, "'mIP_Images(SW)', which is a minimum intensity projection"),
    ({"SeriesDescription": "SWI minIP8mm"}, "which is a minimum intensity projection"),
    ({"ImageType": ["DERIVED", "PRIMARY", "MNIP", "SWI", "NORM"]}, "'MNIP', which is a minimum intensity projection"),
    ({"ScanningSequence": "SE"}, "a spin echo"),
    ({"ScanningSequence": ["SE", "IR"]}, "a spin echo"),
    ({"ScanningSequence": "GR_IR"}, "inversion-prepared"),
    ({"ScanningSequence": "GR", "InversionTime": 0.9}, "inversion-prepared"),
    ({"EchoTime": 0.0046}, "Its echo time is 4.6 ms"),
]


@pytest.mark.parametrize(("sidecar", "reason"), HEADER)
@pytest.mark.parametrize("key", ["image", "t2star"])
def test_a_header_of_another_scan_is_refused(tmp_path, sidecar, reason, key):
    with pytest.raises(SubjectError, match=r"^s1: Its ") as caught:
        check(tmp_path, head(), key=key, **sidecar)
    assert reason in str(caught.value)
    assert "set accept_any to True" in str(caught.value)
    d = check(tmp_path, head(), accept_any=True, key=key, **sidecar)
    assert reason in d["warnings"]
    assert f"Warning: {d['warnings']}" in d["notices"]


@pytest.mark.parametrize(
    "sidecar",
    [
        {},
        {"Modality": "MR", "BodyPartExamined": "HEAD", "ScanningSequence": "GR", "EchoTime": 0.02},
        {"BodyPartExamined": "BRAIN", "SeriesDescription": "t2star_fl2d_tra_hemo", "EchoTime": 0.02},
        {"SeriesDescription": "SWI_Images", "ProtocolName": "swi_with_mip", "ImageType": ["ORIGINAL", "M", "SWI"]},
        {"SeriesDescription": "SWI_t1_space", "EchoTime": 0.005},  # several echoes in one
        {"SeriesDescription": "ep2d_swi", "ScanningSequence": "EP"},
        {"ScanningSequence": 7, "InversionTime": "no", "BodyPartExamined": ["HEAD"], "SeriesDescription": None},
    ],
)
def test_a_header_that_may_be_of_a_susceptibility_weighted_head_is_not(tmp_path, sidecar):
    assert check(tmp_path, head(), **sidecar).get("warnings", "") == ""


@pytest.mark.parametrize(
    ("said", "echo_ms"),
    [("TE=2.9;Time=122120.598;phase=1", 2.9), ("TE=20;Time=0.000", 20.0), ("TE=0;Time=1.0", None), ("FSL5.0", None)],
)
def test_the_echo_time_that_dcm2niix_leaves_in_a_header_is_warned_of(tmp_path, said, echo_ms):
    """A T1 without its JSON file; it is not refused, since an SWI of several echoes has the time of the first."""
    image = nib.Nifti1Image(head().astype(np.float32), np.diag([*EDGE, 1.0]))
    image.header["descrip"] = said
    nib.save(image, tmp_path / "s1_swi.nii.gz")
    d = LoadSubjectd()({"subject": "s1", "image": str(tmp_path / "s1_swi.nii.gz")})
    assert d["image"].meta.get("echo_ms") == echo_ms and d["doubts"] == ""
    tested = {"swi": {"echo_ms": [15, 45]}, "t2star": {"echo_ms": [15, 40]}}
    warned = CheckRangesd(tested)(d).get("warnings", "")
    assert ("echo time is 2.9 ms" in warned) == (echo_ms == 2.9), warned
    (tmp_path / "s1_swi.json").write_text('{"EchoTime": 0.0203}')
    d = LoadSubjectd()({"subject": "s1", "image": str(tmp_path / "s1_swi.nii.gz")})
    assert d["image"].meta["echo_ms"] == 20.3


def test_the_header_of_the_phase_tells_too(tmp_path):
    for name in ("mag", "phase"):
        values = head() if name == "mag" else RNG.uniform(-3.14, 3.14, SHAPE)
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([*EDGE, 1.0])), tmp_path / f"s1_{name}.nii.gz")
    (tmp_path / "s1_phase.json").write_text('{"ProtocolName": "B0map"}')
    d = LoadSubjectd()(
        {"subject": "s1", "magnitude": str(tmp_path / "s1_mag.nii.gz"), "phase": str(tmp_path / "s1_phase.nii.gz")}
    )
    assert d["doubts"] == "Its header says 'B0map', which is a field map."


@pytest.mark.parametrize(
    ("kind", "description", "body", "reason"),
    [
        ("M", "gre_field_mapping", "HEAD", "Its header says 'gre_field_mapping', which is a field map."),
        ("M", "t2s_hemo", "HEAD", ""),
        (r"M\SWI", "SWI_Images", "HEAD", ""),
        (r"M\SWI", "SWI_Images", "LIVER", "Its header says that it is of the LIVER."),
        (r"M\SWI", "head t1 and so on", "", ""),  # its header says that it is an SWI
    ],
)
def test_the_dicom_header_tells_the_same(tmp_path, kind, description, body, reason):
    voxels = RNG.gamma(4, 100, (20, 24, 6)).clip(1, 4095).astype(np.uint16)
    study = Study()
    write_dicom_series(
        tmp_path, voxels, np.diag([*EDGE, 1.0]), study, description, 5, rf"ORIGINAL\PRIMARY\{kind}", sequence="GR"
    )
    for path in tmp_path.iterdir():
        header = dcmread(path)
        header.BodyPartExamined, header.ProtocolName = body, description
        header.save_as(path)
    key = "image" if "SWI" in kind else "t2star"
    assert LoadSubjectd()({"subject": "s1", key: str(tmp_path)})["doubts"] == reason


IMAGES = {
    "noise": (lambda: RNG.rayleigh(100, SHAPE), EDGE, "corners are as bright as its middle"),
    "phase from 0 to 4095 without air": (
        lambda: 2048 + ndimage.gaussian_filter(RNG.normal(size=SHAPE), 3) * 20000,
        EDGE,
        "corners are as bright as its middle",
    ),
    "ramp": (lambda: np.indices(SHAPE).sum(0), EDGE, "corners are as bright as its middle"),
    "bottle": (bottle, EDGE, "equally bright everywhere, as a bottle is"),
    "CT": (lambda: np.where(head() > 30, head() / 5, -1000), EDGE, "-1000, as of CT"),
    "padding": (
        lambda: np.where(head() > 30, head(), -32768),
        EDGE,
        "Its air has -32768, which is padding, or of CT",
    ),
    "voxels twice as large": (head, (6.0, 6.0, 8.0), "which is no head, or the voxel size in its header is wrong"),
    "voxels half as large": (head, (1.5, 1.5, 2.0), "72 x 90 mm wide and long, which is no head"),
    "body": (lambda: head((120, 80, 16)), (3.2, 3.2, 5.0), "which is no head"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_of_no_head_is_refused(tmp_path, name):
    make, edge, reason = IMAGES[name]
    with pytest.raises(SubjectError) as caught:
        check(tmp_path, make(), edge)
    assert reason in str(caught.value)
    assert reason in check(tmp_path, make(), edge, accept_any=True)["warnings"]


@pytest.mark.parametrize(
    ("make", "edge"),
    [
        (head, EDGE),
        (lambda: head()[12:48, 14:58], EDGE),  # a crop within the head of 108 x 132 mm
        (lambda: head()[:, :, :4], EDGE),
        (lambda: np.where(head() > 30, head(), 0), EDGE),  # skull-stripped, without air
        (lambda: head() + 60 * RNG.rayleigh(1, SHAPE), EDGE),  # much noise
        (lambda: head((90, 90, 16)), (0.6, 0.6, 2.0)),  # 54 mm: smaller than what is asked
    ],
)
def test_a_head_is_not_refused(tmp_path, make, edge):
    assert check(tmp_path, make(), edge).get("warnings", "") == ""


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans at {REAL}")
def test_real_heads_are_heads_by_image_and_field_maps_by_header():
    for folder, name in (
        ("head_philips", "2001_WIP_fcMRI_Field_Mapping_enh_e2"), ("head_siemens", "8_gre_field_mapping_e2"),
    ):  # fmt: skip
        d = HeadMaskd()(LoadSubjectd()({"subject": folder, "t2star": str(REAL / folder / f"{name}.nii.gz")}))
        with pytest.raises(SubjectError, match=f"{folder}: Its header says '.*', which is a field map"):
            CheckHeadd()(d)
        assert CheckHeadd()(d | {"doubts": ""}).get("warnings", "") == ""


def test_accept_any_is_a_truth_value():
    with pytest.raises(OptionError, match="accept_any is 'false'"):
        CheckHeadd("false")


def test_an_odd_header_tells_nothing():
    assert problem_of_header({"Modality": 3, "ScanningSequence": {"a": 1}}, float("nan")) == (
        "Its header says that it is of the modality 3."
    )
    assert problem_of_header({"ScanningSequence": {"a": 1}}, float("nan")) == ""


@pytest.mark.parametrize(
    ("shape", "edge", "origin", "flat"),
    [
        ((196, 244, 24), (1.0, 1.0, 1.0), -90.0, "196 x 244 mm wide and long, but only 24 mm high"),
        ((392, 488, 24), (0.5, 0.5, 1.0), -90.0, "196 x 244 mm wide and long, but only 24 mm high"),
        ((196, 244, 24), (1.0, 1.0, 1.1), -90.0, ""),
        ((196, 244, 60), (1.0, 1.0, 1.0), -90.0, ""),
        ((90, 244, 24), (1.0, 1.0, 1.0), -90.0, ""),
        ((196, 244, 24), (1.0, 1.0, 1.0), 0.0, ""),  # which is warned of as it is read
    ],
)
def test_a_head_that_is_flat_since_its_slice_distance_is_lost_is_warned_of(shape, edge, origin, flat):
    affine = np.diag([*edge, 1.0])
    affine[:3, 3] = origin
    warned = CheckRangesd(None)({"image": MetaTensor(torch.ones(1, *shape), affine=affine)})["warnings"]
    assert (flat in warned and "lost the voxel size" in warned) if flat else warned == ""
