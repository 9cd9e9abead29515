"""Cut the patches that stage 2 learns from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.utils import ensure_tuple_rep
from nibabel.affines import apply_affine
from scipy.spatial.distance import cdist
from tqdm import tqdm

from ..data.datasets import CohortDataset, halved
from ..errors import TrainingError
from ..geometry import to_voxel
from ..inference.inferers import TwoStageInferer
from ..networks.weights import load_weights
from ..transforms.patches import cut_patch
from .distributed import gather, indices_of_this_process

logger = logging.getLogger(__name__)


class PatchCollector:
    """
    Cut the patches that stage 2 learns from: the candidates of stage 1 and the true lesions of each subject.

    A candidate within ``match_mm`` of a lesion is a microbleed, one beyond ``ignore_mm`` of all is not, one between
    is left out. Random places of the head are added as easy negatives, since a good first stage leaves few of them.

    Args:
        network: both stages; the best weights of stage 1 are loaded into its ``detector`` at each call.
        detector_weights: file of the detector's weights.
        inferer: how candidates are found; its ``patch_size`` is the size of the classifier's patches.
        device: where stage 1 runs.
        match_mm: see above.
        ignore_mm: see above.
        margin: voxels added on all sides, so that a patch can be cut turned, enlarged or with a shift; one number, or
            one for each axis, see :func:`margin_to_turn`.
        hard_negatives: candidates per subject that are no microbleed, at most; those with the best detector score.
        random_negatives: random places per subject.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        detector_weights: str | Path,
        inferer: TwoStageInferer,
        device: torch.device | str = "cpu",
        match_mm: float = 3.0,
        ignore_mm: float = 5.0,
        margin: int | Sequence[int] = 2,
        hard_negatives: int = 30,
        random_negatives: int = 5,
    ) -> None:
        self.network = network
        self.detector_weights = detector_weights
        self.inferer = inferer
        self.device = device
        self.match_mm = match_mm
        self.ignore_mm = ignore_mm
        edges = zip(ensure_tuple_rep(inferer.patch_size, 3), ensure_tuple_rep(margin, 3), strict=True)
        self.size = [edge + 2 * more for edge, more in edges]
        self.hard_negatives = hard_negatives
        self.random_negatives = random_negatives

    def __call__(self, dataset: CohortDataset, seed: int = 0, need_both: bool = True) -> list[dict]:
        """
        Cut the patches of all subjects, in the order of the data set.

        Args:
            dataset: volumes ``image`` on the model's grid, with ``subject`` and ``lesions_ras``.
            seed: of the random places.
            need_both: whether it is an error that there are only patches of one kind, as it is in training.

        Returns:
            dictionaries of ``image`` (2, i, j, k) of patch_size + 2 margin voxels, float16; ``label`` (1 microbleed, 0
            not), ``subject``, ``source`` (``candidate``, ``lesion`` or ``random``) and ``detector_score``, NaN where
            the source is no candidate.

        Raises:
            TrainingError: there is no patch of a microbleed, or none of another thing, and ``need_both``.
        """
        load_weights(self.network.detector, self.detector_weights, map_location=self.device)
        self.network.to(self.device).eval()
        items = indices_of_this_process(dataset)
        bar = tqdm(items, desc="Collecting candidates", disable=idist.get_rank() > 0)
        found = [(index, self._of_subject(dataset[index], np.random.default_rng([seed, index]))) for index in bar]
        subjects = sorted((one for share in gather(found) for one in share), key=itemgetter(0))
        patches = [patch for _, of_subject in subjects for patch in of_subject]
        microbleeds = sum(p["label"] for p in patches)
        logger.info(f"{len(patches)} patches, {microbleeds} of them of microbleeds, from {len(dataset)} subjects")
        if need_both and not 0 < microbleeds < len(patches):
            raise TrainingError(
                f"Stage 2 cannot be trained: of {len(patches)} patches, {microbleeds} are of microbleeds. Expected "
                "both kinds; train stage 1 for longer, lower candidate_threshold, or give more subjects."
            )
        return patches

    def _of_subject(self, data: Mapping[str, Any], generator: np.random.Generator) -> list[dict]:
        volume = data["image"]
        affine = volume.affine.numpy()
        lesions = np.asarray(data["lesions_ras"]).reshape(-1, 3)
        found = self.inferer.find_candidates(volume.as_tensor().to(self.device), self.network.detector)
        candidates = np.array([c.model_voxel for c in found]).reshape(-1, 3)
        scores = np.array([c.detector_score for c in found])
        apart = _distance_to_nearest(apply_affine(affine, candidates), lesions)
        hits, others = np.flatnonzero(apart <= self.match_mm), np.flatnonzero(apart > self.ignore_mm)
        centres = [(candidates[n], 1, "candidate", scores[n]) for n in hits]
        centres += [(candidates[n], 0, "candidate", scores[n]) for n in others[: self.hard_negatives]]
        centres += [(v, 1, "lesion", np.nan) for v in to_voxel(affine, lesions)]
        inside = (volume[0] > 0).nonzero().numpy()
        random = inside[generator.integers(len(inside), size=self.random_negatives)]
        apart = _distance_to_nearest(apply_affine(affine, random), lesions)
        centres += [(v, 0, "random", np.nan) for v in random[apart > self.ignore_mm]]
        return [
            {
                "image": halved(cut_patch(volume.as_tensor(), voxel, self.size).to(torch.float32)).clone(),
                "label": label,
                "subject": data["subject"],
                "source": source,
                "detector_score": float(score),
            }
            for voxel, label, source, score in centres
        ]


def margin_to_turn(
    patch_size: int | Sequence[int],
    surroundings_size: int | Sequence[int],
    enlarged: float = 1.25,
    shift: Sequence[float] = (1.5, 1.5, 0.8),
) -> list[int]:
    """
    How many voxels patches with their surroundings lack on each side for no corner of a turned patch to be outside.

    Args:
        patch_size: voxels that stage 2 learns from, cut by any angle in the plane of a slice.
        surroundings_size: voxels that are cut anyway.
        enlarged: by how much at most a patch is enlarged.
        shift: voxels by which it is shifted at most.

    Returns:
        voxels along each axis.

    Example:
        >>> margin_to_turn((24, 24, 8), (60, 60, 14)), margin_to_turn(16, 16)
        ([0, 0, 0], [8, 8, 3])
    """
    i, j, k = ensure_tuple_rep(patch_size, 3)
    extent = np.array([np.hypot(i, j), np.hypot(i, j), k])
    needed = np.ceil(enlarged * extent + 2 * np.array(shift))
    lacking = np.maximum(needed - np.array(ensure_tuple_rep(surroundings_size, 3)), 0)
    return np.ceil(lacking / 2).astype(int).tolist()


def _distance_to_nearest(places: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Distance in mm of each place (n, 3) to the nearest lesion (m, 3); infinite where there is none."""
    return cdist(places, lesions).min(axis=1, initial=np.inf)
