"""Group DICOM files by their headers into volumes: complete stacks of slices of one kind and echo.

DICOM uses LPS mm; this file returns RAS mm, as the rest of the bundle does.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import DicomError
from ..files import IMAGE_SUFFIXES, TABLE_SUFFIXES, walk
from .kinds import Header, Kind, kind_of, phase_unit

SPACING_TOLERANCE_MM = 0.02
"""Slices whose distances differ by less count as evenly spaced: scanners write positions with 3 or more decimals."""

MOST_SHEAR = 0.01
"""A stack sheared against its slices' normal by more than this is refused; rounding in headers stays far below."""

GE_CREATOR, GE_GROUP, GE_ELEMENT = "GEMS_PARM_01", 0x0043, 0x2F
WITHOUT_PREAMBLE = re.compile(
    rb"(\x02\x00[\x00-\x02]\x00(UL|OB|UI)|\x08\x00[\x00\x05\x08\x12\x13\x14\x16\x18]\x00((UL|CS|DA|TM|UI).\x00|.[\x00\x01]\x00\x00))",
    re.DOTALL,
)
"""The first element of a file without preamble: of group 2 or 8, explicit or implicit, and of less than 512 bytes."""
DECLARED = ("Modality", "BodyPartExamined", "ScanningSequence", "InversionTime", "SeriesDescription", "ProtocolName")
"""Attributes that tell whether it is a susceptibility-weighted scan of a head."""
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "PatientID", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "Modality", "Manufacturer", "ImageType",
    "ComplexImageComponent", "NumberOfFrames",
    "VolumeBasedCalculationTechnique", "EchoTime", "ScanningSequence", "EchoPulseSequence", "EchoPlanarPulseSequence",
    "InversionRecovery", "MagneticFieldStrength", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "SamplesPerPixel", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "RealWorldValueMappingSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "BodyPartExamined", "ProtocolName", "InversionTime",
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One slice: its file and frame index, its position (LPS mm), and the rescaling of its stored values."""

    file: str
    index: int
    position: tuple[float, ...]
    slope: float
    intercept: float
    unit: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Volume:
    """
    A stack of slices of one series, of one kind and one echo.

    Attributes:
        study, series: UIDs.
        number, description: SeriesNumber and SeriesDescription.
        kind: what it shows.
        echo_ms: echo time, None where the header has none.
        frames: the slices in the order of k.
        shape: (i, j, k).
        affine: voxel (i, j, k) to RAS mm; i runs along a row of pixels, j along a column.
        problem: why it is not a complete volume; empty if it is.
        gradient_echo: whether the header says that it is of a gradient echo, neither echo-planar nor inverted.
        field_tesla: field strength, None where the header has none.
        manufacturer: of the scanner, empty where the header has none.
        declared: the attributes ``DECLARED`` that the header has.
    """

    study: str
    series: str
    number: int | None
    description: str
    kind: Kind
    echo_ms: float | None
    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    problem: str
    gradient_echo: bool = False
    field_tesla: float | None = None
    manufacturer: str = ""
    declared: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        number = "" if self.number is None else f" {self.number}"
        return f"series{number} '{self.description}'"

    @property
    def source(self) -> str:
        """The origin of the slices in the order of k, as JSON: pairs of a file and the index of a frame in it."""
        return json.dumps([[frame.file, frame.index] for frame in self.frames])


def require(package: str) -> ModuleType:
    """
    Import pydicom or highdicom, which are optional.

    Raises:
        DicomError: it is not installed.
    """
    try:
        return __import__(package)
    except ImportError as error:
        raise DicomError(
            f"DICOM needs the package {package}, which is not installed. Install the extra [dicom], "
            f"as in pip install 'cmb-bundle[dicom]', or pip install pydicom highdicom."
        ) from error


def is_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file, whatever its name; older programs leave out the preamble of 132 bytes."""
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or bool(WITHOUT_PREAMBLE.match(start))


