"""Reading of DICOM: what a series shows, where it lies, what its values mean, and which series of a study is taken."""

import dataclasses
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage
from nibabel.affines import apply_affine
from pydicom.uid import JPEGLSLossless, RLELossless

from cmb_bundle.scripts.data.datasets import SubjectDataset
from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.data.splits import Split
from cmb_bundle.scripts.dicom import reader
from cmb_bundle.scripts.dicom.kinds import MR_CLASSES, Header, kind_of, phase_unit
from cmb_bundle.scripts.dicom.pixels import read_pixels
from cmb_bundle.scripts.dicom.reader import frame_kind, read_volumes
from cmb_bundle.scripts.dicom.series import choose_series, find_studies, study_of
from cmb_bundle.scripts.errors import DicomError, SubjectError
from cmb_bundle.scripts.transforms.load import LoadSubjectd
from cmb_bundle.scripts.transforms.phase import NormalizePhased
from cmb_bundle.scripts.transforms.phase_scale import wrap

from ..helpers.dicom_series import Study, write_dicom_series

SWI_TYPE, M_TYPE, P_TYPE = r"ORIGINAL\PRIMARY\M\SWI\NORM\ND", r"ORIGINAL\PRIMARY\M\ND\NORM", r"ORIGINAL\PRIMARY\P\ND"
SIEMENS = {"slope": 2, "intercept": -4096}


def part(dataset_dir, datalist_file=None, subset="all", subjects=None, **options):
    """A part of a split made for the purpose."""
    return Split(dataset_dir, datalist_file, **options).part(subset, subjects)


def oblique(spacing=(0.8, 0.6, 2.0), turns=(20, -15, 40), flips=(1, 1, 1), origin=(-31.5, 12.25, 8.0)):
    """An affine to RAS mm of voxels that are turned about all three axes, and mirrored where a flip is -1."""
    rotation = nib.eulerangles.euler2mat(*np.radians(turns))
    return nib.affines.from_matvec(rotation @ np.diag(np.multiply(spacing, flips)), origin)


def values(shape=(6, 5, 4), high=4095, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, endpoint=True)


@pytest.fixture
def write(tmp_path):
    """Write series into one study; later ones can say which study instead."""
    study = Study()

    def one(description, number, image_type, volume=None, affine=None, folder="study", **more):
        volume = values(seed=number) if volume is None else volume
        affine = oblique() if affine is None else affine
        study_of_it = more.pop("study", study)
        return write_dicom_series(
            tmp_path / folder, volume, affine, study_of_it, description, number, image_type, **more
        )

    return one


def chosen(tmp_path, wanted=None, echo=-1, folder="study"):
    return choose_series(study_of(tmp_path / folder), wanted, echo)


