"""The follow-up of one patient, as it is written and drawn."""

from __future__ import annotations

from dataclasses import dataclass

from .lesions import Lesion
from .registration import Registration
from .scans import FoundScan

STATEMENT = (
    "These are a program's counts, which no reader has checked, and no diagnosis. Its weights learned from simulated "
    "scans, and it was not validated on patients."
)


@dataclass(frozen=True)
class Comparison:
    """
    The follow-up of one patient.

    Attributes:
        patient: id.
        scans: in the order of time.
        registrations: of each scan to the first.
        lesions: over all scans.
        notices: sentences on what was left out or is not known.
    """

    patient: str
    scans: tuple[FoundScan, ...]
    registrations: tuple[Registration, ...]
    lesions: tuple[Lesion, ...]
    notices: tuple[str, ...] = ()

    @property
    def folder_name(self) -> str:
        """The patient's id as the name of a folder."""
        return folder_of(self.patient)


def folder_of(patient: str) -> str:
    """
    A patient's id as the name of a folder and of files.

    Example:
        >>> folder_of("sub-01"), folder_of("A/B 1")
        ('sub-01', 'A_B_1')
    """
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in patient).strip(".") or "_"
