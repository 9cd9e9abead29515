"""Detect microbleeds from Python: a scan in, findings out, by the description in ``configs/inference.json``."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from ..errors import InputError, OptionError, SubjectError, root_cause

BUNDLE = Path(__file__).resolve().parents[2]
SCRIPTS = __package__.rpartition(".")[0]  # "scripts" in a bundle's folder, "cmb_bundle.scripts" where installed

PLACE = ("region", "category", "side", "border_mm", "neighbours")

Image = str | os.PathLike | nib.spatialimages.SpatialImage


@dataclass(frozen=True)
class Finding:
    """
    A microbleed that was found.

    Attributes:
        voxel: (i, j, k) on the input's grid, 0-based, continuous.
        ras_mm: the same place in mm, RAS.
        diameter_mm: of a sphere with the volume of its voxels in the label map.
        detector_score: of stage 1, in [0, 1].
        classifier_probability: of stage 2, in [0, 1].
        probability: of a microbleed, by both stages, in [0, 1].
        n_slices: slices with a box of stage 1.
    """

    voxel: tuple[float, float, float]
    ras_mm: tuple[float, float, float]
    diameter_mm: float
    detector_score: float
    classifier_probability: float | None
    probability: float | None
    n_slices: int


@dataclass(frozen=True)
class JudgedCandidate(Finding):
    """
    What stage 1 found, and what became of it; its diameter is that of stage 1's box.

    Attributes:
        accepted: whether it is among the findings.
        reason: why it is not, else ``"accepted"``.
    """

    accepted: bool
    reason: str


@dataclass(frozen=True)
class Detection:
    """
    What was found in one scan.

    Attributes:
        findings: the microbleeds, most probable first.
        candidates: all candidates of stage 1, most probable first.
        label_map: int16 on the input's own grid: 0 background, n the voxels of ``findings[n - 1]``.
        notices: sentences on how the scan was read, such as the scale of the phase.
        contrast: what was read: "swi", "swi + phase", "magnitude + phase" or "t2star".
        warnings: sentences on what is outside of what was tested; empty if nothing is.
        summary: counts, see :func:`~..regions.summary.summarise`.
        regions: with the option ``regions=True``, where each of the findings lies: ``region``, ``category``, ``side``,
            ``border_mm`` and ``neighbours``; else empty.
    """

    findings: tuple[Finding, ...]
    candidates: tuple[JudgedCandidate, ...]
    label_map: nib.Nifti1Image
    notices: str
    contrast: str = "swi"
    warnings: str = ""
    summary: Mapping = field(default_factory=dict)
    regions: tuple[Mapping, ...] = ()


class Detector:
    """
    The bundle's two stages, loaded once, for any number of scans.

    Preprocessing, networks and post-processing are those of ``configs/inference.json``, so that a scan gives here what
    ``python -m monai.bundle run`` writes for it.

    Args:
        checkpoint: weights of both stages; the shipped ones by default.
        device: such as ``"cpu"`` or ``"cuda:1"``; CUDA by default where there is such a device.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``, see :func:`~.acceleration.accelerate`.
        options: other options at the top of ``configs/inference.json``, such as ``phase_sign=-1``.

    Raises:
        InputError: there is no such option, it has a value that it cannot have, or the weights cannot be read.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
        **options: object,
    ) -> None:
        text = json.dumps(ConfigParser.load_config_file(BUNDLE / "configs" / "inference.json"))
        self._config = json.loads(text.replace('"scripts.', f'"{SCRIPTS}.'))
        self._config["bundle_root"] = str(BUNDLE)
        named = {"checkpoint": checkpoint, "device": device}
        options = {"precision": precision, **options}
        options |= {name: str(value) for name, value in named.items() if value is not None}
        for name, value in options.items():
            self._set(self._config, name, value)
        parts = _build(self._config, "network", "preprocessing", "device", "amp")
        self.network, self.preprocessing, device, self.amp = parts
        self.device = torch.device(device)

    def __call__(
        self,
        swi: Image | None = None,
        phase: Image | None = None,
        *,
        magnitude: Image | None = None,
        operating_point: str | None = None,
        candidate_threshold: float | None = None,
        probability_threshold: float | None = None,
    ) -> Detection:
        """
        Detect the microbleeds of one scan.

        Args:
            swi: a path to NIfTI, NRRD or MHA, or a nibabel image; or a folder with a DICOM study, from which the phase
                is taken too. None computes it from ``magnitude`` and ``phase``.
            phase: the same for the phase, on the SWI's grid. None works on SWI alone; no file beside it is looked for.
            magnitude: the same for the magnitude; not used where there is an SWI. Without a phase, it is read as a
                T2*-weighted magnitude in place of the SWI.
            operating_point: ``"balanced"``, the default, ``"sensitive"`` or ``"specific"``.
            candidate_threshold: smallest score of stage 1, in [0, 1]; that of the operating point by default.
            probability_threshold: smallest probability of a microbleed, likewise.

        Returns:
            the findings, on the grid of ``swi``, or of ``magnitude`` where that is None.

        Raises:
            InputError: the scan or an option cannot be used; it says why.
        """
        thresholds = {"candidate_threshold": candidate_threshold, "probability_threshold": probability_threshold}
        config = dict(self._config)
        for name, value in {"operating_point": operating_point, **thresholds}.items():
            if value is not None:
                self._set(config, name, value)
        inferer, postprocessing = _build(config, "inferer", "postprocessing")
        with _as_paths({"image": swi, "phase": phase, "magnitude": magnitude}) as subject, torch.no_grad():
            data = self.preprocessing(subject)
            volume = data["image"][None].to(self.device)
            with torch.autocast(self.device.type, enabled=self.amp):
                data["pred"] = inferer(volume, self.network)[0].cpu()
            data = postprocessing(data)
        return _detection(data)

    @staticmethod
    def _set(config: dict, name: str, value: object) -> None:
        if name not in config:
            close = get_close_matches(name, config, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise OptionError(f"There is no option {name} in configs/inference.json.{hint}")
        config[name] = value


def detect(
    swi: Image | None = None,
    phase: Image | None = None,
    *,
    magnitude: Image | None = None,
    operating_point: str = "balanced",
    candidate_threshold: float | None = None,
    probability_threshold: float | None = None,
    checkpoint: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    **options: object,
) -> Detection:
    """
    Detect the cerebral microbleeds of one scan: ``detect("sub-01_swi.nii.gz", "sub-01_phase.nii.gz").findings``.

    The networks are loaded at the first call and reused for as long as ``checkpoint``, ``device``, ``precision`` and
    ``options`` stay the same.

    Args:
        swi, phase, magnitude, operating_point, candidate_threshold, probability_threshold: as of
            :meth:`Detector.__call__`.
        checkpoint, device, precision, options: as of :class:`Detector`.

    Returns:
        ``findings``, ``candidates``, ``label_map`` and ``notices``, see :class:`Detection`.

    Raises:
        InputError: the scan, the weights or an option cannot be used; it says why.
    """
    path = Path(checkpoint or BUNDLE / "models" / "model.pt")
    device = None if device is None else str(device)
    settings = {"checkpoint": str(path), "device": device, "precision": precision, **options}
    try:
        key = json.dumps(settings, sort_keys=True)
    except TypeError as error:
        raise OptionError(f"An option has a value that a config cannot have ({error}).") from error
    # weights that were trained anew under the same name are read anew
    stamp = path.stat().st_mtime_ns if path.exists() else None
    return _loaded(key, stamp)(
        swi,
        phase,
        magnitude=magnitude,
        operating_point=operating_point,
        candidate_threshold=candidate_threshold,
        probability_threshold=probability_threshold,
    )


@lru_cache(maxsize=4)
def _loaded(settings: str, stamp: int | None) -> Detector:
    return Detector(**json.loads(settings))


def _build(config: dict, *names: str) -> list:
    """The objects that a config describes under some of its ids."""
    parser = ConfigParser(config)
    try:
        return [parser.get_parsed_content(name) for name in names]
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, InputError):
            raise cause from error
        # what the config builds from is the options alone
        reason = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
        raise OptionError(f"The detector cannot be set up with these options: {reason}") from error


