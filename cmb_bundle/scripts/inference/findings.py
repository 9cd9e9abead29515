"""From the table of candidates to microbleeds on the input's own grid: places, sizes, label map, reasons."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scipy import ndimage
from scipy.spatial import cKDTree

from ..candidate import Candidate
from ..detection.candidates import candidates_from_table
from ..geometry import suppressed_by, to_voxel

HEAD_MARGIN_MM = 3.0
"""The mask of the head is coarse, by blocks of 4 mm."""


class KeepInputGridd(MapTransform):
    """
    Keep the SWI at its own resolution and where the input's grid lies, before anything is resampled.

    Args:
        keys: key of the SWI, in RAS order.
        phase: whether to keep the normalised phase, too, where there is one: it is what the page of a patient shows.

    Returns:
        the dictionary with ``swi`` (1, i, j, k), the SWI as it was read but in RAS order, whose meta data hold
        ``original_affine`` and ``spatial_shape`` of the file; ``head``, bool, the mask on the same grid, if any; and
        ``input_phase`` in rad.

    Example:
        >>> image = MetaTensor(torch.arange(8.0).reshape(1, 2, 2, 2))
        >>> d = KeepInputGridd("image")({"image": image})
        >>> d["image"] *= 0.1  # what follows may change the image
        >>> d["swi"].flatten().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    def __init__(self, keys: KeysCollection, phase: bool = False) -> None:
        super().__init__(keys)
        self.phase = phase

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        if self.phase and d.get("phase") is not None:
            d["input_phase"] = d["phase"]
        for key in self.key_iterator(d):
            d["swi"] = d[key].clone()
        if "mask" in d:
            d["head"] = d["mask"].bool()
        return d


