"""Ids that cannot name a folder or a file are failed subjects; the others are not lost with them."""

import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import IterationEvents

from cmb_bundle.scripts.data.ids import LONGEST_ID, check_id, fits_windows, problem_of_id
from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.errors import SubjectError, show_cause_last
from cmb_bundle.scripts.files import write_json
from cmb_bundle.scripts.inference.writers import SubjectWriter, write_findings
from cmb_bundle.scripts.regions.parcellation import find_parcellation


def datalist(tmp_path, *entries):
    (tmp_path / "scan.nii").write_bytes(b"x")
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "scan.nii"} | entry for entry in entries]))
    return {subject["subject"]: subject for subject in find_subjects(path)}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("y" * 300, "an id of 300 bytes, yyyyyyyyyyyyyyyyyyyy"),
        ("한" * 90, "an id of 270 bytes"),
        ("y" * 241, "an id of 241 bytes"),
        ("a\nb", r"the control character '\\n'"),
        ("nul\0", r"the control character '\\x00'"),
    ],
)
def test_an_id_that_names_no_folder_fails_alone(tmp_path, name, reason):
    subjects = datalist(tmp_path, {"subject": name}, {"subject": "ok"})
    assert reason.replace("\\\\", "\\") in subjects[name]["error"]
    assert "image" not in subjects[name]
    assert set(subjects["ok"]) == {"subject", "image"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
def test_a_name_that_is_no_utf8_fails_alone(tmp_path):
    """As unpacked from a .zip of Windows; such a letter can be written into no table."""
    for name in (b"a_swi.nii", b"M\xfcller_swi.nii", b"b_swi.nii", b"b_label_\xfc.csv", b"z_\xfc_label.csv"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    subjects = {subject["subject"]: subject for subject in find_subjects(tmp_path)}
    json.dumps(list(subjects.values()), ensure_ascii=False).encode()
    assert "error" not in subjects["a"]
    assert r"not in UTF-8, M\udcfcller, as of a .zip" in subjects[r"M\udcfcller"]["error"]
    assert "image" not in subjects[r"M\udcfcller"]
    folder = tmp_path / os.fsdecode(b"\xe4")
    folder.mkdir()
    (folder / "c_swi.nii").write_bytes(b"x")
    with pytest.raises(SubjectError, match="c: has a name that is not in UTF-8") as caught:
        find_subjects(folder)
    str(caught.value).encode()


@pytest.mark.parametrize("image", ["w" * 5000, "a\0b.nii"])
def test_a_path_that_no_file_can_have_fails_alone(tmp_path, image):
    subjects = datalist(tmp_path, {"subject": "long", "image": image}, {"subject": "ok"})
    assert "although the datalist names it" in subjects["long"]["error"]
    assert "error" not in subjects["ok"]


@pytest.mark.parametrize("name", ["CON", "aux", "nul.txt", "COM1", "lpt9", "a:b", "a?", "sub.", "sub "])
def test_an_id_that_windows_cannot_have(name):
    assert not fits_windows(name)
    assert not problem_of_id(name)
    elsewhere = check_id({"subject": name, "image": "a"}, windows=False)
    assert elsewhere["image"] == "a"
    assert f"no folder named {name}" in elsewhere["notices"]
    assert "Windows can have no folder" in check_id({"subject": name, "image": "a"}, windows=True)["error"]


@pytest.mark.parametrize("name", ["console", "auxiliary", "P-nul", "com10", "sub-01_ses.2", "한국"])
def test_ids_that_windows_can_have(name):
    assert check_id({"subject": name}, windows=True) == {"subject": name}


def test_results_of_the_longest_id_are_whole(tmp_path):
    name = "x" * LONGEST_ID
    label_map = MetaTensor(torch.zeros(1, 4, 4, 3), affine=torch.eye(4))
    folder = write_findings(tmp_path, name, {"microbleeds": [], "candidates": []}, label_map)
    SubjectWriter._write_swi(
        folder / f"{name}_cmb_swi.nii.gz",
        MetaTensor(
            torch.zeros(1, 4, 4, 3),
            affine=torch.eye(4),
            meta={"original_affine": np.eye(4), "spatial_shape": (4, 4, 3)},
        ),
    )
    assert {path.name[LONGEST_ID:] for path in folder.iterdir()} == {
        "_cmb.nii.gz", "_cmb.csv", "_cmb.json", "_cmb_swi.nii.gz"
    }  # fmt: skip
    assert write_json(tmp_path / f"{'y' * 250}.json", {}).is_file()


def test_a_parcellation_is_looked_for_by_the_longest_id(tmp_path):
    assert find_parcellation([tmp_path / "swi.nii.gz"], "x" * LONGEST_ID) is None


def test_a_failed_subject_with_a_long_id_leaves_the_end_of_the_run_whole(tmp_path, capsys):
    engine = Engine(lambda *_: None)
    engine.register_events(*IterationEvents)
    engine.failures = {"y" * 5000: "no image"}
    SubjectWriter(tmp_path).attach(engine)
    engine.fire_event(Events.COMPLETED)
    assert "0 microbleeds in 0 subjects" in capsys.readouterr().out


def test_a_console_without_a_letter_gets_its_number(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(UnicodeEncodeError):
        console.write("Müller")
    show_cause_last()
    console.write("Müller")
    console.flush()
    assert console.buffer.getvalue() == rb"M\xfcller"
