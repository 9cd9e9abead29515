"""In which region of the brain a finding lies, and the summary of a scan."""

from .mars import CATEGORIES, CATEGORY, REGIONS, freesurfer_numbers, region_of_name
from .parcellation import check_covers, divide_white_matter, find_parcellation, read_parcellation
from .pictures import draw_regions
from .region_map import Place, RegionMap
from .registration import Registration, register
from .summary import band, pattern, possible_patterns, summarise, summary_row
from .table import RegionsTable
from .template import deep_of, lobe_of, template_regions
from .transforms import FindParcellationd, Regionsd

__all__ = [
    "CATEGORIES",
    "CATEGORY",
    "REGIONS",
    "FindParcellationd",
    "Place",
    "RegionMap",
    "RegionsTable",
    "Regionsd",
    "Registration",
    "band",
    "check_covers",
    "deep_of",
    "divide_white_matter",
    "draw_regions",
    "find_parcellation",
    "freesurfer_numbers",
    "lobe_of",
    "pattern",
    "possible_patterns",
    "read_parcellation",
    "region_of_name",
    "register",
    "summarise",
    "summary_row",
    "template_regions",
]
