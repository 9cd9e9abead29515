"""From the files of a subject to what both stages read."""

from .augmentation import RandContrastd, RandDropPhased
from .channels import ScaleSWId, StackComplementPhased
from .head import CheckHeadd
from .head_mask import HeadMaskd
from .labels import ReadPointsd
from .load import LoadSubjectd
from .notices import add_notice, add_warning
from .patches import cut_patch
from .phase import (
    ComputeSWId,
    NormalizePhased,
    homodyne_filter,
    is_raw,
    susceptibility_weighted,
)
from .phase_scale import phase_to_radians, wrap
from .resample import ResampleSpacingd
from .sign import find_sign, paramagnetic_sign
from .slices import RandSlicesd, average_slices, neighbouring_slices, stack_slices
from .tested import CheckRangesd

__all__ = [
    "CheckHeadd",
    "CheckRangesd",
    "ComputeSWId",
    "HeadMaskd",
    "LoadSubjectd",
    "NormalizePhased",
    "RandContrastd",
    "RandDropPhased",
    "RandSlicesd",
    "ReadPointsd",
    "ResampleSpacingd",
    "ScaleSWId",
    "StackComplementPhased",
    "add_notice",
    "add_warning",
    "average_slices",
    "cut_patch",
    "find_sign",
    "homodyne_filter",
    "is_raw",
    "neighbouring_slices",
    "paramagnetic_sign",
    "phase_to_radians",
    "stack_slices",
    "susceptibility_weighted",
    "wrap",
]
