"""Run a cross-validation: train and test both stages fold by fold, and pool the records of all folds."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver

from ..data.splits import make_datalist
from ..errors import CohortError, CrossValidationError, root_cause
from ..evaluation.metrics import EvaluationOptions
from ..evaluation.records import load_records
from ..files import take_lock, write_json
from ..inference.evaluator import raise_failures
from ..options import OF_MONAI, enclosing_workflow
from ..report.report import write_evaluation

logger = logging.getLogger(__name__)

OWN_IDS = ("run_folds", "evaluation_configs", "cross_validation")
"""Ids of cross_validate.json that are not part of a fold's training."""

OF_INFERENCE = ("network", "inferer", "precision", *OF_MONAI)
"""Ids of both configurations of which the evaluation keeps its own: what it runs, not what it finds."""

WITHOUT_EFFECT = ("fold", "folds", "output_dir", "datalist_file", "dataset_dir", "bundle_root", "num_workers",
                  "cache_rate", "resume", "device", "debug", "_meta_", "run")  # fmt: skip
"""Ids that may differ between the runs of one cross-validation. The split is compared by itself."""


class CrossValidation:
    """
    Train and test each fold in a folder of its own, and pool the folds once all are done.

    A fold is trained with the configuration that this object is part of, with all files and command-line values merged,
    and evaluated with that of inference, in which every id that training also has gets the training's value. So
    overlays and values given to the cross-validation apply to both. Ids that these values refer to and inference lacks
    are added; ``OF_INFERENCE`` keeps inference's values. The two configurations are saved in the fold's folder.

    A finished fold is not repeated; an interrupted one continues after its last complete epoch. A fold locked by
    another process is skipped, if the file system supports locks.

    Args:
        dataset_dir: the data set.
        output_dir: folder for ``fold_0``, ``fold_1``, ... and the pooled report.
        datalist_file: file of the split, created if it does not exist.
        folds: number of folds of the split.
        seed: seed of the split.
        convention: convention of the labels.
        echo, participant_label, session_label, label_file: as for :func:`~..data.splits.make_datalist`.
        run_folds: numbers of the folds to run; None for all.
        evaluation_configs: files of the evaluation's configuration, names in ``configs`` or paths.
        resume: False repeats the folds from the start.

    Raises:
        CrossValidationError: ``run_folds`` has numbers that are not folds, or there is no enclosing workflow.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        output_dir: str | Path,
        *,
        datalist_file: str | Path,
        folds: int = 5,
        seed: int = 0,
        convention: Mapping | None = None,
        echo: int = -1,
        participant_label: str | Sequence[str] | None = None,
        session_label: str | Sequence[str] | None = None,
        label_file: str | Path | None = None,
        run_folds: Sequence[int] | int | None = None,
        evaluation_configs: Sequence[str] = ("inference.json", "evaluate.json"),
        resume: bool = True,
    ) -> None:
        self.dataset_dir, self.output_dir = str(dataset_dir), Path(output_dir).absolute()
        self.datalist_file, self.folds, self.resume = Path(datalist_file).absolute(), folds, resume
        run_folds = [run_folds] if isinstance(run_folds, int) else run_folds
        self.run_folds = list(range(folds)) if run_folds is None else sorted(set(run_folds))
        if not self.run_folds or not set(self.run_folds) <= set(range(folds)):
            raise CrossValidationError(f"run_folds is {run_folds}; expected numbers from 0 to {folds - 1}, as '[0,1]'.")
        workflow = enclosing_workflow()
        self.bundle_root = str(workflow.parser.get_parsed_content("bundle_root"))
        self.config = {key: value for key, value in deepcopy(workflow.parser.get()).items() if key not in OWN_IDS}
        files = [Path(self.bundle_root) / "configs" / name for name in evaluation_configs]
        self.evaluation = ConfigParser.load_config_files([str(path) for path in files])
        split = make_datalist(
            dataset_dir, self.datalist_file, folds, seed, convention, echo, participant_label, session_label, label_file
        )
        self.split = {entry["subject"]: entry["fold"] for entry in split["training"]}

    def run(self) -> dict | None:
        """
        Run the folds and pool them.

        Returns:
            the content of the pooled ``metrics.json``; None while folds are missing.

        Raises:
            CrossValidationError: a fold was run with another configuration or another split.
            CohortError: at the end, if subjects failed; the others are finished.
        """
        for fold in self.run_folds:
            with self._lock(fold) as free:
                if not free:
                    print(f"Fold {fold}: skipped, another process is working on it.", flush=True)
                    continue
                self._fold(fold)
        missing = [fold for fold in range(self.folds) if not self._is_done(fold)]
        if missing:
            print(
                f"\nFolds {', '.join(map(str, missing))} of {self.folds} are not finished yet. Run the same command on "
                "any machine that shares this folder: the last run pools the folds."
            )
            return None
        return self._pool()

    def folder(self, fold: int) -> Path:
        """The folder of a fold."""
        return self.output_dir / f"fold_{fold}"

    @contextmanager
    def _lock(self, fold: int) -> Iterator[bool]:
        """Lock the fold; yields False if another process has it. The system frees the lock of a killed process."""
        lock = take_lock(self.folder(fold) / "lock")
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def _training_config(self, fold: int) -> dict[str, Any]:
        return self.config | {
            "bundle_root": self.bundle_root,
            "dataset_dir": self.dataset_dir,
            "output_dir": str(self.folder(fold)),
            "datalist_file": str(self.datalist_file),
            "fold": fold,
            "run": self.config["training"],
        }

    def _evaluation_config(self, fold: int) -> dict[str, Any]:
        config = deepcopy(self.evaluation)
        imports = [one for one in self.config.get("imports", []) if one not in config["imports"]]
        return config | deepcopy(self._shared()) | {
            "imports": config["imports"] + imports,
            "bundle_root": self.bundle_root,
            "dataset_dir": self.dataset_dir,
            "output_dir": str(self.folder(fold) / "evaluation"),
            "datalist_file": str(self.datalist_file),
            "checkpoint": str(self.folder(fold) / "model.pt"),
            # even if training started from an imported stage: the fold's weights contain it as trained
            "detector_from_checkpoint": True,
            "classifier_from_checkpoint": True,
            "fold": fold,
        }  # fmt: skip

    def _shared(self) -> dict[str, Any]:
        """The training's values of ids that the evaluation also has, and of the ids they refer to that it lacks."""
        keys = [key for key in self.config if key in self.evaluation and key not in OF_INFERENCE]
        shared: dict[str, Any] = {}
        while keys:
            key = keys.pop()
            shared[key] = self.config[key]
            references = ReferenceResolver.find_refs_in_config(shared[key], key)
            needed = {reference.split(ReferenceResolver.sep)[0] for reference in references}
            keys += sorted((needed & self.config.keys()) - self.evaluation.keys() - shared.keys())
        return shared

    def _state(self, fold: int) -> dict[str, Any]:
        """Everything that the results of a fold depend on."""
        parts = {"training": self._training_config(fold), "evaluation": self._evaluation_config(fold)}
        without = (*WITHOUT_EFFECT, "checkpoint")
        state = {name: {k: v for k, v in part.items() if k not in without} for name, part in parts.items()}
        return json.loads(json.dumps({**state, "split": self.split}, default=str))

    def _former(self, fold: int) -> dict[str, Any]:
        path = self.folder(fold) / "fold.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _is_done(self, fold: int) -> bool:
        former = self._former(fold)
        return bool(former.get("done")) and all(former[key] == value for key, value in self._state(fold).items())

    def _fold(self, fold: int) -> None:
        former, state, folder = self._former(fold), self._state(fold), self.folder(fold)
        number = f"Fold {fold} ({self.run_folds.index(fold) + 1} of {len(self.run_folds)} in this run)"
        if self.resume and self._is_done(fold):
            print(f"{number}: already finished.", flush=True)
            return
        changed = self._changes(former, state) if former and self.resume else []
        if changed:
            raise CrossValidationError(
                f"{folder} was started with another {', '.join(changed)}; expected the same for all folds. Use the "
                "former values (they are in its fold.json), another output_dir, or resume=False to repeat the folds."
            )
        trained = self.resume and former.get("trained", False)
        write_json(folder / "fold.json", {**state, "trained": trained, "done": False})
        if not trained:
            print(f"\n{number}: training both stages", flush=True)
            _run(self._training_config(fold), folder / "train.json", self.bundle_root)
            write_json(folder / "fold.json", {**state, "trained": True, "done": False})
        print(f"\n{number}: evaluating its test subjects", flush=True)
        _run(self._evaluation_config(fold), folder / "evaluate.json", self.bundle_root)
        failures = {name: _failures(path / "failures.csv") for name, path in self._parts(fold).items()}
        write_json(folder / "fold.json", {**state, "trained": True, "done": True, "failures": failures})

    def _parts(self, fold: int) -> dict[str, Path]:
        return {"training": self.folder(fold), "evaluation": self.folder(fold) / "evaluation"}

    @staticmethod
    def _changes(former: Mapping, state: Mapping) -> list[str]:
        keys = sorted({*former["training"], *state["training"]})
        changed = [key for key in keys if former["training"].get(key) != state["training"].get(key)]
        return changed + (["split of the subjects"] if former["split"] != state["split"] else [])

    def _pool(self) -> dict:
        folders = [self.folder(fold) / "evaluation" for fold in range(self.folds)]
        records = load_records([folder for folder in folders if (folder / "records.json").is_file()])
        # relative, so that the report does not depend on where the folder is
        records = [replace(record, weights=f"fold_{record.fold}/model.pt") for record in records]
        states = {fold: self._former(fold)["failures"] for fold in range(self.folds)}
        left_out = {name: why for state in states.values() for name, why in state["evaluation"].items()}
        config = self._evaluation_config(0)
        names = ("distance_mm", "strict_mm", "duplicate_mm", "bootstrap", "seed")
        chosen = {name: config[name] for name in names if name in config}
        options = EvaluationOptions(**chosen, data_set=self.dataset_dir, left_out=tuple(sorted(left_out.items())))
        metrics = write_evaluation(records, self.output_dir, options)
        print_folds(metrics)
        failures = {name: why for state in states.values() for part in state.values() for name, why in part.items()}
        raise_failures(failures, len(self.split.keys() | failures.keys()), self.output_dir / "failures.csv")
        return metrics


