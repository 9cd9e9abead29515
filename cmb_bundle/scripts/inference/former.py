"""Which subjects were done by an earlier run, from the same files, with the same weights, options and program."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..data.datalists import FILE_KEYS
from ..data.results import results_of
from ..data.sidecars import read_sidecar
from ..dicom.writers import bundle_version
from ..errors import OptionError, SubjectError
from ..options import check_flags, enclosing_workflow
from ..regions.parcellation import find_parcellation

SCRIPTS = Path(__file__).resolve().parents[1]
LABELS = ("label", "truth")
IMAGES = ("image", "phase", "magnitude", "t2star")
WITHOUT_EFFECT = {
    "imports", "initialize", "run", "finalize", "convert", "bundle_root", "dataset_dir", "output_dir", "datalist_file",
    "checkpoint", "subset", "fold", "folds", "seed", "subjects", "num_workers", "pin_memory", "debug", "resume",
    "compare_files", "former_results", "split", "dataset", "dataloader", "cluster", "cluster_file", "workers",
    "worker_gb", "subject_minutes", "cohort_files", "bootstrap", "label_file", "follow_up", "reader", "match_mm",
    "second_look_mm", "second_look_probability", "dark_share", "certain_threshold", "joint_weight",
}  # fmt: skip
"""Top-level ids that change where subjects and results lie and how they are worked on, not what is found in one."""


class FormerResults:
    """
    Tell which subjects have whole results that were made from the same files, weights, options and program.

    Beside the results of a subject lies ``<subject>_cmb_run.json`` (``_desc-cmb_run.json`` among BIDS derivatives),
    written last: ``made_from``, and the name and size of each file that was written. The weights are told by a hash of
    the network's values, whatever file they came from; the options by one of the configuration that is being run; the
    program by its version and a hash of its code.

    Args:
        output_dir: folder of results.
        network: with its weights.
        resume: False does everything again.
        compare_files: what makes a scan's file the same: ``"time"``, its size and the time of its last change, or
            ``"content"``, a hash of all of it, which takes as long as reading it.
        with_labels: whether results depend on the labels, as those of an evaluation do.
        layout: of the results, "default" or "bids".
        also: ends of the names of further files that must be there, such as ``"_cmb_records.json"``.
        run: what tells weights, options and program, as of :attr:`run` of another; by default found out. It is None
            where no configuration is being run, and then no subject is done.

    Raises:
        OptionError: ``resume`` is no truth value, or ``compare_files`` none of the two.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: torch.nn.Module,
        resume: bool = True,
        compare_files: str = "time",
        with_labels: bool = False,
        also: Sequence[str] = (),
        layout: str = "default",
        run: Mapping[str, str] | None = None,
    ) -> None:
        check_flags(resume=resume)
        if compare_files not in ("time", "content"):
            raise OptionError(f"compare_files is {compare_files!r}; expected time or content.")
        self.output_dir, self.resume, self.compare_files = Path(output_dir), resume, compare_files
        self.keys = [key for key in FILE_KEYS if with_labels or key not in LABELS]
        self.also, self.layout = tuple(also), layout
        self.run = dict(run) if run is not None else _this_run(network)

    def identify(self, subject: Mapping[str, Any]) -> str | None:
        """What a subject's results are made from, as JSON; None where that cannot be told.

        Images are not read but for ``compare_files="content"``.
        """
        if self.run is None or "subject" not in subject:
            return None
        files = {key: self._files(_with_data(subject[key])) for key in self.keys if subject.get(key) is not None}
        images = [subject[key] for key in IMAGES if isinstance(subject.get(key), str)]
        with suppress(SubjectError):  # of several, which is said when one is looked for
            beside = find_parcellation(images, subject["subject"])
            if beside is not None and "parcellation" not in files:
                files["parcellation"] = self._files(_with_data(beside))
        # a JSON file beside an image, or wherever it is looked for, tells echo time, field and units
        acquired = {key: repr(read_sidecar(subject[key])) for key in IMAGES if isinstance(subject.get(key), str)}
        made_from = {"run": self.run, "files": files, "acquired": acquired, "notices": subject.get("notices", "")}
        return json.dumps(made_from, sort_keys=True)

    def is_done(self, subject: str, made_from: str | None) -> bool:
        """Whether the results of a subject are whole and were made from the same as ``made_from`` says."""
        if not self.resume or made_from is None:
            return False
        try:
            places = results_of(self.output_dir, subject, self.layout)
        except SubjectError:  # no BIDS label can be made of its id, which is said when it is written
            return False
        manifest = read_manifest(places.manifest)
        if manifest is None or manifest.get("incomplete"):
            return False
        if self._comparable(manifest["made_from"]) != self._comparable(json.loads(made_from)):
            return False
        others = (self.output_dir / subject / f"{subject}{end}" for end in self.also)
        return is_whole(places.root, manifest) and all(path.is_file() for path in others)

    def _comparable(self, made_from: Mapping) -> dict:
        left_out = "time" if self.compare_files == "content" else "sha256"
        files = {
            key: [{name: value for name, value in file.items() if name != left_out} for file in listed]
            for key, listed in made_from["files"].items()
        }
        return {**made_from, "files": files}

    def _files(self, given: Any) -> list[dict]:
        """Name, size and time of each file; of a folder's or a long list's files one hash of all."""
        paths = [Path(path) for path in (given if isinstance(given, list | tuple) else [given])]
        if len(paths) == 1 and not paths[0].is_dir():
            return [self._file(paths[0], paths[0].name)]
        one = [(path, str(path.relative_to(top.parent))) for top in paths for path in _below(top)]
        files = [self._file(path, name) for path, name in sorted(one)]
        told = {"name": f"{len(files)} files", "bytes": sum(file["bytes"] or 0 for file in files)}
        for key in [key for key in ("time", "sha256") if files and key in files[0]]:
            told[key] = _hash(json.dumps([[file["name"], file["bytes"], file.get(key)] for file in files]).encode())
        return [told]

    def _file(self, path: Path, name: str) -> dict:
        try:
            found = path.stat()
            told = {"name": name, "bytes": found.st_size, "time": found.st_mtime_ns}
            if self.compare_files == "content":
                read = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(1 << 24):
                        read.update(block)
                told["sha256"] = read.hexdigest()
        except OSError:  # whoever reads it says what is wrong
            return {"name": name, "bytes": None, "time": None}
        return told


