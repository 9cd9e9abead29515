"""Scores by kind of lesion and of scan, and false positives by what they look like."""

import numpy as np
import pytest

from cmb_bundle.scripts.evaluation.bootstrap import resample_weights
from cmb_bundle.scripts.evaluation.counts import Counts, summary
from cmb_bundle.scripts.evaluation.metrics import false_positives_by_mimic, strata
from cmb_bundle.scripts.evaluation.records import Candidate, Lesion, Mimic, SubjectRecord
from cmb_bundle.scripts.evaluation.stages import match_records
from cmb_bundle.scripts.evaluation.strata import (
    diameter_class,
    kind_of_mimic,
    lesion_strata,
    subject_strata,
    thickness_class,
)


@pytest.mark.parametrize(
    ("diameter", "name"),
    [
        (1.99, "<2 mm"),
        (2, "2-3 mm"),
        (2.99, "2-3 mm"),
        (3, "3-5 mm"),
        (5, "3-5 mm"),
        (5.01, ">5 mm"),
        (None, "unknown"),
    ],
)
def test_classes_of_diameter(diameter, name):
    assert diameter_class(diameter) == name


@pytest.mark.parametrize(
    ("thickness", "name"),
    [(0.8, "<=1 mm"), (1.0000001, "<=1 mm"), (2.0, "1-2 mm"), (2.1, "2-3 mm"), (3, "2-3 mm"), (6, ">3 mm"),
     (None, "unknown")],
)  # fmt: skip
def test_classes_of_slice_thickness(thickness, name):
    assert thickness_class(thickness) == name


def test_sensitivity_by_class_of_lesion():
    classes = [["lobar", "deep", "lobar"], [], ["pons", "unknown"]]
    found = [
        (np.array([True, True, False]), np.array([True, False, False])),
        (np.zeros(0, bool), np.zeros(0, bool)),
        (np.array([False, True]), np.array([False, True])),
    ]
    rows = lesion_strata(classes, found, ("lobar", "deep"), resample_weights(3, 200))
    assert [row["name"] for row in rows] == ["lobar", "deep", "pons", "unknown"]
    lobar, deep, pons, unknown = rows
    assert (lobar["n_lesions"], lobar["stage_1_found"], lobar["end_to_end_found"]) == (2, 1, 1)
    assert (lobar["stage_1"], lobar["stage_2_given_stage_1"], lobar["end_to_end"]) == (0.5, 1, 0.5)
    assert (deep["stage_1"], deep["stage_2_given_stage_1"], deep["end_to_end"]) == (1, 0, 0)
    assert (pons["stage_1"], pons["stage_2_given_stage_1"]) == (0, None)
    assert unknown["end_to_end"] == 1
    # all lobar ones are of one subject, so every resample that has any says the same
    assert lobar["intervals"]["stage_1"] == [0.5, 0.5]
    assert pons["intervals"]["stage_2_given_stage_1"] is None
    assert lesion_strata([[], []], [found[1]] * 2, (), resample_weights(2, 10)) == []


def test_scores_by_class_of_subject():
    lesions, true, false = np.array([2, 0, 4]), np.array([1, 0, 4]), np.array([3, 1, 0])
    counts = Counts(lesions, true + false, true, false, np.zeros(3, int), lesions == 0)
    rows = subject_strata(["thin", "thin", "thick"], {"end_to_end": counts}, ("thick", "thin"), resample_weights(3, 50))
    assert [(r["name"], r["n_subjects"], r["n_lesions"]) for r in rows] == [("thick", 1, 4), ("thin", 2, 2)]
    assert rows[0]["end_to_end"] == {"sensitivity": 1, "false_positives_per_subject": 0}
    assert rows[1]["end_to_end"] == {"sensitivity": 0.5, "false_positives_per_subject": 2}
    low, high = rows[1]["intervals"]["end_to_end"]["false_positives_per_subject"]
    assert 1 <= low <= 2 <= high <= 3


def test_kind_of_the_nearest_mimic():
    mimics = [[0, 0, 0], [4, 0, 0]]
    kinds = ["vein", "calcification"]
    places = [[1, 0, 0], [3, 0, 0], [9, 0, 0], [9.1, 0, 0]]
    assert kind_of_mimic(places, mimics, kinds) == ["vein", "calcification", "calcification", "none"]
    assert kind_of_mimic(places, np.zeros((0, 3)), []) == ["none"] * 4
    assert kind_of_mimic(places, np.zeros((0, 3)), None) == ["unknown"] * 4
    assert kind_of_mimic(np.zeros((0, 3)), mimics, kinds) == []


def subject(name, mimics, *candidates, lesions=()):
    found = [Candidate((float(x), 0, 0), 0.5, p, p >= 0.5) for x, p in candidates]
    return SubjectRecord(name, [Lesion((float(x), 0, 0)) for x in lesions], found, mimics=mimics)


def test_false_positives_by_mimic_over_subjects():
    vein, void = Mimic((0.0, 0, 0), "vein"), Mimic((50.0, 0, 0), "flow_void")
    records = [
        subject("a", [vein, void], (1, 0.9), (2, 0.2), (51, 0.7), (200, 0.1), lesions=[49]),
        subject("b", [vein], (0, 0.8)),
        subject("c", None, (0, 0.6)),
    ]
    rows = {r.pop("name"): r for r in false_positives_by_mimic(records, match_records(records, 5.0), 5.0)}
    # the candidate at 51 found the lesion at 49, so it is no false positive of the void beside it
    assert list(rows) == ["vein", "unknown", "none", "flow_void"]
    assert rows["vein"] == {
        "n_mimics": 2, "stage_1": 3, "end_to_end": 2, "stage_1_per_subject": 1, "end_to_end_per_subject": 2 / 3,
    }  # fmt: skip
    assert (rows["flow_void"]["n_mimics"], rows["flow_void"]["stage_1"]) == (1, 0)
    assert (rows["none"]["stage_1"], rows["none"]["end_to_end"], rows["none"]["n_mimics"]) == (1, 0, None)
    assert rows["unknown"]["end_to_end"] == 1
    both = match_records(records, 5.0)
    assert sum(r["stage_1"] for r in rows.values()) == summary(both.stage_1)["false_positives"]
    assert sum(r["end_to_end"] for r in rows.values()) == summary(both.end_to_end)["false_positives"]


def test_strata_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    records = []
    for number in range(8):
        one = subject(str(number), None, *[(x, rng.random()) for x in rng.integers(-90, 90, 6)],
                      lesions=rng.integers(-90, 90, rng.integers(0, 4)))  # fmt: skip
        one.spacing_mm = (0.5, 0.5, float(rng.integers(1, 5)))
        for lesion in one.lesions:
            lesion.diameter_mm, lesion.region = float(rng.uniform(1, 7)), str(rng.choice(["lobar", "deep"]))
        records.append(one)
    scored = match_records(records, 20.0)
    found = strata(records, scored, resample_weights(8, 20))
    for stage, key in (("stage_1", "stage_1_found"), ("end_to_end", "end_to_end_found")):
        whole = summary(scored.of(stage))["true_positives"]
        assert whole > 0
        assert sum(row[key] for row in found["diameter"]) == sum(row[key] for row in found["region"]) == whole
    assert sum(row["n_subjects"] for row in found["slice_thickness"]) == 8
    free = summary(scored.end_to_end)["false_positives"]
    per = [row["end_to_end"]["false_positives_per_subject"] * row["n_subjects"] for row in found["slice_thickness"]]
    assert sum(per) == pytest.approx(free)
