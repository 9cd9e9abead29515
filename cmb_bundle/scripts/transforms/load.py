"""Load the volumes of a subject."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform
from scipy import ndimage

from ..data.declared import problem_of_header, read_declared
from ..data.layouts import complete_subject, t2star_left_out
from ..data.sidecars import Acquisition, described_echo_ms, read_sidecar
from ..dicom.kinds import nearest_echo
from ..dicom.pixels import read_volume
from ..dicom.reader import Volume
from ..dicom.series import use_dicom
from ..errors import DicomError, SubjectError
from ..files import NIBABEL_SUFFIXES
from ..geometry import corners_apart_mm, same_grid
from ..whole import WholeReader, check_whole
from .grid import LOST, check_grid, is_lost, nifti_grid
from .notices import add_notice, add_warning
from .plausible import check_extremes, check_image, empty_slices, loses_signal, slice_ranges

NOT_FETCHED = (
    "holds the place of its content alone, as git leaves it. Fetch the content, as with git annex get, datalad get or "
    "git lfs pull."
)
TEMPLATE = re.compile(r"space-((MNI|ICBM|fsaverage|fsLR|OASIS|NKI|UNC|Talairach|tpl)[a-zA-Z0-9]*)")
"""The entity by which BIDS names the template that an image was moved to."""
MODALITIES = {"image": "SWI", "phase": "phase", "magnitude": "magnitude", "t2star": "T2*-weighted magnitude"}
MINIMUM_SLICES = 3
MOST_ECHOES = 16
"""A T2*-weighted file with more volumes, whose echo times are not known, is a series over time and not of echoes."""
ECHO_MS_APART, TESLA_APART = 0.5, 0.2
"""How far headers of one scan are apart by rounding: of 7 T, some say 6.98, and of 3 T, some say 2.89."""
OF_ECHOES = re.compile(r"\bOf \d+ echoes, ")
"""How a notice begins that says which file was taken as the echo, see :func:`~..data.echoes.choose_echo`."""
MOST_NUMBERS = 10
"""Slices that a sentence names."""
ITK_PLACE = re.compile(r"\.(?:cxx|hxx|h):\d+:")
MOST_APART = 0.01
"""Share of the finite voxels that may lie apart from the others for NaN around them to count as background."""


class LoadSubjectd(MapTransform):
    """
    Load the volumes of a subject, and refuse with a reason what the pipeline cannot work on.

    An SWI is read with its phase, if there is one; where there is no SWI, a magnitude and its phase; where there is
    neither, a T2*-weighted magnitude, which takes the place of the SWI. A trailing axis of magnitude and phase is taken
    as echoes, of which ``echo`` is used; a complex image is its own magnitude and phase. NaN around the head is
    background, and becomes 0. Of a subject with ``dicom``, a folder or a list of the files of a study, the series are
    chosen by their headers, see :func:`~..dicom.series.choose_series`. Where only an SWI is named, as by MONAI Label,
    the phase is looked for beside
    it, see :func:`~..data.layouts.complete_subject`.

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
        abouts = {key: _acquisition(path) for key, path in paths.items()}
        self._check_asked_echo(d, volumes, paths)
        if "image" not in volumes:
            volumes, abouts = self._take_echo(d, name, volumes, paths, abouts)
        self._check_same_scan(d, name, paths, abouts)
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
            d[key] = self._check(d, name, key, paths[key], volume)
            d[key].meta["subject"] = name
        self._warn_of_empty_slices(d, [key for key in (*others, reference) if key != "phase"] + ["phase"])
        if "phase" in volumes:
            exact = {"radians_per_unit": 1.0, "scale_from": "complex numbers tell"}
            known = exact if is_complex(paths["phase"]) else _about_phase(paths["phase"], acquired)
            d["phase"].meta.update(known)
        d["doubts"] = _doubts(paths, reference, acquired)
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
            self._check_same_grid(name, d[reference], paths[reference], d[key], paths[key])
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
            raise SubjectError(f"{name}: the {MODALITIES[key]} {path} {_absent(Path(path))}")
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
                f"{name}: the {MODALITIES[key]} {path} cannot be read ({_reason(cause)}). Expected "
                "a whole file of NIfTI, Analyze, MGH, NRRD or MetaImage, or a DICOM series; copy or convert it again."
            ) from error

    def _take_echo(
        self, d: dict, name: str, volumes: dict, paths: dict, abouts: dict[str, Acquisition]
    ) -> tuple[dict, dict[str, Acquisition]]:
        echoes = {k: v.shape[0] for k, v in volumes.items() if v.ndim == 4}
        if len(echoes) < len(volumes) or set(echoes.values()) == {1}:
            return volumes, abouts
        if len(set(echoes.values())) > 1:
            raise SubjectError(
                f"{name}: the magnitude {paths['magnitude']} has {echoes['magnitude']} echo(es) and the phase "
                f"{paths['phase']} has {echoes['phase']}. Expected as many of each."
            )
        number = next(iter(echoes.values()))
        times = next((about.echo_ms for about in abouts.values() if len(about.echo_ms) == number), ())
        if "t2star" in d and number > MOST_ECHOES and not times:
            return volumes, abouts
        if not -number <= self.echo < number:
            raise SubjectError(
                f"{name}: echo {self.echo} was asked for, but {next(iter(paths.values()))} has {number}. "
                f"Set `echo` to a value from 0 to {number - 1}, or to -1 for the last."
            )
        taken = nearest_echo(times) if times and self.echo == -1 and "t2star" in d else self.echo % number
        add_notice(d, f"Echo {taken + 1} of {number} was taken{f' ({times[taken]:g} ms)' if times else ''}.")
        if not times:
            self._check_echoes(d, name, volumes, paths, abouts, taken)
        abouts = {
            key: replace(about, echo_ms=about.echo_ms[taken : taken + 1] if len(about.echo_ms) == number else ())
            for key, about in abouts.items()
        }
        return {k: v[taken : taken + 1] for k, v in volumes.items()}, abouts

    @staticmethod
    def _check_echoes(d: dict, name: str, volumes: dict, paths: dict, abouts: dict, taken: int) -> None:
        """Refuse volumes, or warn of them, that no list of echo times and no loss of signal shows to be echoes."""
        key = next(key for key in volumes if key != "phase")
        falling, number = loses_signal(volumes[key]), len(volumes[key])
        lone = next((about.echo_ms[0] for about in abouts.values() if len(about.echo_ms) == 1), None)
        if lone is not None and not falling:
            raise SubjectError(
                f"{name}: the {MODALITIES[key]} {paths[key]} has {number} volumes, its JSON file gives one echo time "
                f"({lone:g} ms), and they do not lose signal from one to the next as echoes do. Expected one volume, "
                "or echoes in order. Of coils, combine them; of time points, save one alone; of echoes, write the "
                "EchoTime of each into the JSON file, as a list."
            )
        if lone is not None:
            add_notice(d, f"One echo time, {lone:g} ms, is told of {number} volumes, and was left aside.")
        elif not falling:
            add_warning(
                d,
                f"The {number} volumes of the {MODALITIES[key]} do not lose signal from one to the next as echoes do: "
                f"they may be coils, time points or echoes in another order. Volume {taken + 1} was taken.",
            )

    def _check_asked_echo(self, d: dict, volumes: dict, paths: dict) -> None:
        """Mention that a scan has no echo to choose, where one behind the first was asked for."""
        by_file = OF_ECHOES.search(d["notices"]) or any(isinstance(path, Volume) for path in paths.values())
        alone = all(volume.shape[0] == 1 for volume in volumes.values())
        if self.echo not in (-1, 0) and alone and not by_file:
            shown = next(path for key, path in paths.items() if key != "phase")
            add_notice(d, f"Echo {self.echo} was asked for, but {Path(shown).name} has one volume, which was read.")

    @staticmethod
    def _check_same_scan(d: dict, name: str, paths: dict, abouts: dict[str, Acquisition]) -> None:
        """Refuse a phase whose header is of another echo than that of its magnitude, and warn of another scanner."""
        if "phase" not in paths:
            return
        key = next(key for key in paths if key != "phase")
        image, phase = abouts[key], abouts["phase"]
        found = f"the {MODALITIES[key]} {paths[key]} says {{}}, and the phase {paths['phase']} says {{}}"
        # an SWI of several echoes may have the time of the first
        if key != "image" and len(image.echo_ms) == len(phase.echo_ms) == 1:
            times = image.echo_ms[0], phase.echo_ms[0]
            if abs(times[0] - times[1]) > ECHO_MS_APART:
                said = found.format(f"echo time {times[0]:g} ms", f"{times[1]:g} ms")
                raise SubjectError(
                    f"{name}: the header or JSON file of {said}: of different echoes. Give the magnitude and the "
                    "phase of one echo, or correct EchoTime in the JSON file that is wrong."
                )
        fields = image.field_tesla, phase.field_tesla
        if None not in fields and abs(fields[0] - fields[1]) > TESLA_APART:
            said = found.format(f"{fields[0]:g} T", f"{fields[1]:g} T")
            add_warning(d, f"The header or JSON file of {said}: they are of different scans, or one of them is wrong.")

    @staticmethod
    def _warn_of_empty_slices(d: dict, keys: list[str]) -> None:
        known: set[int] = set()
        for key in keys:
            empty = [k for k in d[key].meta.pop("empty_slices", ()) if k not in known] if key in d else []
            known |= set(empty)
            if empty:
                of = f"of the {MODALITIES[key]}'s {d[key].shape[-1]}"
                more = f" and {len(empty) - MOST_NUMBERS} more" if len(empty) > MOST_NUMBERS else ""
                shown = ", ".join(str(k + 1) for k in empty[:MOST_NUMBERS]) + more
                which = f"Slice {shown} {of} is" if len(empty) == 1 else f"Slices {shown} {of} are"
                add_warning(
                    d,
                    f"{which} empty between slices with signal: microbleeds there and on the slices beside are missed. "
                    "Export or convert the scan again.",
                )

    @staticmethod
    def _check(d: dict, name: str, key: str, path, volume: MetaTensor) -> MetaTensor:
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
        check_grid(found, size, volume.affine.numpy())
        lows, highs = slice_ranges(volume.as_tensor()[0])
        low, high = float(lows.min()), float(highs.max())  # NaN if there is any
        if not math.isfinite(high - low):
            bad = ~torch.isfinite(volume)
            if not is_background(volume[0].numpy()):
                raise SubjectError(
                    f"{found} has {int(bad.sum())} values that are NaN or infinite. Repair or export it again."
                )
            inside = volume[~bad]
            # of a phase, 0 may be any value; the middle one of the head is near the phase 0
            volume[bad] = float(inside.median()) if key == "phase" else 0.0
            share = f"{100 * float(bad.float().mean()):.0f} %"
            add_notice(
                d, f"The {MODALITIES[key]} is NaN around the head ({share} of it), which is taken as background."
            )
            low, high = float(inside.min()), float(inside.max())
            lows, highs = slice_ranges(volume.as_tensor()[0])
        if low == high:
            raise SubjectError(f"{found} has the value {low:g} everywhere. Expected an image; export it again.")
        if key != "phase":
            check_image(found, volume.as_tensor())
        else:
            check_extremes(found, volume.as_tensor())
        volume.meta["empty_slices"] = empty_slices(lows, highs)
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


