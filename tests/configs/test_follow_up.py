"""A follow-up through the whole of inference: patients with two scans, and those that cannot be compared."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigWorkflow
from nibabel.affines import apply_affine

from cmb_bundle.scripts.errors import OptionError, root_cause
from cmb_bundle.scripts.follow_up import FollowUp
from cmb_bundle.scripts.phantom import TINY, make_cohort

from ..helpers import CONFIGS


def run(scans, output, **options):
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / "inference.json"), str(CONFIGS / "follow_up.json")],
        workflow_type="infer",
        dataset_dir=str(scans),
        output_dir=str(output),
        device="cpu",
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def rename(scans, old, new):
    """Give a session's files to another participant."""
    for path in sorted(scans.glob(f"{old[0]}/ses-{old[1]}/*/*")):
        there = scans / new[0] / f"ses-{new[1]}" / path.parent.name
        there.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there / path.name.replace(f"{old[0]}_ses-{old[1]}", f"{new[0]}_ses-{new[1]}"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two whole patients; one with a scan twice, one with somebody else's, with a single one, with a broken one."""
    folder = tmp_path_factory.mktemp("follow_up")
    spec = TINY.changed(microbleeds=2)
    scans = Path(
        make_cohort(folder / "scans", 2, spec, seed=41, processes=1, sessions=2, new_microbleeds=2, progress=False)
    )
    rename(scans, ("sub-001", 1), ("sub-003", 1))
    rename(scans, ("sub-002", 2), ("sub-003", 2))  # two people under one id
    rename(scans, ("sub-001", 1), ("sub-004", 1))  # one scan
    rename(scans, ("sub-001", 1), ("sub-005", 1))
    rename(scans, ("sub-001", 2), ("sub-005", 2))
    broken = next(scans.glob("sub-005/ses-2/swi/*_swi.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:5000])
    rename(scans, ("sub-001", 1), ("sub-006", 1))
    rename(scans, ("sub-001", 1), ("sub-006", 2))
    printed = io.StringIO()
    with pytest.raises(RuntimeError) as raised, contextlib.redirect_stdout(printed):
        run(scans, folder / "out")
    error = root_cause(raised.value)
    error.printed = printed.getvalue()
    assert type(error).__name__ == "CohortError"  # the bundle's own package is another than the test's
    return scans, folder / "out", error


def read(output, patient):
    return json.loads((output / "follow_up" / patient / f"{patient}_cmb_follow_up.json").read_text())


@pytest.mark.parametrize("patient", ["sub-001", "sub-002"])
def test_lesions_are_followed_and_new_ones_told(done, patient):
    scans, output, _ = done
    content = read(output, patient)
    truths = [json.loads((scans / "Truth" / f"{patient}_ses-{n}.json").read_text()) for n in (1, 2)]
    to_first = np.array(truths[1]["to_first"])
    assert np.abs(apply_affine(np.array(content["scans"][1]["to_first"]), np.zeros(3))
                  - apply_affine(to_first, np.zeros(3))).max() < 1.5  # fmt: skip
    places = {m["lesion"]: (apply_affine(to_first, m["ras_mm"]), m["new"]) for m in truths[1]["microbleeds"]}
    told = []
    for lesion in content["lesions"]:
        near = [n for n, (place, _) in places.items() if np.linalg.norm(place - lesion["ras_mm"]) < 3]
        if near and lesion["status"] in ("new", "stable"):
            told.append((lesion["status"] == "new") == places[near[0]][1])
    assert told
    assert all(told)
    numbers = content["scans"][1]["since_first"]["new"]
    assert numbers["all"] == numbers["certain"] + numbers["possible"]
    assert numbers["all"] == sum(lesion["status"] == "new" for lesion in content["lesions"])
    assert "no diagnosis" in content["statement"]
    assert "not validated on patients" in content["statement"]


def test_a_lesion_has_the_same_number_in_all_label_maps(done):
    _, output, _ = done
    for patient in ("sub-001", "sub-002"):
        content, folder = read(output, patient), output / "follow_up" / patient
        for n, scan in enumerate(content["scans"]):
            name = scan["subject"]
            image = nib.load(folder / f"{name}_cmb_follow_up.nii.gz")
            plain = nib.load(output / name / f"{name}_cmb.nii.gz")
            assert np.array_equal(image.affine, plain.affine)
            values, former = (np.asarray(one.dataobj) for one in (image, plain))
            expected = {one["lesion"]: one["scans"][n] for one in content["lesions"] if one["scans"][n]["label"]}
            assert set(np.unique(values)) - {0} == set(expected)
            for number, seen in expected.items():
                assert np.array_equal(values == number, former == seen["label"])


def test_tables_have_a_row_for_each_lesion_and_patient(done):
    _, output, _ = done
    table = pd.read_csv(output / "follow_up" / "follow_up.csv").set_index("patient")
    assert list(table.index) == ["sub-001", "sub-002", "sub-006"]
    for patient in table.index:
        content = read(output, patient)
        rows = pd.read_csv(output / "follow_up" / patient / f"{patient}_cmb_follow_up.csv")
        assert list(rows["lesion"]) == [one["lesion"] for one in content["lesions"]]
        assert table.loc[patient, "new"] == (rows["status"] == "new").sum()
        assert table.loc[patient, "new_band"] == {0: "0"}.get(table.loc[patient, "new"], "1-4")
        assert (output / "follow_up" / patient / f"{patient}_cmb_follow_up.png").stat().st_size > 10_000


def test_what_cannot_be_compared_has_a_line_each_and_the_others_go_on(done):
    _, output, error = done
    lines = pd.read_csv(output / "failures.csv").set_index("subject")["reason"].to_dict()
    assert set(lines) == {"sub-003", "sub-004", "sub-005", "sub-005_ses-2"}
    assert "two people under one id" in lines["sub-003"]
    assert "fits better somewhere else" in lines["sub-003"]
    assert "one scan only" in lines["sub-004"]
    assert "Fewer than two of 2 scans" in lines["sub-005"]
    assert all(name in str(error) for name in lines)
    assert str(error).splitlines()[0] == (
        "1 of 11 scans failed, 3 of 6 patients have no follow-up; the others are done."
    )
    followed = {"sub-001", "sub-002", "sub-006", "follow_up.csv"}
    assert {path.name for path in (output / "follow_up").iterdir()} == followed


def test_a_scan_that_is_there_twice_is_warned_of(done):
    _, output, error = done
    warning = (
        "Warning: sub-006_ses-1 and sub-006_ses-2: the two scans hold the same values; one may be a copy. Look at "
        "where they come from."
    )
    assert read(output, "sub-006")["notices"][0] == warning
    table = pd.read_csv(output / "follow_up" / "follow_up.csv").set_index("patient")["notices"].fillna("")
    assert [name for name, notices in table.items() if "same values" in notices] == ["sub-006"]
    assert f"\n  {warning}\n" in error.printed
    assert error.printed.count(warning) == 1


@pytest.mark.parametrize(
    "wrong", [{"match_mm": 0}, {"joint_weight": 2}, {"certain_threshold": "much"}, {"output_layout": "bids"}]
)
def test_wrong_options_are_refused(tmp_path, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        FollowUp(None, None, tmp_path, **wrong)
