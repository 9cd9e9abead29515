"""Some broken inputs of each kind, and that the judge of them notices what is wrong; all of them by ``make faults``."""

import json

import pytest

from .__main__ import table_of
from .judge import Outcome, in_process_of_its_own, judge, problem_of_line, run_workflow
from .scans import Fault


def test_broken_scans_end_as_a_result_or_as_a_plain_line(tiny_cohort, tmp_path):
    (tmp_path / "base").symlink_to(tiny_cohort)
    outcomes, _, gigabytes = in_process_of_its_own("some", tmp_path / "some")
    assert [one for one in outcomes if one.problem] == []
    table = table_of(outcomes)
    assert table.loc["all", "inputs"] == len(outcomes) > 45
    assert table.loc["all", "refused"] > 15
    assert table.loc["all", "same"] > 8
    assert gigabytes < 2.5


@pytest.fixture(autouse=True)
def errors():
    """The error classes, as a run imports them."""
    run_workflow(["inference.json"], dataset_dir="/nowhere")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("SubjectError: n1: the SWI a.nii does not exist. Check the path.", ""),
        ("IndexError: list index out of range", "no error that a user can mend"),
        ("something else", "no error that a user can mend"),
        ("SubjectError: a.nii cannot be read (MemoryError)", "it took all memory, or gives no reason"),
        ("SubjectError: one\ntwo", "2 lines of 21 letters"),
    ],
)
def test_what_is_a_plain_line(line, problem):
    assert problem_of_line(line) == problem


def found(folder, subject, count, warnings=""):
    (folder / subject).mkdir(parents=True)
    content = {"microbleeds": [{"voxel": [n, n, n]} for n in range(count)], "warnings": warnings}
    (folder / subject / f"{subject}_cmb.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("count", "warnings", "unknowable", "end", "problem"),
    [
        (3, "", "", "same", ""),
        (2, "", "", "differs", "2 microbleeds, not 3, without a warning"),
        (2, "two voxel sizes", "", "warned", ""),
        (2, "", "no checksum", "differs", ""),
    ],
)
def test_other_findings_need_a_warning(tmp_path, count, warnings, unknowable, end, problem):
    found(tmp_path, "intact", 3)
    found(tmp_path, "n0000", count, warnings)
    outcome = judge(Fault("kind", "name", None, unknowable), "n0000", "intact", tmp_path, {"n0000": {}}, {})
    assert (outcome.end, outcome.problem) == (end, problem)


def test_an_input_in_no_table_is_lost_and_a_failure_has_no_results(tmp_path):
    found(tmp_path, "intact", 3)
    found(tmp_path, "n0000", 3)
    fault = Fault("kind", "name", None)
    assert judge(fault, "n0001", "intact", tmp_path, {"n0000": {}}, {}).problem == "neither a result nor a failure"
    line = "SubjectError: it cannot be read."
    assert judge(fault, "n0001", "intact", tmp_path, {}, {"n0001": line}).problem == ""
    assert judge(fault, "n0000", "intact", tmp_path, {}, {"n0000": line}).problem == "it has failed and has results"


def test_a_part_that_crashes_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 1"):
        in_process_of_its_own("some", tmp_path / "some")  # there is no intact scan


def test_the_table_counts_what_is_wrong():
    table = table_of([Outcome("a", "1", "same"), Outcome("a", "2", "lost", "", "gone"), Outcome("b", "1", "refused")])
    assert table.loc["a"].to_dict() == {
        "inputs": 2, "same": 1, "warned": 0, "refused": 0, "differs": 0, "lost": 1, "wrong": 1,
    }  # fmt: skip
    assert table.loc["all", "wrong"] == 1
