"""Read the files that an annotator writes: rows of a table (Excel, CSV) or components of a label map."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage
from skimage.measure import label as label_components

from ..errors import LabelError
from ..files import NIBABEL_SUFFIXES, TABLE_SUFFIXES
from ..whole import check_whole
from .label_columns import (
    cell_text,
    check_denials,
    contradictions,
    named_subjects,
    rows_of_one_reading,
    rows_of_subject,
    unread_columns,
)
from .sheets import cell_number, hidden_cells, label_suffix, read_cells, unread_sheets

EXPECTED = (
    "expected the columns slice, x, y and optionally class, as numbers and without a header row, "
    "or a header row that names slice, x, y and optionally class and diameter_mm"
)
MAX_ROWS = 10_000
"""A table with more rows is no list of microbleeds: brains full of them have about a thousand, on three slices each."""
LARGEST_CLASS = 9
"""A fourth column without a header that holds a larger number is taken for a coordinate, not for a class."""
CLASS_TOLERANCE = 1e-3
"""How far a value of a label map may be from a whole number: scale factors such as 1 / 255 are not exact."""
CLASS_NAMES = dict.fromkeys(("cmb", "cmbs", "microbleed", "microbleeds", "mb", "yes"), 1.0) | dict.fromkeys(
    ("mimic", "mimics", "no", "none", "non-cmb", "no cmb", "no microbleed", "not a microbleed"), 0.0
)
"""Names of the classes, in lower case; 0 is what is not a microbleed."""
IN_OTHER_UNITS = re.compile(r"voxel[ _]?[ijk]|([a-z].*[ _([])?mm[)\]]?")
"""Headers of places that are not slice, x and y as an annotator counts them."""
HEADERS = {
    "slice": r"(slice|schicht)([ _.]*(nr|no|num|number|index|#)\.?)?( *[\[(]z[\])])?|z( *[\[(]slice[\])])?",
    "x": r"x",
    "y": r"y",
    "class": r"class|klasse",
    "diameter_mm": r"diameter[ _]*[\[(]?mm[\])]?",
    "lesion": r"lesion",
    "subject": r"subject",
}
"""The names of each column, in lower case; a place may be said to be in pixels or voxels, but not in mm."""
IN_PIXELS = re.compile(r"[ _]*[\[(]?(px|pixels?|vox|voxels?)[\])]?$")
NAMED = " or one of " + ", ".join(CLASS_NAMES)
UNSURE, UNDECIDED = "unsure", "undecided"
"""Classes that the page for review writes besides: the first are left out, the second are no label yet."""


@dataclass(frozen=True)
class Table:
    """Rows of a table as written in the file, without those of class 0.

    Args:
        rows: (N, 3) slice, x, y.
        diameter_mm: (N,) diameters in mm, NaN where unknown.
        row_numbers: the number, from 1, of each row in the file.
        lesion: (N,) lesion numbers, the same in all rows of one lesion; None if the table has no such column.
        notices: sentences on how the file was read.
    """

    rows: np.ndarray
    diameter_mm: np.ndarray
    row_numbers: list[int]
    lesion: np.ndarray | None
    notices: tuple[str, ...] = ()


def read_table(path: Path, subject: str | None = None) -> Table:
    """Read a table of points; what it may look like is said in ``labels.read_points``.

    Args:
        path: .xlsx, .xlsm, .xls, .csv, .tsv or .txt.
        subject: whose rows to read, of a table with a column subject that names several.

    Returns:
        its rows; no rows for an empty sheet.

    Raises:
        LabelError: if it is not a table of these kinds, has unexpected columns or cells, names other subjects and not
            this one, or several readers or visits, or calls a row none in a column that is not read.
    """
    cells = read_cells(path, _column_name)
    notices = hidden_cells(path, cells)
    others = unread_sheets(path, _column_name)
    if others:
        named = _quoted(others)
        notices += (f"{path.name}: only the first sheet was read, not {named}, which may hold points, too.",)
    columns, by_position, used, first = {"slice": 0, "x": 1, "y": 2}, False, set(), []
    if cells:
        number, first = cells[0]
        if any(_column_name(cell) in columns for cell in first):
            columns = _columns_by_name(path, number, first)
            cells, of_subject, used = rows_of_subject(path, subject, first, cells[1:], columns)
            columns.pop("subject", None)
            cells, of_session, used = rows_of_one_reading(path, subject, first, cells, used)
            if "class" not in columns:
                check_denials(path, first, cells, used)
                notices += unread_columns(path, subject, first, cells, used)
            cells, unsure = _decided(path, cells, columns)
            notices += of_subject + of_session + unsure
        else:
            columns, by_position = _columns_by_position(path, cells), True
    if len(cells) > MAX_ROWS:
        raise LabelError(
            f"{path}: has {len(cells)} rows; expected a row for each microbleed and slice, {MAX_ROWS} at most. Is it a "
            "list of voxels? Save it as a label map in place of a table."
        )

    values = {name: np.full(len(cells), np.nan) for name in columns}
    for index, (number, row) in enumerate(cells):
        for name, column in columns.items():
            cell = row[column] if column < len(row) else ""
            by_name = CLASS_NAMES.get(str(cell).strip().lower()) if name == "class" else None
            value = values[name][index] = cell_number(cell) if by_name is None else by_name
            where = f"{path}: row {number}, column {column + 1} ({name})"
            if np.isnan(value) and not (cell == "" and name == "diameter_mm"):
                held = (
                    "is blank"
                    if cell == ""
                    else f"holds {cell!r}, which is not a number{NAMED if name == 'class' else ''}"
                )
                raise LabelError(f"{where} {held}; {EXPECTED}.{_perhaps_elsewhere(path)}")
            if name in ("slice", "class") and value != int(value) and "lesion" not in columns:
                raise LabelError(f"{where} holds {cell!r}, which is not a whole number; {EXPECTED}.")
            if name == "diameter_mm" and value <= 0:
                raise LabelError(f"{where} holds {cell!r}; a diameter is more than 0 mm, or left blank.")

    if by_position and "class" in columns:
        _check_class_by_position(path, cells, values)
    keep = values["class"] != 0 if "class" in columns else np.ones(len(cells), dtype=bool)
    if used and "class" in columns:
        counted = [numbered for numbered, kept in zip(cells, keep, strict=True) if kept]
        notices += contradictions(path, first, counted, used)
    return Table(
        rows=np.stack([values["slice"], values["x"], values["y"]], axis=1)[keep],
        diameter_mm=values.get("diameter_mm", np.full(len(cells), np.nan))[keep],
        row_numbers=[number for (number, _), kept in zip(cells, keep, strict=True) if kept],
        lesion=values["lesion"][keep] if "lesion" in columns else None,
        notices=notices,
    )


def subjects_of_table(path: str | Path) -> list[str]:
    """The subjects that a table with a column subject names, in their order.

    Args:
        path: of the table.

    Raises:
        LabelError: it cannot be read, has no such column, or a row without a subject.
    """
    path = Path(path)
    if label_suffix(path) not in TABLE_SUFFIXES:
        raise LabelError(f"{path}: is no table. Expected one with the columns subject, slice, x, y and class.")
    cells = read_cells(path, _column_name)
    columns = _columns_by_name(path, *cells[0]) if cells else {}
    if "subject" not in columns:
        raise LabelError(
            f"{path}: has no column subject, which says whose row each is. Expected a header row with subject, slice, "
            "x, y and class, as the page for review writes it."
        )
    return named_subjects(path, cells[1:], columns["subject"])


def read_decisions(path: str | Path) -> dict[tuple[str, str], bool]:
    """
    What was decided of each row of a table of the page for review.

    Args:
        path: of a table with the columns subject, lesion and class.

    Returns:
        whether it is a microbleed, by subject and number of the lesion; without rows that are unsure, undecided or have
        no place. Empty for a table without these columns.
    """
    cells = read_cells(Path(path), _column_name)
    columns = _columns_by_name(Path(path), *cells[0]) if cells else {}
    if not {"subject", "lesion", "class"} <= set(columns):
        return {}
    found = {}
    for _, row in cells[1:]:
        decision, number = CLASS_NAMES.get(cell_text(row, columns["class"]).lower()), cell_text(row, columns["lesion"])
        if decision is not None and cell_text(row, columns["slice"]):
            found[cell_text(row, columns["subject"]), number] = decision > 0
    return found


def _decided(
    path: Path, cells: list[tuple[int, list[Any]]], columns: dict[str, int]
) -> tuple[list[tuple[int, list[Any]]], tuple[str, ...]]:
    """
    The rows without those of which a reader was unsure, which are in a notice, and without those that say that there
    is none: class 0 without a place.
    """
    if "class" not in columns:
        return cells, ()
    classes = [cell_text(row, columns["class"]).lower() for _, row in cells]
    waiting = [number for (number, _), name in zip(cells, classes, strict=True) if name == UNDECIDED]
    if waiting:
        raise LabelError(
            f"{path}: {len(waiting)} rows of this subject are {UNDECIDED}, row {waiting[0]} is the first, so that it "
            "is no label yet. Decide them on the page for review and save it again."
        )
    kept = []
    for (number, row), name in zip(cells, classes, strict=True):
        without_place = not any(cell_text(row, columns[key]) for key in ("slice", "x", "y"))
        if name != UNSURE and not (without_place and CLASS_NAMES.get(name) == 0):
            kept.append((number, row))
    unsure = classes.count(UNSURE)
    notice = f"{path.name}: {unsure} place(s) of which the reader was unsure do not count as microbleeds."
    return kept, (notice,) if unsure else ()


def _column_name(cell: Any) -> str | None:
    """The column that a cell of a header row names; None for another text."""
    text = str(cell).strip().lower()
    for name, pattern in HEADERS.items():
        if re.fullmatch(pattern, IN_PIXELS.sub("", text) if name in ("slice", "x", "y") else text):
            return name
    return None


def _columns_by_name(path: Path, number: int, header: list[Any]) -> dict[str, int]:
    columns: dict[str, int] = {}
    exact = [str(cell).strip().lower() for cell in header]
    for column, cell in enumerate(header):
        name = _column_name(cell)
        if name is None or (exact[column] != name and exact.count(name) == 1):
            continue
        if name in columns:
            raise LabelError(
                f"{path}: in the header row {number} both {header[columns[name]]!r} and {cell!r} mean {name}. "
                f"Rename the one that is not it; {EXPECTED}."
            )
        columns[name] = column
    missing = ", ".join(name for name in ("slice", "x", "y") if name not in columns)
    if missing:
        raise LabelError(f"{path}: the header row {number} has {', '.join(exact)} but not {missing}; {EXPECTED}.")
    return columns


def _perhaps_elsewhere(path: Path) -> str:
    """For an error of a first sheet that holds no points, as a readme: which sheets are not read."""
    others = unread_sheets(path, _column_name)
    said = f" Only the first sheet is read: if the points are on {_quoted(others)}, move it to the front."
    return said if others else ""


def _quoted(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:5])) + (" and others" if len(names) > 5 else "")


def _check_class_by_position(path: Path, cells: list[tuple[int, list[Any]]], values: dict[str, np.ndarray]) -> None:
    """Refuse a fourth column without a header where the four columns may be an index, slice, x and y."""
    advice = (
        "If the columns are a running number, slice, x and y, delete the first one; else add a header row that names "
        "them, such as slice,x,y,class."
    )
    wrong = np.flatnonzero((values["class"] < 0) | (values["class"] > LARGEST_CLASS))
    if len(wrong):
        number, row = cells[wrong[0]]
        raise LabelError(
            f"{path}: row {number}, column 4 holds {row[3]!r}, which is hardly a class: without a header row, expected "
            f"slice, x, y, class, and as class 0 (not a microbleed) to {LARGEST_CLASS}. {advice}"
        )
    counted = values["slice"]
    if len(counted) > 1 and counted[0] in (0, 1) and (np.diff(counted) == 1).all():
        raise LabelError(
            f"{path}: the first of four columns only counts up, {counted[0]:g} to {counted[-1]:g}; without a header "
            f"row, expected the slice there, and x, y and class in the others. {advice}"
        )


def _columns_by_position(path: Path, cells: list[tuple[int, list[Any]]]) -> dict[str, int]:
    first, header = cells[0]
    other = [str(cell) for cell in header if IN_OTHER_UNITS.fullmatch(str(cell).strip().lower())]
    if other:
        raise LabelError(
            f"{path}: the header row {first} names {', '.join(other)}, but not slice, x and y: places in mm and "
            f"indices of voxels are not read; {EXPECTED}. In a table that this program wrote, keep its columns slice, "
            "x and y."
        )
    number, row = max(cells, key=lambda numbered: len(numbered[1]))
    if len(row) not in (3, 4):
        shown = repr(row) if len(row) <= 8 else f"{row[:8]!r} and more"
        raise LabelError(
            f"{path}: row {number} has {len(row)} column(s), {shown}; {EXPECTED}.{_perhaps_elsewhere(path)}"
        )
    return {name: column for column, name in enumerate(("slice", "x", "y", "class")[: len(row)])}


def read_components(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the connected components of a label map: 26 neighbours, separately for each value.

    Args:
        path: a file with one of the suffixes of images.

    Returns:
        the label map's array with components numbered from 1 (0 is background), and its affine (4, 4), voxel to
        RAS mm.

    Raises:
        LabelError: if it cannot be read, is not of three axes, or has values other than whole numbers from 0.
    """
    try:
        check_whole(path)
        if path.name.lower().endswith(NIBABEL_SUFFIXES):
            image = nib.load(path)
            values = np.asarray(image.dataobj)
        else:
            values = image = LoadImage(image_only=True)(str(path))
    except Exception as error:
        raise LabelError(f"{path}: cannot be read as an image ({type(error).__name__}: {error}).") from error
    values = np.asarray(values)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise LabelError(f"{path}: a label map must have three axes, but this one has the shape {values.shape}.")
    whole = np.round(values)
    wrong = values[~((whole >= 0) & (np.abs(values - whole) <= CLASS_TOLERANCE))]
    if wrong.size:
        raise LabelError(
            f"{path}: a label map holds whole numbers from 0 (0 is background), but this one has values such as "
            f"{wrong[0]:g}; is it a probability map?"
        )
    return label_components(whole.astype(np.int64), connectivity=3), np.asarray(image.affine, dtype=float)
