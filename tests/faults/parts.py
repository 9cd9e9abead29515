"""The parts of the programme, each of which is worked through in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cmb_bundle.scripts.phantom import TINY, make_cohort

from . import kills, others, scans
from .judge import Outcome, run_scans
from .scans import Fault, Scan

SUBJECT = "phantom-001"


def make_base(folder: Path) -> Path:
    """Simulate the intact scan: five microbleeds, all of which are found with a probability of 0.9 or more."""
    make_cohort(folder, 1, TINY.changed(microbleeds=5), seed=11, progress=False, processes=1)
    return folder


def of_files(faults: Callable[[], object], cohort: Path, folder: Path, every: int) -> list[Outcome]:
    return run_scans(list(faults())[::every], Scan.of(cohort, SUBJECT), folder)


def of_everything(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """A few inputs of each kind in one run, for the tests that are run every day; few candidates save its time."""
    kinds = [(scans.header_faults, 47), (scans.phase_header_faults, 34), (scans.gzip_faults, 7), (scans.data_faults, 7),
             (scans.special_faults, 1), (scans.text_header_faults, 17), (scans.sidecar_faults, 33)]  # fmt: skip
    chosen = [fault for kind, step in kinds for fault in list(kind())[::step]]
    return run_scans(chosen[::every], Scan.of(cohort, SUBJECT), folder, max_candidates=8)


def of_dicom(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    return run_scans(list(scans.dicom_faults())[::every], Scan.of(cohort, SUBJECT), folder, as_datalist=True)


FOUND_BY_THEM = ("UID", "PatientID", "Modality", "StudyDate", "SeriesDescription", "SeriesNumber", "ImageType")


def of_studies(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """Studies that are looked for in a folder; each has a run of its own."""
    outcomes = []
    for fault in [f for f in scans.dicom_faults() if any(word in f.name for word in FOUND_BY_THEM)][::every]:
        here, scan = folder / "one", Scan.of(cohort, SUBJECT)
        outcomes.append(_one_study(fault, scan, here))
        shutil.rmtree(here)
    return outcomes


def _one_study(fault: Fault, scan: Scan, folder: Path) -> Outcome:
    """A data set of one study: whatever it is called, it must be in one of the tables, or end the run."""
    from .judge import findings_of, problem_of_line, read_table, run_workflow, same_findings

    kind, output_dir = "DICOM studies", folder / "results"
    (folder / "scans").mkdir(parents=True)
    fault.make(scan, folder / "scans", "n0000")
    error = run_workflow(
        ["inference.json"], dataset_dir=str(folder / "scans"), output_dir=str(output_dir), picture=False
    )
    failures = {name: row["reason"] for name, row in read_table(output_dir / "failures.csv").items()}
    done = [name for name in read_table(output_dir / "subjects.csv") if name not in failures]
    if not failures and not done:
        line = f"{type(error).__name__}: {error}"
        return Outcome(kind, fault.name, "refused" if error else "lost", line, problem_of_line(line))
    if failures and all("no DICOM SEG and SR" in line for line in failures.values()):
        failures, done = {}, list(failures)
    if failures:
        lines = list(failures.values())
        problems = [problem_of_line(line) for line in lines]
        return Outcome(kind, fault.name, "refused", lines[0], next((p for p in problems if p), ""))
    intact = folder.parent / "intact"
    if not intact.exists():
        (intact / "scans").mkdir(parents=True)
        scans._write_series(scan, intact / "scans", "n0000")
        run_workflow(
            ["inference.json"], dataset_dir=str(intact / "scans"), output_dir=str(intact / "results"), picture=False
        )
    wanted = findings_of(intact / "results", "n0000")
    found = [findings_of(output_dir, name) for name in done]
    if len(done) == 1 and same_findings(found[0]["microbleeds"], wanted["microbleeds"]):
        return Outcome(kind, fault.name, "same")
    counts = f"{len(done)} scans with {[len(one['microbleeds']) for one in found]} microbleeds"
    if all(one["warnings"] != wanted["warnings"] for one in found):
        return Outcome(kind, fault.name, "warned", counts)
    return Outcome(kind, fault.name, "differs", counts, "" if fault.unknowable else f"{counts}, without a warning")


PARTS: dict[str, Callable[[Path, Path, int], list[Outcome]]] = {
    "some": of_everything,
    "header": partial(of_files, scans.header_faults),
    "phase": partial(of_files, scans.phase_header_faults),
    "gzip": partial(of_files, scans.gzip_faults),
    "data": partial(of_files, scans.data_faults),
    "special": partial(of_files, scans.special_faults),
    "text": partial(of_files, scans.text_header_faults),
    "json": partial(of_files, scans.sidecar_faults),
    "dicom": of_dicom,
    "studies": of_studies,
    "labels": others.of_labels,
    "datalists": others.of_datalists,
    "weights": others.of_weights,
    "options": others.of_options,
    "commands": others.of_commands,
    **kills.PARTS,
}
