"""Measure time and memory of inference on one HR subject, from files to files, compared with YOLOv2 in OpenCV.

``python benchmarks/speed.py`` prints tables. Everything runs in one process, warm, with torch's default number of
threads, on Linux (memory is read from /proc). Machines differ and are noisy: read the ratios. The program restarts
itself with the variables of glibc's allocator that the Makefile sets, without which a quarter of the time is spent on
returning memory to the system and requesting it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing import get_context
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "cmb_bundle"))

from scripts.darknet.detector import darknet_detector  # noqa: E402
from scripts.inference.acceleration import accelerate  # noqa: E402
from scripts.inference.pictures import draw_findings  # noqa: E402
from scripts.inference.writers import write_findings  # noqa: E402
from scripts.networks.two_stage import TwoStageNetwork  # noqa: E402
from scripts.phantom import HR, make_cohort  # noqa: E402

REPEATS = 3
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}


def parse(folder: Path) -> ConfigParser:
    """Read the inference config for a folder of scans."""
    config = json.loads((ROOT / "cmb_bundle" / "configs" / "inference.json").read_text())
    config |= {"bundle_root": str(ROOT / "cmb_bundle"), "dataset_dir": str(folder), "output_dir": str(folder / "out")}
    return ConfigParser(config)


class Clock:
    """Sum the seconds by step, and keep the peak resident memory in GiB during each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak: dict[str, float] = defaultdict(float)

    def time(self, step: str, function, *args, **kwargs):
        """Call a function and add its time and memory to a step."""
        Path("/proc/self/clear_refs").write_text("5")  # the kernel resets its peak
        start = time.perf_counter()
        result = function(*args, **kwargs)
        self.seconds[step] += time.perf_counter() - start
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.peak[step] = max(self.peak[step], int(status["VmHWM"].split()[0]) / 1024**2)
        return result


def subject(parser: ConfigParser, network: torch.nn.Module, out: Path) -> pd.DataFrame:
    """Process the first subject of the data set; return seconds and peak memory of each step, and in total."""
    clock, inferer = Clock(), parser.get_parsed_content("inferer")
    data = dict(parser.get_parsed_content("dataset#data")[0])
    for transform in parser.get_parsed_content("preprocessing").transforms:
        step = "load" if type(transform).__name__ == "LoadSubjectd" else "preprocess"
        data = clock.time(step, transform, data)
    volume = data["image"].as_tensor()
    detections = clock.time("stage 1", inferer.detect, volume, network.detector)
    candidates = clock.time("merge", inferer.merge, detections)
    probability = clock.time("stage 2", inferer.probabilities, volume, candidates[:, :3], network.classifier)
    data["pred"] = torch.cat([candidates, probability[:, None]], dim=1)
    data = clock.time("write", parser.get_parsed_content("postprocessing"), data)
    clock.time("write", write_findings, out, "subject", data["result"], data["pred"])
    clock.time("write", draw_findings, out / "subject.png", "subject", data["swi"], data["result"])
    steps = pd.DataFrame({"seconds": clock.seconds, "peak GiB": clock.peak})
    steps.loc["total"] = [steps["seconds"].sum(), steps["peak GiB"].max()]
    return steps


def best(function, repeats: int = REPEATS) -> float:
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


def main() -> None:
    """Print all tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = get_context("spawn").Process(target=simulate, args=(folder / "hr",))
        make.start()
        make.join()
        if make.exitcode:
            raise RuntimeError("The simulation of the subject failed; see above.")
        parser = parse(folder / "hr")
        network = parser.get_parsed_content("network")
        runs = [subject(parser, network, folder / "out") for _ in range(REPEATS + 1)]
        table = min(runs[1:], key=lambda run: run.loc["total", "seconds"])
        steps = table["seconds"]
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
        stage_1 = literal(folder)
        networks = steps["stage 1"] + steps["merge"] + steps["stage 2"]
        table = pd.DataFrame({"seconds": stage_1})
        table["whole path / this"] = steps["total"] / table["seconds"]
        table["stages 1 and 2 / this"] = networks / table["seconds"]
        print("stage 1 of the published cfg, 72 slices of 448 x 448\n" + table.round(3).to_string() + "\n")
        print(growth(network, parser).round(4).to_string(index=False))


if __name__ == "__main__":
    if not ALLOCATOR.keys() <= os.environ.keys():  # glibc reads them at process start
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    main()
