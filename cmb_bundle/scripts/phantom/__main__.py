"""Command line: `python -m cmb_bundle.scripts.phantom make_cohort DIR` or `... contact_sheet OUT.png`."""

import fire

from .cohort import default_cohort, make_cohort
from .sheet import contact_sheet

if __name__ == "__main__":
    fire.Fire({"contact_sheet": contact_sheet, "default_cohort": default_cohort, "make_cohort": make_cohort})
