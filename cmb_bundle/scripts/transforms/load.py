"""Load the volumes of a subject."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from ..data.layouts import complete_subject
from ..dicom.pixels import read_volume
from ..dicom.series import use_dicom
from ..dicom.volumes import Volume
from ..errors import DicomError, SubjectError
from ..files import check_gzip
from ..geometry import corners_apart_mm, same_grid
from .notices import add_notice

MODALITIES = {"image": "SWI", "phase": "phase", "magnitude": "magnitude"}
MINIMUM_SLICES = 3


class LoadSubjectd(MapTransform):
    """
    Load the volumes of a subject, and refuse with a reason what the pipeline cannot work on.

    The magnitude is read only where there is no SWI. A trailing axis of magnitude and phase is taken as echoes, of
    which ``echo`` is used. Of a subject with ``dicom``, a folder or a list of the files of a study, the series are
    chosen by their headers, see :func:`~..dicom.series.choose_series`. Where only an SWI is named, as by MONAI Label,
    the phase is looked for beside it, see :func:`~..data.layouts.complete_subject`.

    Args:
        keys: keys of paths to load, by default ``image`` (SWI), ``phase`` and ``magnitude``. A path is a NIfTI,
            NRRD or MHA file, or a folder with the DICOM series or with the study that it is in.
        echo: index of the echo used of a multi-echo magnitude and phase; the default, -1, is the last, which has
            the strongest susceptibility weighting.
        dicom_series: which DICOM series to take, see :func:`~..dicom.series.choose_series`.

    Returns:
        the dictionary with ``(1, i, j, k)`` float32 MetaTensors on the file's own grid, which have the ``subject`` in
        their meta data, and ``notices``; of DICOM, also ``dicom_source``, where the slices of the SWI, or of the
        magnitude, come from (see ``Volume.source``), and ``radians_per_unit`` in the meta data of a phase whose header
        tells it.

    Raises:
        SubjectError: a file is missing or unreadable, is not one 3D volume of at least three slices, has only zeros
            or values that are not finite, or lies on another grid than its companion; no SWI can be had.

    Example:
        >>> import tempfile, numpy as np
        >>> values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/sub-01_swi.nii.gz"
        ...     nib.save(nib.Nifti1Image(values, np.diag([0.5, 0.5, 2, 1])), path)
        ...     subject = LoadSubjectd()({"subject": "sub-01", "image": path})
        >>> subject["image"].shape, float(subject["image"][0, 2, 3, 4]), subject["image"].pixdim.tolist()
        (torch.Size([1, 3, 4, 5]), 59.0, [0.5, 0.5, 2.0])
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
            if Path(path).is_file():
                check_gzip(path)
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
        shape, affine, other_affine = a.shape[1:], a.affine.numpy(), b.affine.numpy()
        if not same_grid(shape, affine, shape, other_affine):
            apart = corners_apart_mm(shape, affine, other_affine)
            raise SubjectError(
                f"{name}: the affines of {path_a} and {path_b} put the same voxel up to {apart:.2f} mm apart. "
                "Expected the same grid; give the files of one acquisition, or resample one to the other."
            )