@contextmanager
def _as_paths(images: Mapping[str, Image | None]):
    """
    A subject of the data set's form with the given images; those in memory lie in files while it is in use.

    They are written as NIfTI-2, whose affine is float64, with the float32 values that reading a file gives: so an
    image in memory and its file give the same. Errors of the user's input are raised as they are.
    """
    given = {key: image for key, image in images.items() if image is not None}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        subject, written = {}, []
        for key, image in given.items():
            if isinstance(image, nib.spatialimages.SpatialImage):
                path = Path(folder) / f"{key}.nii"
                values = np.asanyarray(image.dataobj)
                values = values.astype(np.complex64 if np.iscomplexobj(values) else np.float32)
                aside = nib.Nifti2Image(values, image.affine)
                if hasattr(image.header, "get_xyzt_units"):
                    aside.header.set_xyzt_units(image.header.get_xyzt_units()[0])
                nib.save(aside, path)
                subject[key] = str(path)
                written.append(str(path))
            elif isinstance(image, str | os.PathLike):
                subject[key] = str(Path(image).expanduser())
            else:
                raise SubjectError(
                    f"The {key} is of type {type(image).__name__}; expected a path or a nibabel image. An array needs "
                    "an affine: nibabel.Nifti1Image(array, affine)."
                )
        first = next(iter(subject.values()), "scan")
        name = "scan" if first in written else Path(first).name
        if set(subject) == {"image"} and Path(subject["image"]).is_dir():
            subject = {"dicom": subject["image"]}
        try:
            # with an id of its own, no phase is looked for beside the SWI
            yield {"subject": name, **subject}
        except Exception as error:
            cause = root_cause(error)
            if not isinstance(cause, InputError):
                raise
            message = str(cause)
            for path in written:
                message = message.replace(path, "in memory")
            raise type(cause)(message) from error


def _detection(data: Mapping) -> Detection:
    result, labels = data["result"], data["pred"]
    label_map = nib.Nifti1Image(np.asarray(labels[0].cpu(), dtype=np.int16), np.asarray(labels.affine, dtype=float))
    label_map.header.set_xyzt_units("mm")
    return Detection(
        findings=tuple(_record(Finding, entry) for entry in result["microbleeds"]),
        candidates=tuple(_record(JudgedCandidate, entry) for entry in result["candidates"]),
        label_map=label_map,
        notices=data["notices"],
        contrast=data["contrast"],
        warnings=data.get("warnings", ""),
        summary=result["summary"],
        regions=tuple({name: m[name] for name in PLACE} for m in result["microbleeds"] if "region" in m),
    )


def _record(kind: type, entry: Mapping) -> Finding:
    values = {field.name: entry[field.name] for field in fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
