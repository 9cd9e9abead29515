"""Resample a volume to the model's voxel size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch.nn.functional import interpolate


class ResampleSpacingd(MapTransform):
    """
    Resample to a voxel spacing, along the volume's own axes.

    Linear interpolation where voxels get smaller; where they get larger, an average with a triangular window as wide as
    two new voxels, so that noise falls and nothing is skipped. The field of view is kept, so that the spacing is the
    one asked for to within half a voxel over the whole extent of each axis. MONAI's Spacingd interpolates between the
    nearest voxels whatever the ratio, so that a fine grid is sampled with gaps and its noise is kept.

    Args:
        keys: keys of (1, i, j, k) float MetaTensors; missing ones are skipped.
        spacing: voxel size (i, j, k) in mm.

    Example:
        >>> ramp = torch.arange(8.0)[:, None, None].expand(8, 4, 4)
        >>> image = MetaTensor(ramp[None], affine=torch.diag(torch.tensor([0.5, 0.5, 2.0, 1.0])))
        >>> image = ResampleSpacingd("image", spacing=[1.0, 1.0, 2.0])({"image": image})["image"]
        >>> image.shape, image.pixdim.tolist()
        (torch.Size([1, 4, 2, 4]), [1.0, 1.0, 2.0])
        >>> [round(value, 3) for value in image[0, :, 0, 0].tolist()]  # means around 0.5, 2.5, 4.5 and 6.5
        [0.714, 2.5, 4.5, 6.286]
        >>> image.affine[:3, 3].tolist()  # the first new voxel lies between the first two old ones
        [0.25, 0.25, 0.0]
    """

    def __init__(self, keys: KeysCollection, spacing: Sequence[float]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.spacing = np.array(spacing, dtype=float)
        if self.spacing.shape != (3,) or not ((self.spacing >= 0.1) & (self.spacing <= 20)).all():
            raise ValueError(f"spacing is {spacing!r}; expected three lengths of 0.1 to 20 mm, as [0.6, 0.6, 2.0].")

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            volume = d[key]
            shape = np.array(volume.shape[1:])
            i, j, k = np.maximum(1, np.round(shape * volume.pixdim.numpy() / self.spacing)).astype(int).tolist()
            how = {"mode": "bilinear", "antialias": True}
            values = volume.as_tensor().float()[0].permute(2, 0, 1)[:, None].contiguous()
            values = interpolate(values, (i, j), **how).reshape(1, 1, shape[2], i * j)
            values = interpolate(values, (k, i * j), **how).reshape(k, i, j).permute(1, 2, 0)
            ratio = shape / (i, j, k)
            to_old = np.diag([*ratio, 1.0])
            to_old[:3, 3] = (ratio - 1) / 2
            affine = volume.affine @ torch.as_tensor(to_old, dtype=volume.affine.dtype)
            meta = {name: value for name, value in volume.meta.items() if name != "affine"}
            d[key] = MetaTensor(
                values[None], affine=affine, meta=meta
            )  # slice after slice in memory, as stage 1 reads it
        return d
