"""Random changes of contrast and phase for training, which MONAI lacks.

What is applied, with MONAI's flips, turns and blur, is in ``detector_augmentation`` and ``classifier_augmentation`` of
configs/train.json.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from .channels import DARKEST_PHASE


class RandContrastd(RandomizableTransform, MapTransform):
    """
    Vary the contrast of SWI and phase as echo time, field strength and receive gain do.

    SWI s becomes (gain * s) ** gamma around its tissue value 0.5; the phase channel's distance from 0.5 (zero phase)
    is multiplied by a factor, since phase grows with echo time and field. Zeros (background, missing phase) stay.

    Args:
        keys: key of an image with channels SWI and, if there, complement phase; any spatial shape.
        slices: channels of SWI, which come first, see :func:`stack_slices`.
        prob: probability of a change.
        gamma: range of the exponent.
        gain: range of the gain of SWI.
        phase_factor: range of the factor of the phase.
        noise: largest standard deviation of added Gaussian noise, in both channels.
        floor: largest noise floor: in half of the changes a value f up to this turns SWI s into sqrt(s^2 + f^2), as
            noise does to what is black, and as vendors' processing does.

    Example:
        >>> change = RandContrastd("image", prob=1.0, gamma=(2, 2), gain=(1, 1), phase_factor=(1.5, 1.5), noise=0)
        >>> image = torch.tensor([[0.25, 0.5, 0.0], [0.25, 0.5, 0.0]])  # SWI and phase; the last pixel is background
        >>> change({"image": image})["image"]
        tensor([[0.1250, 0.5000, 0.0000],
                [0.1250, 0.5000, 0.0000]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.8,
        gamma: tuple[float, float] = (0.7, 1.4),
        gain: tuple[float, float] = (0.9, 1.1),
        phase_factor: tuple[float, float] = (0.6, 1.5),
        noise: float = 0.03,
        floor: float = 0.0,
        slices: int = 1,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.slices = slices
        self.gamma = gamma
        self.gain = gain
        self.phase_factor = phase_factor
        self.noise = noise
        self.floor = floor

    def randomize(self, shapes: Sequence[Sequence[int]]) -> None:
        """Draw whether and how to change, and the noise (same shape) of each image of these shapes."""
        super().randomize(None)
        if not self._do_transform:
            return
        self._gamma = self.R.uniform(*self.gamma)
        self._gain = self.R.uniform(*self.gain)
        self._phase_factor = self.R.uniform(*self.phase_factor)
        deviation = self.R.uniform(0, self.noise)
        if self.floor:
            self._floor = self.R.uniform(0, self.floor) * (self.R.uniform() < 0.5)
        # torch draws in a fifth of the time of NumPy's RandomState
        generator = torch.Generator().manual_seed(self.R.randint(2**31))
        self._grains = [deviation * torch.randn(tuple(shape), generator=generator) for shape in shapes]

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        self.randomize([d[key].shape for key in self.keys])
        if not self._do_transform:
            return d
        for key, grain in zip(self.keys, self._grains, strict=True):
            image = d[key].clone()
            inside = image > 0
            swi, phase = image[: self.slices], image[self.slices :]
            swi.copy_(0.5 * (2 * self._gain * swi).pow(self._gamma))
            if self.floor:
                swi.copy_(torch.hypot(swi, torch.tensor(self._floor, dtype=swi.dtype)))
            phase.copy_(0.5 + self._phase_factor * (phase - 0.5))
            changed = (image + grain.to(image.dtype)).clamp(0, 1)
            # 0 would be a missing phase
            changed[self.slices :].clamp_(min=DARKEST_PHASE)
            d[key] = changed * inside
        return d


class RandDropPhased(RandomizableTransform, MapTransform):
    """
    Set the phase channel to zero now and then, so that the networks know scans without a phase.

    Args:
        keys: key of an image with the phase as its last channels; one of SWI alone stays as it is.
        prob: probability of dropping it.
        slices: channels of SWI, which come first, see :func:`stack_slices`.

    Example:
        >>> image = torch.tensor([[0.5, 0.25], [0.5, 0.75]])
        >>> RandDropPhased("image", prob=1.0)({"image": image})["image"]
        tensor([[0.5000, 0.2500],
                [0.0000, 0.0000]])
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.1, slices: int = 1) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.slices = slices

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        self.randomize(None)
        for key in self.keys:
            if self._do_transform:
                d[key] = d[key].clone()
                d[key][self.slices :] = 0
        return d
