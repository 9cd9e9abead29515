"""What an evaluation is computed from: for each subject its lesions, the mimics, and what a system found.

Records can be saved and loaded, so that the folds of a cross-validation, or several systems, are scored together.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from ..candidate import Candidate, Crop
from ..errors import RecordsError
from ..files import write_json
from .label_maps import LabelMaps

FORMAT = 1


@dataclass
class Lesion:
    """
    A microbleed of the truth.

    Args:
        ras_mm: its centre, in RAS mm.
        diameter_mm: None where unknown.
        region: "lobar", "deep", "infratentorial" or a word of the truth; None where unknown.
        crop: a picture of it, for the gallery of misses.
    """

    ras_mm: tuple[float, float, float]
    diameter_mm: float | None = None
    region: str | None = None
    crop: Crop | None = None


@dataclass
class Mimic:
    """
    A microbleed mimic annotated in the ground truth.

    Args:
        ras_mm: its centre, in RAS mm.
        kind: such as "calcification", "vein", "flow_void".
        diameter_mm: None where unknown.
    """

    ras_mm: tuple[float, float, float]
    kind: str
    diameter_mm: float | None = None


@dataclass
class SubjectRecord:
    """
    One subject as one system saw it.

    Args:
        subject: identifier; a subject occurs once for each system.
        lesions: the truth; empty for a subject without microbleeds.
        candidates: everything that stage 1 found, also what was dropped later.
        system: name of the system, as the report is to show it.
        mimics: None where the truth does not name mimics.
        spacing_mm: voxel size of the scan along R, A, S; the last is the slice thickness of an axial scan.
        fold: of a cross-validation.
        weights: file of the weights, as the report is to name it.
        candidate_threshold: on the detector score, below which there are no candidates.
        probability_threshold: at or above which a candidate is accepted.
        simulated: whether the scan is a simulation; None where not known.
        implanted: whether the program put the microbleeds into it.
        notices: how the subject was read.
        contrast: what was read, see :class:`~..transforms.load.LoadSubjectd`; None where not known.
        warnings: why its results may be worse than those that were measured.
        maps: components of the label maps; None where the truth is a table of points.
        echo_ms: echo time; None where not known.
        field_tesla: field strength; None where not known.
        weights_sha256: of the file of the weights.
    """

    subject: str
    lesions: list[Lesion]
    candidates: list[Candidate]
    system: str = "two stages"
    mimics: list[Mimic] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    fold: int | None = None
    weights: str | None = None
    candidate_threshold: float | None = None
    probability_threshold: float | None = None
    simulated: bool | None = None
    notices: str = field(default="")
    contrast: str | None = None
    warnings: str = ""
    maps: LabelMaps | None = None
    echo_ms: float | None = None
    field_tesla: float | None = None
    weights_sha256: str | None = None
    implanted: bool = False


def save_records(path: str | PathLike, records: Iterable[SubjectRecord]) -> Path:
    """
    Write records as one JSON file, whole; crops are PNG pictures in base64.

    Raises:
        ValueError: a number is not finite.
    """
    entries = [_encode(asdict(record)) for record in records]
    return write_json(path, {"format": FORMAT, "records": entries})


def load_records(paths: str | PathLike | Sequence[str | PathLike]) -> list[SubjectRecord]:
    """
    Read one file of records, or pool several.

    Args:
        paths: of :func:`save_records`, or folders that hold a ``records.json``.

    Raises:
        RecordsError: a file cannot be read, or two records are of one subject and one system.
    """
    paths = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    records = [record for path in paths for record in _read(Path(path))]
    check_unique(records, ", ".join(map(str, paths)))
    return records


def check_unique(records: Sequence[SubjectRecord], source: str = "the records") -> None:
    """
    Make sure that each system saw each subject once.

    Raises:
        RecordsError: else.
    """
    seen: set[tuple[str, str]] = set()
    for record in records:
        key = (record.system, record.subject)
        if key in seen:
            raise RecordsError(
                f"{source}: subject {record.subject} is there twice for the system {record.system!r}; expected once. "
                "Pool folds that share no subject, and give different systems different names."
            )
        seen.add(key)


def _read(path: Path) -> list[SubjectRecord]:
    path = path / "records.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
        return [_decode(entry) for entry in content["records"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordsError(
            f"{path}: is not a file of records ({type(error).__name__}: {error}). Expected the records.json of an "
            "evaluation; run the evaluation again."
        ) from error


def _encode(value: object) -> object:
    """Plain JSON of what ``asdict`` gives; a crop is a dictionary with the key ``channels``."""
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, np.ndarray):
        return [png(channel) for channel in value]
    return value.item() if isinstance(value, np.generic) else value


def _decode(entry: dict) -> SubjectRecord:
    lesions = [Lesion(**_place(lesion)) for lesion in entry["lesions"]]
    candidates = [Candidate.from_json(_place(candidate)) for candidate in entry["candidates"]]
    mimics = entry.get("mimics")
    mimics = None if mimics is None else [Mimic(**_place(mimic)) for mimic in mimics]
    maps = entry.get("maps")
    spacing = entry.get("spacing_mm")
    rest = {f.name: entry[f.name] for f in fields(SubjectRecord) if f.name in entry}
    rest |= {"lesions": lesions, "candidates": candidates, "mimics": mimics}
    rest |= {"maps": None if maps is None else LabelMaps(**maps)}
    return SubjectRecord(**rest | {"spacing_mm": None if spacing is None else tuple(spacing)})


def _place(entry: dict) -> dict:
    place = {**entry, "ras_mm": tuple(entry["ras_mm"])}
    if place.get("crop") is not None:
        channels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in place["crop"]["channels"]]
        place["crop"] = Crop(np.stack(channels), place["crop"]["size_mm"])
    return place


def png(picture: np.ndarray) -> str:
    """A grey picture (height, width) uint8 as PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
