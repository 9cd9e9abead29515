"""Ignite metrics over whole volumes, to choose the best epoch of a stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import numpy as np
from ignite.metrics import Metric
from nibabel.affines import apply_affine

from ..detection.candidates import CANDIDATE_COLUMNS
from ..evaluation.froc import FROC_RATES, froc, mean_sensitivity
from ..evaluation.matching import Matching, match, suppress


class CandidateFROC(Metric):
    """
    Mean sensitivity of stage 1 over rates of false candidates per subject, to choose its best epoch.

    In distributed training, the subjects of all processes are gathered; a subject counts once even if a sampler gave it
    to several processes in order to give all the same number.

    Args:
        rates: false candidates per subject at which the sensitivity is averaged.
        distance_mm: largest distance between a detection and its lesion.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> table = torch.tensor([[4.0, 5.0, 3.0, 2.0, 0.9, 1.0, 0.7], [9.0, 9.0, 9.0, 2.0, 0.8, 1.0, 0.1]])
        >>> image = MetaTensor(torch.zeros(2, 12, 12, 12), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        >>> metric = CandidateFROC(rates=(0, 1))
        >>> metric.update([{"pred": table, "image": image, "label": torch.tensor([[8.0, 10.0, 7.0], [0.0, 0.0, 0.0]])}])
        >>> metric.compute()  # one of two lesions, 1 mm from the first row, at either rate
        0.5
    """

    def __init__(self, rates: Sequence[float] = (1, 2, 4, 8, 16, 32), distance_mm: float = 5.0) -> None:
        self.rates, self.distance_mm = tuple(rates), distance_mm
        super().__init__()

    def reset(self) -> None:
        self._matchings: list[tuple[str | None, Matching]] = []

    def update(self, output: Sequence[Mapping]) -> None:
        """
        Add the subjects of an iteration.

        Args:
            output: for each subject ``pred``, a table with the columns ``CANDIDATE_COLUMNS``; ``image``, a MetaTensor
                whose affine takes the table's voxels to RAS mm, with the ``subject`` in its metadata; ``label``, (N, 3)
                lesions in RAS mm.
        """
        for one in output:
            table = np.asarray(one["pred"], dtype=float)
            places = apply_affine(np.asarray(one["image"].affine), table[:, :3])
            places, scores = self.detections(places, table)
            matching = match(places, scores, np.asarray(one["label"]), self.distance_mm)
            self._matchings.append((one["image"].meta.get("subject"), matching))

    def detections(self, places_mm: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places (N, 3) and scores (N,) that the curve is made of."""
        found = ~np.isnan(table[:, 0])
        return places_mm[found], table[found, CANDIDATE_COLUMNS.index("detector_score")]

    def compute(self) -> float:
        """The mean sensitivity; NaN if no subject has a lesion, so that no epoch becomes the best by chance."""
        gathered = self._matchings
        if idist.get_world_size() > 1:
            gathered = [one for process in idist.all_gather(gathered) for one in process]
        by_subject = {name: matching for name, matching in gathered if name is not None}
        matchings = [*by_subject.values(), *(matching for name, matching in gathered if name is None)]
        sensitivity = mean_sensitivity(froc(matchings), self.rates) if matchings else None
        return math.nan if sensitivity is None else sensitivity


class FindingsFROC(CandidateFROC):
    """
    Mean sensitivity end to end, by the probability over all candidates, to choose its best epoch.

    Args:
        rates: false positives per subject at which the sensitivity is averaged.
        distance_mm: largest distance between a detection and its lesion.
        duplicate_mm: the less probable of two candidates closer than this is discarded, as in inference.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> table = torch.tensor([[4.0, 5.0, 3.0, 2.0, 0.9, 1.0, 0.1, 0.1], [9.0, 9.0, 9.0, 2.0, 0.8, 1.0, 0.7, 0.7]])
        >>> image = MetaTensor(torch.zeros(2, 12, 12, 12), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        >>> metric = FindingsFROC(rates=(0, 1))
        >>> metric.update([{"pred": table, "image": image, "label": torch.tensor([[8.0, 10.0, 7.0]])}])
        >>> metric.compute()  # the lesion is less probable than the false candidate: found at 1 a subject, not at 0
        0.5
    """

    def __init__(
        self, rates: Sequence[float] = FROC_RATES, distance_mm: float = 5.0, duplicate_mm: float = 3.0
    ) -> None:
        self.duplicate_mm = duplicate_mm
        super().__init__(rates, distance_mm)

    def detections(self, places_mm: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability = table[:, CANDIDATE_COLUMNS.index("probability")]
        found = ~np.isnan(table[:, 0]) & ~np.isnan(probability)
        places, probability = places_mm[found], probability[found]
        kept = suppress(places, probability, self.duplicate_mm)
        return places[kept], probability[kept]
