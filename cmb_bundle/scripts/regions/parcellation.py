"""A parcellation that lies beside a scan: found by its name, read, and turned into regions."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from ..data.names import PARCELLATION
from ..errors import SubjectError
from ..files import IMAGE_SUFFIXES
from ..geometry import to_voxel
from ..whole import check_whole
from .mars import CAUDATE, FLUID, LENTIFORM, NONE, REGIONS, WHITE, freesurfer_numbers, region_of_name
from .region_map import MIDDLE_MM, RegionMap

CODES = {name: number for number, name in enumerate(REGIONS, 1)}
CODES |= {NONE: 0, CAUDATE: 252, LENTIFORM: 253, WHITE: 254, FLUID: 255}
SUFFIXES = (".nii.gz", ".nii", ".mgz")
PERIVENTRICULAR_MM = 5.0
CAPSULE_MM = 5.0
LEAST_COVERED = 0.75
"""The least share of a parcellation, of what lies in the scan's field of view, that must lie in the head."""
LEAST_FILLED = 0.2
"""The least share of the head, skull and all, that must have a label."""
WHERE = "Give the parcellation of this scan, in its space (another grid will do), or remove it to have the template."


def find_parcellation(paths, subject: str) -> str | None:
    """
    Find the parcellation beside a scan: ``<scan>_dseg.nii.gz``, ``<subject>_aparc+aseg.mgz`` and so on.

    Args:
        paths: of the scan's files.
        subject: its identifier.

    Raises:
        SubjectError: there are several.
    """
    found = set()
    for path in map(Path, paths):
        suffix = next((s for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), "")
        stem = path.name[: len(path.name) - len(suffix)]
        # sub-01_part-mag_GRE has sub-01_dseg, too
        stems = {subject, stem, *("_".join(stem.split("_")[:n]) for n in range(1, stem.count("_") + 1))}
        names = {f"{one}{ending}{end}" for one in stems for ending in PARCELLATION for end in SUFFIXES}
        found |= {path.parent / name for name in names if _is_file(path.parent / name)}
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise SubjectError(
            f"{subject}: there are {len(found)} parcellations: {listed}. Expected one; remove the others."
        )
    return str(next(iter(found))) if found else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, of a long id
        return False


def read_parcellation(path: str | Path, table: str | Path | None = None, subject: str = "") -> RegionMap:
    """
    Read a parcellation as a map of regions.

    The labels are those of a table beside it, of the same name or ``dseg.tsv``, with the columns ``index`` and
    ``name``, and where the names are not FreeSurfer's also ``region`` and ``side``; else they are FreeSurfer's numbers.
    White matter is divided by what it lies near, see :func:`divide_white_matter`.

    Args:
        path: NIfTI or MGZ, a volume of whole numbers.
        table: of the labels, in place of one beside it.
        subject: for messages.

    Raises:
        SubjectError: it or its table cannot be read, it holds labels that are not known, or none of a brain.
    """
    found = f"{subject}: the parcellation {path}"
    labels, affine = _read_labels(path, found)
    table = table or _table_beside(Path(path))
    meanings = _read_table(Path(table), subject) if table else freesurfer_numbers()
    numbers = np.unique(labels)
    unknown = [int(n) for n in numbers if n and int(n) not in meanings]
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        where = f"the table {table}" if table else "FreeSurfer's aseg, aparc+aseg and wmparc"
        raise SubjectError(
            f"{found} has {len(unknown)} labels that {where} does not have: {shown}. Expected a table with all labels "
            f"beside it, {_stem(Path(path))}.tsv, with the columns index, name, region and side."
        )
    if not any(CODES[meanings[int(n)][0]] not in (0, CODES[FLUID]) for n in numbers if n):
        raise SubjectError(f"{found} has no label of a region of the brain; it has {numbers.tolist()[:5]}. {WHERE}")
    box = tuple(slice(max(w.min() - 1, 0), w.max() + 2) for w in np.nonzero(labels))
    labels = labels[box]
    affine = affine @ nib.affines.from_matvec(np.eye(3), [s.start for s in box])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    largest = int(numbers.max())
    what, side = np.zeros(largest + 1, np.uint8), np.zeros(largest + 1, np.int8)
    for number in map(int, numbers):
        meaning, side[number] = meanings.get(number, (NONE, 0))
        what[number] = CODES[meaning]
    region = divide_white_matter(what[labels], spacing)
    return RegionMap(region, _sides(side[labels], labels > 0, affine), affine)


