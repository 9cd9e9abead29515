"""The page of an evaluation: what it says, that it stands alone, and that a browser shows it."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cmb_bundle.scripts.evaluation.metrics import EvaluationOptions
from cmb_bundle.scripts.evaluation.records import Candidate, Crop, Lesion, Mimic, SubjectRecord, load_records
from cmb_bundle.scripts.report.page import Numbers
from cmb_bundle.scripts.report.published import PUBLISHED
from cmb_bundle.scripts.report.report import write_evaluation

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="NOT TESTED: that a browser shows the report. Install chromium (apt-get install chromium)."
)
LOADING = {"src", "srcset", "poster", "data", "background", "action", "formaction", "xlink:href", "ping", "cite"}
SWI_GREY, PHASE_GREY = 137, 73


def flat_crop():
    return Crop(np.stack([np.full((48, 48), grey, np.uint8) for grey in (SWI_GREY, PHASE_GREY)]), 24.0)


def cohort(system="A", shift=0.0, simulated=True):
    """Six subjects with 0 to 5 lesions; each has a missed lesion or a false positive or both."""
    rng = np.random.default_rng(1)
    records = []
    for number in range(6):
        places = [tuple(map(float, rng.uniform(-60, 60, 3))) for _ in range(number)]
        lesions = [
            Lesion(p, d, r, flat_crop())
            for p, d, r in zip(
                places, (1.5, 2.5, 3.5, 6.0, 2.2), ("lobar", "deep", None, "lobar", "lobar"), strict=False
            )
        ]
        found = [
            Candidate((x + 1, y, z), 0.5 + 0.1 * n, 0.45 + 0.1 * n - shift, n - 10 * shift > 0.5, 3.0)
            for n, (x, y, z) in enumerate(places)
        ]
        found.append(Candidate((100.0, 0, number), 0.3, 0.6 + 0.01 * number, True, 2.0, "accepted", flat_crop()))
        mimics = [Mimic((101.0, 0, number), "flow_void")]
        records.append(
            SubjectRecord(f"s<{number}>&", lesions, found, system, mimics, (0.5, 0.5, 2.0), weights="model.pt",
                          candidate_threshold=0.1, probability_threshold=0.5, simulated=simulated)
        )  # fmt: skip
    return records


class Page(HTMLParser):
    """What a page would load, the texts marked with a metric, its pictures and its words."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.pictures, self.metrics, self.ids, self.words = [], [], [], [], set(), []
        self.css, self.scripts, self._metric, self._style = "", 0, None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.scripts += tag in ("script", "iframe", "object", "embed", "base", "link")
        self.scripts += sum(name.startswith("on") for name in found)
        self.loads += [value for name, value in found.items() if name in LOADING]
        if "href" in found:
            (self.links if tag == "a" else self.loads).append(found["href"])
        self.pictures += [found] if tag == "img" else []
        self.ids |= {found["id"]} if "id" in found else set()
        self.css += found.get("style", "")
        self._style = tag == "style"
        self._metric = found.get("data-metric")

    def handle_data(self, data):
        self.css += data if self._style else ""
        if self._metric:
            self.metrics.append((self._metric, data))
        self.words.append("" if self._style else data)

    def handle_endtag(self, tag):
        self._metric, self._style = None, False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    options = EvaluationOptions(bootstrap=200, data_set="/data/<set>")
    write_evaluation([*cohort("A / B"), *cohort("rival", 0.2)], folder, options)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_outside(page):
    assert page.scripts == 0
    assert page.loads and all(value.startswith("data:image/") for value in page.loads)
    assert all(link.startswith(("#", "https://")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "url(" not in page.css and "@import" not in page.css
    for value in page.loads:
        kind, _, coded = value.partition(";base64,")
        content = base64.b64decode(coded, validate=True)
        if kind == "data:image/svg+xml":
            drawing = content.decode()
            assert not re.search(r'href="(?!#)', drawing) and not re.search(r"url\((?!#)", drawing)
            assert "<script" not in drawing and "<image" not in drawing and "@import" not in drawing


def test_numbers_are_those_of_the_json(page, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(page.metrics) > 300
    for path, text in page.metrics:
        value = pointed(metrics, path)
        if isinstance(value, list):
            assert re.fullmatch(r"\[\S+, \S+\]", text), path
            for part, one in zip(text[1:-1].split(", "), value, strict=True):
                assert close(part, one), (path, text)
        else:
            assert close(text, value), (path, text)
    paths = {path for path, _ in page.metrics}
    for base in ("", "/rivals/rival"):
        for stage in ("stage_1", "stage_2_given_stage_1", "end_to_end"):
            for name in ("sensitivity", "precision", "f1", "false_positives_per_subject", "sensitivity_at/1~18"):
                assert f"{base}/{stage}/{name}" in paths
                assert f"{base}/intervals/{stage}/{name}" in paths
    assert "/rivals/rival/difference/end_to_end/f1" in paths
    assert {"/strict/end_to_end/f1", "/valdo/end_to_end/f1/median", "/strata/diameter/0/end_to_end"} <= paths


def pointed(content, path):
    """The value at a JSON pointer, as RFC 6901 has it."""
    for step in path.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        content = content[int(step)] if isinstance(content, list) else content[step]
    return content


def close(text, value):
    """Whether a text is a number, rounded to the digits that it has."""
    if value is None:
        return text == "–"
    digits = len(text.partition(".")[2])
    if isinstance(value, int):
        return float(text) == value
    return digits > 0 and abs(float(text) - value) <= 0.50001 * 10**-digits


def test_numbers_of_stages_are_told_apart_and_what_was_evaluated_comes_first(page):
    words = " ".join(" ".join(page.words).split())
    assert words.index("Not for diagnosis") < words.index("What was evaluated") < words.index("Results at the")
    assert "were trained on simulated scans only" in words
    assert "The scans evaluated here are simulated, too" in words
    for said in (
        "/data/<set>", "model.pt", "within 5.0 mm", "strict analysis: 3.0 mm", "a detector score of 0.1",
        "a probability of 0.5", "percentiles of 200 resamples", "6 , of which 1 without microbleeds",
    ):  # fmt: skip
        assert said in words, said
    for stage in ("stage 1", "stage 2 given stage 1", "end to end"):
        assert words.count(stage) > 4


def test_rows_hold_the_numbers_of_the_stage_that_they_name(folder):
    names = {"stage 2 given stage 1": "stage_2_given_stage_1", "stage 1": "stage_1", "end to end": "end_to_end"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    checked = 0
    for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL):
        heads = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row)
        named = [stage for head in heads for name, stage in names.items() if head.strip().endswith(name)][:1]
        paths = re.findall(r'data-metric="([^"]*)"', row)
        if named and paths:
            stages = {next(step for step in path.split("/") if step in names.values()) for path in paths}
            # the first published row also holds the numbers of subjects and of microbleeds
            assert stages <= ({named[0], "end_to_end"} if "this evaluation" in row else {named[0]}), row
            checked += 1
    # results, strict, curves, published: three stages of two systems; differences: two stages of one
    assert checked == 4 * 3 * 2 + 2


def test_published_figures_are_there_and_said_to_be_of_other_data(page):
    words = " ".join(" ".join(page.words).split())
    assert "different data sets: a higher number in this table does not mean a better method" in words
    assert "this evaluation: simulated scans" in words
    published = words[words.index("Published results on other data") :]
    for one in PUBLISHED:
        assert one.system in published and one.data in published
    for figure in ("0.9362", "52.18", "0.7885", "155.50", "0.9432", "0.6194", "0.883", "0.724", "0.684"):
        assert figure in published


def test_names_are_escaped_and_pictures_have_words(page, folder):
    assert "s<5>&" in " ".join(page.words)
    assert "s<5>&" not in (folder / "report.html").read_text()
    assert all(picture.get("alt") for picture in page.pictures)
    assert len(page.pictures) == 4 + 2 * (6 + misses(folder))


def misses(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["end_to_end"]["false_negatives"] > 0
    return metrics["end_to_end"]["false_negatives"]


def test_page_of_subjects_without_lesions_and_findings(tmp_path):
    write_evaluation(
        [SubjectRecord("a", [], []), SubjectRecord("b", [], [])], tmp_path, EvaluationOptions(bootstrap=50)
    )
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    for said in (
        "There are no microbleeds in these 2 subjects", "No microbleeds were missed.", "There are no false positives.",
        "There are no false positives end to end.", "Nothing to draw", "not named",
    ):  # fmt: skip
        assert said in words, said
    assert "nan" not in words.lower() and "None" not in words
    assert ("/end_to_end/sensitivity", "–") in page.metrics


def test_scans_that_are_not_known_to_be_simulated(tmp_path):
    write_evaluation(cohort(simulated=None), tmp_path, EvaluationOptions(bootstrap=0))
    words = " ".join(" ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words).split())
    assert "the program does not know whether all are of patients" in words
    assert "are simulated, too" not in words
    assert "not computed" in words


def test_pointers_of_names_with_slashes():
    numbers = Numbers({"rivals": {"a/b~c": {"end_to_end": {"f1": 0.5}, "intervals": {"end_to_end": {"f1": [0, 1]}}}}})
    assert numbers.text("/rivals/a~1b~0c/end_to_end/f1") == "0.500"
    assert numbers.interval("/rivals/a~1b~0c/end_to_end/f1", 1) == (
        "/rivals/a~1b~0c/intervals/end_to_end/f1", "[0, 1]",
    )  # fmt: skip
    assert numbers.text("/nothing/there") == "–"


# --------------------------------------------------------------------------------------------------- in a browser


def browse(tmp_path, *arguments):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=240)


@needs_chromium
def test_browser_shows_the_pictures(folder, tmp_path):
    shot = tmp_path / "shot.png"
    browse(tmp_path, "--window-size=1200,9000", f"--screenshot={shot}", (folder / "report.html").as_uri())
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape == (9000, 1200, 3)
    for grey in (SWI_GREY, PHASE_GREY):
        pictures = 6 + misses(folder)
        # each is about 140 pixels wide
        assert (np.abs(pixels - grey).max(axis=2) <= 1).sum() > pictures * 100 * 100
    # the rival's curve has a colour that stands nowhere else in the upper half but in the curves
    assert (np.abs(pixels - [0xD5, 0x5E, 0x00]).max(axis=2) < 12).sum() > 800


@needs_chromium
def test_browser_can_read_every_picture(folder, tmp_path):
    script = (
        "<script>addEventListener('load', () => {"
        "document.title = JSON.stringify([...document.images].map(i => i.complete ? i.naturalWidth : 0));"
        "});</script>"
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in page
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)  # it forbids scripts, this one too
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    done = browse(tmp_path, "--dump-dom", (tmp_path / "page.html").as_uri())
    widths = json.loads(re.search(r"<title>(.*?)</title>", done.stdout).group(1))
    assert len(widths) == page.count("<img ") and min(widths) >= 48


@needs_chromium
def test_it_can_be_printed(folder, tmp_path):
    printed = tmp_path / "report.pdf"
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={printed}", (folder / "report.html").as_uri())
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 20


@pytest.mark.parametrize("warnings", ["", "The slice thickness is 7 mm; SWI & co <were> tested with less."])
def test_contrast_and_warnings_stand_in_the_page_and_in_the_tables(tmp_path, warnings):
    records = cohort()
    records[1].warnings, records[1].contrast = warnings, "t2star"
    write_evaluation(records, tmp_path, EvaluationOptions(bootstrap=0))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('<td class="text">t2star</td>') == 1
    assert ("The slice thickness is 7 mm; SWI &amp; co &lt;were&gt; tested with less." in text) == bool(warnings)
    assert ("1 of the scans carries a warning: " in text) == bool(warnings)
    table = pd.read_csv(tmp_path / "per_subject.csv", keep_default_na=False)
    assert list(table["contrast"]) == ["", "t2star", "", "", "", ""]
    assert list(table["warnings"]) == ["", warnings, "", "", "", ""]
    assert [record.warnings for record in load_records(tmp_path)] == list(table["warnings"])


def test_only_scans_outside_of_the_tested_ranges_are_counted_as_such(tmp_path):
    records = cohort()
    records[
        1
    ].warnings = "The slice thickness is 7 mm; SWI was tested with 1 to 5 mm only, so that these results may be worse."
    write_evaluation(records, tmp_path, EvaluationOptions(bootstrap=0))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of the scans is outside of what the program was tested on: <a" in text

    records[2].warnings = "The label map has a component of 30 mm."
    write_evaluation(records, tmp_path, EvaluationOptions(bootstrap=0))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of the scans is outside of what the program was tested on; 2 of the scans carry a warning: <a" in text
    evidence = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))
    assert (evidence["n_with_warnings"], evidence["n_outside_tested"]) == (2, 1)


@pytest.mark.parametrize(("number", "opened"), [(2, True), (30, False)])
def test_subjects_that_failed_are_a_list_which_is_closed_where_it_is_long(tmp_path, number, opened):
    left_out = tuple((f"s{n}", f"SubjectError: reason & {n}") for n in range(number))
    write_evaluation(cohort(), tmp_path, EvaluationOptions(bootstrap=0, left_out=left_out))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("</b>: SubjectError: reason &amp; ") == number
    assert "<li><b>s1</b>: SubjectError: reason &amp; 1</li>" in text
    assert ("<details open>" in text, "<details>" in text) == (opened, not opened)


def test_implanted_microbleeds_are_said_and_not_asked_to_be_published(tmp_path, capsys):
    records = cohort(simulated=None)
    write_evaluation(records, tmp_path, EvaluationOptions(bootstrap=0))
    assert "please publish" in capsys.readouterr().out
    assert "upper bound" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))["implanted"] is False

    for record in records:
        record.implanted = True
    write_evaluation(records, tmp_path, EvaluationOptions(bootstrap=0))
    assert "publish" not in capsys.readouterr().out
    text = " ".join("".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words).split())
    assert "put in by the program itself" in text
    assert "false positives per subject are an upper bound" in text
    assert "scans into which this program put microbleeds" in text
    evidence = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))
    assert evidence["implanted"] is True
    assert "false positives are an upper bound" in evidence["about"]
    assert all(record.implanted for record in load_records(tmp_path))
