"""A second run does what is left, results are replaced whole, and a signal or a full disk ends a run in order."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import pandas as pd
import pytest
from monai.bundle import ConfigWorkflow

from cmb_bundle.scripts.files import aside_of, clear_leftovers, replace_folder
from cmb_bundle.scripts.inference.former import FormerResults
from cmb_bundle.scripts.inference.stop import StopSignals

from ..helpers import CONFIGS
from ..helpers.processes import start_module

INFERENCE = ["inference.json"]
ALL = ["phantom-001", "phantom-002", "phantom-003"]
EVALUATE = ["inference.json", "evaluate.json"]


def run(configs, dataset_dir, output_dir, **overrides):
    """Run a configuration in this process; returns the evaluator, and the error that ended it, if one did."""
    files = [str(CONFIGS / name) for name in configs]
    where = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    workflow = ConfigWorkflow(
        files, workflow_type="infer", logging_file=False, **{"picture": False, **where, **overrides}
    )
    hook = sys.excepthook
    try:
        workflow.initialize()
        engine = workflow.evaluator
        workflow.run()
    except Exception as error:
        return engine, sys.modules["scripts.errors"].root_cause(error)
    finally:
        sys.excepthook = hook
    return engine, None


def flat_copy(cohort, folder, number=3):
    folder.mkdir()
    for path in sorted((cohort / "Data" / "SWI").iterdir())[:number]:
        name = path.name.removesuffix(".nii.gz")
        shutil.copy(path, folder / f"{name}_swi.nii.gz")
        shutil.copy(cohort / "Data" / "Phase" / path.name, folder / f"{name}_phase.nii.gz")
    return folder


def state(folder):
    """Each file of the subjects, with the time when it was written and its inode."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.glob("*/*")}


def redone(before, after):
    """The subjects with a file that was written anew."""
    return sorted({name.split("/")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)})


@pytest.fixture
def done(tiny_cohort, tmp_path, capsys):
    """Scans, and the results of a first run."""
    scans, output = flat_copy(tiny_cohort, tmp_path / "scans"), tmp_path / "results"
    _, error = run(INFERENCE, scans, output)
    assert error is None
    return scans, output, capsys.readouterr().out


def test_a_second_run_does_nothing_again_and_says_the_same(done, capsys):
    scans, output, first = done
    before = state(output)
    assert len([name for name in before if name.endswith("_cmb_run.json")]) == 3
    engine, error = run(INFERENCE, scans, output)
    assert error is None
    assert state(output) == before
    assert engine.skipped == ALL
    told, again = (out[out.index("\nMicrobleeds found") :].splitlines() for out in (first, capsys.readouterr().out))
    assert [line for line in again if "were done before" not in line] == told
    assert len(again) == len(told) + 1


def test_a_scan_that_is_there_twice_is_warned_of_in_both_runs(done, capsys):
    scans, output, first = done
    assert "same values" not in first
    for path in sorted(scans.glob(f"{ALL[0]}_*")):
        shutil.copy(path, scans / path.name.replace(ALL[0], "twin"))
    for skipped in (ALL, [*ALL, "twin"]):
        engine, error = run(INFERENCE, scans, output)
        assert error is None and engine.skipped == skipped
        said = [line for line in capsys.readouterr().out.splitlines() if "same values" in line]
        assert said == [f"Warning: {ALL[0]}, twin: these scans hold the same values; they may be copies of one."]
        warnings = pd.read_csv(output / "subjects.csv", keep_default_na=False).set_index("subject")["warnings"]
        assert warnings["twin"].endswith(f" The scan holds the same values as that of {ALL[0]}; it may be a copy.")
        assert warnings[ALL[0]].endswith(" The scan holds the same values as that of twin; it may be a copy.")
        assert [name for name, text in warnings.items() if "same values" in text] == [ALL[0], "twin"]


def test_an_image_made_from_a_scan_is_warned_of_as_no_other_person(done, capsys):
    scans, output, first = done
    assert "by their names" not in first
    for path in sorted(scans.glob(f"{ALL[1]}_*")):
        shutil.copy(path, scans / path.name.replace(ALL[1], f"{ALL[1]}_n4"))
    _, error = run(INFERENCE, scans, output)
    assert error is None
    said = [line for line in capsys.readouterr().out.splitlines() if "by their names" in line]
    assert [line.partition(" are counted")[0] for line in said] == [f"Warning: {ALL[1]} and {ALL[1]}_n4"]
    warnings = pd.read_csv(output / "subjects.csv", keep_default_na=False).set_index("subject")["warnings"]
    assert warnings[f"{ALL[1]}_n4"].endswith(f"By its name it may be an image made from the scan of {ALL[1]}.")
    assert "By its name" not in warnings[ALL[1]]


def test_what_has_changed_is_done_again(done):
    scans, output, _ = done
    path = scans / "phantom-002_phase.nii.gz"
    steps = [
        (lambda: os.utime(path, ns=(0, 1)), {}, ["phantom-002"]),
        (lambda: os.utime(path, ns=(0, 2)), {"compare_files": "content"}, ALL),
        (lambda: os.utime(path, ns=(0, 3)), {"compare_files": "content"}, []),
        (lambda: os.utime(path, ns=(0, 2)), {}, []),
        (lambda: (scans / "phantom-003_swi.json").write_text('{"EchoTime": 0.02}'), {}, ["phantom-003"]),
        (lambda: (output / "phantom-001" / "phantom-001_cmb.nii.gz").write_bytes(b"cut"), {}, ["phantom-001"]),
        (lambda: (output / "phantom-001" / "phantom-001_cmb.json").unlink(), {}, ["phantom-001"]),
        (lambda: (output / "phantom-001" / "phantom-001_cmb.csv").write_text("corrected by hand"), {}, []),
        (lambda: None, {"resume": False, "subjects": ["phantom-001"]}, ["phantom-001"]),
        (lambda: None, {"probability_threshold": 0.3, "subjects": ["phantom-002"]}, ["phantom-002"]),
    ]  # fmt: skip
    for step, (change, options, expected) in enumerate(steps):
        change()
        before = state(output)
        _, error = run(INFERENCE, scans, output, **options)
        assert error is None
        assert redone(before, state(output)) == expected, f"step {step}"


def test_other_weights_do_all_again(done, tmp_path):
    import torch

    scans, output, _ = done
    weights = torch.load(CONFIGS.parent / "models" / "model.pt", weights_only=True)
    torch.save(weights, tmp_path / "same.pt")
    weights["classifier.features.0.weight"][0] *= 1.001
    torch.save(weights, tmp_path / "other.pt")
    before = state(output)
    run(INFERENCE, scans, output, checkpoint=str(tmp_path / "same.pt"))
    assert state(output) == before
    run(INFERENCE, scans, output, checkpoint=str(tmp_path / "other.pt"), subjects=["phantom-001"])
    assert redone(before, state(output)) == ["phantom-001"]


def test_skipped_subjects_count_in_an_evaluation(tiny_cohort, tmp_path):
    cohort, output = tmp_path / "cohort", tmp_path / "results"
    shutil.copytree(tiny_cohort, cohort)
    options = {"subset": "all", "subjects": ALL[:2], "bootstrap": 20}
    names = ("metrics.json", "per_subject.csv", "records.json", "Predicted.csv")
    assert run(EVALUATE, cohort, output, **options)[1] is None
    first = {name: (output / name).read_bytes() for name in names}
    assert json.loads(first["metrics.json"])["end_to_end"]["n_subjects"] == 2
    before = state(output)
    engine, error = run(EVALUATE, cohort, output, **options)
    assert error is None and engine.skipped == ALL[:2]
    assert state(output) == before
    assert {name: (output / name).read_bytes() for name in names} == first
    (output / "phantom-001" / "phantom-001_cmb_records.json").unlink()
    (cohort / "Label" / "phantom-002.xlsx").touch()
    run(EVALUATE, cohort, output, **options)
    assert redone(before, state(output)) == ["phantom-001", "phantom-002"]
    assert {name: (output / name).read_bytes() for name in names} == first


def test_bids_derivatives_are_not_done_again_and_have_the_tables_of_a_cohort(tiny_cohort, tmp_path):
    scans, output = flat_copy(tiny_cohort, tmp_path / "scans", 2), tmp_path / "results"
    options = {"output_layout": "bids", "cohort_files": True, "picture": True}
    assert run(INFERENCE, scans, output, **options)[1] is None
    label_map = output / "sub-phantom001" / "anat" / "sub-phantom001_space-orig_desc-cmb_dseg.nii.gz"

    def written():
        return {str(path): path.stat().st_mtime_ns for path in output.glob("sub-*/**/*_*")}

    first, table = written(), pd.read_csv(output / "cohort.csv")
    assert len(first) == 2 * 6
    assert list(table["state"]) == ["done", "done"] and table["seconds"].notna().all()
    assert "sub-phantom001/figures/sub-phantom001_desc-cmb_dseg.png" in (output / "cohort.html").read_text()
    engine, error = run(INFERENCE, scans, output, **options)
    assert error is None and engine.skipped == ALL[:2]
    assert written() == first
    pd.testing.assert_frame_equal(pd.read_csv(output / "cohort.csv"), table)

    label_map.write_bytes(b"cut")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = sha256(socket.gethostname().encode()).hexdigest()[:8]
    left = label_map.with_name(f".{host}{gone.pid:08x}{'0' * 16}.{label_map.name}")
    left.touch()
    engine, _ = run(INFERENCE, scans, output, **options)
    assert engine.skipped == ALL[1:2] and not left.exists()
    assert {name for name, when in written().items() if first[name] != when} == {n for n in first if "phantom001" in n}


def test_what_a_killed_run_left_is_cleared(tmp_path):
    host = sha256(socket.gethostname().encode()).hexdigest()[:8]

    def aside(name, process, host=host):
        return tmp_path / f".{host}{process:08x}{uuid.uuid4().hex[:16]}.{name}"

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    half, former, mine, theirs = (
        aside("P1", gone.pid), aside("P2", gone.pid), aside("P3", os.getppid()), aside("P4", 1, "0" * 8),
    )  # fmt: skip
    for folder, name in ((half / "P1", "P1_cmb.csv"), (former, "P2_cmb.csv"), (mine, "x"), (theirs, "x")):
        folder.mkdir(parents=True)
        (folder / name).write_text("old")
    (half / "P1" / "notes.txt").write_text("of a person")  # exchanged, but not yet moved
    (tmp_path / "P1").mkdir()
    (tmp_path / "P1" / "P1_cmb.csv").write_text("whole")
    aside("failures.csv", gone.pid).touch()
    (tmp_path / ".hidden").touch()
    assert clear_leftovers(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".hidden", "P1", "P2", mine.name, theirs.name])
    assert (tmp_path / "P1" / "P1_cmb.csv").read_text() == "whole"
    assert (tmp_path / "P1" / "notes.txt").read_text() == "of a person"
    assert (tmp_path / "P2" / "P2_cmb.csv").read_text() == "old"
    os.utime(theirs, (0, 0))
    assert clear_leftovers(tmp_path) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says in /proc that a process is a zombie")
def test_what_a_zombie_left_is_cleared(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host = sha256(socket.gethostname().encode()).hexdigest()[:8]
    left = tmp_path / f".{host}{process.pid:08x}{uuid.uuid4().hex[:16]}.failures.csv"
    left.touch()
    assert clear_leftovers(tmp_path) == 0
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still to be asked for its exit status
    assert clear_leftovers(tmp_path) == 1
    assert not left.exists()
    process.wait()


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_kill_leaves_the_old_or_the_new_results(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr("cmb_bundle.scripts.files._exchange", lambda one, other: False)
    folder = tmp_path / "P1"
    folder.mkdir()
    for name in "abc":
        (folder / f"P1_cmb_{name}").write_text("start")
    (folder / "notes.txt").write_text("of a person")
    seen = set()
    for number in range(6):
        process = os.fork()
        if process == 0:
            for version in range(100000):
                new = aside_of(folder) / "P1"
                new.mkdir(parents=True)
                for name in "abc":
                    (new / f"P1_cmb_{name}").write_text(f"{number} {version}")
                replace_folder(new, folder)
                shutil.rmtree(new.parent, ignore_errors=True)
            os._exit(0)
        time.sleep(0.03 + 0.011 * number)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        if in_one_step:
            assert len({(folder / f"P1_cmb_{name}").read_text() for name in "abc"}) == 1
        clear_leftovers(tmp_path)
        versions = {(folder / f"P1_cmb_{name}").read_text() for name in "abc"}
        assert len(versions) == 1
        assert (folder / "notes.txt").read_text() == "of a person"
        assert [p.name for p in tmp_path.iterdir()] == ["P1"]
        seen |= versions
    assert len(seen) > 3


def test_a_full_disk_stops_the_run_and_names_the_file(done, monkeypatch):
    scans, output, _ = done
    save = nib.save

    def full(image, path):
        if "phantom-002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path)

    monkeypatch.setattr(nib, "save", full)
    before = state(output)
    engine, error = run(INFERENCE, scans, output, resume=False)
    assert str(error).startswith("Stopped after 1 of 3 subjects, ")
    assert "phantom-002_cmb.nii.gz cannot be written: the disk is full (No space left on device)" in str(error)
    assert "The same command goes on with the rest." in str(error)
    assert engine.failures == {}
    assert redone(before, state(output)) == ["phantom-001"], "the others are as they were"
    assert not list(output.glob(".*"))


def test_an_output_folder_that_cannot_be_written_is_known_before_any_work(tiny_cohort, tmp_path, monkeypatch):
    def refused(self, content):
        raise OSError(errno.EROFS, "Read-only file system")

    scans = flat_copy(tiny_cohort, tmp_path / "scans", 1)
    monkeypatch.setattr(Path, "write_bytes", refused)
    _, error = run(INFERENCE, scans, tmp_path / "results")
    assert str(error).startswith(f"{tmp_path / 'results'} cannot be written: its folder cannot be written to")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_order(tiny_cohort, tmp_path, number, status):
    scans, output = flat_copy(tiny_cohort, tmp_path / "scans", 4), tmp_path / "results"
    (scans / "a_swi.nii.gz").write_bytes(b"no scan")
    command = ["monai.bundle", "run", "--config_file", str(CONFIGS / "inference.json")]
    command += ["--dataset_dir", str(scans), "--output_dir", str(output)]
    process = start_module(command, tmp_path, tmp_path / "out", tmp_path / "log")
    while process.is_alive() and not list(output.glob("phantom-001/*_cmb_run.json")):
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(120)
    out, said = ((tmp_path / name).read_text() for name in ("out", "log"))
    assert process.exitcode == status, said
    whole = sorted(path.parent.name for path in output.glob("*/*_cmb_run.json"))
    assert 1 <= len(whole) < 4
    assert sorted(path.name for path in output.iterdir()) == ["failures.csv", *whole, "subjects.csv"]
    assert list(pd.read_csv(output / "failures.csv")["subject"]) == ["a"]
    assert f"Stopped after {len(whole) + 1} of 5 subjects, by {number.name}. 1 of 5 subjects failed." in said
    assert re.search(rf"microbleeds? in {len(whole)} subjects?;", out)
    before = state(output)
    engine, error = run(INFERENCE, scans, output, picture=True)
    assert str(error).startswith("1 of 5 subjects failed; the others are done.")
    assert engine.skipped == whole
    assert set(redone(before, state(output))).isdisjoint(whole)


def test_a_second_signal_ends_at_once():
    process = os.fork()
    if process == 0:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            if stop.received != signal.SIGTERM:
                os._exit(1)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(2)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT


@pytest.mark.parametrize("name", ["P1_swi.img", "P1_aseg.mgz", "P1_aseg.tsv"])
def test_files_that_belong_to_the_scan_count_as_its_own(tmp_path, name):
    """The data of a header, a parcellation beside the scan, and the names of its labels."""
    for one in ("P1_swi.hdr", "P1_swi.img", "P1_aseg.mgz", "P1_aseg.tsv", "P2_swi.img"):
        (tmp_path / one).write_bytes(b"1")
    former, subject = FormerResults(tmp_path, None, run={}), {"subject": "P1", "image": str(tmp_path / "P1_swi.hdr")}
    before = former.identify(subject)
    (tmp_path / "P2_swi.img").write_bytes(b"12")
    assert former.identify(subject) == before
    (tmp_path / name).write_bytes(b"12")
    assert former.identify(subject) != before
