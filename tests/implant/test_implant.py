"""A folder of scans becomes a labelled data set, by the command that a user gives."""

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cmb_bundle.scripts.data import find_subjects, read_points
from cmb_bundle.scripts.errors import CohortError, OptionError, SubjectError
from cmb_bundle.scripts.implant import clearance, implant_microbleeds, place
from cmb_bundle.scripts.phantom import T2STAR, TINY, simulate
from cmb_bundle.scripts.phantom.cohort import write_scan

from ..helpers import REAL

GIVEN = {"microbleeds": 3, "diameter_mm": (2.0, 4.0), "seed": 4, "field_tesla": 3.0, "te_ms": 20.0}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """SWI + phase, SWI alone, magnitude + raw phase in LAS order, T2* alone; and one that cannot be read."""
    folder = tmp_path_factory.mktemp("scans")
    whole = simulate(TINY.changed(seed=21, microbleeds=0, phase_scale="unsigned4095", phase_polarity=-1))
    truth = {"microbleeds": []}
    write_scan({key: whole.images[key] for key in ("SWI", "Phase")}, whole.affine, truth, folder, "both")
    write_scan({"SWI": whole.images["SWI"]}, whole.affine, truth, folder, "swionly")
    turned, affine = {}, whole.affine @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = (whole.affine @ [whole.spec.shape[0] - 1, 0, 0, 1])[:3]
    for key in ("Magnitude", "Phase"):
        turned[key] = np.ascontiguousarray(whole.images[key][::-1])
    write_scan(turned, affine, truth, folder, "turned")
    thick = simulate(T2STAR.changed(seed=22, microbleeds=0, shape=(220, 220, 8), spacing=(1.0, 1.0, 4.0)))
    write_scan(thick.images, thick.affine, truth, folder, "thick")
    shutil.rmtree(folder / "Label")
    shutil.rmtree(folder / "Truth")
    (folder / "Data" / "SWI" / "broken.nii.gz").write_bytes(b"not an image")
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def implanted(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("implanted") / "out"
    before = contents(scans)
    with pytest.raises(CohortError, match=r"1 of 5 subjects failed; the others are done\.\n  broken: SubjectError"):
        implant_microbleeds(scans, folder, calcifications=1, **GIVEN)
    assert contents(scans) == before
    return folder


def test_the_copy_is_a_data_set_with_labels_and_truth(implanted):
    assert not list(implanted.parent.glob(".*"))
    found = {subject["subject"]: subject for subject in find_subjects(implanted)}
    assert {name: sorted(set(one) - {"subject", "label", "truth"}) for name, one in found.items()} == {
        "both": ["image", "phase"],
        "swionly": ["image"],
        "thick": ["t2star"],
        "turned": ["magnitude", "phase"],
    }
    for subject in found.values():
        truth = json.loads(Path(subject["truth"]).read_text())
        image = nib.load(next(subject[key] for key in ("image", "magnitude", "t2star") if key in subject))
        points = read_points(subject["label"], image.shape, image.affine)
        assert len(points.voxel) == len(truth["microbleeds"]) == 3
        real = np.array([lesion["ras_mm"] for lesion in truth["microbleeds"]])
        for lesion in truth["microbleeds"]:
            assert 2 <= lesion["diameter_mm"] <= 4
            assert nib.affines.apply_affine(image.affine, lesion["voxel"]) == pytest.approx(lesion["ras_mm"], abs=0.01)
        apart = np.linalg.norm(real[:, None] - real[None], axis=2)[np.triu_indices(3, 1)]
        assert apart.min() > 3 + 2
        assert len(truth["mimics"]) == ("phase" in subject)


def test_the_change_is_where_the_labels_are_and_nowhere_else(scans, implanted):
    for path in sorted((implanted / "Data").rglob("*.nii.gz")):
        name = path.relative_to(implanted)
        old, new = nib.load(scans / name), nib.load(path)
        assert new.get_data_dtype().kind == ("f" if old.get_data_dtype().kind == "f" else "i")
        assert np.array_equal(old.affine, new.affine)
        change = new.get_fdata() - old.get_fdata()
        truth = json.loads((implanted / "Truth" / f"{path.name[:-7]}.json").read_text())
        ours = truth["microbleeds"] + truth["mimics"]
        spacing = nib.affines.voxel_sizes(new.affine)
        away = np.full(change.shape, True)
        for lesion in ours:
            offset = (np.indices(change.shape).T - lesion["voxel"]) * spacing
            reach = max(3 * lesion["diameter_mm"], lesion["diameter_mm"] / 2 + 1.2 * spacing.max())
            away &= (np.linalg.norm(offset, axis=-1) > reach).T
            at = tuple(np.round(lesion["voxel"]).astype(int))
            if name.parts[1] != "Phase" and lesion in truth["microbleeds"]:
                assert change[at] < -0.1 * old.get_fdata()[at], (name, lesion)
        assert not change[away].any()
        assert change.any()


def test_a_phase_of_the_other_sign_gets_implants_of_that_sign(scans, implanted):
    """The stored phase of this scan falls where the field grows, so that above a microbleed it falls."""
    table = pd.read_csv(implanted / "implanted.csv").set_index("subject")
    assert list(table["microbleeds"]) == [3, 3, 3, 3]
    assert "could not be told" not in table.loc["both", "notices"]
    truth = json.loads((implanted / "Truth" / "both.json").read_text())
    old, new = (nib.load(folder / "Data" / "Phase" / "both.nii.gz").get_fdata() for folder in (scans, implanted))
    for kind, sign in (("microbleeds", -1), ("mimics", 1)):
        for lesion in truth[kind]:
            i, j, k = np.round(lesion["voxel"]).astype(int)
            # two slices above and below the phase is weak enough not to have wrapped
            turned = [(new - old)[i, j, k + n] * 2 * np.pi / 4095 for n in (-2, 2) if 0 <= k + n < old.shape[2]]
            assert sign * np.angle(np.exp(1j * np.array(turned))).sum() > 0, lesion


def test_the_same_seed_gives_the_same_bytes(scans, implanted, tmp_path):
    with pytest.raises(CohortError):
        implant_microbleeds(scans, tmp_path / "again", calcifications=1, **GIVEN)
    assert contents(tmp_path / "again") == contents(implanted)
    only = tmp_path / "only" / "Data" / "SWI"
    only.mkdir(parents=True)
    shutil.copy(scans / "Data" / "SWI" / "swionly.nii.gz", only)
    implant_microbleeds(tmp_path / "only", tmp_path / "alone", calcifications=1, **GIVEN)
    name = "Data/SWI/swionly.nii.gz"
    assert contents(tmp_path / "alone")[name] == contents(implanted)[name]
    implant_microbleeds(tmp_path / "only", tmp_path / "other", **GIVEN | {"seed": 5})
    assert contents(tmp_path / "other")[name] != contents(implanted)[name]


def test_a_scan_without_room_fails_and_nothing_is_left_behind(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    image = np.random.default_rng(0).uniform(0, 1000, (40, 40, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([0.8, 0.8, 2.0, 1.0])), folder / "one_swi.nii.gz")
    with pytest.raises(SubjectError, match=r"nothing was put into any of 1 scans:\n  one: .*there is no room"):
        implant_microbleeds(folder, tmp_path / "out", **GIVEN)
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_folders_that_are_not_for_it_are_refused(scans, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="which is not empty"):
        implant_microbleeds(scans, tmp_path, **GIVEN)
    with pytest.raises(OptionError, match="within the data set"):
        implant_microbleeds(scans, scans / "implanted", **GIVEN)
    with pytest.raises(OptionError, match=r"expected the smallest and the largest, as '\[2,5\]'"):
        implant_microbleeds(scans, tmp_path / "out", **GIVEN | {"diameter_mm": (5.0, 2.0)})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_places_keep_away_from_veins_ends_and_each_other():
    image = np.full((60, 60, 12), 100.0, np.float32)
    image[28:31] = 20.0
    distance, step = clearance(image, np.ones(image.shape, bool), (1.0, 1.0, 2.0))
    rng, taken = np.random.default_rng(0), []
    while (found := place(distance, step, image.shape, (1.0, 1.0, 2.0), 4.0, taken, rng)) is not None:
        taken.append((np.array(found.voxel), 2.0))
    centres = np.array([voxel for voxel, _ in taken])
    assert len(centres) > 30
    assert (np.abs(centres[:, 0] - 29) > 3.4).all()
    assert centres[:, 2].min() >= 1
    assert centres[:, 2].max() <= 10
    assert (centres[:, :2].min(axis=0) >= 3.5).all()
    apart = np.linalg.norm((centres[:, None] - centres[None]) * [1, 1, 2], axis=2)[np.triu_indices(len(centres), 1)]
    assert apart.min() > 7


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not here")
def test_microbleeds_in_a_real_scan(tmp_path):
    """Three echoes, of which the last is taken, and a phase in odd units, unfiltered."""
    for name in ("mag", "phase"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        shutil.copy(REAL / "gre_crop" / f"{name}.nii.gz", tmp_path / "scans" / f"crop_{name}.nii.gz")
    table = implant_microbleeds(tmp_path / "scans", tmp_path / "out", **GIVEN | {"microbleeds": 2, "te_ms": 12.0})
    assert list(table["microbleeds"]) == [2]
    assert "Echo 3 of 3 was taken." in table["notices"][0]
    truth = json.loads((tmp_path / "out" / "Truth" / "crop.json").read_text())
    new = nib.load(tmp_path / "out" / "Data" / "Magnitude" / "crop.nii.gz").get_fdata()
    old = nib.load(REAL / "gre_crop" / "mag.nii.gz").get_fdata()[..., 2]
    for lesion in truth["microbleeds"]:
        at = tuple(np.round(lesion["voxel"]).astype(int))
        assert new[at] < 0.7 * old[at]


def test_sensitivity_by_size_on_ones_own_scans(scans, bundle, tmp_path):
    """From scans to the table of the report, by the commands of the page."""
    chosen = tmp_path / "scans" / "Data"
    for folder, name in (("SWI", "both"), ("Phase", "both"), ("SWI", "swionly")):
        (chosen / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(scans / "Data" / folder / f"{name}.nii.gz", chosen / folder)
    bundle(
        "run", ["implant.json"], tmp_path, dataset_dir="scans", output_dir="implanted", microbleeds=4,
        diameter_mm=[2.5, 6.0],
    )  # fmt: skip
    bundle(
        "run", ["inference.json", "evaluate.json"], tmp_path, dataset_dir="implanted", subset="all",
        output_dir="sensitivity", bootstrap=20, compare_with_baseline=False,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "sensitivity" / "metrics.json").read_text())
    assert metrics["evaluated"]["implanted"] is True
    rows = {row["name"]: row for row in metrics["strata"]["diameter"]}
    truth = [json.loads(path.read_text()) for path in (tmp_path / "implanted" / "Truth").glob("*.json")]
    sizes = np.array([lesion["diameter_mm"] for one in truth for lesion in one["microbleeds"]])
    assert set(rows) <= {"2-3 mm", "3-5 mm", ">5 mm"}
    assert rows["2-3 mm"]["n_lesions"] == (sizes < 3).sum() > 0
    assert rows["3-5 mm"]["n_lesions"] == ((sizes >= 3) & (sizes <= 5)).sum() > 0
    found = sum(row["end_to_end_found"] for row in rows.values())
    assert found >= 2, rows  # of 8, in voxels wider than those that the weights learned from


def test_a_failed_scan_ends_the_command_with_its_reason(scans, bundle, tmp_path):
    chosen = tmp_path / "scans" / "Data" / "SWI"
    chosen.mkdir(parents=True)
    for name in ("swionly", "broken"):
        shutil.copy(scans / "Data" / "SWI" / f"{name}.nii.gz", chosen)
    done = bundle("run", ["implant.json"], tmp_path, check=False, dataset_dir="scans", microbleeds=2)
    assert done.returncode != 0
    assert "1 of 2 subjects failed; the others are done." in done.stderr
    failures = pd.read_csv(tmp_path / "implanted" / "failures.csv")
    assert list(failures["subject"]) == ["broken"]
    assert [path.name for path in (tmp_path / "implanted" / "Label").iterdir()] == ["swionly.xlsx"]