def dicom_files(folder: Path) -> Iterator[Path]:
    """
    Find the DICOM files at any depth of a folder, sorted; hidden files and DICOMDIR are skipped.

    Folders that are links are followed, as on clusters whole studies are linked.
    """
    for path in sorted(Path(where, name) for where, names in walk(folder) for name in names):
        ending = path.name.lower()
        known = ending.endswith((*IMAGE_SUFFIXES, *TABLE_SUFFIXES, ".json", ".png")) and not ending.endswith(".img")
        there = os.path.isfile(path)  # noqa: PTH113 (is_file() raises where one may not look)
        if not known and path.name != "DICOMDIR" and there and is_dicom(path):
            yield path


def read_header(path: str | Path) -> Any:
    """Read the attributes ``TAGS`` of a file as a pydicom Dataset."""
    pydicom = require("pydicom")
    private = [
        (GE_GROUP << 16) + element for block in range(0x10, 0x20) for element in (block, block << 8 | GE_ELEMENT)
    ]
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*TAGS, *private], force=True)
    except Exception as error:
        raise DicomError(f"{path} cannot be read as DICOM ({type(error).__name__}: {error}).") from error


def read_volumes(files: Iterable[str | Path]) -> list[Volume]:
    """
    Read headers and group the slices into volumes.

    A series is divided by what its slices show, by echo time, by orientation, by pixel size and by image size,
    because some scanners put magnitude and phase, or all echoes, into one series. Duplicate files count once.

    Args:
        files: DICOM files, in any order.

    Returns:
        the volumes, complete or not (see ``problem``), sorted by series number.

    Raises:
        DicomError: a file cannot be read, or pydicom is missing.
    """
    groups: dict[tuple, list[Frame]] = defaultdict(list)
    shapes, about, seen = {}, {}, set()

    def add(path: str | Path, dataset: Any) -> None:
        # anonymisers have given one SOPInstanceUID to all slices, or to a slice of each series
        same = ("SeriesInstanceUID", "ImageType", "ImagePositionPatient", "InstanceNumber", "EchoTime")
        instance = (str(dataset.get("SOPInstanceUID") or path), *(str(dataset.get(name)) for name in same))
        if "Rows" not in dataset or instance in seen:
            return
        seen.add(instance)
        series = (
            str(dataset.get("StudyInstanceUID", "")), str(dataset.get("SeriesInstanceUID", "")),
            _number(dataset.get("SeriesNumber")), str(dataset.get("SeriesDescription", "")).strip(),
        )  # fmt: skip
        for index in range(int(dataset.get("NumberOfFrames") or 1)):
            kind, echo, orientation, spacing, frame = _frame(dataset, str(path), index)
            near = tuple(np.round(orientation, 3)) if orientation else None
            key = (*series, kind, echo, near, spacing, int(dataset.Columns), int(dataset.Rows))
            groups[key].append(frame)
            shapes.setdefault(key, orientation)
            about.setdefault(
                key,
                {
                    "gradient_echo": _is_gradient_echo(dataset),
                    "field_tesla": _number(dataset.get("MagneticFieldStrength"), float),
                    "manufacturer": str(dataset.get("Manufacturer", "")).strip(),
                    "declared": {name: _plain(dataset.get(name)) for name in DECLARED if dataset.get(name)},
                },
            )

    for path in files:
        dataset = read_header(path)
        try:
            add(path, dataset)
        except Exception as error:  # pydicom reads a value when it is asked for, and each may be damaged
            raise DicomError(
                f"{path} has a value in its header that cannot be read ({type(error).__name__}: "
                f"{' '.join(str(error).split())}); copy or export it again."
            ) from error
    volumes = [replace(_volume(key, frames, shapes[key]), **about[key]) for key, frames in groups.items()]
    return sorted(volumes, key=lambda v: (v.number or 0, v.series, v.kind.name, v.echo_ms or 0))


