"""What the JSON file beside an image tells of how it was acquired, as dcm2niix and BIDS write it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..files import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Acquisition:
    """
    How an image was acquired, as far as it is known.

    Attributes:
        echo_ms: echo time of each echo in ms; empty where not known.
        field_tesla: field strength; None where not known.
        manufacturer: of the scanner; empty where not known.
        units: of the values, as BIDS names them; empty where not known.
    """

    echo_ms: tuple[float, ...] = ()
    field_tesla: float | None = None
    manufacturer: str = ""
    units: str = ""


def read_sidecar(image: str | PathLike) -> Acquisition:
    """
    Read ``EchoTime``, ``MagneticFieldStrength``, ``Manufacturer`` and ``Units`` of the JSON file of an image's name,
    where there is one.

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
    path = Path(image)
    stem = next((path.name[: -len(s)] for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), "")
    try:
        content = json.loads((path.parent / f"{stem}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Acquisition()
    if not stem or not isinstance(content, dict):
        return Acquisition()
    echoes = content.get("EchoTime")
    echoes = [_number(one) for one in (echoes if isinstance(echoes, list) else [echoes])]
    known = tuple(round(1000 * one if one <= 1 else one, 3) for one in echoes if one is not None)
    words = [content.get(name) for name in ("Manufacturer", "Units")]
    return Acquisition(
        known if len(known) == len(echoes) else (),
        _number(content.get("MagneticFieldStrength")),
        *(word.strip() if isinstance(word, str) else "" for word in words),
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None
