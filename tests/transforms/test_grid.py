"""Grids that no head lies on, images that are no SWI, and complex numbers: refused, or read with a notice."""

import struct

import itk
import nibabel as nib
import numpy as np
import pytest
import torch

from cmb_bundle.scripts.errors import SubjectError
from cmb_bundle.scripts.transforms.grid import problem_of_grid
from cmb_bundle.scripts.transforms.load import LoadSubjectd
from cmb_bundle.scripts.transforms.phase import NormalizePhased
from cmb_bundle.scripts.transforms.plausible import check_image, sample

RNG = np.random.default_rng(0)
HEAD = RNG.gamma(4, 100, (40, 44, 20)).astype(np.float32)
AFFINE = np.diag([4.0, 4.0, 7.0, 1.0])


def nifti(path, array=HEAD, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def patched(path, *changes):
    """A NIfTI with bytes of its header replaced: (offset, format, values)."""
    content = bytearray(nifti(path).read_bytes())
    for offset, form, *values in changes:
        struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(content)
    return path


def read(**paths):
    return LoadSubjectd()({"subject": "sub-7", **paths})


def refused(**paths):
    with pytest.raises(SubjectError) as caught:
        read(**paths)
    return str(caught.value)


PIXDIM, OFFSET, CODES, SFORM, UNITS = 76, 108, 252, 280, 123
NO_SFORM = (CODES, "hh", 0, 0)


@pytest.mark.parametrize(
    "changes,words",
    [
        ([(SFORM, "12f", *[0.0] * 12)], "an affine that is singular"),
        ([(SFORM, "f", float("nan"))], "NaN or infinite"),
        ([(SFORM, "f", float("inf"))], "NaN or infinite"),
        ([(SFORM, "12f", 4, 0, 0, 0, 0, 4, 0, 0, 4, 4, 0, 0)], "an affine that is singular"),
        ([NO_SFORM, (PIXDIM, "4f", 1, 0, 0, 0)], "a voxel size of 0"),
        ([(OFFSET, "f", 100.0)], "vox offset"),
    ],
)
def test_a_header_without_a_grid_is_refused(tmp_path, changes, words):
    path = patched(tmp_path / "a_swi.nii", *changes)
    message = refused(image=path)
    assert message.startswith(f"sub-7: the SWI {path} ")
    assert words in message


@pytest.mark.parametrize("factor", [0.1**2, 0.1**3, 10.0, 1000.0])
@pytest.mark.parametrize("key,noun", [("image", "SWI"), ("t2star", "T2*-weighted magnitude")])
def test_voxels_far_from_those_of_a_head_are_refused(tmp_path, factor, key, noun):
    path = nifti(tmp_path / "a.nii.gz", affine=np.diag([*AFFINE.diagonal()[:3] * factor, 1]))
    message = refused(**{key: path})
    assert message.startswith(f"sub-7: the {noun} {path} has voxels of {4 * factor:.4g} x ")
    assert "Correct the voxel size" in message


def test_usual_grids_and_crops_pass():
    for shape, voxel in [((512, 512, 72), 0.45), ((51, 51, 41), 0.47), ((80, 80, 53), 3.0), ((256, 256, 160), 1.0)]:
        assert problem_of_grid(shape, np.diag([voxel, voxel, max(voxel, 1), 1.0])) == ""
    assert "voxels of 0.05 x" in problem_of_grid((480, 480, 72), np.diag([0.05, 0.05, 0.2, 1]))
    assert "2400 x 2400" in problem_of_grid((480, 480, 72), np.diag([5, 5, 20, 1]))


def test_a_header_without_orientation_is_read_with_a_warning(tmp_path):
    d = read(image=patched(tmp_path / "a_swi.nii", NO_SFORM), phase=phase_of(tmp_path, NO_SFORM))
    assert d["warnings"].count("left and right") == 1
    assert "Warning: The header gives no orientation (sform and qform are 0)" in d["notices"]
    assert "warnings" not in read(image=nifti(tmp_path / "b_swi.nii"))


def phase_of(folder, *changes):
    return patched(folder / "a_phase.nii", *changes)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_grid_that_was_lost_is_warned_of(tmp_path, suffix):
    """As written by whoever has no affine at hand; a real scan is not of 1 mm from 0 on."""
    path = tmp_path / f"p1_swi{suffix}"
    for affine, warned in ((np.eye(4), True), (np.diag([1.0, 1, 2, 1]), False)):
        if suffix == ".mha":
            image = itk.image_from_array(np.ascontiguousarray(HEAD.T))
            image.SetSpacing([float(edge) for edge in np.diag(affine)[:3]])
            itk.imwrite(image, str(path))
        else:
            nib.save(nib.Nifti1Image(HEAD, affine), path)
        read = LoadSubjectd()({"subject": "p1", "image": str(path)})
        assert ("as programs write that have lost the grid" in read.get("warnings", "")) == warned


def test_metres_become_millimetres_and_a_wrong_unit_does_not(tmp_path):
    sform = (SFORM, "12f", 0.004, 0, 0, -0.1, 0, 0.004, 0, 0.02, 0, 0, 0.007, 0)
    d = read(image=patched(tmp_path / "a_swi.nii", sform, (UNITS, "B", 1)))
    assert d["image"].pixdim.tolist() == pytest.approx([4, 4, 7])
    assert d["image"].affine[:3, 3].tolist() == pytest.approx([-100, 20, 0])
    assert np.allclose(d["image"].meta["original_affine"], d["image"].affine)
    assert "lengths in meters, which were read as such" in d["notices"]
    d = read(image=patched(tmp_path / "b_swi.nii", (UNITS, "B", 1)))
    assert d["image"].pixdim.tolist() == pytest.approx([4, 4, 7])
    assert "were read as mm" in d["notices"]


# --- what is no SWI ---

NOISE = RNG.uniform(-np.pi, np.pi, HEAD.shape).astype(np.float32)


@pytest.mark.parametrize(
    "array,words",
    [
        (NOISE, "is negative in 50 % of what is not background"),
        (np.round(NOISE / np.pi * 4096), "is negative in 50 %"),
        (np.round((NOISE / np.pi + 1) * 2047.5), "fills its range from 0 to 4095 evenly, as a phase does"),
        (NOISE + np.float32(np.pi), "evenly, as a phase does"),
        ((HEAD > 300).astype(np.int16), "has 2 different values: it is a mask or a label map"),
        (-HEAD, "has no positive value"),
        (np.where(HEAD > 300, NOISE, 0).astype(np.float32), "is negative in"),
    ],
)
@pytest.mark.parametrize("key,noun", [("image", "SWI"), ("t2star", "T2*-weighted magnitude")])
def test_what_can_be_no_swi_is_refused_with_advice(tmp_path, array, words, key, noun):
    path = nifti(tmp_path / "a_swi.nii.gz", array)
    message = refused(**{key: path})
    assert message.startswith(f"sub-7: the {noun} {path} ")
    assert words in message
    assert "give the SWI or the magnitude" in message


@pytest.mark.parametrize("shape", [(448, 448, 35), (448, 448, 34), (512, 448, 72), (512, 400, 33), (64, 64, 12)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_of_all_slices_are_looked_at(shape, axis):
    """Whatever the order in memory; a step of 35 would have met the first of 35 slices alone."""
    place = torch.arange(shape[axis], dtype=torch.float32).reshape([-1 if d == axis else 1 for d in range(3)])
    for order in ((0, 1, 2), (2, 1, 0), (2, 0, 1)):
        stored = place.expand(shape).permute(order).contiguous().permute(np.argsort(order).tolist())
        assert torch.equal(stored, place.expand(shape))
        counts = torch.bincount(sample(stored[None]).long(), minlength=shape[axis])
        assert int(counts.min()) > 0.5 * float(counts.float().mean())


def test_an_empty_first_slice_hides_nothing(tmp_path):
    scan = RNG.gamma(4, 100, (448, 448, 35)).astype(np.float32)
    scan[:, :, 0] = 0
    check_image("sub-7: the SWI", torch.as_tensor(scan[None]))


def test_a_few_negative_values_are_no_phase(tmp_path):
    ringing = HEAD.copy()
    ringing[:3] = -5
    assert float(read(image=nifti(tmp_path / "a_swi.nii.gz", ringing))["image"].min()) == -5


# --- complex numbers and single axes ---

COMPLEX = (HEAD * np.exp(1j * NOISE)).astype(np.complex64)


@pytest.mark.parametrize("key", ["image", "magnitude", "t2star", "phase"])
def test_magnitude_and_phase_are_read_from_a_complex_image(tmp_path, key):
    d = read(**{key: nifti(tmp_path / "a.nii.gz", COMPLEX)})
    assert np.allclose(d["magnitude"][0], HEAD, rtol=1e-5)
    assert np.allclose(d["phase"][0], NOISE, atol=1e-4)
    assert d["contrast"] == "magnitude + phase"
    assert "The image is complex" in d["notices"]
    assert "image" not in d


def test_a_real_image_beside_a_complex_one_is_kept(tmp_path):
    swi, other = nifti(tmp_path / "a_swi.nii.gz"), nifti(tmp_path / "a_phase.nii.gz", COMPLEX)
    d = read(image=swi, phase=other)
    assert np.array_equal(d["image"][0], HEAD)
    assert np.allclose(d["phase"][0], NOISE, atol=1e-4)
    phase = nifti(tmp_path / "b_phase.nii.gz", NOISE)
    d = read(magnitude=other, phase=phase)
    assert np.array_equal(d["phase"][0], NOISE)
    assert np.allclose(d["magnitude"][0], HEAD, rtol=1e-5)


def test_the_last_echo_of_complex_numbers_is_taken(tmp_path):
    echoes = np.stack([COMPLEX, 2 * COMPLEX.conj()], -1)
    for array in (echoes, echoes[..., None, :], echoes[..., None]):
        d = read(magnitude=nifti(tmp_path / "a.nii.gz", array))
        assert np.allclose(d["magnitude"][0], 2 * HEAD, rtol=1e-5)
        assert np.allclose(d["phase"][0], -NOISE, atol=1e-4)


def test_the_phase_of_complex_numbers_is_in_radians_however_narrow(tmp_path):
    narrow = (HEAD * np.exp(0.3j * NOISE / np.abs(NOISE).max())).astype(np.complex64)
    d = read(image=nifti(tmp_path / "a.nii.gz", narrow))
    d["mask"] = d["magnitude"] > 0
    d = NormalizePhased(sign=1, filter_phase=False)(d)
    assert float(d["phase"].abs().max()) == pytest.approx(0.3, abs=1e-3)
    assert "1 rad a unit, as complex numbers tell" in d["notices"]


def test_axes_of_one_are_left_out(tmp_path):
    d = read(image=nifti(tmp_path / "a_swi.nii.gz", HEAD[..., None, None]))
    assert np.array_equal(d["image"][0], HEAD)
    assert np.allclose(d["image"].affine, AFFINE)
    assert tuple(d["image"].meta["spatial_shape"]) == HEAD.shape


# --- what a JSON file beside a phase tells ---


def test_unit_and_maker_of_a_phase_are_read_from_the_json_beside_it(tmp_path):
    swi, phase = nifti(tmp_path / "a_swi.nii.gz"), nifti(tmp_path / "a_phase.nii.gz", NOISE)
    (tmp_path / "a_phase.json").write_text('{"Units": "Hz", "Manufacturer": "GE"}')
    (tmp_path / "a_swi.json").write_text('{"EchoTime": 0.02, "MagneticFieldStrength": 3, "Manufacturer": "Siemens"}')
    meta = read(image=swi, phase=phase)["phase"].meta
    assert {name: meta[name] for name in ("units", "manufacturer", "echo_ms", "field_tesla")} == {
        "units": "Hz", "manufacturer": "GE", "echo_ms": 20.0, "field_tesla": 3.0,
    }  # fmt: skip
