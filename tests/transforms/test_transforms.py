"""From files to the two-channel volume: errors, readers, masks, values, and geometry through the configured chains."""

import dataclasses
import functools
import gzip
import itertools
import json
import math
import os
import struct
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import ITKWriter, MetaTensor
from monai.transforms import Compose

from cmb_bundle.scripts.data import find_subjects
from cmb_bundle.scripts.errors import LabelError, SubjectError
from cmb_bundle.scripts.phantom import TINY, simulate
from cmb_bundle.scripts.transforms.channels import DARKEST_PHASE, ScaleSWId, StackComplementPhased
from cmb_bundle.scripts.transforms.head_mask import HeadMaskd
from cmb_bundle.scripts.transforms.labels import ReadPointsd
from cmb_bundle.scripts.transforms.load import LoadSubjectd
from cmb_bundle.scripts.transforms.notices import add_notice
from cmb_bundle.scripts.transforms.phase import ComputeSWId, NormalizePhased, homodyne_filter
from cmb_bundle.scripts.transforms.resample import ResampleSpacingd

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
CONFIGS = Path(__file__).parents[2] / "cmb_bundle" / "configs"
AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.8, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]])
VOLUME = np.random.default_rng(0).integers(1, 900, (12, 10, 6)).astype(np.int16)


def nifti(path, array=VOLUME, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def swi(tmp_path):
    return nifti(tmp_path / "a_swi.nii.gz")


def refused(subject, echo=-1):
    with pytest.raises(SubjectError) as caught:
        LoadSubjectd(echo=echo)({"subject": "sub-7", **subject})
    return str(caught.value)


def stacked(number):
    return np.stack([VOLUME + n for n in range(number)], axis=-1)


def echoes(*factors):
    return np.stack([VOLUME * factor for factor in factors], axis=-1)


# --- errors ---


def not_finite():
    array = VOLUME.astype(np.float32)
    array[2, 3, 4], array[1, 1, 1] = np.nan, np.inf
    return array


@pytest.mark.parametrize(
    "array,words",
    [
        (VOLUME[..., 0], ["has 2 dimensions, 12 x 10", "Expected one 3D volume"]),
        (stacked(3), ["has 4 dimensions, 12 x 10 x 6 x 3", "Expected one 3D volume", "save one echo"]),
        (stacked(2)[..., None, :], ["has 4 dimensions, 12 x 10 x 6 x 2", "Expected one 3D volume"]),
        (VOLUME[..., :1], ["has 12 x 10 x 1 voxels", "at least 3 slices"]),
        (VOLUME[..., :2], ["has 12 x 10 x 2 voxels", "at least 3 slices"]),
        (VOLUME * 0, ["has the value 0 everywhere", "Expected an image"]),
        (VOLUME * 0 + 7, ["has the value 7 everywhere", "Expected an image"]),
        (not_finite(), ["has 2 values that are NaN or infinite", "export it again"]),
    ],
)
@pytest.mark.parametrize("key,noun", [("image", "SWI"), ("phase", "phase")])
def test_a_volume_that_is_no_scan_is_refused_by_name(tmp_path, swi, array, words, key, noun):
    path = nifti(tmp_path / "bad.nii.gz", array)
    message = refused({"image": swi, key: path})
    assert message.startswith(f"sub-7: the {noun} {path} has ")
    for word in words:
        assert word in message


def test_a_missing_file_is_named(tmp_path, swi):
    assert refused({"image": tmp_path / "no.nii.gz"}) == (
        f"sub-7: the SWI {tmp_path / 'no.nii.gz'} does not exist. Check the path."
    )
    assert f"the phase {tmp_path / 'no.nii'} does not exist" in refused({"image": swi, "phase": tmp_path / "no.nii"})


def test_what_git_leaves_in_place_of_an_image_is_named_as_that(tmp_path):
    link = tmp_path / "a_swi.nii.gz"
    link.symlink_to("../.git/annex/objects/x/y.nii.gz")
    message = refused({"image": link})
    assert "is a link to ../.git/annex/objects/x/y.nii.gz, which is not there. Fetch it" in message
    for content in ("/annex/objects/MD5E-s123--abc.nii.gz\n", "version https://git-lfs.github.com/spec/v1\noid 1\n"):
        for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mgz"):
            (tmp_path / name).write_text(content)
            assert "Fetch the content, as with git annex get" in refused({"image": tmp_path / name})
    os.mkfifo(tmp_path / "pipe.nii")  # to open one would wait for who writes to it
    assert "cannot be read" in refused({"image": tmp_path / "pipe.nii"})


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("sub-1_space-MNI152NLin2009cAsym_desc-preproc_T2starw", "MNI152NLin2009cAsym"),
        ("sub-1_space-T2S_desc-masked_T2S", ""),
        ("sub-1_space-fsnative_swi", ""),
        ("sub-1_space-orig_swi", ""),
        ("sub-1_swi", ""),
    ],
)
def test_a_scan_that_was_moved_to_a_template_is_warned_of(tmp_path, name, template):
    warnings = LoadSubjectd()({"subject": "s", "t2star": nifti(tmp_path / f"{name}.nii.gz")}).get("warnings", "")
    assert (f"was moved to the template {template}, where" in warnings) == bool(template)


