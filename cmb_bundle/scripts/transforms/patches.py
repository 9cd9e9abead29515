"""Patches of the second stage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.transforms import MapTransform
from torch.nn.functional import pad


def cut_patch(volume: torch.Tensor, voxel, size: int) -> torch.Tensor:
    """
    Cut a cube around a point, with zeros beyond the volume.

    Args:
        volume: (C, i, j, k).
        voxel: the point (i, j, k) on the volume's grid, rounded to the nearest voxel, which becomes index size // 2.
        size: edge in voxels.

    Returns:
        (C, size, size, size).

    Example:
        >>> volume = torch.arange(27.0).reshape(1, 3, 3, 3)
        >>> cut_patch(volume, (0.2, 1.0, 0.9), 2).tolist()  # voxel (0, 1, 1), of value 4, comes to index (1, 1, 1)
        [[[[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [3.0, 4.0]]]]
    """
    start = [int(np.floor(float(v) + 0.5)) - size // 2 for v in voxel]
    inner = tuple(slice(max(s, 0), max(min(s + size, n), 0)) for s, n in zip(start, volume.shape[1:], strict=True))
    before = [min(max(-s, 0), size) for s in start]
    piece = volume[(slice(None), *inner)]
    after = [size - b - n for b, n in zip(before, piece.shape[1:], strict=True)]
    return pad(piece, [before[2], after[2], before[1], after[1], before[0], after[0]])


def to_classifier_input(patch: torch.Tensor) -> torch.Tensor:
    """Put the C channels of a patch (..., C, s, s, s) side by side, SWI first: (..., 1, s, C s, s).

    Example:
        >>> to_classifier_input(torch.arange(16.0).reshape(2, 2, 2, 2))[0, 0]
        tensor([[ 0.,  1.],
                [ 2.,  3.],
                [ 8.,  9.],
                [10., 11.]])
    """
    return torch.cat(patch.unbind(-4), dim=-2).unsqueeze(-4)


class ClassifierInputd(MapTransform):
    """Put the C channels of a patch side by side, as the classifier reads them: (1, s, C s, s).

    Example:
        >>> patch = torch.arange(16.0).reshape(2, 2, 2, 2)
        >>> ClassifierInputd("image")({"image": patch})["image"][0, 0]  # SWI, and the phase below
        tensor([[ 0.,  1.],
                [ 2.,  3.],
                [ 8.,  9.],
                [10., 11.]])
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = to_classifier_input(torch.as_tensor(d[key]))
        return d
