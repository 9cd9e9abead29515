"""Slices of the first stage: averaged, stacked with their neighbours, and drawn at random for training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch.nn.functional import avg_pool1d, pad

from ..geometry import to_voxel


def average_slices(volume: torch.Tensor, number: int = 3) -> torch.Tensor:
    """
    Average each slice with its neighbours, as the published method does; at the ends over those that exist.

    Args:
        volume: (C, i, j, k).
        number: how many slices, odd; 1 leaves the volume as it is.

    Returns:
        the same shape.

    Raises:
        ValueError: ``number`` is even or below 1.

    Example:
        >>> average_slices(torch.tensor([3.0, 6.0, 9.0, 0.0]).reshape(1, 1, 1, 4), 3)
        tensor([[[[4.5000, 6.0000, 5.0000, 4.5000]]]])
    """
    if number < 1 or number % 2 == 0:
        raise ValueError(f"{number} slices cannot be averaged around one; expected an odd number, such as 1 or 3.")
    if number == 1:
        return volume
    flat = volume.reshape(-1, 1, volume.shape[-1])
    return avg_pool1d(flat, number, 1, number // 2, count_include_pad=False).reshape(volume.shape)


def neighbouring_slices(k: int, slices: int, number: int) -> list[int]:
    """
    Indices of a slice and its neighbours, in order; beyond the ends stands the last slice.

    Args:
        k: the slice.
        slices: how many there are.
        number: how many to take, odd.

    Raises:
        ValueError: ``number`` is even or below 1.

    Example:
        >>> neighbouring_slices(0, slices=10, number=5)
        [0, 0, 0, 1, 2]
    """
    if number < 1 or number % 2 == 0:
        raise ValueError(f"context is {number}; expected an odd number of slices, such as 1 or 3.")
    return [min(max(k + step, 0), slices - 1) for step in range(-(number // 2), number // 2 + 1)]


def stack_slices(slices: torch.Tensor, number: int, chosen: Sequence[int] | None = None) -> torch.Tensor:
    """
    Put beside slices their neighbours, as channels.

    Args:
        slices: (k, C, i, j).
        number: slices for each, see :func:`neighbouring_slices`.
        chosen: which slices; None takes all.

    Returns:
        (chosen, C number, i, j), all slices of the first channel first, in channels-last memory order.

    Example:
        >>> slices = torch.tensor([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])  # SWI and phase of three
        >>> stack_slices(slices.reshape(3, 2, 1, 1), 3, chosen=[1]).flatten()
        tensor([10., 20., 30., 11., 21., 31.])
    """
    wanted = range(len(slices)) if chosen is None else chosen
    around = [neighbouring_slices(k, len(slices), number) for k in wanted]
    channels, *size = slices.shape[1:]
    shape, how = (len(around), channels * number, *size), {"dtype": slices.dtype, "device": slices.device}
    stacked = torch.empty(shape, **how, memory_format=torch.channels_last)
    for row, neighbours in enumerate(around):
        for step, neighbour in enumerate(neighbours):
            stacked[row, step::number] = slices[neighbour]
    return stacked


class RandSlicesd(RandomizableTransform, MapTransform):
    """
    Draw averaged slices of a volume for training the detector, some through a lesion and some not.

    Args:
        keys: key of the volume, (2, i, j, k) on the model's grid.
        number: slices drawn of a subject.
        lesion_fraction: share of them that go through a lesion, where the subject has one.
        size: in-plane size (i, j) in voxels of what is cut from a slice; a slice through a lesion is cut so that the
            lesion is in it; beyond the slice are zeros.
        average: slices averaged, see :func:`average_slices`.
        context: (averaged) slices that are the channels of one image, see :func:`stack_slices`.
        box_mm: edge of the box around a lesion, at least; larger for lesions known to be large.
        box_scale: edge of the box in diameters, where the diameter is known.
        reach_mm: a lesion is marked on slices up to this far from its centre along the slice axis, or its radius or
            half a slice if that is larger.

    Returns:
        a list of ``number`` dictionaries with ``image`` (2 context, *size) and the detector's targets ``boxes`` (N, 4),
        in pixel-edge units of the cut, and ``labels`` (N,), all 0.

    Example:
        >>> from monai.data import MetaTensor
        >>> volume = MetaTensor(torch.ones(2, 16, 16, 9), affine=torch.eye(4))
        >>> volume[:, 10, 5, 4] = 0.0
        >>> lesion = {"lesions_ras": torch.tensor([[10.0, 5.0, 4.0]]), "lesions_diameter": torch.tensor([2.0])}
        >>> draw = RandSlicesd(number=2, lesion_fraction=1.0, size=(16, 16), average=1, reach_mm=0.5)
        >>> slices = draw.set_random_state(seed=0)({"image": volume, **lesion})
        >>> float(slices[0]["image"][0, 10, 5]), slices[0]["boxes"], slices[0]["labels"]
        (0.0, tensor([[ 7.5000,  2.5000, 13.5000,  8.5000]]), tensor([0]))
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        number: int = 8,
        lesion_fraction: float = 0.5,
        size: tuple[int, int] = (192, 192),
        average: int = 3,
        box_mm: float = 6.0,
        box_scale: float = 1.5,
        reach_mm: float = 2.0,
        context: int = 1,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.number = number
        self.lesion_fraction = lesion_fraction
        self.size = tuple(size)
        self.average = average
        self.box_mm = box_mm
        self.box_scale = box_scale
        self.reach_mm = reach_mm
        self.context = context

    def __call__(self, data: Mapping[Hashable, object]) -> list[dict]:
        volume = data[self.keys[0]]
        spacing = volume.pixdim.numpy()
        voxel, boxes = self.lesion_boxes(volume, data["lesions_ras"], data["lesions_diameter"], spacing)
        slices = []
        for _ in range(self.number):
            self.randomize(volume.shape[1:], voxel, boxes)
            slices.append(self._slice(volume.as_tensor(), voxel, boxes))
        return slices

    def lesion_boxes(self, volume, ras, diameter, spacing) -> tuple[np.ndarray, np.ndarray]:
        """Centres (N, 3) in voxels of the volume, and half edges (N, 3) in voxels of the boxes around them."""
        voxel = to_voxel(volume.affine.numpy(), np.asarray(ras).reshape(-1, 3))
        diameter = np.nan_to_num(np.asarray(diameter, dtype=float), nan=0.0)
        edge = np.maximum(self.box_mm, self.box_scale * diameter)
        depth = np.maximum(max(self.reach_mm, spacing[2] / 2), diameter / 2)
        return voxel, np.stack([edge / 2 / spacing[0], edge / 2 / spacing[1], depth / spacing[2]], axis=1)

    def randomize(self, shape: Sequence[int], voxel: np.ndarray, half: np.ndarray) -> None:
        """
        Draw one slice and where its cut begins.

        Args:
            shape: (i, j, k) of the volume.
            voxel: centres (N, 3) of the lesions in voxels.
            half: half edges (N, 3) in voxels of the boxes around them.
        """
        through = len(voxel) > 0 and self.R.random() < self.lesion_fraction
        if through:
            chosen = self.R.randint(len(voxel))
            low = max(0, int(np.ceil(voxel[chosen, 2] - half[chosen, 2])))
            high = min(shape[2] - 1, int(np.floor(voxel[chosen, 2] + half[chosen, 2])))
            k = self.R.randint(low, high + 1) if high >= low else int(np.clip(round(voxel[chosen, 2]), 0, shape[2] - 1))
        else:
            k = self.R.randint(shape[2])
        self._k, self._start = k, []
        for axis in (0, 1):
            spare = shape[axis] - self.size[axis]
            low, high = min(0, spare), max(0, spare)
            if through:
                box_start = voxel[chosen, axis] + 0.5 - half[chosen, axis]
                low = int(np.clip(np.ceil(box_start + 2 * half[chosen, axis] - self.size[axis]), low, high))
                high = max(low, min(int(np.floor(box_start)), high))
            self._start.append(self.R.randint(low, high + 1))

    def _slice(self, volume: torch.Tensor, voxel: np.ndarray, half: np.ndarray) -> dict:
        """Cut the slice that was drawn, with the boxes of the lesions on it."""
        k, start = self._k, self._start
        on_slice = np.abs(voxel[:, 2] - k) <= half[:, 2]
        centre = voxel[on_slice, :2] + 0.5 - np.array(start)
        boxes = np.concatenate([centre - half[on_slice, :2], centre + half[on_slice, :2]], axis=1)
        inside = ((centre >= 0) & (centre < np.array(self.size))).all(axis=1)
        boxes = boxes[inside].clip(0, np.tile(self.size, 2))
        piece, ends = self._cut(volume, start)  # before its slices are averaged and copied
        around = [self._plane(piece, one) for one in neighbouring_slices(k, volume.shape[-1], self.context)]
        return {
            "image": pad(torch.stack(around, dim=1).flatten(0, 1), ends),
            "boxes": torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.zeros(len(boxes), dtype=torch.int64),
        }

    def _plane(self, volume: torch.Tensor, k: int) -> torch.Tensor:
        first = max(0, k - self.average // 2)
        around = volume[..., first : k + self.average // 2 + 1].float()
        return average_slices(around, self.average)[..., k - first]

    def _cut(self, volume: torch.Tensor, start: list[int]) -> tuple[torch.Tensor, list[int]]:
        """The part (C, i, j, k) of a volume that is in the cut, and the zeros that its slices lack at their ends."""
        spans = [slice(max(s, 0), s + n) for s, n in zip(start, self.size, strict=True)]
        piece = volume[:, spans[0], spans[1]]
        before = [max(-s, 0) for s in start]
        after = [n - b - m for n, b, m in zip(self.size, before, piece.shape[1:3], strict=True)]
        return piece, [before[1], after[1], before[0], after[0]]