def broken(kind, folder):
    large = np.random.default_rng(0).integers(0, 900, (40, 40, 20)).astype(np.int16)
    name = "bad.nii" if kind in ("truncated", "place", "place in gzip") else "bad.nii.gz"
    content = nifti(folder / name, large).read_bytes()
    if kind == "text":
        content = b"slice,x,y\n1,2,3\n"
    if kind.startswith("place"):  # 4 GB from the beginning, as a damaged vox_offset tells
        content = content[:108] + struct.pack("<f", 2.0**32) + content[112:]
        content = gzip.compress(content) if kind.endswith("gzip") else content
        name = "bad.nii.gz" if kind.endswith("gzip") else "bad.nii"
        (folder / name).write_bytes(content)
        return folder / name
    (folder / name).write_bytes(b"" if kind == "empty" else content[: len(content) // 2])
    return folder / name


@pytest.mark.parametrize(
    "kind,reason",
    [
        ("truncated", "64000 bytes, and 31824 follow: it is cut off"),
        ("place", "64000 bytes, and 0 follow: it is cut off, or a size in the header is damaged"),
        ("place in gzip", "64000 bytes, and 0 follow: it is cut off, or a size in the header is damaged"),
        ("truncated gzip", "ended before the end-of-stream marker"),
        ("text", "not a gzip file"),
        ("empty", "Empty file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, kind, reason):
    path = broken(kind, tmp_path)
    message = refused({"image": path})
    assert message.startswith(f"sub-7: the SWI {path} cannot be read (")
    assert reason in message
    assert "Expected a whole file of NIfTI, Analyze, MGH, NRRD or MetaImage, or a DICOM series" in message


def test_a_folder_without_dicom_is_refused(tmp_path):
    assert f"there are no DICOM images in {tmp_path}" in refused({"image": tmp_path})


def test_another_shape_or_place_of_the_phase_is_refused(tmp_path, swi):
    other = nifti(tmp_path / "b.nii.gz", VOLUME[:-1])
    assert refused({"image": swi, "phase": other}) == (
        f"sub-7: {swi} has 12 x 10 x 6 voxels and {other} has 11 x 10 x 6. "
        "Expected the same grid; give the files of one acquisition."
    )
    shifted = AFFINE.copy()
    shifted[1, 3] += 0.75
    message = refused({"image": swi, "phase": nifti(tmp_path / "c.nii.gz", affine=shifted)})
    assert "c.nii.gz put the same voxel up to 0.75 mm apart" in message
    assert "Expected the same grid" in message
    # The far corner moves: by 9 voxels of 0.02 mm in the second axis.
    stretched = AFFINE.copy()
    stretched[1, 1] += 0.02
    assert "0.18 mm apart" in refused({"image": swi, "phase": nifti(tmp_path / "d.nii.gz", affine=stretched)})
    # A tenth of the smallest voxel edge (0.5 mm) is forgiven, as rounded headers need it.
    shifted[1, 3] = AFFINE[1, 3] + 0.04
    LoadSubjectd()({"image": swi, "phase": nifti(tmp_path / "e.nii.gz", affine=shifted)})


@pytest.mark.parametrize("given_keys", [(), ("phase",), ("magnitude", "t2star")])
def test_a_subject_without_one_scan_is_refused(swi, given_keys):
    subject = dict.fromkeys(("image", "phase", "magnitude")) | dict.fromkeys(given_keys, swi)
    message = refused(subject)
    assert message.startswith("sub-7: there is no SWI, no magnitude with a phase, and not one T2*-weighted magnitude")
    assert f"found {list(given_keys)}" in message


def test_echoes_that_do_not_fit_are_refused(tmp_path):
    three, two = nifti(tmp_path / "three.nii.gz", stacked(3)), nifti(tmp_path / "two.nii.gz", stacked(2))
    message = refused({"magnitude": three, "phase": two})
    assert f"the magnitude {three} has 3 echo(es) and the phase {two} has 2. Expected as many of each." in message
    assert "has 3 echo(es) and the phase" in refused({"magnitude": three, "phase": nifti(tmp_path / "one.nii.gz")})
    for echo in (3, -4):
        message = refused({"magnitude": three, "phase": three}, echo)
        assert f"echo {echo} was asked for, but {three} has 3. Set `echo` to a value from 0 to 2, or to -1" in message


# --- what is read ---


def test_a_whole_subject_is_read(tmp_path, swi):
    phase, magnitude = nifti(tmp_path / "p.nii.gz", VOLUME - 500), tmp_path / "never opened.nii.gz"
    d = LoadSubjectd()({"image": swi, "phase": phase, "magnitude": magnitude})
    assert "magnitude" not in d
    assert d["notices"] == ""
    for key, expected in (("image", VOLUME), ("phase", VOLUME - 500)):
        assert d[key].dtype == torch.float32
        np.testing.assert_array_equal(d[key].numpy(), expected[None])
        np.testing.assert_allclose(d[key].affine, AFFINE)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_formats_have_their_lps_turned_to_ras(tmp_path, suffix):
    writer = ITKWriter(output_dtype=np.int16)
    writer.set_data_array(VOLUME[None], channel_dim=0)
    writer.set_metadata({"affine": AFFINE, "original_affine": AFFINE})
    writer.write(tmp_path / f"a{suffix}")
    if suffix == ".mha":
        header = (tmp_path / "a.mha").read_bytes()[:600].decode("latin-1")
        assert "Offset = -10 20 5" in header  # the file itself is LPS
    d = LoadSubjectd()({"image": tmp_path / f"a{suffix}"})
    np.testing.assert_allclose(d["image"].affine, AFFINE)
    np.testing.assert_array_equal(d["image"][0].numpy(), VOLUME)


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(VOLUME, AFFINE)
    image.header.set_slope_inter(0.25, -40)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz").dataobj
    assert (stored.slope, stored.inter) == (0.25, -40)
    d = LoadSubjectd()({"image": tmp_path / "a.nii.gz"})
    np.testing.assert_allclose(d["image"][0].numpy(), VOLUME * 0.25 - 40)


def test_one_time_point_is_a_volume(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", VOLUME[..., None])
    np.testing.assert_array_equal(LoadSubjectd()({"image": path})["image"].numpy(), VOLUME[None])
    d = LoadSubjectd()({"magnitude": path, "phase": path})
    np.testing.assert_array_equal(d["magnitude"].numpy(), VOLUME[None])
    assert d["notices"] == ""


def test_swi_alone_is_taken_with_a_notice(swi):
    for subject in ({"image": swi}, {"image": swi, "phase": None, "magnitude": None}):
        d = LoadSubjectd()(subject)
        assert d["notices"] == "No phase was found: the detection works on SWI alone."
        assert "phase" not in d
        assert "magnitude" not in d


def test_a_null_swi_leaves_no_key_behind(swi):
    assert "image" not in LoadSubjectd()({"image": None, "magnitude": swi, "phase": swi})


@pytest.mark.parametrize("echo,taken", [(-1, 2), (0, 0), (1, 1), (-3, 0)])
def test_the_echo_asked_for_is_taken_and_named(tmp_path, echo, taken):
    path = nifti(tmp_path / "a.nii.gz", echoes(1.0, 0.8, 0.7))
    d = LoadSubjectd(echo=echo)({"magnitude": path, "phase": path})
    assert d["notices"] == f"Echo {taken + 1} of 3 was taken."
    np.testing.assert_allclose(d["phase"].numpy(), (VOLUME * (1.0, 0.8, 0.7)[taken])[None])


@pytest.mark.parametrize(
    ("factors", "falling"),
    [
        ((1.0, 0.8, 0.7), True),
        ((1.0, 0.7, 0.73, 0.6), True),  # alternating readouts
        ((1.0, 0.5, 0.48, 0.49), True),  # down to the noise
        ((1.0, 0.95), True),
        ((1.0, 1.0, 0.99), False),  # time points
        ((0.4, 1.0, 0.6, 0.3), False),
        ((0.7, 0.8, 1.0), False),
    ],
)
@pytest.mark.parametrize("keys", [("magnitude", "phase"), ("t2star",)])
def test_volumes_that_are_no_echoes_are_warned_of_and_with_one_echo_time_refused(tmp_path, factors, falling, keys):
    path, number = nifti(tmp_path / "a.nii.gz", echoes(*factors)), len(factors)
    d = LoadSubjectd()({"subject": "sub-7", **dict.fromkeys(keys, path)})
    kind = "T2*-weighted magnitude" if keys == ("t2star",) else "magnitude"
    said = (
        f"The {number} volumes of the {kind} do not lose signal from one to the next as echoes do: they may be coils, "
        f"time points or echoes in another order. Volume {number} was taken."
    )
    assert d.get("warnings", "") == ("" if falling else said)
    sidecar = tmp_path / "a.json"
    sidecar.write_text(json.dumps({"EchoTime": 0.02}))
    if falling:
        d = LoadSubjectd()({"subject": "sub-7", **dict.fromkeys(keys, path)})
        assert f"One echo time, 20 ms, is told of {number} volumes, and was left aside." in d["notices"]
        assert not d.get("warnings")
    else:
        message = refused(dict.fromkeys(keys, path))
        assert message.startswith(f"sub-7: the {kind} {path} has {number} volumes, its JSON file gives one echo time")
        assert "(20 ms)" in message and "Of coils, combine them" in message
    sidecar.write_text(json.dumps({"EchoTime": [0.02 * (n + 1) for n in range(number)]}))
    d = LoadSubjectd(echo=0)({"subject": "sub-7", **dict.fromkeys(keys, path)})
    assert d["notices"].startswith(f"Echo 1 of {number} was taken (20 ms).") and not d.get("warnings")


def test_coils_with_phases_of_their_own_are_refused(tmp_path):
    i = np.linspace(-1, 1, VOLUME.shape[0])[:, None, None]
    coils = [np.exp(-np.square(i - np.cos(angle))) for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False)]
    path = nifti(tmp_path / "a.nii.gz", np.stack([VOLUME * coil for coil in coils], -1))
    (tmp_path / "a.json").write_text('{"EchoTime": 0.02}')
    assert "has 8 volumes, its JSON file gives one echo time (20 ms)" in refused({"magnitude": path, "phase": path})


@pytest.mark.parametrize(("echo", "mentioned"), [(-1, False), (0, False), (1, True), (3, True), (-2, True)])
def test_an_echo_that_is_asked_for_where_there_is_none_is_mentioned(tmp_path, swi, echo, mentioned):
    phase = nifti(tmp_path / "p.nii.gz")
    said = f"Echo {echo} was asked for, but {{}} has one volume, which was read."
    for subject, names in (
        ({"image": swi}, "a_swi.nii.gz"),
        ({"magnitude": swi, "phase": phase}, "a_swi.nii.gz"),
        ({"t2star": nifti(tmp_path / "a_T2S.nii.gz", VOLUME[..., None])}, "a_T2S.nii.gz"),
    ):
        d = LoadSubjectd(echo=echo)(subject)
        assert (said.format(names) in d["notices"]) == mentioned
        assert not d.get("warnings")


def test_an_echo_that_was_chosen_among_files_is_not_mentioned_again(tmp_path):
    for n in (1, 2):
        nifti(tmp_path / f"a_T2starw_e{n}.nii.gz")
    (subject,) = find_subjects(tmp_path, echo=1)
    d = LoadSubjectd(echo=1)(subject)
    assert "Of 2 echoes, a_T2starw_e2.nii.gz was taken" in d["notices"]
    assert "was asked for" not in d["notices"]


# --- empty slices, headers that contradict each other, pictures ---


@pytest.mark.parametrize(
    ("empty", "shown"),
    [
        ([2], "Slice 3 of the SWI's 24 is"),
        ([5, 9, 13], "Slices 6, 10, 14 of the SWI's 24 are"),
        ([0, 1, 4, 22, 23], "Slice 5 of the SWI's 24 is"),
        (list(range(1, 23, 2)), "Slices 2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 1 more of the SWI's 24 are"),
        ([0, 1, 2], ""),
        ([22, 23], ""),
        ([], ""),
    ],
)
@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.parametrize("order", ["F", "C"])
def test_slices_that_are_empty_between_others_are_warned_of(tmp_path, empty, shown, value, order):
    array = np.tile(VOLUME, (1, 1, 4))
    array[..., empty] = value
    path = tmp_path / f"a_swi.{'nii' if order == 'F' else 'nrrd'}"
    if order == "F":
        nifti(path, array)
    else:
        writer = ITKWriter(output_dtype=np.int16)
        writer.set_data_array(array[None], channel_dim=0)
        writer.set_metadata({"affine": AFFINE, "original_affine": AFFINE})
        writer.write(path)
    d = LoadSubjectd()({"image": path})
    said = "empty between slices with signal: microbleeds there and on the slices beside are missed."
    assert d.get("warnings", "") == (f"{shown} {said} Export or convert the scan again." if shown else "")
    assert "empty_slices" not in d["image"].meta


def test_slices_of_the_phase_that_are_empty_are_told_once(tmp_path):
    arrays = [VOLUME.astype(np.float32), VOLUME - 500.0]
    arrays[0][..., 2] = 0
    arrays[1][..., [2, 4]] = 0
    paths = [nifti(tmp_path / name, array) for name, array in zip(("a.nii", "p.nii"), arrays, strict=True)]
    for key, noun in (("image", "SWI"), ("magnitude", "magnitude")):
        warnings = LoadSubjectd()({key: paths[0], "phase": paths[1]})["warnings"]
        assert warnings.count("is empty between") == 2
        assert f"Slice 3 of the {noun}'s 6 is empty" in warnings
        assert "Slice 5 of the phase's 6 is empty" in warnings


def told(tmp_path, image, phase, key="magnitude", values=VOLUME):
    paths = {key: tmp_path / "a_im.nii.gz", "phase": tmp_path / "a_ph.nii.gz"}
    for path, about in zip(paths.values(), (image, phase), strict=True):
        nifti(path, values)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(about))
    return paths


@pytest.mark.parametrize(("first", "second"), [(0.007, 0.03), (0.02, 0.005), (0.02, 0.0206)])
def test_a_phase_of_another_echo_is_refused_by_name(tmp_path, first, second):
    paths = told(tmp_path, {"EchoTime": first}, {"EchoTime": second})
    assert refused(paths).startswith(
        f"sub-7: the header or JSON file of the magnitude {paths['magnitude']} says echo time {1000 * first:g} ms, and "
        f"the phase {paths['phase']} says {1000 * second:g} ms: of different echoes. Give the magnitude and the phase"
    )


@pytest.mark.parametrize(
    ("image", "phase", "key"),
    [
        ({"EchoTime": 0.02}, {"EchoTime": 0.0204}, "magnitude"),
        ({"EchoTime": 0.02}, {}, "magnitude"),
        ({}, {"EchoTime": 0.02}, "magnitude"),
        ({"EchoTime": 0.02}, {"EchoTime": 0.03}, "image"),  # an SWI of several echoes may have the time of the first
        ({"MagneticFieldStrength": 3}, {"MagneticFieldStrength": 2.89}, "magnitude"),
        ({"MagneticFieldStrength": 3}, {}, "image"),
    ],
)
def test_headers_that_may_be_of_one_scan_are_accepted(tmp_path, image, phase, key):
    assert not LoadSubjectd()(told(tmp_path, image, phase, key)).get("warnings")


def test_echo_times_of_several_echoes_are_compared_by_the_echo_taken(tmp_path):
    both = {"EchoTime": [0.01, 0.02, 0.03]}, {"EchoTime": [0.01, 0.02, 0.04]}
    paths = told(tmp_path, *both, values=echoes(1.0, 0.8, 0.7))
    assert "says echo time 30 ms, and the phase" in refused(paths)
    assert "Echo 2 of 3 was taken (20 ms)." in LoadSubjectd(echo=1)(paths)["notices"]


@pytest.mark.parametrize("key", ["image", "magnitude"])
def test_a_phase_of_another_field_is_warned_of(tmp_path, key):
    paths = told(tmp_path, {"MagneticFieldStrength": 1.5}, {"MagneticFieldStrength": 7}, key)
    warnings = LoadSubjectd()(paths)["warnings"]
    assert f"{paths[key]} says 1.5 T, and the phase {paths['phase']} says 7 T: they are of different scans" in warnings


def test_a_colour_picture_is_named_as_that(tmp_path, swi):
    colours = np.zeros(VOLUME.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = nifti(tmp_path / "rgb.nii.gz", colours)
    for key, noun in (("image", "SWI"), ("phase", "phase")):
        message = refused({"image": swi, key: path})
        assert message.startswith(f"sub-7: the {noun} {path} is a colour picture, as a viewer saves, and no scan. Give")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans at {REAL}")
def test_last_echo_of_a_real_scan_is_taken():
    folder = REAL / "gre_crop"
    d = LoadSubjectd()({"magnitude": folder / "mag.nii.gz", "phase": folder / "phase.nii.gz"})
    expected = nib.load(folder / "phase.nii.gz").get_fdata(dtype=np.float32)[..., 2]
    np.testing.assert_array_equal(d["phase"][0].numpy(), expected)
    assert d["notices"] == "Echo 3 of 3 was taken."


def test_notices_are_one_string():
    d = {}
    add_notice(d, "One.")
    add_notice(d, "Two.")
    assert d["notices"] == "One. Two."


# --- labels ---


def table(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_points_are_in_ras_by_hand(tmp_path, swi):
    label = table(tmp_path / "a.xlsx", [[3, 5, 7], [6, 12, 1]])
    d = ReadPointsd()({**LoadSubjectd()({"image": swi}), "label": label})
    # (slice, x, y) = (3, 5, 7) is voxel (4, 6, 2): 10 - 2, -20 + 4.8, 5 + 4; and (6, 12, 1) is (11, 0, 5).
    expected = torch.tensor([[8.0, -15.2, 9.0], [4.5, -20.0, 15.0]], dtype=torch.float64)
    torch.testing.assert_close(d["lesions_ras"], expected)
    assert d["lesions_diameter"].shape == (2,)
    assert d["lesions_diameter"].isnan().all()
    turned = ReadPointsd(convention={"index_base": 0, "swap_xy": True})
    with pytest.raises(LabelError, match=r"a\.xlsx"):
        turned({**LoadSubjectd()({"image": swi}), "label": label})


def test_what_is_doubtful_about_a_table_is_a_warning_of_the_subject(tmp_path, swi):
    path = table(tmp_path / "a.xlsx", [[3, 5, 7], [6, 12, 6]])
    loaded = LoadSubjectd()({"image": swi})
    assert "warnings" not in ReadPointsd()({**loaded, "label": path})
    book = openpyxl.load_workbook(path)
    book.active.row_dimensions[2].hidden = True
    book.save(path)
    d = ReadPointsd()({**loaded, "label": path})
    assert d["warnings"] == "a.xlsx hides row 2 in Excel; they were read like the others."
    assert d["notices"].endswith(f"Warning: {d['warnings']}")


def test_points_of_magnitude_subjects_negatives_and_unlabelled(tmp_path, swi):
    loaded = LoadSubjectd()({"magnitude": swi, "phase": swi})
    d = ReadPointsd()({**loaded, "label": table(tmp_path / "none.xlsx", [])})
    assert d["lesions_ras"].shape == (0, 3)
    assert d["lesions_diameter"].shape == (0,)
    assert "lesions_ras" not in ReadPointsd()(loaded)
    assert "lesions_ras" not in ReadPointsd(key=None)({**loaded, "label": tmp_path / "never opened.xlsx"})
    d = ReadPointsd(join_mm=0.1)({**loaded, "label": table(tmp_path / "two.xlsx", [[2, 4, 4], [3, 5, 4]])})
    assert d["lesions_ras"].shape == (2, 3)
    d = ReadPointsd(join_mm=0.6)({**loaded, "label": tmp_path / "two.xlsx"})
    torch.testing.assert_close(d["lesions_ras"], torch.tensor([[8.25, -17.6, 8.0]], dtype=torch.float64))


# --- head mask ---


def ellipsoid(shape, spacing, semi_axes):
    """Squared ellipsoidal radius of each voxel about the middle of the grid; below 1 is inside."""
    axes = [(np.arange(n) - (n - 1) / 2) * s / a for n, s, a in zip(shape, spacing, semi_axes, strict=True)]
    return sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij"))


def masked(array, spacing, key="image"):
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    d = HeadMaskd()({key: MetaTensor(torch.as_tensor(array, dtype=torch.float32)[None], affine=affine)})
    assert d["mask"].shape == (1, *array.shape)
    torch.testing.assert_close(d["mask"].affine, affine)
    return d["mask"][0].numpy().astype(bool)


@pytest.mark.parametrize("spacing,shape", [((1.0, 1.0, 2.0), (131, 150, 50)), ((0.7, 0.9, 5.0), (180, 160, 21))])
@pytest.mark.parametrize("key", ["image", "magnitude"])
def test_head_mask_holds_the_head_and_no_air(spacing, shape, key):
    rng = np.random.default_rng(0)
    semi_axes = np.array([50.0, 60.0, 40.0])
    radius = ellipsoid(shape, spacing, semi_axes)
    outer = ellipsoid(shape, spacing, semi_axes + 8)
    skull = (radius > 0.75) & (radius < 0.85)
    ventricle = ellipsoid(shape, spacing, (12, 20, 12)) < 1
    array = np.where(radius < 1, 400.0, 0.0) * np.where(skull | ventricle, 0.02, 1) + np.abs(rng.normal(0, 8, shape))
    array[:6, :6, :2] = 500  # something bright in the corner of the air
    mask = masked(array, spacing, key)
    assert mask[radius < 0.97].mean() > 0.999
    assert mask[ventricle].all()
    assert mask[outer > 1].sum() == 0


def test_mask_of_a_skull_stripped_brain_is_the_brain():
    spacing, shape = (0.8, 0.8, 2.0), (150, 170, 40)
    radius = ellipsoid(shape, spacing, (45, 55, 35))
    mask = masked(np.where(radius < 1, 300.0, 0.0), spacing)
    assert mask[radius < 0.93].all()
    assert mask[radius < 1].mean() > 0.99
    assert mask[ellipsoid(shape, spacing, (50, 60, 40)) > 1].sum() == 0


def test_mask_of_a_scan_without_air_is_everything():
    assert masked(np.random.default_rng(0).uniform(90, 110, (40, 44, 12)), (0.5, 0.5, 2.0)).all()


# --- phase, SWI, scaling, stacking ---


def subject(phase, image=None, spacing=(1.0, 1.0, 2.0)):
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    phase = torch.as_tensor(phase, dtype=torch.float32)
    image = torch.ones_like(phase) if image is None else torch.as_tensor(image, dtype=torch.float32)
    return {
        "image": MetaTensor(image, affine=affine),
        "phase": MetaTensor(phase, affine=affine),
        "mask": MetaTensor(torch.ones_like(phase, dtype=torch.bool), affine=affine),
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_configured_sign_and_scale_are_applied_unasked(sign):
    stored = torch.linspace(-100, 100, 8 * 8 * 4).reshape(1, 8, 8, 4)
    d = NormalizePhased(scale=0.02, sign=sign, filter_phase=False)(subject(stored))
    torch.testing.assert_close(d["phase"].as_tensor(), sign * 0.02 * stored)
    assert d["notices"] == "Phase was scaled by 0.02 rad a unit, as configured."
    torch.testing.assert_close(d["phase"].affine, d["image"].affine)


@pytest.mark.parametrize(
    "setting,offset,filtered", [("auto", 0.0, 0), ("auto", 0.5, 1), (True, 0.0, 1), (False, 0.5, 0)]
)
def test_phase_is_filtered_when_raw_or_when_told(setting, offset, filtered):
    phase = 0.1 * torch.rand((1, 32, 32, 4), generator=torch.Generator().manual_seed(0)) + offset
    d = NormalizePhased(scale=1.0, sign=1, filter_phase=setting, lines=8)(subject(phase))
    expected = homodyne_filter(phase, torch.ones_like(phase), 8) if filtered else phase
    torch.testing.assert_close(d["phase"].as_tensor(), expected)
    assert ("It was high-pass filtered (8 lines)." in d["notices"]) == filtered


def test_automatic_sign_turns_and_tells():
    image, noise = torch.rand((2, 1, 48, 48, 4), generator=torch.Generator().manual_seed(0))
    image = image + 1
    phase = 0.2 * (image - 1.5) + 0.3 * (noise - 0.5)  # bright is positive: the wrong way round
    d = NormalizePhased(scale=1.0, filter_phase=False)(subject(phase, image))
    torch.testing.assert_close(d["phase"].as_tensor(), -phase)
    assert "Its sign was turned (dark structures correlate at -" in d["notices"]
    d = NormalizePhased(scale=1.0, filter_phase=False)(subject(-phase, image))
    torch.testing.assert_close(d["phase"].as_tensor(), -phase)
    assert "Its sign was kept (dark structures correlate at +" in d["notices"]


def test_a_subject_without_phase_passes():
    d = subject(torch.zeros(1, 8, 8, 4))
    del d["phase"]
    assert "phase" not in NormalizePhased()(d)


def test_wrong_settings_of_the_phase_are_named():
    with pytest.raises(ValueError, match=r"phase sign is 0; expected 'auto', 1 or -1"):
        NormalizePhased(sign=0)
    with pytest.raises(ValueError, match=r"filter_phase is 'yes'; expected 'auto', true or false"):
        NormalizePhased(filter_phase="yes")


def test_swi_is_computed_only_where_there_is_none():
    d = subject(torch.tensor([0.0, math.pi / 2, math.pi, -2.0]).reshape(1, 4, 1, 1))
    d["magnitude"] = d.pop("image") * 16
    d = ComputeSWId()(d)
    assert d["image"].flatten().tolist() == pytest.approx([16, 1, 0, 16], abs=1e-5)
    assert d["notices"] == "SWI was computed from magnitude and phase."
    assert d["swi_computed"] is True
    assert "magnitude" not in d
    again = ComputeSWId()({**d, "notices": "", "magnitude": d["image"] * 0})
    assert again["image"] is d["image"]
    assert again["notices"] == ""
    assert again["swi_computed"] is False
    assert "magnitude" not in again


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-3, 1e6), st.integers(0, 5))
def test_scaled_swi_has_median_one_half_whatever_the_gain(gain, seed):
    rng = np.random.default_rng(seed)
    image = rng.uniform(0.7, 1.3, (1, 9, 9, 5))
    image[:, :3] = 0.05  # bone within the head, not tissue
    d = subject(np.zeros_like(image), image * gain)
    d["mask"][:, :, 8] = False
    d["image"][:, :, 8] = 100 * gain  # outside the head
    scaled = ScaleSWId("image")(d)["image"]
    tissue = image[:, 3:, :8]
    np.testing.assert_allclose(scaled[:, 3:, :8].numpy(), 0.5 * tissue / np.sort(tissue, axis=None)[119], rtol=1e-5)
    assert float(scaled[:, 3:, :8].as_tensor().median()) == pytest.approx(0.5, abs=1e-6)
    assert float(scaled[:, :, 8].min()) == 1.0


def test_channels_are_swi_and_complement_phase_inside_the_mask():
    phase = torch.tensor([0.0, math.pi, -math.pi, math.pi / 2, 4.0, -4.0, 1.0, 1.0]).reshape(1, 8, 1, 1)
    d = subject(phase, torch.full_like(phase, 0.25))
    d["mask"] = MetaTensor(torch.tensor([1, 1, 1, 1, 0.6, 1, 0.4, 0]).reshape(1, 8, 1, 1), affine=d["mask"].affine)
    out = StackComplementPhased()(d)
    assert set(out) == {"image"}
    assert out["image"].dtype == torch.float32
    assert out["image"][0].flatten().tolist() == [0.25] * 6 + [0, 0]
    assert out["image"][1].flatten().tolist() == pytest.approx(
        [0.5, DARKEST_PHASE, 1, 0.25, DARKEST_PHASE, 1, 0, 0], abs=1e-6
    )
    del d["phase"]
    out = StackComplementPhased()(d)
    assert out["image"][0].flatten().tolist() == [0.25] * 6 + [0, 0]
    assert float(out["image"][1].abs().max()) == 0


@pytest.mark.parametrize("choice, channels", [("zero", 2), ("none", 1)])
def test_phase_can_be_left_out(choice, channels):
    phase = torch.tensor([0.0, math.pi, -math.pi, 1.0]).reshape(1, 4, 1, 1)
    d = subject(phase, torch.full_like(phase, 0.25))
    d["mask"] = MetaTensor(torch.tensor([1, 1, 1, 0]).reshape(1, 4, 1, 1), affine=d["mask"].affine)
    out = StackComplementPhased(choice)(d)
    assert set(out) == {"image", "notices"}
    assert out["image"].shape == (channels, 4, 1, 1)
    assert out["image"][0].flatten().tolist() == [0.25] * 3 + [0]
    assert not out["image"][1:].any()
    assert out["notices"].endswith("The phase was left out: the detection works on SWI alone.")
    del d["phase"]
    assert "notices" not in StackComplementPhased(choice)(d)
    torch.testing.assert_close(StackComplementPhased(choice)(d)["image"].as_tensor(), out["image"].as_tensor())


def test_unknown_phase_channel():
    with pytest.raises(ValueError, match="phase_channel is 'swi'; expected 'complement', 'zero' or 'none'"):
        StackComplementPhased("swi")


# --- the configured chains ---


def chain(name, **changes):
    text = (CONFIGS / f"{name}.json").read_text(encoding="utf-8").replace('"scripts.', '"cmb_bundle.scripts.')
    parser = ConfigParser(json.loads(text) | changes)
    if name == "train":
        return Compose(parser.get_parsed_content("train#deterministic_transforms"))
    parser["preprocessing#transforms"] = [
        step for step in parser["preprocessing#transforms"] if "ChooseSignd" not in str(step)
    ]  # with the network, which these tests do not need
    return parser.get_parsed_content("preprocessing")


CODES = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]


def oblique(degrees):
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def head_with_dot(folder, code, spacing, degrees, dot, amplitude):
    """A ball of 15 mm about RAS (7, -5, 11) with a Gaussian dot (2 mm) in SWI and in phase; returns the paths."""
    order, flips = code
    centre, extent = np.array([7.0, -5.0, 11.0]), 40.0
    columns = np.zeros((3, 3))
    for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
        columns[world, axis] = flip * spacing[axis]
    shape = tuple(int(np.ceil(extent / s)) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = oblique(degrees) @ columns
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    ras = nib.affines.apply_affine(affine, voxels)
    ball = np.linalg.norm(ras - centre, axis=-1) < 15
    bump = np.exp(-0.5 * (np.linalg.norm(ras - centre - dot, axis=-1) / 2) ** 2)
    paths = {"image": folder / "swi.nii.gz", "phase": folder / "phase.nii.gz"}
    nib.save(nib.Nifti1Image((ball * (200 + amplitude * bump)).astype(np.float32), affine), paths["image"])
    nib.save(nib.Nifti1Image((1.5 * bump).astype(np.float32), affine), paths["phase"])
    return paths, centre + dot


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from(CODES),
    spacing=st.tuples(st.floats(0.4, 1.2), st.floats(0.4, 1.2), st.floats(1.0, 3.0)),
    degrees=st.tuples(*[st.floats(-20, 20)] * 3),
    dot=st.tuples(*[st.floats(-4, 4)] * 3),
    amplitude=st.sampled_from([-120, 120]),
    name=st.sampled_from(["inference", "train"]),
)
def test_a_dot_stays_where_it_is_in_ras(code, spacing, degrees, dot, amplitude, name):
    with tempfile.TemporaryDirectory() as folder:
        paths, ras = head_with_dot(Path(folder), code, spacing, degrees, dot, amplitude)
        label = Path(folder) / "none.csv"
        label.write_text("slice,x,y\n", encoding="utf-8")
        transform = chain(name, phase_sign=1, phase_scale=1.0)
        d = transform({"subject": "dot", "label": label, **paths})
    volume = d["image"]
    extent = np.array(volume.shape[1:])
    assert (np.abs(volume.pixdim.numpy() - [0.6, 0.6, 2.0]) * extent <= np.array([0.6, 0.6, 2.0]) / 2 + 1e-6).all()
    assert nib.aff2axcodes(volume.affine.numpy()) == ("R", "A", "S")
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape[1:]], indexing="ij"), axis=-1)
    apart = np.linalg.norm(nib.affines.apply_affine(volume.affine.numpy(), voxels) - [7, -5, 11], axis=-1)
    swi, complement = volume.numpy()
    expected = nib.affines.apply_affine(np.linalg.inv(volume.affine.numpy()), ras)
    for change in (np.sign(amplitude) * (swi - 0.5), 0.5 - complement):
        weight = np.clip(change - 0.05, 0, None) * (apart < 11)
        found = (weight[..., None] * voxels).reshape(-1, 3).sum(0) / weight.sum()
        assert np.abs(found - expected).max() < 0.5, (found, expected)


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 2.0), (0.25, 0.3, 1.0), (0.5, 0.5, 4.0), (0.5, 0.5, 2.0)])
def test_a_ramp_stays_a_ramp_at_any_spacing(spacing):
    affine = np.diag([-0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = [-10, 5, 7]
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in (101, 90, 31)], indexing="ij"), axis=-1)
    slope = np.array([1.0, 2.0, -1.0])
    values = nib.affines.apply_affine(affine, voxels) @ slope
    volume = MetaTensor(torch.as_tensor(values, dtype=torch.float32)[None], affine=torch.as_tensor(affine))
    found = ResampleSpacingd("image", spacing)({"image": volume})["image"]
    assert list(found.shape[1:]) == [
        round(n * s / t) for n, s, t in zip((101, 90, 31), (0.5, 0.5, 2), spacing, strict=True)
    ]
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in found.shape[1:]], indexing="ij"), axis=-1)
    expected = nib.affines.apply_affine(found.affine.numpy(), voxels) @ slope
    inner = (slice(4, -4),) * 2 + (slice(2, -2),)
    # torch rounds the window of its average to whole voxels, which shifts it by some hundredths of one
    assert np.abs(found[0].numpy() - expected)[inner].max() < 0.15
    if spacing == (0.5, 0.5, 2.0):
        assert torch.equal(found.as_tensor(), volume.as_tensor())


