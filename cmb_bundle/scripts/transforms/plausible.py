"""Refuse what is named as an SWI or a magnitude and can be neither."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import SubjectError

SAMPLE, SOME = 200_000, 5_000
"""Values that are looked at, at most about twice as many, evenly spaced; and those that mostly tell enough."""

MOST_NEGATIVE = 0.2
"""Share of negative values, of those that are not background, that interpolation does not leave."""

LARGEST, FARTHEST = 1e12, 1e6
"""A value beyond the first, or beyond the second times nearly all others, is none that a scanner wrote."""

LABELS = 8
"""An image with no more different values than this is a mask or a label map."""

BINS, LEAST_IN_BIN = 16, 0.02
"""A phase fills its range: of 16 equal parts each holds at least 2 % of the values. Of a magnitude, a few voxels alone
are in the brightest part."""

RISE, LOSS = 1.05, 0.98
"""Of echoes, none is brighter than the one before by more than noise and alternating readouts make, and the last is
darker than the first; time points drift by less."""

RANGES = ((4095.0, 8.0), (2 * math.pi, 0.02))
"""Widths of unsigned ranges that phases have, and how far they may be off."""


def check_image(found: str, volume: torch.Tensor) -> None:
    """
    Refuse an image that is no SWI and no magnitude, which are positive and dark around the head.

    Args:
        found: the beginning of the message, which names the file.
        volume: the values, any shape, finite.

    Raises:
        SubjectError: it has no positive value, is negative in much of the head, is a mask or a label map, or fills the
            range of a phase evenly.

    Example:
        >>> try:
        ...     check_image("sub-1: the SWI a.nii", torch.tensor([0.0, 0.0, 1.0, 1.0]))
        ... except SubjectError as error:
        ...     print(str(error)[:84])
        sub-1: the SWI a.nii has 2 different values: it is a mask or a label map. Expected a
    """
    largest = float(volume.max())
    if largest <= 0:
        raise SubjectError(f"{found} has no positive value, at most {largest:g}. {_EXPECTED}")
    check_extremes(found, volume)
    values = sample(volume)
    number = different(values, more_than=LABELS)
    if number <= LABELS:
        raise SubjectError(f"{found} has {number} different values: it is a mask or a label map. {_EXPECTED}")
    shown = values[values != values.mode().values]
    negative = float((shown < 0).float().mean())
    if negative > MOST_NEGATIVE:
        raise SubjectError(
            f"{found} is negative in {100 * negative:.0f} % of what is not background, as a phase, a susceptibility "
            f"map or a standardised image is. {_EXPECTED} {_PHASE}"
        )
    low, high = float(values.min()), float(values.max())
    if any(abs(high - low - width) <= off for width, off in RANGES):
        filled = torch.histc(values, BINS, low, high) / len(values)
        if float(filled.min()) >= LEAST_IN_BIN:
            raise SubjectError(
                f"{found} fills its range from {low:.4g} to {high:.4g} evenly, as a phase does. {_EXPECTED} {_PHASE}"
            )


def check_extremes(found: str, values: torch.Tensor) -> None:
    """
    Refuse values that no scanner writes, as damaged floating-point numbers are.

    Args:
        found: the beginning of the message, which names the file.
        values: any shape, finite.

    Raises:
        SubjectError: a value is beyond ``LARGEST``, or ``FARTHEST`` times what 99 % of those that are not 0 lie
            below: interpolation leaves more than half of them near 0.

    Example:
        >>> try:
        ...     check_extremes("sub-1: the SWI a.nii", torch.tensor([*range(1000), 3e9]))
        ... except SubjectError as error:
        ...     print(str(error)[:76])
        sub-1: the SWI a.nii has 1 value(s) such as 3e+09, far beyond all others: it
    """
    largest = max(abs(float(value)) for value in values.aminmax())
    shown = sample(values).abs()
    shown = shown[shown > 0]
    limit = min(LARGEST, FARTHEST * float(np.percentile(shown.numpy(), 99)) if len(shown) else LARGEST)
    if largest > limit:
        raise SubjectError(
            f"{found} has {int((values.abs() > limit).sum())} value(s) such as {largest:.3g}, far beyond all others: "
            "it is damaged. Copy or convert it again."
        )


def slice_ranges(volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The smallest and the largest value of each slice, NaN where it has any.

    Args:
        volume: (i, j, k).

    Returns:
        (k,) and (k,).
    """
    rest = [axis for axis in memory_order(volume) if axis != 2]  # in any other order, it would be a copy
    return volume.permute(2, *rest).flatten(1).aminmax(dim=1)


def empty_slices(lows: torch.Tensor, highs: torch.Tensor) -> list[int]:
    """
    Slices that have one value everywhere and lie between others that have not.

    Args:
        lows, highs: (k,), the smallest and the largest value of each slice, see :func:`slice_ranges`.

    Example:
        >>> volume = torch.rand(4, 4, 6)
        >>> volume[..., [0, 2, 5]] = 0.0
        >>> empty_slices(*slice_ranges(volume))
        [2]
    """
    shown = (lows != highs).nonzero().flatten().tolist()
    return sorted(set(range(shown[0], shown[-1])) - set(shown)) if shown else []


def loses_signal(volumes: torch.Tensor) -> bool:
    """
    Whether volumes become darker from one to the next, as echoes do.

    Args:
        volumes: (n, i, j, k), magnitudes.

    Example:
        >>> head = torch.rand(1, 9, 9, 9)
        >>> loses_signal(torch.cat([head, 0.8 * head, 0.7 * head])), loses_signal(torch.cat([head, 0.5 * head, head]))
        (True, False)
    """
    some = torch.as_tensor(volumes)[:, ::3, ::3].nan_to_num(0.0, 0.0, 0.0)  # a ninth of the voxels tells as much
    middle = some.mean(0)
    signal = some[:, middle > middle.mean()].mean(1)
    return bool((signal[1:] <= RISE * signal[:-1]).all() and signal[-1] < LOSS * signal[0])


def sample(values: torch.Tensor) -> torch.Tensor:
    """
    About ``SAMPLE`` of the values, spread evenly, at most about twice as many.

    Args:
        values: any shape.

    Returns:
        (N,), a view where the memory allows it.

    Example:
        >>> sample(torch.arange(8 * SAMPLE))[:3]
        tensor([ 0,  9, 18])
    """
    shape = values.shape
    values = values.permute(memory_order(values)).flatten()  # in any other order, it would be a copy
    step = max(1, len(values) // SAMPLE)
    while any(math.gcd(step, size) > 1 for size in shape):  # it would meet the same columns, or slices, of each row
        step += 1
    return values[::step]


def memory_order(values: torch.Tensor) -> list[int]:
    """
    The axes, that with the largest stride first.

    Example:
        >>> memory_order(torch.zeros(2, 3, 4).permute(2, 0, 1))
        [1, 2, 0]
    """
    return sorted(range(values.ndim), key=values.stride, reverse=True)


def different(values: torch.Tensor, more_than: int) -> int:
    """
    How many different values there are; where there are more, any number above ``more_than``.

    Args:
        values: (N,).
        more_than: what matters.

    Example:
        >>> different(torch.tensor([3.0, 3.0, 5.0]), more_than=2), different(torch.arange(1000.0), more_than=2) > 2
        (2, True)
    """
    some = len(values[:: max(1, len(values) // SOME)].unique())
    return some if some > more_than else len(values.unique())


_EXPECTED = "Expected an image that is positive and dark around the head; give the SWI or the magnitude."
_PHASE = "Name a phase as such, as <id>_phase.nii.gz, beside the SWI or the magnitude."
