"""Results as BIDS derivatives: their files, and what the validator of BIDS says of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import pandas as pd
import pytest

from cmb_bundle.scripts.errors import SubjectError
from cmb_bundle.scripts.inference.bids_output import COLUMNS, BidsOutput, bids_stem
from cmb_bundle.scripts.inference.writers import REGION_COLUMNS, TABLE_HEADER, SubjectWriter

from ..helpers.engine import run_subjects
from .test_subject_writer import written

PLACES = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def validate(folder):
    """The errors that the BIDS validator finds in a data set."""
    program = shutil.which("bids-validator-deno", path=PLACES)
    if program is None:
        pytest.skip("bids-validator-deno, of the extra test, is not installed")
    command = [program, str(folder), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PATH": PLACES})
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [(issue["code"], issue["location"]) for issue in issues if issue["severity"] == "error"]


def of(name, source=None, found=True, **more):
    batch, output = written(**more)
    sources = {"image": str(source)} if source else {}
    batch |= {"subject": name, "contrast": "swi", "warnings": "", "sources": json.dumps(sources)}
    if not found:
        output = {"pred": output["pred"] * 0, "result": {"microbleeds": [], "candidates": []}}
    return batch, output


def run(folder, source, *subjects, **options):
    writer = SubjectWriter(folder, output_layout="bids", dataset_dir=source, **options)
    run_subjects(writer, [output for _, output in subjects], [batch for batch, _ in subjects])
    return writer


def table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).to_dict("records")


@pytest.fixture
def derivatives(tmp_path):
    """Two sessions of one participant, one without microbleeds, and a subject whose id is none of BIDS."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    source = raw / "sub-01/ses-02/swi/sub-01_ses-02_swi.nii.gz"
    run(
        out,
        raw,
        of("sub-01_ses-02", source, swi_computed=True, notices="No phase\nwas found."),
        of("sub-01_ses-03_run-1", found=False),
        of("P_1", raw / "P_1_swi.nii.gz"),
    )
    return out


def test_the_validator_finds_no_error(derivatives):
    assert validate(derivatives) == []


def test_the_validator_is_listened_to(derivatives):
    (derivatives / "sub-01/ses-02/anat/sub-01_ses-02_space-orig_desc-cmb_dseg.json").unlink()
    (derivatives / "sub-P1/anat/extra.nii.gz").write_bytes(b"")
    errors = validate(derivatives)
    assert ("SIDECAR_KEY_REQUIRED", "/sub-01/ses-02/anat/sub-01_ses-02_space-orig_desc-cmb_dseg.nii.gz") in errors
    assert any(location == "/sub-P1/anat/extra.nii.gz" for _, location in errors)


def test_files_of_a_session(derivatives):
    folder = derivatives / "sub-01/ses-02"
    start = "sub-01_ses-02"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        f"anat/{start}_desc-cmb_candidates.json",
        f"anat/{start}_desc-computed_swi.nii.gz",
        f"anat/{start}_space-orig_desc-cmb_dseg.json",
        f"anat/{start}_space-orig_desc-cmb_dseg.nii.gz",
        f"anat/{start}_space-orig_desc-cmb_dseg.tsv",
        f"figures/{start}_desc-cmb_dseg.png",
    ]
    dseg = folder / f"anat/{start}_space-orig_desc-cmb_dseg"
    image = nib.load(f"{dseg}.nii.gz")
    assert image.shape == (6, 10, 4) and image.get_fdata().sum() == 1 == image.get_fdata()[2, 3, 1]
    (row,) = table(f"{dseg}.tsv")
    assert (row["index"], row["name"], row["slice"], row["x"], row["y"]) == ("1", "microbleed 1", "2", "3", "4")
    assert (row["ras_a_mm"], row["diameter_mm"], row["probability"]) == ("18.4", "3.21", "0.875")
    about = json.loads(Path(f"{dseg}.json").read_text())
    link = "bids:raw:sub-01/ses-02/swi/sub-01_ses-02_swi.nii.gz"
    assert about["Sources"] == [link] and about["SpatialReference"] == link
    assert about["Microbleeds"] == 1 and about["Notices"] == "No phase\nwas found." and about["Contrast"] == "swi"
    assert set(row) <= set(about), "each column is described"
    assert about["ras_r_mm"]["Units"] == about["diameter_mm"]["Units"] == "mm"
    candidates = json.loads((folder / f"anat/{start}_desc-cmb_candidates.json").read_text())
    assert candidates["subject"] == start and len(candidates["candidates"]) == 1


