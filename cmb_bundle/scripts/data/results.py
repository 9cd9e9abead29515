"""Where the results of a subject lie: in a folder of its own, or among BIDS derivatives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import SubjectError
from .bids import SUBJECT

ENTITIES = re.compile(r"sub-[a-zA-Z0-9]+(_ses-[a-zA-Z0-9]+)?(_(acq|ce|rec|run)-[a-zA-Z0-9]+)*")
"""An id that can begin a file name as it is."""


LONGEST_STEM = 220
"""Of the 255 bytes that a name has; the rest of it has 32 at most, as in _space-orig_desc-cmb_dseg.nii.gz."""


@dataclass(frozen=True)
class Places:
    """
    Files of a subject, whether they are there or not.

    Attributes:
        root: what the names in the manifest are relative to.
        content: what was found and read, JSON.
        manifest: what it was made from, JSON, written last.
        picture: of the findings.
    """

    root: Path
    content: Path
    manifest: Path
    picture: Path


def results_of(output_dir: str | Path, subject: str, layout: str | None = None) -> Places:
    """
    The places of a subject's results.

    Args:
        output_dir: folder of results.
        subject: identifier.
        layout: ``"default"``, ``"bids"``, or None: BIDS where the subject has results in that layout alone.

    Raises:
        SubjectError: the layout is BIDS, and no label can be made of the id.

    Example:
        >>> results_of("out", "sub-01", "default").content.as_posix()
        'out/sub-01/sub-01_cmb.json'
        >>> results_of("out", "sub-01", "bids").manifest.as_posix()
        'out/sub-01/anat/sub-01_desc-cmb_run.json'
    """
    folder = Path(output_dir) / subject
    start = folder / f"{subject}_cmb"
    default = Places(folder, *(start.with_name(start.name + end) for end in (".json", "_run.json", ".png")))
    if layout == "default" or (layout is None and (default.content.is_file() or not has_label(subject))):
        return default
    bids = Places(
        Path(output_dir),
        bids_path(output_dir, subject, "anat", "_desc-cmb_candidates.json"),
        bids_path(output_dir, subject, "anat", "_desc-cmb_run.json"),
        bids_path(output_dir, subject, "figures", "_desc-cmb_dseg.png"),
    )
    return bids if layout == "bids" or bids.content.is_file() else default


def bids_path(output_dir: str | Path, subject: str, datatype: str, end: str) -> Path:
    """
    The path of a file among BIDS derivatives: the subject's entities and the end, in a folder such as anat.

    Example:
        >>> bids_path("out", "sub-01_ses-2", "anat", "_dseg.tsv").as_posix()
        'out/sub-01/ses-2/anat/sub-01_ses-2_dseg.tsv'
    """
    stem = bids_stem(subject)
    return Path(output_dir).joinpath(*filter(None, SUBJECT.match(stem).groups()), datatype, f"{stem}{end}")


def bids_stem(subject: str) -> str:
    """
    What the names of a subject's files begin with: its id, or where it is none of BIDS, its letters and digits.

    Raises:
        SubjectError: there are none, or too many for the name of a file.

    Example:
        >>> bids_stem("sub-01_ses-2_run-1"), bids_stem("P_01 b")
        ('sub-01_ses-2_run-1', 'sub-P01b')
    """
    label = re.sub(r"[^a-zA-Z0-9]", "", subject.removeprefix("sub-"))
    if not label:
        raise SubjectError(f"{subject}: BIDS needs an id with letters or digits (a to z, 0 to 9). Rename the subject.")
    stem = subject if ENTITIES.fullmatch(subject) else f"sub-{label}"
    if len(stem) > LONGEST_STEM:
        raise SubjectError(
            f"{subject[:20]}...: its id, with which files of BIDS derivatives begin, has {len(stem)} letters; expected "
            f"{LONGEST_STEM} at most. Give a shorter one."
        )
    return stem


def has_label(subject: str) -> bool:
    """
    Whether results of a subject can lie among BIDS derivatives.

    Example:
        >>> has_label("P_1"), has_label("sub-한"), has_label("x" * 240)
        (True, False, False)
    """
    try:
        bids_stem(subject)
    except SubjectError:
        return False
    return True
