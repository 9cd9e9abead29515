"""Notices about how a subject was read."""

from __future__ import annotations


def add_notice(data: dict, text: str) -> None:
    """Append a sentence about how a subject was read to ``data["notices"]`` (one string, so that it collates)."""
    data["notices"] = f"{data['notices']} {text}" if data.get("notices") else text
