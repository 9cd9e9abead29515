"""Read and write darknet's ``.cfg`` files, sections of ``key=value`` lines, by darknet's own rules."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DarknetError
from ..files import write_whole

SYNONYMS = {"network": "net", "conv": "convolutional", "max": "maxpool"}


@dataclass
class Section:
    """A section of a ``.cfg`` file.

    Options are read by key and type. As in darknet, the first value of a repeated key counts, and a number may be
    followed by a comment.

    Attributes:
        name: without brackets; darknet's short names (``conv``, ``max``, ``network``) are spelt out.
        number: number of the layer, as used by routes: 0 is the first section after ``net``; -1 is ``net``.
        file: the file, for errors.
        line: line of the name, from 1.
        options: key to text.
        lines: key to line.
        used: keys that have been read.
    """

    name: str
    number: int
    file: Path
    line: int
    options: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def error(self, message: str, key: str | None = None) -> DarknetError:
        """Make an error that names file, line and layer; with ``key``, the line of that option."""
        layer = f"layer {self.number} " if self.number >= 0 else ""
        return DarknetError(f"{self.file}, line {self.lines.get(key, self.line)}, {layer}[{self.name}]: {message}")

    def text(self, key: str, default: str | None = None) -> str:
        """Return the text of an option; it is required if there is no default."""
        self.used.add(key)
        value = self.options.get(key, default)
        if value is None:
            raise self.error(f"the option {key} is missing; add {key}=...")
        return value

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """Return an option that must be one of ``choices``."""
        value = self.text(key, default)
        if value not in choices:
            raise self.error(f"{key}={value} is not supported; expected one of {', '.join(choices)}.", key)
        return value

    def integer(self, key: str, default: int | None = None, minimum: int = 0) -> int:
        """Return an option as an integer of ``minimum`` or more."""
        value = self._number(self.text(key, None if default is None else str(default)), key, integer=True)
        if value < minimum:
            raise self.error(f"{key}={value}; expected {minimum} or more.", key)
        return int(value)

    def real(self, key: str, default: float | None = None) -> float:
        """Return an option as a number."""
        return float(self._number(self.text(key, None if default is None else str(default)), key))

    def integers(self, key: str) -> list[int]:
        """Return an option as a list of integers, separated by commas."""
        return [int(self._number(item, key, integer=True)) for item in self._items(key)]

    def reals(self, key: str) -> list[float]:
        """Return an option as a list of numbers, separated by commas."""
        return [float(self._number(item, key)) for item in self._items(key)]

    def _items(self, key: str) -> list[str]:
        return re.split("[#;]", self.text(key))[0].rstrip(",").split(",")

    def _number(self, text: str, key: str, integer: bool = False) -> float:
        text = re.split("[#;]", text)[0]
        try:
            value = int(text) if integer else float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            kind = "a whole number" if integer else "a number"
            raise self.error(f"{key}={self.options.get(key, text)}: {text!r} is not {kind}.", key)
        return value


def read_cfg(path: str | Path) -> list[Section]:
    """Read a ``.cfg`` file.

    As in darknet, all blanks in a line are dropped, lines that begin with ``#`` or ``;`` are comments, and options
    without a value are ignored. Windows line ends are accepted.

    Args:
        path: the file.

    Returns:
        its sections; the first is ``net``.

    Raises:
        DarknetError: the file is missing, empty, does not begin with ``[net]``, or has a line that is neither
            a section, nor an option, nor a comment.
    """
    path = Path(path)
    try:
        # comments may be in any encoding; utf-8-sig drops the byte order mark that some editors write
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DarknetError(f"{path} cannot be read ({error.strerror}). Expected a darknet .cfg file.") from None
    sections: list[Section] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            if not line.endswith("]"):
                raise DarknetError(f"{path}, line {number}: {raw.strip()!r} is not a section; expected [name].")
            name = line[1:-1]
            sections.append(Section(SYNONYMS.get(name, name), len(sections) - 1, path, number))
            continue
        key, separator, value = line.partition("=")
        if not separator or not key:
            raise DarknetError(
                f"{path}, line {number}: {raw.strip()!r} is not understood; expected key=value, [section] or a "
                "comment (#). Is this a darknet .cfg file?"
            )
        if not sections:
            raise DarknetError(f"{path}, line {number}: {key} comes before any section; expected [net] first.")
        if value and key not in sections[-1].options:
            sections[-1].options[key] = value
            sections[-1].lines[key] = number
    if not sections or sections[0].name != "net":
        found = f"[{sections[0].name}] in line {sections[0].line}" if sections else "no section"
        raise DarknetError(f"{path}: expected [net] as the first section, found {found}.")
    return sections


def write_cfg(sections: Sequence[Section], path: str | Path) -> Path:
    """Write sections as a ``.cfg`` file, whole; comments are not kept."""
    blocks = [
        "\n".join([f"[{section.name}]", *(f"{key}={value}" for key, value in section.options.items())])
        for section in sections
    ]
    return write_whole(path, lambda aside: aside.write_text("\n\n".join(blocks) + "\n", encoding="utf-8"))
