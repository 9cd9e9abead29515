"""Counts, bands and patterns."""

import json

import pandas as pd
import pytest

from cmb_bundle.scripts.regions import CATEGORIES, REGIONS, RegionsTable, pattern, possible_patterns, summarise


def bleed(region, side="left", neighbours=()):
    return {"region": region, "side": side, "neighbours": list(neighbours)}


@pytest.mark.parametrize(("number", "expected"), [(0, "none"), (1, "1"), (3, "2-4"), (5, "5-10"), (11, "more than 10")])
def test_band_is_there_without_regions(number, expected):
    found = summarise([{"probability": 0.9}] * number)
    assert found["band"] == expected
    assert found["microbleeds"] == number
    assert ("pattern" in found) == (number == 0)
    assert "no diagnosis" in found["statement"]


def test_counts_by_region_side_and_category():
    found = summarise(
        [bleed("frontal"), bleed("frontal", "right"), bleed("frontal", "right"), bleed("insula"), bleed("thalamus"),
         bleed("brainstem", "middle"), bleed("cerebellum"), bleed(None, "not known")]
    )  # fmt: skip
    assert found["by_region"] == {
        "frontal": {"left": 1, "right": 2},
        "insula": {"left": 1},
        "thalamus": {"left": 1},
        "brainstem": {"middle": 1},
        "cerebellum": {"left": 1},
    }
    assert found["by_category"] == {"lobar": 4, "deep": 1, "infratentorial": 2}
    assert (found["cerebellum"], found["not_located"], found["pattern"]) == (1, 1, "mixed")


@pytest.mark.parametrize("region", REGIONS)
def test_pattern_of_each_region_alone_and_with_the_cerebellum(region):
    category = next(name for name, regions in CATEGORIES.items() if region in regions)
    expected = "strictly lobar" if category == "lobar" else "strictly deep or infratentorial"
    if region == "cerebellum":
        expected = "cerebellum only"
    assert pattern([region]) == expected
    assert pattern([region, "cerebellum"]) == expected


def test_pattern_with_one_that_is_not_located():
    assert pattern(["frontal", None]) == "cannot be told"
    assert pattern(["frontal", "brainstem", None]) == "mixed"


def test_a_neighbour_of_another_kind_makes_other_patterns_possible():
    near = bleed("frontal", neighbours=["basal ganglia"])
    assert possible_patterns([bleed("parietal"), bleed("frontal", neighbours=["parietal"])]) == {"strictly lobar"}
    assert possible_patterns([near]) == {"strictly lobar", "strictly deep or infratentorial"}
    assert possible_patterns([near, near]) == {"strictly lobar", "strictly deep or infratentorial", "mixed"}
    assert possible_patterns([near, bleed("parietal")]) == {"strictly lobar", "mixed"}
    assert summarise([near, bleed("parietal")])["pattern_could_be"] == ["mixed"]


def test_table_of_a_cohort(tmp_path):
    for subject, bleeds in (("a", [bleed("frontal"), bleed("thalamus", "right")]), ("b", [])):
        content = {"subject": subject, "regions": {"source": "x"}, "summary": summarise(bleeds), "warnings": "thick"}
        (tmp_path / subject).mkdir()
        (tmp_path / subject / f"{subject}_cmb.json").write_text(json.dumps(content))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "c_cmb.json").write_text(json.dumps({"subject": "c", "summary": summarise([])}))
    RegionsTable(tmp_path, True).write()
    table = pd.read_csv(tmp_path / "regions.csv", keep_default_na=False).set_index("subject")
    assert table.index.tolist() == ["a", "b"]  # c was run without regions
    assert table.loc["a", ["frontal, left", "thalamus, right", "frontal, right"]].tolist() == [1, 1, 0]
    assert table["band"].tolist() == ["2-4", "none"]
    assert table["pattern"].tolist() == ["mixed", "none"]
    assert table.loc["a", "warnings"] == "thick"
    RegionsTable(tmp_path, False).write()
    assert not (tmp_path / "regions.csv").exists()
