"""Resamples of subjects: the fast formulas against the plain ones on the subjects drawn, and the intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmb_bundle.scripts.evaluation.bootstrap import (
    bootstrap,
    percentile_interval,
    resample_weights,
    resampled_median,
    resampled_scores,
)
from cmb_bundle.scripts.evaluation.counts import Counts
from cmb_bundle.scripts.evaluation.metrics import stage_scores


@st.composite
def counted(draw):
    """Counts of up to six subjects."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        found, missed = draw(st.integers(0, 12)), draw(st.integers(0, 3))
        false, again = draw(st.integers(0, 6)), draw(st.integers(0, 2))
        free = found + missed == 0 and draw(st.booleans())
        rows.append((found + missed, found + false + again, found, false, again, free))
    columns = np.array(rows, dtype=int).T
    return Counts(*columns[:5], columns[5].astype(bool))


@settings(max_examples=150, deadline=None)
@given(counted(), st.data())
def test_scores_of_a_resample_are_those_of_the_repeated_subjects(counts, data):
    n = len(counts)
    drawn = data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    weights = np.array([np.bincount(drawn, minlength=n), np.ones(n, dtype=int)])
    resampled = resampled_scores(counts, weights)
    for row, group in enumerate((counts.take(np.array(drawn)), counts)):
        compare(resampled, stage_scores(group), row)


def compare(resampled, plain, row):
    for name, values in resampled.items():
        if isinstance(values, dict):
            compare(values, plain[name], row)
        else:
            expected = np.nan if plain[name] is None else plain[name]
            assert values[row] == pytest.approx(expected, abs=1e-7, nan_ok=True), name


def test_weights_draw_as_many_subjects_as_there_are_and_follow_the_seed():
    weights = resample_weights(7, 300, seed=3)
    assert weights.shape == (300, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert abs(weights.mean() - 1) < 1e-9
    assert np.array_equal(weights, resample_weights(7, 300, seed=3))
    assert not np.array_equal(weights, resample_weights(7, 300, seed=4))


@pytest.mark.parametrize("subjects", [0, 1])
def test_one_subject_tells_nothing_of_the_spread(subjects):
    weights = resample_weights(subjects, 100) if subjects else np.zeros((0, 0), dtype=int)
    assert weights.shape == (0, subjects)
    assert percentile_interval(weights.sum(axis=1)) is None


def test_percentiles_by_hand():
    assert percentile_interval(np.arange(101.0)) == pytest.approx([2.5, 97.5])
    assert percentile_interval(np.arange(101.0), level=0.9) == pytest.approx([5, 95])
    half = np.where(np.arange(100) % 2, 1.0, np.nan)
    assert percentile_interval(half) == [1, 1]
    half[1] = np.nan
    assert percentile_interval(half) is None
    assert percentile_interval(np.array([])) is None


def test_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).gamma(2, size=40)
    weights = resample_weights(40, 4000, seed=1)
    found = percentile_interval(weights @ values / 40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert found == pytest.approx([expected.low, expected.high], abs=0.05)


def test_what_is_not_defined_has_no_interval_and_nesting_is_kept():
    resampled = {"a": np.array([1.0, 2.0]), "b": {"c": np.array([0.5, 0.5]), "d": np.array([np.nan, np.nan])}}
    found = bootstrap(resampled, {"a": None, "b": {"c": 0.5, "d": 0.1, "more": [1]}})
    assert found == {"a": None, "b": {"c": [0.5, 0.5], "d": None}}


def test_median_of_a_resample():
    values = np.array([5.0, np.nan, 1.0, 3.0])
    weights = np.array([[1, 1, 1, 1], [2, 0, 2, 0], [0, 4, 0, 0], [3, 0, 0, 1]])
    assert resampled_median(weights, values).tolist() == pytest.approx([3, 3, np.nan, 5], nan_ok=True)
    assert np.isnan(resampled_median(weights, np.full(4, np.nan))).all()
