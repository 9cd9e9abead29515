"""Scores of candidates and of findings, with numbers worked out by hand."""

import json
import logging
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import IterationEvents

from cmb_bundle.scripts.report import CandidateFROC, EvaluationReport, SubjectWriter

AFFINE = np.diag([0.5, 0.5, 2.0, 1.0])


# ----------------------------------------------------------------------------------------------- CandidateFROC


def volume_output(lesions, *candidates):
    """Output for one subject: lesions in mm, candidates (i, j, k, score) in voxels of 0.5 x 0.5 x 2 mm."""
    table = [[i, j, k, 3.0, score, 1, np.nan] for i, j, k, score in candidates]
    return {
        "pred": torch.tensor(table, dtype=torch.float32).reshape(-1, 7),
        "image": MetaTensor(torch.zeros(2, 4, 4, 4), affine=torch.as_tensor(AFFINE)),
        "label": torch.tensor(lesions, dtype=torch.float64).reshape(-1, 3),
    }


def froc_of(*batches, **arguments):
    metric = CandidateFROC(**arguments)
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def test_froc_of_candidates():
    # in order of scores: hit .9, false .8, hit .7 (of 3 lesions), false .6, false .5; two subjects
    first = volume_output([[10, 10, 10], [40, 10, 10]], (20, 22, 5, 0.9), (2, 2, 1, 0.8), (80, 20, 6, 0.7))
    second = volume_output([[5, 5, 4]], (60, 60, 5, 0.6), (90, 60, 5, 0.5))
    # false candidates a subject: 0 with 1/3; 0.5 with 1/3; 0.5 with 2/3; 1 with 2/3; 1.5 with 2/3
    assert froc_of([first], [second], rates=(0, 0.5, 2)) == pytest.approx((1 / 3 + 2 / 3 + 2 / 3) / 3)
    assert froc_of([first, second], rates=(0.25,)) == pytest.approx(1 / 3)
    # the third hit is 2 mm away, and the first 1 mm
    assert froc_of([first, second], rates=(9,), distance_mm=1.5) == pytest.approx(1 / 3)
    assert froc_of([first, second], rates=(9,), distance_mm=0.5) == 0


def test_default_rates():
    # one hit below 3 false candidates in one subject: found at the rates 4, 8, 16, 32 of six
    one = volume_output([[10, 10, 10]], *[(100 + 40 * n, 2, 2, 0.9) for n in range(3)], (20, 20, 5, 0.1))
    assert froc_of([one]) == pytest.approx(4 / 6)


def test_no_lesion_is_no_score_and_reset_forgets():
    metric = CandidateFROC()
    metric.update([volume_output([], (1, 1, 1, 0.9))])
    assert math.isnan(metric.compute())
    metric.reset()
    metric.update([volume_output([[10, 10, 10]], (20, 20, 5, 0.9))])
    assert metric.compute() == 1.0
    metric.update([volume_output([[10, 10, 10]])])
    assert metric.compute() == 0.5


# -------------------------------------------------------------------------------------------- EvaluationReport


def found(ras, score, probability, accepted):
    return {
        "voxel": [1.0, 2.0, 3.0],
        "ras_mm": list(ras),
        "diameter_mm": 3.0,
        "detector_score": score,
        "probability": probability,
        "accepted": accepted,
    }


def evaluation(*candidates, lesions):
    kept = [{k: v for k, v in c.items() if k != "accepted"} for c in candidates if c["accepted"]]
    label = None if lesions is None else torch.tensor(lesions, dtype=torch.float64).reshape(-1, 3)
    return {"label": label, "result": {"candidates": list(candidates), "microbleeds": kept}}


def run(handler, outputs, batches=None):
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


