"""Take one echo of several."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..data.sidecars import Acquisition
from ..dicom.kinds import nearest_echo
from ..dicom.reader import Volume
from ..errors import SubjectError
from .image_files import MODALITIES
from .notices import add_notice, add_warning
from .plausible import loses_signal

MOST_ECHOES = 16
"""A T2*-weighted file with more volumes, whose echo times are not known, is a series over time and not of echoes."""
OF_ECHOES = re.compile(r"\bOf \d+ echoes, ")
"""How a notice begins that says which file was taken as the echo, see :func:`~..data.echoes.choose_echo`."""


def take_echo(
    d: dict, name: str, echo: int, volumes: dict, paths: dict, abouts: dict[str, Acquisition]
) -> tuple[dict, dict[str, Acquisition]]:
    """
    Of a subject's volumes, take one echo each, and mention it in its notices.

    Args:
        d: the subject, for its notices.
        name: of the subject, for errors.
        echo: index of the echo; -1 is the last, of a T2*-weighted magnitude with known times the one nearest to 20 to
            25 ms.
        volumes: ``(echo, i, j, k)`` by key; left alone where one of them has no axis of echoes, or all have one echo.
        paths: where the volumes come from, by key.
        abouts: how they were acquired, by key; ``echo_ms`` has the times of all echoes, where they are known.

    Returns:
        the volumes, ``(1, i, j, k)``, and how they were acquired, with the time of this echo.

    Raises:
        SubjectError: magnitude and phase have different numbers of echoes; there is no such echo; or the volumes are
            not echoes, by one echo time for all of them and signal that does not fall.
    """
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
    if not -number <= echo < number:
        raise SubjectError(
            f"{name}: echo {echo} was asked for, but {next(iter(paths.values()))} has {number}. "
            f"Set `echo` to a value from 0 to {number - 1}, or to -1 for the last."
        )
    taken = nearest_echo(times) if times and echo == -1 and "t2star" in d else echo % number
    add_notice(d, f"Echo {taken + 1} of {number} was taken{f' ({times[taken]:g} ms)' if times else ''}.")
    if not times:
        _check_echoes(d, name, volumes, paths, abouts, taken)
    abouts = {
        key: replace(about, echo_ms=about.echo_ms[taken : taken + 1] if len(about.echo_ms) == number else ())
        for key, about in abouts.items()
    }
    return {k: v[taken : taken + 1] for k, v in volumes.items()}, abouts


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


def check_asked_echo(d: dict, echo: int, volumes: dict, paths: dict) -> None:
    """Mention that a scan has no echo to choose, where one behind the first was asked for."""
    by_file = OF_ECHOES.search(d["notices"]) or any(isinstance(path, Volume) for path in paths.values())
    alone = all(volume.shape[0] == 1 for volume in volumes.values())
    if echo not in (-1, 0) and alone and not by_file:
        shown = next(path for key, path in paths.items() if key != "phase")
        add_notice(d, f"Echo {echo} was asked for, but {Path(shown).name} has one volume, which was read.")
