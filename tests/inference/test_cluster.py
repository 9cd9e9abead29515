"""Subjects on workers: what becomes of them when workers die or hang, and that results are those of a plain run."""

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cmb_bundle.scripts.errors import ClusterError
from cmb_bundle.scripts.inference import cluster as module
from cmb_bundle.scripts.inference.cluster import ClusterLoader, _Dispatcher, _read_cluster_file

from ..helpers import CONFIGS
from ..helpers.processes import start_module
from .test_resume import ALL, flat_copy, run


class Future:
    def __init__(self):
        self.status, self.value, self.callbacks, self.late = "pending", None, [], 0

    def done(self):
        return self.status != "pending"

    def set(self, status, value):
        if not self.done():
            self.status, self.value = status, value
            for callback in self.callbacks:
                callback(self)

    def cancel(self):
        if self.late:  # done, but what it gave is lost
            self.status = "pending"
        self.set("cancelled", None)

    def result(self, timeout=None):
        if isinstance(self.value, BaseException):
            raise self.value
        if self.late:
            self.late -= 1
            raise pytest.importorskip("distributed").TimeoutError
        return self.value

    def exception(self):
        return self.value

    def add_done_callback(self, callback):
        self.callbacks.append(callback)


class Client:
    """A cluster whose workers do to each subject what ``fate`` says of its attempts.

    They are ok, slow (to tell that it is done), lost (with the worker, before it could tell), alone (the scheduler
    goes before it could tell), forgotten (by the scheduler, after it was done), die, hang, or an error.
    """

    def __init__(self, fate, workers=2):
        self.fate, self.tried, self.restarted = fate, [], []
        self.alive = [f"w{number}" for number in range(workers)]
        self.busy, self.lock, self.gone = set(), threading.Lock(), False

    def nthreads(self):
        if self.gone:
            raise OSError("no connection")
        return dict.fromkeys(self.alive, 1)

    def submit(self, work, config, subject, device, workers, **more):
        (worker,), name, future = workers, subject["subject"], Future()
        assert worker not in self.busy, "one subject at a time"
        self.busy.add(worker)
        fates = self.fate.get(name, ["ok"])
        fate = fates[min(len([one for one, _ in self.tried if one == name]), len(fates) - 1)]
        self.tried.append((name, worker))
        threading.Timer(0.01, self.end, (fate, worker, name, future)).start()
        return future

    def end(self, fate, worker, name, future):
        if fate == "die":
            self.replace(worker)
        elif fate in ("slow", "lost"):
            self.busy.discard(worker)
            if fate == "lost":
                self.replace(worker)
            future.late = 3 if fate == "slow" else 10**6
            future.set("finished", {"subject": name, "done": "now"})
        elif fate in ("alone", "forgotten"):
            self.gone, future.late = fate == "alone", 10**6
            future.set("finished", CancelledError("key") if fate == "forgotten" else None)
        elif fate != "hang":
            self.busy.discard(worker)
            future.set(*(("finished", {"subject": name, "done": "now"}) if fate == "ok" else ("error", fate)))

    def replace(self, worker):
        self.alive[self.alive.index(worker)] = worker + "'"

    def restart_workers(self, workers, **how):
        self.restarted += workers
        self.replace(workers[0])


def outcomes(client, names, seconds=60.0, stop_after=None):
    got = []
    loader = SimpleNamespace(
        config="", seconds=seconds, cluster="local", device_of=lambda number: None,
        asked_to_stop=lambda: stop_after is not None and len(client.tried) >= stop_after,
    )  # fmt: skip
    for item in _Dispatcher(client, loader, [{"subject": name} for name in names]).outcomes():
        got.append(item)
        if "stop" in item:
            break
    return {item["subject"]: item.get("error", item.get("stop", item.get("done"))) for item in got}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)


def test_a_subject_whose_worker_dies_is_tried_once_more_by_another():
    client = Client({"b": ["die", "ok"]})
    assert outcomes(client, "abcd") == dict.fromkeys("abcd", "now")
    first, second = [worker for name, worker in client.tried if name == "b"]
    assert first != second
    assert len(client.tried) == 5


def test_a_worker_that_is_lost_before_it_can_tell_costs_one_more_try():
    client = Client({"a": ["slow"], "b": ["lost", "ok"]})
    assert outcomes(client, "abcd") == dict.fromkeys("abcd", "now")
    assert sorted(name for name, _ in client.tried) == ["a", "b", "b", "c", "d"]
    found = outcomes(Client({"b": ["lost"]}), "ab")
    assert found == {"a": "now", "b": "ClusterError: b was tried 2 times: its worker was lost."}


@pytest.mark.parametrize(("fate", "why"), [("alone", "no connection"), ("forgotten", "key")])
def test_a_scheduler_that_goes_while_a_worker_tells_stops_the_run(fate, why):
    found = outcomes(Client({"b": [fate]}, workers=1), "abc")
    assert found == {"a": "now", "": f"the scheduler is gone ({why})"}


def test_a_subject_that_kills_its_workers_fails_and_the_others_are_done():
    found = outcomes(Client({"b": ["die"]}), "abcd")
    assert found.pop("b").startswith("ClusterError: b was tried 2 times: its worker died: it was killed")
    assert found == dict.fromkeys("acd", "now")


def test_a_subject_that_hangs_costs_its_worker():
    client = Client({"a": ["hang"]}, workers=1)
    found = outcomes(client, "ab", seconds=0.3)
    assert found["a"] == "ClusterError: a was tried 2 times: it took longer than 0.005 minutes (subject_minutes)."
    assert found["b"] == "now"
    assert client.restarted == ["w0", "w0'"]


