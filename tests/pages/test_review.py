"""The page for review: what is on it, what a reader does with the keyboard, and that its CSV is a label."""

import base64
import csv
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from cmb_bundle.scripts.data.labels import LabelConvention, read_points
from cmb_bundle.scripts.data.splits import Split
from cmb_bundle.scripts.errors import InputError
from cmb_bundle.scripts.inference.bids_output import BidsOutput
from cmb_bundle.scripts.inference.writers import findings_table
from cmb_bundle.scripts.pages import write_review

from ..helpers import ROOT, TINY_CONFIG
from ..helpers.browser import Browser, needs_chromium
from ..helpers.commands import commands
from ..helpers.processes import run_module

LOWEST = 0.005


@pytest.fixture(scope="module")
def results(tiny_cohort, bundle, tmp_path_factory):
    """Results of the tiny cohort and their page."""
    folder = tmp_path_factory.mktemp("review")
    where = {"dataset_dir": tiny_cohort, "output_dir": folder / "results"}
    bundle("run", ["inference.json"], folder, **where, picture=False)
    given = {"results_dir": folder / "results", "dataset_dir": tiny_cohort, "lowest_probability": LOWEST}
    bundle("run", ["review.json"], folder, **given)
    return folder / "results"


def content_of(page: Path) -> dict:
    found = re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found.group(1))


def json_of(results, subject):
    return json.loads((results / subject / f"{subject}_cmb.json").read_text(encoding="utf-8"))


def test_each_finding_and_candidate_has_a_card_with_its_picture(results):
    content = content_of(results / "review.html")
    cards = content["cards"]
    for subject in [one["subject"] for one in content["subjects"]]:
        result, own = json_of(results, subject), [card for card in cards if card["subject"] == subject]
        assert [c["found"] for c in own if c["found"]] == list(range(1, len(result["microbleeds"]) + 1))
        likely = [n for n, c in enumerate(result["candidates"], 1) if c["accepted"] or c["probability"] >= LOWEST]
        assert {card["lesion"] for card in own if card["lesion"]} <= set(likely)
        for card in own:
            if not card["lesion"]:
                continue
            candidate = result["candidates"][card["lesion"] - 1]
            assert card["ras_mm"] == pytest.approx(candidate["ras_mm"], abs=0.006)
            i, j, k = candidate["voxel"]
            assert card["place"] == pytest.approx([k + 1, i + 1, j + 1], abs=0.006)
    assert len(cards) >= 10, "the keyboard test needs ten"
    found = next(card for card in cards if card["found"])
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["strip"]))), dtype=float)
    n, slices = content["pixels"], content["slices"]
    assert picture.shape == (2 * n, slices * n)
    middle = picture[:n, (slices // 2) * n : (slices // 2 + 1) * n]
    centre = middle[n // 2 - 2 : n // 2 + 2, n // 2 - 2 : n // 2 + 2]
    assert centre.mean() < np.median(middle) - 40  # a microbleed is dark


def test_results_as_bids_derivatives_have_the_same_page(results, tiny_cohort, bundle, tmp_path):
    before = content_of(results / "review.html")
    derivatives = BidsOutput(tmp_path / "derivatives", tiny_cohort)
    for subject in [one["subject"] for one in before["subjects"]]:
        content = json_of(results, subject)
        image = nib.load(results / subject / f"{subject}_cmb.nii.gz")
        labels = MetaTensor(torch.as_tensor(np.asarray(image.dataobj)[None].astype(np.int16)), affine=image.affine)
        table = findings_table(content["microbleeds"], image.shape, LabelConvention())
        derivatives.write(subject, content, labels, table, {})
    given = {"results_dir": tmp_path / "derivatives", "dataset_dir": tiny_cohort, "lowest_probability": LOWEST}
    bundle("run", ["review.json"], tmp_path, **given)
    after = content_of(tmp_path / "derivatives" / "review.html")
    assert after["cards"] == before["cards"] and after["key"] == before["key"]
    assert after["subjects"] == before["subjects"] and not after["failures"]


def test_the_page_needs_no_other_file_and_says_what_it_is(results):
    page = (results / "review.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and not re.search(r"(src|href)=[\"']?(http|//)", page)
    text = " ".join(page.split())
    assert "learned from simulated scans alone and have not been validated on patients" in text
    assert "Not for diagnosis" in text


def test_wrong_and_missing_scans_are_named_and_the_others_are_there(results, tiny_cohort, bundle, tmp_path):
    shutil.copytree(tiny_cohort / "Data", tmp_path / "scans" / "Data")
    wrong, absent = sorted(path.name for path in (tmp_path / "scans/Data/SWI").iterdir())[:2]
    for kind in ("SWI", "Phase", "Magnitude"):
        path = tmp_path / "scans/Data" / kind / wrong
        image = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[:-8], image.affine), path)
        (tmp_path / "scans/Data" / kind / absent).unlink()
    given = {"results_dir": results, "dataset_dir": tmp_path / "scans", "output_file": tmp_path / "r.html"}
    done = bundle("run", ["review.json"], tmp_path, check=False, **given)
    assert done.returncode != 0
    assert "2 of 5 subjects are not on the page" in done.stderr
    assert "the results 144 x" in done.stderr or "voxels, the results" in done.stderr
    assert "has no scan of this subject" in done.stderr
    content = content_of(tmp_path / "r.html")
    assert set(content["failures"]) == {wrong[:-7], absent[:-7]} and len(content["subjects"]) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "results_dir is not given"),
        ({"results_dir": "{results}"}, "dataset_dir is not given"),
        ({"results_dir": "{scans}", "dataset_dir": "{scans}"}, "no file <id>/<id>_cmb.json"),
        ({"results_dir": "{results}", "dataset_dir": "{scans}", "slices": 4}, "slices is 4; expected an odd number"),
        ({"results_dir": "{results}", "dataset_dir": "{scans}", "subjects": ["x"]}, "has no results of x"),
    ],
)
def test_what_cannot_be_done_is_said(results, tiny_cohort, tmp_path, given, said):
    given = {k: v.format(results=results, scans=tiny_cohort) if isinstance(v, str) else v for k, v in given.items()}
    given = {"results_dir": None, "dataset_dir": None} | given
    with pytest.raises(InputError) as error:
        write_review(**given, output_file=tmp_path / "r.html", reading=dict)
    assert said in str(error.value)