def test_larger_voxels_average_noise():
    generator = torch.Generator().manual_seed(0)
    noise = MetaTensor(torch.randn((1, 64, 64, 40), generator=generator), affine=torch.eye(4, dtype=torch.float64))
    found = ResampleSpacingd("image", (2.0, 2.0, 2.0))({"image": noise})["image"]
    # a triangular window over weights 1, 3, 3, 1 of 8 in each of three directions
    assert float(found[:, 2:-2, 2:-2, 2:-2].std()) == pytest.approx((20 / 64) ** 1.5, rel=0.05)


@functools.cache
def oblique_phantom():
    return simulate(dataclasses.replace(TINY, seed=2, microbleeds=6, mimics=False, oblique_deg=15.0))


def test_lesions_of_a_phantom_are_dark_where_the_labels_say(tmp_path):
    phantom = oblique_phantom()
    paths = {"image": tmp_path / "swi.nii.gz", "phase": tmp_path / "phase.nii.gz"}
    nifti(paths["image"], phantom.swi, phantom.affine)
    nifti(paths["phase"], phantom.phase, phantom.affine)
    voxels = np.array([m["voxel"] for m in phantom.truth["microbleeds"]])
    label = table(tmp_path / "a.xlsx", [[round(k) + 1, round(i) + 1, round(j) + 1] for i, j, k in voxels.tolist()])
    d = chain("train")(
        {"subject": "a", "image": tmp_path / "swi.nii.gz", "phase": tmp_path / "phase.nii.gz", "label": label}
    )
    assert set(d) == {"subject", "image", "lesions_ras", "lesions_diameter"}
    truth = np.array([m["ras_mm"] for m in phantom.truth["microbleeds"]])
    order = np.linalg.norm(d["lesions_ras"].numpy()[:, None] - truth, axis=-1)
    # A label is rounded to the voxel, 1.2 x 1.2 x 2 mm: half its diagonal.
    assert order.min(axis=0).max() <= np.linalg.norm([0.6, 0.6, 1.0]) + 1e-6
    at = nib.affines.apply_affine(np.linalg.inv(d["image"].affine.numpy()), d["lesions_ras"].numpy())
    darkest = []
    for i, j, k in np.round(at).astype(int):
        darkest.append(float(d["image"][0, i - 2 : i + 3, j - 2 : j + 3, k].min()))
    assert max(darkest) < 0.35


