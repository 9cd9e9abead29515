"""The two stages on a volume: slices to candidates to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np
import torch
from monai.inferers import Inferer, SimpleInferer

from ..candidate import Candidate
from ..detection.candidates import CANDIDATE_COLUMNS, candidates_to_table, merge_slices
from ..errors import CheckpointError, OptionError
from ..transforms.patches import cut_patch
from ..transforms.slices import average_slices, stack_slices

UNLIKELY = 0.01
"""A candidate whose probability by one view is lower than this is not looked at in its mirror images, with which it
takes four times as long. Of 12019 candidates of 258 simulated scans of all kinds 55 % are below; by all views the
largest of these has 0.03, and 99 of 100 change by less than 0.007."""


class MixedPrecisionInferer(SimpleInferer):
    """
    A SimpleInferer under autocast, for training in bfloat16 on a processor that is fast in it, where MONAI's ``amp``,
    which is for CUDA alone, does nothing.

    Args:
        precision: "float32" changes nothing; "bfloat16" runs convolutions in it, on the device of the input. Weights
            and losses stay float32.

    Raises:
        OptionError: for another precision.

    Example:
        >>> one_third, times_one = torch.full((1, 1), 1 / 3), lambda x: x @ torch.ones(1, 1)
        >>> [float(MixedPrecisionInferer(precision)(one_third, times_one)) for precision in ("float32", "bfloat16")]
        [0.3333333432674408, 0.333984375]
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
        candidate_threshold: what has a lower detector score is no candidate.
        merge_mm: in-plane distance in mm within which boxes of neighbouring slices are one candidate.
        patch_size: voxels along the axes of the classifier's patches; one number makes a cube.
        max_candidates: candidates kept, the best by detector score: a budget that does not depend on how sure the
            detector is on scans of this kind. Where more than half of them are likelier microbleeds than not, as many
            again are looked at, and so on: a brain with hundreds is not cut off at the budget.
        classify: False stops after the first stage; the probability is then NaN.
        score_slices: slices that a candidate's score is taken over, see :func:`~.merge_slices`. For more than one, the
            detector must have a ``score_thresh``; a slice without a box counts as half of it.
        context: slices that are the channels of one image, as in training, see :func:`~.stack_slices`.

    Raises:
        OptionError: a size of a batch or a patch, or the number of candidates, is below 1.

    Example:
        >>> from types import SimpleNamespace
        >>> def detector(slices):  # one box on each slice, the surer the darker the slice is in its middle
        ...     box = torch.tensor([[3.0, 3.0, 6.0, 6.0]])
        ...     return [{"boxes": box, "scores": 1 - one[0, 4, 4].reshape(1)} for one in slices]
        >>> def classifier(patches):  # logits
        ...     return torch.tensor([[0.0, 2.0]]).expand(len(patches), 2)
        >>> network = SimpleNamespace(detector=detector, classifier=classifier)
        >>> volume = torch.ones(1, 2, 9, 9, 5)
        >>> volume[:, 0, 4, 4, 2] = 0.2
        >>> table = TwoStageInferer(spacing=(0.6, 0.6, 2.0), average=1)(volume, network)
        >>> found = dict(zip(CANDIDATE_COLUMNS, table[0, 0].tolist()))
        >>> {name: round(found[name], 3) for name in ("i", "j", "k", "diameter_mm", "detector_score", "probability")}
        {'i': 4.0, 'j': 4.0, 'k': 2.0, 'diameter_mm': 1.8, 'detector_score': 0.8, 'probability': 0.881}
    """

    decides_jointly = True
    """Whether the network's ``decision`` was fitted to scores of this kind."""

    def __init__(
        self,
        spacing: tuple[float, float, float],
        average: int = 3,
        batch_size: int = 12,
        candidate_threshold: float = 0.1,
        merge_mm: float = 4.0,
        patch_size: int | Sequence[int] = 16,
        max_candidates: int = 500,
        classify: bool = True,
        patch_batch_size: int = 64,
        score_slices: int = 1,
        context: int = 1,
    ) -> None:
        super().__init__()
        for name, number in (("batch_size", batch_size), ("patch_batch_size", patch_batch_size),
                             ("max_candidates", max_candidates)):  # fmt: skip
            if not _is_count(number):
                raise OptionError(f"{name} is {number!r}; expected a whole number, 1 or more.")
        several = isinstance(patch_size, Sequence) and len(patch_size) == 3
        if not all(map(_is_count, patch_size if several else [patch_size])):
            raise OptionError(f"patch_size is {patch_size!r}; expected a whole number, 1 or more, or three of them.")
        self.spacing = tuple(float(s) for s in spacing)
        self.average = average
        self.batch_size = batch_size
        self.candidate_threshold = candidate_threshold
        self.merge_mm = merge_mm
        self.patch_size = patch_size
        self.max_candidates = max_candidates
        self.classify = classify
        self.patch_batch_size = patch_batch_size
        self.score_slices = score_slices
        self.context = context

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
        """
        Args:
            inputs: (B, 2, i, j, k), SWI and complement phase on the model's grid.
            network: a module with children ``detector`` and ``classifier``; or, without ``classify``, a detector.

        Returns:
            (B, N, 8), one row per candidate with the columns :data:`~..detection.candidates.CANDIDATE_COLUMNS`: i, j,
            k (continuous voxel of the model's grid), diameter_mm, detector_score, n_slices, classifier_probability,
            probability; best detector score first. Where subjects of a batch have fewer than N candidates, rows of NaN
            follow.
        """
        volumes = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        tables = [candidates_to_table(self._subject(volume, network)) for volume in volumes]
        longest = max(len(t) for t in tables)
        padded = torch.full((len(tables), longest, len(CANDIDATE_COLUMNS)), torch.nan, dtype=torch.float32)
        for row, table in zip(padded, tables, strict=True):
            row[: len(table)] = table
        return padded

    def _subject(self, volume: torch.Tensor, network: torch.nn.Module) -> list[Candidate]:
        ranked = self.ranked_candidates(volume, getattr(network, "detector", network))
        if not self.classify:
            return ranked[: self.max_candidates]
        judged: list[Candidate] = []
        while further := ranked[len(judged) : len(judged) + self.max_candidates]:
            alone, joint = self._probabilities(volume, further, network)
            judged += [
                replace(candidate, classifier_probability=by_classifier, probability=probability)
                for candidate, by_classifier, probability in zip(further, alone.tolist(), joint.tolist(), strict=True)
            ]
            if 2 * int((joint >= 0.5).sum()) <= self.max_candidates:
                break
        return judged

    def _probabilities(
        self, volume: torch.Tensor, candidates: Sequence[Candidate], network: torch.nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The probability of each candidate by stage 2 alone, and by both."""
        voxels = torch.tensor([c.model_voxel for c in candidates])
        scores = torch.tensor([c.detector_score for c in candidates])
        decision = getattr(network, "decision", None) if self.decides_jointly else None

        def decide(logits: torch.Tensor) -> torch.Tensor:
            return logits.sigmoid() if decision is None else decision(scores, logits)

        if getattr(network.classifier, "average_flips", False):
            logits = self.logits(volume, voxels, network.classifier, mirrored=False)
            likely = decide(logits) >= UNLIKELY
            if likely.any():
                logits[likely] = self.logits(volume, voxels[likely], network.classifier)
        else:
            logits = self.logits(volume, voxels, network.classifier)
        joint = decide(logits)
        _check_finite(joint, "the decision")
        return logits.sigmoid(), joint

    def find_candidates(self, volume: torch.Tensor, detector: torch.nn.Module | None = None) -> list[Candidate]:
        """Stage 1: the ``max_candidates`` best candidates of a volume (2, i, j, k), best score first."""
        return self.ranked_candidates(volume, detector)[: self.max_candidates]

    @torch.no_grad()
    def ranked_candidates(self, volume: torch.Tensor, detector: torch.nn.Module) -> list[Candidate]:
        """Stage 1: all candidates of a volume (2, i, j, k), best score first."""
        options = {"merge_mm": self.merge_mm, "score_slices": self.score_slices, "swi": volume[0]}
        if self.score_slices > 1:
            options["missing_slice_score"] = 0.5 * detector.score_thresh
        candidates = merge_slices(self.detect(volume, detector), self.spacing, **options)
        # the order by best box is another than that by score, where a score is over several slices
        candidates.sort(key=attrgetter("detector_score"), reverse=True)
        least = float(np.float32(self.candidate_threshold))  # scores are of single precision
        return [c for c in candidates if c.detector_score >= least]

    @torch.no_grad()
    def detect(self, volume: torch.Tensor, detector: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The detector on every slice of (2, i, j, k): for each, boxes (N, 4) in pixel edges and scores (N,).

        Where scores are taken over several slices, weak boxes are kept too: the threshold is for what they add up to.
        """
        least = self.candidate_threshold if self.score_slices == 1 else 0.0
        # what an accelerated network would round its slices to, once and not for each neighbour
        dtype = getattr(getattr(detector, "network", None), "dtype", torch.float32)
        slices = average_slices(volume.float(), self.average).to(dtype).movedim(3, 0).contiguous()
        detections = []
        for batch in torch.arange(len(slices)).split(self.batch_size):
            for found in detector(stack_slices(slices, self.context, batch.tolist())):
                keep = found["scores"] >= least
                detections.append((found["boxes"][keep].cpu(), found["scores"][keep].cpu()))
        return detections

    @torch.no_grad()
    def logits(
        self, volume: torch.Tensor, voxels: torch.Tensor, classifier: torch.nn.Module, **options: object
    ) -> torch.Tensor:
        """Stage 2: the logit of a microbleed minus that of another thing at each of ``voxels`` (N, 3), as (N,).

        ``options`` are passed to the classifier.
        """
        found = []
        for batch in voxels.split(self.patch_batch_size):
            patches = torch.stack([cut_patch(volume.float(), v, self.patch_size) for v in batch])
            logits = classifier(patches, **options).float()
            found.append(logits[:, 1] - logits[:, 0])
        logits = torch.cat(found).cpu()
        _check_finite(logits, "stage 2")
        return logits


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _check_finite(values: torch.Tensor, where: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            f"The network returned values of {where} that are not finite. Look for NaN or infinite values in its "
            "weights; without them every candidate would be dropped in silence."
        )
