"""Pages that need no other file: the templates, and what they have in common."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
NOT_FOR_DIAGNOSIS = (
    "Found by a program, whose own weights learned from simulated scans alone and have not been validated on patients."
)


def environment(folder: str | Path | None = None) -> Environment:
    """
    The templates of a folder, which may include those of this room, such as ``style.css``.

    Args:
        folder: of further templates.

    Example:
        >>> environment().from_string("{{ name }}").render(name="a & b")
        'a &amp; b'
    """
    folders = [*([] if folder is None else [folder]), TEMPLATES]
    made = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.globals["not_for_diagnosis"] = NOT_FOR_DIAGNOSIS
    return made


def for_script(content: object) -> str:
    r"""
    JSON that can stand within a script: nothing but the end of the script means anything to HTML there.

    Example:
        >>> for_script({"name": "</script>"})
        '{"name": "\\u003c/script>"}'
    """
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
