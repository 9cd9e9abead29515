"""Work through a cohort on a Dask cluster: each subject is a task, whose results the worker writes."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data.datasets import SubjectDataset
from ..errors import ClusterError, InputError, root_cause
from ..options import enclosing_workflow
from .evaluator import CohortEvaluator, collate_subject
from .former import code_hash, weights_hash

logger = logging.getLogger(__name__)

INSTALL = (
    "A cohort on a cluster needs Dask, which is not installed here: pip install -c constraints.txt '.[cluster]'. "
    "Without cohort.json, the same command works through the subjects one after the other."
)
JOB_QUEUES = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster", "oar": "OARCluster",
    "htcondor": "HTCondorCluster", "moab": "MoabCluster", "jobs": "local.LocalCluster",
}  # fmt: skip
"""Those of dask-jobqueue; the last starts its jobs on this computer, to try a file of settings."""
ATTEMPTS = 2
"""How often a subject is tried whose worker died or hung."""
POLL_SECONDS = 0.5
RESULT_SECONDS = 5
"""How long to wait for what a worker says of a subject before checking that the worker is still there."""
NO_WORKER_SECONDS = 300
"""How long workers on this computer may take to start."""
OF_WORKERS = {
    **{f"distributed.worker.memory.{step}": False for step in ("target", "spill", "pause")},
    "distributed.worker.memory.terminate": 0.95,
}
"""Nothing of ours can be moved to the disk; a worker that grows beyond its memory is ended and started anew."""
IGNORE_INTERRUPT = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
"""Ctrl-C goes to all processes of a terminal; the workers wait for what the first one decides."""


class ClusterLoader:
    """
    Hand the subjects of a data set to the workers of a cluster, and give what becomes of each, as it is done.

    It stands in the place of the data loader of a :class:`CohortEvaluator`: an item is
    ``{"subject": id, "done": "now" or "before"}``, ``{"subject": id, "error": message}`` or, once, ``{"subject": "",
    "stop": reason}``. Each worker has one subject at a time. Workers build the evaluator from the configuration that
    is being run, once, and write the results into the same folder as it would, which they must be able to reach by the
    same path, as the scans.

    A worker that dies, or takes longer than ``subject_minutes`` for a subject, costs the subject one more attempt, by
    another worker where there is one; after that it has failed.

    Args:
        dataset: the subjects.
        cluster: ``"local"``, processes on this computer; ``"slurm"`` or another of ``JOB_QUEUES``, jobs that are
            submitted; or the address of a Dask scheduler, ``"tcp://host:port"``.
        cluster_file: YAML of dask-jobqueue's own form, for jobs.
        workers: how many; by default as many as this computer has cores, GPUs if the device is CUDA, and memory for.
        worker_gb: memory of a worker on this computer in GB, beyond which it is ended.
        subject_minutes: how long a subject may take.
        device: of the evaluator.

    Raises:
        ClusterError: Dask is not installed, or ``cluster`` or its file cannot be used.
    """

    def __init__(
        self,
        dataset: SubjectDataset,
        cluster: str = "local",
        cluster_file: str | Path | None = None,
        workers: int | None = None,
        worker_gb: float = 4.0,
        subject_minutes: float = 30.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if importlib.util.find_spec("distributed") is None:
            raise ClusterError(INSTALL)
        if cluster not in ("local", *JOB_QUEUES) and not cluster.startswith(("tcp://", "tls://")):
            raise ClusterError(f"cluster is {cluster!r}; expected local, {', '.join(JOB_QUEUES)} or tcp://HOST:PORT.")
        if cluster in JOB_QUEUES and (cluster_file is None or workers is None):
            raise ClusterError(
                f"cluster is {cluster}; expected --workers, their number, too, and --cluster_file FILE.yaml, in the "
                f"form of dask-jobqueue (jobqueue: {_section(cluster)}: cores, memory, queue, walltime, ...)."
            )
        self.dataset, self.cluster, self.cluster_file = dataset, cluster, cluster_file
        self.workers, self.worker_gb, self.seconds = workers, worker_gb, 60 * subject_minutes
        self.device = torch.device(device)
        self.asked_to_stop: Callable[[], bool] = lambda: False
        workflow = enclosing_workflow()
        self.config = _of_worker(workflow.parser.get(), workflow.parser.get_parsed_content("bundle_root"), dataset)

    def __len__(self) -> int:
        return len(self.dataset.data)

    def __iter__(self) -> Iterator[dict]:
        todo, former = [], self.dataset.former
        for subject in self.dataset.data:
            if "error" in subject:
                yield self.dataset[self.dataset.data.index(subject)]
            elif former.compare_files == "time" and former.is_done(subject["subject"], former.identify(subject)):
                yield {"subject": subject["subject"], "done": "before"}
            else:
                todo.append(subject)
        if todo:
            with self._client() as client:
                yield from _Dispatcher(client, self, todo).outcomes()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        import dask
        from distributed import Client

        for name in ("distributed", "bokeh", "tornado"):  # what a person must know is said here
            logging.getLogger(name).setLevel(logging.ERROR)
        with ExitStack() as stack:
            stack.enter_context(dask.config.set(OF_WORKERS))
            try:
                at = stack.enter_context(self._started()) if ":" not in self.cluster else self.cluster
                client = stack.enter_context(Client(at, timeout=30, set_as_default=False))
            except (OSError, RuntimeError, ImportError) as error:
                raise ClusterError(f"The cluster {self.cluster} cannot be reached or started: {error}") from error
            print(f"Cluster: {client.scheduler.address}, dashboard at {client.dashboard_link}", flush=True)
            yield client

    def _started(self) -> Any:
        if self.cluster in JOB_QUEUES:
            module, _, name = f"dask_jobqueue.{JOB_QUEUES[self.cluster]}".rpartition(".")
            _read_cluster_file(self.cluster_file, _section(self.cluster))
            try:
                started = getattr(importlib.import_module(module), name)()
            except (TypeError, ValueError) as error:
                raise ClusterError(f"{self.cluster_file}: {error}") from error
            # unlike scale, this submits again what was killed or has reached its walltime
            started.adapt(minimum_jobs=self.workers, maximum_jobs=self.workers)
            return started
        from distributed import LocalCluster

        number = min(self.workers or default_workers(self.worker_gb, self.device), len(self))
        return LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            memory_limit=int(self.worker_gb * 1e9),
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
            preload=[IGNORE_INTERRUPT],
        )

    def device_of(self, number: int) -> str | None:
        """The device of one of the workers on this computer, counted from 0, where each gets a GPU of its own."""
        count = torch.cuda.device_count() if self.cluster == "local" and self.device == torch.device("cuda") else 0
        return f"cuda:{number % count}" if count else None


class _Dispatcher:
    """Subjects to workers and back."""

    def __init__(self, client: Any, loader: ClusterLoader, todo: list[dict]) -> None:
        self.client, self.loader = client, loader
        self.waiting = deque(todo)
        self.running: dict[str, tuple[dict, Any, float]] = {}
        """By address of the worker: subject, future, and when it began."""
        self.attempts: dict[str, list[str]] = {}
        """By subject: the workers that it was lost with."""
        self.finished: queue.SimpleQueue = queue.SimpleQueue()
        self.unusable: set[str] = set()
        self.numbers: dict[str, int] = {}
        self.work = _by_value()
        self.seen = time.monotonic()
        """When there was a worker last."""

    def outcomes(self) -> Iterator[dict]:
        while self.waiting or self.running:
            try:
                if (yield from self._round()):
                    return
            except (OSError, RuntimeError, TimeoutError, CancelledError) as error:
                yield {"subject": "", "stop": f"the scheduler is gone ({error})"}
                return

    def _round(self) -> Iterator[dict]:
        """Look at the workers and hand out subjects; returns whether the run is over before the last subject."""
        stopping = self.loader.asked_to_stop()
        if stopping and not self.running:
            yield {"subject": "", "stop": ""}
            return True
        workers = list(self.client.nthreads())
        self.seen = time.monotonic() if workers else self.seen
        if time.monotonic() - self.seen > NO_WORKER_SECONDS and self.loader.cluster == "local":
            yield {"subject": "", "stop": "no worker could be started; its log above says why"}
            return True
        yield from self._lost(set(workers))
        if not stopping:
            self._hand_out([worker for worker in workers if worker not in self.running])
        with suppress(queue.Empty):
            worker = self.finished.get(timeout=POLL_SECONDS)
            while worker is not None:
                yield from self._received(worker)
                if worker in workers and not self.loader.asked_to_stop():  # else it is of one that was given up
                    self._hand_out([worker])
                worker = self.finished.get_nowait()
        return False

    def _hand_out(self, workers: list[str]) -> None:
        for worker in workers:
            if not self.waiting or worker in self.unusable or worker in self.running:
                continue
            subject = self.waiting[0]
            if worker in self.attempts.get(subject["subject"], ()) and len(workers) > 1:
                continue
            self.waiting.popleft()
            device = self.loader.device_of(self.numbers.setdefault(worker, len(self.numbers)))
            future = self.client.submit(
                self.work, self.loader.config, subject, device, workers=[worker], pure=False, retries=0,
                key=f"{subject['subject']}-{len(self.attempts.get(subject['subject'], ()))}-{time.time_ns()}",
            )  # fmt: skip
            self.running[worker] = (subject, future, time.monotonic())
            future.add_done_callback(lambda _, worker=worker: self.finished.put(worker))

    def _received(self, worker: str) -> Iterator[dict]:
        subject, future, _ = self.running.get(worker, (None, None, 0))
        if future is None or not future.done():  # of a subject that was given up
            return
        del self.running[worker]
        if future.status == "finished":
            outcome = self._outcome(worker, future)
            if outcome is not None:
                yield outcome
                return
        error = future.exception() if future.status == "error" else None
        if isinstance(error, ImportError):
            yield {"subject": "", "stop": f"the worker {worker} lacks a package: {error}. Install the bundle on it"}
            return
        if isinstance(error, InputError):  # it cannot start, which is not the subject's fault
            yield {"subject": "", "stop": f"the worker {worker} cannot begin: {error}"}
            return
        why = f"its worker was lost ({type(error).__name__})" if error is not None else "its worker was lost"
        if error is not None and not type(error).__module__.startswith("distributed"):
            why = f"{type(error).__name__}: {error}"
        yield from self._again(worker, subject, why)

    def _outcome(self, worker: str, future: Any) -> dict | None:
        """
        What a worker says of its subject; None where it was lost before it could tell.

        Dask would then do the subject again, but on that worker alone, which is gone: to wait for that is to wait
        forever.
        """
        from distributed import TimeoutError as Late

        while True:
            try:
                return future.result(timeout=RESULT_SECONDS)
            except Late:
                if worker not in self.client.nthreads():
                    future.cancel()
                    self.unusable.add(worker)
                    return None

    def _lost(self, workers: set[str]) -> Iterator[dict]:
        for worker, (subject, future, began) in list(self.running.items()):
            if worker not in workers and not future.done():
                del self.running[worker]
                future.cancel()
                why = "its worker died: it was killed, its computer failed, or it used more memory than it may have"
                yield from self._again(worker, subject, why)
            elif time.monotonic() - began > self.loader.seconds and not future.done():
                del self.running[worker]
                future.cancel()
                self._restart(worker)
                why = f"it took longer than {self.loader.seconds / 60:g} minutes (subject_minutes)"
                yield from self._again(worker, subject, why)

    def _restart(self, worker: str) -> None:
        """End a worker that hangs; where nobody starts it anew, it is not used any more."""
        self.unusable.add(worker)
        with suppress(Exception):
            self.client.restart_workers([worker], timeout=60, raise_for_error=False)

    def _again(self, worker: str, subject: dict, why: str) -> Iterator[dict]:
        name = subject["subject"]
        lost = self.attempts.setdefault(name, [])
        lost.append(worker)
        if len(lost) >= ATTEMPTS:
            yield {"subject": name, "error": f"{ClusterError.__name__}: {name} was tried {len(lost)} times: {why}."}
        else:
            logger.warning(f"{name} is tried once more: {why}.")
            self.waiting.append(subject)


def default_workers(worker_gb: float, device: torch.device) -> int:
    """How many workers this computer has cores and memory for; GPUs in place of cores where they work on CUDA."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    places = torch.cuda.device_count() if device.type == "cuda" else CPU_COUNT
    return max(1, min(places, int(MEMORY_LIMIT // (worker_gb * 1e9))))


def _section(cluster: str) -> str:
    """What dask-jobqueue calls the settings of a job queue."""
    return "local" if cluster == "jobs" else cluster


def _read_cluster_file(path: str | Path, section: str) -> None:
    """Take the settings of a file as Dask would those of its own configuration."""
    import dask
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ClusterError(f"cluster_file {path}: cannot be read as YAML ({error}).") from error
    queues = content.get("jobqueue") if isinstance(content, Mapping) else None
    if not isinstance(queues, Mapping) or not isinstance(queues.get(section), Mapping):
        raise ClusterError(
            f"cluster_file {path}: there is no jobqueue: {section} in it; expected the form of dask-jobqueue: "
            f"jobqueue: {section}: cores: 1, memory: 6GB, ..."
        )
    dask.config.update(dask.config.config, content, priority="new")


def _of_worker(config: Mapping, bundle_root: str, dataset: SubjectDataset) -> str:
    """The configuration that a worker builds its evaluator from, as JSON: the same, with no subjects of its own."""
    config = {key: value for key, value in deepcopy(dict(config)).items() if not key.startswith("_")}
    config["bundle_root"] = str(bundle_root)
    config["dataset"]["data"] = []
    config["former_results"]["run"] = dataset.former.run
    config["dataloader"] = {"_target_": "DataLoader", "dataset": "@dataset", "num_workers": 0}
    return json.dumps(config, default=str)


def _by_value() -> Callable[[str, dict, str | None], dict]:
    """The task of a worker, which finds this module there before it is looked up by its name."""
    top = sys.modules[__name__.partition(".")[0]]
    root, module = str(Path(top.__file__).resolve().parents[1]), __name__

    def work(config: str, subject: dict, device: str | None) -> dict:
        import importlib
        import sys

        if root not in sys.path:
            sys.path.insert(0, root)
        return importlib.import_module(module).work_on(config, subject, device)

    return work


def work_on(config: str, subject: dict, device: str | None = None) -> dict:
    """
    Work on one subject, in the process of a worker.

    Args:
        config: JSON of the configuration, see :class:`ClusterLoader`.
        subject: of the data set.
        device: in place of that of the configuration.

    Returns:
        an item of :class:`ClusterLoader`.
    """
    evaluator = _evaluator(config, device)
    evaluator.failures.clear()
    evaluator.skipped.clear()
    evaluator.worked.clear()
    for handler in evaluator.subject_handlers:
        if hasattr(handler, "forget"):
            handler.forget()
    dataset = evaluator.data_loader.dataset
    dataset.data = [subject]
    evaluator.state.batch = collate_subject([dataset[0]])
    evaluator.work_on(evaluator.state.batch)
    name = subject["subject"]
    outcome = {"subject": name, "done": "before" if evaluator.skipped else "now"}
    if evaluator.stopped:
        outcome = {"subject": "", "stop": evaluator.stopped}
    elif evaluator.failures:
        outcome = {"subject": name, "error": evaluator.failures[name]}
    evaluator.stopped, evaluator.state.batch, evaluator.state.output = "", None, None
    return outcome


@lru_cache(maxsize=1)
def _evaluator(config: str, device: str | None) -> CohortEvaluator:
    with suppress(ImportError, ValueError):
        from distributed import get_worker

        torch.set_num_threads(get_worker().state.nthreads)
    content = json.loads(config)
    if device is not None:
        content["device"] = device
    if content["bundle_root"] not in sys.path:
        sys.path.insert(0, content["bundle_root"])
    os.environ.setdefault("MPLBACKEND", "Agg")
    parser = ConfigParser(content)
    try:
        evaluator = parser.get_parsed_content("evaluator")
        network = parser.get_parsed_content("loaded_network")
    except Exception as error:
        raise root_cause(error) from error
    wanted = content["former_results"]["run"]
    found = {"code": code_hash(), "weights": weights_hash(network)}
    for name in [name for name in found if found[name] != wanted[name]]:
        raise ClusterError(
            f"its {name} differs from that of the run (hash {found[name]}, expected {wanted[name]}). Install the same "
            "version on all computers, and let them read the same weights."
        )
    return evaluator