class Findingsd(Transform):
    """
    Turn the candidates of one subject into its findings.

    A candidate with a probability of at least ``probability_threshold`` is a microbleed, unless it is farther than
    3 mm outside of the head. Its voxels are grown on the
    SWI from the darkest voxel near it: the connected voxels darker than half-way between that and the surroundings
    (the half-maximum rule for the edge of a blurred object), within ``reach_mm``. Of two that touch, each has the
    voxels nearer to its own place. Background (0 and joined to the outside, as of a stripped skull) belongs to none.

    Args:
        probability_threshold: smallest probability of a microbleed, in [0, 1].
        duplicate_mm: of two accepted candidates closer than this, the less probable one is dropped.
        reach_mm: a microbleed's voxels are no farther than this from its darkest voxel; CMBs are at most 10 mm wide.
        number: whether each microbleed has a value of its own in the label map; otherwise all have 1, as an
            annotation program expects of one kind of thing.

    Returns:
        the dictionary with ``pred``, the label map (1, i, j, k) int16 on the input's own grid and orientation
        (0 background, 1..n microbleeds, most probable first), and ``result``: ``contrast``, ``notices`` and
        ``warnings`` on how the scan was read, if any; ``microbleeds`` and ``candidates`` as lists of dictionaries with
        ``voxel`` (0-based, continuous, input grid), ``ras_mm``, ``diameter_mm``, ``detector_score``,
        ``classifier_probability``, ``probability``,
        ``n_slices``; candidates also ``accepted`` and ``reason``; and ``probability_threshold`` as given. Where
        ``pred`` does not number the microbleeds, ``numbered`` is the map that does.

    Example:
        >>> swi = torch.full((1, 12, 12, 6), 0.5)
        >>> swi[0, 4:6, 5, 3] = 0.0  # two dark voxels
        >>> meta = {"original_affine": np.eye(4), "spatial_shape": (12, 12, 6)}
        >>> swi = MetaTensor(swi, affine=torch.eye(4), meta=meta)
        >>> rows = torch.tensor([[4.4, 5.0, 3.0, 2.0, 0.9, 1.0, 0.8, 0.8], [9.0, 9.0, 3.0, 2.0, 0.5, 1.0, 0.1, 0.1]])
        >>> d = Findingsd(probability_threshold=0.4)({"image": swi, "swi": swi, "pred": rows})
        >>> torch.as_tensor(d["pred"]).nonzero().tolist()  # the voxels of the first; the second is not probable enough
        [[0, 4, 5, 3], [0, 5, 5, 3]]
    """

    def __init__(
        self,
        probability_threshold: float = 0.5,
        duplicate_mm: float = 3.0,
        reach_mm: float = 5.0,
        number: bool = True,
    ) -> None:
        if not 0 <= probability_threshold <= 1:
            raise ValueError(f"probability_threshold is {probability_threshold}; expected a number from 0 to 1.")
        self.probability_threshold = probability_threshold
        self.duplicate_mm = duplicate_mm
        self.reach_mm = reach_mm
        self.number = number

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        swi: MetaTensor = d["swi"]
        file_affine = np.asarray(swi.meta["original_affine"], dtype=float)
        file_shape = tuple(int(n) for n in swi.meta["spatial_shape"])
        candidates = candidates_from_table(d["pred"])
        candidates.sort(key=lambda c: (-(c.probability or 0.0), -c.detector_score))
        voxels = np.array([c.model_voxel for c in candidates]).reshape(-1, 3)
        ras = nib.affines.apply_affine(d["image"].affine.numpy(), voxels)
        outside = _outside(d["head"], ras) if "head" in d else np.zeros(len(ras), dtype=bool)
        reasons = self._reasons_to_drop(candidates, ras, outside)
        judged = [
            replace(
                candidate,
                ras_mm=tuple(round(v, 3) for v in place.tolist()),
                voxel=tuple(round(v, 3) for v in on_file.tolist()),
                diameter_mm=round(candidate.diameter_mm, 2),
                detector_score=round(candidate.detector_score, 4),
                classifier_probability=_rounded(candidate.classifier_probability),
                probability=_rounded(candidate.probability),
                accepted=reason is None,
                reason=reason or "accepted",
            )
            for candidate, place, on_file, reason in zip(
                candidates, ras, to_voxel(file_affine, ras), reasons, strict=True
            )
        ]
        microbleeds = [c for c in judged if c.accepted]
        labels = np.zeros(swi.shape[1:], dtype=np.int16, order="F")  # the order of NIfTI files
        centres = to_voxel(swi.affine.numpy(), ras[[c.accepted for c in judged]])
        for number, microbleed in enumerate(microbleeds, 1):
            microbleed.diameter_mm = round(self._grow(swi, centres, labels, number), 2)
        d["result"] = {
            "probability_threshold": self.probability_threshold,
            "microbleeds": [c.finding() for c in microbleeds],
            "candidates": [c.judged() for c in judged],
        }
        d["result"] |= {key: d[key] for key in ("contrast", "notices", "warnings") if d.get(key)}
        if not self.number:
            d["numbered"] = to_file_grid(labels, swi.affine.numpy(), file_affine, file_shape)
            labels = (labels > 0).astype(labels.dtype)
        d["pred"] = to_file_grid(labels, swi.affine.numpy(), file_affine, file_shape)
        return d

    def _reasons_to_drop(
        self, candidates: Sequence[Candidate], ras: np.ndarray, outside: np.ndarray
    ) -> list[str | None]:
        """For each candidate, most probable first, why it is no microbleed; None where it is one."""
        probability = np.array([np.nan if c.probability is None else c.probability for c in candidates])
        unknown, below = np.isnan(probability), probability < self.probability_threshold
        likely = np.flatnonzero(~unknown & ~below & ~outside)
        by = suppressed_by(ras[likely], self.duplicate_mm)
        number_of = np.cumsum(by < 0)  # of the microbleed that each kept candidate becomes
        reasons: list[str | None] = [None] * len(probability)
        for row in np.flatnonzero(unknown):
            reasons[row] = "not classified"
        for row in np.flatnonzero(below):
            reasons[row] = f"probability below {self.probability_threshold:g}"
        for row in np.flatnonzero(outside & ~unknown & ~below):
            reasons[row] = "outside of the head"
        for row, other in zip(likely, by, strict=True):
            if other >= 0:
                reasons[row] = f"within {self.duplicate_mm:g} mm of microbleed {number_of[other]}"
        return reasons

    def _grow(self, swi: MetaTensor, centres: np.ndarray, labels: np.ndarray, number: int) -> float:
        """Write ``number`` into ``labels`` at that microbleed's voxels; return the diameter of their volume in mm."""
        spacing = swi.pixdim.numpy()
        margin = np.ceil(2 * self.reach_mm / spacing).astype(int)
        middle = np.clip(np.round(centres[number - 1]).astype(int), 0, np.array(labels.shape) - 1)
        low, high = np.maximum(middle - margin, 0), np.minimum(middle + margin + 1, labels.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
        values = swi[0][box].numpy()
        own = (cKDTree(centres * spacing).query(grid * spacing)[1] == number - 1) & ~background(values)
        # measured from the nearest voxel centre, so that rounding noise cannot change the seed voxel
        from_middle = np.linalg.norm((grid - middle) * spacing, axis=-1).round(3)
        near = own & (from_middle <= max(2.0, spacing.max() / 2 * np.sqrt(3)))
        if not near.any():
            near = from_middle == from_middle.min()
        darkest = near & (values == values[near].min())
        core = np.unravel_index(np.argmin(np.where(darkest, from_middle, np.inf)), values.shape)
        from_core = np.linalg.norm((grid - grid[core]) * spacing, axis=-1)
        around = (from_core > self.reach_mm) & (values > 0)
        edge = (values[core] + np.median(values[around])) / 2 if around.any() else values[core]
        dark = own & (values < edge) & (from_core <= self.reach_mm)
        dark[core] = True
        parts, _ = ndimage.label(dark)
        grown = parts == parts[core]
        labels[box][grown] = number
        return float((6 / np.pi * grown.sum() * spacing.prod()) ** (1 / 3))


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def _outside(head: MetaTensor, ras: np.ndarray) -> np.ndarray:
    """Which of the places in RAS mm (N, 3) are farther than ``HEAD_MARGIN_MM``, along each axis, from the head."""
    mask, shape = head[0].numpy() > 0, np.array(head.shape[1:])
    reach = np.ceil(HEAD_MARGIN_MM / head.pixdim.numpy()).astype(int)
    found = []
    for centre in to_voxel(head.affine.numpy(), ras).round().astype(int):
        box = tuple(map(slice, np.clip(centre - reach, 0, shape), np.clip(centre + reach + 1, 0, shape)))
        found.append(not mask[box].any())
    return np.array(found, dtype=bool)


def background(values: np.ndarray) -> np.ndarray:
    """The voxels (i, j, k) that are 0 and joined, by such voxels, to a face of the array.

    Example:
        >>> values = np.array([0, 0, 5, 0, 5])[:, None, None] + np.zeros((1, 3, 3))
        >>> values[3, [0, 2]] = values[3, :, [0, 2]] = 5  # the 0 in the middle is dark tissue
        >>> background(values)[:, 1, 1].tolist()
        [True, True, False, False, False]
    """
    parts, _ = ndimage.label(values == 0)
    parts_of_faces = [parts.take(end, axis) for axis in range(3) for end in (0, -1)]
    return np.isin(parts, np.unique(np.concatenate([p.ravel() for p in parts_of_faces]))) & (parts > 0)


def to_file_grid(labels: np.ndarray, ras_affine: np.ndarray, file_affine: np.ndarray, file_shape: tuple) -> MetaTensor:
    """
    Bring a label map in RAS order back to the order of axes of its file, exactly (axes swapped and flipped).

    MONAI's Invertd would resample what the preprocessing resampled; this map was never on another grid.

    Args:
        labels: (i, j, k) in RAS order.
        ras_affine: its voxel to RAS mm.
        file_affine: that of the file.
        file_shape: the file's shape.

    Returns:
        (1, i, j, k) with the file's affine.

    Raises:
        RuntimeError: the two grids do not hold the same voxels.
    """
    # not by way of the two affines' axis codes, which are ambiguous for a volume turned by 45 degrees
    back = nib.io_orientation(np.linalg.inv(file_affine) @ ras_affine)
    turned = nib.orientations.apply_orientation(labels, back)
    if turned.shape != tuple(file_shape):
        raise RuntimeError(f"the label map has shape {turned.shape} on the input's grid; expected {tuple(file_shape)}.")
    return MetaTensor(torch.as_tensor(turned.copy(order="K"))[None], affine=torch.as_tensor(file_affine))
