"""Run broken inputs in a process with limits, and judge what became of each."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from ..helpers.processes import start_module
from .scans import Fault, Scan

LIMIT_GB = 4.0
"""Memory that inputs may take beyond what the program has when it starts."""
MOST_SECONDS = 3600
LONGEST_LINE = 1500
NEAR_VOXELS = 2.0


@dataclass(frozen=True)
class Outcome:
    """
    What became of an input.

    Attributes:
        kind, name: of the fault.
        end: "same", "warned", "differs", "refused" or, where there is nothing, "lost".
        reason: the line by which it was refused, or the warnings.
        problem: what is wrong with that; empty where nothing is.
    """

    kind: str
    name: str
    end: str
    reason: str = ""
    problem: str = ""


def problem_of_line(line: str) -> str:
    """What keeps the reason of a failure from being one plain line; empty where nothing does."""
    errors = importlib.import_module("scripts.errors")
    named = re.match(r"(\w+): ", line)
    kind = getattr(errors, named[1], None) if named else None
    if not (isinstance(kind, type) and issubclass(kind, errors.InputError)):
        return "no error that a user can mend"
    if "MemoryError" in line or "allocate memory" in line or "no reason given" in line:
        return "it took all memory, or gives no reason"
    first, *others = line.strip().split("\n")
    listed = (
        not others or first.endswith(":") or others[0].endswith(":")
    )  # a list, such as of the series that are there
    if not listed or len(line) > LONGEST_LINE:
        return f"{len(line.splitlines())} lines of {len(line)} letters"
    return ""


def findings_of(output_dir: Path, subject: str) -> dict:
    return json.loads((output_dir / subject / f"{subject}_cmb.json").read_text(encoding="utf-8"))


def same_findings(found: Sequence[Mapping], wanted: Sequence[Mapping]) -> bool:
    """Whether as many microbleeds were found, at the same voxels."""
    return len(found) == len(wanted) and all(
        any(
            max(abs(a - b) for a, b in zip(one["voxel"], other["voxel"], strict=True)) <= NEAR_VOXELS
            for other in wanted
        )
        for one in found
    )


def judge(fault: Fault, subject: str, intact: str, output_dir: Path, rows: Mapping, failures: Mapping) -> Outcome:
    """Judge one subject by ``subjects.csv`` (its rows), ``failures.csv`` and its JSON."""
    ours = [name for name in (*rows, *failures) if name == subject or name.startswith(f"{subject}_")]
    if not ours:
        return Outcome(fault.kind, fault.name, "lost", "", "neither a result nor a failure")
    name = ours[0]
    wanted = findings_of(output_dir, intact)
    if "no DICOM SEG and SR were written" in failures.get(name, ""):  # the other results are kept
        same = same_findings(findings_of(output_dir, name)["microbleeds"], wanted["microbleeds"])
        return Outcome(fault.kind, fault.name, "warned", failures[name], "" if same else "other findings")
    if name in failures:
        line = failures[name]
        problem = problem_of_line(line)
        if (output_dir / name / f"{name}_cmb.json").exists():
            problem = "it has failed and has results"
        return Outcome(fault.kind, fault.name, "refused", line, problem)
    if name not in rows:
        return Outcome(fault.kind, fault.name, "lost", "", "not in subjects.csv")
    found = findings_of(output_dir, name)
    if same_findings(found["microbleeds"], wanted["microbleeds"]):
        return Outcome(fault.kind, fault.name, "same", found["warnings"])
    said = {*found["warnings"].split(". ")} - {*wanted["warnings"].split(". ")}
    if said:
        return Outcome(fault.kind, fault.name, "warned", found["warnings"])
    number = f"{len(found['microbleeds'])} microbleeds, not {len(wanted['microbleeds'])}"
    unknowable = fault.unknowable and f"{number}; {fault.unknowable}"
    return Outcome(fault.kind, fault.name, "differs", unknowable, "" if unknowable else f"{number}, without a warning")


def run_workflow(configs: Iterable[str], run_id: str | None = None, **options: object) -> BaseException | None:
    """Run a bundle's configuration in this process; returns what ended it, None if nothing did."""
    import monai.bundle

    root = Path(__file__).resolve().parents[2] / "cmb_bundle"
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    hook, records = sys.excepthook, logging.getLogRecordFactory()
    try:
        files = [str(root / "configs" / name) for name in configs]
        monai.bundle.run(run_id, config_file=files, logging_file=False, **options)
    except (Exception, SystemExit) as error:
        return importlib.import_module("scripts.errors").root_cause(error)
    finally:
        sys.excepthook = hook
        logging.setLogRecordFactory(records)
    return None