def test_scores_of_two_subjects(tmp_path, capsys):
    run(EvaluationReport(tmp_path, distance_mm=5.0), TWO)
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["distance_mm"] == 5.0
    assert scores["stage_1"] == {
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
    }
    assert scores["stage_2_given_stage_1"] == {"sensitivity": 0.5, "false_positives_per_subject": 0.5}
    assert scores["end_to_end"] == {
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
    }
    assert scores["subject_level"] == {
        "true_positives": 1,
        "false_negatives": 0,
        "true_negatives": 1,
        "false_positives": 0,
        "sensitivity": 1.0,
        "specificity": 1.0,
    }
    assert (tmp_path / "per_subject.csv").read_text().splitlines() == [
        "subject,n_lesions,true_positives,false_negatives,false_positives,duplicates",
        "s0,3,1,2,1,1",
        "s1,0,0,0,0,0",
    ]
    # a line a candidate of stage 1, in the order of the JSON
    assert (tmp_path / "Actual.csv").read_text().split() == ["1", "1", "1", "0", "0", "0"]
    assert (tmp_path / "Predicted.csv").read_text().split() == ["1", "1", "0", "1", "0", "0"]

    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed]
    assert "Scores of 2 subjects with 3 microbleeds (hit within 5 mm)" in printed
    assert ["sensitivity", "FPavg", "precision"] in lines
    assert ["stage_1", "0.667", "1.5", "0.4"] in lines
    assert ["stage_2_given_stage_1", "0.500", "0.5", "-"] in lines
    assert ["end_to_end", "0.333", "0.5", "0.5"] in lines


def test_distance_is_used(tmp_path):
    run(EvaluationReport(tmp_path, distance_mm=0.5), TWO)
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["stage_1"]["true_positives"] == scores["end_to_end"]["true_positives"] == 0
    assert scores["stage_2_given_stage_1"]["sensitivity"] is None


def test_cohort_without_lesions_and_findings(tmp_path, capsys):
    run(EvaluationReport(tmp_path), [evaluation(lesions=[]), evaluation(lesions=[])])
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    scores = json.loads(text)
    for stage in ("stage_1", "end_to_end"):
        assert [scores[stage][k] for k in ("sensitivity", "precision", "f1")] == [None] * 3
        assert scores[stage]["false_positives_per_subject"] == 0
    assert scores["subject_level"]["sensitivity"] is None
    assert scores["subject_level"]["specificity"] == 1
    assert (tmp_path / "Actual.csv").read_text() == (tmp_path / "Predicted.csv").read_text() == ""
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower().replace("none", "")
    assert ["end_to_end", "-", "0.0", "-"] in [line.split() for line in printed.splitlines()]


def test_second_run_starts_anew(tmp_path):
    report = EvaluationReport(tmp_path)
    run(report, TWO)
    run(report, TWO)
    assert json.loads((tmp_path / "metrics.json").read_text())["end_to_end"]["n_subjects"] == 2
    assert len((tmp_path / "Actual.csv").read_text().split()) == 6


def test_subject_without_labels_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no labels to evaluate against.*give the subject a label file"):
        run(EvaluationReport(tmp_path), [evaluation(lesions=None)])


def test_no_subject_writes_nothing(tmp_path):
    report = EvaluationReport(tmp_path)
    report.reset(None)
    report.write(None)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------- SubjectWriter


def written(notices=""):
    """Batch and output of a subject whose file has the axes P, L, S."""
    affine = np.array([[0, -0.5, 0, 9.5], [-0.8, 0, 0, 20], [0, 0, 2.0, -3], [0, 0, 0, 1]])
    ras = np.array([[0.5, 0, 0, 5], [0, 0.8, 0, 16], [0, 0, 2.0, -3], [0, 0, 0, 1]])
    # the file has 6 voxels along P and 10 along L, RAS 10 x 6 x 4
    swi = MetaTensor(torch.arange(240.0).reshape(1, 10, 6, 4), affine=torch.as_tensor(ras))
    swi.meta["original_affine"], swi.meta["spatial_shape"] = affine, np.array([6, 10, 4])
    microbleed = {
        "voxel": [2.0, 3.0, 1.0],
        "ras_mm": [8.0, 18.4, -1.0],
        "diameter_mm": 3.21,
        "detector_score": 0.5,
        "probability": 0.875,
    }
    labels = torch.zeros((1, 6, 10, 4), dtype=torch.int16)
    labels[0, 2, 3, 1] = 1
    output = {
        "pred": MetaTensor(labels, affine=torch.as_tensor(affine)),
        "result": {"microbleeds": [microbleed], "candidates": [{**microbleed, "accepted": True}]},
    }
    return {"subject": "s0", "swi": swi, "notices": notices}, output


