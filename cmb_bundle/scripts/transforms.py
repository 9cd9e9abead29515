"""Dictionary transforms from the files of a subject to the two-channel volume that both stages read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, Transform
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch.nn.functional import avg_pool3d, interpolate

from .datasets import SubjectError, complete_subject
from .dicom import DicomError, Volume
from .dicom_choice import use_dicom
from .dicom_pixels import read_volume
from .labels import LabelConvention, read_points
from .phase import homodyne_filter, is_raw, paramagnetic_sign, phase_to_radians, susceptibility_weighted

MODALITIES = {"image": "SWI", "phase": "phase", "magnitude": "magnitude"}
MINIMUM_SLICES = 3


def add_notice(data: dict, text: str) -> None:
    """Append a sentence about how a subject was read to ``data["notices"]`` (one string, so that it collates)."""
    data["notices"] = f"{data['notices']} {text}" if data.get("notices") else text


class LoadSubjectd(MapTransform):
    """
    Load the volumes of a subject, and refuse with a reason what the pipeline cannot work on.

    The magnitude is read only where there is no SWI. A trailing axis of magnitude and phase is taken as echoes, of
    which ``echo`` is used. Of a subject with ``dicom``, a folder or a list of the files of a study, the series are
    chosen by their headers, see :func:`~.dicom_choice.choose_series`. Where only an SWI is named, as by MONAI Label,
    the phase is looked for beside it, see :func:`~.layouts.complete_subject`.

    Args:
        keys: keys of paths to load, by default ``image`` (SWI), ``phase`` and ``magnitude``. A path is a NIfTI,
            NRRD or MHA file, or a folder with the DICOM series or with the study that it is in.
        echo: index of the echo used of a multi-echo magnitude and phase; the default, -1, is the last, which has
            the strongest susceptibility weighting.
        dicom_series: which DICOM series to take, see :func:`~.dicom_choice.choose_series`.

    Returns:
        the dictionary with ``(1, i, j, k)`` float32 MetaTensors on the file's own grid, which have the ``subject`` in
        their meta data, and ``notices``; of DICOM, also ``dicom_source``, where the slices of the SWI, or of the
        magnitude, come from (see ``Volume.source``), and ``radians_per_unit`` in the meta data of a phase whose header
        tells it.

    Raises:
        SubjectError: a file is missing or unreadable, is not one 3D volume of at least three slices, has only zeros
            or values that are not finite, or lies on another grid than its companion; no SWI can be had.
    """

    def __init__(self, keys=tuple(MODALITIES), echo: int = -1, dicom_series: Mapping | None = None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.echo, self.dicom_series = echo, dicom_series
        self.load = LoadImage(image_only=True, ensure_channel_first=True, dtype=torch.float32)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = complete_subject({k: v for k, v in data.items() if k not in self.keys or v is not None})
        if "error" in d:
            raise SubjectError(d["error"])
        name = d.get("subject") or Path(str(d.get("image", "subject"))).name
        d.setdefault("notices", "")
        try:
            for notice in use_dicom(d, self.key_iterator(d), self.dicom_series, self.echo):
                add_notice(d, notice)
        except DicomError as error:
            raise SubjectError(f"{name}: {error}") from error
        if "image" in d:
            d.pop("magnitude", None)
        elif "magnitude" not in d or "phase" not in d:
            raise SubjectError(
                f"{name}: there is neither an SWI nor a magnitude with a phase; "
                f"found {sorted(set(d) & set(self.keys))}. Give an SWI, or a magnitude and a phase to compute it from."
            )
        paths = {k: d[k] for k in self.key_iterator(d)}
        with ThreadPoolExecutor() as pool:  # unpacking gzip is most of the work, and runs outside of Python's lock
            volumes = dict(zip(paths, pool.map(partial(self._read, name), paths, paths.values()), strict=True))
        if "image" not in volumes:
            volumes = self._take_echo(d, name, volumes, paths)
        for key, volume in volumes.items():
            d[key] = self._check(name, key, paths[key], volume)
            d[key].meta["subject"] = name
        reference, *others = volumes
        if isinstance(paths[reference], Volume):
            d["dicom_source"] = paths[reference].source
        for key in others:
            self._check_same_grid(name, d[reference], paths[reference], d[key], paths[key])
        if "phase" not in volumes:
            add_notice(d, "No phase was found: the detection works on SWI alone.")
        return d

    def _read(self, name: str, key: str, path) -> MetaTensor:
        if not isinstance(path, Volume) and not Path(path).exists():
            raise SubjectError(f"{name}: the {MODALITIES[key]} {path} does not exist. Check the path.")
        try:
            if isinstance(path, Volume):
                return read_volume(path)
            volume = self.load(path)
            if str(path).endswith((".nii", ".nii.gz")):
                # MONAI compares all four zooms of a 4D file with its affine and then drops the translation
                volume.affine = torch.as_tensor(nib.load(path).affine, dtype=torch.float64)
                volume.meta["original_affine"] = volume.affine.clone()
            # with it, MONAI's Spacingd takes MONAI Label's entry image_path for meta data of image
            volume.meta.pop("filename_or_obj", None)
            return volume
        except DicomError as error:
            raise SubjectError(f"{name}: {error}") from error
        except Exception as error:
            cause = error.__cause__ or error
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else "no reason given"
            raise SubjectError(
                f"{name}: the {MODALITIES[key]} {path} cannot be read ({type(cause).__name__}: {reason}). Expected "
                "a whole NIfTI, NRRD or MHA file or a DICOM series; copy or convert it again."
            ) from error

    def _take_echo(self, d: dict, name: str, volumes: dict, paths: dict) -> dict:
        echoes = {k: v.shape[0] for k, v in volumes.items() if v.ndim == 4}
        if len(echoes) < len(volumes) or set(echoes.values()) == {1}:
            return volumes
        if len(set(echoes.values())) > 1:
            raise SubjectError(
                f"{name}: the magnitude {paths['magnitude']} has {echoes['magnitude']} echo(es) and the phase "
                f"{paths['phase']} has {echoes['phase']}. Expected as many of each."
            )
        number = next(iter(echoes.values()))
        if not -number <= self.echo < number:
            raise SubjectError(
                f"{name}: echo {self.echo} was asked for, but {paths['magnitude']} has {number}. "
                f"Set `echo` to a value from 0 to {number - 1}, or to -1 for the last."
            )
        taken = self.echo % number
        add_notice(d, f"Echo {taken + 1} of {number} was taken.")
        return {k: v[taken : taken + 1] for k, v in volumes.items()}

    @staticmethod
    def _check(name: str, key: str, path, volume: MetaTensor) -> MetaTensor:
        found = f"{name}: the {MODALITIES[key]} {path}"
        if volume.ndim != 4 or volume.shape[0] != 1:
            size = tuple(volume.shape[1:]) + ((volume.shape[0],) if volume.shape[0] > 1 else ())
            raise SubjectError(
                f"{found} has {len(size)} dimensions, {' x '.join(map(str, size))}. Expected one 3D volume; "
                "save one echo or time point alone."
            )
        size = tuple(volume.shape[1:])
        if min(size) < MINIMUM_SLICES:
            raise SubjectError(
                f"{found} has {' x '.join(map(str, size))} voxels. Expected at least {MINIMUM_SLICES} slices."
            )
        low, high = float(volume.min()), float(volume.max())  # NaN if there is any
        if not math.isfinite(high - low):
            count = int((~torch.isfinite(volume)).sum())
            raise SubjectError(f"{found} has {count} values that are NaN or infinite. Repair or export it again.")
        if low == high:
            raise SubjectError(f"{found} has the value {low:g} everywhere. Expected an image; export it again.")
        return volume

    @staticmethod
    def _check_same_grid(name: str, a: MetaTensor, path_a, b: MetaTensor, path_b) -> None:
        if a.shape != b.shape:
            raise SubjectError(
                f"{name}: {path_a} has {' x '.join(map(str, a.shape[1:]))} voxels and {path_b} has "
                f"{' x '.join(map(str, b.shape[1:]))}. Expected the same grid; give the files of one acquisition."
            )
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape[1:]], [1])).reshape(4, -1)
        apart = np.linalg.norm((a.affine.numpy() - b.affine.numpy())[:3] @ corners, axis=0).max()
        if apart > 0.1 * float(a.pixdim.min()):
            raise SubjectError(
                f"{name}: the affines of {path_a} and {path_b} put the same voxel up to {apart:.2f} mm apart. "
                "Expected the same grid; give the files of one acquisition, or resample one to the other."
            )


class ReadPointsd(Transform):
    """
    Read the labels of a subject as points in RAS mm, while the image is still on its own grid.

    Args:
        key: key of the label file; None reads nothing.
        convention: keyword arguments of :class:`LabelConvention`, how the table counts slices and pixels.
        join_mm: in-plane distance in mm below which points of neighbouring slices are one lesion.

    Returns:
        the dictionary with ``lesions_ras`` (N, 3) and ``lesions_diameter`` (N,) in mm, NaN where unknown, as float64
        tensors; N is 0 for a subject without microbleeds. A subject without a label file is left as it is.
    """

    def __init__(self, key: str | None = "label", convention: Mapping | None = None, join_mm: float = 3.0) -> None:
        self.key, self.convention, self.join_mm = key, LabelConvention(**(convention or {})), join_mm

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        path = d.get(self.key) if self.key else None
        if path is None:
            return d
        grid = d["image"] if d.get("image") is not None else d["magnitude"]
        points = read_points(path, tuple(grid.shape[1:]), grid.affine.numpy(), self.convention, self.join_mm)
        d["lesions_ras"] = torch.tensor(points.ras_mm, dtype=torch.float64).reshape(-1, 3)
        d["lesions_diameter"] = torch.tensor(points.diameter_mm, dtype=torch.float64).reshape(-1)
        return d


class HeadMaskd(MapTransform):
    """
    Add ``mask``, the head without the air around it, found at a resolution of about 4 mm.

    Half of Otsu's threshold on the averaged image, closed, its largest connected component, filled slice by slice.
    On an image whose skull was stripped it is the brain.

    Args:
        keys: the image to use; the first that is there.
    """

    def __init__(self, keys=("image", "magnitude")) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        image = d[next(iter(self.key_iterator(d)))]
        step = np.maximum(1, np.round(4.0 / image.pixdim.numpy())).astype(int).tolist()
        coarse = avg_pool3d(image.as_tensor()[None], step, ceil_mode=True)[0, 0].numpy()
        mask = np.pad(coarse > 0.5 * threshold_otsu(coarse), 4)
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


class NormalizePhased(MapTransform):
    """
    Bring the phase to the one form that everything after it expects: radians, high-pass filtered, paramagnetic
    positive.

    Args:
        keys: key of the phase.
        scale: radians a stored unit; None finds it from the range.
        sign: 1 if the stored phase of a vein is positive, -1 if it is negative, ``"auto"`` to find it from the dark
            structures of the image; where that does not decide, the stored sign is kept, with a notice.
        filter_phase: whether to apply the homodyne filter; ``"auto"`` applies it to a raw phase only.
        lines: width of the homodyne filter's window in k-space lines.

    Raises:
        ValueError: ``sign`` or ``filter_phase`` is none of the values above.
    """

    def __init__(self, keys="phase", scale: float | None = None, sign="auto", filter_phase="auto", lines: int = 64):
        super().__init__(keys, allow_missing_keys=True)
        if sign not in ("auto", 1, -1):
            raise ValueError(f"phase sign is {sign!r}; expected 'auto', 1 or -1.")
        if filter_phase not in ("auto", True, False):
            raise ValueError(f"filter_phase is {filter_phase!r}; expected 'auto', true or false.")
        self.scale, self.sign, self.filter_phase, self.lines = scale, sign, filter_phase, lines

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            stored = d[key]
            image = d["image"] if d.get("image") is not None else d["magnitude"]
            mask = d["mask"].as_tensor().bool()
            told = stored.meta.get("radians_per_unit") if self.scale is None else None
            phase, notice = phase_to_radians(stored.as_tensor(), self.scale if told is None else float(told))
            if told is not None:
                notice = f"Phase was scaled by {float(told):g} rad a unit, as its DICOM header says."
            add_notice(d, notice)
            raw = is_raw(phase, image.as_tensor(), mask) if self.filter_phase == "auto" else self.filter_phase
            if raw:
                phase = homodyne_filter(phase, image.as_tensor(), self.lines)
                add_notice(d, f"It was high-pass filtered ({self.lines} lines).")
            sign = self.sign
            if sign == "auto":
                sign, correlation = paramagnetic_sign(phase, image.as_tensor(), mask, image.pixdim)
                decided = {1: "kept", -1: "turned", 0: "kept, for want of evidence"}[sign]
                add_notice(d, f"Its sign was {decided} (dark structures correlate at {correlation:+.2f}).")
            d[key] = MetaTensor(phase if sign >= 0 else -phase, meta=stored.meta)
        return d


class ComputeSWId(Transform):
    """Where there is no SWI, compute ``image`` from ``magnitude`` and the normalised ``phase``."""

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        magnitude = d.pop("magnitude", None)
        if d.get("image") is None:
            swi = susceptibility_weighted(magnitude.as_tensor(), d["phase"].as_tensor())
            d["image"] = MetaTensor(swi, meta=magnitude.meta)
            add_notice(d, "SWI was computed from magnitude and phase.")
        return d


class ResampleSpacingd(MapTransform):
    """
    Resample to a voxel spacing, along the volume's own axes.

    Linear interpolation where voxels get smaller; where they get larger, an average with a triangular window as wide as
    two new voxels, so that noise falls and nothing is skipped. The field of view is kept, so that the spacing is the
    one asked for to within half a voxel over the whole extent of each axis.

    Args:
        keys: keys of (1, i, j, k) float MetaTensors; those that are missing are passed over.
        spacing: voxel size (i, j, k) in mm.
    """

    def __init__(self, keys: KeysCollection, spacing: Sequence[float]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.spacing = np.array(spacing, dtype=float)

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
            d[key] = MetaTensor(values[None].contiguous(), affine=affine, meta=meta)
        return d


class ScaleSWId(MapTransform):
    """
    Scale SWI so that the median of the head is 0.5, clipped to [0, 1].

    The median is that of the voxels of ``mask`` above half of the mask's mean, which leaves out air and bone.

    Args:
        keys: key of the SWI.
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            tissue = d[key].as_tensor()[d["mask"].as_tensor().bool()]
            tissue = tissue[tissue > 0.5 * tissue.mean()]
            d[key] = (d[key] * (0.5 / float(tissue.median()))).clamp(0, 1)
        return d