def _run(config: dict[str, Any], path: Path, bundle_root: str) -> None:
    """
    Save a configuration and run it. Subjects that failed, which its ``failures.csv`` lists, do not stop it: a
    :class:`CohortError` comes after all else is done. Any other error does.
    """
    config.pop("_meta_", None)
    write_json(path, json.loads(json.dumps(config, default=str)))
    metadata = str(Path(bundle_root) / "configs" / "metadata.json")
    try:
        workflow = ConfigWorkflow(str(path), meta_file=metadata, logging_file=False, workflow_type=None)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, CohortError):
            raise
        logger.warning(str(cause))
    finally:
        workflow = None
        gc.collect()


def _failures(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return dict(zip(table["subject"], table["reason"], strict=True))


def print_folds(metrics: Mapping[str, Any]) -> None:
    """Print the scores of each fold, and their spread."""
    for name, scores in ({metrics["system"]: metrics} | metrics["rivals"]).items():
        if "by_fold" not in scores:
            continue
        print(f"\nEach fold, end to end: {name}")
        rows = {f"fold {fold}": row for fold, row in scores["by_fold"]["folds"].items()}
        table = pd.DataFrame.from_dict(rows | scores["by_fold"]["spread"], orient="index", dtype=float)
        print(table.round(3).to_string(na_rep="-"))
