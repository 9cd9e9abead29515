"""Notices about how a subject was read, and warnings that its results may be worse than those that were measured."""

from __future__ import annotations


def add_notice(data: dict, text: str) -> None:
    """Append a sentence about how a subject was read to ``data["notices"]`` (one string, so that it collates)."""
    data["notices"] = f"{data['notices']} {text}" if data.get("notices") else text


def add_warning(data: dict, text: str) -> None:
    """
    Append a sentence to ``data["notices"]`` and to ``data["warnings"]``, which picture and report show.

    Example:
        >>> subject = {"notices": "Phase was read as radians."}
        >>> add_warning(subject, "The slices are thick.")
        >>> subject["notices"], subject["warnings"]
        ('Phase was read as radians. Warning: The slices are thick.', 'The slices are thick.')
    """
    add_notice(data, f"Warning: {text}")
    data["warnings"] = f"{data['warnings']} {text}" if data.get("warnings") else text