def test_files_of_a_subject_and_what_is_said(tmp_path, capsys, caplog):
    batch, output = written("No phase was found.")
    none = {"pred": output["pred"] * 0, "result": {"microbleeds": [], "candidates": []}}
    with caplog.at_level(logging.INFO):
        run(SubjectWriter(tmp_path), [output, none], [batch, {**batch, "subject": "s1"}])
    names = ["s0_cmb.csv", "s0_cmb.json", "s0_cmb.nii.gz", "s0_cmb.png"]
    assert sorted(p.name for p in (tmp_path / "s0").iterdir()) == names
    assert json.loads((tmp_path / "s0" / "s0_cmb.json").read_text())["notices"] == "No phase was found."
    assert (tmp_path / "s0" / "s0_cmb.csv").read_text().splitlines()[1].startswith("1,2,3,4,")
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "s0 1 2.0 3.0 1.0 8.0 18.4 -1.0 3.21 0.88" in printed
    assert "1 microbleeds in 2 subjects; subjects with none: s1" in printed
    assert f"Results are in {tmp_path.resolve()}" in printed
    assert "s0: 1 microbleeds of 1 candidates. No phase was found." in caplog.text
    assert "s1: 0 microbleeds of 0 candidates." in caplog.text


def test_convention_and_picture_are_chosen(tmp_path):
    batch, output = written()
    run(SubjectWriter(tmp_path, {"index_base": 0, "swap_xy": True}, picture=False), [output], [batch])
    assert sorted(p.suffix for p in (tmp_path / "s0").iterdir()) == [".csv", ".gz", ".json"]
    assert (tmp_path / "s0" / "s0_cmb.csv").read_text().splitlines()[1].startswith("1,1,3,2,")


def test_nothing_found_is_said(tmp_path, capsys):
    batch, output = written()
    output["result"] = {"microbleeds": [], "candidates": []}
    run(SubjectWriter(tmp_path, picture=False), [output], [batch])
    printed = capsys.readouterr().out
    assert "Microbleeds found" not in printed
    assert "0 microbleeds in 1 subjects; subjects with none: s0" in printed


def test_computed_swi_is_written_on_the_grid_of_the_file(tmp_path):
    batch, output = written("SWI was computed from magnitude and phase.")
    run(SubjectWriter(tmp_path, picture=False), [output], [batch])
    image = nib.load(tmp_path / "s0" / "s0_cmb_swi.nii.gz")
    np.testing.assert_allclose(image.affine, batch["swi"].meta["original_affine"])
    array = image.get_fdata()
    assert array.shape == (6, 10, 4)
    for index in ((0, 0, 0), (5, 9, 3), (2, 7, 1)):
        ras = nib.affines.apply_affine(image.affine, index)
        there = nib.affines.apply_affine(np.linalg.inv(batch["swi"].affine.numpy()), ras).round().astype(int)
        assert array[index] == batch["swi"][(0, *there)]


def test_writer_forgets_the_former_run(tmp_path, capsys):
    batch, output = written()
    writer = SubjectWriter(tmp_path, picture=False)
    writer.found["earlier"] = []
    run(writer, [output], [batch])
    assert "subjects with none: -" in capsys.readouterr().out
    assert [m["probability"] for m in writer.found["s0"]] == [0.875]
