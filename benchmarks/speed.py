"""Measure time and memory of inference on one HR subject, from files to files, compared with YOLOv2 in OpenCV.

``python benchmarks/speed.py`` prints tables: the steps of one scan, a cold process, several scans in one process, stage
1 of the published cfg in OpenCV, and how stage 1 grows with slices and with the matrix. ``--repeats``, ``--scans`` and
``--slices`` make it shorter. Everything but the cold process runs in one process, with torch's default number of
threads, on Linux (memory is read from /proc). Machines differ and are noisy: read the ratios. The program restarts
itself with the variables of glibc's allocator that the Makefile sets, without which a quarter of the time is spent on
returning memory to the system and requesting it again.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing import get_context
from pathlib import Path

import cv2
import fire
import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "cmb_bundle"))

from scripts.darknet.detector import darknet_detector  # noqa: E402
from scripts.inference import writers  # noqa: E402
from scripts.inference.acceleration import accelerate  # noqa: E402
from scripts.networks.two_stage import TwoStageNetwork  # noqa: E402
from scripts.phantom import HR, make_cohort  # noqa: E402

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}


def parse(folder: Path, **changes: object) -> ConfigParser:
    """Read the inference config for a folder of scans, each of which is done again."""
    config = json.loads((ROOT / "cmb_bundle" / "configs" / "inference.json").read_text())
    config |= {"bundle_root": str(ROOT / "cmb_bundle"), "dataset_dir": str(folder), "output_dir": str(folder / "out")}
    return ConfigParser(config | {"resume": False} | changes)


class Clock:
    """Sum the seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def of(self, step: str, function):
        """A function that adds its time to a step."""

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[step] += time.perf_counter() - start

        return timed


def peak_gib(function) -> float:
    """The largest resident memory while a function runs, in GiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel resets its peak
    function()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024**2


def steps(folder: Path, repeats: int) -> pd.DataFrame:
    """Run the inference on a folder with one subject, warm; return median, least and most seconds of each step."""
    clock, rows = Clock(), []
    write, picture = writers.SubjectWriter.write, writers.draw_findings
    writers.SubjectWriter.write = lambda self, engine: clock.of("all files", write)(self, engine)
    writers.draw_findings = clock.of("picture", picture)
    parser = parse(folder)
    transforms = parser.get_parsed_content("preprocessing").transforms
    names = ["read" if type(one).__name__ == "LoadSubjectd" else "prepare" for one in transforms]
    parser.get_parsed_content("preprocessing").transforms = [
        clock.of(name, one) for name, one in zip(names, transforms, strict=True)
    ]
    inferer = parser.get_parsed_content("inferer")
    inferer.ranked_candidates = clock.of("stage 1", inferer.ranked_candidates)
    inferer.logits = clock.of("stage 2", inferer.logits)
    evaluator = parser.get_parsed_content("evaluator")
    quietly(evaluator.run)
    for _ in range(repeats):
        clock.seconds.clear()
        clock.of("all", quietly)(evaluator.run)
        found = dict(clock.seconds)
        found["other files"] = found.pop("all files") - found["picture"]
        rows.append({**found, "peak GiB": peak_gib(lambda: quietly(evaluator.run))})
    writers.SubjectWriter.write, writers.draw_findings = write, picture
    table = pd.DataFrame(rows)[["read", "prepare", "stage 1", "stage 2", "picture", "other files", "all", "peak GiB"]]
    return pd.DataFrame({"median": table.median(), "least": table.min(), "most": table.max()})


def several(folder: Path, scans: int) -> pd.DataFrame:
    """Run the inference on the same subject under several names in one process; return seconds per scan.

    With a process that reads and prepares the next scan beside it, and without.
    """
    for source in sorted((folder / "Data").iterdir()):
        (folder.parent / "several" / "Data" / source.name).mkdir(parents=True)
        for number in range(scans):
            copy = folder.parent / "several" / "Data" / source.name / f"scan-{number:02d}.nii.gz"
            copy.symlink_to(next(source.iterdir()))
    rows = []
    for workers in (0, 1):
        evaluator = parse(folder.parent / "several", num_workers=workers).get_parsed_content("evaluator")
        start = time.perf_counter()
        peak = peak_gib(lambda evaluator=evaluator: quietly(evaluator.run))
        rows.append({"num_workers": workers, "seconds": (time.perf_counter() - start) / scans, "peak GiB": peak})
    return pd.DataFrame(rows)


def quietly(function) -> None:
    """Call a function without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        function()


