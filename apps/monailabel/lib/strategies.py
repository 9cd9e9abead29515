"""Which scan to annotate next: the one whose candidates the model is least sure of."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from monailabel.interfaces.tasks.strategy import Strategy

logger = logging.getLogger(__name__)

BAND = 0.25
"""A candidate counts 1 at the threshold and 0 from this distance in probability on."""


def candidate_uncertainty(candidates: Iterable[Mapping], threshold: float) -> float:
    """
    How many candidates of a scan are near the threshold.

    Args:
        candidates: of a result of the bundle, with `probability`.
        threshold: from which a candidate is a microbleed.

    Returns:
        the sum over candidates of 1 - distance / 0.25, of those nearer than 0.25 to the threshold.
    """
    known = [c["probability"] for c in candidates if c["probability"] is not None]
    return round(sum(max(0.0, 1 - abs(p - threshold) / BAND) for p in known), 4)


class MostUncertain(Strategy):
    """
    The scan without a label that has the most uncertain candidates.

    Inference notes the uncertainty of each scan, with the weights it is of. Scans without a note, or with one of
    other weights, are inferred here, some at each call, so that the first call on a large study does not take hours.
    Scans that were served lately come last, so that asking again gives another one.

    Args:
        infer: the app's infer.
        current: returns a text that names the weights in use.
        at_a_time: scans inferred in one call.
        again_after: seconds after which a scan is served again in its turn.
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
                found = self.infer({"model": "cmb_bundle", "image": image})
                Path(found["file"]).unlink(missing_ok=True)
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
