"""Agreement of readers with each other and with the program."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cmb_bundle.scripts.errors import CohortError, LabelError, OptionError, SubjectError
from cmb_bundle.scripts.report.raters import compare_raters

SHAPE, AFFINE = (60, 60, 30), np.diag([1.0, 1.0, 2.0, 1.0])
HEADER = "subject,lesion,slice,x,y,class\n"


def candidate(i, j, k, accepted, region=None):
    found = {"voxel": [i, j, k], "ras_mm": [i, j, 2 * k], "diameter_mm": 3.0, "probability": 0.5}
    found |= {"region": region, "side": "left"} if region else {}
    return found | {"accepted": accepted, "reason": "accepted" if accepted else "probability below 0.3"}


@pytest.fixture
def results(tmp_path):
    """Three scans; the program finds two, one and none."""
    scans = {
        "a": [
            candidate(10, 10, 5, True, "frontal"),
            candidate(30, 10, 5, True, "thalamus"),
            candidate(50, 9, 5, False),
        ],
        "b": [candidate(10, 10, 5, True, "frontal")],
        "c": [candidate(20, 20, 9, False)],
    }
    for subject, candidates in scans.items():
        folder = tmp_path / "results" / subject
        folder.mkdir(parents=True)
        bleeds = [one for one in candidates if one["accepted"]]
        content = {"candidates": candidates, "microbleeds": bleeds, "probability_threshold": 0.3}
        (folder / f"{subject}_cmb.json").write_text(json.dumps(content))
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), folder / f"{subject}_cmb.nii.gz")
    return tmp_path / "results"


def sheet(tmp_path, name, rows):
    path = tmp_path / name
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return str(path)


# voxel + 1: slice, x, y
FIRST = ["a,1,6,11,11,cmb", "a,2,6,31,11,no cmb", "a,3,6,51,10,cmb", "b,1,6,11,11,cmb", "c,1,10,21,21,no cmb"]
SECOND = ["a,1,6,11,11,cmb", "a,2,6,31,11,cmb", "a,3,6,51,10,no cmb", "b,1,6,11,11,no cmb", "c,1,10,21,21,no cmb"]


def test_two_readers_and_the_program(results, tmp_path):
    raters = {"A": sheet(tmp_path, "A.csv", FIRST), "B": sheet(tmp_path, "B.csv", SECOND)}
    told = compare_raters(results, raters, tmp_path / "out")
    assert told["subjects"] == 3 and told["raters"] == {"A": 3, "B": 2, "program": 3}
    pairs = {(pair["first"], pair["second"]): pair for pair in told["pairs"]}
    assert set(pairs) == {("A", "B"), ("A", "program"), ("B", "program")}
    readers = pairs["A", "B"]
    numbers = [readers[f"lesions_of_{who}"] for who in ("both", "first_alone", "second_alone")]
    assert numbers == [1, 2, 1]
    assert readers["positive_agreement"] == pytest.approx(2 / 5)
    # presence: a both, b A alone, c none; 2 of 3 agree, expected (2 * 1 + 1 * 2) / 9
    assert readers["presence"]["confusion"] == [[1, 0], [1, 1]]
    assert readers["presence"]["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert readers["counts"]["bland_altman"]["bias"] == pytest.approx(-1 / 3)  # 2, 1, 0 and 2, 0, 0
    # of five candidates two are decided alike: first and last
    assert readers["candidates"]["confusion"] == [[1, 1], [2, 1]]
    assert readers["candidates"]["kappa"] == pytest.approx((0.4 - (2 * 3 + 3 * 2) / 25) / (1 - 12 / 25))
    assert readers["by_region"]["frontal"]["lesions_of_first_alone"] == 1
    assert readers["by_region"]["thalamus"]["lesions_of_second_alone"] == 1
    assert readers["by_region"]["not known"]["lesions_of_first_alone"] == 1
    assert pairs["B", "program"]["lesions_of_both"] == 2 and pairs["B", "program"]["lesions_of_second_alone"] == 1
    assert json.loads((tmp_path / "out" / "agreement.json").read_text()) == told
    table = pd.read_csv(tmp_path / "out" / "agreement.csv")
    assert table[table["region"] == "all"]["both"].tolist() == [1, 2, 2]
    apart = pd.read_csv(tmp_path / "out" / "disagreements.csv")
    own = apart[(apart["found_by"] == "B") & (apart["not_by"] == "A")]
    assert own[["subject", "ras_r_mm", "ras_s_mm", "region"]].values.tolist() == [["a", 30.0, 10.0, "thalamus"]]


def test_a_folder_of_sheets_is_a_rater_and_places_near_each_other_are_one_lesion(results, tmp_path):
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / "a.csv").write_text("slice,x,y\n6,14,11\n")  # 3 mm from the program's
    (tmp_path / "sheets" / "b_label.csv").write_text("slice,x,y\n6,11,11\n")
    told = compare_raters(results, {"A": str(tmp_path / "sheets")}, tmp_path / "out")
    (pair,) = told["pairs"]
    assert (pair["lesions_of_both"], pair["lesions_of_second_alone"]) == (2, 1)
    assert told["left_out"] == {"c": {"A": "not rated"}} and told["subjects"] == 2
    told = compare_raters(results, {"A": str(tmp_path / "sheets")}, tmp_path / "out", distance_mm=2.0)
    assert told["pairs"][0]["lesions_of_both"] == 1


def test_two_runs_of_the_program(results, tmp_path):
    told = compare_raters(results, {"other run": str(results)}, tmp_path / "out")
    (pair,) = told["pairs"]
    assert pair["positive_agreement"] == 1 and pair["presence"]["kappa"] == 1 and pair["counts"]["icc"] == 1


def test_bids_derivatives_are_results_too(results, tmp_path):
    for subject in ("a", "b", "c"):
        folder = tmp_path / "bids" / f"sub-{subject}" / ("ses-1" if subject == "b" else "") / "anat"
        folder.mkdir(parents=True)
        stem = f"sub-{subject}_ses-1" if subject == "b" else f"sub-{subject}"
        content = json.loads((results / subject / f"{subject}_cmb.json").read_text()) | {"subject": subject}
        (folder / f"{stem}_desc-cmb_candidates.json").write_text(json.dumps(content))
        shutil.copy(results / subject / f"{subject}_cmb.nii.gz", folder / f"{stem}_space-orig_desc-cmb_dseg.nii.gz")
    raters = {"A": sheet(tmp_path, "A.csv", FIRST), "B": sheet(tmp_path, "B.csv", SECOND)}
    plain = compare_raters(results, raters, tmp_path / "out")
    assert compare_raters(tmp_path / "bids", raters, tmp_path / "out") == plain
    told = compare_raters(results, {"again": tmp_path / "bids"}, tmp_path / "out")  # as a rater
    assert told["pairs"][0]["lesions_of_both"] == 3 and told["pairs"][0]["positive_agreement"] == 1
    shutil.copytree(tmp_path / "bids" / "sub-a", results / "sub-a")
    with pytest.raises(SubjectError, match=r"a: has results in .*a_cmb\.json and in .*sub-a_desc-cmb_candidates\.json"):
        compare_raters(results, raters, tmp_path / "out")


def test_a_rating_that_cannot_be_read_is_named_and_the_others_are_compared(results, tmp_path):
    raters = {"A": sheet(tmp_path, "A.csv", [*FIRST[:4], "c,1,10,21,21,undecided"])}
    with pytest.raises(CohortError, match=r"A, c: .*1 rows of this subject are undecided"):
        compare_raters(results, raters, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert told["subjects"] == 2 and "undecided" in told["left_out"]["c"]["A"]


def test_what_cannot_be_compared_is_said(results, tmp_path):
    with pytest.raises(OptionError, match="expected a path by name for two raters"):
        compare_raters(results, None, tmp_path / "out")
    with pytest.raises(OptionError, match="none of them named program"):
        compare_raters(results, {"program": "x.csv"}, tmp_path / "out")
    with pytest.raises(SubjectError, match="results_dir is not given"):
        compare_raters(None, {"A": "x.csv"}, tmp_path / "out")
    with pytest.raises(LabelError, match="there is no such label file"):
        compare_raters(results, {"A": str(tmp_path / "absent.csv")}, tmp_path / "out")
    with pytest.raises(SubjectError, match="was rated by all"):
        compare_raters(results, {"A": sheet(tmp_path, "x.csv", ["x,1,6,11,11,cmb"])}, tmp_path / "out")


def test_the_command(results, tmp_path, bundle):
    path = sheet(tmp_path, "A.csv", FIRST)
    done = bundle(
        "run",
        ["agreement.json"],
        tmp_path,
        results_dir=results,
        raters=f"{{'A': '{path}'}}",
        output_dir=tmp_path / "out",
    )
    assert "Agreement on 3 subjects" in done.stdout and (tmp_path / "out" / "agreement.csv").is_file()