def test_what_a_task_raises_is_told_and_a_lacking_package_stops_the_run():
    found = outcomes(Client({"a": [MemoryError("no more")]}), "ab")
    assert found == {"a": "ClusterError: a was tried 2 times: MemoryError: no more.", "b": "now"}
    found = outcomes(Client({"a": [ImportError("No module named 'monai'")]}, workers=1), "ab")
    assert found == {"": "the worker w0 lacks a package: No module named 'monai'. Install the bundle on it"}


def test_asked_to_stop_it_waits_for_what_is_under_way():
    found = outcomes(Client({}), "abcdef", stop_after=2)
    assert found == {"a": "now", "b": "now", "": ""}


def test_options_of_a_cluster_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"needs Dask, which is not installed here: pip install .*\[cluster\]"):
        ClusterLoader([])
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ClusterError, match=r"cluster is 'slrum'; expected local, slurm, pbs, .* or tcp://HOST:PORT"):
        ClusterLoader([], "slrum")
    with pytest.raises(ClusterError, match=r"--cluster_file FILE\.yaml"):
        ClusterLoader([], "slurm", workers=3)
    pytest.importorskip("dask")
    (tmp_path / "c.yaml").write_text("cores: 4")
    with pytest.raises(ClusterError, match="there is no jobqueue: slurm in it"):
        _read_cluster_file(tmp_path / "c.yaml", "slurm")
    (tmp_path / "c.yaml").write_text("jobqueue:\n  slurm:\n    cores: 4")
    with pytest.raises(ClusterError, match=r"there is no jobqueue: pbs in it; .*: jobqueue: pbs: cores: 1"):
        _read_cluster_file(tmp_path / "c.yaml", "pbs")


def test_number_of_workers_by_cores_and_memory(monkeypatch):
    system = pytest.importorskip("distributed.system")
    monkeypatch.setattr(pytest.importorskip("dask.system"), "CPU_COUNT", 16)
    monkeypatch.setattr(system, "MEMORY_LIMIT", int(33e9))
    assert module.default_workers(4.0, torch.device("cpu")) == 8
    assert module.default_workers(1.0, torch.device("cpu")) == 16
    assert module.default_workers(100.0, torch.device("cpu")) == 1


def test_slurm_file_of_dask_jobqueue(tmp_path):
    jobqueue = pytest.importorskip("dask_jobqueue")
    dask = pytest.importorskip("dask")
    (tmp_path / "slurm.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 1\n    memory: 6GB\n    queue: brains\n    walltime: '08:00:00'\n"
    )
    with dask.config.set({}):
        _read_cluster_file(tmp_path / "slurm.yaml", "slurm")
        with jobqueue.SLURMCluster(scheduler_options={"dashboard_address": None}) as started:
            script = started.job_script()
    assert "#SBATCH -p brains" in script and "#SBATCH -t 08:00:00" in script and "--mem=6G" in script


def workers_of(process):
    """The processes that a cluster on this computer started for its workers."""
    children = f"/proc/{process.pid}/task/*/children"
    found = subprocess.run(f"cat {children}", shell=True, capture_output=True, text=True).stdout.split()
    is_worker = [b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in found]
    return [int(child) for child, yes in zip(found, is_worker, strict=True) if yes]


def test_a_cluster_with_a_killed_worker_gives_the_results_of_a_plain_run(tiny_cohort, tmp_path):
    pytest.importorskip("distributed")
    scans = flat_copy(tiny_cohort, tmp_path / "scans", 4)
    plain, output = tmp_path / "plain", tmp_path / "results"
    (scans / "a_swi.nii.gz").write_bytes(b"no scan")
    files = str([str(CONFIGS / name) for name in ("inference.json", "cohort.json")])
    command = ["monai.bundle", "run", "--config_file", files, "--dataset_dir", scans, "--output_dir", output]
    command += ["--picture", "False", "--workers", "2", "--worker_gb", "3"]
    process = start_module(command, tmp_path, tmp_path / "out", tmp_path / "log")
    while process.is_alive() and not list(output.glob(".*/*/*")):
        time.sleep(0.01)
    killed = workers_of(process)
    assert len(killed) == 2
    os.kill(killed[0], signal.SIGKILL)
    process.join(600)
    assert process.exitcode == 1
    said = (tmp_path / "out").read_text() + (tmp_path / "log").read_text()
    assert "1 of 5 subjects failed; the others are done." in said
    assert "dashboard at http://127.0.0.1:" in said

    _, error = run(["inference.json"], scans, plain)
    assert str(error).startswith("1 of 5 subjects failed")
    names = sorted(str(path.relative_to(plain)) for path in plain.glob("phantom*/*"))
    assert len(names) == 4 * 4
    assert names == sorted(str(path.relative_to(output)) for path in output.glob("phantom*/*"))
    for name in ["subjects.csv", "failures.csv", *(name for name in names if not name.endswith("_run.json"))]:
        assert (plain / name).read_bytes() == (output / name).read_bytes(), name
    assert not list(output.glob(".*"))

    table = pd.read_csv(output / "cohort.csv").set_index("subject")
    assert dict(table["state"]) == {"a": "failed", **dict.fromkeys([*ALL, "phantom-004"], "done")}
    engine, _ = run(["inference.json"], scans, output)
    assert engine.skipped == [*ALL, "phantom-004"], "a plain run takes them as its own"