def _reason(error: BaseException) -> str:
    """What a reader says is wrong, in a line; ITK's readers begin with where in their code they are."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not ITK_PLACE.search(line)]
    said = lines[-1 if ITK_PLACE.search(str(error)) else 0].strip() if lines else "no reason given"
    return f"{type(error).__name__}: {said}"


def _absent(path: Path) -> str:
    if not path.is_symlink():
        return "does not exist. Check the path."
    return f"is a link to {path.readlink()}, which is not there. Fetch it, as with git annex get or datalad get."


def is_pointer(path) -> bool:
    """Whether a file is what git-annex or Git LFS leave in place of a content that was not fetched."""
    try:
        if not Path(path).is_file():  # to open a pipe waits for who writes to it
            return False
        with Path(path).open("rb") as file:
            return file.read(100).startswith((b"/annex/objects/", b"version https://git-lfs"))
    except (OSError, TypeError):
        return False


def is_colour(path) -> bool:
    """Whether a file that nibabel reads has red, green and blue in each voxel."""
    try:
        return by_nibabel(path) and nib.load(path).get_data_dtype().fields is not None
    except Exception:  # whoever reads it says what is wrong with it
        return False


def is_background(values: np.ndarray) -> bool:
    """
    Whether the values that are not finite are NaN around a head, as a brain extraction leaves it, and not in it.

    They are where each piece of them, with the zeros that it touches, reaches a face of the array, and the finite
    values other than 0 are one piece but for 1 %.

    Args:
        values: (i, j, k).

    Example:
        >>> values = np.full((9, 9, 9), np.nan)
        >>> values[2:7, 2:7, 2:7] = 1.0
        >>> is_background(values)
        True
        >>> values[4, 4, 4] = np.nan
        >>> is_background(values)
        False
    """
    bad = ~np.isfinite(values)
    if not np.isnan(values[bad]).all():
        return False
    empty = bad | (values == 0)
    outside, _ = ndimage.label(empty)
    faces = np.concatenate([outside.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    if not np.isin(outside[bad], faces).all():
        return False
    parts, _ = ndimage.label(~empty, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    return bool(sizes.size and sizes.max() >= (1 - MOST_APART) * sizes.sum())


def by_nibabel(path) -> bool:
    """Whether nibabel reads an image, by its name: a NIfTI, an Analyze or an MGH file."""
    return not isinstance(path, Volume) and str(path).lower().endswith(NIBABEL_SUFFIXES)


def is_complex(path) -> bool:
    """Whether a file that nibabel reads has complex numbers; one that cannot be read is not."""
    if not by_nibabel(path):
        return False
    try:
        return np.issubdtype(nib.load(path).get_data_dtype(), np.complexfloating)
    except Exception:  # whoever reads it says what is wrong with it
        return False


def take_complex(subject: dict) -> bool:
    """Name a complex image of a subject as its magnitude, and as its phase where it has no other; say if there is one.

    Args:
        subject: paths by key, changed in place.
    """
    found = [key for key in ("image", "magnitude", "t2star", "phase") if key in subject and is_complex(subject[key])]
    for key in found:
        path = subject[key]
        if key == "image":
            del subject["image"]
        if key == "t2star":
            del subject["t2star"]
        if key != "phase" or not {"image", "magnitude", "t2star"} & set(subject):
            subject.setdefault("magnitude", path)
        subject.setdefault("phase", path)
    return bool(found)


def read_unusual(path, key: str) -> MetaTensor:
    """
    Read a file with nibabel that MONAI reads wrongly or not: of complex numbers, with axes beyond the fourth, of MGH,
    or of a header and an image each.

    Args:
        path: of the file.
        key: of complex numbers, ``phase`` gives the phase in rad and any other the magnitude.

    Returns:
        (1, i, j, k), or (n, i, j, k) where another axis is longer than 1, with the file's shape in the meta data.
    """
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    if np.iscomplexobj(values):
        values = np.angle(values) if key == "phase" else np.abs(values)
    values = values.reshape([*values.shape[:3], *(size for size in values.shape[3:] if size > 1)])
    values = np.moveaxis(values, -1, 0) if values.ndim > 3 else values[None]
    meta = {"spatial_shape": np.array(image.shape[:3])}
    affine = torch.as_tensor(image.affine, dtype=torch.float64)
    return MetaTensor(torch.as_tensor(values.astype(np.float32)), affine=affine, meta=meta)


def _doubts(paths: dict, reference: str, acquired: Acquisition) -> str:
    """Why the headers are of no susceptibility-weighted scan of a head, as a sentence; empty where they may be."""
    echo_ms = acquired.echo_ms[0] if len(acquired.echo_ms) == 1 else None
    for key in (reference, *(other for other in paths if other != reference)):
        source = paths[key]
        declared = source.declared if isinstance(source, Volume) else read_declared(source)
        if isinstance(source, Volume) and source.kind.name == "swi":  # which its header says, whatever its name
            declared = {name: declared[name] for name in ("Modality", "BodyPartExamined") if name in declared}
            echo_ms = None
        problem = problem_of_header(declared, echo_ms if key == reference else None)
        if problem:
            return problem
    return ""


def _about_phase(source, acquired: Acquisition) -> dict:
    """What is known of a phase's unit and sign, by its own header or JSON file, else by that of its magnitude."""
    own = _acquisition(source)
    known = {
        "units": own.units,
        "manufacturer": own.manufacturer or acquired.manufacturer,
        "echo_ms": next(iter(acquired.echo_ms if len(acquired.echo_ms) == 1 else own.echo_ms), None),
        "field_tesla": own.field_tesla or acquired.field_tesla,
    }
    return {name: value for name, value in known.items() if value}


def _acquisition(source) -> Acquisition:
    """How an image was acquired, by its DICOM header or the JSON file beside it."""
    if isinstance(source, Volume):
        echo_ms = () if source.echo_ms is None else (source.echo_ms,)
        return Acquisition(echo_ms, source.field_tesla, source.manufacturer)
    return read_sidecar(source)
