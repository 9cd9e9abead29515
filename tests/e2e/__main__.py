"""``python -m tests.e2e --python ENV/bin/python``: real servers, from the first request to the retrained weights."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

from cmb_bundle.scripts.phantom import SMALL, make_cohort

from . import dicomweb, nifti

PARTS = {"nifti": nifti.run, "dicomweb": dicomweb.run}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of the environment with monailabel")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cohort", type=Path, help="phantoms made before; by default they are made")
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept; by default a temporary one")
    arguments = parser.parse_args()
    python = arguments.python.absolute()
    folder = (arguments.keep or Path(tempfile.mkdtemp(prefix="cmb-e2e-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        cohort = arguments.cohort
        if cohort is None:
            spec = dataclasses.replace(SMALL, positive_share=0.5)
            cohort = Path(make_cohort(folder / "cohort", subjects=6, preset=spec, seed=5))
        for name in arguments.parts:
            start = time.monotonic()
            work = folder / name
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            PARTS[name](python, cohort.absolute(), work)
            print(f"{name}: passed in {time.monotonic() - start:.0f} s", flush=True)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
