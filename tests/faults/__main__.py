"""``make faults``: all broken inputs, and a table of what became of them; the exit status says whether all was well."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from . import kills
from .judge import Outcome, in_process_of_its_own, keep, limit_memory
from .parts import PARTS, make_base

ENDS = ("same", "warned", "refused", "differs", "lost")


def table_of(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """A row for each kind of input: how many there are, how they ended, and how many are a fault of the program."""
    rows = pd.DataFrame([{"kind": o.kind, "end": o.end, "wrong": bool(o.problem)} for o in outcomes])
    table = pd.crosstab(rows["kind"], rows["end"]).reindex(columns=ENDS, fill_value=0)
    table.insert(0, "inputs", table.sum(axis=1))
    table["wrong"] = rows.groupby("kind")["wrong"].sum()
    table.loc["all"] = table.sum()
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=[part for part in PARTS if part != "some"], choices=list(PARTS), help="parts"
    )
    parser.add_argument("--every", type=int, default=1, help="every n-th input alone")
    parser.add_argument("--all", action="store_true", help="name each input with what became of it")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        folder = given.folder
        if given.part not in kills.PARTS:  # whose processes have their own
            limit_memory()
        keep(folder, PARTS[given.part](folder.parent / "base", folder, given.every))
        return 0
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        make_base(Path(name) / "base")
        for part in given.only:
            found, seconds, gigabytes = in_process_of_its_own(part, Path(name) / part, given.every)
            outcomes += found
            print(f"{part}: {len(found)} inputs, {seconds:.0f} s, at most {gigabytes:.2f} GB", flush=True)
            for one in found:
                if one.problem or given.all:
                    print(f"  {one.kind}, {one.name}: {one.end}: {one.problem or '-'} [{one.reason[:300]}]", flush=True)
    table = table_of(outcomes)
    print(f"\n{table.to_string()}\n")
    return int(table.loc["all", "wrong"] > 0)


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    if "--part" not in sys.argv:
        print(f"{time.monotonic() - started:.0f} s")
    sys.exit(status)
