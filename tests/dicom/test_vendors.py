"""One phantom as each vendor's scanner writes it, and converted by dcm2niix: the same microbleeds from all."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from cmb_bundle.scripts.phantom import TINY, simulate, write_subject

from ..helpers.vendors import ALONE, WITH_PHASE

SPEC = TINY.changed(seed=77, microbleeds=6, oblique_deg=15.0)
OPTIONS = {"picture": False, "dicom_output": False, "operating_point": "sensitive"}
SOURCES = {
    "SiemensVB": "SWI from series 7 'SWI_Images' (ImageType SWI), phase from series 5 'Pha_Images' (ImageType P)",
    "SiemensVE": "SWI from series 7 'SWI_Images' (ImageType SWI), phase from series 5 'Pha_Images' (ImageType P)",
    "SiemensXA": "SWI from series 7 'SWI_Images' (SeriesDescription), phase from series 5 'Pha_Images' (ImageType P)",
    "GE": "SWI from series 8 'Ax SWAN' (SeriesDescription), phase from series 800 'FILT_PHA: Ax SWAN' (Ser",
    "PhilipsClassic": "SWI from series 501 'SWIp' (ImageType SW_M_FFE), phase from series 501 'SWIp' (ImageType SW_P",
    "PhilipsEnhanced": "SWI from series 601 'SWIp' (SeriesDescription), phase from series 601 'SWIp' (ComplexImageC",
    "UIH": "SWI from series 303 'gre_swi_tra_SWI' (ImageType SWI), phase from series 302 'gre_swi_tra_PHA' (Im",
    "Canon": "SWI from series 9000 'FSBB' (SeriesDescription). No phase was found",
    "Hitachi": "SWI from series 11 'BSI' (SeriesDescription). No phase was found",
}
PHASES = {
    "SiemensVB": "scaled by 0.00153398 rad a unit, as its DICOM header says",
    "SiemensVE": "scaled by 0.00076699 rad a unit, as its DICOM header says",
    "SiemensXA": "scaled by 0.00076699 rad a unit, as its DICOM header says",
    "GE": "scaled by 0.001 rad a unit, as its DICOM header says",
    "PhilipsClassic": "scaled by 0.001 rad a unit, as its DICOM header says",
    "PhilipsEnhanced": "scaled by 0.001 rad a unit, as its DICOM header says",
    "UIH": "read as 0..4096 over the circle",
}


@pytest.fixture(scope="module")
def phantom():
    return simulate(SPEC)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("vendors")


@pytest.fixture(scope="module")
def studies(phantom, here):
    """A folder with a study of each vendor."""
    for patient, write in (WITH_PHASE | ALONE).items():
        write(here / "studies" / patient, phantom, patient)
    return here / "studies"


@pytest.fixture(scope="module")
def expected(phantom, here, bundle):
    """What is found in the same phantom as NIfTI, with its phase and without."""
    write_subject(phantom, here / "nifti", "both")
    (here / "alone").mkdir()
    shutil.copy(here / "nifti" / "Data" / "SWI" / "both.nii.gz", here / "alone" / "alone_swi.nii.gz")
    for name in ("nifti", "alone"):
        bundle("run", ["inference.json"], here, dataset_dir=here / name, output_dir=here / f"{name}_found", **OPTIONS)
    return {"both": result(here / "nifti_found", "both"), "alone": result(here / "alone_found", "alone")}


@pytest.fixture(scope="module")
def found(studies, here, bundle):
    bundle("run", ["inference.json"], here, dataset_dir=studies, output_dir=here / "found", **OPTIONS)
    return here / "found"


def result(folder, subject):
    return json.loads((folder / subject / f"{subject}_cmb.json").read_text())


def places(of):
    return np.array([microbleed["ras_mm"] for microbleed in of["microbleeds"]])


def assert_same(one, other):
    """The same places to a fifth of a voxel and the same probabilities, whatever the rounding of the phase."""
    assert len(one["microbleeds"]) == len(other["microbleeds"]) == SPEC.microbleeds
    distances = np.linalg.norm(places(one)[:, None] - places(other), axis=2)
    nearest = distances.argmin(axis=1)
    assert sorted(nearest) == list(range(SPEC.microbleeds))
    assert distances.min(axis=1).max() < 0.25
    for microbleed, number in zip(one["microbleeds"], nearest, strict=True):
        assert microbleed["probability"] == pytest.approx(other["microbleeds"][number]["probability"], abs=0.03)


def test_with_and_without_the_phase_all_simulated_microbleeds_are_found_and_nothing_else(phantom, expected):
    truth = np.array([lesion["ras_mm"] for lesion in phantom.truth["microbleeds"]])
    for of in expected.values():
        distances = np.linalg.norm(places(of)[:, None] - truth, axis=2)
        assert distances.shape == (SPEC.microbleeds,) * 2
        assert sorted(distances.argmin(axis=1)) == list(range(SPEC.microbleeds))
        assert distances.min(axis=1).max() < 2


@pytest.mark.parametrize("vendor", WITH_PHASE)
def test_the_same_microbleeds_from_the_dicom_of_each_vendor(vendor, found, expected):
    of = result(found, vendor)
    assert_same(of, expected["both"])
    assert f"DICOM: {SOURCES[vendor]}" in of["notices"]
    assert f"Phase was {PHASES[vendor]}" in of["notices"]


@pytest.mark.parametrize("vendor", ALONE)
def test_the_same_microbleeds_from_vendors_that_export_no_phase(vendor, found, expected):
    of = result(found, vendor)
    assert_same(of, expected["alone"])
    assert f"DICOM: {SOURCES[vendor]}" in of["notices"]


def dcm2niix():
    """The program of the package dcm2niix, or the one on the path; None if there is none."""
    try:
        import dcm2niix as package
    except ImportError:
        return shutil.which("dcm2niix")
    return package.bin


CONVERTED = {
    "SiemensVB": ("SWI_Images_7", "Pha_Images_5_ph"),
    "SiemensVE": ("SWI_Images_7", "Pha_Images_5_ph"),
    "SiemensXA": ("SWI_Images_7", "Pha_Images_5_ph"),
    "GE": ("Ax_SWAN_8", "FILT_PHA_Ax_SWAN_800"),
    "PhilipsClassic": ("SWIp_501", "SWIp_501_ph"),
    "PhilipsEnhanced": ("SWIp_601", "SWIp_601_ph"),
    "UIH": ("gre_swi_tra_SWI_303", "gre_swi_tra_PHA_302_ph"),
    "Canon": ("FSBB_9000", None),
    "Hitachi": ("BSI_11", None),
}
"""How the names of SWI and phase end."""


@pytest.fixture(scope="module")
def converted(studies, here):
    """A folder of each vendor, by dcm2niix."""
    program = dcm2niix()
    if program is None:
        pytest.skip("dcm2niix is not installed: pip install dcm2niix")
    for vendor in CONVERTED:
        folder = here / "converted" / vendor
        folder.mkdir(parents=True)
        command = [program, "-z", "y", "-f", "%i_%d_%s", "-o", folder, studies / vendor]
        subprocess.run(command, check=True, capture_output=True)
    return here / "converted"


def assert_those_of_all_vendors(found, expected, name):
    for vendor, (_, phase) in CONVERTED.items():
        assert_same(result(found, name(vendor)), expected["both" if phase else "alone"])
    assert sorted(path.name for path in found.iterdir() if path.is_dir()) == sorted(map(name, CONVERTED))


def test_the_same_microbleeds_from_nifti_by_dcm2niix(converted, expected, here, bundle):
    out = here / "converted_found"
    bundle("run", ["inference.json"], here, dataset_dir=converted, output_dir=out, **OPTIONS)
    assert_those_of_all_vendors(out, expected, str)
    of_ge = result(out, "GE")["notices"]
    assert "GE_Ax_SWAN_802_real.nii.gz was skipped: its name says that it is a real or imaginary part." in of_ge


def test_the_same_microbleeds_from_bids(converted, expected, here, bundle):
    for vendor, (swi, phase) in CONVERTED.items():
        folder = here / "bids" / f"sub-{vendor}" / "swi"
        folder.mkdir(parents=True)
        for name, end in ((swi, "swi"), (phase, "part-phase_swi")):
            for suffix in (".nii.gz", ".json") if name else ():
                shutil.copy(converted / vendor / f"{vendor}_{name}{suffix}", folder / f"sub-{vendor}_{end}{suffix}")
    (here / "bids" / "dataset_description.json").write_text('{"Name": "vendors", "BIDSVersion": "1.9.0"}')
    out = here / "bids_found"
    bundle("run", ["inference.json"], here, dataset_dir=here / "bids", output_dir=out, **OPTIONS)
    assert_those_of_all_vendors(out, expected, "sub-{}".format)