def best(function, repeats: int = 3) -> float:
    """The shortest time in seconds of several calls after a warm-up call."""
    function()
    return min(_seconds(function) for _ in range(repeats))


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def literal_cfg(folder: Path) -> Path:
    """Write the published cfg with 3 channels, as cv2.dnn requires, and random weights of the required size."""
    text = (ROOT / "cmb_bundle" / "configs" / "yolov2_cmb.cfg").read_text().replace("channels=2", "channels=3")
    (folder / "literal.cfg").write_text(text)
    number = sum(p.numel() for p in darknet_detector(folder / "literal.cfg").network.parameters()) + 40_000
    with (folder / "literal.weights").open("wb") as file:
        np.array([0, 2, 0, 0, 0], np.int32).tofile(file)
        np.random.default_rng(0).uniform(0.001, 0.02, number).astype(np.float32).tofile(file)
    return folder / "literal.cfg"


def literal(folder: Path, slices: int = 72) -> dict[str, float]:
    """Time stage 1 of the published cfg on slices of 448 x 448, in OpenCV and in this bundle; return seconds."""
    cfg = literal_cfg(folder)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(folder / "literal.weights"))
    image = np.random.default_rng(0).random((8, 3, 448, 448), np.float32)

    def opencv() -> None:
        for _ in range(slices // len(image)):
            net.setInput(image)
            net.forward()

    seconds = {"cv2.dnn": best(opencv, 1)}
    network = TwoStageNetwork(darknet_detector(cfg), torch.nn.Linear(1, 1)).eval()
    batch = torch.as_tensor(image)
    for precision in ("float32", "bfloat16"):
        fast = accelerate(network, precision=precision)

        @torch.no_grad()
        def ours(fast=fast) -> None:
            for _ in range(slices // len(batch)):
                fast(batch)

        seconds[f"this bundle, {precision}"] = best(ours, 1)
    return seconds


def growth(network: torch.nn.Module, parser: ConfigParser) -> pd.DataFrame:
    """Time stage 1 for several numbers of slices and matrix sizes; return seconds."""
    inferer = parser.get_parsed_content("inferer")
    rows = []
    for size, slices in ((256, 18), (256, 36), (256, 72), (256, 144), (128, 72), (192, 72), (384, 72)):
        volume = torch.rand(2, size, size, slices) * 0.1 + 0.45
        seconds = best(lambda v=volume: inferer.detect(v, network.detector))
        rows.append({"matrix": size, "slices": slices, "seconds": seconds})
    table = pd.DataFrame(rows)
    table["us per pixel"] = 1e6 * table["seconds"] / (table["matrix"] ** 2 * table["slices"])
    return table


def simulate(folder: Path) -> None:
    """Simulate the subject; called in a separate process, so that its memory does not count."""
    make_cohort(folder, 1, HR.changed(microbleeds=6), seed=77, progress=False)


def main(repeats: int = 3, scans: int = 20, slices: int = 72) -> None:
    """Print all tables."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = get_context("spawn").Process(target=simulate, args=(folder / "hr",))
        make.start()
        make.join()
        if make.exitcode:
            raise RuntimeError("The simulation of the subject failed; see above.")
        table = steps(folder / "hr", repeats)
        shape = nib.load(next((folder / "hr" / "Data" / "SWI").iterdir())).shape
        print(f"{torch.get_num_threads()} threads; one subject of {' x '.join(map(str, shape))} voxels, warm")
        print(table.round(3).to_string() + "\n")
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
        command += [str(ROOT / "cmb_bundle" / "configs" / "inference.json")]
        command += ["--dataset_dir", str(folder / "hr"), "--output_dir", str(folder / "cold")]
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        cold = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}; run it alone to see why.")
        print(f"the same as a cold process: {cold:.1f} s, peak resident memory {usage.ru_maxrss / 1024**2:.2f} GiB\n")
        together = several(folder / "hr", scans)
        print(f"{scans} scans in one process, a scan\n{together.round(3).to_string(index=False)}\n")
        stage_1 = pd.DataFrame({"seconds": literal(folder, slices)})
        stage_1["one scan / this"] = table.loc["all", "median"] / stage_1["seconds"]
        stage_1["several, a scan / this"] = together["seconds"].min() / stage_1["seconds"]
        networks = table.loc[["stage 1", "stage 2"], "median"].sum()
        stage_1["stages 1 and 2 / this"] = networks / stage_1["seconds"]
        print(f"stage 1 of the published cfg, {slices} slices of 448 x 448\n{stage_1.round(3).to_string()}\n")
        parser = parse(folder / "hr")
        print(growth(parser.get_parsed_content("network"), parser).round(4).to_string(index=False))


if __name__ == "__main__":
    if not ALLOCATOR.keys() <= os.environ.keys():  # glibc reads them at process start
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    fire.Fire(main)
