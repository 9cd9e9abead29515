"""Options that a person gives."""

import json

import numpy as np
import pytest
from monai.bundle import ConfigParser

from cmb_bundle.scripts.data.labels import LabelConvention
from cmb_bundle.scripts.errors import OptionError
from cmb_bundle.scripts.inference.writers import SubjectWriter
from cmb_bundle.scripts.options import Thresholds, check_flags
from cmb_bundle.scripts.report.handlers import ComparisonSystem
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
        (lambda word: ComparisonSystem(None, None, None, "3D-FRST", enabled=word), "compare_with_baseline"),
        (lambda word: TrainingCheckpoint("o", "detector", None, {}, resume=word), "resume"),
    ],
)
def test_the_word_false_is_refused(make, name):
    with pytest.raises(OptionError, match=f"{name} is 'false'; expected a truth value"):
        make("false")


POINTS = {
    "balanced": {"candidate_threshold": 0.3, "probability_threshold": 0.5},
    "sensitive": {"candidate_threshold": 0.1, "probability_threshold": 0.2},
    "specific": {"candidate_threshold": 0.3, "probability_threshold": 0.8},
}


def test_thresholds_of_an_operating_point():
    thresholds = Thresholds(POINTS, "sensitive")
    assert (thresholds.candidate, thresholds.probability) == (0.1, 0.2)
    assert thresholds.point_names == ["sensitive", "balanced", "specific"]
    thresholds = Thresholds(POINTS, "sensitive", candidate_threshold=0)
    assert (thresholds.candidate, thresholds.probability) == (0, 0.2)
    with pytest.raises(OptionError, match="operating_point is 'sensible'; expected one of balanced, sensitive"):
        Thresholds(POINTS, "sensible")


@pytest.mark.parametrize("value", [1.5, "low", True, float("nan")])
def test_a_threshold_is_a_number_from_0_to_1(value):
    with pytest.raises(OptionError, match=r"^probability_threshold is .*; expected a number from 0 to 1\.$"):
        Thresholds(POINTS, "balanced", probability_threshold=value)
    with pytest.raises(OptionError, match=r"^candidate_threshold is "):
        Thresholds({"one": {"candidate_threshold": value, "probability_threshold": 0.5}}, "one")


def test_thresholds_of_the_configured_point(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    config = json.loads((CONFIGS / "inference.json").read_text())
    for point, expected in config["operating_points"].items():
        thresholds = ConfigParser({**config, "operating_point": point}).get_parsed_content("thresholds")
        assert thresholds.candidate == expected["candidate_threshold"]
        assert thresholds.probability == expected["probability_threshold"]


@pytest.mark.parametrize(
    ("point", "threshold", "expected"),
    [
        (["balanced", "sensitive"], 0.5, 0.5),
        ("sensitive", 0.5, 0.2),
        ("sensitive", 0.9, 0.9),
        ("balanced", "0.9", 0.9),
        ("specific", 0.5, 0.8),
    ],
)
def test_a_threshold_that_a_request_changed_goes_before_its_operating_point(point, threshold, expected):
    request = {"operating_point": point, "candidate_threshold": 0.25, "probability_threshold": threshold}
    requested = Thresholds(POINTS, "balanced").of_request(request)
    assert (requested.candidate, requested.probability) == (0.25, expected)


def test_a_request_keeps_thresholds_that_were_given_in_place_of_those_of_the_point():
    own = Thresholds(POINTS, "balanced", candidate_threshold=0.6)
    request = {"operating_point": "balanced", "candidate_threshold": 0.6, "probability_threshold": 0.5}
    assert own.of_request(request).candidate == 0.6
    assert own.of_request(request | {"operating_point": "sensitive"}).candidate == 0.1
    with pytest.raises(OptionError, match="operating_point is 'strict'; expected one of balanced, sensitive, specific"):
        own.of_request(request | {"operating_point": "strict"})
