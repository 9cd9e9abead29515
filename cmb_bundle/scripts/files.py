"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd

EXCEL_SUFFIXES = (".xlsx", ".xls")
TABLE_SUFFIXES = (*EXCEL_SUFFIXES, ".csv")
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


def write_whole(path: str | os.PathLike, write: Callable[[Path], None]) -> Path:
    """
    Write a file aside, in the same folder, and rename it into place, so that nobody sees half of it.

    Args:
        path: the file; its folder is made where it is missing.
        write: called with the path to write to, which has the same ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike, content: object) -> Path:
    """Write JSON, indented, whole; NaN is refused (ValueError), since JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_csv(path: str | os.PathLike, table: pd.DataFrame) -> Path:
    """Write a table as CSV without its index, whole."""
    return write_whole(path, lambda aside: table.to_csv(aside, index=False))
