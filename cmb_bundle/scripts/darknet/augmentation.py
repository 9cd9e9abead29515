"""Darknet's augmentation of images and boxes, adapted to slices of SWI and complement phase."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch.nn.functional import affine_grid, grid_sample


class RandJitterd(RandomizableTransform, MapTransform):
    """
    Move each of the four borders of a slice in or out, and stretch the area between them to the slice's size.

    This is ``jitter`` of YOLOv2's configuration, in ``load_data_region`` of darknet's ``src/data.c``: each border moves
    by a uniformly drawn fraction of the size, at most ``jitter``; the edge is repeated beyond the slice; boxes are cut
    at the borders, and those with a side below a thousandth of the slice are dropped. Borders are not rounded to
    pixels here, and pixels cover areas ([p, p + 1) along an axis), so that boxes follow the image exactly.

    Args:
        keys: key of a slice (C, i, j).
        box_key: key of the boxes (N, 4): axis 0 min, axis 1 min, axis 0 max, axis 1 max in pixel edges.
        label_key: key of the labels (N,).
        jitter: largest movement of a border as a fraction of the size along its axis, from 0 to below 0.5.
        min_side: boxes with a shorter side, as a fraction of the size of the slice, are dropped.

    Raises:
        ValueError: ``jitter`` is out of range.

    Example:
        >>> image, boxes = torch.arange(16.0).reshape(1, 4, 4), torch.tensor([[1.0, 1.0, 3.0, 3.0]])
        >>> stretched = RandJitterd.stretch(image, low=np.array([0.5, 0.0]), high=np.array([0.0, 0.0]))
        >>> stretched[0, :, 0]  # the lower half, twice as high
        tensor([ 7.,  9., 11., 12.])
        >>> still = RandJitterd(jitter=0.0)({"image": image, "boxes": boxes, "labels": torch.zeros(1)})
        >>> still["boxes"]
        tensor([[1., 1., 3., 3.]])
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        box_key: str = "boxes",
        label_key: str = "labels",
        jitter: float = 0.3,
        min_side: float = 0.001,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if not 0 <= jitter < 0.5:
            raise ValueError(f"jitter is {jitter}; expected a fraction of the slice's size, from 0 to below 0.5.")
        self.box_key, self.label_key, self.jitter, self.min_side = box_key, label_key, jitter, min_side

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        low, high = self.R.uniform(-self.jitter, self.jitter, (2, 2))
        for key in self.keys:
            d[key] = self.stretch(torch.as_tensor(d[key]), low, high)
        size = torch.tensor(d[self.keys[0]].shape[1:])
        boxes = torch.as_tensor(d[self.box_key]).reshape(-1, 2, 2)
        relative = (boxes / size - torch.as_tensor(low)) / torch.as_tensor(1 - low - high)
        relative = relative.clamp(0, 1)
        kept = (relative[:, 1] - relative[:, 0] >= self.min_side).all(dim=1)
        d[self.box_key] = (relative * size)[kept].reshape(-1, 4).to(boxes.dtype)
        d[self.label_key] = torch.as_tensor(d[self.label_key])[kept]
        return d

    @staticmethod
    def stretch(image: torch.Tensor, low: np.ndarray, high: np.ndarray) -> torch.Tensor:
        """
        Stretch the area between the borders to the whole slice, by bilinear interpolation.

        Args:
            image: (C, i, j).
            low: for axis 0 and axis 1, how far the first border moves in, as a fraction of the size; out if negative.
            high: the same for the last border.
        """
        # in coordinates from -1 to 1 between the outer edges, with axis 1 first
        scale, shift = (1 - low - high)[::-1], (low - high)[::-1]
        theta = torch.tensor([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], dtype=image.dtype)
        grid = affine_grid(theta[None], [1, *image.shape], align_corners=False)
        return grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


class RandExposured(RandomizableTransform, MapTransform):
    """
    Multiply both channels by one factor and cut at 1: ``exposure`` of YOLOv2's configuration.

    In ``random_distort_image`` of darknet's ``src/image.c`` exposure multiplies the value of hue, saturation and value.
    This multiplies red, green and blue equally; here it multiplies SWI and complement phase equally. ``saturation``
    and ``hue`` have no counterpart and are omitted: a grey image has a saturation of 0, which stays 0 whatever the
    factor, and without saturation hue has no effect. If the two channels were treated as colours, both would mix the
    complement phase into SWI, and the sign of the phase, which distinguishes calcifications from microbleeds, would
    be lost.

    Args:
        keys: key of an image (C, ...) with values in [0, 1].
        exposure: the factor is drawn uniformly from 1 to this and inverted with a probability of one half
            (``rand_scale`` of darknet's ``src/utils.c``).

    Raises:
        ValueError: ``exposure`` is below 1.

    Example:
        >>> brighter_or_darker = RandExposured(exposure=1.5).set_random_state(seed=0)
        >>> image = brighter_or_darker({"image": torch.tensor([0.2, 0.4, 0.8])})["image"]
        >>> round(float(image[1] / image[0]), 3), float(image.max()) <= 1  # one factor for all
        (2.0, True)
    """

    def __init__(self, keys: KeysCollection = "image", exposure: float = 1.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if exposure < 1:
            raise ValueError(f"exposure is {exposure}; expected a factor of 1 or more.")
        self.exposure = exposure

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        factor = self.R.uniform(1, self.exposure)
        if self.R.random() < 0.5:
            factor = 1 / factor
        for key in self.keys:
            d[key] = (torch.as_tensor(d[key]) * factor).clamp(max=1)
        return d
