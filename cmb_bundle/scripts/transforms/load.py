"""Load the volumes of a subject."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from ..data.layouts import complete_subject, t2star_left_out
from ..data.sidecars import described_echo_ms
from ..dicom.pixels import read_volume
from ..dicom.reader import Volume
from ..dicom.series import use_dicom
from ..errors import DicomError, SubjectError
from ..whole import WholeReader, check_whole
from .companions import check_same_grid, check_same_scan
from .echo import check_asked_echo, take_echo
from .grid import LOST, is_lost, nifti_grid
from .headers import about_phase, acquisition, doubts
from .image_files import (
    MODALITIES,
    NOT_FETCHED,
    absent,
    by_nibabel,
    is_colour,
    is_complex,
    is_pointer,
    read_unusual,
    reason,
    take_complex,
)
from .notices import add_notice, add_warning
from .volume import check_volume, warn_of_empty_slices

TEMPLATE = re.compile(r"space-((MNI|ICBM|fsaverage|fsLR|OASIS|NKI|UNC|Talairach|tpl)[a-zA-Z0-9]*)")
"""The entity by which BIDS names the template that an image was moved to."""


class LoadSubjectd(MapTransform):
    """
    Load the volumes of a subject, and refuse with a reason what the pipeline cannot work on.

    An SWI is read with its phase, if there is one; where there is no SWI, a magnitude and its phase; where there is
    neither, a T2*-weighted magnitude, which takes the place of the SWI. A trailing axis of magnitude and phase is taken
    as echoes, of which ``echo`` is used; a complex image is its own magnitude and phase. NaN around the head is
    background, and becomes 0. Of a subject with ``dicom``, a folder or a list of the files of a study, the series are
    chosen by their headers, see :func:`~..dicom.series.choose_series`. Where only an SWI is named, as by MONAI Label,
    the phase is looked for beside it, see :func:`~..data.layouts.complete_subject`.

    Args:
        keys: keys of paths to load, by default ``image`` (SWI), ``phase``, ``magnitude`` and ``t2star``. A path is
            a NIfTI, Analyze, MGH, NRRD or MetaImage file, or a folder with the DICOM series or with the study that it
            is in.
        echo: index of the echo used of a multi-echo magnitude and phase; the default, -1, is the last, which has
            the strongest susceptibility weighting; of a T2*-weighted magnitude whose echo times are known, the one
            nearest to 20 to 25 ms.
        dicom_series: which DICOM series to take, see :func:`~..dicom.series.choose_series`.

    Returns:
        the dictionary with ``(1, i, j, k)`` float32 MetaTensors on the file's own grid, which have the ``subject`` in
        their meta data, ``notices``, and ``contrast``, what was read: "swi", "swi + phase", "magnitude + phase" or
        "t2star", whose image is under ``image``; ``doubts``, a sentence on why the headers are of no
        susceptibility-weighted scan of a head, or an empty text. The meta data of the SWI or the magnitude have
        ``echo_ms`` and ``field_tesla`` where a JSON file beside it or the DICOM header tells them. Of DICOM, there is
        also ``dicom_source``, where the slices of the SWI, or of the magnitude, come from (see ``Volume.source``), and
        ``radians_per_unit`` in the meta data of a phase whose header tells it. ``sources`` are the paths of what was
        read by key, as JSON text; of DICOM there are none.

    Raises:
        SubjectError: a file is missing or unreadable, is not one 3D volume of at least three slices, has only zeros
            or, in the head, values that are not finite, or lies on another grid than its companion; there is no SWI,
            magnitude or T2*-weighted magnitude; no head can lie on its grid, see :func:`~.grid.check_grid`; it can be
            no SWI or magnitude, see :func:`~.plausible.check_image`.

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
        self.reader = WholeReader()

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = complete_subject({k: v for k, v in data.items() if k not in self.keys or v is not None})
        if "error" in d:
            raise SubjectError(d["error"])
        name = d.get("subject") or Path(str(d.get("image", "subject"))).name
        d.setdefault("notices", "")
        try:
            notices, warnings = use_dicom(d, self.key_iterator(d), self.dicom_series, self.echo)
        except DicomError as error:
            raise SubjectError(f"{name}: {error}") from error
        for notice in notices:
            add_notice(d, notice)
        for warning in warnings:
            add_warning(d, warning)
        if take_complex(d):
            add_notice(d, "The image is complex: magnitude and phase were computed from it.")
        self._choose(d, name)
        paths = {k: d[k] for k in self.key_iterator(d)}
        with ThreadPoolExecutor() as pool:  # unpacking gzip is most of the work, and runs outside of Python's lock
            volumes = dict(zip(paths, pool.map(partial(self._read, name), paths, paths.values()), strict=True))
        d["sources"] = json.dumps({key: str(path) for key, path in paths.items() if not isinstance(path, Volume)})
        reference, *others = volumes
        abouts = {key: acquisition(path) for key, path in paths.items()}
        check_asked_echo(d, self.echo, volumes, paths)
        if "image" not in volumes:
            volumes, abouts = take_echo(d, name, self.echo, volumes, paths, abouts)
        check_same_scan(d, name, paths, abouts)
        acquired = abouts[reference]
        for volume in volumes.values():
            for add, sentences in ((add_notice, "notices"), (add_warning, "warnings")):
                for sentence in volume.meta.pop(sentences, ()):
                    if sentence not in d["notices"]:  # the phase's header says the same
                        add(d, sentence)
        for template in TEMPLATE.findall(Path(str(paths[reference])).name)[:1]:
            add_warning(
                d,
                f"Its name says that it was moved to the template {template[0]}, where small dots are blurred and "
                "sizes are not the patient's. Give the scan as it was acquired.",
            )
        for key, volume in volumes.items():
            d[key] = check_volume(d, name, key, paths[key], volume)
            d[key].meta["subject"] = name
        warn_of_empty_slices(d, [key for key in (*others, reference) if key != "phase"] + ["phase"])
        if "phase" in volumes:
            exact = {"radians_per_unit": 1.0, "scale_from": "complex numbers tell"}
            known = exact if is_complex(paths["phase"]) else about_phase(paths["phase"], acquired)
            d["phase"].meta.update(known)
        d["doubts"] = doubts(paths, reference, acquired)
        shown = d[next((key for key in ("image", "magnitude") if key in volumes), reference)]
        # of two digits, and of an SWI from several echoes the first: good for a warning, not to refuse or to scale by
        echo_ms = acquired.echo_ms or (described_echo_ms(paths[reference]) if by_nibabel(paths[reference]) else ())
        if len(echo_ms) == 1:
            shown.meta["echo_ms"] = echo_ms[0]
        if acquired.field_tesla is not None:
            shown.meta["field_tesla"] = acquired.field_tesla
        if isinstance(paths[reference], Volume):
            d["dicom_source"] = paths[reference].source
        for key in others:
            check_same_grid(name, d[reference], paths[reference], d[key], paths[key])
        if "t2star" in d:
            d["image"] = d.pop("t2star")
            add_notice(d, "A T2*-weighted magnitude without phase was read: the detection works on it in place of SWI.")
        elif "phase" not in volumes:
            add_notice(d, "No phase was found: the detection works on SWI alone.")
        return d

    def _choose(self, d: dict, name: str) -> None:
        """Leave of a subject's images those that are read, and name the contrast."""
        swi = "image" in d
        if swi or ("phase" in d and {"magnitude", "t2star"} & set(d)):
            if not swi and "magnitude" not in d:
                d["magnitude"] = d.pop("t2star")
            left_out = d.pop("t2star", None)
            if swi:
                d.pop("magnitude", None)
            if left_out is not None:
                shown = left_out if isinstance(left_out, Volume) else Path(left_out).name
                add_notice(d, t2star_left_out(str(shown), swi))
            d["contrast"] = ("swi" if swi else "magnitude") + (" + phase" if "phase" in d else "")
            return
        alone = [key for key in ("t2star", "magnitude") if key in d]
        if len(alone) != 1:
            raise SubjectError(
                f"{name}: there is no SWI, no magnitude with a phase, and not one T2*-weighted magnitude; "
                f"found {sorted(set(d) & set(self.keys))}. Give an SWI, a magnitude and a phase, or one of the "
                "magnitudes alone."
            )
        d["t2star"] = d.pop(alone[0])
        d["contrast"] = "t2star"

    def _read(self, name: str, key: str, path) -> MetaTensor:
        if not isinstance(path, Volume) and not Path(path).exists():
            raise SubjectError(f"{name}: the {MODALITIES[key]} {path} {absent(Path(path))}")
        try:
            if isinstance(path, Volume):
                return read_volume(path)
            of_nibabel = by_nibabel(path)
            plain = str(path).endswith((".nii", ".nii.gz")) and not is_complex(path) and nib.load(path).ndim <= 4
            if Path(path).is_file() and not plain:
                check_whole(path)
            reader = self.reader if plain else None  # given with the call: another would be tried after its error
            volume = read_unusual(path, key) if of_nibabel and not plain else self.load(path, reader)
            if of_nibabel:
                # MONAI compares all four zooms of a 4D file with its affine and then drops the translation
                affine, notices, warnings = nifti_grid(path)
                volume.affine = torch.as_tensor(affine, dtype=torch.float64)
                volume.meta |= {"original_affine": volume.affine.clone(), "notices": notices, "warnings": warnings}
            if is_lost(volume.affine.numpy()):
                volume.meta["warnings"] = [*volume.meta.get("warnings", ()), LOST]
            # with it, MONAI's Spacingd takes MONAI Label's entry image_path for meta data of image
            volume.meta.pop("filename_or_obj", None)
            return volume
        except DicomError as error:
            raise SubjectError(f"{name}: {error}") from error
        except Exception as error:
            if is_colour(path):
                raise SubjectError(
                    f"{name}: the {MODALITIES[key]} {path} is a colour picture, as a viewer saves, and no scan. Give "
                    f"the {MODALITIES[key]} itself, with one number for each voxel."
                ) from error
            if is_pointer(path):
                raise SubjectError(f"{name}: the {MODALITIES[key]} {path} {NOT_FETCHED}") from error
            cause = error.__cause__ or error
            raise SubjectError(
                f"{name}: the {MODALITIES[key]} {path} cannot be read ({reason(cause)}). Expected "
                "a whole file of NIfTI, Analyze, MGH, NRRD or MetaImage, or a DICOM series; copy or convert it again."
            ) from error
