"""Convert label maps to DICOM SEG and back, on the grid of the series that they belong to."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from monai.transforms import LoadImage
from skimage.measure import label as components_of


def read_label(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map in any format of MONAI's readers as (i, j, k) integers with its affine to RAS mm."""
    image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    return image[0].numpy().round().astype(np.uint16), image.affine.numpy()


def make_seg(series_dir: str, label: str, annotated: bool):
    """
    Make a SEG with one segment per microbleed; for a label map without microbleeds, a SEG that says so.

    Args:
        series_dir: folder with the files of the series.
        label: a label map on the grid of the series, with axes in any order and direction; its connected components
            are the microbleeds.
        annotated: whether a person has reviewed it; the segments are then marked as semiautomatic.

    Returns:
        a pydicom Dataset.
    """
    from cmb_bundle.scripts.dicom.reader import dicom_files, read_volumes
    from cmb_bundle.scripts.dicom.writers import bundle_version, make_segmentation, read_source
    from cmb_bundle.scripts.inference.findings import to_file_grid

    volume = read_volumes(dicom_files(Path(series_dir)))[0]
    values, affine = read_label(label)
    turned = to_file_grid(values > 0, affine, volume.affine, volume.shape)[0].numpy()
    numbered, count = components_of(turned, return_num=True)
    images, frames = read_source(volume.source)
    seg = make_segmentation(images, frames, numbered, [{}] * count, bundle_version())
    if annotated:
        seg.SeriesDescription = seg.ContentDescription = "CMB, annotated"
        for segment in seg.SegmentSequence:
            segment.SegmentAlgorithmType = "SEMIAUTOMATIC"
    return seg


def label_to_seg(series_dir: str, label: str, label_info=None, file_ext: str = "*", use_itk: bool = True) -> str:
    """Write a SEG file and return its path, as MONAI Label's `nifti_to_dicom_seg`, but also without microbleeds."""
    with tempfile.NamedTemporaryFile(suffix=".dcm", delete=False) as file:
        make_seg(series_dir, label, annotated=False).save_as(file, write_like_original=False)
    return file.name


def seg_to_label(seg_file: str, image: str, path: str) -> str:
    """
    Convert the segments of a SEG to a label map on the grid of a NIfTI file of its series.

    Args:
        seg_file: a binary SEG whose frames lie on slices of the series.
        image: the NIfTI file.
        path: the label map to write, 1 inside any segment and 0 elsewhere.

    Returns:
        the path.

    Raises:
        ValueError: a frame does not lie on a slice of the image.
    """
    grid, seg = nib.load(image), pydicom.dcmread(seg_file)
    shape, to_voxel = grid.shape[:3], np.linalg.inv(grid.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    values = np.zeros(shape, dtype=np.uint8)
    frames = np.asarray(seg.pixel_array).reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        position = (group if "PlanePositionSequence" in group else shared).PlanePositionSequence[0]
        own = group if "PlaneOrientationSequence" in group else shared
        along_row, along_column = np.reshape(own.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
        measures = (group if "PixelMeasuresSequence" in group else shared).PixelMeasuresSequence[0]
        rows, columns = np.nonzero(frame)
        corner = np.array(position.ImagePositionPatient, dtype=float)
        away = np.outer(columns * measures.PixelSpacing[1], along_row)
        away = away + np.outer(rows * measures.PixelSpacing[0], along_column)
        voxel = (corner + away) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        nearest = np.round(voxel).astype(int)
        if len(voxel) and (np.abs(voxel - nearest).max() > 0.1 or (nearest < 0).any() or (nearest >= shape).any()):
            raise ValueError(f"{seg_file} has a frame off the grid of {image}; expected a SEG of that series.")
        values[tuple(nearest.T)] = 1
    nib.save(nib.Nifti1Image(values, grid.affine), path)
    return path
