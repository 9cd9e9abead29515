"""kill -9 at random moments of inference, of a cohort on a cluster and of training; then the same command again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from cmb_bundle.scripts.files import ASIDE
from cmb_bundle.scripts.inference.former import is_whole, read_manifest

from .judge import Outcome, run_workflow

KILLS = 20
JOBS_KILLED = 2
COHORT = ["inference.json", "cohort.json"]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
"""Seconds after which a run counts as one that hangs."""


class Hangs(RuntimeError):
    """A run was not done in time."""


def fork_run(configs: Sequence[str], run_id: str | None, log: Path, options: dict) -> int:
    """Begin a run in a copy of this process, which has imported everything; returns its id."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # its workers are killed with it where it is to be so
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    error = run_workflow(configs, run_id=run_id, **options)
    if error is not None:
        print(f"{type(error).__name__}: {error}", flush=True)
    sys.stdout.flush()
    os._exit(1 if error is not None else 0)


def wait(child: int, seconds: float = PATIENCE) -> int:
    """Wait for the end of a process of ours; returns its exit status, negative where a signal ended it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise Hangs(f"it was not done within {seconds:.0f} s")


def contents(output_dir: Path) -> dict[str, bytes]:
    """Everything that a run left, by path, but for what tells times; weights as their values."""
    found = {}
    for path in sorted(output_dir.rglob("*")):
        name = str(path.relative_to(output_dir))
        if path.is_dir() or name.endswith(("_run.json", ".log", "error.log")) or "tfevents" in name:
            continue
        found[name] = path.read_bytes()
        if name.endswith(".pt"):
            state = torch.load(path, weights_only=True)
            found[name] = b"".join(v.numpy().tobytes() for v in state.values() if torch.is_tensor(v))
        if name.endswith("cohort.csv"):  # has the seconds
            found[name] = b""
        if name.endswith("cohort.html"):
            found[name] = b""
    return found


def left_aside(output_dir: Path) -> list[str]:
    return [path.name for path in output_dir.rglob("*") if ASIDE.fullmatch(path.name)]


def not_whole(output_dir: Path) -> list[str]:
    """The subjects whose folder is there without whole results in it."""
    folders = [path for path in output_dir.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return [f.name for f in folders if (m := read_manifest(f / f"{f.name}_cmb_run.json")) is None or not is_whole(f, m)]


def problem_of(output_dir: Path, wanted: dict[str, bytes], status: int) -> str:
    """What differs after the second run from a run that nobody killed; empty where nothing does."""
    found = contents(output_dir)
    if status != 0:
        return f"the second run ended with {status}"
    if left_aside(output_dir):
        return f"left aside: {left_aside(output_dir)[:3]}"
    differs = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"differs: {differs[:5]}" if differs else ""


def _scans(cohort: Path, folder: Path, number: int) -> Path:
    """As many copies of the intact scan, with its phase."""
    folder.mkdir()
    for count in range(number):
        for modality, kind in (("SWI", "swi"), ("Phase", "phase")):
            shutil.copy(cohort / "Data" / modality / "phantom-001.nii.gz", folder / f"s{count}_{kind}.nii.gz")
    return folder


def of_inference(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """Half of the runs write results for the first time, the other half replace those that are there."""
    options = {"dataset_dir": str(_scans(cohort, folder / "scans", 3)), "output_dir": str(folder / "wanted")}
    run = partial(fork_run, ["inference.json"], None, folder / "run.log")
    began = time.monotonic()
    assert wait(run(options)) == 0, (folder / "run.log").read_text()[-2000:]
    length, wanted = time.monotonic() - began, contents(folder / "wanted")
    draw, outcomes = random.Random(51), []
    for number in range(0, KILLS, every):
        output, again = folder / "results", number % 2 == 1
        shutil.rmtree(output, ignore_errors=True)
        given = {**options, "output_dir": str(output)}
        if again:
            shutil.copytree(folder / "wanted", output)
            given["resume"] = False
        moment = draw.uniform(0.05, 1.0) * length
        child = run(given)
        time.sleep(moment)
        os.killpg(child, signal.SIGKILL)
        killed = wait(child) == -signal.SIGKILL
        broken = [name for name in not_whole(output) if again or not left_aside(output)]
        status = wait(run({**options, "output_dir": str(output)}))
        problem = problem_of(output, wanted, status) or (f"not whole after the kill: {broken}" if broken else "")
        how = f"{'replacing' if again else 'first'}, {moment:.1f} s of {length:.1f}{'' if killed else ', was done'}"
        outcomes.append(
            Outcome("kill -9, inference", f"{number}: {how}", "differs" if problem else "same", "", problem)
        )
    return outcomes


def of_training(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    data = folder / "cohort"
    for modality, ending in (("Data/SWI", "nii.gz"), ("Data/Phase", "nii.gz"), ("Label", "xlsx")):
        (data / modality).mkdir(parents=True)
        for number in range(4):
            shutil.copy(cohort / modality / f"phantom-001.{ending}", data / modality / f"s{number}.{ending}")
    configs = ["train.json", str(ROOT / "tests" / "configs" / "tiny.json")]
    run = partial(fork_run, configs, "training", folder / "run.log")
    options, began = {"dataset_dir": str(data), "output_dir": str(folder / "wanted")}, time.monotonic()
    assert wait(run(options)) == 0, (folder / "run.log").read_text()[-2000:]
    length = time.monotonic() - began
    wanted = {"model.pt": contents(folder / "wanted")["model.pt"]}
    draw, outcomes = random.Random(52), []
    for number in range(0, KILLS, every):
        output, moment = folder / "results", draw.uniform(0.05, 1.0) * length
        shutil.rmtree(output, ignore_errors=True)
        child = run({**options, "output_dir": str(output)})
        time.sleep(moment)
        os.killpg(child, signal.SIGKILL)
        killed = wait(child) == -signal.SIGKILL
        status = wait(run({**options, "output_dir": str(output)}))
        found = contents(output)
        problem = "" if status == 0 else f"the second run ended with {status}"
        if not problem and found.get("model.pt") != wanted["model.pt"]:
            problem = "other weights"
        if not problem and left_aside(output):
            problem = f"left aside: {left_aside(output)[:3]}"
        how = f"{number}: {moment:.1f} s of {length:.1f}{'' if killed else ', was done'}"
        outcomes.append(Outcome("kill -9, training", how, "differs" if problem else "same", "", problem))
    return outcomes


class Cluster:
    """A Dask scheduler and workers that were started by hand on this computer."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.number, self.processes = folder, workers, {}
        self.address = f"tcp://127.0.0.1:{self.port}"
        for name in ("scheduler", *(f"worker {n}" for n in range(workers))):
            self.start(name)

    def start(self, name: str) -> None:
        where = ["--host", "127.0.0.1", "--no-dashboard"]
        command = ["scheduler", "--port", str(self.port)]
        if name != "scheduler":
            command = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--death-timeout", "60"]
            command += ["--local-directory", str(self.folder / "dask")]
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:], *where], cwd=self.folder,
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def revive(self) -> None:
        """Start what has ended; workers end with their scheduler."""
        if self.processes["scheduler"].poll() is not None:
            for name in self.processes:
                self.kill(name)
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.start(name)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for name in self.processes:
            self.kill(name)


