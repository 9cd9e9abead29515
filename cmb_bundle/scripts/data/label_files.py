"""Read the files that an annotator writes: rows of a table (Excel, CSV) or components of a label map."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.transforms import LoadImage
from skimage.measure import label as label_components

from ..errors import LabelError
from ..files import EXCEL_SUFFIXES, IMAGE_SUFFIXES, TABLE_SUFFIXES, check_gzip

EXPECTED = (
    "expected the columns slice, x, y and optionally class, as numbers and without a header row, "
    "or a header row that names slice, x, y and optionally class and diameter_mm"
)


@dataclass(frozen=True)
class Table:
    """Rows of a table as written in the file, without those of class 0.

    Args:
        rows: (N, 3) slice, x, y.
        diameter_mm: (N,) diameters in mm, NaN where unknown.
        row_numbers: the number, from 1, of each row in the file.
        lesion: (N,) lesion numbers, the same in all rows of one lesion; None if the table has no such column.
    """

    rows: np.ndarray
    diameter_mm: np.ndarray
    row_numbers: list[int]
    lesion: np.ndarray | None


def label_suffix(path: Path) -> str:
    """Return the kind of a label file by its name, after checking that it exists and is not empty.

    Args:
        path: the file.

    Returns:
        one of the suffixes of tables and images, in lower case.

    Raises:
        LabelError: for another suffix, a missing file or one of 0 bytes.
    """
    name = path.name.lower()
    known = [suffix for suffix in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES) if name.endswith(suffix)]
    if not known:
        accepted = ", ".join((*TABLE_SUFFIXES, *IMAGE_SUFFIXES))
        raise LabelError(f"{path}: this kind of label file cannot be read; accepted are {accepted}.")
    if not path.is_file():
        raise LabelError(f"{path}: there is no such label file.")
    if path.stat().st_size == 0:
        raise LabelError(
            f"{path}: the file has 0 bytes. For a subject without microbleeds save an empty Excel sheet, or a "
            "CSV with only the header row slice,x,y; if the file should hold points, copy it again."
        )
    return known[0]


def _read_cells(path: Path) -> list[tuple[int, list[Any]]]:
    """The rows that are not blank, each with its number from 1 and without trailing blank cells."""
    if label_suffix(path) in EXCEL_SUFFIXES:
        try:
            sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, na_filter=False)
        except ImportError as error:
            raise LabelError(
                f"{path}: reading this kind of Excel file needs a package that is not installed ({error}). "
                "Install it, or save the file as .xlsx or .csv."
            ) from error
        except Exception as error:
            raise LabelError(
                f"{path}: cannot be read as an Excel file ({error}). Open it and save it as .xlsx again."
            ) from error
        tables = {name: sheet.to_numpy(dtype=object).tolist() for name, sheet in sheets.items()}
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise LabelError(f"{path}: is not text in UTF-8 ({error}). Save it as CSV UTF-8.") from error
        delimiter = next((mark for mark in ";\t" if mark in text), ",")
        tables = {"": list(csv.reader(text.splitlines(), delimiter=delimiter))}

    found = {}
    for name, lines in tables.items():
        rows = [["" if _blank(cell) else cell for cell in line] for line in lines]
        for row in rows:
            while row and row[-1] == "":
                row.pop()
        found[name] = [(number, row) for number, row in enumerate(rows, start=1) if row]
    first, *others = found
    if not found[first] and any(found[name] for name in others):
        filled = next(name for name in others if found[name])
        raise LabelError(
            f"{path}: the first sheet, {first!r}, is empty and the sheet {filled!r} is not; only the first is "
            "read. Move the points to the first sheet, or delete the other sheets if there are no microbleeds."
        )
    return found[first]


def _blank(cell: Any) -> bool:
    return bool(pd.isna(cell)) or str(cell).strip() == ""


def _number(cell: Any) -> float:
    """The number in a cell; NaN if it holds no finite number."""
    if isinstance(cell, bool):
        return np.nan
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return np.nan
    return number if np.isfinite(number) else np.nan


def read_table(path: Path) -> Table:
    """Read a table of points; what it may look like is said in ``labels.read_points``.

    Args:
        path: .xlsx, .xls or .csv.

    Returns:
        its rows; no rows for an empty sheet.

    Raises:
        LabelError: if it is not a table of these kinds, or has unexpected columns or cells.
    """
    cells = _read_cells(path)
    columns = {"slice": 0, "x": 1, "y": 2}
    if cells:
        number, first = cells[0]
        names = [str(cell).strip().lower() for cell in first]
        if set(names) & set(columns):
            missing = ", ".join(name for name in columns if name not in names)
            if missing:
                raise LabelError(
                    f"{path}: the header row {number} has {', '.join(names)} but not {missing}; {EXPECTED}."
                )
            optional = ("class", "diameter_mm", "lesion")
            columns = {name: names.index(name) for name in (*columns, *optional) if name in names}
            cells = cells[1:]
        else:
            columns = _columns_by_position(path, cells)

    values = {name: np.full(len(cells), np.nan) for name in columns}
    for index, (number, row) in enumerate(cells):
        for name, column in columns.items():
            cell = row[column] if column < len(row) else ""
            value = values[name][index] = _number(cell)
            where = f"{path}: row {number}, column {column + 1} ({name})"
            if np.isnan(value) and not (cell == "" and name == "diameter_mm"):
                held = "is blank" if cell == "" else f"holds {cell!r}, which is not a number"
                raise LabelError(f"{where} {held}; {EXPECTED}.")
            if name in ("slice", "class") and value != int(value) and "lesion" not in columns:
                raise LabelError(f"{where} holds {cell!r}, which is not a whole number; {EXPECTED}.")
            if name == "diameter_mm" and value <= 0:
                raise LabelError(f"{where} holds {cell!r}; a diameter is more than 0 mm, or left blank.")

    keep = values["class"] != 0 if "class" in columns else np.ones(len(cells), dtype=bool)
    return Table(
        rows=np.stack([values["slice"], values["x"], values["y"]], axis=1)[keep],
        diameter_mm=values.get("diameter_mm", np.full(len(cells), np.nan))[keep],
        row_numbers=[number for (number, _), kept in zip(cells, keep, strict=True) if kept],
        lesion=values["lesion"][keep] if "lesion" in columns else None,
    )


def _columns_by_position(path: Path, cells: list[tuple[int, list[Any]]]) -> dict[str, int]:
    number, row = max(cells, key=lambda numbered: len(numbered[1]))
    if len(row) not in (3, 4):
        raise LabelError(f"{path}: row {number} has {len(row)} column(s), {row!r}; {EXPECTED}.")
    return {name: column for column, name in enumerate(("slice", "x", "y", "class")[: len(row)])}


def read_components(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the connected components of a label map: 26 neighbours, separately for each value.

    Args:
        path: .nii, .nii.gz, .nrrd or .mha.

    Returns:
        the label map's array with components numbered from 1 (0 is background), and its affine (4, 4), voxel to
        RAS mm.

    Raises:
        LabelError: if it cannot be read, is not of three axes, or has values other than whole numbers from 0.
    """
    try:
        check_gzip(path)
        image = LoadImage(image_only=True)(str(path))
    except Exception as error:
        raise LabelError(f"{path}: cannot be read as an image ({type(error).__name__}: {error}).") from error
    values = np.asarray(image)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise LabelError(f"{path}: a label map must have three axes, but this one has the shape {values.shape}.")
    wrong = values[~((values >= 0) & (values == np.round(values)))]
    if wrong.size:
        raise LabelError(
            f"{path}: a label map holds whole numbers from 0 (0 is background), but this one has values such as "
            f"{wrong[0]:g}; is it a probability map?"
        )
    return label_components(values.astype(np.int64), connectivity=3), np.asarray(image.affine, dtype=float)
