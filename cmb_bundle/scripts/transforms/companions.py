"""Whether the images of a subject are of one scan."""

from __future__ import annotations

from monai.data import MetaTensor

from ..data.sidecars import Acquisition
from ..errors import SubjectError
from ..geometry import corners_apart_mm, same_grid
from .image_files import MODALITIES
from .notices import add_warning

ECHO_MS_APART, TESLA_APART = 0.5, 0.2
"""How far headers of one scan are apart by rounding: of 7 T, some say 6.98, and of 3 T, some say 2.89."""


def check_same_scan(d: dict, name: str, paths: dict, abouts: dict[str, Acquisition]) -> None:
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


def check_same_grid(name: str, a: MetaTensor, path_a, b: MetaTensor, path_b) -> None:
    """
    Refuse two images of a subject that have different numbers of voxels, or the same voxel at different places.

    Args:
        name: of the subject, for errors.
        a, b: ``(1, i, j, k)``, with an affine from voxels to RAS mm.
        path_a, path_b: where they come from, for errors.

    Raises:
        SubjectError: naming both, and what was found.

    Example:
        >>> import torch
        >>> a = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.eye(4))
        >>> check_same_grid("sub-01", a, "sub-01_swi.nii.gz", a[..., :3], "sub-01_phase.nii.gz")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        cmb_bundle.scripts.errors.SubjectError: sub-01: sub-01_swi.nii.gz has 4 x 4 x 4 voxels and ...
    """
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
