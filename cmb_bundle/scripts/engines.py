"""How the two stages are trained, and how a cohort is worked through, with MONAI's engines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType

import ignite.distributed as idist
import numpy as np
import pandas as pd
import torch
from monai.data import list_data_collate
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from nibabel.affines import apply_affine
from scipy.spatial.distance import cdist
from tqdm import tqdm

from .calibration import calibrate
from .datasets import CohortDataset, LabelError, SubjectError
from .detector import fit_anchors
from .distributed import every_nth, gather
from .files import write_csv, write_whole
from .inferers import TwoStageInferer
from .options import OptionError
from .records import RecordsError
from .sampling import cut_patch
from .weights import CheckpointError, load_weights

logger = logging.getLogger(__name__)


class CohortError(RuntimeError):
    """Some subjects of a cohort failed; the others are done."""


INPUT_ERRORS = (SubjectError, LabelError, CheckpointError, CohortError, OptionError, RecordsError)


def show_cause_last() -> None:
    """
    Let an error of the user's input end with its own sentence.

    MONAI reports an error as that of the config entry it came through, which hides what a user can mend. This sets
    ``sys.excepthook``; the whole traceback is still printed, before the sentence.
    """

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, traceback)
        chain = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        told = [one for one in chain if isinstance(one, INPUT_ERRORS)]
        if told:
            print(f"\n{told[-1]}", file=sys.stderr)

    sys.excepthook = hook


def fit_training_anchors(detector: torch.nn.Module, data_loader: Iterable[Mapping]) -> list[list[float]]:
    """
    Fit the detector's anchors to the boxes of one epoch of training slices, and print them for the config.

    Args:
        detector: tells the number of anchors and the stride.
        data_loader: batches of :func:`collate_slices`.

    Returns:
        pairs (width, height) in cells, see :func:`~.detector.fit_anchors`.

    Raises:
        ValueError: there is no box in the slices.
    """
    boxes = torch.cat([target["boxes"] for batch in data_loader for target in batch["targets"]])
    sizes = (boxes[:, 2:] - boxes[:, :2]).numpy()
    anchors = fit_anchors(sizes, detector.network.num_anchors, detector.network.stride)
    print(f"network_def#detector#anchors of {len(sizes)} boxes: {[[round(side, 3) for side in a] for a in anchors]}")
    return anchors


def collate_slices(batch: Sequence[Sequence[Mapping]]) -> dict:
    """
    Collate the slices of several subjects for the detector.

    Args:
        batch: for each subject its list of slices, see :class:`~.sampling.RandSlicesd`.

    Returns:
        ``image`` (B, C, i, j), and ``targets``, a list of B dictionaries of ``boxes`` and ``labels``.
    """
    slices = [one for subject in batch for one in subject]
    images = torch.stack([torch.as_tensor(s["image"]) for s in slices])
    targets = [{key: torch.as_tensor(s[key]) for key in ("boxes", "labels")} for s in slices]
    return {"image": images, "targets": targets}


def prepare_slices(batch: Mapping, device=None, non_blocking: bool = False, **kwargs) -> tuple:
    """Prepare a batch of :func:`collate_slices` so that a detector is called with images and targets."""
    images = batch["image"].to(device, non_blocking=non_blocking)
    targets = [{k: v.to(device, non_blocking=non_blocking) for k, v in t.items()} for t in batch["targets"]]
    return images, targets, (targets,), {}


def sum_of_losses(losses: Mapping[str, torch.Tensor], targets: object = None) -> torch.Tensor:
    """The loss of a detector that returns its losses by name."""
    return sum(losses.values())


class StageTrainer(SupervisedTrainer):
    """
    A SupervisedTrainer whose output is a list of one dictionary.

    A detector's output cannot be decollated, but handlers, those that ``--tracking mlflow`` adds among them, expect
    the list that decollating gives.

    Args:
        kwargs: as of ``monai.engines.SupervisedTrainer``; ``decollate`` is False.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, decollate=False)

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict) -> list[dict]:
        return [super()._iteration(engine, batchdata)]


