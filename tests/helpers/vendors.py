"""One phantom as the study that a scanner of each vendor exports, for tests; nothing of the bundle reads here.

What is known of each vendor's headers is in ``docs/reference/dicom.md``. The values of Siemens XA and of Philips' SWIp
are those of real files; those of UIH, Canon and Hitachi are what their users report.
"""

from functools import partial

import numpy as np
import pydicom

from .dicom_series import Study, write_dicom_series

write = partial(write_dicom_series, shuffle=False)  # dcm2niix warns of slices in no order

MILLIRADIANS = (1.53455433455433, -3142)
"""Slope and intercept of Philips' phase."""


def stored_phase(radians, top=4095):
    """Phase in radians as unsigned numbers whose middle is 0, as Siemens stores it."""
    middle = (top + 1) / 2
    return np.clip(np.rint(radians / np.pi * middle + middle), 0, top).astype(np.int64)


def milliradians(radians):
    return np.rint(1000 * radians).astype(np.int64)


def _siemens(folder, scan, patient, software, *, image_type, rescale, **how):
    study = Study(patient, manufacturer="SIEMENS" if software != "syngo MR XA30" else "Siemens Healthineers")
    lower = np.minimum(scan.swi[:, :, 1:], scan.swi[:, :, :-1])
    series = {
        "Mag_Images": (4, image_type["M"], scan.magnitude, {}),
        "Pha_Images": (5, image_type["P"], stored_phase(scan.phase), rescale),
        "mIP_Images(SW)": (6, image_type["mIP"], lower, {}),
        "SWI_Images": (7, image_type["SWI"], scan.swi, {}),
    }
    for description, (number, kind, volume, scale) in series.items():
        where = folder / f"{number:04d}"
        write(where, volume, scan.affine, study, description, number, kind, **scale, **how)
        for path in where.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.SoftwareVersions, dataset.ProtocolName = software, "t2_swi_tra_p2"
            dataset.save_as(path)


OF_SIEMENS = {
    "M": r"ORIGINAL\PRIMARY\M\ND\NORM",
    "P": r"ORIGINAL\PRIMARY\P\ND",
    "SWI": r"ORIGINAL\PRIMARY\M\SWI\NORM\ND",
    "mIP": r"DERIVED\PRIMARY\MNIP\ND\NORM",
}
SIEMENS_CIRCLE = {"slope": 2, "intercept": -4096}


def siemens_vb(folder, scan, patient):
    """Syngo MR B17: the phase without rescaling."""
    _siemens(folder, scan, patient, "syngo MR B17", image_type=OF_SIEMENS, rescale={})


def siemens_ve(folder, scan, patient):
    _siemens(folder, scan, patient, "syngo MR E11", image_type=OF_SIEMENS, rescale=SIEMENS_CIRCLE)


def siemens_xa(folder, scan, patient):
    """Enhanced files with the geometry in each frame, and ImageTypes that say M or P and no more."""
    types = {"M": r"ORIGINAL\PRIMARY\M\NONE", "P": r"ORIGINAL\PRIMARY\P\NONE", "SWI": r"ORIGINAL\PRIMARY\M\NONE",
             "mIP": r"DERIVED\PRIMARY\MIN_IP\NONE"}  # fmt: skip
    _siemens(folder, scan, patient, "syngo MR XA30", image_type=types, rescale=SIEMENS_CIRCLE, enhanced=True,
             per_frame=True)  # fmt: skip


def ge_swan(folder, scan, patient):
    """SWAN, its filtered phase in milliradians, its minimum intensity projection, and the real and imaginary parts."""
    study = Study(patient, manufacturer="GE MEDICAL SYSTEMS")
    complex_image = scan.magnitude * np.exp(1j * scan.phase)
    original, derived = r"ORIGINAL\PRIMARY\OTHER", r"DERIVED\SECONDARY\OTHER"
    for description, number, kind, volume, part in (
        ("Ax SWAN", 8, original, scan.swi, 0),
        ("FILT_PHA: Ax SWAN", 800, derived, milliradians(scan.phase), None),
        ("minIP: Ax SWAN", 801, r"DERIVED\SECONDARY\REFORMATTED\MIN IP", scan.swi, 0),
        ("Ax SWAN", 802, original, np.rint(complex_image.real), 2),
        ("Ax SWAN", 803, original, np.rint(complex_image.imag), 3),
    ):
        write(folder, volume, scan.affine, study, description, number, kind, ge=part, bits=16)


