"""Agreement of counts, by hand and against pingouin and scikit-learn."""

import json

import numpy as np
import pandas as pd
import pingouin
import pytest
from sklearn.metrics import cohen_kappa_score

from cmb_bundle.scripts.evaluation.agreement import (
    band_confusion,
    band_names,
    bland_altman,
    count_agreement,
    intraclass_correlation,
    weighted_kappa,
)


def counts_of_two_raters(seed):
    rng = np.random.default_rng(seed)
    truth = rng.negative_binomial(1, 0.2, size=12)
    return truth, np.maximum(truth + rng.integers(-2, 4, size=12), 0)


def test_icc_by_hand():
    # rows (1, 2), (3, 3), (5, 7): means 1.5, 3, 6, grand 3.5; raters 3 and 4
    # MSR = 2 (4 + 0.25 + 6.25) / 2 = 10.5; MSC = 3 (0.25 + 0.25) / 1 = 1.5; SSE = 23.5 - 21 - 1.5 = 1, MSE = 0.5
    expected = (10.5 - 0.5) / (10.5 + 0.5 + 2 * (1.5 - 0.5) / 3)
    assert intraclass_correlation([1, 3, 5], [2, 3, 7]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_icc_is_that_of_pingouin(seed):
    truth, counted = counts_of_two_raters(seed)
    subjects = np.arange(12)
    table = pd.DataFrame(
        {"subject": np.tile(subjects, 2), "rater": np.repeat(["a", "b"], 12), "n": np.r_[truth, counted]}
    )
    result = pingouin.intraclass_corr(table, targets="subject", raters="rater", ratings="n")
    row = result[result["Type"].isin(["ICC2", "ICC(A,1)"])]
    assert len(row) == 1
    assert intraclass_correlation(truth, counted) == pytest.approx(float(row["ICC"].iloc[0]), abs=1e-9)


def test_icc_of_perfect_agreement_and_of_a_constant_shift():
    assert intraclass_correlation([0, 1, 5], [0, 1, 5]) == 1
    # absolute agreement: a shift counts as error, unlike in a correlation
    assert intraclass_correlation([0, 1, 5], [10, 11, 15]) < 0.2


@pytest.mark.parametrize(("truth", "counted"), [([], []), ([3], [4]), ([0, 0, 0], [0, 0, 0]), ([2, 2], [2, 2])])
def test_icc_without_spread_is_not_defined(truth, counted):
    assert intraclass_correlation(truth, counted) is None


def test_bland_altman_by_hand():
    # differences 1, 0, 2: mean 1, sd 1
    found = bland_altman([1, 3, 5], [2, 3, 7])
    assert found == pytest.approx({"bias": 1, "sd": 1, "lower": 1 - 1.96, "upper": 1 + 1.96})
    assert bland_altman([2], [5]) == {"bias": 3, "sd": None, "lower": None, "upper": None}
    assert bland_altman([], [])["bias"] is None


def test_bands_are_at_most_4_then_5_to_9_then_10_and_more():
    assert band_names() == ["<=4", "5-9", ">=10"]
    found = band_confusion([0, 4, 5, 9, 10, 83], [4, 5, 5, 10, 9, 10])
    assert found.tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    truth, counted = counts_of_two_raters(seed)
    bands = [np.digitize(c, [5, 10]) for c in (truth, counted)]
    expected = cohen_kappa_score(*bands, weights="linear", labels=[0, 1, 2])
    assert weighted_kappa(band_confusion(truth, counted)) == pytest.approx(expected)


def test_kappa_by_hand_and_where_it_is_not_defined():
    # observed disagreement 1 (one step, one of 4); expected (2*1*1 + 2*3*1) / 4 = 2 of the pairs of margins
    confusion = np.array([[2, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert weighted_kappa(confusion) == pytest.approx(1 - 1 / ((2 * 1 + 2 * 3) / 4))
    assert weighted_kappa(np.diag([5, 0, 0])) is None
    assert weighted_kappa(np.zeros((3, 3))) is None


def test_everything_goes_into_json_without_subjects():
    nothing = count_agreement([], [])
    assert nothing["bands"]["accuracy"] is None
    json.dumps(nothing, allow_nan=False)
    some = count_agreement([0, 4, 12], [1, 5, 12])
    assert some["bands"]["accuracy"] == pytest.approx(2 / 3)
    assert some["bands"]["confusion"] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
