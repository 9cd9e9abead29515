"""Read the cells of tables: the first sheet of an Excel file, or text."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd

from ..errors import LabelError
from ..files import EXCEL_SUFFIXES, IMAGE_SUFFIXES, TABLE_SUFFIXES

OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
"""How an old Excel file begins, and a new one with a password."""


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
        raise LabelError(
            f"{path}: this kind of label file cannot be read; accepted are {accepted}. Save it in one of these forms."
        )
    if not path.is_file():
        raise LabelError(f"{path}: there is no such label file.")
    if path.stat().st_size == 0:
        raise LabelError(
            f"{path}: the file has 0 bytes. For a subject without microbleeds save an empty Excel sheet, or a "
            "CSV with only the header row slice,x,y; if the file should hold points, copy it again."
        )
    return known[0]


def read_cells(path: Path, names_column: Callable[[Any], Any]) -> list[tuple[int, list[Any]]]:
    r"""Read the first sheet of an Excel file, or a table as text.

    Args:
        path: .xlsx, .xlsm, .xls, .csv, .tsv or .txt.
        names_column: whether a cell is the name of a column. Below a row with such a cell, a row of a text separated by
            commas must not be longer.

    Returns:
        the rows that are not blank, each with its number from 1 and without trailing blank cells.

    Raises:
        LabelError: the file is missing, empty or damaged, has a password, is no table, or has its points on another
            sheet than the first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "P01.csv")
        ...     length = path.write_text("slice;x;y\n\n30;120,5;88;;\n")
        ...     read_cells(path, "slice".__eq__)
        [(1, ['slice', 'x', 'y']), (3, ['30', '120,5', '88'])]
    """
    first, rows = next(iter(_sheets_of(path, names_column).items()))
    others = unread_sheets(path, names_column)
    if not rows and others:
        raise LabelError(
            f"{path}: the first sheet, {first!r}, is empty and the sheet {others[0]!r} is not; only the first is "
            "read. Move the points to the first sheet, or delete the other sheets if there are no microbleeds."
        )
    return rows


def unread_sheets(path: Path, names_column: Callable[[Any], Any]) -> list[Any]:
    """The names of the sheets of an Excel file, besides the first, that hold something; none of a text."""
    _, *others = _sheets_of(path, names_column).items()
    return [name for name, rows in others if rows]


def _sheets_of(path: Path, names_column: Callable) -> dict[Any, list[tuple[int, list[Any]]]]:
    label_suffix(path)
    found = path.stat()
    return _cells_of_version(path, names_column, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1)  # the table of many subjects is asked for each of them
def _cells_of_version(
    path: Path, names_column: Callable, mtime_ns: int, size: int
) -> dict[Any, list[tuple[int, list[Any]]]]:
    tables = _excel_sheets(path) if label_suffix(path) in EXCEL_SUFFIXES else {"": _text_rows(path, names_column)}
    found = {}
    for name, lines in tables.items():
        rows = [["" if _blank(cell) else cell for cell in line] for line in lines]
        for row in rows:
            while row and row[-1] == "":
                row.pop()
        found[name] = [(number, row) for number, row in enumerate(rows, start=1) if row]
    return found


def _excel_sheets(path: Path) -> dict[Any, list[list[Any]]]:
    """The cells of each sheet, the first one first."""
    content = path.read_bytes()
    if content.startswith(OLE_MAGIC) and "EncryptedPackage".encode("utf-16-le") in content:
        raise LabelError(
            f"{path}: is an Excel file with a password, which cannot be read. Open it with the password and save it "
            "without one, or save the sheet as CSV."
        )
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
    return {name: sheet.to_numpy(dtype=object).tolist() for name, sheet in sheets.items()}


def _text_rows(path: Path, names_column: Callable) -> list[list[str]]:
    """The cells of a text file; the first line tells what separates them."""
    lines = _decoded(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    named = re.fullmatch(r"sep=(.)", first.strip(" \r\n"), re.IGNORECASE)
    if named:  # Excel's way of naming the separator; the line stays, blank, so that rows keep their numbers
        lines[lines.index(first)] = ""
        delimiter = named[1]
    else:
        bare = re.sub(r'"[^"]*"', "", first.strip(" "))
        delimiter = next((mark for mark in ";\t, " if mark in bare), ",")
    try:
        # strict, since a quotation mark that is never closed would swallow the rows after it
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter == " "))
    except csv.Error as error:
        raise LabelError(
            f"{path}: cannot be read as a table ({error}). Expected cells separated by comma, semicolon or tab, with "
            "text in pairs of quotation marks; look for a mark that is not closed, or save it from Excel as CSV UTF-8."
        ) from error
    header = next((row for row in rows if any(cell.strip() for cell in row)), [])
    if delimiter == "," and any(names_column(cell) for cell in header):
        for number, row in enumerate(rows, start=1):
            if any(cell.strip() for cell in row[len(header) :]):
                raise LabelError(
                    f"{path}: row {number} has {len(row)} cells, {row!r}, and the header row {len(header)}. Are there "
                    "decimal commas or commas in a comment? Separate the cells by semicolons or tabs."
                )
    return rows


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or, as Excel in Europe writes it, Windows-1252."""
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in content:
        encodings = ["utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise LabelError(
        f"{path}: is not text in UTF-8, UTF-16 or Windows-1252. Expected a table as text: save it from Excel as CSV "
        "UTF-8; if it is an Excel file, let its name end in .xlsx."
    )


def hidden_cells(path: Path, cells: list[tuple[int, list[Any]]]) -> tuple[str, ...]:
    """
    A sentence on the rows and columns of the first sheet that hold something and are hidden, and one on the rows that
    are struck out; nothing for other files.
    """
    if label_suffix(path) not in (".xlsx", ".xlsm") or not cells:
        return ()
    try:
        sheet = openpyxl.load_workbook(path).worksheets[0]
    except Exception as error:  # pandas, which leaves out what only a screen needs, could read it
        return (f"{path.name} was read, but not which of its rows and columns are hidden ({error}).",)
    width = max(len(row) for _, row in cells)
    rows = [
        str(number) for number, _ in cells if number in sheet.row_dimensions and sheet.row_dimensions[number].hidden
    ]
    columns = [
        openpyxl.utils.get_column_letter(number)
        for number in range(1, width + 1)
        if any(group.hidden and group.min <= number <= group.max for group in sheet.column_dimensions.values())
    ]
    struck = [str(number) for number, _ in cells if any(cell.font and cell.font.strike for cell in sheet[number])]
    named = [_numbered(what, some) for what, some in (("row", rows), ("column", columns)) if some]
    found = [f"{path.name} hides {' and '.join(named)} in Excel; they were read like the others."] if named else []
    if struck:
        found.append(f"{path.name} has {_numbered('row', struck)} struck out in Excel, which was read like the others.")
    return tuple(found)


def _numbered(what: str, some: list[str]) -> str:
    return f"{what} {', '.join(some[:5])}{' and others' if len(some) > 5 else ''}"


def _blank(cell: Any) -> bool:
    return bool(pd.isna(cell)) or str(cell).strip() == ""


def cell_number(cell: Any) -> float:
    """The number in a cell; NaN if it holds no finite number."""
    if isinstance(cell, bool):
        return np.nan
    if isinstance(cell, str) and re.fullmatch(r"\s*[+-]?\d+,\d+\s*", cell):
        cell = cell.replace(",", ".")
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return np.nan
    return number if np.isfinite(number) else np.nan
