"""Tell apart what dcm2niix made of a study, by the names that it gives and by the JSON files that it writes beside."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..dicom.kinds import MR_CLASSES, Header, kind_of
from ..files import IMAGE_SUFFIXES
from .echoes import ECHO
from .names import DERIVED, NO_T2STAR, ROLES, WORD, derived, parse_name, without_words
from .sidecars import read_sidecar

TAGS = re.compile(r"(_(e\d{1,2}|ph))+$", re.IGNORECASE)
"""What dcm2niix adds to the name of an echo and of a phase."""
STAMPED = re.compile(r"(_\d{14})_(\d+)[a-z]?$", re.IGNORECASE)
"""The end of its default names, ``%f_%p_%t_%s``: the study's date and time, and the series number."""
LEADING, TRAILING = re.compile(r"(\d+)_"), re.compile(r"_(\d+)[a-z]?$")
KINDS = {"swi": "image", "phase": "phase", "magnitude": "magnitude"}
OF_SERIES = {*ROLES, *DERIVED, "sw", "filt"}
"""Words in which the series of one scan differ: Mag_Images, Pha_Images, mIP_Images(SW); SWAN and FILT_PHA SWAN."""
COMPUTED = ("a projection or reformatted", "a real part", "a imaginary part", "a computed map")


@dataclass(frozen=True)
class Converted:
    """
    What is known of a file by its name and its JSON file.

    Attributes:
        path: of the file.
        scan: its name without series number, echo and ``ph``.
        series: its series number, None where there is none.
        role: image, phase, magnitude, "derived" for what was computed from a scan; None where not known.
        sure: the JSON file tells its kind or its series, or the name has the study's date and time.
    """

    path: Path
    scan: str
    series: int | None
    role: str | None
    sure: bool


def take_converted(paths: Iterable[Path]) -> tuple[dict[str, dict[str, list[Path]]], list[Path]]:
    """
    Put together the magnitudes, phases, echoes and SWI of each scan in a folder of converted files.

    Args:
        paths: images of one folder.

    Returns:
        the files of each scan, by its name and by role; and the files that are left, on which only words can tell.

    Example:
        >>> scans, left = take_converted([Path("a_20200101120000_2_e2.nii"), Path("a_20200101120000_3_e2_ph.nii")])
        >>> {name: {role: one.name for role, (one,) in files.items()} for name, files in scans.items()}
        {'a_20200101120000': {'magnitude': 'a_20200101120000_2_e2.nii', 'phase': 'a_20200101120000_3_e2_ph.nii'}}
    """
    paths = list(paths)
    groups: dict[str, list[Converted]] = defaultdict(list)
    for path in paths:
        one = look(path)
        groups[one.scan].append(one)
    _join_numbered(groups)
    _join_described(groups)
    found: dict[str, dict[str, list[Path]]] = {}
    for scan, group in groups.items():
        for run in _runs(group) if any(TAGS.search(_stem(one.path)) or one.sure for one in group) else ():
            files = _roles(scan, run)
            if files:
                found[_name(scan, run, len(groups[scan]) > len(run))] = files
    taken = {path for files in found.values() for one in files.values() for path in one}
    return found, [path for path in paths if path not in taken]


def look(path: Path) -> Converted:
    """
    Read a file's name, and the JSON file beside it.

    Example:
        >>> look(Path("8_gre_e2_ph.nii.gz")).scan, look(Path("P_2.nii.gz")).scan
        ('8_gre', 'P_2')
    """
    stem, about = _stem(path), read_sidecar(path)
    tags = TAGS.search(stem)
    bare = stem[: tags.start()] if tags else stem
    stamped, leading, trailing = STAMPED.search(bare), LEADING.match(bare), TRAILING.search(bare)
    known = str(about.series)
    number, scan, sure = None, bare, False
    if stamped:
        number, scan, sure = int(stamped[2]), bare[: stamped.end(1)], True
    elif trailing and trailing[1] == known:
        number, scan, sure = int(trailing[1]), bare[: trailing.start()], True
    elif leading and (tags or leading[1] == known):
        sure = leading[1] == known
        number, scan = int(leading[1]), bare[leading.end() :] if sure else bare
    role = None
    if about.image_type and sure:
        kind = kind_of(Header(MR_CLASSES[0], about.manufacturer, about.description, about.image_type))
        role = "derived" if kind.why in COMPUTED else KINDS.get(kind.name)
    if tags and tags[0].lower().endswith("_ph"):
        role = "phase"
    return Converted(path, scan, number, role, sure)


