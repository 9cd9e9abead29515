"""Read the labels of a subject as points."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.transforms import Transform

from ..data.labels import LabelConvention, read_points
from .notices import add_warning


class ReadPointsd(Transform):
    """
    Read the labels of a subject as points in RAS mm, while the image is still on its own grid.

    Args:
        key: key of the label file; None reads nothing.
        convention: keyword arguments of :class:`LabelConvention`, how the table counts slices and pixels.
        join_mm: in-plane distance in mm below which points of neighbouring slices are one lesion.

    Returns:
        the dictionary with ``lesions_ras`` (N, 3) and ``lesions_diameter`` (N,) in mm, NaN where unknown, as float64
        tensors; N is 0 for a subject without microbleeds. What is doubtful about the table is in ``notices`` and
        ``warnings``. A subject without a label file is left as it is.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from monai.data import MetaTensor
        >>> image = MetaTensor(torch.zeros(1, 64, 64, 10), affine=torch.diag(torch.tensor([0.5, 0.5, 2, 1])))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/sub-01.csv"
        ...     pd.DataFrame({"slice": [4], "x": [21], "y": [11]}).to_csv(path, index=False)  # counted from 1
        ...     subject = ReadPointsd()({"image": image, "label": path})
        >>> subject["lesions_ras"].tolist(), subject["lesions_diameter"].tolist()
        ([[10.0, 5.0, 6.0]], [nan])
    """

    def __init__(self, key: str | None = "label", convention: Mapping | None = None, join_mm: float = 3.0) -> None:
        self.key, self.convention, self.join_mm = key, LabelConvention(**(convention or {})), join_mm

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        path = d.get(self.key) if self.key else None
        if path is None:
            return d
        grid = d["image"] if d.get("image") is not None else d["magnitude"]
        shape, affine = tuple(grid.shape[1:]), grid.affine.numpy()
        points = read_points(path, shape, affine, self.convention, self.join_mm, d.get("subject"))
        for notice in points.notices:
            add_warning(d, notice)
        d["lesions_ras"] = torch.tensor(points.ras_mm, dtype=torch.float64).reshape(-1, 3)
        d["lesions_diameter"] = torch.tensor(points.diameter_mm, dtype=torch.float64).reshape(-1)
        return d
