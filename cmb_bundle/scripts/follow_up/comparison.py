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
        order: by what the scans were put in the order of time.
    """

    patient: str
    scans: tuple[FoundScan, ...]
    registrations: tuple[Registration, ...]
    lesions: tuple[Lesion, ...]
    notices: tuple[str, ...] = ()
    order: str = ""

    @property
    def folder_name(self) -> str:
        """The patient's id as the name of a folder."""
        return folder_of(self.patient)


def folder_of(patient: str) -> str:
    """
    A patient's id as the name of a folder and of files, another for each patient.

    Example:
        >>> folder_of("sub-01"), folder_of("A/B 1"), folder_of("A_B 1"), folder_of("..")
        ('sub-01', 'A%2FB 1', 'A_B 1', '%2E%2E')
    """
    kept = "-_ " if set(patient) <= set(". ") else "-_. "
    return "".join(letter if letter.isalnum() or letter in kept else f"%{ord(letter):02X}" for letter in patient)
