"""Whether a scan would have shown what another shows: coverage, sequence, field strength, echo time and voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..geometry import to_voxel

WEAKER = 0.8
"""A scan is less sensitive where field strength times echo time is less than this share of the other's."""
COARSER = 1.25
"""The same where its voxels are so many times as large along an axis."""
VISIBLE_MM = 3.0
"""A lesion that would look at least so wide would have been seen in the less sensitive scan, too."""
VISIBLE_SLICES = 0.6
"""And at least so wide as a share of that scan's slices."""


@dataclass(frozen=True)
class Protocol:
    """
    How a scan was made.

    Attributes:
        contrast: "t2star" for a T2*-weighted magnitude; any other is susceptibility-weighted.
        voxel_mm: edges of a voxel along R, A, S.
        field_tesla, echo_ms: None where not known.
    """

    contrast: str
    voxel_mm: tuple[float, float, float]
    field_tesla: float | None = None
    echo_ms: float | None = None

    @property
    def weighting(self) -> float | None:
        """Field strength times echo time, in T ms, with which the volume of a lesion grows; None where not known."""
        if self.field_tesla is None or self.echo_ms is None:
            return None
        return self.field_tesla * self.echo_ms


@dataclass(frozen=True)
class Coverage:
    """
    What of the world a scan shows.

    Attributes:
        affine: (4, 4), voxel to RAS mm.
        head: bool (i, j, k).
    """

    affine: np.ndarray
    head: np.ndarray = field(repr=False)

    def misses(self, ras_mm: Sequence[float]) -> str:
        """
        Say why a place cannot be judged; empty where it can.

        Example:
            >>> cover = Coverage(np.eye(4), np.ones((9, 9, 9), bool))
            >>> cover.misses([4, 4, 4]), cover.misses([4, 4, 8]), cover.misses([4, 4, 20])
            ('', 'at the edge of the field of view', 'outside of the field of view')
        """
        voxel, last = to_voxel(self.affine, ras_mm), np.array(self.head.shape) - 1
        if (voxel < -0.5).any() or (voxel > last + 0.5).any():
            return "outside of the field of view"
        if (voxel < 0.5).any() or (voxel > last - 0.5).any():
            return "at the edge of the field of view"
        return "" if self.head[tuple(np.rint(voxel).astype(int))] else "outside of the head"


def less_sensitive(one: Protocol, other: Protocol) -> tuple[str, ...]:
    """
    Say in what a scan is less sensitive to microbleeds than another; empty where it is not, or where it is not known.

    Example:
        >>> swi, t2star = Protocol("swi", (0.6, 0.6, 2), 3.0, 20.0), Protocol("t2star", (0.8, 0.8, 5), 1.5, 25.0)
        >>> less_sensitive(swi, t2star)
        ()
        >>> less_sensitive(t2star, swi)[0]
        'T2*-weighted magnitude, not SWI'
    """
    reasons = []
    if one.contrast == "t2star" != other.contrast:
        reasons.append("T2*-weighted magnitude, not SWI")
    if one.weighting and other.weighting and one.weighting < WEAKER * other.weighting:
        reasons.append(
            f"{one.field_tesla:g} T and {one.echo_ms:g} ms, not {other.field_tesla:g} T and {other.echo_ms:g} ms"
        )
    if any(a > COARSER * b for a, b in zip(one.voxel_mm, other.voxel_mm, strict=True)):
        sizes = (" x ".join(f"{v:.2g}" for v in protocol.voxel_mm) for protocol in (one, other))
        reasons.append("voxels of {} mm, not {} mm".format(*sizes))
    return tuple(reasons)


def would_show(one: Protocol, other: Protocol, diameter_mm: float | None) -> bool:
    """
    Whether a lesion would be seen in a less sensitive scan all the same, for its size.

    Its volume grows with field strength times echo time, so that its width in the other scan can be foretold. Never so
    of a T2*-weighted magnitude against SWI, where more than the echo differs.

    Args:
        one: the less sensitive scan.
        other: the scan in which it was found.
        diameter_mm: how wide it is there.

    Example:
        >>> weak, strong = Protocol("swi", (0.8, 0.8, 2), 1.5, 20.0), Protocol("swi", (0.8, 0.8, 2), 3.0, 20.0)
        >>> would_show(weak, strong, 5.0), would_show(weak, strong, 3.0)
        (True, False)
    """
    if diameter_mm is None or (one.contrast == "t2star" != other.contrast):
        return False
    known = one.weighting and other.weighting
    width = diameter_mm * min(1.0, one.weighting / other.weighting) ** (1 / 3) if known else diameter_mm
    return width >= max(VISIBLE_MM, VISIBLE_SLICES * max(one.voxel_mm))


def not_known(one: Protocol, other: Protocol) -> bool:
    """Whether field strength or echo time of one of the two is not known, so that they cannot be compared."""
    return one.weighting is None or other.weighting is None
