"""The table of all scans' summaries."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from ignite.engine import Engine, Events

from ..files import write_csv
from .summary import summary_row

NAME = "regions.csv"
DERIVATIVE = "_desc-cmb_candidates.json"
"""The end of the name, in BIDS derivatives, of what is otherwise ``<subject>_cmb.json``."""


class RegionsTable:
    """
    Write ``regions.csv`` at the end of a run: a row for each scan of the folder of results that has regions.

    Args:
        output_dir: folder of results, with ``<subject>/<subject>_cmb.json``.
        enabled: whether regions are asked for; else a table of an earlier run is removed.
    """

    def __init__(self, output_dir: str | Path, enabled: bool = False) -> None:
        self.output_dir, self.enabled = Path(output_dir), enabled

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, lambda _: self.write())

    def write(self) -> None:
        """Write the table; there is none where no scan has regions."""
        path = self.output_dir / NAME
        path.unlink(missing_ok=True)
        if not self.enabled:
            return
        results = []
        derivatives = self.output_dir.glob(f"sub-*/**/*{DERIVATIVE}")
        for file in sorted([*self.output_dir.glob("*/*_cmb.json"), *derivatives]):
            content = json.loads(file.read_text(encoding="utf-8"))
            named = file.name == f"{file.parent.name}_cmb.json" or file.name.endswith(DERIVATIVE)
            if named and "regions" in content:
                results.append(summary_row(content["subject"], content))
        if results:
            write_csv(path, pd.DataFrame(results))
