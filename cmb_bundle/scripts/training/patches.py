"""Cut the patches that stage 2 learns from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from monai.utils import ensure_tuple_rep
from nibabel.affines import apply_affine
from scipy.spatial.distance import cdist
from tqdm import tqdm

from ..data.datasets import CohortDataset
from ..errors import CohortError
from ..geometry import to_voxel
from ..inference.inferers import TwoStageInferer
from ..networks.weights import load_weights
from ..transforms.patches import cut_patch
from .distributed import gather, indices_of_this_process

logger = logging.getLogger(__name__)


def collect_patches(
    network: torch.nn.Module,
    detector_weights: str | Path,
    dataset: CohortDataset,
    inferer: TwoStageInferer,
    device: torch.device | str = "cpu",
    match_mm: float = 3.0,
    ignore_mm: float = 5.0,
    margin: int | Sequence[int] = 2,
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
        margin: voxels added on all sides, so that a patch can be cut turned, enlarged or with a shift; one number, or
            one for each axis.
        hard_negatives: candidates a subject that are no microbleed, at most; those with the best detector score.
        random_negatives: random places a subject.
        seed: of the random places.
        need_both: whether it is an error that there are only patches of one kind, as it is in training.

    Returns:
        dictionaries of ``image`` (2, i, j, k) of patch_size + 2 margin voxels, ``label`` (1 microbleed, 0 not),
        ``subject``, ``source`` (``candidate``, ``lesion`` or ``random``) and ``detector_score``, NaN where the source
        is no candidate.

    Raises:
        CohortError: there is no patch of a microbleed, or none of another thing, and ``need_both``.
    """
    load_weights(network.detector, detector_weights, map_location=device)
    network.to(device).eval()
    edges = zip(ensure_tuple_rep(inferer.patch_size, 3), ensure_tuple_rep(margin, 3), strict=True)
    size = [edge + 2 * more for edge, more in edges]
    found = []
    for index in tqdm(indices_of_this_process(dataset), desc="Collecting candidates", disable=idist.get_rank() > 0):
        data, generator, patches = dataset[index], np.random.default_rng([seed, index]), []
        volume, subject = data["image"], data["subject"]
        lesions = np.asarray(data["lesions_ras"]).reshape(-1, 3)
        found_here = inferer.find_candidates(volume.as_tensor().to(device), network.detector)
        candidates = np.array([c.model_voxel for c in found_here]).reshape(-1, 3)
        scores = np.array([c.detector_score for c in found_here])
        places = apply_affine(volume.affine.numpy(), candidates)
        apart = cdist(places, lesions).min(axis=1, initial=np.inf)
        hits, others = apart <= match_mm, np.flatnonzero(apart > ignore_mm)[:hard_negatives]
        centres = [(v, 1, "candidate", s) for v, s in zip(candidates[hits], scores[hits], strict=True)]
        centres += [(v, 0, "candidate", s) for v, s in zip(candidates[others], scores[others], strict=True)]
        centres += [(v, 1, "lesion", np.nan) for v in to_voxel(volume.affine.numpy(), lesions)]
        inside = (volume[0] > 0).nonzero().numpy()
        random = inside[generator.integers(len(inside), size=random_negatives)]
        apart = cdist(apply_affine(volume.affine.numpy(), random), lesions).min(axis=1, initial=np.inf)
        centres += [(v, 0, "random", np.nan) for v in random[apart > ignore_mm]]
        for voxel, label, source, score in centres:
            patch = cut_patch(volume.as_tensor(), voxel, size).to(torch.float32).clone()
            about = {"subject": subject, "source": source, "detector_score": float(score)}
            patches.append({"image": patch, "label": label, **about})
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
