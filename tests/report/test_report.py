"""An evaluation from an engine's output to its files, with numbers worked out by hand."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from cmb_bundle.scripts.errors import LabelError, RecordsError
from cmb_bundle.scripts.evaluation.metrics import EvaluationOptions
from cmb_bundle.scripts.evaluation.records import Candidate, Lesion, SubjectRecord, load_records, save_records
from cmb_bundle.scripts.report.handlers import EvaluationReport
from cmb_bundle.scripts.report.report import FILES, write_evaluation

from ..helpers.engine import run_subjects
from ..helpers.processes import run_module

ROOT = Path(__file__).parents[2]


def found(ras, score, probability, accepted):
    return {
        "voxel": [1.0, 2.0, 3.0],
        "ras_mm": list(ras),
        "diameter_mm": 3.0,
        "detector_score": score,
        "classifier_probability": probability,
        "probability": probability,
        "accepted": accepted,
    }


def evaluation(*candidates, lesions):
    kept = [{k: v for k, v in c.items() if k != "accepted"} for c in candidates if c["accepted"]]
    label = None if lesions is None else torch.tensor(lesions, dtype=torch.float64).reshape(-1, 3)
    return {"label": label, "result": {"candidates": list(candidates), "microbleeds": kept}}


TWO = [
    evaluation(
        found((10, 0, 0), 0.9, 0.95, True),  # the first lesion
        found((13, 0, 0), 0.5, 0.80, True),  # again
        found((50, 1, 0), 0.6, 0.20, False),  # the second lesion, lost in stage 2
        found((90, 0, 0), 0.8, 0.70, True),  # false, kept
        found((70, 0, 0), 0.3, 0.10, False),  # false, dropped
        lesions=[[11, 0, 0], [50, 0, 0], [0, 80, 0]],
    ),
    evaluation(found((5, 5, 5), 0.4, None, False), lesions=[]),
]


STAGE_1 = {
    "n_subjects": 2,
    "n_lesion_free_subjects": 1,
    "n_lesions": 3,
    "true_positives": 2,
    "false_negatives": 1,
    "false_positives": 3,
    "duplicates": 1,
    "sensitivity": pytest.approx(2 / 3),
    "precision": pytest.approx(2 / 5),
    "f1": pytest.approx(4 / 8),
    "false_positives_per_subject": 1.5,
    "false_positives_per_lesion_free_subject": 1.0,
    "median_subject_f1": pytest.approx((4 / 7 + 0) / 2),
}
STAGE_2 = {
    "n_lesions": 2,
    "true_positives": 1,
    "false_negatives": 1,
    "false_positives": 1,
    "duplicates": 1,
    "n_lesion_free_subjects": 1,
    "sensitivity": 0.5,
    "precision": 0.5,
    "f1": 0.5,
    "false_positives_per_subject": 0.5,
    "false_positives_per_lesion_free_subject": 0.0,
}
END_TO_END = {
    "n_subjects": 2,
    "n_lesion_free_subjects": 1,
    "n_lesions": 3,
    "true_positives": 1,
    "false_negatives": 2,
    "false_positives": 1,
    "duplicates": 1,
    "sensitivity": pytest.approx(1 / 3),
    "precision": 0.5,
    "f1": pytest.approx(2 / 5),
    "false_positives_per_subject": 0.5,
    "false_positives_per_lesion_free_subject": 0.0,
    "median_subject_f1": pytest.approx(2 / 5),
    "subject_level": {
        "true_positives": 1,
        "false_negatives": 0,
        "true_negatives": 1,
        "false_positives": 0,
        "sensitivity": 1.0,
        "specificity": 1.0,
    },
}


def part(scores, like):
    return {name: scores[name] for name in like}


def test_scores_of_two_subjects(tmp_path, capsys):
    run_subjects(EvaluationReport(tmp_path, distance_mm=5.0, bootstrap=50), TWO)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["distance_mm"] == 5.0
    assert part(scores["stage_1"], STAGE_1) == STAGE_1
    assert part(scores["stage_2_given_stage_1"], STAGE_2) == STAGE_2
    assert part(scores["end_to_end"], END_TO_END) == END_TO_END
    # three lesions and three detections in the first subject, none in the second
    agreement = scores["end_to_end"]["count_agreement"]
    assert agreement["icc"] == 1
    assert agreement["bland_altman"] == {"bias": 0, "sd": 0, "lower": 0, "upper": 0}
    assert agreement["bands"]["confusion"] == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]
    # by detector score: hit .9, false .8, hit .6, (duplicate .5), false .4, false .3; three lesions, two subjects
    at = scores["stage_1"]["sensitivity_at"]
    assert list(at) == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert list(at.values()) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    # by probability over all classified candidates: hit .95, (duplicate .8), false .7, hit .2, false .1
    at = scores["end_to_end"]["sensitivity_at"]
    assert list(at.values()) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert scores["stage_2_given_stage_1"]["sensitivity_at"]["1/2"] == 1
    assert scores["end_to_end"]["mean_sensitivity"] == pytest.approx((2 / 3 + 10 / 3) / 7)
    # the duplicate is a false positive by the rules of VALDO: at 2 mm from the lesion, the other one is at 1 mm; the
    # second subject has no lesions and so no F1
    f1 = scores["valdo"]["end_to_end"]["f1"]
    assert (f1["n_subjects"], f1["median"]) == (1, pytest.approx(2 / 6))
    assert scores["strict"]["distance_mm"] == 3.0
    assert scores["strict"]["end_to_end"]["duplicates"] == 1


def test_tables_of_two_subjects(tmp_path, capsys):
    run_subjects(EvaluationReport(tmp_path, bootstrap=0), TWO)
    table = pd.read_csv(tmp_path / "per_subject.csv")
    counts = ["subject", "n_lesions", "true_positives", "false_negatives", "false_positives", "duplicates"]
    assert list(table.columns[:6]) == counts
    assert table[counts].to_numpy().tolist() == [["s0", 3, 1, 2, 1, 1], ["s1", 0, 0, 0, 0, 0]]
    assert list(table["stage_1_false_positives"]) == [2, 1]
    assert table["f1"].iloc[0] == pytest.approx(2 / 5) and np.isnan(table["f1"].iloc[1])

    lesions = pd.read_csv(tmp_path / "per_lesion.csv")
    assert list(lesions["outcome"]) == ["found", "lost in stage 2", "missed by stage 1"]
    assert list(lesions["found_by_stage_1"]) == [True, True, False]
    assert list(lesions["found_end_to_end"]) == [True, False, False]
    assert lesions["distance_mm"].iloc[:2].tolist() == [1, 1] and np.isnan(lesions["distance_mm"].iloc[2])
    assert lesions["probability"].iloc[:2].tolist() == [0.95, 0.2]
    assert lesions["detector_score"].iloc[:2].tolist() == [0.9, 0.6]
    assert lesions[["ras_r_mm", "ras_a_mm", "ras_s_mm"]].to_numpy().tolist()[2] == [0, 80, 0]

    false = pd.read_csv(tmp_path / "false_positives.csv")
    assert list(false["end_to_end"]) == [True, False, False]
    assert list(false["ras_r_mm"]) == [90, 70, 5]
    assert false["probability"].iloc[:2].tolist() == [0.7, 0.1] and np.isnan(false["probability"].iloc[2])
    assert set(false["mimic"]) == {"unknown"}

    points = pd.read_csv(tmp_path / "froc.csv").query("stage == 'stage_1'")
    assert points["threshold"].tolist() == [0.9, 0.8, 0.6, 0.5, 0.4, 0.3]
    assert points["sensitivity"].tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert points["false_positives_per_subject"].tolist() == [0, 0.5, 0.5, 0.5, 1, 1.5]

    # a line a candidate of stage 1, in the order of the JSON
    assert (tmp_path / "Actual.csv").read_text().split() == ["1", "1", "1", "0", "0", "0"]
    assert (tmp_path / "Predicted.csv").read_text().split() == ["1", "1", "0", "1", "0", "0"]

    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed]
    assert "Scores of 2 subjects with 3 microbleeds (hit within 5 mm)" in printed
    assert ["sensitivity", "FPavg", "precision"] in lines
    assert ["stage_1", "0.667", "1.5", "0.4"] in lines
    assert ["stage_2_given_stage_1", "0.500", "0.5", "0.5"] in lines
    assert ["end_to_end", "0.333", "0.5", "0.5"] in lines
    assert f"The report is {(tmp_path / 'report.html').resolve()}" in printed


def test_distance_is_used(tmp_path):
    run_subjects(EvaluationReport(tmp_path, distance_mm=0.5, bootstrap=0), TWO)
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["stage_1"]["true_positives"] == scores["end_to_end"]["true_positives"] == 0
    assert scores["stage_2_given_stage_1"]["sensitivity"] is None


def test_cohort_without_lesions_and_findings(tmp_path, capsys):
    run_subjects(EvaluationReport(tmp_path), [evaluation(lesions=[]), evaluation(lesions=[])])
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    scores = json.loads(text)
    for stage in ("stage_1", "end_to_end"):
        assert [scores[stage][k] for k in ("sensitivity", "precision", "f1")] == [None] * 3
        assert scores[stage]["false_positives_per_subject"] == 0
    assert scores["end_to_end"]["subject_level"]["sensitivity"] is None
    assert scores["end_to_end"]["subject_level"]["specificity"] == 1
    assert (tmp_path / "Actual.csv").read_text() == (tmp_path / "Predicted.csv").read_text() == ""
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower().replace("none", "")
    assert ["end_to_end", "-", "0.0", "-"] in [line.split() for line in printed.splitlines()]


def test_second_run_starts_anew(tmp_path):
    report = EvaluationReport(tmp_path)
    run_subjects(report, TWO)
    run_subjects(report, TWO)
    assert json.loads((tmp_path / "metrics.json").read_text())["end_to_end"]["n_subjects"] == 2
    assert len((tmp_path / "Actual.csv").read_text().split()) == 6


def test_subject_without_labels_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no labels to evaluate against.*give the subject a label file"):
        run_subjects(EvaluationReport(tmp_path), [evaluation(lesions=None)])


def test_no_subject_writes_nothing(tmp_path):
    report = EvaluationReport(tmp_path)
    report.reset(None)
    report.write(None)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- what is known beside the candidates


def truth_file(path, **changes):
    content = {
        "spec": {"name": "TINY"},
        "microbleeds": [
            {"ras_mm": [50.4, 0.3, 0.0], "diameter_mm": 2.5, "region": "deep"},
            {"ras_mm": [11.0, 0.5, 0.0], "diameter_mm": 6.0, "region": "lobar"},
        ],
        "mimics": [{"ras_mm": [90, 3, 0], "kind": "vein"}, {"ras_mm": [200, 0, 0], "kind": "calcification"}],
    }
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def first_subject(tmp_path, **batch):
    image = MetaTensor(torch.rand(2, 40, 40, 5), affine=torch.diag(torch.tensor([3.0, 3, 4, 1], dtype=torch.float64)))
    scan = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.diag(torch.tensor([0.5, 0.5, 2.5, 1], dtype=torch.float64)))
    whole = {"subject": "s0", "image": image, "swi": scan, "notices": "No phase was found.", **batch}
    run_subjects(EvaluationReport(tmp_path, bootstrap=20, fold=2, weights="w.pt", system="A"), TWO[:1], [whole])
    return load_records(tmp_path)[0]


def test_place_size_mimics_and_spacing_reach_the_record_and_the_strata(tmp_path):
    truth = truth_file(tmp_path / "truth.json")
    diameters = torch.tensor([float("nan"), 4.5, float("nan")], dtype=torch.float64)
    record = first_subject(tmp_path / "out", truth=truth, lesions_diameter=diameters)
    assert [lesion.region for lesion in record.lesions] == ["lobar", "deep", None]
    # that of the label goes before that of the truth file
    assert [lesion.diameter_mm for lesion in record.lesions] == [6.0, 4.5, None]
    assert [m.kind for m in record.mimics] == ["vein", "calcification"]
    assert (record.simulated, record.fold, record.weights, record.system) == (True, 2, "w.pt", "A")
    assert record.spacing_mm == (0.5, 0.5, 2.5)
    assert record.notices == "No phase was found."
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    strata = scores["strata"]
    found = [(r["name"], r["n_lesions"], r["stage_1"], r["end_to_end"]) for r in strata["diameter"]]
    assert found == [("3-5 mm", 1, 1, 0), (">5 mm", 1, 1, 1), ("unknown", 1, 0, 0)]
    assert [r["name"] for r in strata["region"]] == ["lobar", "deep", "unknown"]
    assert [(r["name"], r["n_subjects"]) for r in strata["slice_thickness"]] == [("2-3 mm", 1)]
    by_mimic = {r["name"]: (r["n_mimics"], r["stage_1"], r["end_to_end"]) for r in scores["false_positives_by_mimic"]}
    assert by_mimic == {"vein": (1, 1, 1), "none": (None, 1, 0), "calcification": (1, 0, 0)}


def test_crops_of_lesions_and_of_the_worst_false_positives(tmp_path):
    record = first_subject(tmp_path)
    assert all(lesion.crop is not None for lesion in record.lesions)
    pictured = [c.ras_mm[0] for c in record.candidates if c.crop is not None]
    assert pictured == [90, 70], "the false ones alone"
    assert record.candidates[3].crop.channels.shape == (2, 48, 48)
    assert record.mimics is None and record.simulated is None


def test_unreadable_truth_names_its_file(tmp_path):
    (tmp_path / "truth.json").write_text('{"mimics": [{"ras_mm": [1, 2, 3]}]}')
    with pytest.raises(LabelError, match=r"truth.json: cannot be read .*kind.* Expected JSON"):
        first_subject(tmp_path / "out", truth=str(tmp_path / "truth.json"))


# ---------------------------------------------------------------------------------------------------- pooling records


def record(subject, *candidates, lesions=((0, 0, 0),), system="A", **more):
    found = [Candidate((x, 0, 0), score, p, p >= 0.5) for x, score, p in candidates]
    return SubjectRecord(subject, [Lesion(place) for place in lesions], found, system, **more)


FOLD_0 = [record("b", (1, 0.9, 0.9), (50, 0.5, 0.6), fold=0), record("a", (40, 0.5, 0.1), fold=0)]
FOLD_1 = [record("c", (0, 0.4, 0.4), fold=1), record("d", lesions=(), fold=1)]
QUICK = EvaluationOptions(bootstrap=100)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_folds_are_pooled_and_their_order_does_not_matter(tmp_path):
    for name, fold in (("0", FOLD_0), ("1", FOLD_1)):
        write_evaluation(fold, tmp_path / name, QUICK)
    whole = write_evaluation([*FOLD_0, *FOLD_1], tmp_path / "whole", QUICK)
    assert whole["end_to_end"]["n_subjects"] == 4
    assert whole["end_to_end"]["sensitivity"] == pytest.approx(1 / 3)
    assert whole["stage_1"]["sensitivity"] == pytest.approx(2 / 3)
    assert whole["evaluated"]["folds"] == [0, 1]
    pooled = load_records([tmp_path / "1", tmp_path / "0" / "records.json"])
    write_evaluation(pooled, tmp_path / "pooled", QUICK)
    assert content(tmp_path / "pooled") == content(tmp_path / "whole")


def test_a_subject_twice_is_refused(tmp_path):
    with pytest.raises(RecordsError, match=r"subject b is there twice for the system 'A'.*share no subject"):
        write_evaluation([*FOLD_0, *FOLD_0], tmp_path, QUICK)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no records to evaluate"):
        write_evaluation([], tmp_path, QUICK)


def test_an_accepted_candidate_without_a_probability_is_refused(tmp_path):
    bad = SubjectRecord("a", [], [Candidate((0, 0, 0), 0.9, None, True)])
    with pytest.raises(RecordsError, match=r"subject a, system 'two stages': an accepted candidate has no probability"):
        write_evaluation([bad], tmp_path, QUICK)
    assert not list(tmp_path.iterdir())


def test_a_rival_is_scored_beside_and_compared_on_the_common_subjects(tmp_path, capsys):
    own = [*FOLD_0, *FOLD_1]
    rival = [
        record("a", (0, 7.5, 0.9), system="B"),
        record("b", (50, 3.0, 0.6), system="B"),
        record("c", system="B"),
        record("e", system="B"),
    ]
    scores = write_evaluation([*own, *rival], tmp_path, QUICK)
    assert scores["system"] == "A" and list(scores["rivals"]) == ["B"]
    alone = write_evaluation(rival, tmp_path / "alone", QUICK)
    assert scores["rivals"]["B"]["end_to_end"] == alone["end_to_end"]
    assert scores["end_to_end"] == write_evaluation(own, tmp_path / "own", QUICK)["end_to_end"]
    difference = scores["rivals"]["B"]["difference"]
    # a, b and c are common: A found 1 of 3 and has 1 false; B found 1 of 3 and has 1 false
    assert difference["n_subjects"] == 3
    assert difference["end_to_end"] == {"sensitivity": 0, "precision": 0, "f1": 0, "false_positives_per_subject": 0}
    assert difference["stage_1"]["sensitivity"] == pytest.approx(1 / 3 - 2 / 3)
    low, high = difference["intervals"]["stage_1"]["sensitivity"]
    assert -1 <= low <= -1 / 3 <= high <= 1
    assert set(pd.read_csv(tmp_path / "per_subject.csv")["system"]) == {"A", "B"}
    printed = capsys.readouterr().out.splitlines()
    assert "A" in printed and "B" in printed


def test_what_lies_behind_the_operating_point_is_on_the_curve(tmp_path):
    write_evaluation([*FOLD_0, *FOLD_1], tmp_path, QUICK)
    points = pd.read_csv(tmp_path / "froc.csv").query("stage == 'end_to_end'")
    # thresholds above 0.5 hold what was accepted; below, what would be
    assert points["threshold"].tolist() == [0.9, 0.6, 0.4, 0.1]
    assert points["sensitivity"].tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert points["false_positives_per_subject"].tolist() == [0, 0.25, 0.25, 0.5]


def test_intervals_hold_their_figures_and_none_stands_where_nothing_is_defined(tmp_path):
    scores = write_evaluation([*FOLD_0, *FOLD_1], tmp_path, QUICK)
    for stage in ("stage_1", "end_to_end"):
        low, high = scores["intervals"][stage]["sensitivity"]
        assert low <= scores[stage]["sensitivity"] <= high
    one = write_evaluation(FOLD_0[:1], tmp_path / "one", QUICK)
    assert one["intervals"]["end_to_end"]["sensitivity"] is None
    assert one["intervals"]["end_to_end"]["count_agreement"]["icc"] is None
    assert one["intervals"]["end_to_end"]["sensitivity_at"]["1/8"] is None


def test_a_candidate_that_a_better_one_stands_beside_is_not_on_the_end_to_end_curve(tmp_path):
    twice = record("a", (50, 0.9, 0.9), (52, 0.8, 0.8), (0, 0.7, 0.7))
    twice.candidates[1].accepted = False  # as inference drops it, within 3 mm
    scores = write_evaluation([twice], tmp_path, QUICK)
    assert scores["end_to_end"]["sensitivity_at"]["1"] == 1
    assert scores["stage_1"]["sensitivity_at"]["1"] == 0
    loose = write_evaluation([twice], tmp_path / "loose", EvaluationOptions(bootstrap=0, duplicate_mm=0))
    assert loose["end_to_end"]["sensitivity_at"]["1"] == 0


def test_subjects_that_failed_are_named_in_the_report(tmp_path):
    class Failing(Engine):
        failures = {"s9": "OSError: no such file"}  # noqa: RUF012

    handler = EvaluationReport(tmp_path, bootstrap=0)
    handler.reset(None)
    handler.records = [FOLD_0[0]]
    handler.write(Failing(lambda engine, batch: None))
    assert json.loads((tmp_path / "metrics.json").read_text())["evaluated"]["n_left_out"] == 1
    assert "<li><b>s9</b>: OSError: no such file</li>" in (tmp_path / "report.html").read_text()


def test_command_of_the_documentation_pools_saved_records(tmp_path):
    for name, fold in (("evaluation_0", FOLD_0), ("evaluation_1", FOLD_1)):
        save_records(tmp_path / name / "records.json", fold)
    (tmp_path / "cmb_bundle").symlink_to(ROOT / "cmb_bundle")
    page = (ROOT / "docs" / "reference" / "evaluation.md").read_text(encoding="utf-8")
    command = next(line for line in page.splitlines() if "configs/report.json" in line)
    words = [*shlex.split(command)[2:], "--bootstrap", "100", "--data_set", "two folds"]
    done = run_module(words, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    options = EvaluationOptions(bootstrap=100, data_set="two folds")
    write_evaluation([*FOLD_0, *FOLD_1], tmp_path / "whole", options)
    assert content(tmp_path / "pooled") == content(tmp_path / "whole")


def test_options_of_the_documentation_are_at_the_top_of_the_config():
    page = (ROOT / "docs" / "reference" / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \|", page, re.MULTILINE)
    config = json.loads((ROOT / "cmb_bundle" / "configs" / "evaluate.json").read_text())
    named = {name: default.strip("`") for name, default in rows if name in config}
    assert named.keys() == {"distance_mm", "strict_mm", "duplicate_mm", "bootstrap", "system"}
    assert all(str(config[name]) == default for name, default in named.items())
    assert all(f"`{name}`" in page for name in FILES)