def read_table(path: Path) -> dict[str, dict]:
    """The rows of a CSV by subject; none where it is not there."""
    if not path.exists():
        return {}
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("subject").to_dict("index")


def run_scans(
    faults: Sequence[Fault], scan: Scan, folder: Path, as_datalist: bool = False, **options: object
) -> list[Outcome]:
    """Make the broken scans in one data set beside an intact one, run inference once, and judge each."""
    scans, output_dir = folder / "scans", folder / "results"
    scans.mkdir(parents=True)
    names = [f"n{number:04d}" for number in range(len(faults))]
    if as_datalist:
        intact = Fault("", "", _intact_series)
    else:
        intact = Fault("", "", lambda s, f, n: (f / f"{n}_swi.nii").write_bytes(s.swi))
    intact.make(scan, scans, "intact")
    for fault, name in zip(faults, names, strict=True):
        fault.make(scan, scans, name)
    dataset_dir = scans
    if as_datalist:
        listed = [{"subject": name, "dicom": str(scans / name)} for name in (*names, "intact")]
        dataset_dir = folder / "list.json"
        dataset_dir.write_text(json.dumps({"unlabelled": listed}))
    error = run_workflow(
        ["inference.json"], dataset_dir=str(dataset_dir), output_dir=str(output_dir), picture=False, **options
    )
    failures = {name: row["reason"] for name, row in read_table(output_dir / "failures.csv").items()}
    rows = {name: row for name, row in read_table(output_dir / "subjects.csv").items() if name not in failures}
    if type(error).__name__ != ("CohortError" if failures else "NoneType"):
        raise RuntimeError(f"The run ended with {error!r}, {len(failures)} failures") from error
    return [judge(fault, name, "intact", output_dir, rows, failures) for fault, name in zip(faults, names, strict=True)]


def _intact_series(scan: Scan, folder: Path, subject: str) -> None:
    from .scans import _write_series

    _write_series(scan, folder, subject)


def limit_memory(gigabytes: float = LIMIT_GB) -> None:
    """Let this process have so much more memory than it has now; beyond that it is refused."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(status["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + int(gigabytes * 2**30),) * 2)


def in_process_of_its_own(part: str, folder: Path, every: int = 1) -> tuple[list[Outcome], float, float]:
    """
    Run a part of the programme in a process with limits of time and memory.

    Args:
        part: what ``python -m tests.faults --part`` takes.
        folder: to work in; it is made and removed.
        every: every n-th input alone.

    Returns:
        outcomes, seconds, and the largest resident memory in GB.
    """
    folder.mkdir(parents=True)
    began, root = time.monotonic(), Path(__file__).resolve().parents[2]
    command = ["tests.faults", "--part", part, "--folder", folder, "--every", every]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = start_module(command, root, folder / "out", folder / "log", environment)
    process.join(MOST_SECONDS)
    ended = f"ended with {process.exitcode}" if process.exitcode else ""
    if process.is_alive():
        process.kill()
        process.join()
        ended = f"was not done within {MOST_SECONDS} s"
    outcomes, memory = [], 0.0
    if (folder / "outcomes.json").exists():
        content = json.loads((folder / "outcomes.json").read_text())
        outcomes, memory = [Outcome(**one) for one in content["outcomes"]], content["gigabytes"]
    if ended or not outcomes:
        last = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-25:])
        raise RuntimeError(f"The part {part} {ended or 'gave nothing'}; its last lines:\n{last}")
    shutil.rmtree(folder)
    return outcomes, time.monotonic() - began, memory


def keep(folder: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the outcomes where :func:`in_process_of_its_own` reads them."""
    # ru_maxrss would be that of the process which started this one, where that is larger
    status = Path("/proc/self/status").read_text()
    gigabytes = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024**2
    content = {"gigabytes": gigabytes, "outcomes": [asdict(one) for one in outcomes]}
    (folder / "outcomes.json").write_text(json.dumps(content))
