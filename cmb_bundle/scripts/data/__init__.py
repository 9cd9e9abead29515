"""Which files a data set holds, whose they are, and what the annotator wrote."""

from .datalists import read_datalist
from .datasets import CohortDataset, PatchDataset, SubjectDataset
from .label_files import Table, read_components, read_table
from .labels import LabelConvention, Points, count_points, read_label_map, read_points
from .layouts import complete_subject, find_subjects
from .names import derived, parse_name
from .sheets import label_suffix
from .sidecars import Acquisition, read_sidecar
from .splits import Split, assign_folds, make_datalist

__all__ = [
    "Acquisition",
    "CohortDataset",
    "LabelConvention",
    "PatchDataset",
    "Points",
    "Split",
    "SubjectDataset",
    "Table",
    "assign_folds",
    "complete_subject",
    "count_points",
    "derived",
    "find_subjects",
    "label_suffix",
    "make_datalist",
    "parse_name",
    "read_components",
    "read_datalist",
    "read_label_map",
    "read_points",
    "read_sidecar",
    "read_table",
]
