"""What a training was configured with, so that one that is resumed with other values says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from ..errors import CheckpointError, enclosing_workflows
from ..options import OF_MONAI

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = {
    *OF_MONAI, "settings", "lock", "output_dir", "datalist_file", "dataset_dir", "num_workers", "cache_rate", "resume",
    "device", "debug", "silent", "pin_memory", "tensorboard_dirs", "training", "training_detector",
    "training_classifier", "training_join", "_meta_",
}  # fmt: skip
"""Ids that say where and how a training runs, not what comes of it. The split of the subjects is compared by itself."""

SUBJECTS = ("train#dataset#data", "validate#dataset#data")
"""Where a server puts the subjects themselves."""

OF_ONE_STAGE = {
    "detector": (
        "network_def#detector", "train#slices", "train#random_transforms", "train#dataloader", "train#handlers",
        "train#trainer", "validate", "val_interval", "slice_size", "slices_per_subject", "box_mm",
    ),
    "classifier": (
        "network_def#classifier", "network_def#decision", "train_classifier", "validate_classifier", "validate_both",
        "patches", "patch_size", "patch_margin", "surroundings_size", "surroundings_epochs", "max_candidates",
    ),
}  # fmt: skip
"""Ids of one stage, besides those that start with its name; they are none of the other's business."""

MEANING = (
    "spacing", "average", "context", "score_slices", "phase_channel", "phase_scale", "phase_sign", "echo",
    "dicom_series", "label_convention", "train#deterministic_transforms", "network_def#detector#anchors",
)  # fmt: skip
"""Ids that give the network's input, its output or the truth another meaning."""

SCORE = ("patch_size", "surroundings_size", "classifier_class_weights", "classifier_loss", "classifier_validation_loss",
         "validate#key_metric", "validate_classifier#key_metric", "validate_both#key_metric",
         "train_classifier#checkpoint#metric", "train_classifier#checkpoint#lower_is_better")  # fmt: skip
"""Ids that give the scores, by which the best epoch is chosen, another meaning."""


def run_settings() -> dict[str, Any]:
    """
    The plain values of the configuration that is being run, by their ids.

    Returns:
        numbers, words, truth values and lists of them, as they stand in the files or on the command line: an
        expression is its text. Empty where no configuration is being run.

    Example:
        >>> run_settings()
        {}
    """
    workflows = enclosing_workflows()
    leaves = _leaves(workflows[0].parser.get()) if workflows else ()
    return {id: value for id, value in leaves if not _is_of(id, SUBJECTS)}


def _leaves(part: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    within = part.items() if isinstance(part, Mapping) else enumerate(part) if _has_parts(part) else None
    if within is not None:
        for key, value in within:
            if id or key not in WITHOUT_EFFECT:
                yield from _leaves(value, f"{id}#{key}" if id else str(key))
        return
    try:
        plain = json.loads(json.dumps(part))
    except (TypeError, ValueError):  # an object that a program put there: it has no value to compare
        return
    yield id, plain


def _has_parts(part: Any) -> bool:
    return isinstance(part, list | tuple) and any(isinstance(item, Mapping) for item in part)


def _is_of(id: str, names: tuple[str, ...]) -> bool:
    return any(id == name or id.startswith(f"{name}#") for name in names)


def _is_of_stage(id: str, stage: str) -> bool:
    return _is_of(id, OF_ONE_STAGE[stage]) or id.startswith(f"{stage}_")


def compare_settings(former: Mapping[str, Any], now: Mapping[str, Any], stage: str, path: str | Path) -> list[str]:
    """
    Say what differs between a training that is resumed and the one that was saved.

    Args:
        former: settings that were saved, see :func:`run_settings`.
        now: settings of the present run. Where either is empty, nothing is compared.
        stage: ``detector`` or ``classifier``; ids of the other stage alone are passed over.
        path: file of the saved state, for the messages.

    Returns:
        what differs, as ``seed 0 -> 1``; it is logged as a warning.

    Raises:
        CheckpointError: with these changes the training cannot be one: what the network sees, or the score by which
            the best epoch is chosen, would mean something else than before.

    Example:
        >>> compare_settings({"seed": 0, "folds": 5}, {"seed": 1, "folds": 5}, "detector", "detector_last.pt")
        ['seed 0 -> 1']
    """
    if not former or not now:
        return []
    others = [name for name in OF_ONE_STAGE if name != stage] if stage in OF_ONE_STAGE else []
    changed = {
        id: f"{id} {_show(former, id)} -> {_show(now, id)}"
        for id in sorted({*former, *now})
        if former.get(id) != now.get(id) and not any(_is_of_stage(id, other) for other in others)
    }
    refused = [words for id, words in changed.items() if _is_of(id, MEANING) or _is_of(id, SCORE)]
    if refused:
        raise CheckpointError(
            f"{path} was trained with other values: {_list(refused)}. A training cannot go on with these changed, "
            "since what it sees, or the score by which it chooses the best epoch, would mean something else. Use the "
            "former values, another output_dir (with the weights so far as initial_weights, if they are to be the "
            "start), or resume=False to start again."
        )
    if changed and idist.get_rank() == 0:
        logger.warning(f"{stage}: resumed from {path} with other values than before: {_list(list(changed.values()))}")
    return list(changed.values())


def _show(settings: Mapping[str, Any], id: str) -> str:
    return repr(settings[id]) if id in settings else "not given"


def _list(words: list[str]) -> str:
    return "; ".join(words[:20]) + (f"; and {len(words) - 20} more" if len(words) > 20 else "")
