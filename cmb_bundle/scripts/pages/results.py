"""What an inference wrote of its subjects, read again for a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import SubjectError
from ..geometry import corners_apart_mm, same_grid, suppressed_by

ENDING = "_cmb.json"
BIDS_ENDING, BIDS_LABELS = "_desc-cmb_candidates.json", "_space-orig_desc-cmb_dseg.nii.gz"
"""Of results as BIDS derivatives, in ``sub-<label>/[ses-<label>/]anat``."""


@dataclass(frozen=True)
class SubjectResult:
    """
    The results of one subject.

    Args:
        subject: identifier.
        content: of ``<subject>_cmb.json``.
        shape: (i, j, k) of the scan's own grid.
        affine: (4, 4), its voxel to RAS mm.
    """

    subject: str
    content: Mapping
    shape: tuple[int, int, int]
    affine: np.ndarray


def read_results(results_dir: str | Path, subjects: Sequence[str] | None = None) -> list[SubjectResult]:
    """
    Read the results of all subjects in a folder, or of some.

    Args:
        results_dir: ``output_dir`` of an inference, of either layout.
        subjects: only these ids.

    Returns:
        sorted by id.

    Raises:
        SubjectError: there are none, one that was asked for is absent, or one cannot be read.
    """
    root = Path(results_dir).expanduser()
    found = _files_of(root)
    if not found:
        raise SubjectError(
            f"{root}: {'holds' if root.is_dir() else 'is no folder, so that it holds'} no file <id>/<id>{ENDING}, and "
            f"no BIDS derivatives of the bundle (*{BIDS_ENDING}). Give the output_dir of an inference as results_dir."
        )
    wanted = list(found) if subjects is None else [str(one) for one in subjects]
    absent = [name for name in wanted if name not in found]
    if absent:
        raise SubjectError(
            f"{root}: has no results of {', '.join(absent[:5])}; it has those of {', '.join(list(found)[:5])}"
            f"{', ...' if len(found) > 5 else ''}."
        )
    return [_read(name, path) for name, path in found.items() if name in wanted]


def has_results(folder: Path) -> bool:
    """Whether a folder holds results of an inference."""
    return next(folder.glob(f"*/*{ENDING}"), None) is not None or bool(_bids_files(folder))


def _files_of(root: Path) -> dict[str, Path]:
    """The JSON of each subject, by its id.

    Raises:
        SubjectError: a subject has results in both layouts, or the name of a file of BIDS derivatives cannot be read.
    """
    found = {path.parent.name: path for path in sorted(root.glob(f"*/*{ENDING}"))}
    found = {name: path for name, path in found.items() if path.name == f"{name}{ENDING}"}
    for path in _bids_files(root):
        try:
            name = str(json.loads(path.read_text(encoding="utf-8"))["subject"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SubjectError(
                f"{path} cannot be read ({type(error).__name__}: {error}). Run the inference of this subject again."
            ) from error
        if name in found:
            raise SubjectError(
                f"{name}: has results in {found[name]} and in {path}. Expected one: remove those that are not meant."
            )
        found[name] = path
    return dict(sorted(found.items()))


def _bids_files(root: Path) -> list[Path]:
    return [path for sub in ("sub-*/anat", "sub-*/ses-*/anat") for path in sorted(root.glob(f"{sub}/*{BIDS_ENDING}"))]


def _read(subject: str, path: Path) -> SubjectResult:
    label_map = path.with_name(f"{subject}_cmb.nii.gz")
    if path.name.endswith(BIDS_ENDING):  # whose names have no more than letters and digits of the id
        label_map = path.with_name(path.name.removesuffix(BIDS_ENDING) + BIDS_LABELS)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["microbleeds"], content["candidates"], content["probability_threshold"]
        image = nib.load(label_map)
        return SubjectResult(subject, content, tuple(image.shape[:3]), np.asarray(image.affine, dtype=float))
    except (OSError, ValueError, KeyError, TypeError, nib.filebasedimages.ImageFileError) as error:
        raise SubjectError(
            f"{subject}: {path} and {label_map.name} beside it cannot be read as results ({type(error).__name__}: "
            f"{error}). Run the inference of this subject again, with resume False."
        ) from error


def check_scan(result: SubjectResult, scan: Mapping) -> None:
    """
    Make sure that a scan is on the grid that the results are on.

    Args:
        result: of the subject.
        scan: ``image``, MetaTensor (1, i, j, k) in RAS order whose meta data hold ``original_affine`` and
            ``spatial_shape`` of the file.

    Raises:
        SubjectError: else.
    """
    meta = scan["image"].meta
    shape = tuple(int(n) for n in meta["spatial_shape"])
    affine = np.asarray(meta["original_affine"], dtype=float)
    if not same_grid(result.shape, result.affine, shape, affine):
        apart = corners_apart_mm(shape, affine, result.affine)
        raise SubjectError(
            f"{result.subject}: the scan has {' x '.join(map(str, shape))} voxels, the results "
            f"{' x '.join(map(str, result.shape))}, corners {apart:.1f} mm apart. Expected the scan that the results "
            "are of: give its dataset_dir, and the echo and the DICOM series that were read."
        )


def places_to_look_at(content: Mapping, lowest_probability: float, duplicate_mm: float = 3.0) -> list[dict]:
    """
    The findings, and the candidates down to a probability that are not at the place of another.

    Args:
        content: of ``<subject>_cmb.json``.
        lowest_probability: of a candidate; all findings are taken, whatever theirs is.
        duplicate_mm: of two places that are nearer to each other, the second, less probable one is left out.

    Returns:
        the entries of the candidates, findings first and then by probability, each with its number ``candidate`` in the
        JSON from 1; those of findings have their diameter, region and side, and their number ``lesion``.

    Example:
        >>> one = {"ras_mm": [0, 0, 0], "probability": 0.9, "accepted": True, "reason": "accepted", "diameter_mm": 4.0}
        >>> near, low = one | {"ras_mm": [1, 0, 0], "probability": 0.8, "accepted": False}, one | {"probability": 0.01}
        >>> other = one | {"ras_mm": [9, 0, 0], "probability": 0.2, "accepted": False}
        >>> candidates = [one, near, other, low | {"accepted": False}]
        >>> content = {"candidates": candidates, "microbleeds": [{"diameter_mm": 3.1}]}
        >>> [(p["candidate"], p["lesion"], p["diameter_mm"]) for p in places_to_look_at(content, 0.05)]
        [(1, 1, 3.1), (3, None, 4.0)]
    """
    findings = iter(enumerate(content["microbleeds"], 1))
    places = []
    for number, candidate in enumerate(content["candidates"], 1):
        place = {**candidate, "candidate": number, "lesion": None}
        if candidate["accepted"]:
            lesion, finding = next(findings)
            place |= {**finding, "lesion": lesion}
        elif (candidate.get("probability") or 0.0) < lowest_probability:
            continue
        places.append(place)
    places.sort(key=lambda place: place["lesion"] is None)  # stable: by probability within both
    by = suppressed_by(np.array([place["ras_mm"] for place in places]).reshape(-1, 3), duplicate_mm)
    return [place for place, other in zip(places, by, strict=True) if other < 0 or place["lesion"] is not None]