def of_cluster(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """A scheduler and two workers started by hand; a worker, the scheduler or the client is killed."""
    scans = _scans(cohort, folder / "scans", 6)
    wanted_dir, log = folder / "wanted", folder / "run.log"
    assert (
        wait(fork_run(["inference.json"], None, log, {"dataset_dir": str(scans), "output_dir": str(wanted_dir)})) == 0
    )
    wanted = contents(wanted_dir)
    draw, outcomes = random.Random(53), []
    with Cluster(folder) as cluster:
        options = {"dataset_dir": str(scans), "cluster": cluster.address, "cohort_files": False}
        run = partial(fork_run, COHORT, None, log)
        began = time.monotonic()
        assert wait(run({**options, "output_dir": str(folder / "first")})) == 0, log.read_text()[-2000:]
        began = time.monotonic()
        assert wait(run({**options, "output_dir": str(folder / "second")})) == 0, log.read_text()[-2000:]
        length = time.monotonic() - began
        for number in range(0, KILLS, every):
            role = ("worker 0", "client", "scheduler", "worker 1")[number % 4]
            output = folder / "results"
            shutil.rmtree(output, ignore_errors=True)
            child = run({**options, "output_dir": str(output)})
            moment = draw.uniform(0.1, 0.95) * length
            time.sleep(moment)
            if role == "client":
                os.killpg(child, signal.SIGKILL)
            else:
                cluster.kill(role)
            status = wait(child)
            problem = "" if role != "worker 0" or status == 0 else f"the run did not outlive its worker: {status}"
            broken = not_whole(output)
            cluster.revive()
            if role == "client":
                time.sleep(2)  # a worker may be at work on the last subject it got
            status = wait(run({**options, "output_dir": str(output)}))
            problem = problem or problem_of(output, wanted, status) or (f"not whole: {broken}" if broken else "")
            how = f"{number}: {role}, {moment:.1f} s of {length:.1f}"
            outcomes.append(Outcome("kill -9, cluster", how, "differs" if problem else "same", "", problem))
    return outcomes


def of_jobs(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """The only job of a queue is killed: it is submitted again, and the run is the same as without."""
    import psutil

    scans = _scans(cohort, folder / "scans", 4)
    wanted_dir, output, log = folder / "wanted", folder / "results", folder / "run.log"
    options = {"dataset_dir": str(scans), "cohort_files": False}
    assert wait(fork_run(["inference.json"], None, log, {**options, "output_dir": str(wanted_dir)})) == 0
    wanted, outcomes = contents(wanted_dir), []
    settings = folder / "jobs.yaml"
    settings.write_text(
        "jobqueue:\n  local:\n    cores: 1\n    processes: 1\n    memory: 6GB\n"
        "    scheduler-options: {host: 127.0.0.1, dashboard_address: null}\n"
    )
    options |= {"cluster": "jobs", "cluster_file": str(settings), "workers": 1, "output_dir": str(output)}
    for number in range(0, JOBS_KILLED, every):
        shutil.rmtree(output, ignore_errors=True)
        child = fork_run(COHORT, None, log, options)
        until = time.monotonic() + PATIENCE
        while len(list(output.glob("*/*_cmb_run.json"))) <= number and time.monotonic() < until:
            time.sleep(0.05)
        (job,) = [
            one for one in psutil.Process(child).children() if any("dask_worker" in word for word in one.cmdline())
        ]
        job.kill()
        status = wait(child)
        problem = problem_of(output, wanted, status)
        outcomes.append(Outcome("kill -9, jobs", f"after {number + 1}", "differs" if problem else "same", "", problem))
    return outcomes


PARTS = {
    "kill-inference": of_inference,
    "kill-training": of_training,
    "kill-cluster": of_cluster,
    "kill-jobs": of_jobs,
}
