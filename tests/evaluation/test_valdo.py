"""The rules of the VALDO challenge; all values worked out by hand, those in voxels also by its published code."""

import numpy as np
import pytest

from cmb_bundle.scripts.candidate import Candidate
from cmb_bundle.scripts.evaluation.bootstrap import resample_weights
from cmb_bundle.scripts.evaluation.label_maps import compare_label_maps
from cmb_bundle.scripts.evaluation.records import Lesion, SubjectRecord, load_records, save_records
from cmb_bundle.scripts.evaluation.valdo import valdo_figures, valdo_scores, valdo_table, valdo_tests

AFFINE = np.diag([0.5, 0.5, 2.0, 1.0])


def volume(*voxels):
    """A label map with these voxels (or slices of them) numbered 1, 2, ..."""
    array = np.zeros((40, 40, 12), dtype=np.int16)
    for number, place in enumerate(voxels, start=1):
        array[place] = number
    return array


def subject(truth, found, affine=AFFINE, name="a"):
    return SubjectRecord(name, [], [], maps=compare_label_maps(truth, found, affine))


def points(truth, found, name="a"):
    """Places along R in mm, without label maps."""
    lesions = [Lesion((float(x), 0.0, 0.0)) for x in truth]
    return SubjectRecord(name, lesions, [Candidate((float(x), 0.0, 0.0), 0.9, 0.9, True) for x in found])


def test_one_hit_one_false_and_one_missed():
    truth = volume(np.s_[10:12, 10, 5], np.s_[30, 30, 5])  # 2 voxels and 1 voxel
    found = volume(np.s_[11:15, 10, 5], np.s_[20, 35, 9])  # 4 voxels, one of them shared, and 1 voxel
    assert valdo_figures(subject(truth, found)) == {
        "f1": 2 / 4,
        "mean_dice": pytest.approx(2 * 1 / (2 + 4)),
        "absolute_count_difference": 0,
        "absolute_volume_difference_mm3": 2 * 0.5,  # 5 voxels and 3, of 0.5 mm3
    }


def test_touching_components_are_one_in_truth_and_prediction():
    truth = volume(np.s_[10, 10, 5], np.s_[11, 11, 6])  # two values that touch at a corner
    found = volume(np.s_[10, 10, 5], np.s_[10, 11, 5], np.s_[10, 12, 5])
    figures = valdo_figures(subject(truth, found))
    assert (figures["f1"], figures["absolute_count_difference"]) == (1, 0)
    assert figures["mean_dice"] == pytest.approx(2 * 1 / (2 + 3))


@pytest.mark.parametrize("unit", ["mm", "voxel"])
def test_at_an_exact_tie_both_count(unit):
    truth, found = volume(np.s_[10, 10, 5]), volume(np.s_[8, 10, 5], np.s_[12, 10, 5])
    figures = valdo_figures(subject(truth, found), unit=unit)
    assert figures["f1"] == pytest.approx(2 * 2 / (1 + 2))  # two hits: above 1, as the published code has it
    moved = volume(np.s_[7, 10, 5], np.s_[12, 10, 5])
    assert valdo_figures(subject(truth, moved), unit=unit)["f1"] == pytest.approx(2 * 1 / (1 + 2))


