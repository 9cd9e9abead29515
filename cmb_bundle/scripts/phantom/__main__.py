"""Command line: `python -m cmb_bundle.scripts.phantom make_cohort DIR`, `... contact_sheet OUT.png`, ..."""

import fire

from .cohort import default_cohort, make_cohort
from .sheet import contact_sheet
from .sheet_kinds import kinds_sheet

if __name__ == "__main__":
    commands = (contact_sheet, default_cohort, kinds_sheet, make_cohort)
    fire.Fire({command.__name__: command for command in commands})
