"""Mask of the head."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch.nn.functional import avg_pool3d


class HeadMaskd(MapTransform):
    """
    Add ``mask``, the head without the air around it, found at a resolution of about 4 mm.

    Half of Otsu's threshold on the averaged image, closed, its largest connected component, filled slice by slice.
    On an image whose skull was stripped it is the brain.

    Args:
        keys: the image to use; the first that is there.

    Example:
        >>> image = torch.zeros(1, 30, 30, 20)
        >>> image[:, 5:25, 5:25, 5:15] = 100.0  # a head in air
        >>> image[:, 12:14, 12:14, 8:12] = 0.0  # a ventricle
        >>> image = MetaTensor(image, affine=torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0])))
        >>> mask = HeadMaskd()({"image": image})["mask"]
        >>> bool(mask[0, 13, 13, 10]), bool(mask[0, 2, 2, 2]), int(mask.sum()) == 20 * 20 * 10  # the ventricle is in it
        (True, False, True)
    """

    def __init__(self, keys=("image", "magnitude")) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        image = d[next(iter(self.key_iterator(d)))]
        step = np.maximum(1, np.round(4.0 / image.pixdim.numpy())).astype(int).tolist()
        coarse = avg_pool3d(image.as_tensor()[None], step, ceil_mode=True)[0, 0].numpy()
        mask = np.pad(coarse > 0.5 * threshold_otsu(coarse.ravel()), 4)
        mask = ndimage.binary_closing(mask, iterations=2)[4:-4, 4:-4, 4:-4]
        parts, number = ndimage.label(mask)
        if number > 1:
            mask = parts == 1 + np.argmax(ndimage.sum_labels(mask, parts, range(1, number + 1)))
        for k in range(mask.shape[2]):
            mask[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
        for axis, size in enumerate(image.shape[1:]):
            mask = np.repeat(mask, step[axis], axis=axis).take(range(size), axis=axis)
        d["mask"] = MetaTensor(torch.as_tensor(mask[None]), affine=image.affine)
        return d
