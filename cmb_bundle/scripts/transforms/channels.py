"""Scale SWI and stack it with the phase to the two channels that both stages read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from .notices import add_notice
from .plausible import memory_order

DARKEST_PHASE = 1e-3
"""The least complement of a measured phase: 0 means that there is none."""


class ScaleSWId(MapTransform):
    """
    Scale SWI so that the median of the head is 0.5, clipped to [0, 1].

    The median is that of the voxels of ``mask`` above half of the mask's mean, which leaves out air and bone.

    Args:
        keys: key of the SWI.

    Example:
        >>> image = torch.tensor([0.0, 40.0, 100.0, 100.0, 500.0]).reshape(1, 5, 1, 1)
        >>> scaled = ScaleSWId("image")({"image": MetaTensor(image), "mask": MetaTensor(image > 0)})["image"]
        >>> scaled.flatten()  # air, a microbleed, tissue, tissue, what is far brighter
        metatensor([0.0000, 0.2000, 0.5000, 0.5000, 1.0000])
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            swi = d[key].as_tensor()
            order = memory_order(swi)  # choosing voxels in another order, or on four axes, takes three times as long
            tissue = swi.permute(order).flatten()[d["mask"].as_tensor().bool().permute(order).flatten()]
            tissue = tissue[tissue > 0.5 * tissue.mean()]
            d[key] = (d[key] * (0.5 / float(tissue.median()))).clamp(0, 1)
        return d


class StackComplementPhased(Transform):
    """
    Stack SWI and the complement of the phase into the channels of ``image``.

    The complement is (pi - phase) / (2 pi), in (0, 1]: paramagnetic tissue is dark in both channels. Without a
    phase, the channel is zero. Masked-out background is zero in both.

    Args:
        phase_channel: ``"complement"``; ``"zero"`` leaves the second channel zero although there is a phase;
            ``"none"`` gives SWI alone, one channel.

    Returns:
        the dictionary with ``image`` (2, i, j, k), or (1, i, j, k) without a phase channel, float32 on the model's
        grid; ``phase`` and ``mask`` are removed.

    Raises:
        ValueError: ``phase_channel`` is none of the values above.

    Example:
        >>> swi = MetaTensor(torch.full((1, 3, 1, 1), 0.5))
        >>> phase = MetaTensor(torch.tensor([-math.pi, 0.0, math.pi / 2]).reshape(1, 3, 1, 1))
        >>> mask = MetaTensor(torch.ones(1, 3, 1, 1))
        >>> subject = StackComplementPhased()({"image": swi, "phase": phase, "mask": mask})
        >>> subject["image"].flatten(1)
        metatensor([[0.5000, 0.5000, 0.5000],
                [1.0000, 0.5000, 0.2500]])
    """

    def __init__(self, phase_channel: str = "complement") -> None:
        if phase_channel not in ("complement", "zero", "none"):
            raise ValueError(f"phase_channel is {phase_channel!r}; expected 'complement', 'zero' or 'none'.")
        self.phase_channel = phase_channel

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        swi, mask, phase = d["image"], d.pop("mask"), d.pop("phase", None)
        mask = mask.as_tensor() > 0.5
        i, j, k = swi.shape[1:]
        # slice after slice in memory, as stage 1 reads it
        channels = torch.zeros((1 if self.phase_channel == "none" else 2, k, i, j)).permute(0, 2, 3, 1)
        channels[0] = swi.as_tensor()[0] * mask[0]
        if phase is not None and self.phase_channel != "complement":
            add_notice(d, "The phase was left out: the detection works on SWI alone.")
        elif phase is not None:
            complement = (math.pi - phase.as_tensor()[0].clamp(-math.pi, math.pi)) / (2 * math.pi)
            channels[1] = complement.clamp(min=DARKEST_PHASE) * mask[0]
        d["image"] = MetaTensor(channels, meta=swi.meta)
        return d
