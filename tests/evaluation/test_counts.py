"""Tests of matching, counts and FROC, by hand and against all possible matchings."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from cmb_bundle.scripts.evaluation.counts import Counts, count, median_subject_f1, subject_f1, subject_level, summary
from cmb_bundle.scripts.evaluation.froc import froc, mean_sensitivity, resampled_sensitivity, sensitivity_at
from cmb_bundle.scripts.evaluation.matching import match, suppress


def on_line(*positions):
    """Points on a line, in mm."""
    return np.array([[0.0, position, 0.0] for position in positions]).reshape(-1, 3)


def test_the_best_detection_of_a_lesion_is_the_true_positive():
    matching = match(on_line(1, 0, 4, 50), [0.5, 0.4, 0.9, 0.8], on_line(0))
    assert matching.lesion_of_detection.tolist() == [-1, -1, 0, -1]
    assert matching.detection_of_lesion.tolist() == [2]
    assert matching.is_duplicate.tolist() == [True, True, False, False]
    assert matching.is_false_positive.tolist() == [False, False, False, True]
    assert matching.distance_mm.tolist() == [4]


def test_more_lesions_go_before_higher_scores():
    """The middle detection is near both lesions, the weak one only near the first."""
    matching = match(on_line(4, -3), [0.9, 0.1], on_line(0, 8))
    assert matching.lesion_of_detection.tolist() == [1, 0]
    assert matching.distance_mm.tolist() == [3, 4]


def test_shorter_distance_decides_between_equal_scores():
    assert match(on_line(2, 1), [0.5, 0.5], on_line(0)).detection_of_lesion.tolist() == [1]
    crossed = match(on_line(3, 1), [0.5, 0.7], on_line(0, 4))
    assert crossed.lesion_of_detection.tolist() == [1, 0]


@pytest.mark.parametrize(("position", "found"), [(5.0, True), (5.001, False)])
def test_the_distance_itself_is_allowed(position, found):
    matching = match(on_line(position), [0.5], on_line(0))
    assert matching.is_missed.tolist() == [not found]
    assert np.isinf(matching.distance_mm[0]) != found


def test_all_three_axes_count():
    assert match([[3.0, 3.0, 3.0]], [1], [[0.0, 0.0, 0.0]]).is_missed.all()
    assert not match([[2.8, 2.8, 2.8]], [1], [[0.0, 0.0, 0.0]]).is_missed.any()


def best_by_trying_all(distance, scores, limit):
    """Return (number, scores of the matched, negative sum of distances) of the best matching."""
    n, m = distance.shape
    best = (0, (), 0.0)
    for size in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.permutations(range(m), size):
                pair = distance[list(rows), list(columns)]
                if (pair <= limit).all():
                    matched = tuple(sorted((scores[r] for r in rows), reverse=True))
                    best = max(best, (size, matched, -round(float(pair.sum()), 6)))
    return best


@st.composite
def subjects(draw):
    number = st.integers(0, 5)
    place = st.tuples(*[st.integers(0, 9)] * 3)
    detections = draw(number.flatmap(lambda n: st.lists(place, min_size=n, max_size=n)))
    scores = [draw(st.integers(0, 4)) / 4 for _ in detections]
    lesions = draw(st.lists(place, max_size=4))
    shape = (-1, 3)
    return np.array(detections, float).reshape(shape), np.array(scores), np.array(lesions, float).reshape(shape)


@settings(max_examples=150, deadline=None)
@given(subjects())
def test_matching_is_the_best_of_all(subject):
    detections, scores, lesions = subject
    matching = match(detections, scores, lesions)
    distance = np.linalg.norm(detections[:, None] - lesions[None], axis=-1)
    rows = matching.is_true_positive.nonzero()[0]
    columns = matching.lesion_of_detection[rows]
    pair = distance[rows, columns]
    reached = (len(rows), tuple(sorted(scores[rows], reverse=True)), -round(float(pair.sum()), 6))
    assert reached == best_by_trying_all(distance, scores, 5.0)
    assert (pair <= 5).all()
    assert matching.detection_of_lesion[columns].tolist() == rows.tolist()
    assert (matching.detection_of_lesion >= 0).sum() == len(rows)
    near = (distance <= 5).any(1)
    assert matching.is_false_positive.tolist() == (~near).tolist()
    assert matching.is_duplicate.tolist() == (near & ~matching.is_true_positive).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(subjects(), min_size=1, max_size=4))
def test_froc_is_a_new_matching_at_every_threshold(cohort):
    curve = froc([match(*subject) for subject in cohort])
    assert curve.thresholds.tolist() == sorted({s for _, scores, _ in cohort for s in scores}, reverse=True)
    for number, threshold in enumerate(curve.thresholds):
        cut = [
            match(detections[scores >= threshold], scores[scores >= threshold], lesions)
            for detections, scores, lesions in cohort
        ]
        expected = summary(cut)
        assert curve.false_positives_per_subject[number] == expected["false_positives_per_subject"]
        if expected["n_lesions"]:
            assert curve.sensitivity[number] == expected["sensitivity"]
        else:
            assert curve.sensitivity is None


def cohort():
    """Three subjects: two lesions (one missed), one lesion found twice, and none.

    Scores: 0.9 true, 0.8 false, 0.7 true, 0.6 duplicate, 0.6 false, 0.2 false (in the subject without lesions).
    """
    return [
        match(on_line(0, 50), [0.9, 0.8], on_line(0, 20)),
        match(on_line(1, -1, 70), [0.7, 0.6, 0.6], on_line(0)),
        match(on_line(5), [0.2], on_line()),
    ]


def test_summary_by_hand():
    assert summary(cohort()) == {
        "n_subjects": 3,
        "n_lesion_free_subjects": 1,
        "n_lesions": 3,
        "true_positives": 2,
        "false_negatives": 1,
        "false_positives": 3,
        "duplicates": 1,
        "sensitivity": pytest.approx(2 / 3),
        "precision": pytest.approx(2 / 5),
        "f1": pytest.approx(4 / 8),
        "false_positives_per_subject": 1,
        "false_positives_per_lesion_free_subject": 1,
    }


def test_summary_agrees_with_scikit_learn():
    """Lesions and detections as a list of binary decisions: hits, misses, false positives."""
    result = summary(cohort())
    truth = [1] * result["true_positives"] + [1] * result["false_negatives"] + [0] * result["false_positives"]
    said = [1] * result["true_positives"] + [0] * result["false_negatives"] + [1] * result["false_positives"]
    assert result["sensitivity"] == pytest.approx(recall_score(truth, said))
    assert result["precision"] == pytest.approx(precision_score(truth, said))
    assert result["f1"] == pytest.approx(f1_score(truth, said))


def test_f1_of_subjects_and_their_median():
    # 1 of 2 found and a false one: 2 / (2 + 1 + 1); 1 of 1 and a false one: 2 / 3; only false ones: 0; nothing: none
    silent = match(on_line(), [], on_line())
    counts = count([*cohort(), silent])
    assert subject_f1(counts)[:3].tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert np.isnan(subject_f1(counts)[3])
    assert median_subject_f1(counts) == pytest.approx(1 / 2)
    assert median_subject_f1(count([silent])) is None
    assert median_subject_f1(count([])) is None


def test_lesions_that_an_earlier_stage_missed_are_left_out():
    matching = match(on_line(0, 50, 90), [0.9, 0.8, 0.7], on_line(90, 0, 20))
    assert matching.detection_of_lesion.tolist() == [2, 0, -1]
    among = matching.among(np.array([False, True, False]))
    assert among.lesion_of_detection.tolist() == [0, -1, -1]
    assert among.detection_of_lesion.tolist() == [0]
    assert among.is_false_positive.tolist() == [False, True, False]
    assert among.is_duplicate.tolist() == [False, False, True]
    assert among.distance_mm.tolist() == [0]
    nothing = match(on_line(), [], on_line(0)).among(np.array([False]))
    assert summary([nothing])["sensitivity"] is None
    every = matching.among(np.array([True, True, True]))
    assert every.lesion_of_detection.tolist() == matching.lesion_of_detection.tolist()


def test_a_subject_whose_lesions_were_all_missed_is_not_lesion_free():
    matchings = [match(on_line(9), [0.5], on_line()), match(on_line(), [], on_line())]
    counts = count(matchings, lesion_free=[False, True])
    assert summary(counts)["n_lesion_free_subjects"] == 1
    assert summary(counts)["false_positives_per_lesion_free_subject"] == 0
    assert subject_level(counts)["specificity"] == 1
    assert subject_level(counts)["sensitivity"] is None


def test_suppression_keeps_the_best_of_those_close_to_each_other():
    # 0.8 is dropped for 0.9, so it does not take 0.7 with it
    assert suppress(on_line(0, 2.9, 5.8), [0.9, 0.8, 0.7], 3.0).tolist() == [True, False, True]
    assert suppress(on_line(0, 3), [0.9, 0.8], 3.0).tolist() == [True, True]
    assert suppress(on_line(0, 0), [0.5, 0.5], 3.0).tolist() == [True, False]
    assert suppress(on_line(), [], 3.0).tolist() == []
    assert suppress(on_line(0, 0), [0.5, 0.6], 0).tolist() == [True, True]


@settings(max_examples=60, deadline=None)
@given(subjects(), st.integers(0, 4))
def test_suppression_of_those_above_a_threshold_is_the_threshold_of_the_suppressed(subject, step):
    detections, scores, _ = subject
    threshold = step / 4
    kept = suppress(detections, scores, 4.0)
    above = scores >= threshold
    assert suppress(detections[above], scores[above], 4.0).tolist() == kept[above].tolist()


# ------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=80, deadline=None)
@given(st.lists(subjects(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_of_subjects_detections_and_lesions_does_not_matter(cohort, random):
    jitter = np.random.default_rng(0)  # equal distances would be a matter of order for the nearest lesion
    cohort = [(d + jitter.uniform(-0.01, 0.01, d.shape), scores, lesions) for d, scores, lesions in cohort]
    shuffled = []
    for detections, scores, lesions in random.sample(cohort, len(cohort)):
        order, of_lesions = (random.sample(range(len(one)), len(one)) for one in (scores, lesions))
        shuffled.append((detections[order], scores[order], lesions[of_lesions]))
    before, after = ([match(*subject) for subject in group] for group in (cohort, shuffled))
    assert summary(before) == summary(after)
    assert subject_level(before) == subject_level(after)
    curves = froc(before), froc(after)
    assert np.array_equal(curves[0].thresholds, curves[1].thresholds)
    assert np.array_equal(curves[0].false_positives_per_subject, curves[1].false_positives_per_subject)
    assert mean_sensitivity(curves[0]) == mean_sensitivity(curves[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(subjects(), min_size=1, max_size=4))
def test_froc_is_monotone(cohort):
    curve = froc([match(*subject) for subject in cohort])
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.false_positives_per_subject) >= 0).all()
    assert curve.sensitivity is None or (np.diff(curve.sensitivity) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(subjects(), min_size=1, max_size=4), st.integers(0, 4))
def test_a_far_false_positive_only_lowers_precision(cohort, step):
    detections, scores, lesions = cohort[0]
    worse = (np.vstack([detections, [[500.0, 0, 0]]]), np.append(scores, step / 4), lesions)
    before, after = (summary([match(*s) for s in group]) for group in (cohort, [worse, *cohort[1:]]))
    same = ("n_lesions", "true_positives", "false_negatives", "duplicates", "sensitivity")
    assert [before[name] for name in same] == [after[name] for name in same]
    assert after["false_positives"] == before["false_positives"] + 1
    assert before["precision"] is None or after["precision"] <= before["precision"]
    assert not before["precision"] or after["precision"] < before["precision"]


@settings(max_examples=60, deadline=None)
@given(st.lists(subjects(), min_size=1, max_size=4), st.data())
def test_froc_of_a_resample_is_that_of_the_repeated_subjects(cohort, data):
    drawn = data.draw(st.lists(st.integers(0, len(cohort) - 1), min_size=len(cohort), max_size=len(cohort)))
    matchings = [match(*subject) for subject in cohort]
    weights = np.bincount(drawn, minlength=len(cohort))
    rates = (0, 1 / 8, 1 / 3, 1, 2.5)
    found = resampled_sensitivity(matchings, rates, np.array([np.ones(len(cohort), int), weights]), chunk=1)
    for row, group in zip(found, (matchings, [matchings[n] for n in drawn]), strict=True):
        expected = sensitivity_at(froc(group), rates)
        assert np.isnan(row).all() if expected is None else row.tolist() == pytest.approx(expected.tolist())


def test_counts_of_some_subjects():
    counts = count(cohort())
    assert isinstance(counts, Counts)
    assert summary(counts) == summary(cohort())
    assert summary(counts.take(np.array([1, 1, 2])))["duplicates"] == 2
    assert summary(counts.take(counts.lesions > 0))["n_subjects"] == 2


def test_undefined_ratios_are_none_and_go_into_json():
    nothing = summary([match(on_line(), [], on_line())])
    assert [name for name, value in nothing.items() if value is None] == ["sensitivity", "precision", "f1"]
    assert nothing["false_positives_per_lesion_free_subject"] == 0
    only_lesions = summary([match(on_line(), [], on_line(0))])
    assert (only_lesions["sensitivity"], only_lesions["precision"], only_lesions["f1"]) == (0, None, 0)
    assert only_lesions["false_positives_per_lesion_free_subject"] is None
    no_subjects = summary([])
    assert no_subjects["false_positives_per_subject"] is None
    for result in (nothing, only_lesions, no_subjects, subject_level(cohort())):
        json.dumps(result, allow_nan=False)


def test_froc_by_hand():
    curve = froc(cohort())
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.2]
    assert curve.sensitivity.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curve.false_positives_per_subject.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])


def test_mean_sensitivity_by_hand():
    curve = froc(cohort())
    assert mean_sensitivity(curve) == pytest.approx((2 * 1 / 3 + 5 * 2 / 3) / 7)
    assert sensitivity_at(curve).tolist() == pytest.approx([1 / 3, 1 / 3, *[2 / 3] * 5])
    assert mean_sensitivity(curve, rates=(1 / 3,)) == pytest.approx(2 / 3)
    assert mean_sensitivity(curve, rates=(0.3333, 0)) == pytest.approx(1 / 3)


def test_mean_sensitivity_without_points_and_without_lesions():
    assert mean_sensitivity(froc([match(on_line(), [], on_line(0))])) == 0
    false_first = froc([match(on_line(50, 0), [0.9, 0.8], on_line(0))])
    assert mean_sensitivity(false_first, rates=(0.5, 1)) == 0.5
    assert mean_sensitivity(froc([match(on_line(0), [0.5], on_line())])) is None


def test_subject_level():
    missed = match(on_line(), [], on_line(0))
    silent = match(on_line(), [], on_line())
    assert subject_level([*cohort(), missed, silent, silent]) == {
        "true_positives": 2,
        "false_negatives": 1,
        "true_negatives": 2,
        "false_positives": 1,
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(2 / 3),
    }
    assert subject_level([missed])["specificity"] is None
    assert subject_level([silent])["sensitivity"] is None


def test_errors():
    with pytest.raises(ValueError, match="2 detections but 1 scores"):
        match(on_line(0, 1), [0.5], on_line(0))
    with pytest.raises(ValueError, match=r"lesions_mm .* not finite"):
        match(on_line(0), [0.5], on_line(np.nan))
    with pytest.raises(ValueError, match=r"scores .* not finite"):
        match(on_line(0), [np.nan], on_line(0))
    with pytest.raises(ValueError, match="one subject"):
        froc([])