def prepare_volume(batch: Mapping, device=None, non_blocking: bool = False, **kwargs) -> tuple:
    """Prepare a subject: the volume on the device, and its lesions in RAS mm (None without labels)."""
    return batch["image"].to(device, non_blocking=non_blocking), batch.get("lesions_ras")


def collect_patches(
    network: torch.nn.Module,
    detector_weights: str | Path,
    dataset: CohortDataset,
    inferer: TwoStageInferer,
    device: torch.device | str = "cpu",
    match_mm: float = 3.0,
    ignore_mm: float = 5.0,
    margin: int = 2,
    hard_negatives: int = 30,
    random_negatives: int = 5,
    seed: int = 0,
    need_both: bool = True,
) -> list[dict]:
    """
    Cut the patches that stage 2 learns from: the candidates of stage 1 and the true lesions of each subject.

    A candidate within ``match_mm`` of a lesion is a microbleed, one beyond ``ignore_mm`` of all is not, one between
    is left out. Some random places of the head are added as things that are none, since a good first stage leaves few
    of the easy kind.

    Args:
        network: both stages; the best weights of stage 1 are loaded into its ``detector``.
        detector_weights: file of the detector's weights.
        dataset: volumes ``image`` on the model's grid, with ``lesions_ras``.
        inferer: how candidates are found; its ``patch_size`` is the size of the classifier's patches.
        device: where stage 1 runs.
        match_mm: see above.
        ignore_mm: see above.
        margin: voxels added on all sides, so that a patch can be cut with a shift.
        hard_negatives: candidates a subject that are no microbleed, at most; those with the best detector score.
        random_negatives: random places a subject.
        seed: of the random places.
        need_both: whether it is an error that there are only patches of one kind, as it is in training.

    Returns:
        dictionaries of ``image`` (2, s, s, s) with s = patch_size + 2 margin, ``label`` (1 microbleed, 0 not),
        ``subject`` and ``source`` (``candidate``, ``lesion`` or ``random``).

    Raises:
        CohortError: there is no patch of a microbleed, or none of another thing, and ``need_both``.
    """
    load_weights(network.detector, detector_weights, map_location=device)
    network.to(device).eval()
    size = inferer.patch_size + 2 * margin
    found = []
    for index in tqdm(every_nth(dataset), desc="Collecting candidates", disable=idist.get_rank() > 0):
        data, generator, patches = dataset[index], np.random.default_rng([seed, index]), []
        volume, subject = data["image"], data["subject"]
        lesions = np.asarray(data["lesions_ras"]).reshape(-1, 3)
        candidates = inferer.find_candidates(volume.as_tensor().to(device), network.detector)[:, :3].numpy()
        places = apply_affine(volume.affine.numpy(), candidates)
        apart = cdist(places, lesions).min(axis=1, initial=np.inf)
        centres = [(v, 1, "candidate") for v in candidates[apart <= match_mm]]
        centres += [(v, 0, "candidate") for v in candidates[apart > ignore_mm][:hard_negatives]]
        centres += [(v, 1, "lesion") for v in apply_affine(np.linalg.inv(volume.affine.numpy()), lesions)]
        inside = (volume[0] > 0).nonzero().numpy()
        random = inside[generator.integers(len(inside), size=random_negatives)]
        apart = cdist(apply_affine(volume.affine.numpy(), random), lesions).min(axis=1, initial=np.inf)
        centres += [(v, 0, "random") for v in random[apart > ignore_mm]]
        for voxel, label, source in centres:
            patch = cut_patch(volume.as_tensor(), voxel, size).to(torch.float32).clone()
            patches.append({"image": patch, "label": label, "subject": subject, "source": source})
        found.append((index, patches))
    subjects = sorted((one for share in gather(found) for one in share), key=itemgetter(0))
    patches = [patch for _, of_subject in subjects for patch in of_subject]
    microbleeds = sum(p["label"] for p in patches)
    logger.info(f"{len(patches)} patches, {microbleeds} of them of microbleeds, from {len(dataset)} subjects")
    if need_both and not 0 < microbleeds < len(patches):
        raise CohortError(
            f"Stage 2 cannot be trained: of {len(patches)} patches, {microbleeds} are of microbleeds. Expected both "
            "kinds; train stage 1 for longer, lower candidate_threshold, or give more subjects."
        )
    return patches


