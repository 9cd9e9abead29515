"""Ignite metrics of whole volumes, by which the best epoch of a stage is chosen."""

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
    Mean sensitivity of stage 1 over rates of false candidates a subject, to choose its best epoch.

    Under distributed training, the subjects of all processes are gathered; one that several processes saw, as samplers
    do to give all processes equally many, counts once.

    Args:
        rates: false candidates a subject at which the sensitivity is averaged.
        distance_mm: largest distance of a hit.
    """

    def __init__(self, rates: Sequence[float] = (1, 2, 4, 8, 16, 32), distance_mm: float = 5.0) -> None:
        self.rates, self.distance_mm = tuple(rates), distance_mm
        super().__init__()

    def reset(self) -> None:
        self._matchings: list[tuple[str | None, Matching]] = []

    def update(self, output: Sequence[Mapping]) -> None:
        """
        Take the subjects of an iteration.

        Args:
            output: for each subject ``pred``, a table with the columns ``CANDIDATE_COLUMNS``; ``image``, a MetaTensor
                whose affine takes the table's voxels to RAS mm, with the ``subject`` in its meta data; ``label``,
                (N, 3) lesions in RAS mm.
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
        """The mean sensitivity; NaN where no subject has a lesion, so that no epoch is called the best by it."""
        gathered = self._matchings
        if idist.get_world_size() > 1:
            gathered = [one for process in idist.all_gather(gathered) for one in process]
        by_subject = {name: matching for name, matching in gathered if name is not None}
        matchings = [*by_subject.values(), *(matching for name, matching in gathered if name is None)]
        sensitivity = mean_sensitivity(froc(matchings), self.rates) if matchings else None
        return math.nan if sensitivity is None else sensitivity


class FindingsFROC(CandidateFROC):
    """
    Mean sensitivity end to end, by the probability of stage 2 over all candidates, to choose its best epoch.

    Args:
        rates: false positives a subject at which the sensitivity is averaged.
        distance_mm: largest distance of a hit.
        duplicate_mm: of two candidates closer than this, the less probable one is none, as in inference.
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