def _join_numbered(groups: dict[str, list[Converted]]) -> None:
    """Put phases alone to the magnitudes whose name differs by the number in front: 8_gre_e2 and 9_gre_e2_ph."""
    for scan in [scan for scan, group in groups.items() if {one.role for one in group} == {"phase"}]:
        bare = LEADING.sub("", scan, count=1)
        fitting = [other for other in groups if other != scan and LEADING.sub("", other, count=1) == bare]
        others = [other for other in fitting if all(one.role != "phase" for one in groups[other])]
        if len(others) == 1:
            groups[others[0]] += groups.pop(scan)


def _join_described(groups: dict[str, list[Converted]]) -> None:
    """Put together the series of a study that are named by their descriptions: SWI_Images and Pha_Images."""
    alike: dict[str, list[str]] = defaultdict(list)
    for scan, group in groups.items():
        if all(one.sure for one in group):
            words = [match.group() for match in WORD.finditer(scan) if match.group().lower() not in OF_SERIES]
            alike["_".join(words)].append(scan)
    for bare, scans in alike.items():
        if len(scans) < 2:
            continue
        joined = [
            replace(one, role=one.role or ("derived" if derived(scan) else parse_name(scan).role), scan=bare)
            for scan in scans
            for one in groups[scan]
        ]
        roles = Counter(one.role for one in joined)
        if roles["phase"] and roles["image"] <= 1 and (roles["image"] or roles["magnitude"]):
            for scan in scans:
                del groups[scan]
            groups[bare] = joined


def _runs(group: list[Converted]) -> list[list[Converted]]:
    """The repetitions of a scan, whose series follow each other, where they are whole; else all as one."""
    runs: list[list[Converted]] = [[]]
    seen: set = set()
    for one in sorted(group, key=lambda one: (one.series or 0, one.path.name)):
        key = (one.role, *ECHO.findall(_stem(one.path)))
        if key in seen:
            runs.append([])
            seen = set()
        seen.add(key)
        runs[-1].append(one)
    whole = all({"image"} & roles or {"phase"} < roles for roles in ({one.role for one in run} for run in runs))
    numbers = [{one.series for one in run} for run in runs]
    apart = None not in set().union(*numbers) and len(set().union(*numbers)) == sum(map(len, numbers))
    return runs if whole and apart else [group]


def _roles(scan: str, run: list[Converted]) -> dict[str, list[Path]]:
    """The files of a run by role; none where neither names nor JSON files tell what it is."""
    roles = {one.role for one in run}
    named = parse_name(scan)
    sure = any(one.sure for one in run)
    by_words = without_words(scan) != scan or roles != {None, "phase"}  # else a word stands before a number
    if sure and roles == {"derived"}:
        return {"derived": [one.path for one in run]}
    if (
        named.role not in (None, "t2star")
        and by_words
        and not (sure and ({"image", "phase", "magnitude"} & roles or len(run) > 1))
    ):
        return {}  # words of the name tell it
    if named.role == "t2star" and not sure and "phase" not in roles:
        return {}
    t2star = named.role == "t2star" and not {word.group().lower() for word in WORD.finditer(scan)} & NO_T2STAR
    rest = "magnitude" if "phase" in roles else "t2star" if t2star else None
    if named.role == "image" and "image" not in roles and None in roles:
        rest = "image"
    files: dict[str, list[Path]] = defaultdict(list)
    for one in run:
        alone = one.role == "magnitude" and not ({"phase", "image"} & roles or named.role == "image")
        role = rest if one.role is None or alone else one.role
        files[role or "other"].append(one.path)
    return dict(files) if {"image", "magnitude", "t2star", "phase"} & set(files) else {}


def _name(scan: str, run: list[Converted], several: bool) -> str:
    """What to call a run: its files' common name, else the scan's, with the number of a repetition and a lone echo."""
    stems = [_stem(one.path) for one in run]
    bare = {TAGS.sub("", stem) for stem in stems}
    echoes = {number for stem in stems for number in ECHO.findall(stem)}
    first = min(one.series or 0 for one in run)
    if len(bare) == 1:
        return f"{bare.pop()}_e{echoes.pop()}" if len(echoes) == 1 else bare.pop()
    name = f"{scan}_{first}" if several else scan
    return name if any(one.sure for one in run) or len(echoes) != 1 else f"{name}_e{echoes.pop()}"


def _stem(path: Path) -> str:
    return next((path.name[: -len(s)] for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), path.name)
