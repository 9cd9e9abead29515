"""Cohorts of phantoms on disk, in the layout of the real data set, with a truth file for each subject."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from filelock import FileLock
from openpyxl import Workbook
from tqdm import tqdm

from .draws import subject_spec
from .kinds import chosen, draw_kind
from .sessions import NEW_MICROBLEEDS, draw_sessions, files_of_session, simulate_sessions
from .simulate import Phantom, simulate
from .spec import PRESETS, PhantomSpec

VERSION = 3  # raise it when the simulated images change, so that cached cohorts are made anew
PARTIAL = "-partial-"  # follows a cohort's name in that of the hidden folder in which it is made
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can hold


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_bytes(content)
    aside.replace(path)


def _nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI file without a time stamp or a file name, so that equal images are equal bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=buffer, mtime=0) as stream:
        stream.write(image.to_bytes())
    return buffer.getvalue()


def _json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def excel_rows(truth: dict) -> list[tuple[int, int, int]]:
    """Rows (slice, x, y) of the label file: 1-based, x along i, y along j, rounded to the nearest voxel."""
    rows = [tuple(int(np.floor(v + 0.5)) + 1 for v in lesion["voxel"]) for lesion in truth["microbleeds"]]
    return sorted((k, i, j) for i, j, k in rows)


def _excel_bytes(rows: list[tuple[int, int, int]]) -> bytes:
    """An Excel file without a header row; its times are fixed, so that equal rows are equal bytes."""
    book = Workbook()
    for row in rows:
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    fixed = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(fixed, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:.]+Z", b"1980-01-01T00:00:00Z", content)
            entry = zipfile.ZipInfo(item.filename, _EPOCH)
            target.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return fixed.getvalue()


def write_subject(phantom: Phantom, dataset_dir: str | Path, subject: str) -> None:
    """Write one subject: what the spec's outputs name below Data (as Data/SWI or Data/T2star), Label and Truth.

    Args:
        phantom: what to write.
        dataset_dir: folder of the data set.
        subject: name of the subject and of its files.
    """
    write_scan(phantom.images, phantom.affine, phantom.truth, dataset_dir, subject)


def write_scan(
    images: Mapping[str, np.ndarray], affine: np.ndarray, truth: dict, dataset_dir: str | Path, subject: str
) -> None:
    """Write a scan with its label and its truth.

    Args:
        images: arrays (i, j, k) by the name of their folder below Data.
        affine: (4, 4) voxel to RAS mm.
        truth: with the list "microbleeds", whose "voxel" the label repeats.
        dataset_dir: folder of the data set.
        subject: name of the subject and of its files.
    """
    folder = Path(dataset_dir)
    for name, array in images.items():
        _write(folder / "Data" / name / f"{subject}.nii.gz", _nifti_bytes(array, affine))
    _write(folder / "Label" / f"{subject}.xlsx", _excel_bytes(excel_rows(truth)))
    content = {"subject": subject, **truth}
    _write(folder / "Truth" / f"{subject}.json", _json_bytes(content))


def _make_subject(
    index: int,
    folder: str,
    digits: int,
    spec: PhantomSpec,
    seed: int,
    kinds: list[str],
    maps: list[str],
    over_time: dict,
    **how: bool,
) -> None:
    if kinds:
        kind = kinds[index % len(kinds)]
        on_map = maps[index // len(kinds) % len(maps)] if kind.startswith("map_") else ""
        subject = draw_kind(kind, index=index, seed=seed, base=spec, chi_map=on_map)
    else:
        subject = subject_spec(spec, index, seed, chi_map=maps[index % len(maps)] if maps else "", **how)
    if over_time:
        write_patient(simulate_sessions(draw_sessions(subject, **over_time)), folder, f"sub-{index + 1:0{digits}d}")
    else:
        write_subject(simulate(subject), folder, f"phantom-{index + 1:0{digits}d}")


def write_patient(phantoms: Sequence[Phantom], dataset_dir: str | Path, participant: str) -> None:
    """Write the scans of one patient as a BIDS data set with the sessions 1, 2, ..., with labels and truth.

    Args:
        phantoms: as of :func:`~.sessions.simulate_sessions`.
        dataset_dir: folder of the data set.
        participant: such as "sub-001".
    """
    folder = Path(dataset_dir)
    for number, phantom in enumerate(phantoms, 1):
        for name, content in files_of_session(phantom, participant, number).items():
            image = isinstance(content, np.ndarray)
            _write(folder / name, _nifti_bytes(content, phantom.affine) if image else _json_bytes(content))
        label = f"{participant}_ses-{number}_label.xlsx"
        _write(folder / "derivatives" / "labels" / label, _excel_bytes(excel_rows(phantom.truth)))


def map_files(maps: str | Path | None) -> list[str]:
    """Paths of a map or of all maps in a folder."""
    if maps is None:
        return []
    path = Path(maps).expanduser().absolute()
    files = sorted(str(f) for f in path.glob("*.nii*")) if path.is_dir() else [str(path)] if path.is_file() else []
    if not files:
        raise FileNotFoundError(
            f"maps is {path}; expected a NIfTI file, or a folder with some, of susceptibility in ppm"
        )
    return files


def make_cohort(
    dataset_dir: str | Path,
    subjects: int = 20,
    preset: str | PhantomSpec = "SMALL",
    seed: int = 0,
    processes: int | None = None,
    vary: bool = False,
    vary_geometry: bool = False,
    progress: bool = True,
    kinds: str | Sequence[str] = (),
    maps: str | Path | None = None,
    sessions: int = 1,
    other_protocol: float = 0.0,
    new_microbleeds: float = NEW_MICROBLEEDS,
) -> str:
    """Simulate a cohort, or reuse the one that was made with the same parameters.

    The folder appears whole: it is written aside, in a hidden folder next to it, and renamed at the end. Where another
    process is making the same folder, this waits for it. What one that was killed left behind is removed.

    Args:
        dataset_dir: folder to make.
        subjects: number of subjects.
        preset: name of a preset ("HR", "LR", "SMALL", "TINY", "T2STAR") or a spec.
        seed: seed of the cohort; the number of processes does not matter to the result.
        processes: subjects simulated at a time; None takes one for each available core.
        vary: whether field, echo time, noise, filter, phase scale, polarity and tilt vary between subjects.
        vary_geometry: whether voxels, extent, atrophy, skull stripping and the number of microbleeds vary.
        progress: whether a progress bar is shown.
        kinds: kinds of scan that the subjects take in turn, see KINDS in kinds.py: names, or "all"; the preset then
            gives the extent. None makes plain scans of the preset.
        maps: susceptibility map (NIfTI, ppm), or a folder of them: for the kinds that start with "map_", or, without
            kinds, for plain scans of each map in turn.
        sessions: scans of each subject. With more than one the cohort is a BIDS data set with sessions; a head lies
            anew in each, and some microbleeds are new, see sessions.py.
        other_protocol: share of later scans that are made by another protocol, 0 to 1.
        new_microbleeds: mean number of new microbleeds in each later scan.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown preset or kind, or no subjects.
        FileNotFoundError: maps names nothing.
        FileExistsError: the folder holds something else.
        ChildProcessError: a process of the simulation has ended early, as for want of memory.
    """
    if isinstance(preset, str) and preset.upper() not in PRESETS:
        raise ValueError(f"preset is {preset!r}; expected one of {sorted(PRESETS)} or a PhantomSpec")
    if sessions < 1:
        raise ValueError(f"sessions is {sessions}; expected at least 1")
    if not 0 <= other_protocol <= 1 or new_microbleeds < 0:
        raise ValueError(
            f"other_protocol is {other_protocol} and new_microbleeds {new_microbleeds}; expected a share from 0 to 1, "
            "and a number of 0 or more"
        )
    if subjects < 1:
        raise ValueError(f"subjects is {subjects}; expected at least 1")
    spec = PRESETS[preset.upper()] if isinstance(preset, str) else preset
    folder = Path(dataset_dir).expanduser().absolute()
    wanted = {"version": VERSION, "subjects": subjects, "seed": seed, "vary": vary, "vary_geometry": vary_geometry}
    wanted["spec"] = spec.as_dict()
    files = map_files(maps)
    names = chosen(kinds, bool(files))
    on_maps = bool(files) if not names else any(name.startswith("map_") for name in names)
    if names:
        wanted["kinds"] = names
    if names or files:
        wanted["maps"] = {Path(f).name: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files}
    over_time = {}
    if sessions > 1:
        over_time = {"sessions": sessions, "other_protocol": other_protocol, "new": new_microbleeds}
        wanted["over_time"] = over_time
        if on_maps:
            raise ValueError("sessions is more than 1, which scans of susceptibility maps have not; leave maps out")
    if _is_whole(folder, wanted):
        return str(folder)
    with _alone(folder) as alone:
        # another process may have made it meanwhile
        if not _is_whole(folder, wanted):
            if alone:
                _clear_remains(folder)
            how = {"spec": spec, "seed": seed, "vary": vary, "vary_geometry": vary_geometry}
            how |= {"kinds": names, "maps": files, "digits": max(3, len(str(subjects))), "over_time": over_time}
            bar = {"total": subjects, "desc": f"phantoms {spec.name}", "unit": "subject", "disable": not progress}
            _make_whole(folder, wanted, partial(_make_subject, **how), processes, bar)
    return str(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Wait until no other process makes a folder, and keep it; yields False where the file system has no locks."""
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire()
    except (NotImplementedError, OSError):
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink()
        lock.release()


