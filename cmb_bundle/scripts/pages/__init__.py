"""Pages on results that need no other file: to review findings with, and on one patient."""

from .review import write_review

__all__ = ["write_review"]
