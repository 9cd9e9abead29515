"""What the JSON file beside an image tells of how it was acquired, as dcm2niix and BIDS write it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import nibabel as nib

from ..files import IMAGE_SUFFIXES, read_json

OF_DCM2NIIX = re.compile(r"TE=(\d+(?:\.\d+)?);Time=")


@dataclass(frozen=True)
class Acquisition:
    """
    How an image was acquired, as far as it is known.

    Attributes:
        echo_ms: echo time of each echo in ms; empty where not known.
        field_tesla: field strength; None where not known.
        manufacturer: of the scanner; empty where not known.
        units: of the values, as BIDS names them; empty where not known.
        series, echo_number: SeriesNumber and EchoNumber; None where not known.
        image_type: values of ImageType; empty where not known.
        description: SeriesDescription; empty where not known.
    """

    echo_ms: tuple[float, ...] = ()
    field_tesla: float | None = None
    manufacturer: str = ""
    units: str = ""
    series: int | None = field(default=None, repr=False)
    echo_number: int | None = field(default=None, repr=False)
    image_type: tuple[str, ...] = field(default=(), repr=False)
    description: str = field(default="", repr=False)


def read_sidecar(image: str | PathLike) -> Acquisition:
    """
    Read ``EchoTime``, ``MagneticFieldStrength``, ``Manufacturer``, ``Units`` and what tells images of one study apart
    (``SeriesNumber``, ``EchoNumber``, ``ImageType``, ``SeriesDescription``) of the JSON file of an image's name, where
    there is one.

    In a BIDS data set also of the files above it that apply to the image: ``T2starw.json``, ``sub-01_echo-1_GRE.json``,
    of which the nearer comes first.

    Args:
        image: such as ``sub-01_swi.nii.gz``, whose file is ``sub-01_swi.json``. EchoTime is in s there; a value above 1
            is taken as ms. A file that is no such JSON, and a value that is no positive number, tell nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = Path(folder, "a.json").write_text('{"EchoTime": 0.02, "MagneticFieldStrength": 3}')
        ...     read_sidecar(Path(folder, "a.nii.gz"))
        Acquisition(echo_ms=(20.0,), field_tesla=3.0, manufacturer='', units='')
    """
    content = _content(Path(image))
    echoes = content.get("EchoTime")
    echoes = [_number(one) for one in (echoes if isinstance(echoes, list) else [echoes])]
    known = tuple(round(1000 * one if one <= 1 else one, 3) for one in echoes if one is not None)
    kinds = content.get("ImageType")
    words = [content.get(name) for name in ("Manufacturer", "Units")]
    return Acquisition(
        known if len(known) == len(echoes) else (),
        _number(content.get("MagneticFieldStrength")),
        *(word.strip() if isinstance(word, str) else "" for word in words),
        series=_whole(content.get("SeriesNumber")),
        echo_number=_whole(content.get("EchoNumber")),
        image_type=tuple(str(one) for one in kinds) if isinstance(kinds, list) else (),
        description=content["SeriesDescription"] if isinstance(content.get("SeriesDescription"), str) else "",
    )


def described_echo_ms(image: str | PathLike) -> tuple[float, ...]:
    """
    The echo time that dcm2niix writes into the description in a NIfTI header, ``TE=20;Time=120942.480``, of two digits.

    Args:
        image: of the file; one of another form, or of several volumes, tells nothing.
    """
    try:
        header = nib.load(image).header
        match = OF_DCM2NIIX.match(bytes(header["descrip"]).decode("latin-1"))
        several = len([size for size in header.get_data_shape()[3:] if size > 1]) > 0
    except Exception:  # whoever reads it says what is wrong with it
        return ()
    return (float(match[1]),) if match and float(match[1]) > 0 and not several else ()


def _content(path: Path) -> dict:
    """The JSON of an image's name, and in a BIDS data set what it inherits."""
    stem = next((path.name[: -len(s)] for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), "")
    if not stem:
        return {}
    merged: dict = {}
    start = re.match(r"sub-[^\W_]+(?=_)", stem)
    above = list(path.absolute().parents[:4]) if start else []
    participant = [n for n, folder in enumerate(above) if start and folder.name == start.group()]
    *entities, suffix = stem.split("_")
    for folder in reversed(above[: participant[0] + 2] if participant else []):
        fitting = [
            one for one in folder.glob(f"*{suffix}.json")
            if one.stem.split("_")[-1] == suffix and set(one.stem.split("_")[:-1]) <= set(entities)
        ]  # fmt: skip
        for one in sorted(fitting, key=lambda one: (len(one.stem.split("_")), one.name)):
            merged |= _json(one)
    return merged | _json(path.parent / f"{stem}.json")


def _json(path: Path) -> dict:
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) and value > 0 else None
    except OverflowError:  # a whole number of 400 digits
        return None
