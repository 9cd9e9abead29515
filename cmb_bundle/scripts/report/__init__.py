"""Report an evaluation in words, tables and pictures."""

from .cohort import CohortTables, cohort_page, outliers, write_cohort
from .evidence import make_evidence
from .figures import draw_bland_altman, draw_froc, draw_strata
from .handlers import ComparisonSystem, EvaluationReport, cut_crop, record_subject
from .page import Numbers, kind_of_scans, write_page
from .published import Published
from .raters import compare_raters
from .report import print_scores, write_evaluation
from .tables import classes, false_positives, froc_points, per_lesion, per_subject

__all__ = [
    "CohortTables",
    "ComparisonSystem",
    "EvaluationReport",
    "Numbers",
    "Published",
    "classes",
    "cohort_page",
    "compare_raters",
    "cut_crop",
    "draw_bland_altman",
    "draw_froc",
    "draw_strata",
    "false_positives",
    "froc_points",
    "kind_of_scans",
    "make_evidence",
    "outliers",
    "per_lesion",
    "per_subject",
    "print_scores",
    "record_subject",
    "write_cohort",
    "write_evaluation",
    "write_page",
]