def test_swi_alone_and_magnitude_with_phase_pass_the_inference_chain(tmp_path):
    phantom = oblique_phantom()
    paths = {}
    for key, name in (("image", "swi"), ("phase", "phase"), ("magnitude", "magnitude")):
        paths[key] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(getattr(phantom, name), phantom.affine), paths[key])
    transform = chain("inference")
    both = transform({"subject": "a", **paths})
    alone = transform({"subject": "a", "image": paths["image"]})
    made = transform({"subject": "a", "magnitude": paths["magnitude"], "phase": paths["phase"]})
    torch.testing.assert_close(alone["image"][0].as_tensor(), both["image"][0].as_tensor())
    assert float(alone["image"][1].max()) == 0
    assert "SWI alone" in alone["notices"]
    assert "SWI was computed" in made["notices"]
    np.testing.assert_allclose(made["image"].affine, both["image"].affine)
    apart = (made["image"].as_tensor() - both["image"].as_tensor()).abs()
    assert float(apart[0].quantile(0.9)) < 0.02
    assert float(apart[1].quantile(0.9)) < 1e-6


def test_no_blank_slice_is_added_where_the_head_fills_the_slab(tmp_path):
    phantom = oblique_phantom()
    nifti(tmp_path / "swi.nii.gz", phantom.swi, phantom.affine)
    volume = chain("inference")({"subject": "a", "image": tmp_path / "swi.nii.gz"})["image"]
    assert volume.shape[-1] == phantom.swi.shape[-1] == 10
    assert float(volume[0].amax(dim=(0, 1)).min()) > 0.3