def _make_whole(
    folder: Path, wanted: dict, make: Callable[..., None], processes: int | None, bar: dict[str, Any]
) -> None:
    """Simulate all subjects in a hidden folder beside the wanted one, and rename it."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}{PARTIAL}", dir=folder.parent))
    try:
        aside.chmod(0o755)
        work, subjects = partial(make, folder=str(aside)), wanted["subjects"]
        if processes is None:
            processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(processes, subjects)
        if processes == 1:
            for index in tqdm(range(subjects), **bar):
                work(index)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
                try:
                    for _ in tqdm(pool.map(work, range(subjects)), **bar):
                        pass
                except BrokenProcessPool:
                    raise ChildProcessError(
                        f"{folder}: one of {processes} processes that simulate has ended early, mostly for want of "
                        f"memory; nothing was written. Use fewer: --processes {processes - 1}. A script of one's own "
                        "that simulates needs 'if __name__ == \"__main__\":' before the call."
                    ) from None
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        _write(aside / "cohort.json", _json_bytes(wanted))
        if wanted.get("over_time"):
            about = {"Name": "Simulated scans", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
            _write(aside / "dataset_description.json", _json_bytes(about))
        try:
            aside.rename(folder)
        except OSError:
            # without locks, another process may have finished the same cohort meanwhile
            if not _is_whole(folder, wanted):
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _end_with_parent() -> None:
    """Let this worker end as soon as the process that started it does, which may have been killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _clear_remains(folder: Path) -> None:
    """Remove what a simulation of the same folder left that was killed; the lock tells that none is running."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}{PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)


def _is_whole(folder: Path, wanted: dict) -> bool:
    """Whether a folder is the wanted cohort; an absent or empty one is not, and any other content is an error."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    record = folder / "cohort.json"
    found = json.loads(record.read_text()) if record.is_file() else None
    if found == wanted:
        return True
    what = "another cohort" if found else "something that is not a phantom cohort"
    raise FileExistsError(f"{folder} holds {what}; name a folder that does not exist, or remove this one")


def default_cohort(name: str = "small", subjects: int = 20) -> str:
    """The cohort that is used when no data set is named: made on first use, in the user's cache folder.

    Args:
        name: name of a preset.
        subjects: number of subjects.

    Returns:
        The folder, `$XDG_CACHE_HOME` or `~/.cache`, then `cmb_bundle/phantoms-<name>-<version>`.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "cmb_bundle" / f"phantoms-{name.lower()}-{VERSION}"
    there = (folder / "cohort.json").is_file()
    if os.environ.get("RANK", "0") == "0":  # the processes of torchrun say it once
        print(
            f"No dataset_dir was given: this is the demo, on {subjects} simulated phantoms in {folder}"
            f"{'.' if there else ', which are simulated now (once; later runs reuse them).'}",
            flush=True,
        )
    return make_cohort(folder, subjects=subjects, preset=name)
