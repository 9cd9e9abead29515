"""Writing volumes as the DICOM series of a scanner, for tests; nothing of the bundle is used."""

import random

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid


class Study:
    """What the series of a study share."""

    def __init__(self, patient="P01", date="20240102", manufacturer="SIEMENS"):
        self.patient, self.date, self.manufacturer = patient, date, manufacturer
        self.uid, self.frame_of_reference = generate_uid(), generate_uid()


def write_dicom_series(
    folder, volume, affine, study, description, number, image_type,
    slope=None, intercept=0, bits=12, echo=20.0, component=None, ge=None, enhanced=False, unit=None,
    series=None, skip=(), shuffle=True, prefix="IM", syntax=None, acquisition=1,
    sequence=None, field=None, per_frame=False,
):  # fmt: skip
    """
    Write a volume (i, j, k) of stored integers with an affine to RAS mm as one DICOM series.

    Args:
        folder: where to; file names have no ending and are in no order.
        skip: slices that are left out.
        enhanced: one multi-frame file in place of a file a slice; its frames are in no order, either.
        component: ComplexImageComponent; may be a list, one a frame.
        ge: value of GE's private (0043,102F).
        syntax: a compressed transfer syntax.
        sequence: ScanningSequence; of an enhanced file, EchoPulseSequence.
        field: MagneticFieldStrength in T.
        per_frame: whether an enhanced file has pixel size and orientation in each frame's groups, as scanners write
            them, and no SliceThickness; of classic files, whether SliceThickness is left out.

    Returns:
        the SeriesInstanceUID.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=float)
    step = np.linalg.norm(lps[:3, :3], axis=0)
    orientation = [float(f"{v:.12g}") for v in np.r_[lps[:3, 0] / step[0], lps[:3, 1] / step[1]]]
    series = series or generate_uid()
    slices = [k for k in range(volume.shape[2]) if k not in skip]
    if shuffle:
        random.Random(number).shuffle(slices)
    folder.mkdir(parents=True, exist_ok=True)

    def position(k):
        return [f"{v:.10g}"[:16] for v in lps[:3, 3] + k * lps[:3, 2]]

    def common(pixels, sop_class):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study.uid, series
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame_of_reference, ""
        ds.Modality, ds.Manufacturer, ds.SeriesDescription = "MR", study.manufacturer, description
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^", study.patient, "", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = study.date, "120000", "1", ""
        ds.ReferringPhysicianName, ds.SeriesNumber, ds.AcquisitionNumber = "", number, acquisition
        ds.ImageType = image_type.split("\\")
        ds.Rows, ds.Columns = pixels.shape[-2:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
        ds.PixelRepresentation = int(pixels.dtype.kind == "i")
        ds.PixelData = np.ascontiguousarray(pixels).tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if sequence is not None:
            setattr(ds, "EchoPulseSequence" if enhanced else "ScanningSequence", sequence)
        if field is not None:
            ds.MagneticFieldStrength = field
        if ge is not None:
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", ge)
        return ds

    def save(ds, name):
        if syntax is not None:
            ds.compress(syntax)
        ds.save_as(folder / name, enforce_file_format=True)

    stored = np.asarray(volume).astype(np.int16 if np.asarray(volume).min() < 0 else np.uint16)
    if enhanced:
        ds = common(np.stack([stored[:, :, k].T for k in slices]), EnhancedMRImageStorage)
        ds.NumberOfFrames, ds.InstanceNumber = len(slices), 1
        ds.ContentDate, ds.ContentTime = study.date, "120000"
        ds.SharedFunctionalGroupsSequence = [_group(
            PixelMeasuresSequence={"PixelSpacing": [step[1], step[0]], "SliceThickness": step[2]},
            PlaneOrientationSequence={"ImageOrientationPatient": orientation},
            MREchoSequence={"EffectiveEchoTime": echo},
        )]  # fmt: skip
        parts = component if isinstance(component, list) else [component] * volume.shape[2]
        slopes = slope if isinstance(slope, list) else [slope] * volume.shape[2]
        frames = []
        for k in slices:
            type_of = {"FrameType": ds.ImageType} | ({"ComplexImageComponent": parts[k]} if parts[k] else {})
            groups = {
                "PlanePositionSequence": {"ImagePositionPatient": position(k)},
                "MRImageFrameTypeSequence": type_of,
            }
            if slopes[k]:
                rescaling = {"RescaleSlope": slopes[k], "RescaleIntercept": intercept, "RescaleType": unit or "US"}
                groups["PixelValueTransformationSequence"] = rescaling
            frames.append(_group(**groups))
        ds.PerFrameFunctionalGroupsSequence = frames
        if per_frame:
            (shared,) = ds.SharedFunctionalGroupsSequence
            del shared.PixelMeasuresSequence[0].SliceThickness
            for frame in frames:
                frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
                frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
            del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
        save(ds, f"{prefix}{number:03d}")
        return series
    for count, k in enumerate(slices):
        ds = common(stored[:, :, k].T, MRImageStorage)
        ds.InstanceNumber, ds.EchoTime = count + 1, echo
        ds.ImagePositionPatient, ds.ImageOrientationPatient = position(k), orientation
        ds.PixelSpacing, ds.SliceThickness = [f"{step[1]:.10g}", f"{step[0]:.10g}"], f"{step[2]:.10g}"
        if slope:
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = slope, intercept, unit or "US"
        if per_frame:
            del ds.SliceThickness
        if component:
            ds.ComplexImageComponent = component
        save(ds, f"{prefix}{number:03d}{count:04d}")
    return series


def _group(**sequences):
    group = Dataset()
    for name, attributes in sequences.items():
        item = Dataset()
        for key, value in attributes.items():
            setattr(item, key, value)
        setattr(group, name, [item])
    return group
