"""Run a cohort with and without a cluster of two workers on this computer, and compare times and results.

``python benchmarks/cluster.py`` simulates 60 scans (48 TINY, 12 SMALL) and runs the same command plain,
with two workers, with two workers of which ten are killed at random moments, once more, and once more after a change of
one file. It prints a table and ends with 1 where results differ, byte for byte, from those of the plain run, or where
another subject than the changed one was done again. Linux (processes are found in /proc). Wall times mean little where
others use the processor too; the seconds of the processor mean more.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cmb_bundle.scripts.phantom import PRESETS, make_cohort  # noqa: E402

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}


def make_scans(folder: Path, numbers: Mapping[str, int]) -> Path:
    """Simulate as many scans of each preset, in one flat data set."""
    scans = folder / "scans"
    scans.mkdir(parents=True)
    for preset, number in numbers.items():
        made = folder / preset
        make_cohort(made, number, PRESETS[preset], seed=61, progress=False, processes=2)
        for modality, kind in (("SWI", "swi"), ("Phase", "phase")):
            for path in (made / "Data" / modality).iterdir():
                name = path.name.removesuffix(".nii.gz").replace("phantom", preset.lower())
                shutil.move(path, scans / f"{name}_{kind}.nii.gz")
    return scans


def start(scans: Path, output: Path, *overlays: str, **options: object) -> subprocess.Popen:
    """Begin the command as a user types it."""
    files = str([str(ROOT / "cmb_bundle" / "configs" / name) for name in ("inference.json", *overlays)])
    given = {"config_file": files, "dataset_dir": scans, "output_dir": output, "cohort_files": True, **options}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    with output.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "monai.bundle", "run", *words], stdout=log, stderr=log, cwd=scans.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def workers_of(process: int) -> list[int]:
    """The processes that a run has started for its workers."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
        return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return []


def end(process: subprocess.Popen) -> tuple[int, float]:
    """Wait for a run; returns its exit status and the seconds of the processor, its workers' included."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def kill_at_random(process: subprocess.Popen, output: Path, number: int, kills: int, seconds: float) -> int:
    """Kill one of the workers at a time, spread over a run of so many subjects; returns how many were killed."""
    draw, killed = random.Random(54), 0
    while killed < kills:
        time.sleep(draw.uniform(0.1, 1.3) * seconds / kills)
        workers = workers_of(process.pid)
        done = len(list(output.glob("*/*_cmb_run.json")))
        if done >= number or not Path(f"/proc/{process.pid}/task").exists():
            break
        if done and workers:  # the first imports are over
            with suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
                killed += 1
    return killed


def contents(output: Path) -> dict[str, bytes]:
    """Everything that a run wrote, by path, but for what tells times."""
    found = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    found = {name: content for name, content in found.items() if not name.endswith("_cmb_run.json")}
    found["cohort.csv"] = pd.read_csv(output / "cohort.csv").drop(columns="seconds").to_csv().encode()
    found["cohort.html"] = b""  # shows cohort.csv
    return found


def written(output: Path) -> dict[str, int]:
    """When each subject's results were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("*/*_cmb.json")}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", type=int, default=48, help="scans of the preset TINY")
    parser.add_argument("--small", type=int, default=12, help="scans of the preset SMALL")
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    number, wrong = given.tiny + given.small, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = make_scans(folder, {"TINY": given.tiny, "SMALL": given.small})

        def measured(what: str, output: Path, *overlays: str, kills: int = 0, **options: object) -> float:
            before = written(output)
            began = time.monotonic()
            process = start(scans, output, *overlays, **options)
            killed = kill_at_random(process, output, number, kills, 0.8 * two_workers) if kills else 0
            status, processor = end(process)
            seconds = time.monotonic() - began
            if status and not killed:
                raise RuntimeError(output.with_suffix(".log").read_text()[-4000:])
            after = written(output)
            done = sum(before.get(subject) != when for subject, when in after.items())
            told = f", {killed} workers killed" if kills else ""
            print(f"| {what}{told} | {done} | {seconds:.1f} | {processor:.1f} |", flush=True)
            return seconds

        print("| run | subjects done | s | s of the processor |\n|---|---|---|---|")
        plain = measured("plain", folder / "plain")
        wanted = contents(folder / "plain")
        two_workers = measured("two workers", folder / "two", "cohort.json", workers=2)
        measured("two workers", folder / "killed", "cohort.json", workers=2, kills=given.kills)
        # a subject that lost two workers has failed, and is done now
        measured("the same command after the kills", folder / "killed", "cohort.json", workers=2)
        measured("the same command once more", folder / "killed", "cohort.json", workers=2)
        measured("the plain command on these results", folder / "killed")
        for output in ("two", "killed"):
            found = contents(folder / output)
            differs = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
            wrong += [f"{output}: {path} differs" for path in differs]
        changed, other = (scans / f"tiny-{n:03d}_swi.nii.gz" for n in (1, 2))
        shutil.copy(other, changed)
        before = written(folder / "killed")
        measured("one file changed", folder / "killed", "cohort.json", workers=2)
        redone = [subject for subject, when in written(folder / "killed").items() if before[subject] != when]
        wrong += [] if redone == ["tiny-001"] else [f"done again: {redone}"]
        print(f"\nplain / two workers: {plain / two_workers:.2f}")
        print("\n".join(wrong) or f"All {len(wanted)} files are the same.")
    return int(bool(wrong))


if __name__ == "__main__":
    if not ALLOCATOR.keys() <= os.environ.keys():  # glibc reads them at process start
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    sys.exit(main())
