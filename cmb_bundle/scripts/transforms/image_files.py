"""What kind of file an image is in, and files that MONAI reads wrongly or not."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from ..dicom.reader import Volume
from ..files import NIBABEL_SUFFIXES

MODALITIES = {"image": "SWI", "phase": "phase", "magnitude": "magnitude", "t2star": "T2*-weighted magnitude"}
NOT_FETCHED = (
    "holds the place of its content alone, as git leaves it. Fetch the content, as with git annex get, datalad get or "
    "git lfs pull."
)
ITK_PLACE = re.compile(r"\.(?:cxx|hxx|h):\d+:")


def by_nibabel(path) -> bool:
    """Whether nibabel reads an image, by its name: a NIfTI, an Analyze or an MGH file."""
    return not isinstance(path, Volume) and str(path).lower().endswith(NIBABEL_SUFFIXES)


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


def absent(path: Path) -> str:
    """Why a path that does not exist cannot be read, and what to do, as the end of a sentence."""
    if not path.is_symlink():
        return "does not exist. Check the path."
    return f"is a link to {path.readlink()}, which is not there. Fetch it, as with git annex get or datalad get."


def reason(error: BaseException) -> str:
    """What a reader says is wrong, in a line; ITK's readers begin with where in their code they are."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not ITK_PLACE.search(line)]
    said = lines[-1 if ITK_PLACE.search(str(error)) else 0].strip() if lines else "no reason given"
    return f"{type(error).__name__}: {said}"
