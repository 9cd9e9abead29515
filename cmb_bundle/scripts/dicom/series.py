"""Which studies a folder of DICOM files holds, and which volumes of a study are its SWI, phase and magnitude."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DicomError
from ..geometry import same_grid
from .kinds import T2STAR_ECHO_MS, nearest_echo
from .reader import Volume, dicom_files, is_dicom, read_header, read_volumes, require

KINDS = {"image": "swi", "phase": "phase", "magnitude": "magnitude", "t2star": "magnitude"}
NAMES = {"swi": "SWI", "phase": "phase", "magnitude": "magnitude"}
WORDS = {"image": "SWI", "phase": "phase", "magnitude": "magnitude", "t2star": "T2*-weighted magnitude"}
MINIMUM_SLICES = 3
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
"""SOP class Media Storage Directory, of a DICOMDIR under another name, as in lower case; it is of no study."""

SHORTEST_ECHO_MS = 10.0
"""Magnitude and phase with a shorter echo, as of a field map, are not taken for a susceptibility-weighted scan."""


ADVICE = "Copy or export it again, or remove it; the study that it belongs to may lack a slice."


@dataclass(frozen=True)
class Choice:
    """Volumes by key (image, phase, magnitude, t2star); sentences on how they were chosen, and on what may be wrong."""

    volumes: dict[str, Volume]
    notices: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def find_studies(folder: Path) -> list[dict[str, Any]]:
    """
    Find the studies among the DICOM files at any depth of a folder.

    Args:
        folder: where to look.

    Returns:
        a dict a study, sorted by id, with "subject" and "dicom", the absolute paths of its files. The id is the
        PatientID; where a patient has several studies, with the StudyDate and, for two of a day, the end of the
        StudyInstanceUID. Characters other than letters of any script, digits, ``.``, ``-`` and ``_`` become ``_``; ids
        that would then be the same, in upper or lower case, get a number. A study is what has one StudyInstanceUID and
        one PatientID; its StudyDate is that of most of its files.
        After them, a dict for each file that cannot be read or names no study, with "subject", the word ``file`` and
        the file's path below the folder with spaces between its parts, which is no study's id, and "error".

    Raises:
        DicomError: there are DICOM files and pydicom is missing.
    """
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    dates: dict[tuple[str, str], list[str]] = defaultdict(list)
    failed = []
    for path in dicom_files(folder):
        require("pydicom")  # without it no file can be read, which is no fault of this one
        try:
            uid, patient, date = _study_key(path)
        except DicomError as error:
            name = " ".join(("file", *path.relative_to(folder).parts))
            failed.append({"subject": name, "error": f"{error} {ADVICE}"})
            continue
        if uid:
            files[uid, patient].append(str(path))
            dates[uid, patient].append(date)
    for path in _damaged_beside([path for paths in files.values() for path in paths]):
        name = " ".join(("file", *path.relative_to(folder).parts))
        error = f"{path} is named as the DICOM files beside it and is none: it is empty or damaged. {ADVICE}"
        failed.append({"subject": name, "error": error})
    names = {key: _safe(key[1]) or "study" for key in files}
    # one wrong date must not name a study, and none is needed
    date_of = {key: _safe(Counter(sorted(filter(None, days))).most_common(1)[0][0]) if any(days) else ""
               for key, days in dates.items()}  # fmt: skip
    patients = Counter(name.casefold() for name in names.values())
    same_day = Counter((names[key].casefold(), date_of[key]) for key in files)
    studies, taken = [], set()
    for key in sorted(files, key=lambda key: (names[key], date_of[key], key)):
        name, date = names[key], date_of[key]
        parts = [name]
        if patients[name.casefold()] > 1:
            parts += [date] if date else []
            parts += [_safe(key[0])[-12:]] if same_day[name.casefold(), date] > 1 or not date else []
        studies.append({"subject": _unique("_".join(parts), taken), "dicom": files[key]})
    return sorted(studies, key=lambda study: study["subject"]) + failed


def _unique(name: str, taken: set[str]) -> str:
    """A name that is not among those taken, in upper or lower case, to which it is added: some disks know one case."""
    numbered = (name if n == 1 else f"{name}_{n}" for n in count(1))
    unique = next(one for one in numbered if one.casefold() not in taken)
    taken.add(unique.casefold())
    return unique


def _damaged_beside(files: Sequence[str]) -> list[Path]:
    """The files that are named as DICOM files beside them, but for numbers, and are none: a slice may be lost."""
    there, named = set(files), defaultdict(set)
    for file in files:
        path = Path(file)
        named[path.parent].add(re.sub(r"\d+", "0", path.name))
    return [
        path
        for folder, names in sorted(named.items())
        for path in sorted(folder.iterdir())
        if re.search(r"\d", path.name) and re.sub(r"\d+", "0", path.name) in names and str(path) not in there
        and path.is_file() and not is_dicom(path)
    ]  # fmt: skip


def _study_key(path: Path) -> tuple[str, str, str]:
    """StudyInstanceUID, PatientID and StudyDate of a file; the first is empty for a DICOMDIR."""
    header = read_header(path)
    try:  # pydicom makes a value of the bytes only now
        uid, patient, date = (str(header.get(key) or "") for key in ("StudyInstanceUID", "PatientID", "StudyDate"))
        is_directory = not uid and header.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY_CLASS
    except Exception as error:
        raise DicomError(f"{path} cannot be read as DICOM ({type(error).__name__}: {error}).") from error
    if not uid and not is_directory:
        raise DicomError(f"{path} has no StudyInstanceUID, so that it belongs to no study.")
    if not header.get("SpecificCharacterSet"):
        # read as Latin-1 then; those who forget to name the character set mostly write UTF-8
        with suppress(UnicodeError):
            patient = patient.encode("latin-1").decode("utf-8")
    return uid, patient.strip(), date.strip()


def study_of(source: str | os.PathLike | Sequence[str]) -> list[Volume]:
    """
    Read the volumes of one study.

    Args:
        source: a folder, or a list of files.

    Raises:
        DicomError: there are no DICOM files, they cannot be read, or they are of several studies.
    """
    files = [str(path) for path in dicom_files(Path(source))] if isinstance(source, (str, os.PathLike)) else source
    volumes = read_volumes(files)
    if not volumes:
        raise DicomError(f"there are no DICOM images in {source}")
    where = source if isinstance(source, (str, os.PathLike)) else f"{Path(source[0]).parent} and beside it"
    studies = sorted({volume.study for volume in volumes})
    if len(studies) > 1:
        raise DicomError(
            f"{where} holds {len(studies)} studies, {', '.join(studies[:3])}; expected one. Give each study a folder "
            "of its own, or give the folder above as dataset_dir, in which each study becomes a subject."
        )
    return volumes


def choose_series(
    volumes: Sequence[Volume],
    wanted: Mapping[str, str | int | None] | None = None,
    echo: int = -1,
    keys: Sequence[str] = tuple(KINDS),
) -> Choice:
    """
    Choose the SWI and the phase of a study; where there is no SWI, its magnitude and phase; where there is no phase
    either, its T2*-weighted magnitude: a gradient echo with an echo time of 12 ms or more.

    Args:
        volumes: of one study.
        wanted: for ``image`` (SWI), ``phase``, ``magnitude`` and ``t2star``: a SeriesNumber, or a regular expression
            that is searched for in SeriesDescription (upper or lower case) or is the whole SeriesInstanceUID; false
            leaves the kind out; None, or no entry, chooses by the headers.
        echo: which echo to take of a multi-echo series, by echo time from 0; -1 is the longest, or of a T2*-weighted
            magnitude the one nearest to 20 to 25 ms.
        keys: those to choose among.

    Raises:
        DicomError: there is no SWI, no magnitude with phase and no T2*-weighted magnitude, several series fit, none
            fits what is wanted, or a series that was chosen is no whole volume. The series that are there are listed.
    """
    wanted = dict(wanted or {})
    unknown = sorted(set(wanted) - set(KINDS))
    if unknown:
        raise DicomError(f"dicom_series has the key {unknown[0]!r}; expected are {', '.join(KINDS)}.")
    chooser = _Chooser(volumes, {k: wanted.get(k) if k in keys else False for k in KINDS}, echo)
    chosen = chooser.choose()
    for volume in chosen.values():
        _whole(volume, volumes)
        chooser.say_what_is_left_out_of(volume)
    read = ", ".join(f"{WORDS[key]} from {volume} ({volume.kind.why})" for key, volume in chosen.items())
    warnings = (_fewer_slices(volume, volumes) for volume in chosen.values())
    return Choice(chosen, (f"DICOM: {read}.", *chooser.notices), tuple(filter(None, warnings)))


def series_in(
    volumes: Sequence[Volume], key: str, wanted: Mapping[str, str | int | None] | None = None, echo: int = -1
) -> Volume:
    """
    The volume that a folder stands for which was given as the SWI, the phase or the magnitude.

    Args:
        volumes: what is in the folder.
        key: image, phase or magnitude.
        wanted, echo: as of :func:`choose_series`.

    Returns:
        the only volume of the folder, whatever its header says; else the one of that kind.

    Raises:
        DicomError: there is none or there are several, or it is no whole volume.
    """
    asked = dict(wanted or {}).get(key)
    chooser = _Chooser(volumes, {key: asked if _is_named(asked) else None}, echo)
    candidates = volumes if len(volumes) == 1 else chooser.candidates(key)
    if not candidates:
        raise DicomError(f"no {WORDS[key]} was found.\n{_listing(volumes)}")
    return _whole(chooser.one(key, list(candidates)), volumes)


def use_dicom(
    subject: dict, keys: Iterable[str], wanted: Mapping | None = None, echo: int = -1
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    Replace, in a subject, the study under "dicom" and folders under ``keys`` by the volumes that they stand for.

    Args:
        subject: changed in place; a study's image, phase and magnitude come under these keys.
        keys: those that can hold a folder.
        wanted, echo: as of :func:`choose_series`.

    Returns:
        sentences about what was chosen, and others on what may be wrong with it.

    Raises:
        DicomError: as of :func:`choose_series`, :func:`series_in` and :func:`study_of`.
    """
    for key in list(keys):
        if Path(str(subject[key])).is_dir():
            subject[key] = series_in(study_of(subject[key]), key, wanted, echo)
    study = subject.pop("dicom", None)
    if study is None:
        return (), ()
    choice = choose_series(study_of(study), wanted, echo)
    subject.update(choice.volumes)
    return choice.notices, choice.warnings


