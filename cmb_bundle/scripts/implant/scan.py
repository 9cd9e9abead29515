"""A scan as it is to be changed: its images in RAS order, how it sees, and how to write it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ..errors import SubjectError
from ..transforms.head_mask import HeadMaskd
from ..transforms.load import LoadSubjectd
from ..transforms.phase import PHASE_META, homodyne_filter, is_raw
from ..transforms.phase_scale import phase_to_radians
from ..transforms.sign import find_sign
from .change import View

FIELD_TESLA, TE_MS = 3.0, 20.0
FOLDERS = {"image": "SWI", "magnitude": "Magnitude", "phase": "Phase"}
STEEP = 3.0  # ratio of the power within and beyond the edge of k-space from which a scan counts as interpolated
FEWEST_VOXELS = 80  # along an axis, below which the spectrum is too coarse to show an edge


@dataclass
class Scan:
    """
    A scan with its images in RAS order.

    Attributes:
        subject: id.
        contrast: "swi", "swi + phase", "magnitude + phase" or "t2star".
        images: stored values (i, j, k), float32, under "image" or "magnitude", and "phase".
        affine: (4, 4) voxel in RAS order to RAS mm.
        view: how it sees.
        head: (i, j, k) bool.
        noise: standard deviation of the noise in one complex channel, in stored units of the image.
        radians: phase, paramagnetic positive, in radians; None where there is none.
        masking: the same, high-pass filtered, as it is in the SWI.
        raw: whether the phase is not filtered.
        unit: radians that one stored unit of the phase is, with the sign that makes paramagnetic positive.
        as_read: the phase's images as the program reads it, in radians and with the stored sign.
        native: orientation of the file against RAS order, as of nibabel.
        notices: how it was read.
    """

    subject: str
    contrast: str
    images: dict[str, np.ndarray]
    affine: np.ndarray
    view: View
    head: np.ndarray
    noise: float
    radians: np.ndarray | None
    masking: np.ndarray | None
    raw: bool
    unit: float
    native: np.ndarray
    notices: str

    @property
    def dark(self) -> str:
        """Key of the image in which a microbleed is dark."""
        return "image" if "image" in self.images else "magnitude"

    def folder(self, key: str) -> str:
        """Folder that an image is written to, below ``Data``."""
        return "T2star" if key == "image" and self.contrast == "t2star" else FOLDERS[key]

    def to_file(self, volume: np.ndarray) -> np.ndarray:
        """A volume in the order of the file that it was read from."""
        ras = nib.orientations.axcodes2ornt("RAS")
        return nib.orientations.apply_orientation(volume, nib.orientations.ornt_transform(ras, self.native))

    def file_affine(self) -> np.ndarray:
        """(4, 4) voxel of the file to RAS mm."""
        turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), self.native)
        return self.affine @ nib.orientations.inv_ornt_aff(turn, next(iter(self.images.values())).shape)


def read_scan(
    subject: Mapping[str, Any],
    *,
    echo: int = -1,
    dicom_series: Mapping | None = None,
    field_tesla: float | None = None,
    te_ms: float | None = None,
    gap_mm: float = 0.0,
    resolution_mm: Sequence[float] | None = None,
    phase_scale: float | None = None,
    phase_sign: int | str = "auto",
) -> Scan:
    """
    Read a subject's scan.

    Args:
        subject: a dict of :func:`~..data.layouts.find_subjects`.
        echo, dicom_series: see :class:`~..transforms.load.LoadSubjectd`.
        field_tesla: main field; None takes it from the header, else 3 T.
        te_ms: echo time; None takes it from the header, else 20 ms.
        gap_mm: gap between the slices.
        resolution_mm: what was acquired in plane, mm along left-right and front-back; None finds it, see
            :func:`resolution`.
        phase_scale, phase_sign: see :class:`~..transforms.phase.NormalizePhased`.

    Raises:
        SubjectError: it cannot be read, or the gap is no less than the distance of its slices.
    """
    d = LoadSubjectd(echo=echo, dicom_series=dicom_series)({k: v for k, v in subject.items() if k != "label"})
    keys = [key for key in FOLDERS if isinstance(d.get(key), MetaTensor)]
    reference = d[keys[0]]
    stored_affine = reference.affine.numpy()
    native = nib.orientations.io_orientation(stored_affine)
    shape = reference.shape[1:]
    affine = stored_affine @ nib.orientations.inv_ornt_aff(native, shape)
    images = {
        key: np.array(nib.orientations.apply_orientation(d[key][0].numpy(), native), dtype=np.float32) for key in keys
    }
    dark = images[keys[0]]
    spacing = tuple(float(v) for v in nib.affines.voxel_sizes(affine))
    notices = [d["notices"]] if d["notices"] else []
    used = {}
    for name, given, key, default, unit in (
        ("field strength", field_tesla, "field_tesla", FIELD_TESLA, "T"),
        ("echo time", te_ms, "echo_ms", TE_MS, "ms"),
    ):
        found = next((d[one].meta[key] for one in keys if d[one].meta.get(key) is not None), None)
        if given is None and found is None:
            notices.append(f"The {name} is not known and was taken as {default:g} {unit}.")
        used[key] = float(given if given is not None else default if found is None else found)
    if not 0 <= gap_mm < spacing[2]:
        raise SubjectError(
            f"{d['subject']}: gap_mm is {gap_mm:g}, but the slices are {spacing[2]:g} mm apart; expected less. Set "
            "gap_mm to the distance of the slices minus their thickness."
        )
    volume = MetaTensor(torch.as_tensor(dark[None]), affine=torch.as_tensor(affine))
    head = HeadMaskd(keys="image")({"image": volume})["mask"]
    radians = masking = None
    raw, unit = False, 1.0
    if "phase" in images:
        stored = torch.as_tensor(images["phase"][None])
        scale = d["phase"].meta.get("radians_per_unit") if phase_scale is None else phase_scale
        about = {name: d["phase"].meta[name] for name in PHASE_META if d["phase"].meta.get(name) is not None}
        read, notice, warning = phase_to_radians(stored, scale, **about)
        if phase_scale is None and (scale is not None or about.get("units") or about.get("manufacturer")):
            # the copy has no header or JSON file that would tell the scale
            stored, notice = read, "Phase was scaled as its header or JSON file says, and is in radians in the copy."
            images["phase"] = read[0].numpy().copy()
        if warning:
            notices.append(f"Warning: {warning}")
        mask = head.as_tensor().bool()
        raw = is_raw(read, volume.as_tensor(), mask)
        filtered = homodyne_filter(read, volume.as_tensor()) if raw else read
        sign = phase_sign
        if phase_sign == "auto":
            sign, _, evidence = find_sign(filtered, volume.as_tensor(), mask, spacing)
            if not sign:
                sign = 1
                notices.append(
                    f"The sign of the phase could not be told ({evidence}); it "
                    "was taken as positive in veins. Set phase_sign if that is wrong."
                )
        notices.append(notice)
        unit = float(sign) * _radians_a_unit(images["phase"], read[0].numpy())
        radians, masking = (sign * v[0].numpy() for v in (read, filtered))
    if resolution_mm is None:
        resolution_mm = resolution(dark if radians is None else dark * np.exp(1j * radians), spacing)
    size = tuple(max(float(r), s) for r, s in zip(resolution_mm, spacing, strict=False))
    view = View(spacing, size, gap_mm, used["field_tesla"], used["echo_ms"])
    inside = head[0].numpy().astype(bool)
    return Scan(
        str(d["subject"]), d["contrast"], images, affine, view, inside, noise_level(dark, inside), radians, masking,
        raw, unit, native, " ".join(notices),
    )  # fmt: skip


def _radians_a_unit(stored: np.ndarray, radians: np.ndarray) -> float:
    """Radians that a stored unit of the phase is, from how it was read: the usual slope between its quantiles."""
    every = max(1, stored.size // 100_000)
    stored, radians = stored.ravel()[::every], radians.ravel()[::every]
    values, where = np.unique(stored, return_index=True)
    picked = np.unique(np.linspace(0, len(values) - 1, 201).round().astype(int))
    values, read = values[picked].astype(float), radians[where[picked]].astype(float)
    return float(np.median(np.diff(read) / np.diff(values)))


def resolution(image: np.ndarray, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """
    What was acquired in plane, in mm along i and j: the voxel, or more where k-space was filled with zeros.

    The power of each frequency, averaged over lines and slices, falls by a factor of 3 to 40 where the acquired part
    of k-space ends; in a scan that was not interpolated it falls slowly to the noise, by less than 2 from one
    twenty-fifth of the frequencies to the next. (Simulated SWI at 3 T with and without phase. In magnitude alone with
    little noise the edge may not show.)

    Args:
        image: (i, j, k), complex where the phase is known; magnitude alone hides the edge in part.
        spacing: voxel size in mm.

    Example:
        >>> from ..phantom.reconstruct import zero_fill
        >>> rng = np.random.default_rng(0)
        >>> image = (10 + rng.normal(size=(48, 48, 4)) + 1j * rng.normal(size=(48, 48, 4))).astype(np.complex64)
        >>> resolution(image, (1.0, 1.0, 2.0)), resolution(zero_fill(image, (2, 2, 1)), (0.5, 0.5, 2.0))
        ((1.0, 1.0), (0.96, 0.96))
    """
    found = []
    slices = np.unique(np.linspace(0, image.shape[2] - 1, 18).round().astype(int)[1:-1])
    for axis in (0, 1):
        n = image.shape[axis]
        some = image[:, :, slices]
        # a taper keeps what the two ends of the scan do not share out of the high frequencies
        taper = np.hanning(n).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        power = (np.abs(np.fft.fft(some * taper, axis=axis)) ** 2).mean(axis=tuple(a for a in range(3) if a != axis))
        half = n // 2
        power = (power[1:half] + power[-1:-half:-1]) / 2
        width = max(2, half // 25)
        edges = np.arange(max(int(0.4 * half), width), half - 2 * width)
        drop = [
            np.median(power[e - width : e]) / max(np.median(power[e + width : e + 2 * width]), 1e-30) for e in edges
        ]
        where = int(np.argmax(drop)) if len(drop) else 0
        interpolated = len(drop) > 0 and drop[where] > STEEP
        found.append(spacing[axis] * (half / (edges[where] + width / 2) if interpolated else 1.0))
    return tuple(round(float(v), 4) for v in found)


def noise_level(image: np.ndarray, head: np.ndarray) -> float:
    """
    Standard deviation of the noise in the head: the lower quartile of that in windows of 5 x 5 pixels.

    Args:
        image: (i, j, k).
        head: (i, j, k) bool.

    Example:
        >>> image = 100 + 5 * np.random.default_rng(0).normal(size=(60, 60, 5))
        >>> 4 < noise_level(image, np.ones(image.shape, bool)) < 5.5
        True
    """
    slices = np.unique(np.linspace(0, image.shape[2] - 1, 10).round().astype(int)[1:-1])
    some, inside = image[:, :, slices].astype(np.float64), head[:, :, slices]
    mean = ndimage.uniform_filter(some, (5, 5, 1))
    variance = ndimage.uniform_filter(some**2, (5, 5, 1)) - mean**2
    tissue = inside & (mean > 0.5 * some[inside].mean()) if inside.any() else np.ones(some.shape, bool)
    return float(np.sqrt(max(np.percentile(variance[tissue], 25), 0) * 25 / 24))
