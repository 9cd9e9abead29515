"""Options that a person gives."""

import json

import numpy as np
import pytest
from monai.bundle import ConfigParser

from cmb_bundle.scripts.data.labels import LabelConvention
from cmb_bundle.scripts.errors import OptionError
from cmb_bundle.scripts.inference.writers import SubjectWriter
from cmb_bundle.scripts.options import check_flags, threshold_at
from cmb_bundle.scripts.report.handlers import Rival
from cmb_bundle.scripts.training.checkpoint import TrainingCheckpoint

from .helpers import CONFIGS


def test_only_truth_values_are_flags():
    check_flags(one=True, two=False, three=np.bool_(True))
    for value in ("false", "True", 0, None):
        with pytest.raises(OptionError, match=rf"resume is {value!r}; expected a truth value.*True or False"):
            check_flags(one=True, resume=value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda word: LabelConvention(swap_xy=word), "swap_xy of the label convention"),
        (lambda word: LabelConvention(flip_slice=word), "flip_slice of the label convention"),
        (lambda word: SubjectWriter("o", picture=word), "picture"),
        (lambda word: Rival(None, None, None, "3D-FRST", enabled=word), "compare_with_baseline"),
        (lambda word: TrainingCheckpoint("o", "detector", None, {}, resume=word), "resume"),
    ],
)
def test_the_word_false_is_refused(make, name):
    with pytest.raises(OptionError, match=f"{name} is 'false'; expected a truth value"):
        make("false")


def test_threshold_of_an_operating_point():
    points = {"balanced": {"t": 0.4}, "sensitive": {"t": 0.1}}
    assert threshold_at(points, "sensitive", "t") == 0.1
    with pytest.raises(OptionError, match="operating_point is 'sensible'; expected one of balanced, sensitive"):
        threshold_at(points, "sensible", "t")


def test_thresholds_of_the_configured_point(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    config = json.loads((CONFIGS / "inference.json").read_text())
    for point, thresholds in config["operating_points"].items():
        parser = ConfigParser({**config, "operating_point": point})
        assert {name: parser.get_parsed_content(name) for name in thresholds} == thresholds
