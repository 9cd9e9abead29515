"""What the names of a patient's sessions tell of their order: numbers, units of time, and words such as baseline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from ..errors import FollowUpError
from .dates import date_in, habits, readings, spans

SCREENING, FIRST, POST, FOLLOW_UP, LAST = 0, 1, 3, 4, 5
MIDDLE = 2
"""Where a name without such a word stands among those that have one."""
_EVENT = "(?:op|operative|surgery|surgical|treatment|tx|therapy|dose|intervention|scan|mri)?"
STAGES = {
    SCREENING: "sc|scr|screen|screening",
    FIRST: f"bl|base|baseline|init|initial|entry|intake|start|first|before|previous|prior|pre{_EVENT}",
    POST: f"after|post{_EVENT}",
    FOLLOW_UP: "fu|fup|followup",
    LAST: "final|last|latest|end|exit|current",
}
DAYS = {
    "h|hr|hrs|hour|hours": 1 / 24, "d|day|days|tag|tage": 1.0, "w|wk|wks|week|weeks|woche|wochen": 7.0,
    "m|mo|mos|mon|mth|mths|month|months|monat|monate": 365.25 / 12, "y|yr|yrs|year|years|jahr|jahre": 365.25,
}  # fmt: skip
UNITS = {word: days for words, days in DAYS.items() for word in words.split("|")}
ORDINALS = {"second": 2, "third": 3, "fourth": 4, "fifth": 5, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
TOKEN = re.compile(rf"\d+[.,]\d+(?=\s?(?:{'|'.join(DAYS)})(?![^\W\d_]))|\d+|[^\W\d_]+")
BY_DATE, BY_TIME, BY_NUMBER, BY_WORD, BY_LETTER = "dates", "times", "numbers", "words", "letters"

Elements = list[tuple[str, float | str]]
"""What a name consists of, each with its kind: stage, days, number, letter or word."""


class Names:
    """
    The order that the names of a patient's sessions tell.

    Args:
        labels: the names, of which none is there twice.
        habit: how dates in names are read in the data set, see :func:`~.dates.habits`.

    Example:
        >>> names = Names(["y1", "baseline", "w4", "6m"])
        >>> [names.compare("w4", other)[0] for other in ("y1", "baseline", "6m")]
        [-1, 1, -1]
        >>> Names(["red", "blue"]).compare("red", "blue")
        (0, '')
    """

    def __init__(self, labels: Sequence[str], habit: Sequence[str] = ()) -> None:
        parsed = (_parse(list(TOKEN.finditer(label))) for label in _distinct(labels))
        self.elements = dict(zip(labels, parsed, strict=True))
        self.spans: list[dict] = []
        self.confused = False
        texts = [date_in(_without_prefix(label)) for label in labels]
        if all(texts):
            try:
                found = spans(list(zip(labels, texts, strict=True)), habit or habits(texts))
                self.spans = [dict(zip(labels, one, strict=True)) for one in found]
            except FollowUpError:
                self.confused = any(len(text) > 6 for text in texts)  # six digits may be any number

    def compare(self, one: str, other: str) -> tuple[int, str]:
        """-1 where the one is the earlier, 1 where the other is, and by what; 0 where the names do not tell."""
        signs = {sign(found[one], found[other]) for found in self.spans}
        if self.confused or len(signs) > 1:
            return 0, ""
        if signs and signs != {0}:
            return signs.pop(), BY_DATE
        return _compare(self.elements[one], self.elements[other])


def sign(one: tuple[float, float], other: tuple[float, float]) -> int:
    """-1 where a span of time ends before another begins, 1 where it begins after the other's end, else 0."""
    return (one[0] > other[1]) - (one[1] < other[0])


def date_habit(labels: Sequence[str]) -> set[str]:
    """How dates in the names of a data set's sessions are read; see :func:`~.dates.habits`."""
    return habits(text for text in map(date_in, map(_without_prefix, labels)) if readings(text))


def _without_prefix(label: str) -> str:
    return label.removeprefix("ses-")


