"""
Find the susceptibility-weighted scans of a BIDS data set: those of each participant and session, with their labels.

The names are taken apart here, in a line, and not by a library: SWI has no suffix in the BIDS schema that ancpbids and
pybids query by, ancpbids reads every JSON and TSV file of a data set first, and pybids and bids2table need a database
or an Arrow library.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SubjectError
from ..files import IMAGE_SUFFIXES, TABLE_SUFFIXES
from .names import ROLES, T2STAR, derived, derived_words

DATATYPES = ("anat", "swi", "fmap")
SUBJECT = re.compile(r"(?P<participant>sub-[^\W_]+)(?:_(?P<session>ses-[^\W_]+))?(?=_|$)")
SAME_SCAN = ("sub", "ses", "part", "echo", "space", "desc", "res")
"""Entities of which the images of one scan can have different values."""
RANKS = ({"image"}, {"magnitude", "phase"}, {"t2star"}, {"magnitude"})
"""What a scan must have, best first."""
FOLDERS = {"derivatives", "sourcedata", "code", "stimuli", "phenotype"}
"""Folders of a data set that hold none of its scans."""


@dataclass(frozen=True)
class BidsName:
    """
    The parts of a BIDS file name.

    Attributes:
        entities: such as ``{"sub": "01", "echo": "2"}``, in their order.
        suffix: such as ``T2starw``.
    """

    entities: dict[str, str]
    suffix: str


def parse_bids(name: str) -> BidsName:
    """
    Take a name apart.

    Args:
        name: without its folder, with or without the ending.

    Example:
        >>> parse_bids("sub-01_ses-2_echo-1_part-mag_MEGRE.nii.gz")
        BidsName(entities={'sub': '01', 'ses': '2', 'echo': '1', 'part': 'mag'}, suffix='MEGRE')
    """
    *entities, suffix = name.partition(".")[0].split("_")
    return BidsName(dict(entity.split("-", 1) for entity in entities if "-" in entity), suffix)


def participant_of(subject: str) -> str:
    """
    The participant whose session a subject's id names; the id itself where it is no such id.

    Example:
        >>> participant_of("sub-01_ses-02"), participant_of("P1_b")
        ('sub-01', 'P1_b')
    """
    match = SUBJECT.match(subject)
    return match["participant"] if match else subject


def find_bids(root: Path) -> dict[str, dict[str, list[Any]]]:
    """
    Find the scans in ``sub-*/[ses-*/]{anat,swi,fmap}/`` and the labels in ``derivatives/label(s)/``.

    Args:
        root: the data set's folder, or that of one of its participants or sessions.

    Returns:
        for each session that has images there, named ``sub-01`` or ``sub-01_ses-02``, its files by role, as
        :func:`~.layouts.find_subjects` has them; the best scan of it (SWI; magnitude and phase; T2*-weighted), and a
        subject for each, named with what tells them apart (``sub-01_run-1``), where several are as good. Under
        "notices" are sentences on what was left out, under "other" the images of a session without any such scan.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for name, paths in _sessions(root):
        found |= _scans_of(name, paths)
    for folder in (root / "derivatives" / one for one in ("label", "labels")):
        for path in sorted(folder.rglob("sub-*")) if found and folder.is_dir() else ():
            if path.name.lower().endswith((*IMAGE_SUFFIXES, *TABLE_SUFFIXES)):
                _add_label(found, path)
    return found


def is_part(folder: Path) -> bool:
    """Whether a folder is that of one participant or one session, with folders such as anat in it."""
    named = SUBJECT.fullmatch(folder.name) or (folder.name.startswith("ses-") and SUBJECT.fullmatch(folder.parent.name))
    inside = [*folder.glob("*"), *folder.glob("ses-*/*")] if named else []
    return any(one.name in DATATYPES and one.is_dir() for one in inside)


def only_labelled(
    subjects: Sequence[dict[str, Any]],
    participant_label: str | int | Sequence[str | int] | None = None,
    session_label: str | int | Sequence[str | int] | None = None,
) -> list[dict[str, Any]]:
    """
    Leave of the subjects those of some participants and sessions, by their ids (``sub-01_ses-02``).

    Args:
        subjects: dicts with "subject".
        participant_label: one or several, with or without ``sub-``; None for all.
        session_label: one or several, with or without ``ses-``; None for all.

    Raises:
        SubjectError: no subject has one of the labels, or none has both.

    Example:
        >>> [one["subject"] for one in only_labelled([{"subject": "sub-01"}, {"subject": "sub-02"}], "02")]
        ['sub-02']
    """
    left = list(subjects)
    for option, key, asked in (
        ("participant_label", "participant", participant_label),
        ("session_label", "session", session_label),
    ):
        if asked is None:
            continue
        listed = re.split(r"[,\s]+", asked.strip()) if isinstance(asked, str) else asked
        listed = listed if isinstance(listed, Sequence) else [listed]
        start = f"{key[:3] if key == 'session' else 'sub'}-"
        wanted = [str(label).removeprefix(start) for label in listed if str(label)]
        matches = {subject["subject"]: SUBJECT.match(subject["subject"]) for subject in subjects}
        labels = {name: (match[key] or "").removeprefix(start) if match else "" for name, match in matches.items()}
        known = sorted({label for label in labels.values() if label})
        unknown = [label for label in wanted if label not in known]
        if unknown or not wanted:
            example = "sub-01" if key == "participant" else "sub-01_ses-02"
            raise SubjectError(
                f"{option}: there is no {', '.join(start + label for label in unknown) or 'label given'} in the data "
                f"set; there are {', '.join(known[:20]) or f'no ids such as {example}'}"
                f"{', ...' if len(known) > 20 else ''}."
            )
        left = [subject for subject in left if labels[subject["subject"]] in wanted]
    if not left:
        raise SubjectError(
            f"participant_label {participant_label} and session_label {session_label}: none of these participants has "
            "one of these sessions. Leave one of the options out to see which there are."
        )
    return left


