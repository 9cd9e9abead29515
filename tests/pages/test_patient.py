"""The page on one scan: what is on it, and how it prints."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from cmb_bundle.scripts.pages import write_patient_page
from cmb_bundle.scripts.pages.glass import draw_glass_brain
from cmb_bundle.scripts.regions.region_map import RegionMap
from cmb_bundle.scripts.regions.summary import summarise

from ..helpers.browser import Browser, needs_chromium

SHAPE, SPACING = (120, 140, 40), (1.0, 1.0, 3.0)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = -60, -70, -60


def finding(number, with_region=True):
    place = np.array([20 + 7 * (number % 10), 30 + 9 * (number // 10), 8 + number % 20])
    found = {
        "voxel": place.tolist(), "ras_mm": (place * SPACING + AFFINE[:3, 3]).tolist(), "diameter_mm": 3.21,
        "detector_score": 0.9, "classifier_probability": 0.9, "n_slices": 2,
        "probability": max(0.0, 0.99 - 0.01 * number),
    }  # fmt: skip
    where = {"region": "frontal", "category": "lobar", "side": "left", "border_mm": 1.5, "neighbours": ["insula"]}
    if number > 12:
        where |= {"region": "deep and periventricular white matter", "category": "deep"}
    return found | (where if with_region else {})


def scan_with(findings, phase=True):
    swi = np.random.default_rng(0).uniform(60, 100, SHAPE).astype(np.float32)
    for one in findings:
        i, j, k = one["voxel"]
        swi[i - 1 : i + 2, j - 1 : j + 2, k] = 5.0
    head = np.zeros(SHAPE, bool)
    head[10:110, 10:130, 2:38] = True
    scan = {
        "swi": MetaTensor(torch.as_tensor(swi)[None], affine=torch.as_tensor(AFFINE)),
        "head": torch.as_tensor(head)[None],
    }
    if phase:
        scan["input_phase"] = torch.as_tensor((swi < 50).astype(np.float32))[None]
    return scan


def page_of(folder, number, phase=True, with_region=True, **read):
    findings = [finding(n, with_region) for n in range(number)]
    candidates = [{**one, "accepted": True} for one in findings] + [{**finding(200), "accepted": False}]
    result = {"microbleeds": findings, "candidates": candidates, "probability_threshold": 0.3}
    result["summary"] = summarise(findings)
    read = {
        "contrast": "swi + phase" if phase else "swi",
        "notices": "Phase was read as radians.",
        "warnings": "",
    } | read
    region = np.zeros(SHAPE, np.uint8)
    region[20:100, 20:120, 4:36] = 1
    regions = RegionMap(region, np.ones(SHAPE, np.int8), AFFINE) if with_region else None
    return write_patient_page(folder / "p1_cmb.html", "p<1>", scan_with(findings, phase), result, read, regions)


def text_of(path):
    return " ".join(re.sub(r"<[^>]*>", " ", path.read_text(encoding="utf-8")).split())


def test_each_finding_is_there_with_pictures_numbers_and_region(tmp_path):
    path = page_of(tmp_path, 3)
    page, text = path.read_text(encoding="utf-8"), text_of(path)
    strips = re.findall(r'base64,([^"]+)" alt="(\S+) of finding (\d)', page)
    assert [(name, number) for _, name, number in strips] == [(c, n) for n in "123" for c in ("SWI", "phase")]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(strips[0][0]))), dtype=int)
    assert picture.shape == (120, 180)  # two channels, and three slices, of 60 pixels
    swi, phase = picture[:60], picture[60:]
    # dark in its own slice alone
    assert swi[27:33, 87:93].mean() < 20 and swi[27:33, 27:33].mean() > 60 < swi[27:33, 147:153].mean()
    assert phase[30, 90] < 60 and abs(phase[30, 30] - 128) < 12
    assert "3.2 mm, probability 0.98" in text and "frontal, left; or insula" in text
    assert "RAS -33.0, -40.0, -33.0 mm" in text and "voxel 27, 30, 9" in text
    assert "pattern strictly lobar" in text and "from 0.3 on; 4 candidates looked at" in text
    assert "p&lt;1&gt;" in page and "p<1>" not in page


def test_it_says_what_it_is_and_what_is_doubtful(tmp_path):
    text = text_of(page_of(tmp_path, 1, warnings="The slices are 9 mm thick."))
    assert "learned from simulated scans alone and have not been validated on patients" in text
    assert "no diagnosis" in text and "Warning. The slices are 9 mm thick." in text
    assert "How it was read: Phase was read as radians." in text
    text = text_of(page_of(tmp_path, 0, phase=False, with_region=False))
    assert "does not say that there is no microbleed" in text and "calcium cannot be told from a microbleed" in text
    text = text_of(page_of(tmp_path, 2, with_region=False))
    assert "pattern" not in text and "region" not in text and "Warning" not in text


def test_many_findings_are_in_a_table_and_what_is_beyond_it_is_counted(tmp_path):
    path = page_of(tmp_path, 80)
    page, text = path.read_text(encoding="utf-8"), text_of(path)
    assert page.count("data:image") == 24 and page.count("<tr><td>") == 32
    assert "36 more are in the table of results alone" in text
    assert len(re.findall("<circle", page)) == 3 * 80


def test_dots_are_where_the_findings_are():
    head = np.ones(SHAPE, bool)
    views = {view["name"]: str(view["svg"]) for view in draw_glass_brain(head, AFFINE, [finding(0)])}
    # voxel 20, 30, 8; right of the patient is on the left, so that x runs down; up is anterior or superior
    r, a, s = 120 - 20, 140 - 30, 120 - 24
    wanted = {"from below": (r, a), "from the front": (r, s), "from the left": (a, s)}
    for name, (x, y) in wanted.items():
        found = re.search(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="3.0"', views[name])
        assert tuple(map(float, found.groups())) == pytest.approx((x, y), abs=0.1)
        assert views[name].count("<path") == 1


@pytest.mark.parametrize("layout", ["default", "bids"])
def test_inference_writes_it_by_an_option(tiny_cohort, bundle, tmp_path, layout):
    given = {
        "dataset_dir": tiny_cohort,
        "output_dir": tmp_path / "out",
        "subjects": "['phantom-005']",
        "picture": False,
    }
    bundle("run", ["inference.json"], tmp_path, **given, patient_page=True, output_layout=layout)
    of_bids = "sub-phantom005/figures/sub-phantom005_desc-cmb_report.html"
    name = "phantom-005/phantom-005_cmb.html" if layout == "default" else of_bids
    page = (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert "phase of finding 1" in page and "swi + phase" in page
    if layout == "default":
        manifest = json.loads((tmp_path / "out/phantom-005/phantom-005_cmb_run.json").read_text(encoding="utf-8"))
        assert "phantom-005_cmb.html" in manifest["results"]
        bundle("run", ["inference.json"], tmp_path, **given)  # without it: the old one does not stay
        assert not (tmp_path / "out" / name).exists()


@needs_chromium
@pytest.mark.parametrize(("number", "sheets"), [(5, 1), (20, 2), (80, 2)])
def test_it_prints_on_one_or_two_sheets(tmp_path, number, sheets):
    path = page_of(tmp_path, number, warnings="The slices are 9 mm thick, which was not tested. " * 3)
    with Browser(tmp_path / "profile", size=(760, 1000)) as browser:
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth === 180)")
        browser.pdf(tmp_path / "page.pdf")
        assert browser.errors == []
    printed = (tmp_path / "page.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b(?!s)", printed)) == sheets
