"""Time the training steps of both stages, of this version and, in the same run, of another one.

``python benchmarks/training.py [--other TREE] [--scans N] [--repeats N]`` simulates a cohort (SMALL) and trains each
stage for two epochs, from the shipped weights, with the default options, once for each tree and repeat in turn; TREE is
a checkout of another version. It prints the milliseconds of a step in the second epoch, and how much of them is
waiting for data: medians over the steps, and the range over the repeats. ``--precision`` is that of the training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import fire

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}
STAGES = ("stage 1", "stage 2")

# runs in the process of the training, so that it must work with any version
TIMED = """
import json, sys, time
from ignite.engine import Engine, Events
import monai.bundle

stages, run = [], Engine.run

def timed(engine, *arguments, **more):
    if "Trainer" in type(engine).__name__:
        last, data, times = [0.0], [0.0], []
        stages.append(times)
        def waited(e): last[0] = time.perf_counter()
        def got(e): data[0] = time.perf_counter() - last[0]
        def done(e):
            if e.state.epoch == 2:
                times.append((data[0], time.perf_counter() - last[0]))
        for event, handler in ((Events.GET_BATCH_STARTED, waited), (Events.GET_BATCH_COMPLETED, got),
                               (Events.ITERATION_COMPLETED, done)):
            engine.add_event_handler(event, handler)
    return run(engine, *arguments, **more)

Engine.run = timed
options = json.loads(sys.argv[1])
try:
    monai.bundle.run(**options)
finally:
    json.dump(stages, open(sys.argv[2], "w"))
"""


def steps_of(tree: Path, scans: Path, folder: Path, precision: str) -> list[list[tuple[float, float]]]:
    """Seconds of waiting for data and of all, of each step of the second epoch, of both stages."""
    times = folder / "times.json"
    options = {
        "run_id": "training", "config_file": str(tree / "cmb_bundle" / "configs" / "train.json"),
        "dataset_dir": str(scans), "output_dir": str(folder / "output"), "precision": precision, "detector_epochs": 2,
        "classifier_epochs": 2, "initial_weights": str(tree / "cmb_bundle" / "models" / "model.pt"), "val_interval": 2,
    }  # fmt: skip
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, json.dumps(options), str(times)], cwd=folder, capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    stages = json.loads(times.read_text()) if times.exists() else []
    if len(stages) != len(STAGES) or not all(stages):
        raise RuntimeError(f"{tree}: {len(stages)} stages were timed.\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return stages


def main(other: str = "", scans: int = 8, repeats: int = 3, precision: str = "float32") -> None:
    """Print the table."""
    from cmb_bundle.scripts.phantom import SMALL, make_cohort

    trees = {"this version": ROOT} | ({other: Path(other).resolve()} if other else {})
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        cohort = make_cohort(Path(name) / "scans", scans, SMALL, seed=77, progress=False)
        for number in range(repeats):
            for one, (tree, path) in enumerate(trees.items()):
                folder = Path(name) / f"{number}_{one}"
                folder.mkdir()
                for stage, steps in zip(STAGES, steps_of(path, Path(cohort), folder, precision), strict=True):
                    found[stage, tree].append(steps)
                    ms = 1000 * median(whole for _, whole in steps)
                    print(f"{stage}, {tree}, {number + 1} of {repeats}: {ms:.0f} ms", flush=True)
    print("\n| | steps | ms a step | of which waiting for data |\n|---|---|---|---|")
    for (stage, tree), runs in sorted(found.items()):
        all_ms = [1000 * median(whole for _, whole in steps) for steps in runs]
        data_ms = [1000 * median(data for data, _ in steps) for steps in runs]
        print(f"| {stage}, {tree} | {len(runs[0])} | {median(all_ms):.0f} ({min(all_ms):.0f} to {max(all_ms):.0f}) | "
              f"{median(data_ms):.0f} ({min(data_ms):.0f} to {max(data_ms):.0f}) |")  # fmt: skip


if __name__ == "__main__":
    fire.Fire(main)
