"""What a table of points says beside its places: whose a row is, who marked it, and whether it is no microbleed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LabelError
from .bids import SUBJECT, participant_of
from .sheets import cell_number

Rows = list[tuple[int, list[Any]]]
"""The rows of a table below its header, each with its number in the file."""

BLEED = r"(cmbs?|mbs?|microbleeds?|microbleeding|microha?emorrhages?|mikroblutung(en)?)"
REASON = (
    r"(\s*[,;:].*| (by|on|after|per|from|during|due to|because|according to|upon|since|nach|bei|von|durch|wegen|laut)"
    r"\b.*)?"
)
NO_MICROBLEED = re.compile(
    r"((most )?(likely|probably|probable|definitely|definite|clearly) )?(an? )?("
    rf"(mimics?|false ?pos(itives?)?|(no|not|non|kein|keine)( an?)?( true| real| definite)? ?{BLEED}|"
    rf"(very |highly )?(unlikely|improbable)( to be)?( an?)? {BLEED}){REASON}|"
    r"calcifications?|calcified|calcium|verkalkung(en)?|verkalkt|((small|blood) )?vessels?|gefäße?|veins?|venen?|"
    r"arter(y|ies)|arterien?|(vascular )?flow ?voids?|artefacts?|artifacts?|artefakte?|cavernomas?|kavernome?)|"
    r"((was|is|to be) )?(reject(ed)?|excluded?|discard(ed)?|deleted?|removed?|drop(ped)?|dismiss(ed)?|declined|"
    r"ruled out|disagreed?|unconfirmed|not (confirmed|accepted|included|agreed|valid)|abgelehnt|ausgeschlossen|"
    rf"entfernt|gelöscht|verworfen){REASON}|"
    r"(an? )?(duplicates?|dup|doppelt|already (counted|listed|marked))( ?(of|from|in|on|as|see|von|zu)\b.*| ?#?\d+)?"
)
"""A whole cell that says in any column that a row is not a microbleed: "no calcification" and "near a vein" do not."""
OF_ITS_PLACE = re.compile(
    r"\b(locations?|regions?|sites?|lobes?|areas?|structures?|anatom\w*|territor\w*|near\w*|adjacent|next|neighbou?r\w*|"
    r"differential|ddx?|lokalisation|ort)\b"
)
"""In the header of a column in which a vein is what lies beside a microbleed, or was thought of."""
ASKING = re.compile(
    rf"((is|was) ?)?(an? )?((final|consensus|joint) )?(true )?({BLEED}|confirmed|definite|true|positive|real|valid|"
    r"accept(ed)?|keep|kept|included?|approved|counted|used?|present|agree(d|ment)?|verdict|decision|label|consensus|"
    r"gt|ground ?truth|gold ?standard|truth)( (status|present|consensus|final|yes ?/? ?no|y ?/? ?n))?|"
    rf"is ?(an? )?lesion|(n|nr\.?|num|number|count|anzahl)( of)? {BLEED}|{BLEED} (count|number)|count"
)
DENIED = (
    "no", "n", "false", "0", "-1", "nein", "non", "none", "fp", "negative", "absent", "unlikely", "disagree",
    "falsch", "✗", "✘",
)  # fmt: skip
"""Headers of a column that asks whether a row is a microbleed, as ``_plain`` has them, and the cells that say no."""
ASKING_OTHERWISE = re.compile(
    r"(is ?)?(an? )?(mimics?|false ?positives?|fp|reject(ed)?|excluded?|discard(ed)?|deleted?|removed?|drop(ped)?|"
    r"dismissed|ignored?|invalid|duplicates?|artefacts?|artifacts?|"
    r"vessels?|veins?|flow ?voids?|calcifications?|calcified|ausgeschlossen)"
)
AFFIRMED = ("yes", "y", "true", "1", "x", "ja", "j", "oui", "✓", "✔")
"""The same of a column that asks whether a row is none, and the cells that say yes."""
JUDGING = re.compile(
    r"((final|consensus|joint) )?(status|rating|result|outcome|judge?ment|assessment|adjudication|diagnosis|finding|"
    r"type|kind|category|grade|vote|opinion|review|annotation|bewertung|urteil|befund|diagnose|typ)"
)
DISMISSED = (
    "no", "false", "fp", "negative", "nein", "invalid", "unlikely", "siderosis", "macrobleed", "macrohemorrhage",
    "macrohaemorrhage",
)  # fmt: skip
"""The same of a column that says what a row is, whose numbers may be those of a scale."""
CERTAINTY = re.compile(
    rf"(level of )?(certainty|confidence|likelihood|probability|sicherheit)( of( an?)? {BLEED})?"
    r"( (level|rating|score|grade))?"
)
REMARK = re.compile(r"comments?|remarks?|notes?|bemerkung(en)?|kommentare?|anmerkung(en)?")
UNLIKELY = ("unlikely", "very unlikely", "highly unlikely", "improbable", "unwahrscheinlich")
QUESTIONS = (
    (ASKING, DENIED),
    (ASKING_OTHERWISE, AFFIRMED),
    (JUDGING, DISMISSED),
    (CERTAINTY, (*UNLIKELY, "no", "none", "absent")),
    (REMARK, UNLIKELY),
)
CONFIRMED = (
    *AFFIRMED, "cmb", "cmbs", "mb", "microbleed", "microbleeds", "definite", "confirmed", "accepted", "ok", "positive",
    "present", "true positive", "tp", "certain", "sure", "agree", "agreed",
)  # fmt: skip
"""Cells that say of a row no more than that it is a microbleed."""
CODING = re.compile(r"[(\[][^)\]]*(\d|=|/|yes|ja)[^)\]]*[)\]]|\b(0 ?/ ?1|1 ?/ ?0)\s*$", re.IGNORECASE)
CODE = re.compile(r"(\d+) ?[=:] ?([^,;/)\]\d]+)")
"""What a header says of its cells, "CMB (1=yes; 0=no)" or "CMB 0/1", and one code of it with its meaning."""

A_READER = r"(rater|reader|observer|annotator|reviewer|radiologist|neurologist|expert|befunder|leser)"
READER = re.compile(rf"({A_READER}|(rated|read|marked|annotated) by)( ?(id|name|initials|\d ?/ ?\d))?|initials|kürzel")
VISIT = re.compile(
    r"(visit|session|ses|scan|time ?point|tp|wave|exam(ination)?|study|termin|zeitpunkt|untersuchung)"
    r"( ?(id|name|no|nr|number|label))?|((visit|session|scan|exam(ination)?|study|acquisition|mri?) ?)?(date|datum)"
)
SERIES = re.compile(
    r"(series|serie|sequence|sequenz|modality|modalität)( ?(id|name|type|description|uid))?|series number"
)
"""Headers of a column that says who marked a row, on which scan of a subject, or on which of its images."""
OPINION = re.compile(
    rf"(({BLEED}|label|rating) )?(r ?\d\d?|{A_READER} ?(\d\d?|[a-d]|i{{1,3}}))"
    rf"( ({BLEED}|label|rating|decision|vote|opinion))?"
)
"""Headers of a column that holds what one of several readers says of each row."""
TIME_OF_DAY = re.compile(r"[ t]\d{1,2}:\d\d.*$", re.IGNORECASE)

OF_SUBJECT = re.compile(
    r"(subject|subj|patient(en)?|pat|participant|proband(en)?|teilnehmer)( ?(id|no|nr|number|nummer|code|label|key))?"
)
PERHAPS_OF_SUBJECT = re.compile(
    r"id|identifier|pid|mrn|code|pseudonym|(case|fall|record)( ?(id|no|nr|number|nummer|code))?|study ?(id|code)|"
    r"(subject|patient(en)?|participant) ?name"
)
"""Headers of a column that names the subject, and of one that may do so, or may number the lesions."""
HARMLESS = re.compile(
    r"((running|lesion|cmb|mb|microbleed|roi|point|finding) ?)?(no|nr|num|number|nummer|index|idx|#|id|name)|name|"
    r".* (mm|mm2|mm3|mm²|mm³|ml|µl)|(diameter|durchmesser|size|größe|length|width|volume|radius|depth)\b.*|"
    r"side|seite|hemisphere|laterality|left ?/ ?right|l ?/ ?r|(file|image|picture|screenshot)( ?name)?|path|"
    r"age|alter|sex|gender|(date of )?birth.*|group|cohort|project|cent(re|er)|scanner|vendor|field strength.*|"
    r"mean|min|max|sd|snr|intensity|shape|voxel [ijk]|ras [ras] mm|detector score"
)
"""Headers of columns that can say nothing on whether a row counts."""
MAX_VALUES = 4
LONGEST_VALUE = 20
"""Of a column that was not read, a notice shows up to as many values, none with more letters."""
MAX_COLUMNS = 5


def cell_text(row: list[Any], column: int) -> str:
    """The text of a cell; empty beyond the end of a row."""
    return str(row[column]).strip() if column < len(row) else ""


def _plain(cell: Any) -> str:
    """A text in lower case and without marks, with a space between its words."""
    return " ".join(re.sub(r"[_\-()\[\]]", " ", str(cell).lower()).split()).rstrip("?!. ")


def _said(cell: Any) -> str:
    """What a cell says: a number in its shortest form, and else a plain text."""
    number = cell_number(cell)
    return _plain(cell) if np.isnan(number) else f"{number:.15g}"


def _asks(question: re.Pattern, header: Any) -> bool:
    """Whether a header is of a kind, with or without what it says of its cells."""
    return any(question.fullmatch(_plain(text)) for text in (header, CODING.sub(" ", str(header))))


def named_subjects(path: Path, cells: Rows, column: int, name: Any = "subject") -> list[str]:
    """
    The subjects of a table's rows, once each.

    Args:
        path: of the table.
        cells: its rows.
        column: the index of the column that names them.
        name: its header.

    Raises:
        LabelError: there are several, and a row names none.
    """
    named = [cell_text(row, column) for _, row in cells]
    found = list(dict.fromkeys(name for name in named if name))
    if len({_id(one) for one in found}) > 1 and "" in named:
        number = cells[named.index("")][0]
        raise LabelError(
            f"{path}: names {len(found)} subjects, but row {number} has none in the column {name}. Write whose it is."
        )
    return found


def _id(text: str) -> str:
    """An id without what differs where one and the same is written twice: case, sub- and leading zeros."""
    text = re.sub(r"^sub[-_ ]", "", text.strip().casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"^(\d+)\.0+$", r"\1", text))


def _is_id_of(named: str, subject: str, loosely: bool) -> bool:
    """
    Whether a cell names a subject, or the participant of a session; loosely, also by the number alone (7 for P007) and
    without what follows (P1 for P1_baseline).
    """
    name, own = _id(named), _id(subject)
    if name in (own, _id(participant_of(subject))):
        return True
    with_letters = re.fullmatch(r"[a-z]+[-_ ]?(\d+)", own if name.isdigit() else name)
    by_number = with_letters and with_letters[1].lstrip("0") in (name, own)
    return loosely and bool(by_number or re.match(re.escape(name) + r"[-_. ]", own))


def rows_of_subject(
    path: Path, subject: str | None, header: list[Any], cells: Rows, columns: dict[str, int]
) -> tuple[Rows, tuple[str, ...], set[int]]:
    """
    The rows of a subject: all of them where the table names no other, however it writes the id.

    Args:
        path: of the table.
        subject: its id; None if not known.
        header: the cells of the header row.
        cells: the rows below it.
        columns: the index of each column that is read, by its name.

    Returns:
        the rows, a notice of rows that were left out, and the indices of the columns that are read.

    Raises:
        LabelError: the rows are of other subjects, or it cannot be known whose they are.
    """
    used = set(columns.values())
    column, certain = _column_of_subject(subject, header, cells, columns)
    if column is None:
        return cells, (), used
    title = header[column]
    named = named_subjects(path, cells, column, title)
    shown = _some(named)
    if not certain and len(named) > 1 and not np.isnan([cell_number(name) for name in named]).any():
        if len(named) == len(cells):
            return cells, (), used  # a number of its own in each row, so that it is one of the lesion
        raise LabelError(
            f"{path}: the column {title!r} holds {len(named)} numbers ({shown}), one of which is the id of this "
            "subject, so that they may be those of subjects or of lesions. Name the column subject or lesion."
        )
    used = used | {column}
    strictly = [name for name in named if subject is not None and _is_id_of(name, subject, loosely=False)]
    loosely = [name for name in named if subject is not None and _is_id_of(name, subject, loosely=True)]
    own = strictly or loosely
    if len(own) == len(named) or (subject is None and len({_id(name) for name in named}) == 1):
        return cells, (), used
    if not own and len({_id(name) for name in named}) == 1:
        raise LabelError(
            f"{path}: the column {title} says {named[0]} in place of {subject}. Is it the table of another subject? "
            "Expected the rows of one subject, or the subject's id as the data set has it in that column."
        )
    if not own:
        asked = "which of them to read was not said" if subject is None else f"and {subject} is none of them"
        raise LabelError(
            f"{path}: has rows of {len(named)} subjects ({shown}), {asked}. Expected the rows of one subject, or the "
            f"subject's id as the data set has it in the column {title}."
        )
    if len({name.casefold() for name in own}) > 1:
        raise LabelError(
            f"{path}: has rows of {_some(own)} in the column {title}, which may be one subject or several. Write the "
            f"id of {subject} in one way."
        )
    kept = [(number, row) for number, row in cells if cell_text(row, column) in own]
    if strictly and column == columns.get("subject"):
        return kept, (), used
    return kept, (f"{path.name}: only the {len(kept)} row(s) with {own[0]} in the column {title!r} were read.",), used


def _column_of_subject(
    subject: str | None, header: list[Any], cells: Rows, columns: dict[str, int]
) -> tuple[int | None, bool]:
    """
    The column that names the subject, and whether its header leaves no doubt of that. A column such as ID does only
    where one of its cells is the subject's id.
    """
    if "subject" in columns:
        return columns["subject"], True
    used = set(columns.values())
    certain = _of_kind(OF_SUBJECT, header, used)
    for column in (*certain, *_of_kind(PERHAPS_OF_SUBJECT, header, used)):
        if subject is not None and any(
            _is_id_of(name, subject, loosely=column in certain) for name in _filled(cells, column)
        ):
            return column, column in certain
    return (certain[0], True) if certain else (None, False)


def _of_kind(kind: re.Pattern, header: list[Any], used: set[int]) -> list[int]:
    return [column for column, name in enumerate(header) if column not in used and _asks(kind, name)]


def _filled(cells: Rows, column: int) -> list[str]:
    return [text for text in (cell_text(row, column) for _, row in cells) if text]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def rows_of_one_reading(
    path: Path, subject: str | None, header: list[Any], cells: Rows, used: set[int]
) -> tuple[Rows, tuple[str, ...], set[int]]:
    """
    The rows of one reader, one visit and one image: those of several would be added up.

    Args:
        path: of the table.
        subject: the subject's id; of several sessions, its own is read.
        header: the cells of the header row.
        cells: the rows below it.
        used: the indices of the columns that are read.

    Returns:
        the rows, notices of rows that were left out, and the indices of the columns that are read, with these.

    Raises:
        LabelError: there are several readers, visits or images.
    """
    notices = ()
    for column, name in enumerate(header):
        kinds = [kind for kind in (VISIT, SERIES, READER) if _asks(kind, name)]
        if column in used or not kinds:
            continue
        visit = kinds[0] is VISIT
        named = [_reading(cell_text(row, column)) for _, row in cells]
        found = {value: cell_text(row, column) for value, (_, row) in zip(named, cells, strict=True) if value}
        if len(found) < 2:
            # a TP of 0 is the first visit, or a true positive that is none
            used = used if _plain(name) == "tp" else used | {column}
            continue
        own = [value for value in found if visit and _is_session_of(subject, value)]
        if len(own) != 1:
            what = {VISIT: "visits", SERIES: "images", READER: "readers"}[kinds[0]]
            raise LabelError(
                f"{path}: the column {name!r} names {len(found)} {what} ({_some([*found.values()])}), whose "
                "microbleeds would be added up. Expected the rows of one: save a table for each, or keep one of them; "
                f"if they are no {what}, rename the column."
            )
        used = used | {column}
        cells = [numbered for numbered, value in zip(cells, named, strict=True) if value == own[0]]
        notices += (
            f"{path.name}: only the {len(cells)} row(s) with {found[own[0]]} in the column {name!r} were read.",
        )
    return cells, notices, used


def _reading(cell: str) -> str:
    """How a cell names a reader or a visit: a number in its shortest form, a date without the time of day."""
    number = cell_number(cell)
    return TIME_OF_DAY.sub("", cell.lower()) if np.isnan(number) else f"{number:.15g}"


def _is_session_of(subject: str | None, value: str) -> bool:
    match = SUBJECT.match(subject or "")
    own = (match["session"] or "").removeprefix("ses-").lower() if match else ""
    return bool(own) and _reading(value.removeprefix("ses-")) == _reading(own)


def check_denials(path: Path, header: list[Any], cells: Rows, used: set[int]) -> None:
    """Refuse a table without a class in which a column that is not read says of a row that it is no microbleed.

    Args:
        path: of the table.
        header: the cells of the header row.
        cells: the rows of one subject below it.
        used: the indices of the columns that are read.

    Raises:
        LabelError: a row is said to be none.
    """
    for number, columns, said, by_header in _denials(header, cells, used):
        if_else = (
            "if the column says something else, rename it"
            if len(columns) == 1
            else "if these say something else, rename them"
        )
        raise LabelError(
            f"{path}: row {number}, {_where(header, columns)} {said}, but there is no column class, so that the row "
            "would count as a microbleed. Name the column class, with cmb and mimic in it, or remove the row"
            + (f"; {if_else}." if by_header else ".")
        )


def contradictions(path: Path, header: list[Any], cells: Rows, used: set[int]) -> tuple[str, ...]:
    """
    A sentence on the rows that are microbleeds by their class and none by a column that is not read.

    Args:
        path, header, used: as of :func:`check_denials`.
        cells: the rows that count.

    Returns:
        it, with the first of the rows; nothing where there is none.
    """
    found: dict[int, str] = {}
    for number, columns, said, _ in _denials(header, cells, used):
        found.setdefault(number, f"row {number}, {_where(header, columns)} {said}")
    if not found:
        return ()
    return (
        f"{path.name}: {len(found)} row(s) count as microbleeds by the column class, though another column denies it: "
        f"{next(iter(found.values()))}.",
    )


def _where(header: list[Any], columns: list[int]) -> str:
    names = ", ".join(str(header[column]) if column < len(header) else "" for column in columns)
    return f"column{'s' * (len(columns) > 1)} {', '.join(str(column + 1) for column in columns)} ({names})"


def _denials(header: list[Any], cells: Rows, used: set[int]) -> Iterator[tuple[int, list[int], str, bool]]:
    """The rows that are called none: number, columns, what they hold, and whether only their headers make it a no."""
    answers = _answers(header, cells)
    opinions = _of_kind(OPINION, header, used)
    asking = _of_kind(ASKING, header, used)
    passed = used | {column for column, name in enumerate(header) if OF_ITS_PLACE.search(_plain(name))}
    codes = [_codes(name) for name in header]
    for number, row in cells:
        said = {
            column: codes[column].get(_said(cell), _said(cell)) if column < len(codes) else _said(cell)
            for column, cell in enumerate(row)
            if column not in passed and str(cell).strip()
        }
        for column, text in said.items():
            by_name = bool(NO_MICROBLEED.fullmatch(text))
            if by_name or text in answers.get(column, ()):
                yield number, [column], f"holds {row[column]!r}", not by_name
        votes = [column for column in opinions if column in said]
        confirmed = any(said.get(column) in CONFIRMED for column in asking)
        if votes and not confirmed and all(said[column] in DENIED for column in votes):
            held = ", ".join(repr(row[column]) for column in votes)
            yield number, votes, f"hold{'s' * (len(votes) == 1)} {held}", True


def _answers(header: list[Any], cells: Rows) -> dict[int, tuple[str, ...]]:
    """Which cells of a column say that a row is none, by what its header asks."""
    found = {}
    for column, name in enumerate(header):
        answers = [denials for question, denials in QUESTIONS if _asks(question, name)]
        if answers:
            found[column] = answers[0]
            values = {_said(text) for text in _filled(cells, column)}
            both = values & {*AFFIRMED} and values & {*DENIED}
            if _asks(JUDGING, name) and both and values <= {*AFFIRMED, *DENIED}:
                found[column] = DENIED  # yes and no only, or 1 and 0, are no scale
    return found


def _codes(header: Any) -> dict[str, str]:
    """
    What numbers mean by a header.

    Example:
        >>> _codes("CMB (1=yes; 0=no)")
        {'1': 'yes', '0': 'no'}
    """
    return {number: _plain(meaning) for number, meaning in CODE.findall(str(header))}


def unread_columns(path: Path, subject: str | None, header: list[Any], cells: Rows, used: set[int]) -> tuple[str, ...]:
    """
    A sentence on the columns that were not read and may say that a row is no microbleed.

    Args:
        path: of the table.
        subject: the subject's id; None if not known.
        header: the cells of the header row.
        cells: the rows of the subject below it, all of which count.
        used: the indices of the columns that are read.

    Returns:
        one sentence, with the values of columns that have few; nothing where there is no such column.
    """
    named = []
    width = max((len(row) for _, row in cells), default=0)
    for column in sorted({*range(width)} - used):
        name = str(header[column]).strip() if column < len(header) else ""
        if _is_harmless(name, subject, header, cells, column):
            continue
        filled = [cell_text(row, column) for _, row in cells]
        values = list(dict.fromkeys(text for text in filled if text))
        if all(not np.isnan(cell_number(value)) for value in values):
            values.sort(key=cell_number)
        few = len(values) <= MAX_VALUES and max(map(len, values)) <= LONGEST_VALUE and not _asks(REMARK, name)
        shown = f" ({', '.join([*values, *['blank'] * ('' in filled)])})" if few else ""
        named.append((not few, (name or f"number {column + 1}") + shown))
    if not named:
        return ()
    if len(named) > MAX_COLUMNS:
        named.sort(key=lambda one: one[0])  # those with few values first, which are more likely to judge
    names = [name for _, name in named]
    rest = len(names) - MAX_COLUMNS
    parts = [*names[:MAX_COLUMNS], f"{rest} more"] if rest > 0 else names
    listed = " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
    what = f"column {listed} was" if len(names) == 1 else f"columns {listed} were"
    return (f"{path.name}: the {what} not read; each row counts as a microbleed.",)


def _is_harmless(name: str, subject: str | None, header: list[Any], cells: Rows, column: int) -> bool:
    """Whether a column that is not read can say nothing on what counts."""
    filled, plain = _filled(cells, column), _plain(name)
    said, numbers = [_said(text) for text in filled], [cell_number(text) for text in filled]
    if not filled or (len(filled) == len(cells) and {*said} <= {*CONFIRMED} and not _codes(name)):
        return True
    if plain == "":
        return not np.isnan(numbers).any()
    if _asks(PERHAPS_OF_SUBJECT, name):
        if subject is not None and any(_is_id_of(text, subject, loosely=False) for text in filled):
            return False
        numbered = not np.isnan(numbers).any() or (len({*said}) == len(cells) > 1)
        return numbered and (len({*said}) > 1 or len(cells) == 1)
    if _asks(ASKING_OTHERWISE, name) and {*said} <= {*DENIED}:
        return True
    if plain in ("probability", "classifier probability"):  # of the table that this program writes
        return "detector score" in map(_plain, header)
    return bool(OF_ITS_PLACE.search(plain) or HARMLESS.fullmatch(plain))
