"""From a scan to findings on its own grid, and their files."""

from .acceleration import Accelerated, MaxPool, accelerate
from .api import Detection, Detector, Finding, JudgedCandidate, detect
from .bids_output import BidsOutput
from .cluster import ClusterLoader
from .cohort_table import CohortTable, subjects_table
from .evaluator import CohortEvaluator, collate_subject, prepare_volume, raise_failures
from .findings import Findingsd, KeepInputGridd, background, to_file_grid
from .former import FormerResults
from .inferers import MixedPrecisionInferer, TwoStageInferer
from .phase_sign import ChooseSignd
from .pictures import draw_findings
from .radial_symmetry import RadialSymmetryInferer, radial_symmetry
from .writers import SubjectWriter, findings_table, write_findings

__all__ = [
    "Accelerated",
    "BidsOutput",
    "ChooseSignd",
    "ClusterLoader",
    "CohortEvaluator",
    "CohortTable",
    "Detection",
    "Detector",
    "Finding",
    "Findingsd",
    "FormerResults",
    "JudgedCandidate",
    "KeepInputGridd",
    "MaxPool",
    "MixedPrecisionInferer",
    "RadialSymmetryInferer",
    "SubjectWriter",
    "TwoStageInferer",
    "accelerate",
    "background",
    "collate_subject",
    "detect",
    "draw_findings",
    "findings_table",
    "prepare_volume",
    "radial_symmetry",
    "raise_failures",
    "subjects_table",
    "to_file_grid",
    "write_findings",
]