def philips_classic(folder, scan, patient):
    """SWIp with its phase in one series; both have a slope, the phase an intercept."""
    study = Study(patient, manufacturer="Philips Medical Systems")
    slope, intercept = MILLIRADIANS
    stored = np.clip(np.rint((1000 * scan.phase - intercept) / slope), 0, 4095).astype(np.int64)
    series = write(folder, scan.swi, scan.affine, study, "SWIp", 501,
                                r"ORIGINAL\PRIMARY\SW_M_FFE\SW_M\FFE", slope="3.90695970695970")  # fmt: skip
    write(folder, stored, scan.affine, study, "SWIp", 501, r"ORIGINAL\PRIMARY\SW_P_FFE\SW_P\FFE",
                       slope=str(slope)[:16], intercept=intercept, series=series, prefix="P")  # fmt: skip


def philips_enhanced(folder, scan, patient):
    """
    One enhanced file with the frames of both, each with its slope and intercept, and its place in the stack and its
    kind as indices, by which dcm2niix tells them apart (real files have the kind as a private dimension).
    """
    study = Study(patient, manufacturer="Philips")
    slope, intercept = MILLIRADIANS
    stored = np.clip(np.rint((1000 * scan.phase - intercept) / slope), 0, 4095).astype(np.int64)
    number = scan.swi.shape[2]
    write(
        folder, np.concatenate([scan.swi, stored], axis=2), scan.affine, study, "SWIp", 601,
        r"ORIGINAL\PRIMARY\T2_STAR\MIXED", enhanced=True, per_frame=True,
        component=["MAGNITUDE"] * number + ["PHASE"] * number, slope=[1.29157509157509] * number + [slope] * number,
    )  # fmt: skip
    (path,) = folder.iterdir()
    dataset = pydicom.dcmread(path)
    back = number * (np.diag([-1.0, -1, 1]) @ scan.affine[:3, 2])
    for count, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        content = pydicom.Dataset()
        content.StackID, content.InStackPositionNumber = "1", count % number + 1
        content.DimensionIndexValues = [1, count % number + 1, count // number]
        frame.FrameContentSequence = [content]
        kind = frame.MRImageFrameTypeSequence[0]
        if kind.ComplexImageComponent == "PHASE":
            # the writer put the frames of the phase after those of the SWI
            place = frame.PlanePositionSequence[0]
            place.ImagePositionPatient = [round(v, 6) for v in np.array(place.ImagePositionPatient, float) - back]
            frame.PixelValueTransformationSequence[0].RescaleIntercept = intercept
        kind.FrameType = ["ORIGINAL", "PRIMARY", "T2_STAR", kind.ComplexImageComponent[0]]
    dataset.save_as(path)


def uih(folder, scan, patient):
    """United Imaging: descriptions end in what a series shows; the phase is unsigned and without a unit."""
    study = Study(patient, manufacturer="UIH")
    for description, number, kind, volume in (
        ("gre_swi_tra_MAG", 301, r"ORIGINAL\PRIMARY\M\ND", scan.magnitude),
        ("gre_swi_tra_PHA", 302, r"ORIGINAL\PRIMARY\P\ND", stored_phase(scan.phase)),
        ("gre_swi_tra_SWI", 303, r"DERIVED\PRIMARY\SWI", scan.swi),
        ("gre_swi_tra_mIP", 304, r"DERIVED\PRIMARY\MIP", scan.swi),
    ):
        write(folder, volume, scan.affine, study, description, number, kind)


def canon_fsbb(folder, scan, patient):
    """Flow-sensitive black blood, hybrid of magnitude and phase; the phase itself is not exported."""
    study = Study(patient, manufacturer="CANON_MEC")
    write(folder, scan.swi, scan.affine, study, "FSBB", 9000, r"ORIGINAL\PRIMARY\OTHER", bits=16)
    write(folder, scan.swi, scan.affine, study, "FSBB minIP", 9001, r"DERIVED\SECONDARY\MPR", bits=16)


def hitachi_bsi(folder, scan, patient):
    """Blood sensitive imaging; the phase itself is not exported."""
    study = Study(patient, manufacturer="Hitachi Medical Corporation")
    write(folder, scan.swi, scan.affine, study, "BSI", 11, r"ORIGINAL\PRIMARY\OTHER", bits=16)
    write(folder, scan.swi, scan.affine, study, "BSI MinIP", 12, r"DERIVED\SECONDARY\PROJECTION IMAGE",
                       bits=16)  # fmt: skip


WITH_PHASE = {
    "SiemensVB": siemens_vb,
    "SiemensVE": siemens_ve,
    "SiemensXA": siemens_xa,
    "GE": ge_swan,
    "PhilipsClassic": philips_classic,
    "PhilipsEnhanced": philips_enhanced,
    "UIH": uih,
}
"""Writers of a study with SWI and phase, by the name that its patient gets."""

ALONE = {"Canon": canon_fsbb, "Hitachi": hitachi_bsi}
"""Writers of a study with the SWI alone."""