def divide_white_matter(what: np.ndarray, spacing) -> np.ndarray:
    """
    Give each voxel of white matter the region that its surroundings make it.

    No farther than 5 mm from both the lentiform nucleus and thalamus or caudate, it is internal capsule; from the
    lentiform nucleus and the insula likewise external capsule; within 5 mm of a lateral ventricle deep and
    periventricular white matter; all other has the lobe of the nearest cortex. Basal ganglia that are not divided count
    as either nucleus.

    Args:
        what: uint8 (i, j, k), the values of ``CODES``.
        spacing: in mm.

    Returns:
        uint8 (i, j, k), the codes of regions alone.

    Example:
        >>> what = np.array([255, 254, 254, 254, 254, 254, 254, 1], np.uint8)[:, None, None]  # ventricle ... frontal
        >>> divide_white_matter(what, (2, 2, 2))[:, 0, 0].tolist()  # two voxels are within 5 mm of the ventricle
        [0, 12, 12, 1, 1, 1, 1, 1]
    """
    white = what == CODES[WHITE]
    region = np.where(np.isin(what, [CODES[CAUDATE], CODES[LENTIFORM]]), CODES["basal ganglia"], what)
    region = np.where(region >= CODES[WHITE], 0, region).astype(np.uint8)

    def within(mm: float, *names: str) -> np.ndarray:
        mask = np.isin(what, [CODES[name] for name in names])
        if not mask.any():
            return mask
        return ndimage.distance_transform_edt(~mask, spacing) <= mm

    lobar = (what >= 1) & (what <= CODES["lobe not known"])
    if lobar.any() and white.any():
        index = ndimage.distance_transform_edt(~lobar, spacing, return_distances=False, return_indices=True)
        region[white] = what[tuple(axis[white] for axis in index)]
        del index
    else:
        region[white] = CODES["lobe not known"]
    region[white & within(PERIVENTRICULAR_MM, FLUID)] = CODES["deep and periventricular white matter"]
    beside = white & within(CAPSULE_MM, LENTIFORM, "basal ganglia")
    region[beside & within(CAPSULE_MM, "insula")] = CODES["external capsule"]
    region[beside & within(CAPSULE_MM, "thalamus", CAUDATE, "basal ganglia")] = CODES["internal capsule"]
    return region


def check_covers(region_map: RegionMap, head: np.ndarray, affine: np.ndarray, found: str) -> None:
    """
    Refuse a parcellation that does not lie in the scan's head.

    Args:
        region_map: of the parcellation.
        head: bool (i, j, k), the head on the scan's grid.
        affine: (4, 4), the scan's, voxel to RAS mm.
        found: "<subject>: the parcellation <path>", for the message.

    Raises:
        SubjectError: too little of it lies in the head, or too little of the head in it.
    """
    voxels = np.argwhere(region_map.region)[::7]
    index = np.rint(to_voxel(affine, nib.affines.apply_affine(region_map.affine, voxels))).astype(int)
    seen = ((index >= 0) & (index < head.shape)).all(1)
    inside = head[tuple(index[seen].T)].mean() if seen.any() else 0.0
    places = np.argwhere(head)[::101]
    index = np.rint(to_voxel(region_map.affine, nib.affines.apply_affine(affine, places))).astype(int)
    there = ((index >= 0) & (index < region_map.region.shape)).all(1)
    filled = float((region_map.region[tuple(index[there].T)] > 0).sum() / max(len(places), 1))
    if inside < LEAST_COVERED or filled < LEAST_FILLED:
        raise SubjectError(
            f"{found} does not lie in the scan's head: {100 * inside:.0f} % of it, within the field of view, is in the "
            f"head, and it fills {100 * filled:.0f} % of the head; expected at least {100 * LEAST_COVERED:.0f} % and "
            f"{100 * LEAST_FILLED:.0f} %. {WHERE}"
        )


def _stem(path: Path) -> str:
    return path.name[: -len(next((s for s in SUFFIXES if path.name.endswith(s)), path.suffix))]


def _table_beside(path: Path) -> Path | None:
    there = (path.with_name(f"{_stem(path)}.tsv"), path.with_name(f"{_stem(path)}.csv"), path.with_name("dseg.tsv"))
    return next((table for table in there if table.is_file()), None)