class StackComplementPhased(Transform):
    """
    Stack SWI and the complement of the phase into the channels of ``image``.

    The complement is (pi - phase) / (2 pi), in [0, 1]: paramagnetic tissue is dark in both channels. Without a
    phase, the channel is zero. Masked-out background is zero in both.

    Args:
        phase_channel: ``"complement"``; ``"zero"`` leaves the second channel zero although there is a phase;
            ``"none"`` gives SWI alone, one channel.

    Returns:
        the dictionary with ``image`` (2, i, j, k), or (1, i, j, k) without a phase channel, float32 on the model's
        grid; ``phase`` and ``mask`` are removed.

    Raises:
        ValueError: ``phase_channel`` is none of the values above.
    """

    def __init__(self, phase_channel: str = "complement") -> None:
        if phase_channel not in ("complement", "zero", "none"):
            raise ValueError(f"phase_channel is {phase_channel!r}; expected 'complement', 'zero' or 'none'.")
        self.phase_channel = phase_channel

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        swi, mask, phase = d["image"], d.pop("mask"), d.pop("phase", None)
        mask = mask.as_tensor() > 0.5
        channels = torch.zeros((1 if self.phase_channel == "none" else 2, *swi.shape[1:]), dtype=torch.float32)
        channels[0] = swi.as_tensor()[0] * mask[0]
        if phase is not None and self.phase_channel != "complement":
            add_notice(d, "The phase was left out: the detection works on SWI alone.")
        elif phase is not None:
            channels[1] = ((math.pi - phase.as_tensor()[0].clamp(-math.pi, math.pi)) / (2 * math.pi)) * mask[0]
        d["image"] = MetaTensor(channels, meta=swi.meta)
        return d