# ------------------------------------------------------------------------------------------------ in a browser

DECISIONS = "arauarraar"


def decide_ten(results, folder):
    with Browser(folder / "profile") as browser:
        browser.open(results / "review.html")
        browser.wait("document.querySelector('canvas')?.width > 0")
        browser.press(*DECISIONS[:3], "c", *'vein, "old"', "Enter", *DECISIONS[3:])
        assert browser.run("document.getElementById('count').textContent").startswith("10 of ")
        assert browser.errors == []


def saved(folder, name):
    with open(folder / "saved" / name, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@needs_chromium
def test_ten_cards_by_keyboard_closed_opened_saved_read_as_labels_and_trained_on(
    results, tiny_cohort, bundle, tmp_path
):
    decide_ten(results, tmp_path)
    content = content_of(results / "review.html")
    cards = content["cards"]
    (tmp_path / "saved").mkdir()
    with Browser(tmp_path / "profile", tmp_path / "saved") as browser:  # opened again
        browser.open(results / "review.html")
        assert browser.run("document.getElementById('count').textContent").startswith(
            f"10 of {len(cards)} decided: 5 acc"
        )
        assert browser.run("document.querySelectorAll('article.accept').length") == DECISIONS.count("a")
        # the rest, with the keyboard too: the next that is undecided, until there is none
        browser.press("n", *"r" * (len(cards) - 10))
        browser.run("document.getElementById('reader').value = 'AB'")
        browser.run("document.getElementById('reader').dispatchEvent(new Event('input'))")
        browser.press("s")
        browser.wait("document.getElementById('said').textContent === 'Saved.'")
        path = tmp_path / "saved" / "review_AB.csv"
        browser.wait(f"{json.dumps(str(path))} !== ''")
        browser.wait_for_file(path)
        assert browser.errors == []
    rows = saved(tmp_path, "review_AB.csv")
    assert [row["class"] for row in rows[:10]] == [{"a": "cmb", "r": "no cmb", "u": "unsure"}[d] for d in DECISIONS]
    assert rows[3]["comment"] == 'vein, "old"' and {row["reader"] for row in rows} == {"AB"}

    accepted = 0
    for subject in sorted({row["subject"] for row in rows}):
        image = nib.load(tiny_cohort / "Data" / "SWI" / f"{subject}.nii.gz")
        points = read_points(path, image.shape, image.affine, subject=subject)
        wanted = [
            json_of(results, subject)["candidates"][int(row["lesion"]) - 1]["ras_mm"]
            for row in rows
            if row["subject"] == subject and row["class"] == "cmb"
        ]
        assert len(points) == len(wanted)
        np.testing.assert_allclose(points.ras_mm, np.array(wanted).reshape(-1, 3), atol=0.03)
        accepted += len(wanted)
    assert accepted == DECISIONS.count("a")

    split = Split(str(tiny_cohort), str(tmp_path / "datalist.json"), folds=3, label_file=path).datalist
    assert {entry["label"] for entry in split["training"]} == {str(path)}
    assert sum(entry["lesions"] for entry in split["training"]) == accepted
    given = {"dataset_dir": tiny_cohort, "output_dir": tmp_path / "trained", "label_file": path}
    # -1: no test fold, so that the few microbleeds are in training
    bundle("training", ["train.json", str(TINY_CONFIG)], tmp_path, **given, fold=-1)
    assert (tmp_path / "trained" / "model.pt").is_file()
    trained = json.loads((tmp_path / "trained" / "datalist.json").read_text(encoding="utf-8"))
    assert sum(entry["lesions"] for entry in trained["training"]) == accepted


@needs_chromium
def test_a_csv_is_read_in_again_and_rows_of_other_results_are_not(results, tmp_path):
    (tmp_path / "saved").mkdir()
    decide_ten(results, tmp_path)
    with Browser(tmp_path / "profile", tmp_path / "saved") as browser:
        browser.open(results / "review.html")
        browser.press("s")
        browser.wait_for_file(tmp_path / "saved" / "review.csv")
        said = browser.run("document.getElementById('said').textContent")
        assert "are undecided, so that their subjects are no labels yet" in said
    path = tmp_path / "saved" / "review.csv"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    other = ",".join(["elsewhere", *rest[0].split(",")[1:]])
    path.write_text("\n".join([first, *rest, other]), encoding="utf-8")
    (tmp_path / "foreign.csv").write_text("slice,x,y\n1,2,3\n")
    with Browser(tmp_path / "another") as browser:
        browser.open(results / "review.html")
        assert browser.run("document.getElementById('count').textContent").startswith("0 of ")
        browser.choose_files("#file", [path, tmp_path / "foreign.csv"])
        browser.wait("document.getElementById('said').textContent !== ''")
        said = browser.run("document.getElementById('said').textContent")
        assert "review.csv: 10 decisions read" in said and "1 rows are of other results" in said
        assert "foreign.csv was not read: it has no column subject" in said
        count = browser.run("document.getElementById('count').textContent")
        assert re.match(r"10 of \d+ decided: 5 accepted, 4 rejected, 1 unsure", count)
        assert browser.run("state.decisions[cards[3].id].comment") == 'vein, "old"'


@needs_chromium
def test_order_filter_slider_and_blind_reading(results, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(results / "review.html")
        order = (
            "const pick = document.getElementById('order'); pick.value = 'uncertain'; pick.onchange({target: pick});"
        )
        browser.run(order)
        thresholds = {s["subject"]: s["threshold"] for s in content_of(results / "review.html")["subjects"]}
        shown = browser.run("shown.filter(c => c.lesion).map(c => [c.subject, c.probability])")
        odds = [abs(np.log(p / (1 - p)) - np.log(thresholds[s] / (1 - thresholds[s]))) for s, p in shown]
        assert odds == sorted(odds)
        browser.press("a")
        browser.run("document.getElementById('which').value = 'undecided'; list()")
        assert browser.run("shown.length === cards.length - 1")
        browser.wait("shown[0].image && shown[0].image.complete && shown[0].canvas.width > 0")
        pixels = "[...shown[0].canvas.getContext('2d').getImageData(192, 0, 190, 190).data].join()"
        before = browser.run(pixels)
        browser.press("ArrowRight")
        assert browser.run("shown[0].slice") == 5 and browser.run("shown[0].slider.value") == "5"
        assert browser.run(pixels) != before
        assert browser.run("getComputedStyle(document.querySelector('dd.program')).visibility") == "visible"
        browser.run("document.getElementById('blind').click()")
        assert browser.run("getComputedStyle(document.querySelector('dd.program')).visibility") == "hidden"
        browser.press("?")
        assert browser.run("document.getElementById('keys').open") is True
        assert browser.errors == []


def test_the_command_of_the_page_on_review(results, tiny_cohort, tmp_path):
    command = commands(ROOT / "docs" / "review.md")[0]
    for name, target in (("cmb_bundle", ROOT / "cmb_bundle"), ("scans", tiny_cohort)):
        (tmp_path / name).symlink_to(target)
    shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("review.html"))
    done = run_module(shlex.split(command)[2:], tmp_path)
    assert done.returncode == 0, done.stderr
    assert content_of(tmp_path / "results" / "review.html")["lowest"] == 0.05
