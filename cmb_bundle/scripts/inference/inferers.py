"""The two stages on a volume: slices to candidates to probabilities."""

from __future__ import annotations

import torch
from monai.inferers import Inferer, SimpleInferer

from ..detection.candidates import CANDIDATE_COLUMNS, merge_slices
from ..errors import OptionError
from ..transforms.patches import cut_patch, to_classifier_input
from ..transforms.slices import average_slices, stack_slices

TABLE_COLUMNS = (*CANDIDATE_COLUMNS, "probability")


class MixedPrecisionInferer(SimpleInferer):
    """
    A SimpleInferer under autocast, for training in bfloat16 on a processor that is fast in it, where MONAI's ``amp``,
    which is for CUDA alone, does nothing.

    Args:
        precision: "float32" changes nothing; "bfloat16" runs convolutions in it, on the device of the input. Weights
            and losses stay float32.

    Raises:
        OptionError: for another precision.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise OptionError(f"precision is {precision!r}; expected float32 or bfloat16.")
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args, **kwargs):
        if self.precision == "float32":
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            output = super().__call__(inputs, network, *args, **kwargs)
        return output.float() if isinstance(output, torch.Tensor) else output


class TwoStageInferer(Inferer):
    """
    Find candidates with the detector on all slices, merge them over slices, and score each with the classifier.

    Args:
        spacing: voxel spacing of the model's grid in mm.
        average: slices averaged for the detector, as in training.
        batch_size: slices at a time.
        patch_batch_size: patches at a time.
        score_threshold: what has a lower detector score is no candidate.
        merge_mm: in-plane distance in mm within which boxes of neighbouring slices are one candidate.
        patch_size: edge in voxels of the classifier's patches.
        max_candidates: candidates kept, the best by detector score.
        classify: False stops after the first stage; the probability is then NaN.
        score_slices: slices that a candidate's score is taken over, see :func:`~.merge_slices`.
        context: slices that are the channels of one image, as in training, see :func:`~.stack_slices`.
    """

    def __init__(
        self,
        spacing: tuple[float, float, float],
        average: int = 3,
        batch_size: int = 12,
        score_threshold: float = 0.1,
        merge_mm: float = 4.0,
        patch_size: int = 16,
        max_candidates: int = 500,
        classify: bool = True,
        patch_batch_size: int = 64,
        score_slices: int = 1,
        context: int = 1,
    ) -> None:
        super().__init__()
        self.spacing = tuple(float(s) for s in spacing)
        self.average, self.batch_size, self.score_threshold = average, batch_size, score_threshold
        self.merge_mm, self.patch_size, self.max_candidates = merge_mm, patch_size, max_candidates
        self.classify, self.patch_batch_size, self.score_slices = classify, patch_batch_size, score_slices
        self.context = context

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
        """
        Args:
            inputs: (B, 2, i, j, k), SWI and complement phase on the model's grid.
            network: a module with children ``detector`` and ``classifier``; or, without ``classify``, a detector.

        Returns:
            (B, N, 7), a row a candidate with the columns ``TABLE_COLUMNS``: i, j, k (continuous voxel of the model's
            grid), diameter_mm, detector_score, n_slices, probability; best detector score first. Where subjects of
            a batch have fewer than N candidates, rows of NaN follow.
        """
        volumes = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        tables = [self._subject(volume, network) for volume in volumes]
        longest = max(len(t) for t in tables)
        padded = torch.full((len(tables), longest, len(TABLE_COLUMNS)), torch.nan, dtype=torch.float32)
        for row, table in zip(padded, tables, strict=True):
            row[: len(table)] = table
        return padded

    def _subject(self, volume: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        candidates = self.find_candidates(volume, getattr(network, "detector", network))
        probability = torch.full((len(candidates), 1), torch.nan)
        if self.classify and len(candidates):
            probability = self.probabilities(volume, candidates[:, :3], network.classifier)[:, None]
        return torch.cat([candidates, probability], dim=1)

    @torch.no_grad()
    def find_candidates(self, volume: torch.Tensor, detector: torch.nn.Module) -> torch.Tensor:
        """Stage 1: (2, i, j, k) to (N, 6) with the columns ``CANDIDATE_COLUMNS``, best score first."""
        return self.merge(self.detect(volume, detector))

    def merge(self, detections: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """The candidates (N, 6) of what :meth:`detect` found, best score first."""
        candidates = merge_slices(detections, self.spacing, merge_mm=self.merge_mm, score_slices=self.score_slices)
        score = candidates[:, CANDIDATE_COLUMNS.index("detector_score")]
        best = score.argsort(descending=True, stable=True)
        return candidates[best[score[best] >= self.score_threshold][: self.max_candidates]]

    @torch.no_grad()
    def detect(self, volume: torch.Tensor, detector: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The detector on every slice of (2, i, j, k): for each, boxes (N, 4) in pixel edges and scores (N,).

        Where scores are taken over several slices, weak boxes are kept too: the threshold is for what they add up to.
        """
        least = self.score_threshold if self.score_slices == 1 else 0.0
        # what an accelerated network would round its slices to, once and not for each neighbour
        dtype = getattr(getattr(detector, "network", None), "dtype", torch.float32)
        volume = average_slices(volume.float(), self.average).to(dtype)
        # to turn a matrix is five times as fast as to permute four axes
        slices = volume.flatten(0, 2).t().contiguous().unflatten(1, volume.shape[:3])
        detections = []
        for batch in torch.arange(len(slices)).split(self.batch_size):
            for found in detector(stack_slices(slices, self.context, batch.tolist())):
                keep = found["scores"] >= least
                detections.append((found["boxes"][keep].cpu(), found["scores"][keep].cpu()))
        return detections

    @torch.no_grad()
    def probabilities(self, volume: torch.Tensor, voxels: torch.Tensor, classifier: torch.nn.Module) -> torch.Tensor:
        """Stage 2: the probability of a microbleed at each of ``voxels`` (N, 3), as (N,) on the CPU."""
        found = []
        for batch in voxels.split(self.patch_batch_size):
            patches = torch.stack([to_classifier_input(cut_patch(volume.float(), v, self.patch_size)) for v in batch])
            found.append(classifier(patches).float().softmax(dim=1)[:, 1].cpu())
        return torch.cat(found)
