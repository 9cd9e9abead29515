"""T2*-weighted gradient echoes among DICOM series: known by their headers, read where there is nothing better."""

import numpy as np
import pytest

from cmb_bundle.scripts.dicom.kinds import MR_CLASSES, Header, kind_of
from cmb_bundle.scripts.dicom.series import choose_series, study_of
from cmb_bundle.scripts.errors import DicomError
from cmb_bundle.scripts.transforms.load import LoadSubjectd

from ..helpers.dicom_series import Study, write_dicom_series

M, P, SWI = r"ORIGINAL\PRIMARY\M\ND", r"ORIGINAL\PRIMARY\P\ND", r"ORIGINAL\PRIMARY\M\SWI\ND"
GRID, OTHER = np.diag([0.9, 0.9, 5.0, 1.0]), np.diag([0.6, 0.6, 2.0, 1.0])


def values(seed):
    return np.random.default_rng(seed).integers(0, 4000, (6, 5, 4))


@pytest.fixture
def write(tmp_path):
    study = Study()

    def one(description, number, image_type=M, affine=GRID, sequence="GR", folder=None, **more):
        more = {"echo": 22.0, "field": 1.5, "seed": number} | more
        volume = values(more.pop("seed"))
        where = tmp_path / "study" / (folder or str(number))
        return write_dicom_series(
            where, volume, affine, study, description, number, image_type, sequence=sequence, **more
        )

    return one


def chosen(tmp_path, wanted=None, echo=-1):
    return choose_series(study_of(tmp_path / "study"), wanted, echo)


def numbers(choice):
    return {key: volume.number for key, volume in choice.volumes.items()}


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_t2star_is_read_in_place_of_swi(tmp_path, write, enhanced):
    write("ax gre hemo", 3, sequence="GRADIENT" if enhanced else "GR", enhanced=enhanced)
    write("t1_fl2d", 4, echo=4.8)
    d = LoadSubjectd()({"subject": "a", "dicom": str(tmp_path / "study")})
    assert d["contrast"] == "t2star"
    np.testing.assert_array_equal(d["image"][0].numpy(), values(3))
    assert d["notices"].startswith("DICOM: T2*-weighted magnitude from series 3 'ax gre hemo' (ImageType M).")
    assert "A T2*-weighted magnitude without phase was read" in d["notices"]
    assert (d["image"].meta["echo_ms"], d["image"].meta["field_tesla"]) == (22.0, 1.5)
    assert "dicom_source" in d


@pytest.mark.parametrize(
    "about",
    [
        {"echo": 11.9},
        {"sequence": "EP"},
        {"sequence": ["EP", "GR"]},
        {"sequence": ["GR", "IR"]},
        {"sequence": "SE"},
        {"sequence": None},
        {"image_type": P},
        {"description": "mIP_Images(SW)"},
    ],
)
def test_what_is_no_t2star_is_refused(tmp_path, write, about):
    write(**{"description": "scan", "number": 3} | about)
    with pytest.raises(DicomError, match=r"nor a T2\*-weighted gradient echo.*if one is T2\*-weighted, the same with"):
        chosen(tmp_path)


def test_it_can_be_named_where_the_header_does_not_say(tmp_path, write):
    write("scan", 3, sequence=None)
    write("SWI_Images", 7, SWI)
    assert numbers(chosen(tmp_path, {"t2star": 3})) == {"t2star": 3}
    assert numbers(chosen(tmp_path, {"magnitude": "scan", "phase": False})) == {"t2star": 3}
    assert numbers(chosen(tmp_path, {"t2star": False})) == {"image": 7}


def test_ge_without_a_word_of_the_magnitude(tmp_path, write):
    write("Ax T2* GRE", 3, r"ORIGINAL\PRIMARY\OTHER")
    choice = chosen(tmp_path)
    assert numbers(choice) == {"t2star": 3}
    assert "(a gradient echo with a long echo time)" in choice.notices[0]
    header = {"sop_class": MR_CLASSES[0], "gradient_echo": True, "echo_ms": 22.0}
    assert kind_of(Header(**header)).name == "magnitude" and not kind_of(Header(**header)).sure
    assert kind_of(Header(**header, image_type=("DERIVED", "SECONDARY"))).name == "other"
    assert kind_of(Header(**header | {"echo_ms": 7.0})).name == "other"


def test_swi_is_taken_before_it_and_so_are_magnitude_and_phase(tmp_path, write):
    write("t2_fl2d", 3)
    write("Mag_Images", 4, M, OTHER)
    write("Pha_Images", 5, P, OTHER)
    choice = chosen(tmp_path)
    assert numbers(choice) == {"magnitude": 4, "phase": 5}
    left = "series 3 't2_fl2d' (T2*-weighted) was not read: there is"
    assert choice.notices[-1] == f"{left} a magnitude with its phase."
    write("SWI_Images", 7, SWI, OTHER)
    choice = chosen(tmp_path)
    assert numbers(choice) == {"image": 7, "phase": 5}
    assert choice.notices[-1] == f"{left} an SWI."


def test_the_magnitude_of_the_swi_itself_is_no_second_scan(tmp_path, write):
    write("Mag_Images", 4)
    write("SWI_Images", 7, SWI)
    assert len(chosen(tmp_path).notices) == 1


def test_the_echo_nearest_to_20_to_25_ms_is_taken(tmp_path, write):
    series = write("multi", 3, echo=5.0, folder="a")
    for echo in (13.0, 21.0, 38.0):
        write("multi", 3, echo=echo, folder=str(echo), series=series, seed=int(echo))
    choice = chosen(tmp_path)
    assert choice.volumes["t2star"].echo_ms == 21.0
    assert (
        choice.notices[1] == "Echo 3 of 4 was taken (21 ms); `echo` counts the 3 that can be read, and this one is 1."
    )
    assert chosen(tmp_path, echo=2).volumes["t2star"].echo_ms == 38.0


def test_two_of_them_are_listed(tmp_path, write):
    write("gre first", 3)
    write("gre again", 4)
    with pytest.raises(DicomError, match=r"2 series can be the T2\*-weighted magnitude. Say which"):
        chosen(tmp_path)
    assert numbers(chosen(tmp_path, {"t2star": "again"})) == {"t2star": 4}


def test_a_folder_of_its_series(tmp_path, write):
    write("gre", 3)
    d = LoadSubjectd()({"subject": "a", "t2star": str(tmp_path / "study" / "3")})
    assert d["contrast"] == "t2star"
    np.testing.assert_array_equal(d["image"][0].numpy(), values(3))
