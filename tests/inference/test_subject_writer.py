"""What a person gets of an inference: files of a subject, and what is said."""

import json
import logging
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from cmb_bundle.scripts.inference.writers import SubjectWriter

from ..helpers.engine import run_subjects


def written(notices="", swi_computed=False):
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
        "classifier_probability": 0.75,
        "probability": 0.875,
    }
    labels = torch.zeros((1, 6, 10, 4), dtype=torch.int16)
    labels[0, 2, 3, 1] = 1
    output = {
        "pred": MetaTensor(labels, affine=torch.as_tensor(affine)),
        "result": {"microbleeds": [microbleed], "candidates": [{**microbleed, "accepted": True}]},
    }
    return {"subject": "s0", "swi": swi, "swi_computed": swi_computed, "notices": notices}, output


def test_files_of_a_subject_and_what_is_said(tmp_path, capsys, caplog):
    batch, output = written("No phase was found.")
    none = {"pred": output["pred"] * 0, "result": {"microbleeds": [], "candidates": []}}
    with caplog.at_level(logging.INFO):
        run_subjects(SubjectWriter(tmp_path), [output, none], [batch, {**batch, "subject": "s1"}])
    names = ["s0_cmb.csv", "s0_cmb.json", "s0_cmb.nii.gz", "s0_cmb.png"]
    assert sorted(p.name for p in (tmp_path / "s0").iterdir()) == names
    assert json.loads((tmp_path / "s0" / "s0_cmb.json").read_text())["notices"] == "No phase was found."
    assert (tmp_path / "s0" / "s0_cmb.csv").read_text().splitlines()[1].startswith("1,2,3,4,")
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "s0 1 2.0 3.0 1.0 8.0 18.4 -1.0 3.21 0.88" in printed
    assert "1 microbleed in 2 subjects; subjects with none: s1" in printed
    assert f"Results are in {tmp_path.resolve()}" in printed
    assert "s0: 1 microbleed of 1 candidate. No phase was found." in caplog.text
    assert "s1: 0 microbleeds of 0 candidates." in caplog.text


def test_convention_and_picture_are_chosen(tmp_path):
    batch, output = written()
    run_subjects(SubjectWriter(tmp_path, {"index_base": 0, "swap_xy": True}, picture=False), [output], [batch])
    assert sorted(p.suffix for p in (tmp_path / "s0").iterdir()) == [".csv", ".gz", ".json"]
    assert (tmp_path / "s0" / "s0_cmb.csv").read_text().splitlines()[1].startswith("1,1,3,2,")


def test_what_this_run_does_not_write_is_not_left_from_an_earlier_one(tmp_path):
    batch, output = written(swi_computed=True)
    run_subjects(SubjectWriter(tmp_path), [output], [batch])
    (tmp_path / "s0" / "s0_cmb_seg.dcm").write_text("of an earlier run")
    (tmp_path / "s0" / "notes.txt").write_text("of a person")
    run_subjects(SubjectWriter(tmp_path, picture=False), [output], [{**batch, "swi_computed": False}])
    names = ["notes.txt", "s0_cmb.csv", "s0_cmb.json", "s0_cmb.nii.gz"]
    assert sorted(p.name for p in (tmp_path / "s0").iterdir()) == names


def test_nothing_found_is_said(tmp_path, capsys):
    batch, output = written()
    output["result"] = {"microbleeds": [], "candidates": []}
    run_subjects(SubjectWriter(tmp_path, picture=False), [output], [batch])
    printed = capsys.readouterr().out
    assert "Microbleeds found" not in printed
    assert "0 microbleeds in 1 subject; subjects with none: s0" in printed


def test_computed_swi_is_written_on_the_grid_of_the_file(tmp_path):
    batch, output = written("The notice may say it in any words.", swi_computed=True)
    run_subjects(SubjectWriter(tmp_path, picture=False), [output], [batch])
    image = nib.load(tmp_path / "s0" / "s0_cmb_swi.nii.gz")
    np.testing.assert_allclose(image.affine, batch["swi"].meta["original_affine"])
    array = image.get_fdata()
    assert array.shape == (6, 10, 4)
    for index in ((0, 0, 0), (5, 9, 3), (2, 7, 1)):
        ras = nib.affines.apply_affine(image.affine, index)
        there = nib.affines.apply_affine(np.linalg.inv(batch["swi"].affine.numpy()), ras).round().astype(int)
        assert array[index] == batch["swi"][(0, *there)]


def test_words_of_the_notices_decide_nothing(tmp_path):
    # notices also hold what a scanner's operator typed as the description of a series
    batch, output = written("DICOM: SWI from series 4 'SWI was computed'.")
    run_subjects(SubjectWriter(tmp_path, picture=False), [output], [batch])
    assert not (tmp_path / "s0" / "s0_cmb_swi.nii.gz").exists()


def test_writer_forgets_the_former_run(tmp_path, capsys):
    batch, output = written()
    writer = SubjectWriter(tmp_path, picture=False)
    writer.found["earlier"] = []
    run_subjects(writer, [output], [batch])
    assert "subjects with none: -" in capsys.readouterr().out
    assert [m["probability"] for m in writer.found["s0"]] == [0.875]


def test_stale_files_of_an_id_with_brackets_are_removed(tmp_path):
    stale, others = tmp_path / "a[1]" / "a[1]_cmb.csv", tmp_path / "a[1]" / "a1_cmb.csv"
    stale.parent.mkdir()
    stale.touch()
    others.touch()
    SubjectWriter(tmp_path).remove_stale(SimpleNamespace(failures={"a[1]": "why"}))
    assert list(stale.parent.iterdir()) == [others]


def test_what_was_read_and_the_warnings_are_in_the_json_and_in_the_summary(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "cmb_bundle.scripts.inference.writers.draw_findings", lambda path, *a: (path.touch(), drawn.append(a[3]))
    )
    batch, output = written("Read. Warning: The slices are thick.")
    batches = [
        {**batch, "contrast": "t2star", "warnings": "The slices are thick."},
        {**batch, "subject": "s1", "contrast": "swi", "warnings": "", "notices": ""},
    ]
    run_subjects(SubjectWriter(tmp_path), [output, output], batches)
    one, other = (json.loads((tmp_path / s / f"{s}_cmb.json").read_text()) for s in ("s0", "s1"))
    assert (one["contrast"], one["warnings"]) == ("t2star", "The slices are thick.")
    assert one["notices"] == "Read. Warning: The slices are thick."
    assert (other["contrast"], other["warnings"]) == ("swi", "")
    assert drawn == ["The slices are thick.", ""]
    printed = capsys.readouterr().out.splitlines()
    assert "Read: swi (1), t2star (1)" in printed
    assert [line for line in printed if "Warning" in line] == ["Warning: s0: The slices are thick."]