def refusal(tmp_path, wanted=None, echo=-1):
    with pytest.raises(DicomError) as caught:
        chosen(tmp_path, wanted, echo)
    return str(caught.value)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        # Siemens
        ({"description": "SWI_Images", "image_type": ("ORIGINAL", "PRIMARY", "M", "SWI", "NORM", "ND")}, "swi"),
        ({"description": "SWI_Images", "image_type": ("ORIGINAL", "PRIMARY", "M", "ND")}, "swi"),
        ({"description": "Mag_Images", "image_type": ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")}, "magnitude"),
        ({"description": "Mag_Images", "image_type": ("ORIGINAL", "PRIMARY", "M", "SWI")}, "magnitude"),
        ({"description": "Pha_Images", "image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}, "phase"),
        ({"description": "Pha_Images", "image_type": ("ORIGINAL", "PRIMARY", "P", "SWI")}, "phase"),
        ({"description": "mIP_Images(SW)", "image_type": ("ORIGINAL", "PRIMARY", "M", "SWI")}, "other"),
        ({"description": "SWI", "image_type": ("DERIVED", "SECONDARY", "MINIP", "SWI")}, "other"),
        ({"description": "localizer", "image_type": ("ORIGINAL", "PRIMARY", "M", "LOCALIZER")}, "other"),
        ({"description": "t2_swi3d_tra_p2", "image_type": ("ORIGINAL", "PRIMARY", "M", "ND")}, "swi?"),
        ({"description": "t2_swi3d_tra_p2", "image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}, "phase"),
        ({"description": "gre_qsm", "image_type": ("DERIVED", "PRIMARY", "QSM", "NONE")}, "other"),
        # GE
        ({"description": "Ax SWAN", "image_type": ("ORIGINAL", "PRIMARY", "OTHER")}, "swi"),
        ({"description": "Ax SWAN", "image_type": ("ORIGINAL", "PRIMARY", "OTHER"), "ge_component": 0}, "swi?"),
        ({"description": "FILT_PHA: Ax SWAN", "image_type": ("DERIVED", "SECONDARY", "OTHER")}, "phase"),
        ({"description": "FILT_PHA: Ax SWAN", "ge_component": 0}, "phase"),
        ({"description": "minIP: Ax SWAN", "image_type": ("DERIVED", "SECONDARY", "REFORMATTED")}, "other"),
        ({"description": "swi_mIP8", "image_type": ("DERIVED", "SECONDARY", "M")}, "other"),
        ({"description": "SWI minIP10mm", "image_type": ("DERIVED", "SECONDARY", "M")}, "other"),
        ({"description": "MPR Ob_Ax_I -> S_Min IP_sp:5.0_th:5", "ge_component": 0}, "other"),
        ({"description": "Ax 3D GRE", "image_type": ("ORIGINAL", "PRIMARY", "OTHER"), "ge_component": 0}, "magnitude"),
        ({"description": "Ax 3D GRE", "image_type": ("ORIGINAL", "PRIMARY", "OTHER"), "ge_component": 1}, "phase"),
        ({"description": "Ax SWAN", "ge_component": 2}, "other"),
        ({"description": "Ax SWAN", "ge_component": 3}, "other"),
        # Philips
        ({"description": "SWIp", "image_type": ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE")}, "swi"),
        ({"description": "SWIp", "image_type": ("ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE")}, "phase"),
        ({"description": "3D FFE", "image_type": ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE")}, "magnitude"),
        ({"description": "B0 map", "image_type": ("ORIGINAL", "PRIMARY", "R", "FFE", "R", "FFE")}, "other"),
        # enhanced
        ({"description": "x", "image_type": ("ORIGINAL", "PRIMARY", "T2_STAR", "NONE"), "component": "PHASE"}, "phase"),
        ({"description": "x", "image_type": ("ORIGINAL", "PRIMARY", "T1"), "component": "MAGNITUDE"}, "magnitude"),
        ({"description": "SWI", "calculation": "MIN_IP"}, "other"),
        ({"description": "x", "image_type": ("ORIGINAL", "PRIMARY", "SW_M_FFE", "SW_M", "FFE")}, "swi"),
        ({"description": "SWIp mag", "image_type": ("ORIGINAL", "PRIMARY", "SW_M_FFE", "SW_M", "FFE")}, "swi"),
        ({"description": "SWIp", "image_type": ("ORIGINAL", "PRIMARY", "SW_P_FFE", "SW_P", "FFE")}, "phase"),
        ({"description": "MIP SWIp", "image_type": ("DERIVED", "PRIMARY", "SW_M_FFE", "SW_M", "FFE")}, "other"),
        ({"description": "VenoBOLD"}, "swi"),
        ({"description": "s3D Veno-BOLD TRA"}, "swi"),
        # Hitachi, Canon, UIH
        ({"description": "BSI TRA", "manufacturer": "HITACHI"}, "swi"),
        ({"description": "3D BSI", "manufacturer": "FUJIFILM Healthcare Corporation"}, "swi"),
        ({"description": "BSI TRA", "manufacturer": "SIEMENS"}, "other"),
        ({"description": "FSBB_tra", "manufacturer": "CANON_MEC", "image_type": ("ORIGINAL", "PRIMARY")}, "swi"),
        ({"description": "gre_swi_tra_UIH", "manufacturer": "UIH", "image_type": ("ORIGINAL", "PRIMARY", "M")}, "swi?"),
        # others
        ({"description": "3DSWI"}, "swi"),
        ({"description": "AX3DSWI"}, "swi"),
        ({"description": "Ax SWAN2"}, "swi"),
        ({"description": "FSBB", "image_type": ("ORIGINAL", "PRIMARY")}, "swi"),
        ({"description": "swi_mag"}, "magnitude"),
        ({"description": "swi_phase"}, "phase"),
        ({"description": "phaseless swiss cheese"}, "other"),
        ({"description": "SWI_Images", "sop_class": "1.2.840.10008.5.1.4.1.1.7"}, "other"),
    ],
)  # fmt: skip
def test_what_a_series_shows(header, kind):
    found = kind_of(Header(**{"sop_class": MR_CLASSES[0]} | header))
    assert found.name + ("" if found.sure else "?") == kind
    assert found.why


@pytest.mark.parametrize(
    ("manufacturer", "bits", "signed", "slope", "intercept", "unit", "expected"),
    [
        ("SIEMENS", 12, False, 2, -4096, "US", (np.pi / 4096, 0)),
        ("Siemens Healthineers", 12, False, 1, 0, "", (np.pi / 2048, 2048)),
        ("Philips Medical Systems", 12, False, 1.53455, -3142, "mrad", (0.001, 0)),
        ("Philips Medical Systems", 12, False, 1.53455, -3142, "US", (0.001, 0)),
        ("Philips Healthcare", 12, False, 0.00153455, -3.142, "", (1, 0)),
        ("GE MEDICAL SYSTEMS", 16, True, 1, 0, "", (0.001, 0)),
        ("", 16, True, 2, 0, "rad", (1, 0)),
        ("UIH", 16, False, 1, 0, "", None),
        ("Philips", 12, False, 0.25, -500, "", None),
        ("GE MEDICAL SYSTEMS", 16, True, 0.5, 0, "", None),
    ],
)
def test_unit_of_a_phase(manufacturer, bits, signed, slope, intercept, unit, expected):
    found = phase_unit(manufacturer, bits, signed, slope, intercept, unit)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("flips", [(1, 1, 1), (1, -1, 1), (-1, 1, -1), (1, 1, -1)])
@pytest.mark.parametrize("turns", [(0, 0, 0), (20, -15, 40), (90, 0, 10), (5, 88, -3)])
@pytest.mark.parametrize("enhanced", [False, True])
def test_a_voxel_stays_where_it_is_in_ras(tmp_path, write, flips, turns, enhanced):
    volume, affine = values(), oblique(turns=turns, flips=flips)
    write("SWI_Images", 3, SWI_TYPE, volume, affine, enhanced=enhanced)
    (found,) = study_of(tmp_path / "study")
    pixels, unit = read_pixels(found)
    assert found.problem == "" and unit is None
    assert pixels.shape == found.shape
    # the slices come along the normal of rows and columns, so k can run the other way than it was written
    k = range(volume.shape[2])[:: int(np.sign(np.linalg.det(affine)))]
    np.testing.assert_array_equal(pixels, volume[:, :, k])
    corner = np.array([[0, 0, 0], [5, 0, 0], [0, 4, 0], [0, 0, 3], [5, 4, 3]])
    there = np.c_[corner[:, :2], np.array(k)[corner[:, 2]]]
    np.testing.assert_allclose(apply_affine(found.affine, corner), apply_affine(affine, there), atol=1e-6)


def test_geometry_is_that_of_itk(tmp_path, write):
    write("SWI_Images", 3, SWI_TYPE)
    expected = LoadImage(reader="ITKReader", image_only=True)(tmp_path / "study")
    (found,) = study_of(tmp_path / "study")
    np.testing.assert_array_equal(read_pixels(found)[0], expected.numpy())
    np.testing.assert_allclose(found.affine, expected.affine.numpy(), atol=1e-6)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("enhanced", [False, True])
def test_compressed_series(tmp_path, write, syntax, enhanced):
    volume = np.add.outer(np.add.outer(np.arange(32), 2 * np.arange(24)), 9 * np.arange(4))
    write("SWI_Images", 3, SWI_TYPE, volume, np.diag([-1.0, -1, 1, 1]), syntax=syntax, enhanced=enhanced)
    (found,) = study_of(tmp_path / "study")
    np.testing.assert_array_equal(read_pixels(found)[0], volume)


def test_study_of_siemens(tmp_path, write):
    swi, phase = values(seed=1), values(seed=2)
    phase[0, 0, :2] = 0, 4095
    write("localizer", 1, M_TYPE + r"\LOCALIZER", values((6, 5, 3)))
    write("t1_mprage", 2, M_TYPE)
    write("Mag_Images", 4, M_TYPE)
    write("Pha_Images", 5, P_TYPE, phase, **SIEMENS)
    write("mIP_Images(SW)", 6, r"DERIVED\PRIMARY\MINIP\ND\NORM")
    write("SWI_Images", 7, SWI_TYPE, swi)
    choice = chosen(tmp_path)
    assert {key: v.number for key, v in choice.volumes.items()} == {"image": 7, "phase": 5}
    assert choice.notices == (
        "DICOM: SWI from series 7 'SWI_Images' (ImageType SWI), phase from series 5 'Pha_Images' (ImageType P).",
    )
    data = LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})
    np.testing.assert_array_equal(data["image"][0].numpy(), swi)
    np.testing.assert_array_equal(data["phase"][0].numpy(), 2 * phase - 4096)
    assert data["phase"].meta["radians_per_unit"] == pytest.approx(np.pi / 4096)
    assert data["notices"] == choice.notices[0]
    assert "magnitude" not in data and "dicom" not in data
    source = json.loads(data["dicom_source"])
    assert len(source) == 4 and all(Path(file).is_file() and frame == 0 for file, frame in source)


def test_study_of_ge(tmp_path, write):
    study = Study(manufacturer="GE MEDICAL SYSTEMS")
    phase = values(high=6283, seed=2) - 3141
    ge = {"study": study, "bits": 16, "affine": np.eye(4)}
    write("Ax SWAN", 8, r"ORIGINAL\PRIMARY\OTHER", values(seed=1), ge=0, **ge)
    write("Ax SWAN", 800, r"DERIVED\SECONDARY\OTHER", phase, ge=1, **ge)
    write("minIP: Ax SWAN", 801, r"DERIVED\SECONDARY\REFORMATTED", ge=0, **ge)
    choice = chosen(tmp_path)
    assert {key: v.number for key, v in choice.volumes.items()} == {"image": 8, "phase": 800}
    data = LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})
    np.testing.assert_array_equal(data["phase"][0].numpy(), phase)
    assert data["phase"].meta["radians_per_unit"] == 0.001


def test_magnitude_and_phase_in_one_series_as_of_philips(tmp_path, write):
    study = Study(manufacturer="Philips Medical Systems")
    magnitude, phase = values(seed=1), values(seed=2)
    series = write("QSM_GRE", 401, r"ORIGINAL\PRIMARY\M_FFE\M\FFE", magnitude, study=study, slope=0.5)
    write(
        "QSM_GRE", 401, r"ORIGINAL\PRIMARY\PHASE MAP\P\FFE", phase, study=study, series=series, prefix="P",
        slope="1.53455", intercept=-3142, unit="mrad",
    )  # fmt: skip
    data = LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})
    np.testing.assert_array_equal(data["magnitude"][0].numpy(), 0.5 * magnitude)
    np.testing.assert_allclose(data["phase"][0].numpy(), 1.53455 * phase - 3142, atol=1e-3)
    assert data["phase"].meta["radians_per_unit"] == 0.001
    assert "magnitude from series 401 'QSM_GRE' (ImageType M_FFE)" in data["notices"]


def test_enhanced_frames_of_two_kinds_and_with_slopes_of_their_own(tmp_path, write):
    both = values((6, 5, 8))
    affine = np.diag([-1.0, -1, 2, 1])
    slopes = [1.0, 0.5, 2.0, 0.25, 2, 2, 2, 2]
    parts = ["MAGNITUDE"] * 4 + ["PHASE"] * 4
    # the frames of the phase lie where those of the magnitude do: the writer's slices 4 to 7 are moved back
    write("SWI", 9, r"ORIGINAL\PRIMARY\T2_STAR\NONE", both, affine, enhanced=True, component=parts, slope=slopes)
    import pydicom

    (path,) = (tmp_path / "study").iterdir()
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        if position[2] >= 8:
            position[2] -= 8
            frame.PixelValueTransformationSequence[0].RescaleIntercept = -4096
    dataset.save_as(path)
    choice = chosen(tmp_path)
    assert {key: v.shape for key, v in choice.volumes.items()} == {"image": (6, 5, 4), "phase": (6, 5, 4)}
    np.testing.assert_array_equal(read_pixels(choice.volumes["image"])[0], both[:, :, :4] * slopes[:4])
    phase, unit = read_pixels(choice.volumes["phase"])
    np.testing.assert_array_equal(phase, both[:, :, 4:] * 2 - 4096)
    assert unit == pytest.approx(np.pi / 4096)


def test_real_world_values_count_where_there_is_no_rescaling(tmp_path, write):
    import pydicom
    from pydicom.dataset import Dataset

    write("SWI_Images", 7, SWI_TYPE)
    stored = values(seed=5)
    write("Pha_Images", 5, P_TYPE, stored)
    for path in (tmp_path / "study").glob("IM005*"):
        dataset, item, unit = pydicom.dcmread(path), Dataset(), Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mrad", "UCUM", "milliradian"
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 1.53455, -3142.0
        item.MeasurementUnitsCodeSequence = [unit]
        dataset.RealWorldValueMappingSequence = [item]
        dataset.save_as(path)
    pixels, unit = read_pixels(chosen(tmp_path).volumes["phase"])
    np.testing.assert_allclose(pixels, stored * 1.53455 - 3142, atol=1e-3)
    assert unit == 0.001


def test_phase_is_scaled_by_its_header_not_by_its_range(tmp_path, write):
    """A phase of a third of the circle; its range alone would spread it over the whole."""
    head = np.pad(500.0 + values((24, 24, 2), 100), [(4, 4), (4, 4), (1, 1)])
    stored = values((32, 32, 4), 1300) + 1400
    write("SWI_Images", 7, SWI_TYPE, head)
    write("Pha_Images", 5, P_TYPE, stored)
    data = LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})
    data["mask"] = data["image"] > 0
    normalised = NormalizePhased(sign=1, filter_phase=False)(dict(data))
    expected = wrap(data["phase"].as_tensor() * (np.pi / 2048))
    np.testing.assert_allclose(normalised["phase"].numpy(), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(normalised["phase"][0].numpy(), (stored - 2048) * (np.pi / 2048), atol=1e-5)
    assert "Phase was scaled by 0.00153398 rad a unit, as its DICOM header says." in normalised["notices"]
    configured = NormalizePhased(scale=0.001, sign=1, filter_phase=False)(dict(data))
    np.testing.assert_allclose(configured["phase"][0].numpy(), (stored - 2048) * 0.001, atol=1e-5)


def test_echo_is_chosen_by_echo_time(tmp_path, write):
    series = [write("gre", 4 + p, M_TYPE if p == 0 else P_TYPE, folder=f"study/{p}", echo=25.0) for p in (0, 1)]
    for echo in (15.0, 5.0):
        for p in (0, 1):
            write("gre", 4 + p, (M_TYPE, P_TYPE)[p], echo=echo, series=series[p], folder=f"study/{p}", prefix=f"{echo}")
    choice = chosen(tmp_path)
    assert {key: v.echo_ms for key, v in choice.volumes.items()} == {"magnitude": 25, "phase": 25}
    assert choice.notices[1:] == (
        "Echo 3 of 3 was taken (25 ms); `echo` counts the 2 that can be read, and this one is 1.",
    )
    assert {v.echo_ms for v in chosen(tmp_path, echo=0).volumes.values()} == {15}, "5 ms is no echo for SWI"
    assert {v.echo_ms for v in chosen(tmp_path, {"phase": "gre"}, echo=0).volumes.values()} == {5}
    assert "echo 3 was asked for, but series 5 'gre' has 2. Set `echo` to a value from 0 to 1" in refusal(
        tmp_path, echo=3
    )


def test_the_only_echo_with_a_phase_is_counted_among_all(tmp_path, write):
    series = write("gre", 4, M_TYPE, echo=10.0)
    write("gre", 4, M_TYPE, values(seed=3), echo=12.46, series=series, prefix="b")
    write("gre", 5, P_TYPE, echo=12.46)
    assert chosen(tmp_path).notices[1:] == ("Echo 2 of 2 was taken (12.46 ms).",)


def test_a_field_map_is_not_taken_for_a_susceptibility_weighted_scan(tmp_path, write):
    write("field_map", 4, M_TYPE, echo=7.38)
    write("field_map", 5, P_TYPE, echo=7.38)
    message = refusal(tmp_path)
    assert message.startswith("no SWI was found, nor a magnitude with its phase, nor a T2*-weighted gradient echo.")
    assert 'dicom_series as {"image": "<words of its SeriesDescription, or its SeriesInstanceUID>"}' in message
    assert "series 4 'field_map', 6 x 5 x 4, echo 7.38 ms (magnitude: ImageType M)" in message


def test_no_swi_lists_what_is_there(tmp_path, write):
    uid = write("t1_mprage", 2, r"ORIGINAL\PRIMARY\OTHER")
    assert f"series 2 't1_mprage', 6 x 5 x 4, echo 20 ms (other: no hint of SWI, phase or magnitude), {uid}" in refusal(
        tmp_path
    )
    assert chosen(tmp_path, {"image": "MPRAGE"}).volumes["image"].number == 2


def test_two_swi_series_are_told_apart_by_the_config(tmp_path, write):
    first, second = write("SWI_Images", 7, SWI_TYPE), write("SWI_Images", 17, SWI_TYPE, echo=21)
    write("SWI_Images_repeat", 27, SWI_TYPE)
    message = refusal(tmp_path)
    assert message.startswith("3 series can be the SWI.")
    assert f'dicom_series as {{"image": "{first}"}}' in message
    assert all(uid in message for uid in (first, second))
    for wanted, number in ((first, 7), (second, 17), ("REPEAT$", 27), (17, 17)):
        assert chosen(tmp_path, {"image": wanted}).volumes["image"].number == number
    assert "2 series" not in refusal(tmp_path, {"image": "SWI_Images"})


def test_what_the_config_says_must_make_sense(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    write("Pha_Images", 5, P_TYPE, **SIEMENS)
    assert "image 'SWAN' fits none of the series" in refusal(tmp_path, {"image": "SWAN"})
    assert "image '(' is no regular expression" in refusal(tmp_path, {"image": "("})
    assert "has the key 'swi'; expected are image, phase, magnitude" in refusal(tmp_path, {"swi": "a"})
    assert list(chosen(tmp_path, {"phase": False}).volumes) == ["image"]


def test_magnitude_that_is_asked_for_comes_before_the_swi(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    write("Mag_Images", 4, M_TYPE)
    write("Pha_Images", 5, P_TYPE, **SIEMENS)
    assert {k: v.number for k, v in chosen(tmp_path, {"magnitude": "Mag"}).volumes.items()} == {
        "magnitude": 4,
        "phase": 5,
    }


def test_a_phase_on_another_grid_is_left_out_with_a_notice(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    write("Pha_Images", 5, P_TYPE, affine=oblique(origin=(-31.5, 12.25, 9.0)), **SIEMENS)
    choice = chosen(tmp_path)
    assert list(choice.volumes) == ["image"]
    assert choice.notices[1] == "The phase, series 5 'Pha_Images', is on another grid than the SWI."


def test_slices_that_are_no_whole_volume_are_refused(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE, values((6, 5, 9)), skip=(3, 4))
    assert refusal(tmp_path).startswith(
        "series 7 'SWI_Images' lacks 2 slice(s): slices 3 and 4 are 6.00 mm apart, the others 2.00. Export the series"
    )


def test_two_volumes_in_one_series_are_refused(tmp_path, write):
    series = write("SWI_Images", 7, SWI_TYPE)
    write("SWI_Images", 7, SWI_TYPE, values(seed=9), series=series, prefix="B")
    assert "has 8 slices at 4 positions: it holds more than one volume" in refusal(tmp_path)


def test_uneven_and_leaning_stacks_are_refused(tmp_path, write):
    import pydicom

    write("SWI_Images", 7, SWI_TYPE, affine=np.diag([-1.0, -1, 2, 1]))
    paths = sorted((tmp_path / "study").iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    for axis, shift, message in (
        (2, 0.5, "has slices that are 2.00 to 2.50 mm apart; expected equal distances"),
        (1, 0.3, "has slices shifted sideways by up to 0.90 mm"),
    ):
        for k, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            dataset.ImagePositionPatient = [0, 0, 2 * k]
            dataset.ImagePositionPatient[axis] += shift * (k if axis == 1 else k == 3)
            dataset.save_as(path)
        assert message in refusal(tmp_path)


def test_a_file_that_is_there_twice_counts_once(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    for path in list((tmp_path / "study").iterdir()):
        (tmp_path / "study" / f"copy_{path.name}").write_bytes(path.read_bytes())
    assert chosen(tmp_path).volumes["image"].shape == (6, 5, 4)


def test_slices_that_an_anonymiser_gave_one_uid_are_slices_each(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    write("Pha_Images", 5, P_TYPE)
    for path in (tmp_path / "study").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = "1.2.3"
        dataset.save_as(path)
        (tmp_path / "study" / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    assert {key: volume.shape for key, volume in chosen(tmp_path).volumes.items()} == {
        "image": (6, 5, 4), "phase": (6, 5, 4)
    }  # fmt: skip


def test_a_truncated_file_is_named(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE, values((64, 64, 4)), affine=np.eye(4))
    path = next((tmp_path / "study").iterdir())
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(SubjectError, match=f"{path.name} cannot be decoded"):
        LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})


def test_an_intercept_that_rounds_the_pixels_away_is_refused(tmp_path, write):
    """ITK applies it even where there is no RescaleSlope; the slice was read as 0."""
    write("SWI_Images", 7, SWI_TYPE, values((64, 64, 4)), affine=np.eye(4))
    path = next((tmp_path / "study").iterdir())
    dataset = pydicom.dcmread(path)
    if "RescaleSlope" in dataset:
        del dataset.RescaleSlope
    dataset.RescaleIntercept = "1e30"
    dataset.save_as(path)
    with pytest.raises(SubjectError, match=rf"{path.name} has a RescaleIntercept of 1e\+30; no scanner writes that"):
        LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})


def test_swip_of_philips_has_both_in_one_series(tmp_path, write):
    series, affine = write("SWIp", 501, r"ORIGINAL\PRIMARY\SW_M_FFE\SW_M\FFE", echo=0, per_frame=True), oblique()
    write(
        "SWIp", 501, r"ORIGINAL\PRIMARY\SW_P_FFE\SW_P\FFE", values(seed=9), echo=0, prefix="P", series=series,
        slope=1.53455, intercept=-3142, unit="mrad", per_frame=True,
    )  # fmt: skip
    volumes = chosen(tmp_path).volumes
    assert {key: v.echo_ms for key, v in volumes.items()} == {"image": None, "phase": None}
    np.testing.assert_array_equal(read_pixels(volumes["image"])[0], values(seed=501))
    phase, radians = read_pixels(volumes["phase"])
    np.testing.assert_allclose(phase, values(seed=9) * 1.53455 - 3142, rtol=1e-5, atol=1e-3)
    assert radians == 0.001
    np.testing.assert_allclose(volumes["image"].affine, affine, atol=1e-6)


def test_two_orientations_in_one_series(tmp_path, write):
    series = write("SWI_Images", 7, SWI_TYPE)
    write("SWI_Images", 7, SWI_TYPE, affine=oblique(turns=(0, 0, 0)), series=series, prefix="b", skip=(2, 3))
    choice = chosen(tmp_path)
    assert choice.volumes["image"].shape == (6, 5, 4)
    assert choice.notices[1] == (
        "2 slice(s) of series 7 'SWI_Images' were left out: their orientation, size, pixel size or echo time differs "
        "from the others'."
    )
    write("SWI_Images", 7, SWI_TYPE, affine=oblique(turns=(0, 0, 0)), series=series, prefix="c", skip=(0, 1))
    message = refusal(tmp_path)
    assert message.startswith("series 7 'SWI_Images' holds 2 volumes that can be the SWI, of different orientation")
    assert "Export each as a series of its own" in message


def test_a_slice_that_is_there_twice_under_another_uid_is_refused(tmp_path, write):
    series = write("SWI_Images", 7, SWI_TYPE)
    write("SWI_Images", 7, SWI_TYPE, series=series, prefix="again", skip=(0, 2, 3))
    assert "has 5 slices at 4 positions: it holds more than one volume" in refusal(tmp_path)


def test_ids_in_other_scripts_are_readable_and_differ(tmp_path, write):
    patients = ["환자", "Müller", "Mu\u0308ller", "müller", "A/1", "A_1", "A_1_20240102", "***"]
    for number, patient in enumerate(patients):
        series = write("SWI", 7, SWI_TYPE, study=Study("x"), folder=f"s{number}")
        for path in (tmp_path / f"s{number}").iterdir():
            dataset = pydicom.dcmread(path)
            dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 192", patient
            if patient == "환자":
                dataset.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
            if patient in ("A/1", "A_1"):  # two patients in one study
                dataset.StudyInstanceUID = "1.2.3"
            dataset.save_as(path)
        assert series
    studies = find_studies(tmp_path)
    names = [study["subject"] for study in studies]
    assert [len(study["dicom"]) for study in studies] == [4] * 8
    assert len({name.casefold() for name in names}) == 8
    assert {"환자", "A_1_20240102", "study"} < set(names)
    assert sum(name.startswith("Müller_20240102_") for name in names) == 2
    assert sum(name.startswith("müller_20240102_") for name in names) == 1
    assert {"A_1_20240102_1.2.3", "A_1_20240102_1.2.3_2"} < set(names)


def test_utf8_without_a_character_set(tmp_path, write):
    write("SWI", 7, SWI_TYPE)
    for path in (tmp_path / "study").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 192", "환자 7"
        dataset.save_as(path)
        del dataset.SpecificCharacterSet
        dataset["PatientID"]._value = "환자 7".encode().decode("latin-1")
        dataset.save_as(path)
    assert [study["subject"] for study in find_studies(tmp_path)] == ["환자_7"]


def test_a_file_with_another_date_stays_in_its_study(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    path = next((tmp_path / "study").iterdir())
    dataset = pydicom.dcmread(path)
    dataset.StudyDate = "20240103"
    dataset.save_as(path)
    write("SWI_Images", 7, SWI_TYPE, folder="later", study=Study(date="20250101"))
    studies = find_studies(tmp_path)
    assert {study["subject"]: len(study["dicom"]) for study in studies} == {"P01_20240102": 4, "P01_20250101": 4}
    assert find_subjects(tmp_path) == studies


def test_ids_of_studies(tmp_path, write):
    days = (("A/1", "20240101"), ("A/1", "20240202"), ("B", "20240101"), ("C", ""), ("C", ""), ("", ""))
    for number, (patient, date) in enumerate(days):
        write("SWI_Images", 7, SWI_TYPE, study=Study(patient, date), folder=f"PACS/x{number % 2}", prefix=f"{number}-")
    with pytest.raises(DicomError, match="holds 6 studies"):
        study_of(tmp_path)
    studies = find_studies(tmp_path)
    names = [study["subject"] for study in studies]
    assert names[:3] == ["A_1_20240101", "A_1_20240202", "B"] and names[-1] == "study"
    assert all(name.startswith("C_") and len(name) == 14 for name in names[3:5])
    assert len(set(names)) == 6
    assert [len(study["dicom"]) for study in studies] == [4] * 6
    assert find_subjects(tmp_path) == studies
    assert part(tmp_path, subjects=["B"]) == [studies[2]]
    with pytest.raises(SubjectError, match="0 subjects have a label that can be read"):
        part(tmp_path, tmp_path / "list.json", subset="test")


@pytest.mark.parametrize("enhanced", [False, True])
def test_metadata_of_a_server_tell_what_a_file_tells(tmp_path, write, enhanced):
    """Of DICOMweb's JSON, with GE's private part of the image, and with the enhanced classes' groups of a frame."""
    parts = {0: {"component": "MAGNITUDE"}, 1: {"component": "PHASE"}} if enhanced else {0: {"ge": 0}, 1: {"ge": 1}}
    for part, kind in ((0, "magnitude"), (1, "phase")):
        write("Ax 3D GRE", part, r"ORIGINAL\PRIMARY\OTHER", folder=kind, enhanced=enhanced, **parts[part])
        (volume,) = study_of(tmp_path / kind)
        header = pydicom.dcmread(next((tmp_path / kind).iterdir()), stop_before_pixels=True)
        served = pydicom.Dataset.from_json(json.dumps(header.to_json_dict()))
        assert frame_kind(served) == volume.kind
        assert volume.kind.name == kind
    if not enhanced:
        del served[0x0043, 0x102F]  # as of a server that hands out no private attributes
        assert frame_kind(served).name == "other"


def test_a_bad_file_does_not_stop_the_studies(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE, study=Study("P01"), folder="PACS/1")
    write("SWI_Images", 8, SWI_TYPE, study=Study("P02"), folder="PACS/2")
    whole = find_subjects(tmp_path)
    assert [subject["subject"] for subject in whole] == ["P01", "P02"]
    content = next((tmp_path / "PACS/1").iterdir()).read_bytes()
    (tmp_path / "PACS/1/broken").write_bytes(content[:153])
    # tag and type of the StudyInstanceUID; UJ is no type
    (tmp_path / "PACS/1/mistyped").write_bytes(content.replace(b"\x20\0\x0d\0UI", b"\x20\0\x0d\0UJ"))
    anonymous = pydicom.dcmread(next((tmp_path / "PACS/2").iterdir()))
    del anonymous.StudyInstanceUID
    anonymous.save_as(tmp_path / "P01")  # named as a patient, whose results must not be taken for the file's
    directory = pydicom.Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID, directory.FileSetID = pydicom.uid.generate_uid(), "DISK"
    directory.save_as(tmp_path / "dicomdir", enforce_file_format=True)

    subjects = {subject["subject"]: subject for subject in find_subjects(tmp_path)}
    assert set(subjects) == {"P01", "P02", "file P01", "file PACS 1 broken", "file PACS 1 mistyped"}
    assert [subjects["P01"], subjects["P02"]] == whole
    mistyped = subjects["file PACS 1 mistyped"]["error"]
    assert mistyped.startswith(f"{tmp_path / 'PACS/1/mistyped'} cannot be read as DICOM (NotImplementedError: ")
    unread, nameless = subjects["file PACS 1 broken"], subjects["file P01"]
    assert set(unread) == set(nameless) == {"subject", "error"}
    assert unread["error"].startswith(f"{tmp_path / 'PACS/1/broken'} cannot be read as DICOM (")
    assert unread["error"].endswith(
        "Copy or export it again, or remove it; the study that it belongs to may lack a slice."
    )
    assert nameless["error"].startswith(f"{tmp_path / 'P01'} has no StudyInstanceUID, so that it belongs to no study.")
    item = SubjectDataset([unread], LoadSubjectd())[0]
    assert item == {"subject": "file PACS 1 broken", "error": f"SubjectError: {unread['error']}"}


def test_bad_files_alone_are_an_error_with_their_names(tmp_path):
    (tmp_path / "IM1").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(SubjectError, match="none of the 1 subjects can be used") as caught:
        find_subjects(tmp_path)
    assert f"file IM1: {tmp_path / 'IM1'} has no StudyInstanceUID" in str(caught.value)
    assert "Layouts" not in str(caught.value), "which do not matter to it"


def test_studies_in_the_layout_of_the_data_set_have_their_labels(tmp_path, write):
    for name in ("01", "02"):
        write("SWI_Images", 7, SWI_TYPE, study=Study("same"), folder=f"Data/{name}/dicom")
        (tmp_path / "Label").mkdir(exist_ok=True)
        (tmp_path / "Label" / f"{name}.csv").write_text("2,3,3\n" if name == "01" else "")
    subjects = find_subjects(tmp_path)
    assert subjects[0] == {
        "subject": "01",
        "dicom": str(tmp_path / "Data" / "01"),
        "label": str(tmp_path / "Label" / "01.csv"),
    }
    assert [s["subject"] for s in subjects] == ["01", "02"]
    assert LoadSubjectd()(subjects[1])["image"].shape == (1, 6, 5, 4)


def test_series_folders_named_by_kind(tmp_path, write):
    write("whatever", 7, r"ORIGINAL\PRIMARY\OTHER", folder="Data/SWI/01")
    write("whatever", 8, r"ORIGINAL\PRIMARY\OTHER", folder="Data/Phase/01", volume=values(seed=8) - 3000, bits=16)
    (subject,) = find_subjects(tmp_path)
    assert subject == {
        "subject": "01",
        "image": str(tmp_path / "Data/SWI/01"),
        "phase": str(tmp_path / "Data/Phase/01"),
    }
    data = LoadSubjectd()(subject)
    np.testing.assert_array_equal(data["phase"][0].numpy(), values(seed=8) - 3000)
    assert "radians_per_unit" not in data["phase"].meta, "its header does not say that it is a phase"


def test_a_datalist_names_studies_and_series(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    write("Pha_Images", 5, P_TYPE, **SIEMENS)
    entries = [
        {"subject": "a", "dicom": "study"},
        {"subject": "b", "image": "study", "phase": "study"},
        {"subject": "c", "image": "study"},
        {"subject": "d", "magnitude": "study", "phase": "study"},
        {"subject": "e", "dicom": [f"study/{path.name}" for path in (tmp_path / "study").glob("IM007*")]},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    a, b, c, d, e = find_subjects(tmp_path / "list.json")
    load = LoadSubjectd()
    a, b, c, e = load(a), load(b), load(c), load(e)
    assert (e["image"] == a["image"]).all() and "phase" not in e
    assert (a["image"] == b["image"]).all() and (a["phase"] == b["phase"]).all() and "phase" not in c
    with pytest.raises(SubjectError, match="d: no magnitude was found"):
        load(d)


def test_without_pydicom_the_extra_is_named(tmp_path, write, monkeypatch):
    write("SWI_Images", 7, SWI_TYPE)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(SubjectError, match=r"pydicom, which is not installed. Install the extra \[dicom\]"):
        find_subjects(tmp_path)


def test_other_files_among_the_dicom_files_are_passed_over(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    for name in ("README", "DICOMDIR", ".hidden", "scan.nii.gz"):
        (tmp_path / "study" / name).write_bytes(b"\0" * 128 + (b"DICM" if name != "README" else b"nope"))
    assert len(list(reader.dicom_files(tmp_path))) == 4
    assert len(read_volumes(reader.dicom_files(tmp_path))) == 1


def test_a_volume_tells_what_it_is(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE)
    (volume,) = study_of(tmp_path / "study")
    assert str(volume) == "series 7 'SWI_Images'"
    assert str(dataclasses.replace(volume, number=None)) == "series 'SWI_Images'"


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_preamble_are_read(tmp_path, write, implicit):
    write("SWI_Images", 7, SWI_TYPE)
    whole = LoadSubjectd()(find_subjects(tmp_path)[0])
    for path in (tmp_path / "study").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=True)
        assert path.read_bytes()[:4] == b"\x08\0\x08\0"
    (subject,) = find_subjects(tmp_path)
    data = LoadSubjectd()(subject)
    np.testing.assert_allclose(data["image"].affine, whole["image"].affine)
    np.testing.assert_array_equal(data["image"], whole["image"])


def test_padding_below_zero_is_background(tmp_path, write):
    volume = values(seed=7).astype(np.int16)
    volume[:2] = -2000
    write("SWI_Images", 7, SWI_TYPE, volume=volume, bits=16)
    for path in (tmp_path / "study").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        dataset.save_as(path)
    data = LoadSubjectd()(find_subjects(tmp_path)[0])
    np.testing.assert_array_equal(data["image"][0].numpy(), np.maximum(volume, 0))


@pytest.mark.parametrize("content", [b"", b"\0" * 900, b"<html>Error 404</html>"])
def test_a_file_named_as_the_others_that_is_no_dicom_is_told(tmp_path, write, content):
    """A slice at an end is missed by no distance between slices."""
    write("SWI_Images", 7, SWI_TYPE)
    last = max((tmp_path / "study").iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    last.write_bytes(content)
    for name in ("README", "notes1.txt", "IMAGES1"):
        (tmp_path / "study" / name).write_bytes(b"x")
    study, damaged = find_subjects(tmp_path)
    assert (study["subject"], damaged["subject"]) == ("P01", f"file study {last.name}")
    assert damaged["error"].startswith(f"{last} is named as the DICOM files beside it and is none: it is empty or")


def test_an_swi_with_fewer_slices_than_its_phase_carries_a_warning(tmp_path, write):
    write("SWI_Images", 7, SWI_TYPE, skip=(3,))
    write("Pha_Images", 5, P_TYPE, **SIEMENS)
    write("Mag_Images", 4, r"ORIGINAL\PRIMARY\M\ND", echo=10.0)
    (subject,) = find_subjects(tmp_path)
    data = LoadSubjectd()(subject)
    assert data["warnings"].startswith(
        "series 7 'SWI_Images' has 3 slices and series 5 'Pha_Images', at the same places, 4: it may lack some"
    )
    for path in (tmp_path / "study").glob("IM005*"):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[0] += 2
        dataset.save_as(path)
    assert "at the same places" not in LoadSubjectd()(subject).get("warnings", "")
