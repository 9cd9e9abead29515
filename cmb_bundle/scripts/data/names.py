"""What a file's name says: whose it is, what it shows, and whether it is a scan at all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

ROLES = {
    **dict.fromkeys(("swi", "swip", "swan", "eswan", "swan2", "venobold", "fsbb", "3dswi", "swi3d"), "image"),
    "phase": "phase",
    "pha": "phase",
    "ph": "phase",
    "magnitude": "magnitude",
    "mag": "magnitude",
    "label": "label",
    "labels": "label",
}
T2STAR = ("t2starw", "t2star", "t2sw", "t2s", "gre", "megre")
"""Words of a T2*-weighted magnitude. They count only where no word of ``ROLES`` is: ``part-phase_GRE`` is a phase."""

NO_T2STAR = {"t1", "t1w", "mprage", "tof", "field", "fieldmap", "mapping", "localizer", "scout"}
"""Words of other gradient echoes: with one of them, a word of ``T2STAR`` does not count."""

DERIVED = {
    **dict.fromkeys(("mip", "minip", "mnip", "mpr", "projection", "minimum"), "a projection"),
    **dict.fromkeys(("qsm", "chimap"), "a susceptibility map"),
    **dict.fromkeys(("r2star", "r2s", "r2starmap", "t2starmap", "t2smap", "r2map", "t2map"), "a relaxation map"),
    **dict.fromkeys(("b0", "b0map", "fieldmap"), "a field map"),
    **dict.fromkeys(("mask", "bet", "seg"), "a mask or what a mask left"),
}
"""Words of what was computed from a scan, and what it is."""

PROJECTION = re.compile(r"((min|max|m|mn)ip|mpr)\d*(mm)?|projections")
"""The first of these with the thickness behind them, as in swi_mIP8 and swi_minip8mm."""

PART_OF_COMPLEX = re.compile(r"_(real|imaginary)[a-z]?$", re.IGNORECASE)
"""How dcm2niix ends the names of the parts of a complex image, which GE writes beside the scan itself."""

MADE_BESIDES = re.compile(r"_(Eq_\d+|Tilt_\d+|ROI\d+)$")
"""How dcm2niix ends the names of what it interpolates from a scan, to equal distances or upright, and of overlays."""

OTHER_CONTRAST = {"t1w", "t2w", "flair", "mprage", "mp2rage"}
"""Words of another contrast, wherever they stand but at the beginning, where they may be initials or a study's name."""
ON_ITS_GRID = re.compile(
    r"[-_. ]((in|to|into|onto)|(t1|t1w|t2|t2w|flair|mprage|tof|dwi|adc|ct|pet)[-_. ]?(2|reg|coreg|registered))[-_. ]?"
    r"(2|to|in)?[-_. ]?(swi|swan|swip|mag|magnitude|t2star|t2s|gre)([-_. ](space|grid))?$",
    re.IGNORECASE,
)
"""The end of the name of what was brought to the grid of a scan: T1_to_SWI, atlas_in_SWI_space, FLAIR_reg_SWI."""

PARCELLATION = ("_dseg", "_aparc+aseg", "_aparc.DKTatlas+aseg", "_wmparc", "_aseg", "_synthseg")
"""How the name of a parcellation of the brain ends, after the scan's or the subject's name and before the suffix."""

SEPARATORS = "_-. "
WORD = re.compile(r"[^\W_]+")
BIDS = re.compile(r"sub-[^\W_]+(?=_|$)", re.IGNORECASE)
INITIALS = re.compile(r"(phase|pha|ph|magnitude|mag)(?=[-_. ])", re.IGNORECASE)
"""Words of a kind that may be a site's name or a person's initials where they begin a name."""
OF_THE_IMAGE = re.compile(r"_(space|desc|part)-[^\W_]+", re.IGNORECASE)
"""Entities of a BIDS name that tell images of one scan apart."""
GE_PHASE = re.compile(r"[-_. ]filt[-_. ]pha(se)?([-_. ]e?swan2?)?$", re.IGNORECASE)
"""The end of the name of GE's filtered phase, whose last word is that of the image: P1_FILT_PHA_SWAN."""
CHALLENGE_LABEL = re.compile(r"_space-[^\W_]+(_desc-[^\W_]+)?_CMB$")
"""
The end of a label map's name in the data of the VALDO challenge: sub-101_space-T2S_CMB. Results of this bundle are
named <id>_cmb, in small letters.
"""


@dataclass(frozen=True)
class ParsedName:
    """
    The parts of a file's name, without its suffix.

    Attributes:
        subject: the name without its role word; the whole name where there is no such word.
        role: what the file is, one of the values of ``ROLES``, or t2star; None where no word says so.
        word: the role word in lower case, such as "pha"; empty where there is none.
    """

    subject: str
    role: str | None
    word: str


