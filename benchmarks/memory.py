"""Measure the memory of one process over a cohort, and what it costs or gains to read the next scan beforehand.

``python benchmarks/memory.py`` simulates one scan, gives it 200 ids, and prints the resident memory of the process
every 20 subjects, while it infers, writes and forgets them. Linux (memory is read from /proc). Wall times mean little
where others use the processor too: read the seconds of the processor.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "cmb_bundle"))

from scripts.phantom import PRESETS, make_cohort  # noqa: E402

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}


def simulate(folder: Path, preset: str) -> None:
    """Simulate the scan; called in a separate process, so that its memory does not count."""
    make_cohort(folder, 1, PRESETS[preset].changed(microbleeds=5), seed=11, progress=False, processes=1)


def many_of_one(made: Path, folder: Path, number: int) -> Path:
    """A data set of one scan under many ids, by links."""
    folder.mkdir()
    for count in range(number):
        for modality, kind in (("SWI", "swi"), ("Phase", "phase")):
            (scan,) = (made / "Data" / modality).iterdir()
            os.link(scan, folder / f"s{count:03d}_{kind}.nii.gz")
    return folder


def resident_gb() -> float:
    """Resident memory of this process in GB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def run(scans: Path, output: Path, every: int, **options: object) -> pd.DataFrame:
    """Infer a data set in this process; returns memory and seconds every few subjects."""
    config = str(ROOT / "cmb_bundle" / "configs" / "inference.json")
    workflow = ConfigWorkflow(
        config, workflow_type="infer", logging_file=False, dataset_dir=str(scans), output_dir=str(output), **options
    )
    workflow.initialize()
    engine, rows, began = workflow.evaluator, [], (time.monotonic(), time.process_time())

    def note() -> None:
        wall, processor = time.monotonic() - began[0], time.process_time() - began[1]
        rows.append({"subjects": engine.state.iteration, "GB": resident_gb(), "s": wall, "processor s": processor})

    engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=lambda _, n: n == 1 or n % every == 0), note)
    workflow.run()
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--preset", default="TINY")
    parser.add_argument("--read_ahead", type=int, default=20, help="subjects of each run that compares; 0 for none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = get_context("spawn").Process(target=simulate, args=(folder / "made", given.preset))
        make.start()
        make.join()
        scans = many_of_one(folder / "made", folder / "scans", given.subjects)
        table = run(scans, folder / "results", max(1, given.subjects // 10))
        print(f"\n{table.round(3).to_string(index=False)}")
        late = table[table["subjects"] >= given.subjects // 5]
        growth = np.polyfit(late["subjects"], 1000 * late["GB"], 1)[0]
        peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")).split()[1]
        print(f"growth after the first fifth: {growth:+.3f} MB per subject; peak {int(peak) / 1024**2 * 1.0737:.2f} GB")
        if given.read_ahead:
            some = many_of_one(folder / "made", folder / "some", given.read_ahead)
            for repeat in range(2):
                for workers in (0, 1):
                    out = folder / f"some_{repeat}_{workers}"
                    last = run(some, out, given.read_ahead, num_workers=workers).iloc[-1]
                    print(f"num_workers {workers}: {last['s']:.1f} s, {last['processor s']:.1f} s of this processor")


if __name__ == "__main__":
    if not ALLOCATOR.keys() <= os.environ.keys():  # glibc reads them at process start
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    main()
