"""Which contrast is read of a subject's files, what NaN means, and what is said of scans outside of what was tested."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cmb_bundle.scripts.errors import OptionError, SubjectError
from cmb_bundle.scripts.transforms import CheckRangesd
from cmb_bundle.scripts.transforms.load import LoadSubjectd
from cmb_bundle.scripts.transforms.volume import is_background

from ..helpers import CONFIGS

AFFINE = np.diag([0.9, 0.9, 5.0, 1.0])
T2STAR_NOTICE = "A T2*-weighted magnitude without phase was read: the detection works on it in place of SWI."
TESTED = json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))["tested_ranges"]


def volume(seed, shape=(12, 10, 6)):
    return np.random.default_rng(seed).uniform(1, 900, shape).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    """Four images with values of their own."""
    paths = {}
    for seed, key in enumerate(("image", "phase", "magnitude", "t2star")):
        paths[key] = tmp_path / f"{key}.nii.gz"
        nib.save(nib.Nifti1Image(volume(seed), AFFINE), paths[key])
    return paths


def load(**subject):
    return LoadSubjectd()({"subject": "s", **subject})


@pytest.mark.parametrize(
    ("keys", "contrast", "read"),
    [
        (("image",), "swi", {"image": 0}),
        (("image", "phase"), "swi + phase", {"image": 0, "phase": 1}),
        (("image", "magnitude"), "swi", {"image": 0}),
        (("image", "phase", "magnitude", "t2star"), "swi + phase", {"image": 0, "phase": 1}),
        (("image", "t2star"), "swi", {"image": 0}),
        (("magnitude", "phase"), "magnitude + phase", {"magnitude": 2, "phase": 1}),
        (("t2star", "phase"), "magnitude + phase", {"magnitude": 3, "phase": 1}),
        (("magnitude", "phase", "t2star"), "magnitude + phase", {"magnitude": 2, "phase": 1}),
        (("magnitude",), "t2star", {"image": 2}),
        (("t2star",), "t2star", {"image": 3}),
    ],
)
def test_the_contrast_is_that_of_the_file_that_is_read(files, keys, contrast, read):
    d = load(**{key: files[key] for key in keys})
    assert d["contrast"] == contrast
    assert {key for key in ("image", "phase", "magnitude", "t2star") if key in d} == set(read)
    for key, seed in read.items():
        np.testing.assert_array_equal(d[key][0].numpy(), volume(seed))
    assert (T2STAR_NOTICE in d["notices"]) == (contrast == "t2star")
    left = "t2star" in keys and len(keys) > 1 and read.get("magnitude") != 3
    assert ("The T2*-weighted image t2star.nii.gz was not read" in d["notices"]) == left


def test_echoes_of_one_file_go_by_their_times_where_these_are_known(tmp_path):
    path = tmp_path / "a_T2S.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([volume(n) for n in range(3)], -1), AFFINE), path)
    d = load(t2star=path)
    assert d["notices"].startswith("Echo 3 of 3 was taken.")
    assert "echo_ms" not in d["image"].meta
    (tmp_path / "a_T2S.json").write_text('{"EchoTime": [0.01, 0.022, 0.034], "MagneticFieldStrength": 1.5}')
    d = load(t2star=path)
    assert d["notices"].startswith("Echo 2 of 3 was taken (22 ms).")
    np.testing.assert_array_equal(d["image"][0].numpy(), volume(1))
    assert (d["image"].meta["echo_ms"], d["image"].meta["field_tesla"]) == (22.0, 1.5)
    d = LoadSubjectd(echo=0)({"subject": "s", "t2star": path})
    assert d["image"].meta["echo_ms"] == 10.0


def test_a_series_over_time_is_no_series_of_echoes(tmp_path):
    nib.save(nib.Nifti1Image(np.stack([volume(n) for n in range(17)], -1), AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(SubjectError, match=r"has 4 dimensions, 12 x 10 x 6 x 17\. Expected one 3D volume"):
        load(t2star=tmp_path / "a.nii.gz")


# --- NaN ---


def masked(values):
    """A block of values with NaN around it."""
    outside = np.full(values.shape, np.nan, dtype=np.float32)
    outside[2:-2, 2:-2, 1:-1] = values[2:-2, 2:-2, 1:-1]
    return outside


@pytest.mark.parametrize("key", ["image", "t2star"])
def test_nan_around_the_head_is_background(tmp_path, key):
    nib.save(nib.Nifti1Image(masked(volume(0)), AFFINE), tmp_path / "a.nii.gz")
    d = load(**{key: tmp_path / "a.nii.gz"})
    expected = np.nan_to_num(masked(volume(0)))
    np.testing.assert_array_equal(d["image"][0].numpy(), expected)
    share = round(100 * np.isnan(masked(volume(0))).mean())
    assert f"is NaN around the head ({share} % of it), which is taken as background." in d["notices"]


def test_nan_of_a_phase_becomes_its_middle(tmp_path, files):
    stored = masked(volume(1))
    nib.save(nib.Nifti1Image(stored, AFFINE), tmp_path / "p.nii.gz")
    d = load(image=files["image"], phase=tmp_path / "p.nii.gz")
    filled = d["phase"][0].numpy()[np.isnan(stored)]
    assert np.ptp(filled) == 0 and 300 < filled[0] < 600


def hole(values):
    values[5, 5, 3] = np.nan


def infinite(values):
    values[0, 0, 0] = np.inf


def lost_slice(values):
    values[:, :, 3] = np.nan


def everything(values):
    values[:] = np.nan


@pytest.mark.parametrize("damage", [hole, infinite, lost_slice, everything])
def test_nan_in_the_head_is_refused(tmp_path, damage):
    values = masked(volume(0))
    damage(values)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    number = int((~np.isfinite(values)).sum())
    with pytest.raises(SubjectError, match=f"T2\\*-weighted magnitude .* has {number} values that are NaN or infinite"):
        load(t2star=tmp_path / "a.nii.gz")


def test_nan_in_zeros_around_the_head_is_background():
    values = np.zeros((20, 20, 20))
    values[5:15, 5:15, 5:15] = 1
    values[4, 8:10, 8], values[2, 2, 2] = np.nan, np.nan  # at the head's surface, and away from it
    assert is_background(values)
    values[10, 10, 10] = np.nan
    assert not is_background(values)
    values[10, 10, 10] = 1
    values[:, :, 10] = np.nan  # a lost slice
    assert not is_background(values)
    values[:, :, 10] = 0
    values[5:15, 5:15, 10] = np.nan
    assert not is_background(values)


def test_background_may_leave_a_few_voxels_apart():
    values = np.full((20, 20, 20), np.nan)
    values[5:15, 5:15, 5:15] = 1
    values[0, 0, 0] = 1
    assert is_background(values)
    values[0:5, 0:3, 0] = 1
    assert not is_background(values)


# --- ranges ---


def scan(contrast="swi + phase", spacing=(0.6, 0.6, 2.0), key="image", **meta):
    image = MetaTensor(torch.ones(1, 200, 4, 4), affine=torch.diag(torch.tensor([*spacing, 1.0])), meta=dict(meta))
    return {key: image, "contrast": contrast, "notices": "Before."}


def warned(**about):
    d = CheckRangesd(TESTED)(scan(**about))
    assert d["notices"].replace(" Warning: ", " ") == f"Before. {d['warnings']}".strip()
    return d["warnings"]


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"spacing": (0.4, 1.0, 1.0), "echo_ms": 15.0, "field_tesla": 1.5},
        {"spacing": (1.0, 0.4, 5.0), "echo_ms": 45.0, "field_tesla": 7.0},
        {"spacing": (0.398, 0.398, 5.01), "field_tesla": 2.89},
        {"contrast": "magnitude + phase", "key": "magnitude"},
        {"contrast": "t2star", "spacing": (0.4, 1.1, 3.0), "echo_ms": 15.0, "field_tesla": 1.5},
        {"contrast": "t2star", "spacing": (0.9, 0.9, 6.0), "echo_ms": 40.0, "field_tesla": 3.0},
        {"contrast": "t2star", "spacing": (0.9, 0.9, 5.0)},
    ],
)
def test_a_scan_within_the_ranges_has_no_warning(about):
    assert warned(**about) == ""


SENTENCES = {
    "plane": "The voxel size in plane is {} mm; {} was tested with {} mm only, so that these results may be worse.",
    "slice": "The slice thickness is {} mm; {} was tested with {} mm only, so that these results may be worse.",
    "field": "The field strength is {} T; {} was tested with {} T only, so that these results may be worse.",
    "echo": "The echo time is {} ms; {} was tested with {} ms only, so that these results may be worse.",
}


@pytest.mark.parametrize(
    ("about", "quantity", "value"),
    [
        ({"spacing": (0.3, 0.6, 2.0)}, "plane", "0.3"),
        ({"spacing": (0.6, 1.2, 2.0)}, "plane", "1.2"),
        ({"spacing": (0.6, 0.6, 0.8)}, "slice", "0.8"),
        ({"spacing": (0.6, 0.6, 6.0)}, "slice", "6"),
        ({"field_tesla": 1.0}, "field", "1"),
        ({"field_tesla": 9.4}, "field", "9.4"),
        ({"echo_ms": 9.0}, "echo", "9"),
        ({"echo_ms": 60.0}, "echo", "60"),
        ({"echo_ms": 60.0, "contrast": "magnitude + phase", "key": "magnitude"}, "echo", "60"),
        ({"contrast": "t2star", "spacing": (0.3, 0.5, 5.0)}, "plane", "0.3"),
        ({"contrast": "t2star", "spacing": (0.9, 1.3, 5.0)}, "plane", "1.3"),
        ({"contrast": "t2star", "spacing": (0.9, 0.9, 2.0)}, "slice", "2"),
        ({"contrast": "t2star", "spacing": (0.9, 0.9, 7.0)}, "slice", "7"),
        ({"contrast": "t2star", "spacing": (0.9, 0.9, 5.0), "field_tesla": 7.0}, "field", "7"),
        ({"contrast": "t2star", "spacing": (0.9, 0.9, 5.0), "echo_ms": 12.0}, "echo", "12"),
        ({"contrast": "t2star", "spacing": (0.9, 0.9, 5.0), "echo_ms": 50.0}, "echo", "50"),
    ],
)
def test_a_scan_outside_is_warned_of_with_quantity_value_and_range(about, quantity, value):
    t2star = about.get("contrast") == "t2star"
    tested = {
        "plane": "0.4 to 1.1" if t2star else "0.4 to 1",
        "slice": "3 to 6" if t2star else "1 to 5",
        "field": "1.5 to 3" if t2star else "1.5 to 7",
        "echo": "15 to 40" if t2star else "15 to 45",
    }[quantity]
    contrast = "T2*-weighted magnitude" if t2star else "SWI"
    assert warned(**about) == SENTENCES[quantity].format(value, contrast, tested)


def test_several_quantities_are_all_named():
    text = warned(spacing=(2.0, 2.0, 9.0), echo_ms=3.0, field_tesla=0.5)
    assert [text.count(f"The {words} is") for words in ("voxel size in plane", "slice thickness")] == [1, 1]
    assert [text.count(f"The {words} is") for words in ("field strength", "echo time")] == [1, 1]


@pytest.mark.parametrize(
    ("spacing", "direction"),
    [
        ((2.0, 0.8, 0.8), "sagittal"),
        ((0.8, 2.0, 0.8), "coronal"),
        ((1.5, 1.0, 1.0), "sagittal"),
        ((0.8, 0.8, 2.0), ""),
        ((1.0, 1.0, 1.0), ""),
        ((1.0, 0.8, 0.8), ""),
        ((0.5, 1.0, 1.0), ""),  # a rectangle in the plane
        ((0.8, 2.0, 1.9), ""),
    ],
)
@pytest.mark.parametrize("key", ["image", "magnitude"])
def test_slices_that_are_not_axial_are_warned_of(spacing, direction, key):
    warnings = CheckRangesd(None)(scan(spacing=spacing, key=key))["warnings"]
    size = " x ".join(f"{edge:g}" for edge in spacing)
    assert warnings.startswith(f"The slices are {direction} (voxels of {size} mm from left") == bool(direction)
    assert ("most microbleeds are missed" in warnings) == bool(direction)


def test_ranges_can_be_switched_off_and_must_make_sense():
    assert CheckRangesd(None)(scan(spacing=(9, 9, 9)))["warnings"] == ""
    with pytest.raises(OptionError, match="tested_ranges is nan; expected ranges of in_plane_mm"):
        CheckRangesd(float("nan"))
    with pytest.raises(OptionError, match="expected the contrasts swi, t2star"):
        CheckRangesd({"t1": {}})
    with pytest.raises(OptionError, match="ranges of in_plane_mm, slice_mm, field_tesla, echo_ms"):
        CheckRangesd({"swi": {"te": [1, 2]}})
    with pytest.raises(OptionError, match="expected the lowest and the highest value"):
        CheckRangesd({"swi": {"echo_ms": [2, 1]}})


def test_a_thick_sagittal_scan_is_outside_by_its_size_in_plane(tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(volume(0), np.diag([5.0, 0.9, 0.9, 1.0])), path)
    assert "voxel size in plane is 5 mm" in CheckRangesd(TESTED)(load(t2star=Path(path)))["warnings"]
