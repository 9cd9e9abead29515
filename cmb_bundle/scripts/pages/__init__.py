"""Pages on results that need no other file: to review findings with, and on one patient."""

from .patient import write_patient_page
from .review import write_review

__all__ = ["write_patient_page", "write_review"]