def _sessions(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """The images in the folders of each session."""
    if is_part(root):
        participants = [root if root.name.startswith("sub-") else root.parent]
    else:
        participants = sorted(root.glob("sub-*"))
    for participant in participants:
        sessions = [root] if root.name.startswith("ses-") else [participant, *sorted(participant.glob("ses-*"))]
        for session in sessions:
            paths = [
                path
                for datatype in DATATYPES
                for path in sorted((session / datatype).glob("*"))
                if path.name.lower().endswith(IMAGE_SUFFIXES) and path.is_file() and not path.name.startswith(".")
            ]
            if paths:
                yield "_".join(dict.fromkeys((participant.name, session.name))), paths


def _role(path: Path, name: BidsName) -> str | None:
    """What an image is; "derived" for what was computed, None for another contrast or a field map."""
    suffix, part = name.suffix.lower(), name.entities.get("part")
    said = (name.entities.get(entity, "").lower() for entity in ("desc", "rec", "acq", "proc"))
    if derived(name.suffix) or any(derived_words([word]) for word in (suffix, *said)) or part in ("real", "imag"):
        return "derived"
    role = ROLES.get(suffix)
    if path.parent.name == "fmap" and role != "image":
        role = None  # magnitude and phase of a field map, whose echoes are too short to show a microbleed
    if suffix in T2STAR or role == "image":
        return {"mag": "magnitude", "phase": "phase"}.get(part, role or "t2star")
    return role


def _scans_of(session: str, paths: list[Path]) -> dict[str, dict[str, list[Any]]]:
    scans: dict[tuple, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    computed, others = [], []
    own = {entity: value for entity, _, value in (part.partition("-") for part in session.split("_"))}
    for path in paths:
        name = parse_bids(path.name)
        if any(name.entities.get(entity, value) != value for entity, value in own.items()):
            return {session: {"astray": [path]}}
        role = _role(path, name)
        if role in (None, "derived"):
            (others if role is None else computed).append(path)
        else:
            scans[tuple(item for item in name.entities.items() if item[0] not in SAME_SCAN)][role].append(path)
    best = next((key for key in RANKS if any(key <= set(files) for files in scans.values())), None)
    if best is None:
        files = {role: paths for one in scans.values() for role, paths in one.items()}
        return {
            session: {**files, **({"derived": computed} if computed else {}), **({"other": others} if others else {})}
        }
    fitting = {key: _one_form(files) for key, files in scans.items() if best <= set(files)}
    usual = {key: files for key, files in fitting.items() if best == {"t2star"} and _is_t2starw(files["t2star"])}
    chosen = usual or fitting
    left = {key: files for key, files in scans.items() if key not in chosen}
    notices = []
    loose = [key for key, files in left.items() if set(files) == {"phase"} and _differ(key, chosen) == {"acq"}]
    if len(chosen) == len(loose) == 1:
        (files,) = chosen.values()
        if "phase" not in files:  # of an SWI with another acq-; grids are compared later
            files["phase"] = left.pop(loose[0])["phase"]
            scan = files[min(best)]
            notices.append(f"The phase {_names(files['phase'])} was taken with {_names(scan)}, whose acq- differs.")
    alone = [key for key, files in left.items() if set(files) == {"phase"}]
    for key in alone:
        own = sorted(f"{entity}-" for entity in _differ(key, chosen))
        of_none = f"the {own[0]} is that" if len(own) == 1 else f"{' and '.join(own)} are those"
        notices.append(_not_read(left.pop(key)["phase"], f"{of_none} of no scan that was read."))
    if left:
        paths = [path for files in left.values() for one in files.values() for path in one]
        notices.append(_not_read(paths, "there is a better scan of the session."))
    found = {}
    for key, files in chosen.items():
        end = "".join(f"_{entity}-{value}" for entity, value in key) if len(chosen) > 1 else ""
        more = {"derived": computed} if computed else {}
        found[session + end] = {**files, **more, **({"notices": notices} if notices else {})}
    return found


def _differ(key: tuple, others: Iterable[tuple]) -> set[str]:
    """The entities in which a scan differs from the one of others that is most like it."""
    return min(({entity for entity, _ in set(key) ^ set(other)} for other in others), key=len)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _not_read(paths: list[Path], why: str) -> str:
    return f"{_names(paths)} {'was' if len(paths) == 1 else 'were'} not read: {why}"


def _one_form(files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Without what was made of an image that is there, too: desc-masked beside the image; echoes beside a T2starw."""
    kept = {}
    for role, paths in files.items():
        names = {path: parse_bids(path.name) for path in paths}
        plain = [path for path in paths if not {"space", "desc", "res"} & set(names[path].entities)] or paths
        if role == "t2star":
            plain = [path for path in plain if _is_t2starw([path])] or plain
        kept[role] = plain
    return kept


def _is_t2starw(paths: list[Path]) -> bool:
    return any(parse_bids(path.name).suffix.lower().startswith("t2s") for path in paths)


def _add_label(found: dict, path: Path) -> None:
    """Give a label to the subject whose participant, session and other entities its name has."""
    entities = parse_bids(path.name).entities
    entities = [f"{key}-{value}" for key, value in entities.items()]
    owners = [name for name in found if set(name.split("_")) <= set(entities)]
    session = [e for e in entities if e.startswith("ses-")]
    owners = [name for name in owners if not session or session[0] in name.split("_")] if owners else []
    name = max(owners, key=len) if owners else "_".join(e for e in entities if e.startswith(("sub-", "ses-")))
    found.setdefault(name, {}).setdefault("label", []).append(path)
