"""Read DICOM studies, and write DICOM results."""

from .kinds import Header, Kind, kind_of, nearest_echo, phase_unit
from .pixels import read_pixels, read_volume
from .reader import Frame, Volume, dicom_files, frame_kind, is_dicom, read_header, read_volumes, require
from .series import Choice, choose_series, find_studies, series_in, study_of, use_dicom
from .writers import bundle_version, make_report, make_segmentation, read_source, write_dicom

__all__ = [
    "Choice",
    "Frame",
    "Header",
    "Kind",
    "Volume",
    "bundle_version",
    "choose_series",
    "dicom_files",
    "find_studies",
    "frame_kind",
    "is_dicom",
    "kind_of",
    "make_report",
    "make_segmentation",
    "nearest_echo",
    "phase_unit",
    "read_header",
    "read_pixels",
    "read_source",
    "read_volume",
    "read_volumes",
    "require",
    "series_in",
    "study_of",
    "use_dicom",
    "write_dicom",
]
