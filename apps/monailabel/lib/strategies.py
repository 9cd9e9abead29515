"""Choose the scan to annotate next: the one with the most uncertain candidates."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from monailabel.interfaces.tasks.strategy import Strategy

logger = logging.getLogger(__name__)

BAND = 0.25
"""A candidate counts 1 at the threshold, falling to 0 at this distance in probability."""


def candidate_uncertainty(candidates: Iterable[Mapping], threshold: float) -> float:
    """
    Measure how many candidates of a scan are near the threshold.

    Args:
        candidates: candidates of a result of the bundle, with `probability`.
        threshold: probability from which a candidate is reported as a microbleed.

    Returns:
        the sum of 1 - distance / 0.25 over the candidates closer than 0.25 to the threshold.
    """
    known = [c["probability"] for c in candidates if c["probability"] is not None]
    return round(sum(max(0.0, 1 - abs(p - threshold) / BAND) for p in known), 4)


class MostUncertain(Strategy):
    """
    The scan without a label that has the most uncertain candidates.

    Inference records the uncertainty of each scan together with the weights used. Scans without a record, or with one
    from other weights, are inferred here, a few per call, so that the first call on a large study does not take hours.
    Recently served scans come last, so that the next request gets another scan.

    Args:
        infer: the app's method `infer`.
        current: function that returns a text that identifies the weights in use.
        at_a_time: number of scans to infer per call.
        again_after: seconds after which a served scan can be served again.
    """

    def __init__(self, infer, current, at_a_time: int = 5, again_after: int = 600):
        super().__init__("The most uncertain scan first")
        self.infer, self.current, self.at_a_time, self.again_after = infer, current, at_a_time, again_after

    def __call__(self, request, datastore):
        """Return `id`, `uncertainty`, and `not_scored`, the number of scans whose uncertainty is not yet known."""
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        notes = {image: self._note(datastore, image) for image in images}
        for image in [image for image in images if notes[image] is None][: self.at_a_time]:
            try:
                result = self.infer({"model": "cmb_bundle", "image": image})
                Path(result["file"]).unlink(missing_ok=True)
                notes[image] = self._note(datastore, image)
            except Exception as error:
                logger.warning(f"{image} has no uncertainty: {error}")
        served = request["strategy"]

        def rank(image):
            last = datastore.get_image_info(image).get("strategy", {}).get(served, {}).get("ts", 0)
            return time.time() - last < self.again_after, notes[image] is None, -(notes[image] or 0.0), image

        image = min(images, key=rank)
        return {"id": image, "uncertainty": notes[image], "not_scored": sum(n is None for n in notes.values())}

    def _note(self, datastore, image) -> float | None:
        note = datastore.get_image_info(image).get("cmb", {})
        return note["uncertainty"] if note.get("weights") == self.current() else None
