"""Dates as people and tables write them, with every reading that they allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date

import pandas as pd

from ..errors import FollowUpError

READINGS = ("YMD", "DMY", "MDY")
FIRST_YEAR, LAST_YEAR = 1700, 2199
"""BIDS has dates moved to before 1925 for privacy; other years are no dates but numbers."""
ADVICE = "Write dates as YYYY-MM-DD, such as 2019-05-31"
MONTHS = (
    ("january", "januar"), ("february", "februar"), ("march", "märz", "maerz", "mrz"), ("april",), ("may", "mai"),
    ("june", "juni"), ("july", "juli"), ("august",), ("september",), ("october", "oktober"), ("november",),
    ("december", "dezember"),
)  # fmt: skip
NUMERIC = re.compile(r"(\d{1,4})([-/._ ])(\d{1,2})\2(\d{1,4})")
CLOCK = re.compile(r"(?P<day>.+?)(?:T|,?\s+)(?P<clock>\d{1,2}:\d\d(?::\d\d)?(?:\.\d+)?(?:\s*[ap]m)?)\s*"
                   r"(?P<zone>Z|UTC|[+-]\d\d:?\d\d)?", re.IGNORECASE)  # fmt: skip
DICOM = re.compile(r"(?P<day>\d{8})T?(\d\d)(\d\d)?(\d\d)?(\.\d+)?")
INSIDE = re.compile(r"(?<![\d.])(?:\d{1,4}([-/._ ])\d{1,2}\1\d{1,4}|\d{8}|\d{6})(?![\d.])")
NUMBER = re.compile(r"-?\d{1,5}(?:\.\d+)?")

Span = tuple[float, float]
"""The earliest and the latest moment that a date can mean."""


def readings(text: str) -> dict[str, Span]:
    """
    Read a date in every way that it can be read.

    No parser of a library is asked for the day: those guess where two readings are possible, and a wrong guess turns
    the order of scans round.

    Args:
        text: with or without a time of day; the month as a number or as a name, in English or German; also a month and
            a year, or a year alone.

    Returns:
        for each of READINGS that the text allows, the span of time in seconds; a text that has the year first, in four
        digits, or a month's name is the same in all of them. Empty where it is no date.

    Example:
        >>> list(readings("21.02.2018")), list(readings("5/1/2019")), list(readings("2019-5-1")), readings("soon")
        (['DMY'], ['DMY', 'MDY'], ['YMD', 'DMY', 'MDY'], {})
        >>> readings("jan2019") == readings("2019-01")
        True
    """
    text, clock = text.strip(), ""
    days = _days(text)
    if not days and (found := DICOM.fullmatch(text)):
        hour, minute, second, fraction = found.groups()[1:]
        days, clock = _days(found["day"]), f"{hour}:{minute or '00'}:{second or '00'}{fraction or ''}"
    elif not days and (found := CLOCK.fullmatch(text)):
        days, clock = _days(found["day"]), found["clock"] + (found["zone"] or "")
    return {name: _span(*day, clock) for name, day in days.items()}


def date_in(label: str) -> str:
    """
    The one date that a label of a session holds; empty where it holds none.

    Example:
        >>> date_in("jan2019"), date_in("P1_20190501"), date_in("m12")
        ('jan2019', '20190501', '')
    """
    if not label.isdigit() or 6 <= len(label) <= 8:
        inside = [found[0] for found in INSIDE.finditer(label)]
        for text in (label, *(inside if len(inside) == 1 else ())):
            if readings(text):
                return text
    return ""


def habits(texts: Iterable[str]) -> set[str]:
    """
    The readings that all dates of a data set allow, which tell how those are meant that allow several.

    Example:
        >>> habits(["5/1/2019", "31/1/2019"])
        {'DMY'}
    """
    found = set(READINGS)
    for text in texts:
        if known := readings(text):
            found &= set(known)
    return found


def spans(dates: Sequence[tuple[str, str]], habit: Iterable[str] = READINGS) -> list[list[Span]]:
    """
    The spans of time of one patient's dates, in every reading that is left.

    Args:
        dates: of each scan its id and its date.
        habit: of the data set, see :func:`habits`.

    Returns:
        for each reading a list with a span of each date.

    Raises:
        FollowUpError: one is no date, or no reading fits them all.
    """
    if all(NUMBER.fullmatch(text) for _, text in dates):  # days since a first one, years, or days of a spreadsheet
        return [[(float(text), float(text)) for _, text in dates]]
    known = [readings(text) for _, text in dates]
    for (name, text), found in zip(dates, known, strict=True):
        if not found:
            raise FollowUpError(f"The date of {name}, {text!r}, cannot be read. {ADVICE}.")
    left = [name for name in READINGS if all(name in found for found in known)]
    if not left:
        raise FollowUpError(
            f"The dates {_listed(dates)} cannot all be read alike: one has the day first, another the month or the "
            f"year. {ADVICE}."
        )
    left = [name for name in left if name in habit] or left
    points = all("." in text or len(set(found.values())) == 1 for (_, text), found in zip(dates, known, strict=True))
    if points and "DMY" in left:  # with points between them the day comes first, as in German
        left = ["DMY"]
    return [[found[name] for found in known] for name in left]


def in_doubt(dates: Sequence[tuple[str, str]]) -> FollowUpError:
    """The error of dates whose order depends on how they are read."""
    return FollowUpError(
        f"The dates {_listed(dates)} can be read with the day or the month first, which gives another order of the "
        f"scans. {ADVICE}."
    )


def _listed(dates: Sequence[tuple[str, str]]) -> str:
    return " and ".join(f"{text} of {name}" for name, text in dates)


def _days(text: str) -> dict[str, tuple[int, int, int]]:
    """Year, month and day of each reading; a month or a day that is not told is 0."""
    if re.fullmatch(r"\d{8}", text):
        if sure := _valid(text[:4], text[4:6], text[6:]):
            return dict.fromkeys(READINGS, sure)
        parts = text[:2], text[2:4], text[4:]
    elif re.fullmatch(r"\d{7}", text):  # a spreadsheet drops the zero of 05012019
        parts = text[:1], text[1:3], text[3:]
    elif re.fullmatch(r"\d{6}", text):
        parts = text[:2], text[2:4], text[4:]
    elif found := NUMERIC.fullmatch(text):
        parts = found[1], found[3], found[4]
    else:
        sure = _in_words(text)
        return dict.fromkeys(READINGS, sure) if sure else {}
    one, two, three = parts
    if len(one) == 4:
        sure = _valid(one, two, three)
        return dict.fromkeys(READINGS, sure) if sure else {}
    read = {"YMD": _valid(one, two, three), "DMY": _valid(three, two, one), "MDY": _valid(three, one, two)}
    return {name: day for name, day in read.items() if day}


def _in_words(text: str) -> tuple[int, int, int] | None:
    """Of a month by name, with a year and perhaps a day; of a year and a month; or of a year alone."""
    if found := re.fullmatch(r"(\d{4})(?:[-/.](\d{1,2}))?", text):
        return _valid(found[1], found[2] or "", "")
    words = re.findall(r"[^\W\d_]+|\d+", text.lower())
    months = [n for n, names in enumerate(MONTHS, 1) for word in words if len(word) > 2
              and any(name.startswith(word) for name in names)]  # fmt: skip
    years = [word for word in words if re.fullmatch(r"\d{4}", word)]
    days = [word for word in words if re.fullmatch(r"\d{1,2}", word)]
    rest = [word for word in words if word.isalpha() and word not in ("st", "nd", "rd", "th")]
    if len(months) == len(rest) == len(years) == 1 and len(days) == len([w for w in words if w.isdecimal()]) - 1 < 2:
        return _valid(years[0], str(months[0]), "".join(days))
    return None


def _valid(year: str, month: str, day: str) -> tuple[int, int, int] | None:
    if len(year) not in (2, 4) or len(month) > 2 or len(day) > 2:
        return None
    whole = int(year) if len(year) == 4 else int(year) + (2000 if int(year) < 70 else 1900)
    try:
        date(whole, int(month or 1), int(day or 1))
    except ValueError:
        return None
    return (whole, int(month or 0), int(day or 0)) if FIRST_YEAR <= whole <= LAST_YEAR else None


def _span(year: int, month: int, day: int, clock: str) -> Span:
    start = pd.Timestamp(year, month or 1, day or 1)
    if clock and day:
        try:
            moment = pd.Timestamp(f"{start.date()} {clock}")
            moment = moment.tz_convert(None) if moment.tzinfo else moment
            return moment.timestamp(), moment.timestamp()
        except ValueError:  # no such time of day, as 24:00; the day is still known
            pass
    long = {"days": 1} if day else {"months": 1} if month else {"years": 1}
    return start.timestamp(), (start + pd.DateOffset(**long)).timestamp() - 1
