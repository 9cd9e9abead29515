"""Patches of the second stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import ensure_tuple_rep
from torch.nn.functional import pad


def cut_patch(volume: torch.Tensor, voxel: Sequence[float], size: int | Sequence[int]) -> torch.Tensor:
    """
    Cut a patch around a point, with zeros beyond the volume.

    Args:
        volume: (C, i, j, k).
        voxel: the point (i, j, k) on the volume's grid, rounded to the nearest voxel, which becomes index size // 2.
        size: voxels along the three axes; one number makes a cube.

    Returns:
        (C, *size).

    Example:
        >>> volume = torch.arange(27.0).reshape(1, 3, 3, 3)
        >>> cut_patch(volume, (0.2, 1.0, 0.9), 2).tolist()  # voxel (0, 1, 1), of value 4, comes to index (1, 1, 1)
        [[[[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [3.0, 4.0]]]]
    """
    sizes = ensure_tuple_rep(size, 3)
    start = [int(np.floor(float(v) + 0.5)) - edge // 2 for v, edge in zip(voxel, sizes, strict=True)]
    ends = [s + edge for s, edge in zip(start, sizes, strict=True)]
    inner = tuple(slice(max(s, 0), max(min(e, n), 0)) for s, e, n in zip(start, ends, volume.shape[1:], strict=True))
    before = [min(max(-s, 0), edge) for s, edge in zip(start, sizes, strict=True)]
    piece = volume[(slice(None), *inner)]
    after = [edge - b - n for edge, b, n in zip(sizes, before, piece.shape[1:], strict=True)]
    return pad(piece, [before[2], after[2], before[1], after[1], before[0], after[0]])