def join_weights(
    network: torch.nn.Module,
    detector_weights: str | Path,
    classifier_weights: str | Path,
    path: str | Path,
    data_loader: Iterable[Mapping] | None = None,
) -> Path:
    """Load the best weights of both stages into the network, calibrate, and write its state_dict to ``path``.

    Args:
        network: both stages.
        detector_weights: file of stage 1.
        classifier_weights: file of stage 2.
        path: file to write.
        data_loader: validation patches to calibrate stage 2 on, see :func:`~.calibration.calibrate`; None leaves it.
    """
    load_weights(network.detector, detector_weights)
    load_weights(network.classifier, classifier_weights)
    if data_loader is not None:
        calibrate(network.classifier, data_loader, next(network.classifier.parameters()).device)
    if idist.get_rank() == 0:
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        write_whole(path, lambda aside: torch.save(state, aside))
    idist.barrier()
    return Path(path)


def collate_subject(batch: Sequence[Mapping]) -> dict:
    """Collate one subject at a time; one that failed to load keeps its message."""
    return dict(batch[0]) if "error" in batch[0] else list_data_collate(batch)


class CohortEvaluator(SupervisedEvaluator):
    """
    A SupervisedEvaluator that takes one subject at a time and goes on when one fails.

    Whatever a subject raises, in reading, inference, post-processing or writing, is kept in ``failures``.

    Args:
        failures_file: CSV of subjects and reasons, written at the end of a run in which any failed.
        kwargs: as of ``monai.engines.SupervisedEvaluator``.
    """

    def __init__(self, *args, failures_file: str | Path | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.failures: dict[str, str] = {}
        self.failures_file = failures_file

    def _iteration(self, engine: CohortEvaluator, batchdata: dict) -> dict:
        if "error" in batchdata:
            self._fail(batchdata["subject"], batchdata["error"])
            return {}
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            while error.__cause__ is not None:
                error = error.__cause__
            self._fail(batchdata["subject"][0], f"{type(error).__name__}: {error}")
            return {}

    def _fail(self, subject: str, message: str) -> None:
        self.failures[subject] = message
        logger.error(f"{subject} failed: {message}")

    def run(self) -> None:
        """
        Work through the cohort.

        Raises:
            CohortError: after the last subject, if any failed; it lists them.
        """
        self.failures.clear()
        super().run()
        raise_failures(self.failures, self.state.epoch_length, self.failures_file)


def raise_failures(failures: Mapping[str, str], total: int, path: str | Path | None = None) -> None:
    """
    End with a summary of the subjects that failed, if any did.

    Args:
        failures: subject to message.
        total: number of subjects.
        path: a CSV to write, with the columns subject and reason; removed where none failed.

    Raises:
        CohortError: if there is a failure.
    """
    if path is not None:
        Path(path).unlink(missing_ok=True)
    if not failures:
        return
    if path is not None:
        write_csv(path, pd.DataFrame(sorted(failures.items()), columns=["subject", "reason"]))
    reasons = "\n".join(f"  {subject}: {message}" for subject, message in sorted(failures.items()))
    raise CohortError(f"{len(failures)} of {total} subjects failed; the others are done.\n{reasons}")


def finish_training(datasets: Sequence[CohortDataset], output_dir: str | Path) -> None:
    """
    End a training with the subjects that could not be used, in ``failures.csv``.

    Raises:
        CohortError: if there are any; the weights are written nevertheless.
    """
    failures = {subject: reason for dataset in datasets for subject, reason in dataset.failures.items()}
    total = len(failures) + sum(len(dataset) for dataset in datasets)
    raise_failures(failures, total, Path(output_dir) / "failures.csv")
