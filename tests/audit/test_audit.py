"""The label audit: darkness under points, the choice of a convention, and phantoms labelled in all 32."""

import ast
import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from openpyxl import Workbook

from cmb_bundle.scripts.audit.audit import audit_labels, look, options
from cmb_bundle.scripts.audit.verdict import CONVENTIONS, KEYS, darkness, judge
from cmb_bundle.scripts.data.labels import LabelConvention
from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.errors import SubjectError
from cmb_bundle.scripts.phantom import TINY, make_cohort

from ..helpers.dicom_series import Study, write_dicom_series

DEFAULT = LabelConvention()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two tiny phantoms with ten microbleeds each, and their voxels."""
    folder = tmp_path_factory.mktemp("audit") / "cohort"
    make_cohort(folder, 2, dataclasses.replace(TINY, microbleeds=10), seed=5, processes=1, progress=False)
    return folder


def voxels(cohort):
    truths = {path.stem: json.loads(path.read_text()) for path in (cohort / "Truth").iterdir()}
    return {name: np.round([m["voxel"] for m in t["microbleeds"]]) for name, t in sorted(truths.items())}


def write_labels(folder, voxels, convention, shape=TINY.shape):
    (folder / "Label").mkdir(exist_ok=True)
    for name, places in voxels.items():
        book = Workbook()
        for row in convention.from_voxel(places, shape):
            book.active.append([int(number) for number in row])
        book.save(folder / "Label" / f"{name}.xlsx")


@pytest.fixture
def relabelled(cohort, tmp_path):
    """The same scans, to be labelled anew."""
    folder = tmp_path / "relabelled"
    shutil.copytree(cohort / "Data" / "SWI", folder / "Data" / "SWI")
    return folder


def test_darkness_equals_its_definition_voxel_by_voxel():
    random = np.random.default_rng(0)
    swi = random.normal(100, 5, (31, 29, 13))
    swi[:, :3] = 10  # bone, which is no tissue
    head = np.ones(swi.shape, dtype=bool)
    head[:4] = False
    swi[12, 9, 6], swi[13, 10, 6] = 70, 60
    spacing, place = np.array([0.8, 0.9, 2.0]), np.array([12.0, 9.0, 6.0])
    measured = darkness(swi, head, place[None], spacing)

    around, near = [], []
    for index in np.ndindex(*swi.shape):
        distance = np.linalg.norm((index - place) * spacing)
        if head[index] and 5 <= distance <= 9 and swi[index] > 0.5 * np.median(swi[head]):
            around.append(swi[index])
        if head[index] and distance <= 2:
            near.append(index)
    median = np.median(around)
    spread = 1.4826 * np.median(np.abs(around - median))
    darkest = min(near, key=lambda index: swi[index])
    assert darkest == (13, 10, 6)
    assert measured.contrast[0] == pytest.approx((median - 70) / spread)
    assert measured.darkest_contrast[0] == pytest.approx((median - 60) / spread)
    assert list(measured.darkest_offset[0]) == [1, 1, 0]
    half_way = darkness(swi, head, place[None] + [0.5, 0.5, 0], spacing)
    mean = swi[12:14, 9:11, 6].mean()
    assert half_way.contrast[0] < measured.contrast[0]
    assert half_way.contrast[0] == pytest.approx((median - mean) / spread, rel=0.1)


def test_a_place_in_the_air_is_not_dark():
    swi = np.random.default_rng(0).normal(100, 5, (30, 30, 10))
    head = np.ones(swi.shape, dtype=bool)
    head[:8], swi[:8] = False, 0
    measured = darkness(swi, head, np.array([[6.0, 15, 5], [9, 15, 5]]), (1, 1, 2))
    assert list(measured.in_head) == [False, True]
    assert measured.contrast[0] == measured.darkest_contrast[0] == 0


def matrix(number, columns, noise=0.5, seed=0):
    """Contrasts of 0 but for some columns, with noise."""
    contrast = np.random.default_rng(seed).normal(0, noise, (number, len(CONVENTIONS)))
    for column, value in columns.items():
        contrast[:, column] += value
    return contrast


def test_the_darkest_convention_is_chosen():
    verdict = judge(matrix(12, {5: 4.0}), np.arange(12))
    assert verdict.is_decided
    assert verdict.best == CONVENTIONS[5]
    assert verdict.score[5] == pytest.approx(matrix(12, {5: 4.0})[:, 5].mean())
    assert verdict.margin[5] == 0
    assert (np.delete(verdict.margin_low, 5) > 2).all()


def test_ten_microbleeds_are_needed():
    nine, ten = (judge(matrix(n, {5: 4.0}), np.zeros(n)) for n in (9, 10))
    assert nine.best == ten.best == CONVENTIONS[5]
    assert not any(nine.decided.values()) and ten.is_decided
    assert nine.reason == "There are 9 microbleeds; 10 are needed to decide."


def test_a_rival_as_dark_leaves_its_keys_open():
    rival = CONVENTIONS.index(dataclasses.replace(CONVENTIONS[5], index_base=1 - CONVENTIONS[5].index_base))
    verdict = judge(matrix(30, {5: 4.0, rival: 4.0}), np.arange(30))
    assert verdict.decided == {**dict.fromkeys(KEYS, True), "index_base": False}
    assert "Another value of index_base fits equally well" in verdict.reason


def test_labels_that_are_dark_nowhere_settle_nothing():
    verdict = judge(matrix(200, {5: 0.9}), np.arange(200))
    assert not any(verdict.decided.values())
    assert "Do the labels belong to these images?" in verdict.reason


def test_points_outside_exclude_a_convention():
    contrast = matrix(20, {5: 4.0, 7: 5.0})
    contrast[3, 7] = np.nan
    verdict = judge(contrast, np.arange(20))
    assert verdict.best == CONVENTIONS[5] and verdict.is_decided
    assert np.isnan(verdict.score[7])
    none = judge(np.full((20, 32), np.nan), np.arange(20))
    assert none.best is None and not none.is_decided and "No convention has every point inside" in none.reason
    assert judge(np.zeros((0, 32)), []).reason == "There are no microbleeds to judge by."


def test_one_scan_of_many_microbleeds_does_not_outvote_the_others():
    contrast = matrix(60, {0: 0.0})
    contrast[:50, 5] += 4  # of one scan
    contrast[50:, 9] += 4  # of ten scans, one each
    verdict = judge(contrast, np.r_[np.zeros(50), np.arange(1, 11)])
    assert verdict.best == CONVENTIONS[5]
    assert not verdict.is_decided
    assert judge(contrast, np.arange(60)).is_decided


def test_chance_alone_is_seldom_taken_for_a_decision():
    """Under no convention are the points darker than under another: at most 5 % of such data sets are decided."""
    wrong = sum(
        judge(np.random.default_rng(seed).exponential(2, (12, 32)), np.arange(12), resamples=2000).is_decided
        for seed in range(100)
    )
    assert wrong <= 5


def test_phantoms_labelled_in_each_of_the_32_conventions(cohort, relabelled):
    places = voxels(cohort)
    for convention in CONVENTIONS:
        write_labels(relabelled, places, convention)
        scans = [look(subject) for subject in find_subjects(relabelled)]
        contrast = np.concatenate(
            [np.where(scan.outside, np.nan, [d.contrast for d in scan.darkness]).T for scan in scans]
        )
        verdict = judge(contrast, np.repeat([0, 1], [len(scan.rows) for scan in scans]), resamples=3000)
        assert verdict.best == convention
        assert verdict.is_decided, f"{convention}: {verdict.reason}"


def test_audit_of_a_folder(cohort, relabelled, bundle, tmp_path):
    """Base 0 and slices in reverse order, one label on nothing, one subject without a label, one in a label map."""
    convention = LabelConvention(index_base=0, flip_slice=True)
    places = voxels(cohort)
    first, second = places
    places[first] = np.vstack([places[first], [TINY.shape[0] // 2 + 15, TINY.shape[1] // 2 + 8, 5]])
    write_labels(relabelled, places, convention)
    scan = relabelled / "Data" / "SWI" / f"{first}.nii.gz"
    for name in ("unlabelled", "mapped"):
        shutil.copy(scan, relabelled / "Data" / "SWI" / f"{name}.nii.gz")
    shutil.copy(scan, relabelled / "Label" / "mapped.nii.gz")
    done = bundle("run", ["audit.json"], tmp_path, dataset_dir=relabelled, output_dir=tmp_path / "output")

    content = json.loads((tmp_path / "output" / "label_audit.json").read_text())
    assert content["verdict"] == "decided"
    assert content["best"] == dataclasses.asdict(convention)
    pairs = zip(*[iter(content["options"].split())] * 2, strict=True)
    values = {key.removeprefix("--label_convention#"): ast.literal_eval(value) for key, value in pairs}
    assert LabelConvention(**values) == convention
    assert f"Use: {content['options']}" in done.stdout
    assert content["scans"] == 2 and content["microbleeds"] == 21
    assert content["margin"] == min(c["margin"] for c in content["conventions"][1:] if c["margin"] is not None) > 0
    assert len(content["conventions"]) == 32
    outside = [c for c in content["conventions"] if c["points_outside"]]
    assert all(c["contrast"] is None for c in outside)
    assert set(content["left_out"]) == {"unlabelled", "mapped"}
    assert "no convention applies" in content["left_out"]["mapped"]

    row = convention.from_voxel(places[first][-1], TINY.shape)[0]
    assert [(s["subject"], s["slice"], s["x"], s["y"]) for s in content["labels_not_on_anything_dark"]] == [
        (first, *row)
    ]
    table = pd.read_csv(tmp_path / "output" / "label_audit.csv")
    expected = np.vstack([places[first], places[second]])
    np.testing.assert_array_equal(table[["voxel_i", "voxel_j", "voxel_k"]], expected)
    assert list(table["sits_on"].value_counts()[["dark", "not dark"]]) == [20, 1]
    picture = (tmp_path / "output" / "label_audit.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


@pytest.fixture
def as_dicom(cohort, tmp_path):
    """The first phantom's SWI as a DICOM study with its label, and the second's magnitude and phase as another."""
    root, convention = tmp_path / "dicom", LabelConvention(index_base=0)
    kinds = {"SWI": ("SWI_Images", 7, r"ORIGINAL\PRIMARY\M\SWI"), "Magnitude": ("Mag_Images", 4, r"ORIGINAL\PRIMARY\M"),
             "Phase": ("Pha_Images", 5, r"ORIGINAL\PRIMARY\P")}  # fmt: skip
    for name, wanted in zip(voxels(cohort), (["SWI"], ["Magnitude", "Phase"]), strict=True):
        study = Study(name)
        for kind in wanted:
            scan = nib.load(cohort / "Data" / kind / f"{name}.nii.gz")
            values = scan.get_fdata()
            low, high = (-np.pi, np.pi) if kind == "Phase" else (0, values.max())
            stored = np.round((values - low) * 4095 / (high - low)).clip(0, 4095).astype(np.uint16)
            write_dicom_series(root / "Data" / name, stored, scan.affine, study, *kinds[kind])
    write_labels(root, voxels(cohort), convention)
    return root, convention


def test_dicom_studies_are_audited_as_files_are(cohort, as_dicom, tmp_path):
    root, convention = as_dicom
    assert all(set(subject) == {"subject", "dicom", "label"} for subject in find_subjects(root))
    content = audit_labels(root, tmp_path / "output")
    assert content["left_out"] == {}
    assert content["scans"] == 2 and content["microbleeds"] == 20
    assert content["best"] == dataclasses.asdict(convention)
    table = pd.read_csv(tmp_path / "output" / "label_audit.csv")
    places = voxels(cohort)
    np.testing.assert_array_equal(table[["voxel_i", "voxel_j", "voxel_k"]], np.vstack(list(places.values())))

    name = next(iter(places))
    study, file = find_subjects(root)[0], str(cohort / "Data" / "SWI" / f"{name}.nii.gz")
    of_file = look({"subject": name, "image": file, "label": study["label"]})
    # stored as whole numbers, the values differ a little
    for one, other in zip(look(study).darkness, of_file.darkness, strict=True):
        np.testing.assert_allclose(one.contrast, other.contrast, rtol=0.02, atol=0.05)


def test_the_audit_takes_the_dicom_series_that_is_named(cohort, as_dicom, bundle, tmp_path):
    """A study with a second SWI, of noise, says nothing by itself."""
    root, convention = as_dicom
    name = next(iter(voxels(cohort)))
    noise = np.random.default_rng(0).integers(1000, 1100, TINY.shape)
    folder = root / "Data" / name
    affine = nib.load(cohort / "Data" / "SWI" / f"{name}.nii.gz").affine
    (uid,) = {pydicom.dcmread(path).StudyInstanceUID for path in folder.iterdir()}
    study = Study(name)
    study.uid = uid
    write_dicom_series(folder, noise, affine, study, "SWI_Images repeat", 9, r"ORIGINAL\PRIMARY\M\SWI")
    left_out = audit_labels(root, tmp_path / "output")["left_out"]
    assert set(left_out) == {name} and "2 series can be the SWI" in left_out[name]

    options = {"dataset_dir": root, "output_dir": tmp_path / "named", "dicom_series__image": "Images$"}
    bundle("run", ["audit.json"], tmp_path, **options)
    content = json.loads((tmp_path / "named" / "label_audit.json").read_text())
    second = list(voxels(cohort))[1]
    assert set(content["left_out"]) == {second} and content["scans"] == 1
    assert content["best"] == dataclasses.asdict(convention)


def test_labels_of_other_images_are_not_given_a_convention(cohort, relabelled, tmp_path):
    first, second = voxels(cohort).values()
    swapped = dict(zip(voxels(cohort), (second, first), strict=True))
    write_labels(relabelled, swapped, DEFAULT)
    assert audit_labels(relabelled, tmp_path / "output")["verdict"] == "undecided"


def test_few_labels_are_undecided(cohort, relabelled, tmp_path):
    write_labels(relabelled, {name: places[:2] for name, places in voxels(cohort).items()}, DEFAULT)
    content = audit_labels(relabelled, tmp_path / "output")
    assert content["verdict"] == "undecided"
    assert content["best"] == dataclasses.asdict(DEFAULT)
    assert content["reason"] == "There are 4 microbleeds; 10 are needed to decide."


def test_labels_one_pixel_off_at_random_still_tell_the_flips(cohort, relabelled, tmp_path):
    random = np.random.default_rng(1)
    off = {name: p + np.c_[random.integers(-1, 2, (len(p), 2)), np.zeros(len(p))] for name, p in voxels(cohort).items()}
    write_labels(relabelled, off, DEFAULT)
    content = audit_labels(relabelled, tmp_path / "output")
    assert content["best"] == dataclasses.asdict(DEFAULT)
    assert {key for key in KEYS if content["decided"][key]} >= {"swap_xy", "flip_x", "flip_y"}


def test_a_folder_without_tables_is_an_error(cohort, relabelled, tmp_path):
    name = next(iter(voxels(cohort)))
    nib.save(nib.load(relabelled / "Data" / "SWI" / f"{name}.nii.gz"), relabelled / "Data" / "SWI" / "other.nii.gz")
    with pytest.raises(SubjectError, match="no subject has a table of points that can be audited"):
        audit_labels(relabelled, tmp_path)


def test_the_audit_keeps_the_sentence_that_says_what_to_do(tmp_path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).uniform(1, 9, (20, 20, 9)), np.eye(4)), tmp_path / "a_swi.nii.gz")
    (tmp_path / "a_label.xlsx").write_bytes(b"no zip")
    with pytest.raises(SubjectError) as caught:
        audit_labels(tmp_path, tmp_path / "out")
    assert "a: LabelError: " in str(caught.value)
    assert "cannot be read as an Excel file" in str(caught.value)
    assert "save it as .xlsx again" in str(caught.value)


def test_an_audit_without_a_data_set_is_an_error(tmp_path):
    with pytest.raises(SubjectError, match=r"no dataset_dir was given\. Expected the folder of the scans"):
        audit_labels(None, tmp_path)


def test_options_are_words_for_the_command_line():
    assert options(LabelConvention(0, flip_y=True)) == (
        "--label_convention#index_base 0 --label_convention#swap_xy False --label_convention#flip_x False "
        "--label_convention#flip_y True --label_convention#flip_slice False"
    )
