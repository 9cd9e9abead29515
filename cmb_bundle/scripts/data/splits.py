"""Cross-validation by subject: deal the subjects to folds, keep the split in a datalist, and take a part of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LabelError, SubjectError
from ..files import write_json
from .bids import only_labelled, participant_of
from .datalists import FILE_KEYS, read_datalist
from .label_files import subjects_of_table
from .labels import LabelConvention, count_points
from .layouts import find_subjects

logger = logging.getLogger(__name__)

ADVICE = "Correct the datalist, or delete it or give another datalist_file to have a new split made."

PARTS = ("test", "validation", "train")
"""The part that a fold is for, by its distance from the test fold; all further folds are for training."""


def assign_folds(
    subjects: Sequence[str], lesion_counts: Sequence[int], folds: int = 5, seed: int = 0
) -> dict[str, int]:
    """Deal subjects to folds of like numbers of subjects, of positive subjects and of microbleeds.

    Positive subjects are dealt in rounds, most microbleeds first, one to each fold, the largest of a round to
    the fold that has the fewest microbleeds by then; negative subjects follow, to the smallest folds. So any two
    folds differ by at most one positive subject, one negative and one in all, and by no more microbleeds than
    the subject with the most has.

    Args:
        subjects: ids, unique; their order does not matter.
        lesion_counts: microbleeds of each subject.
        folds: number of folds.
        seed: of the order among equals.

    Returns:
        the fold, 0 to folds - 1, of each subject.
    """
    random = np.random.default_rng(seed)
    counts = dict(sorted(zip(subjects, lesion_counts, strict=True)))
    names = list(counts)
    shuffled = [names[index] for index in random.permutation(len(names))]
    tie = random.permutation(folds)
    lesions, sizes, negatives = np.zeros((3, folds), dtype=int)
    chosen: dict[str, int] = {}
    positives = sorted((name for name in shuffled if counts[name]), key=lambda name: -counts[name])
    for start in range(0, len(positives), folds):
        order = np.lexsort((tie, lesions))
        for name, fold in zip(positives[start : start + folds], order, strict=False):
            chosen[name] = int(fold)
            lesions[fold] += counts[name]
            sizes[fold] += 1
    for name in (name for name in shuffled if not counts[name]):
        fold = np.lexsort((tie, sizes, negatives))[0]
        chosen[name] = int(fold)
        negatives[fold] += 1
        sizes[fold] += 1
    return chosen


def make_datalist(
    dataset_dir: str | Path,
    datalist_file: str | Path | None = None,
    folds: int = 5,
    seed: int = 0,
    convention: LabelConvention | Mapping[str, Any] | None = None,
    echo: int = -1,
    participant_label: str | Sequence[str] | None = None,
    session_label: str | Sequence[str] | None = None,
    label_file: str | Path | None = None,
) -> dict[str, Any]:
    """Split the labelled subjects of a data set into folds, or take the split of a datalist that is there.

    Args:
        dataset_dir: as for :py:func:`find_subjects`.
        datalist_file: the JSON file to reuse if it is there, for example to repeat a published split, and to
            write otherwise. None: nothing is written.
        folds: number of folds.
        seed: of the split.
        convention: of the labels' tables, or its keyword arguments; noted in the file.
        echo: as for :py:func:`find_subjects`.
        participant_label, session_label: only these participants and sessions, see :py:func:`~.bids.only_labelled`.
        label_file: as for :py:func:`labelled_by`.

    Returns:
        "name", "dataset_dir", "folds", "seed", "convention"; "training", the labelled subjects, each with its
        "fold", its number of "lesions" (rows of a table, components of a label map) and paths relative to
        dataset_dir; "unlabelled", the subjects without a label; "failures", what is wrong with each other one.

    Raises:
        SubjectError: if the data set has no subjects, or if the datalist does not fit the data set or the
            number of folds.
    """
    if not isinstance(convention, LabelConvention):
        convention = LabelConvention(**(convention or {}))
    subjects = only_labelled(find_subjects(dataset_dir, echo), participant_label, session_label)
    subjects = labelled_by(subjects, label_file, dataset_dir)
    root = Path(dataset_dir).expanduser().absolute()
    base = read_datalist(root)[1] if root.suffix.lower() == ".json" else root.parent if root.is_file() else root
    wanted = {"folds": folds, "seed": seed, "echo": echo, "convention": asdict(convention)}
    path = Path(datalist_file).expanduser().absolute() if datalist_file else None
    if path and path.exists():
        return _reuse(path, subjects, base, wanted, label_file is not None)

    failures = {subject["subject"]: subject["error"] for subject in subjects if "error" in subject}
    entries = [_relative(subject, base) for subject in subjects if "error" not in subject]
    training = _count([entry for entry in entries if "label" in entry], base, failures)
    unlabelled = [entry for entry in entries if "label" not in entry]
    if unlabelled:
        logger.warning(
            "%d subjects have no label and are left out of training (of a subject without microbleeds an empty "
            "sheet is expected): %s",
            len(unlabelled),
            ", ".join(entry["subject"] for entry in unlabelled),
        )
    lesions: dict[str, int] = {}  # of a participant, whose sessions must not be in training and in test
    for entry in training:
        person = participant_of(entry["subject"])
        lesions[person] = lesions.get(person, 0) + entry["lesions"]
    fold_of = assign_folds(list(lesions), list(lesions.values()), folds, seed)
    for entry in training:
        entry.setdefault("fold", fold_of[participant_of(entry["subject"])])
    content = {"name": base.name, "dataset_dir": str(base), **wanted, "training": training}
    content |= {"unlabelled": unlabelled, "failures": failures}
    _check_folds(content, folds, root)
    if path:
        write_json(path, content)
    return content


def labelled_by(
    subjects: list[dict[str, Any]], label_file: str | Path | None, dataset_dir: str | Path
) -> list[dict[str, Any]]:
    """
    Let one table of several subjects, such as that of the page for review, be their labels in place of all others.

    Args:
        subjects: of :py:func:`find_subjects`.
        label_file: the table, with a column subject; None leaves the labels as they are.
        dataset_dir: where the subjects are from, for the message.

    Returns:
        the subjects; those that the table does not name have no label.

    Raises:
        LabelError: the table cannot be read, or names a subject that the data set does not have.
    """
    if label_file is None:
        return subjects
    path = Path(label_file).expanduser().absolute()
    named = subjects_of_table(path)
    known = {subject["subject"] for subject in subjects}
    unknown = [name for name in named if name not in known]
    if unknown or not named:
        raise LabelError(
            f"{path}: names {', '.join(unknown[:5]) or 'no subject'}{', ...' if len(unknown) > 5 else ''}, of which "
            f"{dataset_dir} has no trace; it has {', '.join(sorted(known)[:5])}{', ...' if len(known) > 5 else ''}. "
            "Give the data set whose results were reviewed."
        )
    without = [{key: value for key, value in subject.items() if key != "label"} for subject in subjects]
    return [s | ({"label": str(path)} if s["subject"] in named and "error" not in s else {}) for s in without]


class Split:
    """
    The parts of a cross-validation's fold: training, validation and test subjects, found and read once.

    Nothing is read before a part is asked for, so that a config can be looked into (its network, its properties)
    without data.

    Args:
        dataset_dir: as for :py:func:`find_subjects`. None gives parts without subjects; a run without data is an error
            of the evaluator.
        datalist_file: as for :py:func:`make_datalist`; not used for "all".
        fold: the test fold, 0 to folds - 1; -1 keeps none for testing, and fold 0 is for validation.
        folds: number of folds, 3 or more.
        seed: of the split.
        convention: of the labels' tables; noted in a new datalist.
        echo, participant_label, session_label, label_file: as for :py:func:`make_datalist`.

    Example:
        >>> Split(None).part("all")
        []
    """

    def __init__(
        self,
        dataset_dir: str | Path | None,
        datalist_file: str | Path | None = None,
        fold: int = 0,
        folds: int = 5,
        seed: int = 0,
        convention: LabelConvention | Mapping[str, Any] | None = None,
        echo: int = -1,
        participant_label: str | Sequence[str] | None = None,
        session_label: str | Sequence[str] | None = None,
        label_file: str | Path | None = None,
    ) -> None:
        self.dataset_dir = dataset_dir
        self.datalist_file = datalist_file
        self.fold = fold
        self.folds = folds
        self.seed = seed
        self.convention = convention
        self.echo = echo
        self.labels = {"participant_label": participant_label, "session_label": session_label}
        self.label_file = label_file

    @cached_property
    def datalist(self) -> dict[str, Any]:
        """The split of the whole data set, as :py:func:`make_datalist` gives it, with enough subjects for its folds."""
        how = {"folds": self.folds, "seed": self.seed, "convention": self.convention, "echo": self.echo}
        content = make_datalist(self.dataset_dir, self.datalist_file, **how, **self.labels, label_file=self.label_file)
        usable = len(content["training"])
        if usable < self.folds:
            raise SubjectError(
                f"{self.dataset_dir}: {usable} subjects have a label that can be read, fewer than the {self.folds} "
                f"folds; {len(content['unlabelled'])} have no label, {len(content['failures'])} cannot be used"
                f"{_reasons(content['failures'])}\nLabels are looked for as Label/<id>.xlsx (.xls, .csv or a "
                "label map) beside Data/, or as <id>_label.xlsx beside the images; dataset_dir is the folder that "
                "holds Data/ and Label/. To score a few labelled subjects without a split, set subset to all."
            )
        return content

    @property
    def training(self) -> list[dict[str, Any]]:
        """The training subjects, see :py:meth:`part`."""
        return self.part("train")

    @property
    def validation(self) -> list[dict[str, Any]]:
        """The validation subjects, see :py:meth:`part`."""
        return self.part("validation")

    @property
    def test(self) -> list[dict[str, Any]]:
        """The test subjects, see :py:meth:`part`."""
        return self.part("test")

    def part(self, subset: str = "all", subjects: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """
        List the subjects of a part.

        Args:
            subset: "all": every subject, labelled or not, those that cannot be used with their "error"; "test": the
                labelled subjects of the fold; "validation": of the fold after it, cyclically; "train": of the rest.
            subjects: only these ids of the subset.

        Returns:
            dicts sorted by id, with "subject", absolute paths, "notices" if there are any and, but for "all", "fold".

        Raises:
            SubjectError: for an unknown subset, fold or id, for fewer labelled subjects than folds, for a part
                without subjects, or for a training part without any microbleed.
        """
        if self.dataset_dir is None:
            return []
        if subset == "all":
            found = only_labelled(find_subjects(self.dataset_dir, self.echo), **self.labels)
            found = labelled_by(found, self.label_file, self.dataset_dir)
            return _only(found, subjects, self.dataset_dir)
        if subset not in PARTS:
            raise SubjectError(f"subset is {subset!r}; it must be all, {', '.join(PARTS)}.")
        if self.folds < 3 or self.fold not in range(-1, self.folds):
            raise SubjectError(
                f"fold is {self.fold} and folds is {self.folds}; there must be 3 folds or more, for training, "
                "validation and test, and fold is counted from 0 (-1 for no test fold)."
            )
        entries = sorted(self.datalist["training"], key=lambda entry: entry["subject"])
        entries = only_labelled(entries, **self.labels)  # the datalist may be of more subjects
        chosen = [entry for entry in entries if self._part_of(entry) == subset]
        wanted = _only(entries, subjects, self.dataset_dir)
        chosen = [entry for entry in chosen if entry in wanted]
        if not chosen:
            raise SubjectError(
                f"{self.dataset_dir}: no subject is in the {subset} part of fold {self.fold} of {self.folds}."
            )
        if subset == "train" and not any(entry["lesions"] for entry in chosen):
            raise SubjectError(
                f"{self.dataset_dir}: none of the {len(chosen)} training subjects of fold {self.fold} has a "
                "microbleed, so there is nothing to learn from. Are their sheets empty, or is the class column 0 "
                "everywhere?"
            )
        failures = self.datalist["failures"] if subset != "validation" and subjects is None else {}
        failed = [{"subject": name, "error": message} for name, message in sorted(failures.items())]
        return [self._with_paths(entry) for entry in chosen] + failed

    def _part_of(self, entry: Mapping[str, Any]) -> str:
        cycle = self.folds if self.fold >= 0 else self.folds + 1
        return PARTS[min((entry["fold"] - self.fold) % cycle, 2)]

    def _with_paths(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        base = Path(self.datalist["dataset_dir"])
        present = [key for key in ("subject", *FILE_KEYS, "fold", "notices") if entry.get(key) is not None]
        return {key: str(base / entry[key]) if key in FILE_KEYS else entry[key] for key in present}


def _reuse(path: Path, subjects: list[dict], base: Path, wanted: dict[str, Any], relabel: bool) -> dict[str, Any]:
    """A datalist that is there, with its paths taken from the data set's folder as it is now; labels, if asked, too."""
    entries, _ = read_datalist(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content = {"training": content} if isinstance(content, list) else content
    defaults = {"name": base.name, **wanted, "training": [], "unlabelled": [], "failures": {}}
    content = defaults | content | {"dataset_dir": str(base)}
    present = {subject["subject"]: subject for subject in subjects}
    former = [present[name] for name in content["failures"] if name in present]
    content["failures"] = {subject["subject"]: subject["error"] for subject in former if "error" in subject}
    _count([subject for subject in former if "label" in subject], base, content["failures"])
    if relabel:
        content["training"] = [
            entry | {"label": present.get(entry["subject"], {}).get("label")} for entry in content["training"]
        ]
    usable = []
    for entry in content["training"]:
        paths = [base / entry[key] for key in FILE_KEYS if entry.get(key)]
        missing = [str(path) for path in paths if not path.exists()]
        if missing or not entry.get("label"):
            what = f"{missing[0]} is absent" if missing else "there is no label"
            content["failures"][entry["subject"]] = f"The datalist {path} does not fit: {what}. {ADVICE}"
        else:
            usable.append(entry)
    if not usable:
        raise SubjectError(
            f"Datalist {path}: does not fit {base}, where none of its {len(entries)} subjects is with its files and "
            f"label{_reasons(content['failures'])}\n{ADVICE}"
        )
    content["training"] = usable
    _check_folds(content, wanted["folds"], path)
    content["training"] = _count(content["training"], base, content["failures"])

    used = {entry["subject"] for entry in content["training"]}
    unused = sorted({subject["subject"] for subject in subjects if "label" in subject} - used)
    if unused:
        logger.warning("%d labelled subjects are not in the split of %s: %s", len(unused), path, ", ".join(unused))
    for key, value in wanted.items():
        if content[key] != value:
            logger.warning("%s was made with %s %s, not %s; it is used as it is.", path, key, content[key], value)
    return content


def _check_folds(content: Mapping[str, Any], folds: int, path: Path) -> None:
    for entry in content["training"]:
        if entry.get("fold") not in range(folds):
            raise SubjectError(
                f"Datalist {path}: subject {entry['subject']} is in fold {entry.get('fold')!r}; with {folds} folds "
                f"it must be 0 to {folds - 1}. {ADVICE}"
            )


def _count(entries: list[dict], base: Path, failures: dict[str, str]) -> list[dict]:
    """The entries with their numbers of lesions; those whose label cannot be read go to the failures."""
    counted = []
    for entry in entries:
        try:
            counted.append(entry | {"lesions": count_points(base / entry["label"], entry["subject"])})
        except LabelError as error:
            failures[entry["subject"]] = str(error)
    if failures:
        logger.warning("%d subjects cannot be used for training:%s", len(failures), _reasons(failures))
    return counted


def _reasons(failures: Mapping[str, str]) -> str:
    return "".join(f"\n  {name}: {message}" for name, message in failures.items())


def _relative(subject: dict[str, Any], base: Path) -> dict[str, Any]:
    paths = {key: Path(subject[key]) for key in FILE_KEYS if isinstance(subject.get(key), str)}
    return subject | {
        key: path.relative_to(base).as_posix() for key, path in paths.items() if path.is_relative_to(base)
    }


def _only(entries: list[dict], subjects: Sequence[str] | None, dataset_dir: str | Path) -> list[dict]:
    if subjects is None:
        return entries
    known = [entry["subject"] for entry in entries]
    unknown = [name for name in subjects if name not in known]
    if unknown or not subjects:
        raise SubjectError(
            f"{dataset_dir}: of the subjects asked for, {', '.join(unknown) or 'none at all'}, there is no trace; "
            f"there are {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
        )
    return [entry for entry in entries if entry["subject"] in subjects]