def test_a_tie_in_mm_survives_an_affine_that_is_rounded():
    turned = AFFINE.copy()
    angle = np.radians(17)
    turned[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.43
    turned[:3, 3] = (-91.3, -126.7, -71.1)
    truth, found = volume(np.s_[10, 10, 5]), volume(np.s_[8, 10, 5], np.s_[12, 10, 5])
    assert valdo_figures(subject(truth, found, turned))["f1"] == pytest.approx(4 / 3)


def test_all_that_belong_to_a_lesion_are_in_its_dice():
    truth = volume(np.s_[10:14, 10, 5])
    found = volume(np.s_[10:12, 10, 5], np.s_[13, 10, 5])  # centres at 1 and 1.5 voxels from the lesion's
    figures = valdo_figures(subject(truth, found))
    assert figures["f1"] == pytest.approx(2 / 3)  # the second one is false
    assert figures["mean_dice"] == pytest.approx(2 * 3 / (4 + 3))


def test_a_found_one_belongs_to_its_nearest_lesion_alone():
    # both are nearest to the lesion at 0; the one at 6 could be found by the one at 2
    assert valdo_figures(points([0, 6], [1, 2]))["f1"] == 2 * 1 / 4


@pytest.mark.parametrize(("place", "f1"), [(4.999, 1), (5.0, 0)])
def test_the_distance_itself_is_not_allowed(place, f1):
    assert valdo_figures(points([0], [place]))["f1"] == f1


def test_a_subject_without_lesions_has_no_f1_even_with_false_positives():
    nothing, some = volume(), volume(np.s_[10, 10, 5])
    assert valdo_figures(subject(nothing, some)) == {
        "f1": None,
        "mean_dice": None,
        "absolute_count_difference": 1,
        "absolute_volume_difference_mm3": 0.5,
    }
    assert list(valdo_figures(subject(nothing, nothing)).values()) == [None, None, 0, 0]
    assert list(valdo_figures(subject(some, nothing)).values()) == [0, 0, 1, 0.5]
    assert list(valdo_figures(points([], [3])).values()) == [None, None, 1, None]


def test_the_published_code_counts_voxels_where_the_paper_says_mm():
    truth, found = volume(np.s_[10, 10, 2]), volume(np.s_[10, 10, 5])  # 3 voxels, 6 mm
    assert valdo_figures(subject(truth, found))["f1"] == 0
    assert valdo_figures(subject(truth, found), unit="voxel")["f1"] == 1
    assert set(valdo_figures(points([0], [0]), unit="voxel").values()) == {None}


COHORT = [points([0, 20], [0]), points([0], [0]), points([], [3]), points([], []), points([0], [90])]
"""F1 of 2/3, 1, none, none and 0."""


def test_the_median_is_over_the_subjects_that_have_an_f1():
    scores = valdo_scores(COHORT, resample_weights(5, 200))
    assert scores["end_to_end"]["f1"] == {
        "n_subjects": 3,
        "median": pytest.approx(2 / 3),  # with 0 for the third, as other rules have it, it would be 1/3
        "q1": pytest.approx(1 / 3),
        "q3": pytest.approx(5 / 6),
    }
    assert scores["end_to_end"]["absolute_count_difference"]["median"] == 0
    assert scores["end_to_end"]["mean_dice"] == {"n_subjects": 0, "median": None, "q1": None, "q3": None}
    low, high = scores["intervals"]["end_to_end"]["f1"]["median"]
    assert 0 <= low <= 2 / 3 <= high <= 1
    assert scores["intervals"]["end_to_end"]["mean_dice"] == {"median": None}


def test_nobody_has_an_f1():
    scores = valdo_scores([points([], [])], resample_weights(1, 200))
    assert scores["end_to_end"]["f1"]["median"] is None and scores["intervals"]["end_to_end"]["f1"]["median"] is None


def test_one_sided_tests_of_twenty_subjects():
    ours = [points([0, 20, 40], [0], f"s{n}") for n in range(20)]
    theirs = [points([0, 20, 40], [0, 20], f"s{n}") for n in range(20)]
    tests = valdo_tests(ours, theirs)
    assert tests["f1"]["other_better"] < 1e-4 and tests["f1"]["other_worse"] > 0.999
    # a difference of counts of 1 rather than 2 is better
    assert tests["absolute_count_difference"]["other_better"] < 1e-4
    assert tests["mean_dice"] == {"other_better": None, "other_worse": None}
    same = valdo_tests(ours, ours)
    assert same["f1"] == {"other_better": 1, "other_worse": 1}
    assert valdo_tests(ours[:19], theirs[:19]) is None


def test_dice_is_tested_over_the_subjects_that_have_a_hit():
    truth, half = volume(np.s_[10:14, 10, 5]), volume(np.s_[10:12, 10, 5])
    ours, theirs = [subject(truth, half) for _ in range(20)], [subject(truth, truth) for _ in range(19)]
    tests = valdo_tests(ours, [*theirs, subject(truth, volume(np.s_[30, 30, 5]))])
    assert tests["mean_dice"]["other_better"] < 1e-6


def test_records_keep_the_components(tmp_path):
    record = subject(volume(np.s_[10:12, 10, 5]), volume(np.s_[11:15, 10, 5]))
    (again,) = load_records(save_records(tmp_path / "records.json", [record]))
    assert again.maps == record.maps
    assert valdo_table([again]).equals(valdo_table([record]))