def _read_labels(path, found: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels, int32 (i, j, k), and voxel to RAS mm."""
    try:
        check_whole(path)
        image = nib.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:
        raise SubjectError(
            f"{found} cannot be read ({type(error).__name__}: {error}). Expected a whole NIfTI or MGZ file; copy it "
            "again, or remove it to have the template."
        ) from error
    values = values.reshape([*values.shape[:3], *(n for n in values.shape[3:] if n > 1)])
    if values.ndim != 3:
        shape = " x ".join(map(str, values.shape))
        raise SubjectError(f"{found} has {shape} values. Expected one volume of labels, not one of probabilities each.")
    whole = np.issubdtype(values.dtype, np.integer) or (np.isfinite(values).all() and (values == np.rint(values)).all())
    if not whole:
        raise SubjectError(
            f"{found} has values that are no whole numbers. Expected labels; where it was resampled, do it again with "
            "the nearest neighbour."
        )
    labels = values.astype(np.int32)
    if labels.min() < 0 or labels.max() > 100_000:
        raise SubjectError(f"{found} has labels from {labels.min()} to {labels.max()}; expected 0 to 100000.")
    if not labels.any():
        raise SubjectError(f"{found} is empty: it has 0 everywhere. {WHERE}")
    return labels, np.asarray(image.affine, float)


def _read_table(path: Path, subject: str) -> dict[int, tuple[str, int]]:
    """What the labels of a table mean: region and side."""
    found = f"{subject}: the table of labels {path}"
    try:
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype=str, keep_default_na=False)
    except Exception as error:
        raise SubjectError(f"{found} cannot be read ({type(error).__name__}: {error}). Expected a TSV.") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    if "index" not in table or not {"name", "region"} & set(table.columns):
        raise SubjectError(
            f"{found} has the columns {', '.join(table.columns)}. Expected index and name, and where the names are not "
            "FreeSurfer's also region and side; between tabs, or in a .csv between commas."
        )
    meanings = {}
    for row in table.to_dict("records"):
        try:
            number = int(row["index"])
        except ValueError as error:
            raise SubjectError(f"{found} has the index {row['index']!r}; expected a whole number.") from error
        region, side = row.get("region", "").strip().lower(), row.get("side", "").strip().lower()
        named = region_of_name(row.get("name", ""))
        if region:
            if region not in (*REGIONS, WHITE, FLUID, NONE):
                raise SubjectError(
                    f"{found} has the region {region!r} for label {number}; expected one of "
                    f"{', '.join((*REGIONS, WHITE, FLUID, NONE))}."
                )
            meaning = region
        elif named is not None:
            meaning = named[0]
        elif number == 0:
            meaning = NONE
        else:
            raise SubjectError(
                f"{found} has the name {row.get('name', '')!r} for label {number}, which is none of FreeSurfer's. Add "
                "a column region with a region, white matter, ventricle or none for each label, and a column side."
            )
        if side not in ("", "n/a", "left", "right", "l", "r"):
            raise SubjectError(f"{found} has the side {side!r} for label {number}; expected left, right or nothing.")
        known = {"left": -1, "l": -1, "right": 1, "r": 1}.get(side)
        meanings[number] = (meaning, known if known is not None else named[1] if named else 0)
    return meanings


def _sides(side: np.ndarray, labelled: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """
    The side of each voxel: of its label, or by the plane midway between the left and the right labels.

    Args:
        side: int8 (i, j, k), -1, 1 or 0 where a label has no side.
        labelled: bool (i, j, k).
        affine: voxel to RAS mm.
    """
    if not ((side < 0).any() and (side > 0).any()):
        return np.where(labelled & (side != 0), side, 2).astype(np.int8)
    left, right = (nib.affines.apply_affine(affine, np.argwhere(side == one)[::13]) for one in (-1, 1))
    across = right.mean(0) - left.mean(0)
    across /= np.linalg.norm(across)
    # the sides need not have equal parts in the field of view, so the plane lies between those nearest to it
    inner = (np.quantile(left @ across, 0.98) + np.quantile(right @ across, 0.02)) / 2
    normal = affine[:3, :3].T @ across
    start = affine[:3, 3] @ across - inner
    axes = np.meshgrid(*(np.arange(n) * s for n, s in zip(side.shape, normal, strict=True)), indexing="ij", sparse=True)
    mm = start + axes[0] + axes[1] + axes[2]
    by_plane = np.where(np.abs(mm) < MIDDLE_MM, 0, np.sign(mm))
    return np.where(side != 0, side, by_plane).astype(np.int8)