def test_each_column_of_the_table_is_described():
    assert list(COLUMNS)[2:] == [*TABLE_HEADER[1:], *REGION_COLUMNS]


def test_files_of_the_data_set(derivatives, tmp_path):
    about = json.loads((derivatives / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"][0]["Name"] == "cmb_bundle"
    assert about["GeneratedBy"][0]["Version"].count(".") == 2
    assert about["SourceDatasets"] == [{"URL": (tmp_path / "raw").as_uri()}]
    rows = table(derivatives / "microbleeds.tsv")
    assert [(r["participant_id"], r["session_id"], r["source_id"], r["microbleeds"], r["failure"]) for r in rows] == [
        ("sub-P1", "n/a", "P_1", "1", "n/a"),
        ("sub-01", "ses-02", "sub-01_ses-02", "1", "n/a"),
        ("sub-01", "ses-03", "sub-01_ses-03_run-1", "0", "n/a"),
    ]
    assert table(derivatives / "participants.tsv") == [
        {"participant_id": "sub-01", "scans": "2", "failed_scans": "0", "microbleeds": "n/a"},
        {"participant_id": "sub-P1", "scans": "1", "failed_scans": "0", "microbleeds": "1"},
    ]


def test_runs_add_up_and_failures_are_rows(derivatives, tmp_path):
    run(derivatives, tmp_path / "raw", of("sub-07"), picture=False)
    output = BidsOutput(derivatives, tmp_path / "raw2")
    output.remove("sub-01_ses-02")
    output.finish({"sub-01_ses-02": "SubjectError: damaged\nfile", "환자": "SubjectError: BIDS needs"})
    rows = {row["source_id"]: row for row in table(derivatives / "microbleeds.tsv")}
    assert list(rows) == ["P_1", "sub-01_ses-02", "sub-01_ses-03_run-1", "sub-07"]
    assert rows["sub-01_ses-02"]["microbleeds"] == "n/a"
    assert rows["sub-01_ses-02"]["failure"] == "SubjectError: damaged file"
    assert not list((derivatives / "sub-01/ses-02").rglob("*.*"))
    people = {row["participant_id"]: row for row in table(derivatives / "participants.tsv")}
    assert list(people["sub-01"].values()) == ["sub-01", "1", "1", "0"]
    links = json.loads((derivatives / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"raw": (tmp_path / "raw").as_uri(), "raw2": (tmp_path / "raw2").as_uri()}
    assert validate(derivatives) == []
    output.finish({})
    assert table(derivatives / "microbleeds.tsv")[1]["microbleeds"] == "n/a", "of an earlier run"


def test_who_has_no_scan_is_no_participant(tmp_path):
    run(tmp_path / "out", tmp_path, of("sub-01"), of("sub-02"), picture=False)
    output = BidsOutput(tmp_path / "out", tmp_path)
    output.remove("sub-02")
    output.finish({"sub-02": "damaged", "sub-03": "damaged"})
    assert [row["participant_id"] for row in table(tmp_path / "out/participants.tsv")] == ["sub-01"]
    rows = table(tmp_path / "out/microbleeds.tsv")
    assert [row["failure"] for row in rows] == ["n/a", "damaged", "damaged"]
    assert validate(tmp_path / "out") == []


def test_one_value_for_all_microbleeds(tmp_path):
    batch, output = of("sub-01")
    output["result"]["microbleeds"] *= 2
    run(tmp_path / "out", tmp_path, (batch, output), picture=False)
    rows = table(tmp_path / "out/sub-01/anat/sub-01_space-orig_desc-cmb_dseg.tsv")
    assert [row["index"] for row in rows] == ["1", "2"]
    about = json.loads((tmp_path / "out/sub-01/anat/sub-01_space-orig_desc-cmb_dseg.json").read_text())
    assert "all with the value 1" in about["Description"] and "all have the value 1" in about["index"]["Description"]
    assert [row["name"] for row in rows] == ["microbleed 1", "microbleed 2"]
    assert validate(tmp_path / "out") == []


def test_two_ids_of_one_label_are_refused(tmp_path):
    run(tmp_path / "out", tmp_path, of("P_1"), picture=False)
    with pytest.raises(SubjectError, match=r"P1: .*that of the subject P_1, and both ids become sub-P1"):
        run(tmp_path / "out", tmp_path, of("P1"), picture=False)
    with pytest.raises(SubjectError, match="needs an id with letters or digits"):
        bids_stem("환자")


def test_an_id_too_long_for_the_names_of_bids_fails_alone(tmp_path):
    writer = run(tmp_path, tmp_path, of("x" * 216), picture=False)
    assert (tmp_path / f"sub-{'x' * 216}/anat/sub-{'x' * 216}_space-orig_desc-cmb_dseg.nii.gz").is_file()
    for name in ("y" * 240, "sub-" + "y" * 217):
        with pytest.raises(SubjectError, match=r"^(sub-)?y+\.\.\.: its id, .* 220 at most. Give a shorter one"):
            run(tmp_path, tmp_path, of(name), picture=False)
    writer.remove_stale(SimpleNamespace(failures=["y" * 240, "sub-환자"]))
    writer.bids.finish({"y" * 240: "its id", "sub-환자": "its id", "z": "no image"})
    assert [row["source_id"] for row in table(tmp_path / "microbleeds.tsv")] == ["x" * 216, "z"]


def test_an_unknown_layout(tmp_path):
    with pytest.raises(ValueError, match="output_layout is 'BIDS'; expected 'default' or 'bids'"):
        SubjectWriter(tmp_path, output_layout="BIDS")


def test_the_default_layout_is_unchanged(tmp_path):
    batch, output = of("sub-01")
    run_subjects(SubjectWriter(tmp_path, picture=False), [output], [batch])
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "sub-01_cmb.csv",
        "sub-01_cmb.json",
        "sub-01_cmb.nii.gz",
    ]


def test_a_bids_data_set_from_end_to_end(tmp_path, tiny_cohort, bundle):
    scans = sorted(path.name for path in (tiny_cohort / "Data/SWI").iterdir())
    for session, name in zip(("a", "b"), scans, strict=False):
        folder = tmp_path / f"raw/sub-01/ses-{session}/swi"
        folder.mkdir(parents=True)
        shutil.copy(tiny_cohort / "Data/SWI" / name, folder / f"sub-01_ses-{session}_swi.nii.gz")
        shutil.copy(tiny_cohort / "Data/Phase" / name, folder / f"sub-01_ses-{session}_part-phase_GRE.nii.gz")
    shutil.copytree(tmp_path / "raw/sub-01", tmp_path / "raw/sub-02")  # not asked for, and misnamed
    options = {"dataset_dir": tmp_path / "raw", "output_dir": tmp_path / "out", "output_layout": "bids"}
    bundle("run", ["inference.json"], tmp_path, participant_label="01", **options)
    rows = table(tmp_path / "out/microbleeds.tsv")
    assert [(row["source_id"], row["contrast"]) for row in rows] == [
        ("sub-01_ses-a", "swi + phase"),
        ("sub-01_ses-b", "swi + phase"),
    ]
    about = json.loads((tmp_path / "out/sub-01/ses-a/anat/sub-01_ses-a_space-orig_desc-cmb_dseg.json").read_text())
    assert about["Sources"][1] == "bids:raw:sub-01/ses-a/swi/sub-01_ses-a_part-phase_GRE.nii.gz"
    assert str(about["Microbleeds"]) == rows[0]["microbleeds"]
    assert validate(tmp_path / "out") == []
    done = bundle("run", ["inference.json"], tmp_path, check=False, participant_label="77", **options)
    assert (
        done.returncode != 0
        and "participant_label: there is no sub-77 in the data set; there are 01, 02" in done.stderr
    )
