"""The program as a BIDS app, as a container starts it: a participant in a process of its own, and the group."""

import os
import re
import shlex
import shutil
import sys

import pandas as pd
import pytest

from cmb_bundle.scripts.errors import OptionError, SubjectError
from cmb_bundle.scripts.inference.bids_app import main, parse

from ..helpers import ROOT
from ..helpers.commands import commands
from ..helpers.processes import run_module


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


@pytest.fixture(scope="module")
def bids(tiny_cohort, tmp_path_factory):
    """Three participants, of which the last has a damaged scan."""
    folder = tmp_path_factory.mktemp("bids") / "data"
    for label, subject in (("01", "phantom-001"), ("02", "phantom-002"), ("03", None)):
        here = folder / f"sub-{label}" / "swi"
        here.mkdir(parents=True)
        if subject is None:
            (here / f"sub-{label}_swi.nii.gz").write_bytes(b"no scan")
            continue
        shutil.copy(tiny_cohort / "Data" / "SWI" / f"{subject}.nii.gz", here / f"sub-{label}_swi.nii.gz")
        phase = here / f"sub-{label}_part-phase_GRE.nii.gz"
        shutil.copy(tiny_cohort / "Data" / "Phase" / f"{subject}.nii.gz", phase)
    (folder / "dataset_description.json").write_text('{"Name": "tiny", "BIDSVersion": "1.9.0"}')
    return folder


def app(bids, output, *words):
    """The command, without a home that can be written to; as if the file system were read-only but for the output."""
    environment = {**os.environ, "HOME": "/nowhere", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return run_module(["cmb_bundle.scripts.inference.bids_app", bids, output, *words], "/", env=environment)


def test_participants_in_jobs_of_their_own_and_then_the_group(bids, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in bids.rglob("*")}
    done = app(bids, tmp_path / "out", "participant", "--participant_label", "01", "--picture", "False")
    assert done.returncode == 0, done.stderr[-2000:]
    done = app(bids, tmp_path / "out", "participant", "--participant_label", "sub-03", "02", "--picture", "False")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("  sub-03: SubjectError: sub-03: the SWI ")
    assert "Traceback" not in done.stderr
    # of the group nothing is written yet, by which jobs could undo what others wrote
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == {
        "error.log", "failures_03_02.csv",
    }  # fmt: skip

    done = app(bids, tmp_path / "out", "group")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("3 scans: 2 done, 1 failed.")
    table = pd.read_csv(tmp_path / "out" / "cohort.csv").set_index("subject")
    assert dict(table["state"]) == {"sub-01": "done", "sub-02": "done", "sub-03": "failed"}
    assert "sub-03_swi.nii.gz cannot be read" in table.loc["sub-03", "reason"]
    assert table["microbleeds"].notna().tolist() == [True, True, False]
    assert "sub-02" in (tmp_path / "out" / "cohort.html").read_text(encoding="utf-8")
    rows = pd.read_csv(tmp_path / "out" / "subjects.csv").set_index("subject")
    assert dict(rows["microbleeds"].dropna()) == dict(table["microbleeds"].dropna())
    assert rows.loc["sub-03", "failure"] == table.loc["sub-03", "reason"]
    assert {path: path.stat().st_mtime_ns for path in bids.rglob("*")} == before


def test_the_group_of_bids_derivatives(bids, tmp_path):
    options = ("--output_layout", "bids", "--picture", "False")
    done = app(bids, tmp_path, "participant", "--participant_label", "01", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    done = app(bids, tmp_path, "group")
    assert done.stdout.splitlines()[-1].startswith("3 scans: 2 not done, 1 done.")
    assert list(pd.read_csv(tmp_path / "cohort.csv")["state"]) == ["done", "not done", "not done"]
    assert list(pd.read_csv(tmp_path / "microbleeds.tsv", sep="\t")["source_id"]) == ["sub-01"]
    assert not (tmp_path / "subjects.csv").exists()


@pytest.mark.usefixtures("hooks")
def test_a_group_without_results_and_options_that_it_has_not(bids, tmp_path):
    with pytest.raises(SubjectError, match=r"has no results of the 3 scans of .*Run the level participant first"):
        main([str(bids), str(tmp_path), "group"])
    with pytest.raises(OptionError, match="echo: the level group has no options of inference"):
        main([str(bids), str(tmp_path), "group", "--echo", "0"])
    with pytest.raises(SubjectError, match="04"):
        main([str(bids), str(tmp_path), "group", "--participant_label", "04"])


def test_an_option_without_a_value_is_refused():
    with pytest.raises(OptionError, match="--echo is no option with a value"):
        parse(["/data", "/out", "participant", "--echo"])
    with pytest.raises(OptionError, match="5 is no option with a value"):
        parse(["/data", "/out", "participant", "--echo", "0", "5", "6"])
    with pytest.raises(SystemExit):
        parse(["/data", "/out", "session"])


STARTS = {"docker run": "cmb", "apptainer run": "cmb.sif", "python -m": "cmb_bundle.scripts.inference.bids_app"}


def test_the_commands_of_the_page_are_understood():
    page = (ROOT / "docs" / "container.md").read_text(encoding="utf-8")
    understood = []
    for start, program in STARTS.items():
        for line in commands(ROOT / "docs" / "container.md", start):
            words = shlex.split(line)
            given, options = parse(words[words.index(program) + 1 :])
            understood.append(given.analysis_level)
            assert options == {}
    assert understood == ["participant", "group", "participant", "participant"]
    options = re.findall(r"^\| `--(\w+)` \|", page, re.MULTILINE)
    assert len(options) == 4
    given, _ = parse(["/data", "/out", "group"])
    assert all(hasattr(given, name) for name in options)


@pytest.mark.parametrize("name", ["Dockerfile", "apptainer.def"])
def test_the_containers_start_this_program(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "cmb_bundle.scripts.inference.bids_app" in text
    assert "USER=cmb" in text, "a user without a name ends PyTorch"
    copied = [word for word in ("constraints.txt", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "cmb_bundle")]
    assert all((ROOT / word).exists() and word in text for word in copied)