def parse_name(stem: str) -> ParsedName:
    """
    Read a name by the last of its words that names a role.

    Args:
        stem: a file's name without its suffix.

    Example:
        >>> parse_name("01_SWI_phase")
        ParsedName(subject='01', role='phase', word='phase')
        >>> parse_name("sub-101_space-T2S_desc-masked_T2S")
        ParsedName(subject='sub-101', role='t2star', word='t2s')
        >>> parse_name("MAG_07_gre"), parse_name("mag_gre_07").role
        (ParsedName(subject='MAG_07', role='t2star', word='gre'), 'magnitude')
        >>> parse_name("sub-3_part-mag_GRE")
        ParsedName(subject='sub-3', role='magnitude', word='mag')
        >>> parse_name("sub-101_space-T2S_desc-masked_T1").role is None
        True
        >>> parse_name("sub-101_space-T2S_CMB")
        ParsedName(subject='sub-101', role='label', word='cmb')
        >>> parse_name("P1_FILT_PHA_SWAN")
        ParsedName(subject='P1', role='phase', word='pha')
    """
    stem = GE_PHASE.sub("_pha", stem)
    label = CHALLENGE_LABEL.search(stem)
    if label:
        return ParsedName(stem[: label.start()], "label", "cmb")
    bids = BIDS.match(stem)
    plain = re.sub(r"_(space|desc)-[^\W_]+", "", stem, flags=re.IGNORECASE)
    found = list(WORD.finditer(plain))
    roles = [match for match in found if match.group().lower() in ROLES]
    words = [match.group().lower() for match in found]
    if roles == found[:1] and INITIALS.match(stem) and set(words[2:]) & set(T2STAR) and words[1] not in T2STAR:
        roles = []  # initials, and the word of the kind stands further back
    if roles:
        word = roles[-1].group().lower()
        part = re.search(r"_part-(mag|phase)(?=_|$)", plain, re.IGNORECASE)
        if bids and part:
            return ParsedName(without_words(OF_THE_IMAGE.sub("", stem), (*ROLES, *T2STAR)), ROLES[word], word)
        found = list(WORD.finditer(stem))
        last = [match for match in found if match.group().lower() in ROLES][-1]
        return ParsedName(_without(stem, last.end(), ROLES), ROLES[word], word)
    words = {match.group().lower() for match in found}
    weak = [match for match in found if match.group().lower() in T2STAR]
    if not weak or words & NO_T2STAR:
        return ParsedName(stem, None, "")
    name = OF_THE_IMAGE.sub("", plain) if bids else plain
    last = [match for match in WORD.finditer(name) if match.group().lower() in T2STAR]
    if not last:
        return ParsedName(stem, None, "")
    return ParsedName(_without(name, last[-1].end(), T2STAR), "t2star", last[-1].group().lower())


def leading_initials(stems: Iterable[str]) -> set[str]:
    """
    The names that begin with a word such as mag and have no other word of a kind, where no other name is of the same
    subject: MAG_001 without PHASE_001 beside it.

    Args:
        stems: names of one folder without their suffixes.

    Example:
        >>> leading_initials(["MAG_001", "mag_2", "phase_2", "Ph_3_swi"])
        {'MAG_001'}
    """
    named = {stem: parse_name(stem) for stem in stems}
    roles: dict[str, set] = defaultdict(set)
    for name in named.values():
        roles[name.subject].add(name.role)
    found = set()
    for stem, name in named.items():
        words = [word.lower() for word in WORD.findall(stem)]
        kinds = [word for word in words if word in ROLES or word in T2STAR]
        if INITIALS.match(stem) and kinds == words[:1] and len(roles[name.subject] - {None}) < 2:
            found.add(stem)
    return found


def derived(stem: str) -> str | None:
    """
    What a file is that was computed from a scan, by the words of its name; None for a scan.

    Example:
        >>> derived("P1_SWI_brain_mask"), derived("P1_swi"), derived("sub-101_space-T2S_desc-masked_T2S")
        ('a mask or what a mask left', None, None)
        >>> derived("P1_swi_min_ip"), derived("P1_swi_mIP8"), derived("MIP01_swi")
        ('a projection', 'a projection', None)
        >>> derived("GE_Ax_SWAN_802_real"), derived("Real_swi")
        ('a real or imaginary part', None)
        >>> derived("P1_T1_to_SWI"), derived("P1_SWI_FLAIR"), derived("P1_T1_SWI")
        ('another contrast', 'another contrast', None)
    """
    if PART_OF_COMPLEX.search(stem):
        return "a real or imaginary part"
    if MADE_BESIDES.search(stem):
        return "interpolated from a scan, or its overlay"
    start = BIDS.match(stem)
    words = [match.group().lower() for match in WORD.finditer(stem[start.end() :] if start else stem)]
    if not start and (ON_ITS_GRID.search(f"_{stem}") or OTHER_CONTRAST & set(words[1:])):
        return "another contrast"
    return derived_words(words, start=bool(start) or stem[:1] in SEPARATORS)


def derived_words(words: Sequence[str], start: bool = True) -> str | None:
    """
    What words in lower case say of something that was computed; None where they do not say that it was.

    Args:
        words: of a name.
        start: whether the first may be followed by a number: MIP01 at the beginning of a name is a person or a site.

    Example:
        >>> derived_words(["swi", "min", "ip"]), derived_words(["mip01", "swi"], start=False)
        ('a projection', None)
    """
    known = next((DERIVED[word] for word in words if word in DERIVED), None)
    later = words if start else words[1:]
    projection = any(map(PROJECTION.fullmatch, later)) or ("min", "ip") in pairwise(words)
    return known or (DERIVED["mip"] if projection else None)


def without_words(stem: str, words=tuple(ROLES)) -> str:
    """
    Remove the role words at the end of a name.

    Example:
        >>> without_words("01_swi_phase"), without_words("01_T2S", T2STAR)
        ('01', '01')
    """
    found = list(WORD.finditer(stem))
    while found and found[-1].group().lower() in words:
        stem = stem[: found.pop().start()].rstrip(SEPARATORS)
    return stem


def _without(stem: str, end: int, words) -> str:
    """A name without the role words that stand together before ``end``: SWI_phase_01 is of 01, as is 01_SWI_phase."""
    parts = (without_words(stem[:end], words), stem[end:].lstrip(SEPARATORS))
    return "_".join(part for part in parts if part)
