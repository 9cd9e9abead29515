"""One table of a run, with a row for each subject: what was found, what was read, and what to beware of."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from ..data.ids import namesakes
from ..files import write_csv
from .quality import copies

COLUMNS = ("subject", "microbleeds", "contrast", "warnings", "notices", "failure")
NAME = "subjects.csv"


class CohortTable:
    """
    Write ``subjects.csv`` at the end of a run: a scan without microbleeds has a row there, and so has its warning.

    It is made from the ``<id>_cmb.json`` that :class:`~.writers.SubjectWriter` wrote; in the list of handlers it comes
    after that.

    Args:
        output_dir: folder of results.

    Example:
        >>> subjects_table("results", [], {"P01": "it has no label."}).iloc[0].to_list()
        ['P01', None, '', '', '', 'it has no label.']
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.done: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.done.clear())
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.remember)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def remember(self, engine: Engine) -> None:
        self.done += [batch["subject"] for batch in engine.state.batch]

    def recall(self, engine: Engine, subject: str) -> None:
        """Remember a subject whose results an earlier run wrote, or a worker."""
        self.done.append(subject)

    def write(self, engine: Engine) -> None:
        failed = {**getattr(engine, "failures", {}), **getattr(engine, "incomplete", {})}
        write_csv(self.output_dir / NAME, subjects_table(self.output_dir, sorted(self.done), failed))


def subjects_table(output_dir: str | Path, done: list[str], failed: dict[str, str]) -> pd.DataFrame:
    """
    The table of a run.

    Args:
        output_dir: folder of results.
        done: subjects whose results are there.
        failed: the reason for each subject that failed, or of which a file could not be written.

    Returns:
        the columns ``COLUMNS``, sorted by subject; the number of microbleeds is empty, not 0, where there are no
        results.
    """
    rows, same = [], {}
    for group in copies(output_dir, done):
        for subject in group:
            others = ", ".join(name for name in group if name != subject)
            same[subject] = f"The scan holds the same values as that of {others}; it may be a copy."
    alike = namesakes({*done, *failed})
    for subject in sorted({*done, *failed}):
        path = Path(output_dir) / subject / f"{subject}_cmb.json"
        there = subject in done and path.is_file()
        content = json.loads(path.read_text(encoding="utf-8")) if there else {}
        number = len(content["microbleeds"]) if there else None
        made = f"By its name it may be an image made from the scan of {alike[subject]}." if subject in alike else ""
        warnings = " ".join(filter(None, (content.get("warnings"), same.get(subject), made)))
        read = content.get("contrast") or "", warnings, content.get("notices") or ""
        rows.append([subject, number, *read, failed.get(subject, "")])
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
