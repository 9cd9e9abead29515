import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from ignite.engine import Engine
from monai.engines import IterationEvents

from cmb_bundle.scripts.phantom import TINY, make_cohort

# the same examples at each run of continuous integration; others, at each run by hand
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

CONFIGS = Path(__file__).parents[1] / "cmb_bundle" / "configs"
STRIDE_8_STAGES = [
    [[3, 32]],
    [[3, 64]],
    [[3, 128], [1, 64], [3, 128]],
    [[3, 256], [1, 128], [3, 256], [1, 128], [3, 256], [3, 256], [3, 256]],
]
TINY_CONFIG = Path(__file__).parent / "configs" / "tiny.json"


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Five tiny subjects in the layout of the real data set, with a few microbleeds each and none in the last."""
    folder = tmp_path_factory.mktemp("cohort") / "tiny"
    spec = dataclasses.replace(TINY, positive_share=0.8)
    return Path(make_cohort(folder, subjects=5, preset=spec, seed=3, processes=2))


@pytest.fixture(scope="session")
def bundle():
    """Run ``python -m monai.bundle`` in a folder of its own; returns the completed process."""

    def run(run_id, configs, cwd, check=True, **overrides):
        files = [str(CONFIGS / c) if not Path(c).is_absolute() else str(c) for c in configs]
        command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
        for key, value in overrides.items():
            command += [f"--{key.replace('__', '#')}", str(value)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    return run


def run_subjects(handler, outputs, batches=None):
    """Run an engine over subjects as an evaluator with decollation does."""
    batches = batches or [{"subject": f"s{n}"} for n in range(len(outputs))]

    def step(engine, number):
        engine.state.batch, engine.state.output = [batches[number]], [outputs[number]]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    handler.attach(engine)
    engine.run(range(len(outputs)))