def _distinct(labels: Sequence[str]) -> list[str]:
    """The names, without what they all begin with, as the patient's id, so that its numbers are not taken for times."""
    chunks = [re.split(r"(?:[^\w.,]|_)+", label.lower()) for label in labels]
    while all(chunks) and len({one[0] for one in chunks}) == 1:
        rest = [one[1:] for one in chunks]
        if re.search(r"\d", chunks[0][0]) and not all(re.search(r"\d", " ".join(one)) for one in rest):
            break
        chunks = rest
    return [re.sub(r"\b(follow|pre|post) (up|op)\b", r"\1\2", " ".join(one)) for one in chunks]


def _parse(tokens: Sequence[re.Match]) -> Elements:
    """What a name consists of, from left to right."""
    found: Elements = []
    texts = [token[0] for token in tokens]
    n = 0
    while n < len(texts):
        text, following = texts[n], texts[n + 1] if n + 1 < len(texts) else ""
        if text[0].isdecimal() and following in UNITS and not _belongs_to_next(tokens, n + 1):
            _add_days(found, text, following)
            n += 2
        elif text in UNITS and following[:1].isdecimal():
            _add_days(found, following, text)
            n += 2
        else:
            found.append(_element(text))
            n += 1
    return found


def _belongs_to_next(tokens: Sequence[re.Match], n: int) -> bool:
    """Whether a unit stands with the number after it, as in ``01 m6``."""
    if n + 1 >= len(tokens) or not tokens[n + 1][0][0].isdecimal():
        return False
    return tokens[n].end() == tokens[n + 1].start() and tokens[n - 1].end() < tokens[n].start()


def _add_days(found: Elements, number: str, unit: str) -> None:
    days = float(number.replace(",", ".")) * UNITS[unit]
    if found and found[-1][0] == "days":  # 1y6m
        days += found.pop()[1]
    found.append(("days", round(days, 3)))


def _element(text: str) -> tuple[str, float | str]:
    if text.isdecimal():
        return "number", int(text)
    if text in ORDINALS:
        return "number", ORDINALS[text]
    stage = next((rank for rank, words in STAGES.items() if re.fullmatch(words, text)), None)
    if stage is not None:
        return "stage", stage
    return ("letter" if len(text) == 1 else "word"), text


def _compare(one: Elements, other: Elements) -> tuple[int, str]:
    """Compare by the first thing in which two names differ; of 1 and 1b, 1b is the later."""
    by = {"stage": BY_WORD, "days": BY_TIME, "number": BY_NUMBER, "letter": BY_LETTER}
    for n, (left, right) in enumerate(zip_longest(one, other)):
        if left == right:
            continue
        kinds = left and left[0], right and right[0]  # None where a name has ended
        if kinds[0] == kinds[1]:
            ends = n + 1 == len(one) == len(other)
            if kinds[0] == "word" or (kinds[0] == "letter" and not ends):
                return 0, ""
            return (-1 if left[1] < right[1] else 1), by[kinds[0]]
        if kinds[0] == "stage":
            return _stage_against(one[n:], other[n:])
        if kinds[1] == "stage":
            found, why = _stage_against(other[n:], one[n:])
            return -found, why
        if kinds[1] == "days" and _is_zero(one[n:]) and right[1] > 0:  # v0 and m6
            return -1, BY_NUMBER
        if kinds[0] == "days" and _is_zero(other[n:]) and left[1] > 0:
            return 1, BY_NUMBER
        longer = one if right is None else other
        if {*kinds} == {None, "letter"} and n + 1 == len(longer) and n and longer[n - 1][0] == "number":
            return (-1 if left is None else 1), BY_LETTER
        return 0, ""
    return 0, ""


def _is_zero(elements: Elements) -> bool:
    return ("number", 0) in elements[:1] or (("number", 0) in elements[1:2] and elements[0][0] in ("letter", "word"))


def _stage_against(one: Elements, other: Elements) -> tuple[int, str]:
    """Compare a name at a word such as baseline with one that has none there."""
    rank = one[0][1]
    before = -1 if rank < MIDDLE else 1
    days, others = ([value for kind, value in some if kind == "days"] for some in (one, other))
    if rank in (POST, FOLLOW_UP) and days and others:
        return (days[0] > others[0]) - (days[0] < others[0]), BY_TIME
    if rank == POST and others:  # after a treatment, which may be before or after a visit at six months
        return 0, ""
    numbers, others = ([value for kind, value in some if kind == "number"] for some in (one, other))
    if numbers and others and (numbers[0] - others[0]) * before < 0:
        return 0, ""
    return before, BY_WORD