def _with_data(given: Any) -> Any:
    """With a header whose data are in a file of their own, or a table of its labels, the files of the same name."""
    path = Path(given) if isinstance(given, str | Path) else None
    if path is None or path.is_dir():
        return given
    stem = path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem
    apart = (".tsv",) if path.suffix.lower() not in (".hdr", ".mhd", ".nhdr") else None
    found = [one for one in path.parent.glob(f"{glob.escape(stem)}.*") if apart is None or one.suffix in apart]
    return sorted({path, *found}) if found else given


def read_manifest(path: Path) -> dict | None:
    """What is known of how a subject's results were made; None where there is nothing, or not as it is written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["made_from"]["run"]["version"], content["made_from"]["files"].items(), content["results"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content


def is_whole(root: Path, manifest: Mapping) -> bool:
    """Whether all files that a manifest names are there in their sizes; a table may have been corrected by hand."""
    for name, size in manifest["results"].items():
        try:
            found = (root / name).stat().st_size
        except OSError:
            return False
        if found != size and not name.endswith((".csv", ".tsv")):
            return False
    return True


def _this_run(network: torch.nn.Module) -> dict[str, str] | None:
    try:
        config = enclosing_workflow().parser.get()
    except OptionError:
        return None
    options = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT and not key.startswith("_")}
    return {
        "version": bundle_version(),
        "code": code_hash(),
        "weights": weights_hash(network),
        "options": _hash(json.dumps(options, sort_keys=True, default=str).encode()),
    }


def weights_hash(network: torch.nn.Module) -> str:
    """
    A hash of the names and values of all tensors of a network, the same on every device.

    Example:
        >>> one, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> weights_hash(one) == weights_hash(other)
        False
        >>> _ = other.load_state_dict(one.state_dict())
        >>> weights_hash(one) == weights_hash(other)
        True
    """
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@cache
def code_hash() -> str:
    """A hash of the program's own files."""
    found = hashlib.sha256()
    for path in sorted(SCRIPTS.rglob("*.py")):
        found.update(str(path.relative_to(SCRIPTS)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _below(path: Path) -> Iterator[Path]:
    # of what may not be looked at, Path.is_file() raises an error
    return (one for one in path.rglob("*") if os.path.isfile(one)) if path.is_dir() else iter([path])  # noqa: PTH113
