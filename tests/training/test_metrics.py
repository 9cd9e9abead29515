"""Metrics by which epochs are chosen, with numbers worked out by hand, in one process and in two."""

import json
import math
import re

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch

from cmb_bundle.scripts.training.metrics import CandidateFROC, FindingsFROC

from ..helpers import CONFIGS, TINY_CONFIG
from ..helpers.processes import run_code

AFFINE = np.diag([0.5, 0.5, 2.0, 1.0])


def volume_output(lesions, *candidates):
    """Output for one subject: lesions in mm, candidates (i, j, k, score) in voxels of 0.5 x 0.5 x 2 mm."""
    table = [[i, j, k, 3.0, score, 1, np.nan, np.nan] for i, j, k, score in candidates]
    return {
        "pred": torch.tensor(table, dtype=torch.float32).reshape(-1, 8),
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


def test_a_subject_seen_twice_counts_once():
    first = volume_output([[10, 10, 10]], (20, 20, 5, 0.9))
    second = volume_output([[10, 10, 10]])
    for one, name in ((first, "a"), (second, "b")):
        one["image"].meta["subject"] = name
    assert froc_of([first], [second], [first]) == 0.5


def test_no_subject_is_no_score():
    assert math.isnan(CandidateFROC().compute())


# ------------------------------------------------------------------------------------------------------ end to end


def findings_output(lesions, *candidates):
    """As ``volume_output``, with candidates (i, j, k, score, probability)."""
    output = volume_output(lesions, *[c[:4] for c in candidates])
    output["pred"][:, 7] = torch.tensor([c[4] for c in candidates], dtype=torch.float32)
    return output


def findings_froc(*outputs, **arguments):
    metric = FindingsFROC(**arguments)
    metric.update(outputs)
    return metric.compute()


def test_end_to_end_by_probability_and_not_by_detector_score():
    # the detector is surer of the false one; stage 2 is not
    one = findings_output([[10, 10, 10]], (20, 20, 5, 0.2, 0.9), (90, 20, 5, 0.8, 0.4))
    assert findings_froc(one, rates=(0,)) == 1
    assert froc_of([one], rates=(0,)) == 0


def test_candidates_that_were_not_classified_are_none():
    one = findings_output([[10, 10, 10]], (20, 20, 5, 0.2, math.nan), (90, 20, 5, 0.8, 0.4))
    assert findings_froc(one, rates=(8,)) == 0


def test_false_candidates_beside_a_more_probable_one_are_dropped_as_in_inference():
    # (90, 20) and (94, 20) are 2 mm apart
    false = [(90, 20, 5, 0.8, 0.9), (94, 20, 5, 0.8, 0.8)]
    one = findings_output([[10, 10, 10]], (20, 20, 5, 0.2, 0.5), *false)
    assert findings_froc(one, rates=(1,)) == 1
    assert findings_froc(one, rates=(1,), duplicate_mm=0) == 0


# ----------------------------------------------------------------------------------------------- several processes

TWO_PROCESSES = """
import sys
import ignite.distributed as idist
from tests.training.test_metrics import CandidateFROC, FindingsFROC, findings_output

SUBJECTS = [
    findings_output([[10, 10, 10]], (20, 20, 5, 0.9, 0.9), (90, 20, 5, 0.95, 0.1)),
    findings_output([[5, 5, 4]], (90, 60, 5, 0.5, 0.95)),
    findings_output([[5, 5, 4]], (10, 10, 2, 0.4, 0.2)),
]
for number, subject in enumerate(SUBJECTS):
    subject["image"].meta["subject"] = f"s{number}"

def scores(rank, world):
    # an even split gives the first subject to the second process again
    mine = [SUBJECTS[n % 3] for n in range(rank, 4, world)]
    found = []
    for metric in (CandidateFROC((0.1, 0.5, 1)), FindingsFROC((0.1, 0.5, 1))):
        metric.update(mine)
        found.append(metric.compute())
    return found

def work(rank):
    print(f"score {rank} {scores(rank, 2)}", flush=True)

if __name__ == "__main__":
    print(f"score alone {scores(0, 1)}", flush=True)
    with idist.Parallel(backend="gloo", nproc_per_node=2, start_method="fork") as parallel:
        parallel.run(work)
"""


def test_two_processes_have_the_score_of_all_their_subjects(tmp_path):
    done = run_code(TWO_PROCESSES, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(re.findall(r"score (\w+) (\[.*?\])", done.stdout))  # gloo may write into a line of its own accord
    # stage 1: false .95, hit .9, false .5, hit .4 in three subjects; end to end: false .95, hit .9, hit .2, false .1
    expected = [(0 + 1 / 3 + 2 / 3) / 3, (0 + 2 / 3 + 2 / 3) / 3]
    for name in ("alone", "0", "1"):
        assert json.loads(lines[name]) == pytest.approx(expected)


def test_volumes_of_validation_tell_their_subject(tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.json", TINY_CONFIG])
    parser.update({"dataset_dir": str(tiny_cohort), "output_dir": str(tmp_path), "bundle_root": str(CONFIGS.parent)})
    [batch] = list(parser.get_parsed_content("validate#dataloader"))[:1]
    volumes = decollate_batch(batch)
    assert [volume["image"].meta["subject"] for volume in volumes] == [volume["subject"] for volume in volumes]


# -------------------------------------------------------------------------------------- choosing epochs of stage 2


def test_overlay_chooses_the_epoch_of_stage_2_by_the_end_to_end_curve(tiny_cohort, bundle, tmp_path):
    output = tmp_path / "trained"
    bundle("training", ["train.json", "select_by_froc.json", TINY_CONFIG], tmp_path, dataset_dir=tiny_cohort,
           output_dir=output)  # fmt: skip
    last = torch.load(output / "classifier_last.pt", weights_only=True)
    assert 0 <= last["best_score"] <= 1, "a mean sensitivity, not a negative loss"
    assert last["scored_epoch"] == 2
    assert (output / "model.pt").is_file()


def test_overlay_names_the_handler_that_saves():
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.json", CONFIGS / "select_by_froc.json"])
    saver = parser["train_classifier#checkpoint"]
    assert saver["_target_"] == "scripts.training.TrainingCheckpoint"
    assert (saver["evaluator"], saver["metric"]) == ("@validate_both#evaluator", "mean_sensitivity")
    assert [h["_target_"] for h in parser["validate_classifier#handlers"]][-1] == "ValidationHandler"
