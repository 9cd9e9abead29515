import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import settings

from cmb_bundle.scripts.phantom import TINY, make_cohort

from .helpers import CONFIGS
from .helpers.processes import run_module

# the same examples at each run of continuous integration; others, at each run by hand
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Five tiny subjects in the layout of the real data set, with a few microbleeds each and none in the last."""
    folder = tmp_path_factory.mktemp("cohort") / "tiny"
    spec = dataclasses.replace(TINY, positive_share=0.8)
    return Path(make_cohort(folder, subjects=5, preset=spec, seed=3, processes=1))


@pytest.fixture(scope="session")
def bundle():
    """Run ``python -m monai.bundle`` in a folder of its own; returns the completed process."""

    def run(run_id, configs, cwd, check=True, **overrides):
        files = [str(CONFIGS / c) if not Path(c).is_absolute() else str(c) for c in configs]
        command = ["monai.bundle", "run", run_id, "--config_file", str(files)]
        for key, value in overrides.items():
            command += [f"--{key.replace('__', '#')}", str(value)]
        done = run_module(command, cwd)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    return run