def _whole(volume: Volume, volumes: Sequence[Volume]) -> Volume:
    if volume.problem:
        raise DicomError(
            f"{volume} {volume.problem}. Export the series again, whole and alone; or name another in "
            f"dicom_series.\n{_listing(volumes)}"
        )
    return volume


def _fewer_slices(volume: Volume, volumes: Sequence[Volume]) -> str:
    """A sentence where another image of the scan goes on where this one ends: a slice at an end is not missed else."""
    for other in volumes:
        if other.problem or other.kind.name not in ("swi", "phase", "magnitude") or other.echo_ms != volume.echo_ms:
            continue
        more = other.shape[2] - volume.shape[2]
        if more <= 0 or other.shape[:2] != volume.shape[:2]:
            continue
        start = np.linalg.inv(other.affine) @ volume.affine[:, 3]
        first = round(float(start[2]))
        moved = other.affine.copy()
        moved[:, 3] = other.affine @ [0, 0, first, 1]
        if 0 <= first <= more and same_grid(volume.shape, volume.affine, volume.shape, moved):
            return (
                f"{volume} has {volume.shape[2]} slices and {other}, at the same places, {other.shape[2]}: it may lack "
                "some at an end, in which nothing was looked for."
            )
    return ""


class _Chooser:
    def __init__(self, volumes: Sequence[Volume], wanted: Mapping[str, Any], echo: int) -> None:
        self.volumes, self.wanted, self.echo = volumes, wanted, echo
        self.stacks = [v for v in volumes if v.shape[2] >= MINIMUM_SLICES and v.kind.why != "not an MR image"]
        self.notices: list[str] = []

    def choose(self) -> dict[str, Volume]:
        # a magnitude that was asked for comes before an SWI that was not
        named = {key for key in KINDS if _is_named(self.wanted[key])}
        if "t2star" in named and "image" not in named:
            return {"t2star": self.one("t2star", self.candidates("t2star"))}
        swi = [] if "magnitude" in named and "image" not in named else self.candidates("image")
        if swi:
            image = self.one("image", swi)
            phases = self.beside(image, self.candidates("phase"))
            self.leave_out_t2star([image])
            return {"image": image} | ({"phase": self.one("phase", phases)} if phases else {})
        pairs = self.pairs()
        if pairs:
            phase = self.one("phase", list(dict.fromkeys(phase for _, phase in pairs)))
            magnitude = self.one("magnitude", [m for m, p in pairs if p is phase])
            self.leave_out_t2star([magnitude])
            return {"magnitude": magnitude, "phase": phase}
        alone = self.candidates("magnitude") if "magnitude" in named else self.candidates("t2star")
        if alone:
            return {"t2star": self.one("t2star", alone)}
        raise DicomError(
            "no SWI was found, nor a magnitude with its phase, nor a T2*-weighted gradient echo. If one of the series "
            'is the SWI, say so: dicom_series as {"image": "<words of its SeriesDescription, or its '
            'SeriesInstanceUID>"}; if one is T2*-weighted, the same with "t2star".\n' + _listing(self.volumes)
        )

    def leave_out_t2star(self, taken: list[Volume]) -> None:
        """Say which T2*-weighted scans are not read; the magnitude of the SWI itself, on its grid, is none."""
        others = [v for v in self.candidates("t2star") if not any(_same_grid(v, one) for one in taken)]
        if others:
            what = "an SWI" if taken[0].kind.name == "swi" else "a magnitude with its phase"
            self.notices.append(f"{', '.join(map(str, others))} (T2*-weighted) was not read: there is {what}.")

    def say_what_is_left_out_of(self, volume: Volume) -> None:
        """Say that single slices of the series do not fit: one at an end is not missed by the distances."""
        strays = [
            v for v in self.volumes
            if v.series == volume.series and v.kind.name == volume.kind.name and v.shape[2] < MINIMUM_SLICES
        ]  # fmt: skip
        if strays:
            self.notices.append(
                f"{sum(v.shape[2] for v in strays)} slice(s) of {volume} were left out: their orientation, "
                "size, pixel size or echo time differs from the others'."
            )

    def candidates(self, key: str) -> list[Volume]:
        """The volumes that can be of a kind: those asked for, else those surely of it, else those perhaps of it."""
        asked = self.wanted[key]
        if asked is False:
            return []
        if not _is_named(asked):
            fitting = [v for v in self.stacks if v.kind.name == KINDS[key]]
            if key == "t2star":
                fitting = [v for v in fitting if v.gradient_echo and (v.echo_ms or 0) >= T2STAR_ECHO_MS]
            return [v for v in fitting if v.kind.sure] or fitting
        try:
            named = [v for v in self.stacks if _fits(v, asked)]
        except re.error as error:
            raise DicomError(f"dicom_series: {key} {asked!r} is no regular expression ({error}).") from error
        if not named:
            raise DicomError(f"dicom_series: {key} {asked!r} fits none of the series.\n{_listing(self.volumes)}")
        # of a series with magnitude and phase in it, the part that fits; of any other, what it says it is
        return [v for v in named if v.kind.name == KINDS[key]] or named

    def pairs(self) -> list[tuple[Volume, Volume]]:
        """Magnitudes and phases on one grid and with one echo time, of those the echo that is asked for."""
        asked = any(_is_named(self.wanted[key]) for key in ("magnitude", "phase"))
        magnitudes, phases = self.candidates("magnitude"), self.candidates("phase")
        return [
            (magnitude, phase)
            for magnitude, phase in product(magnitudes, phases)
            if _same_grid(magnitude, phase) and magnitude.echo_ms == phase.echo_ms
            and (asked or (phase.echo_ms or SHORTEST_ECHO_MS) >= SHORTEST_ECHO_MS)
        ]  # fmt: skip

    def beside(self, image: Volume, phases: list[Volume]) -> list[Volume]:
        """The phases that can belong to an SWI: on its grid, and of its echo time if any is."""
        if _is_named(self.wanted["phase"]):
            return phases
        on_grid = [v for v in phases if _same_grid(v, image)]
        if phases and not on_grid:
            self.notices.append(f"The phase, {', '.join(map(str, phases))}, is on another grid than the SWI.")
        return [v for v in on_grid if v.echo_ms == image.echo_ms] or on_grid

    def one(self, key: str, candidates: list[Volume]) -> Volume:
        """The only candidate, or the echo that is asked for, of echoes of one series."""
        ordered = sorted(candidates, key=lambda v: v.echo_ms or 0)
        if len(ordered) == 1:
            return self.taken(ordered, 0)
        echoes = {v.echo_ms for v in ordered}
        one_scan = len({v.series for v in ordered}) == 1 or len({v.description for v in ordered}) == 1
        if one_scan and None not in echoes and len(echoes) == len(ordered) and all(
            _same_grid(v, ordered[0]) for v in ordered
        ):  # fmt: skip
            number = len(ordered)
            if not -number <= self.echo < number:
                raise DicomError(
                    f"echo {self.echo} was asked for, but {ordered[0]} has {number}. Set `echo` to a value from 0 to "
                    f"{number - 1}, or to -1 for the longest."
                )
            index = self.echo % number
            if key == "t2star" and self.echo == -1:
                index = nearest_echo([v.echo_ms for v in ordered])
            return self.taken(ordered, index)
        if len({v.series for v in candidates}) == 1:
            raise DicomError(
                f"{candidates[0]} holds {len(candidates)} volumes that can be the {WORDS[key]}, of different "
                "orientation, place or size; expected one. Export each as a series of its own, or keep only the "
                f"files of the one that is meant.\n{_listing(candidates)}"
            )
        raise DicomError(
            f"{len(candidates)} series can be the {WORDS[key]}. Say which, by words of its SeriesDescription "
            f'or by its SeriesInstanceUID: dicom_series as {{"{key}": "{candidates[0].series}"}}.\n'
            + _listing(candidates)
        )

    def taken(self, usable: Sequence[Volume], index: int) -> Volume:
        """One of the echoes that can be read, with a notice that counts all echoes of its scan."""
        one = usable[index]
        alike = [
            v for v in self.stacks
            if v.kind.name == one.kind.name and v.echo_ms is not None
            and (v.series == one.series or (v.description == one.description and _same_grid(v, one)))
        ]  # fmt: skip
        times = sorted({v.echo_ms for v in alike})
        if len(times) > 1 and one.echo_ms in times:
            notice = f"Echo {times.index(one.echo_ms) + 1} of {len(times)} was taken ({one.echo_ms:g} ms)"
            known = any(said.startswith(notice) for said in self.notices)  # of the phase, before that of its magnitude
            if 1 < len(usable) < len(times):
                notice += f"; `echo` counts the {len(usable)} that can be read, and this one is {index}"
            self.notices += [] if known else [f"{notice}."]
        return one


def _is_named(asked: Any) -> bool:
    return isinstance(asked, (str, int)) and not isinstance(asked, bool)


def _fits(volume: Volume, asked: str | int) -> bool:
    if isinstance(asked, int):
        return volume.number == asked
    return bool(re.search(asked, volume.description, re.IGNORECASE) or re.fullmatch(asked, volume.series))


def _same_grid(a: Volume, b: Volume) -> bool:
    return same_grid(a.shape, a.affine, b.shape, b.affine)


def _listing(volumes: Sequence[Volume]) -> str:
    def line(v: Volume) -> str:
        echo = "" if v.echo_ms is None else f", echo {v.echo_ms:g} ms"
        what = f"{NAMES.get(v.kind.name, v.kind.name)}: {v.kind.why}" + (f"; {v.problem}" if v.problem else "")
        return f"  {v}, {' x '.join(map(str, v.shape))}{echo} ({what}), {v.series}"

    return "Series that are there:\n" + "\n".join(map(line, volumes))


def _safe(text: str) -> str:
    """A text fit for the name of a file: letters of any script are kept, and what DICOM allows at most in length."""
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)[:64]).strip("._")
