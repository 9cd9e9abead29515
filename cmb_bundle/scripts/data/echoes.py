"""Of several echoes of one scan, each in a file of its own: which to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..dicom.kinds import nearest_echo
from .sidecars import read_sidecar

ECHO = re.compile(r"_(?:e|echo-)(\d{1,2})(?=_|$)", re.IGNORECASE)
"""The number of an echo in a name, as dcm2niix and BIDS write it."""
ROLES_OF_ECHOES = ("magnitude", "phase", "t2star", "image")


def choose_echo(files: Mapping[str, Sequence[Path]], echo: int = -1) -> tuple[dict[str, list[Path]], list[str]]:
    """
    Leave one echo of a scan.

    Echoes are told apart by the number in their names, where the first may have none, else by the ``EchoTime`` or the
    ``EchoNumber`` in the JSON files beside them.

    Args:
        files: paths by role.
        echo: index among the echoes that have all images that any has, by number from 0; -1 is the last or, of
            magnitudes without phase whose echo times are known, the one nearest to 20 to 25 ms.

    Returns:
        the files, with one echo of those roles that have several; unchanged where they are no echoes of one scan. And
        sentences on what was taken and what was not.

    Raises:
        IndexError: there are fewer echoes.

    Example:
        >>> files = {"magnitude": [Path("a_e1.nii"), Path("a_e2.nii")], "phase": [Path("a_e2_ph.nii")]}
        >>> taken, notices = choose_echo(files)
        >>> taken["magnitude"][0].name, notices
        ('a_e2.nii', ['Of 2 echoes, a_e2.nii was taken; not read: a_e1.nii.'])
    """
    roles = [role for role in ROLES_OF_ECHOES if files.get(role)]
    if not any(len(files[role]) > 1 for role in roles):
        return dict(files), []
    numbered = _numbered({role: files[role] for role in roles})
    if numbered is None:
        return dict(files), []
    # an SWI that was computed from all echoes has none; what has several is chosen among
    several = [role for role in roles if len(files[role]) > 1 or role in ("magnitude", "phase")]
    full = sorted(set.intersection(*(set(numbered[role]) for role in several)))
    if not full:
        return dict(files), []
    if not -len(full) <= echo < len(full):
        raise IndexError(
            f"echo {echo} was asked for, but there are {len(full)}: "
            f"{', '.join(numbered[several[0]][number].name for number in full)}. Set `echo` to a value from 0 to "
            f"{len(full) - 1}, or to -1 for the last"
        )
    shown = numbered[several[0]]
    times = {number: read_sidecar(path).echo_ms for number, path in shown.items()}
    index = echo
    if echo == -1 and "phase" not in several and all(len(times[number]) == 1 for number in full):
        index = nearest_echo([times[number][0] for number in full])
    number = full[index]
    taken = {role: [numbered[role][number]] for role in several}
    left = sorted({path.name for role in several for path in files[role]} - {one.name for (one,) in taken.values()})
    ms = f" ({times[number][0]:g} ms)" if len(times[number]) == 1 else ""
    count = len(set().union(*(numbered[role] for role in several)))
    notice = f"Of {count} echoes, {shown[number].name} was taken{ms}; not read: {', '.join(left)}."
    return dict(files) | taken, [notice]


def _numbered(files: Mapping[str, Sequence[Path]]) -> dict[str, dict[int, Path]] | None:
    """Each role's files by the number of the echo; None where two have the same, or none can be told."""
    paths = [path for one in files.values() for path in one]
    written = {path: ECHO.findall(path.name.partition(".")[0]) for path in paths}
    if any(written.values()):
        numbers = {path: int(found[-1]) if found else 1 for path, found in written.items()}
    else:
        known = {path: read_sidecar(path) for path in paths}
        if all(len(about.echo_ms) == 1 for about in known.values()):
            times = sorted({about.echo_ms[0] for about in known.values()})
            numbers = {path: times.index(about.echo_ms[0]) + 1 for path, about in known.items()}
        elif all(about.echo_number for about in known.values()):
            numbers = {path: about.echo_number for path, about in known.items()}
        else:
            return None
    numbered = {role: {numbers[path]: path for path in one} for role, one in files.items()}
    return numbered if all(len(numbered[role]) == len(one) for role, one in files.items()) else None