def frame_kind(dataset: Any, index: int = 0) -> Kind:
    """
    Decide what a frame shows.

    Args:
        dataset: a pydicom Dataset from a file or from a DICOMweb server's metadata.
        index: index of the frame, in a file with several.
    """
    find = partial(_find, dataset, index)
    types = find("FrameType", "MRImageFrameTypeSequence") or dataset.get("ImageType") or ()
    header = Header(
        sop_class=str(dataset.get("SOPClassUID", "")),
        manufacturer=str(dataset.get("Manufacturer", "")),
        description=str(dataset.get("SeriesDescription", "")),
        image_type=(types,) if isinstance(types, str) else tuple(map(str, types)),
        component=str(find("ComplexImageComponent", "MRImageFrameTypeSequence") or "").upper(),
        calculation=str(find("VolumeBasedCalculationTechnique", "MRImageFrameTypeSequence") or "").upper(),
        ge_component=_ge_component(dataset),
        gradient_echo=_is_gradient_echo(dataset),
        echo_ms=_number(find("EffectiveEchoTime", "MREchoSequence") or find("EchoTime"), float),
    )
    return kind_of(header) if dataset.get("SamplesPerPixel", 1) == 1 else Kind("other", "a colour image")


def _find(dataset: Any, index: int, name: str, sequence: str = "") -> Any:
    """Look up an attribute in the frame's functional groups, in the shared ones, or in the file itself."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in (frames[index] if index < len(frames) else None, shared[0]):
        items = group.get(sequence) if group is not None and sequence else None
        if items and items[0].get(name) not in (None, ""):
            return items[0].get(name)
    value = dataset.get(name)
    return None if value == "" else value


def _frame(dataset: Any, path: str, index: int) -> tuple:
    """Kind, echo time, orientation, pixel spacing and Frame of one frame."""
    find, kind = partial(_find, dataset, index), frame_kind(dataset, index)
    echo = _number(find("EffectiveEchoTime", "MREchoSequence") or find("EchoTime"), float)
    position = tuple(map(float, find("ImagePositionPatient", "PlanePositionSequence") or ()))
    orientation = tuple(map(float, find("ImageOrientationPatient", "PlaneOrientationSequence") or ()))
    spacing = tuple(map(float, find("PixelSpacing", "PixelMeasuresSequence") or ()))
    slope, intercept, unit = _rescaling(find)
    stored = int(dataset.get("BitsStored", 16)), bool(dataset.get("PixelRepresentation", 0))
    manufacturer = str(dataset.get("Manufacturer", ""))
    scale = phase_unit(manufacturer, *stored, slope, intercept, unit) if kind.name == "phase" else None
    echo = round(echo, 2) if echo else None  # Philips writes 0 for SWIp, which combines echoes
    return kind, echo, orientation, spacing, Frame(path, index, position, slope, intercept, scale)


def _rescaling(find: Any) -> tuple[float, float, str]:
    """Slope, intercept and unit: of the rescaling, or if there is no rescaling, of the real world values."""
    slope = _number(find("RescaleSlope", "PixelValueTransformationSequence"), float)
    if slope:
        intercept = _number(find("RescaleIntercept", "PixelValueTransformationSequence"), float)
        return slope, intercept or 0.0, str(find("RescaleType", "PixelValueTransformationSequence") or "")
    real = find("RealWorldValueSlope", "RealWorldValueMappingSequence")
    items = find("RealWorldValueMappingSequence") or []
    if real is None and items:
        real, intercept, unit = (items[0].get(n) for n in ("RealWorldValueSlope", "RealWorldValueIntercept", ""))
        unit = items[0].get("MeasurementUnitsCodeSequence")
    else:
        intercept = find("RealWorldValueIntercept", "RealWorldValueMappingSequence")
        unit = find("MeasurementUnitsCodeSequence", "RealWorldValueMappingSequence")
    if not real:
        return 1.0, 0.0, ""
    return float(real), float(intercept or 0), str(unit[0].get("CodeValue", "")) if unit else ""


def _plain(value: Any) -> Any:
    """A value of a header as a number, a text or a list of texts."""
    if isinstance(value, (int, float)):
        return float(value)
    return str(value) if isinstance(value, str) else [str(one) for one in value]


def _is_gradient_echo(dataset: Any) -> bool:
    """Whether a header names a gradient echo that is neither echo-planar, nor a spin echo, nor inverted."""
    sequence = dataset.get("ScanningSequence") or ()
    names = {sequence} if isinstance(sequence, str) else set(map(str, sequence))
    if names:
        return "GR" in names and not names & {"EP", "SE", "IR"}
    on = {str(dataset.get(name) or "").upper() for name in ("EchoPlanarPulseSequence", "InversionRecovery")}
    return str(dataset.get("EchoPulseSequence") or "").upper() == "GRADIENT" and "YES" not in on


def _ge_component(dataset: Any) -> int | None:
    try:
        value = dataset.private_block(GE_GROUP, GE_CREATOR)[GE_ELEMENT].value
    except KeyError:
        return None
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else None
    value = value[0] if not isinstance(value, (int, float)) and value else value
    return _number(value)


def _number(value: Any, kind: type = int) -> Any:
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError):
        return None


def _volume(key: tuple, frames: Sequence[Frame], orientation: tuple[float, ...]) -> Volume:
    study, series, number, description, kind, echo, _, spacing, columns, rows = key
    identity = (study, series, number, description, kind, echo)
    shape = (columns, rows, len(frames))
    if len(orientation) != 6 or len(spacing) != 2 or any(len(frame.position) != 3 for frame in frames):
        return Volume(*identity, tuple(frames), shape, np.eye(4), "has no position, orientation or pixel spacing")
    along_row, along_column = np.reshape(orientation, (2, 3))
    normal = np.cross(along_row, along_column)
    slopes = [frame.slope for frame in frames]
    if min(slopes) < 0 < max(slopes):
        problem = f"has a RescaleSlope of {min(slopes):g} in some slices and of {max(slopes):g} in others"
        return Volume(*identity, tuple(frames), shape, np.eye(4), problem)
    frames = sorted(frames, key=lambda frame: float(np.dot(normal, frame.position)))
    positions = np.array([frame.position for frame in frames])
    step = (positions[-1] - positions[0]) / max(1, len(frames) - 1)
    lps = np.eye(4)
    lps[:3, :3] = np.c_[along_row * spacing[1], along_column * spacing[0], step if len(frames) > 1 else normal]
    lps[:3, 3] = positions[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return Volume(*identity, tuple(frames), shape, affine, _problem(positions, normal))


def _problem(positions: np.ndarray, normal: np.ndarray) -> str:
    """Why slices at these positions, sorted along the normal, are not one evenly spaced stack; empty if they are."""
    if len(positions) < 2:
        return ""
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    tolerance = max(SPACING_TOLERANCE_MM, 0.01 * usual)
    if gaps.min() < tolerance:
        number = 1 + int((gaps >= tolerance).sum())
        return f"has {len(positions)} slices at {number} positions: it holds more than one volume"
    off = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    ratios = gaps[off] / usual
    if len(off) and (np.abs(ratios - ratios.round()) < 0.1).all() and ratios.min() > 1.5:
        number, first = int((ratios.round() - 1).sum()), off[0]
        return (
            f"lacks {number} slice(s): slices {first + 1} and {first + 2} are {gaps[first]:.2f} mm apart, the others "
            f"{usual:.2f}"
        )
    if len(off):
        return f"has slices that are {gaps.min():.2f} to {gaps.max():.2f} mm apart; expected equal distances"
    offset = positions - positions[0]
    sideways = np.linalg.norm(offset - np.outer(offset @ normal, normal), axis=1).max()
    if sideways > MOST_SHEAR * gaps.sum():
        return f"has slices shifted sideways by up to {sideways:.2f} mm; expected a stack along its normal"
    return ""
