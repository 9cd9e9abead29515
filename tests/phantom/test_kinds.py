"""Old brains, and kinds of scan drawn from their ranges."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cmb_bundle.scripts.phantom import (
    KINDS,
    LR,
    T2STAR,
    Content,
    PhantomSpec,
    draw_kind,
    make_cohort,
    sheet_kinds,
    simulate,
)
from cmb_bundle.scripts.phantom.kinds import OUTPUTS_OF, chosen

SPEC = PhantomSpec(name="slab", spacing=(1.6, 1.6, 2.5), shape=(92, 112, 12), microbleeds=0, mimics=False, seed=9)
OLD = Content(lacunes=3, haemorrhages=1, cavernomas=1, siderosis=1, mineral_clusters=1.0, end_on_veins=5, flow_voids=3)


@pytest.fixture(scope="module")
def young():
    return simulate(SPEC)


@pytest.fixture(scope="module")
def old():
    return simulate(SPEC.changed(content=OLD))


def around(scan, lesion, volume):
    i, j, k = (round(v) for v in lesion["voxel"])
    reach = max(2, round(lesion["radius_mm"] / scan.spec.spacing[0]))
    return volume[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1, k]


def test_all_that_was_asked_for_is_in_the_truth(old):
    kinds = [x["kind"] for x in old.truth["mimics"]]
    assert kinds.count("lacune") == 3
    assert kinds.count("haemorrhage") == kinds.count("cavernoma") == kinds.count("siderosis") == 1
    assert {"vein", "flow_void"} <= set(kinds)
    assert old.truth["microbleeds"] == []
    large = next(x for x in old.truth["mimics"] if x["kind"] == "haemorrhage")
    assert large["diameter_mm"] > 10, "larger than any microbleed"


@pytest.mark.parametrize("kind", ["haemorrhage", "cavernoma", "siderosis"])
def test_old_blood_is_dark(old, young, kind):
    lesion = next(x for x in old.truth["mimics"] if x["kind"] == kind)
    before, after = (around(s, lesion, s.magnitude.astype(float)) for s in (young, old))
    assert (after < 0.6 * before).mean() > 0.05


def test_lacunes_are_dark_with_a_short_repetition_time_and_bright_with_a_long_one():
    content = Content(lacunes=6)
    ratio = []
    for changes in ({}, {"tr_ms": 700.0, "flip_deg": 20.0}):
        with_them, without = (
            simulate(SPEC.changed(content=c, snr=500.0, bias=0.0, **changes)) for c in (content, Content())
        )
        widest = max(with_them.truth["mimics"], key=lambda x: x["radius_mm"])
        i, j, k = (round(v) for v in widest["voxel"])
        ratio.append(with_them.magnitude[i, j, k] / without.magnitude[i, j, k])
    assert ratio[0] < 0.9 < 1.2 < ratio[1]


def test_more_air_at_the_skull_base_takes_more_signal():
    spec = SPEC.changed(centre_mm=(0.0, 0.0, -26.0), te_ms=30.0, shape=(92, 112, 5))
    lit = [(simulate(spec.changed(content=Content(air_scale=size))).magnitude > 250).sum() for size in (0.8, 1.4)]
    assert lit[1] < 0.99 * lit[0]


@pytest.mark.parametrize("kind", OUTPUTS_OF)
def test_draws_stay_in_their_ranges_and_repeat(kind):
    specs = [draw_kind(kind, index=n, seed=3, base=T2STAR if kind == "t2star" else LR) for n in range(150)]
    assert specs == [draw_kind(kind, index=n, seed=3, base=T2STAR if kind == "t2star" else LR) for n in range(150)]
    assert {s.outputs for s in specs} == {OUTPUTS_OF[kind]}
    filters = {s.processing.phase_filter for s in specs}
    assert filters >= {"homodyne", "gaussian"}
    assert {s.processing.outside for s in specs} == {"keep", "zero", "noise", "nan"}
    assert {s.processing.zero_fill[0] for s in specs} == {1, 2}
    assert {s.processing.swi_power for s in specs} == {2, 3, 4, 5}
    counts = np.array([s.microbleeds for s in specs])
    assert (counts == 0).mean() == pytest.approx(1 / 6, abs=0.1) and counts.max() <= 40
    if kind == "t2star":
        assert all(3.0 < s.spacing[2] < 7.9 and 0.1 < s.gap_mm < 2 for s in specs)
        assert all(15 <= s.te_ms <= 40 and s.tr_ms >= 400 and s.field_tesla in (1.5, 3.0) for s in specs)
        assert not any(s.content.pairs for s in specs)
    elif kind == "swi_only":
        assert {s.processing.minip for s in specs} == {1, 2, 3, 4}
        assert not any(s.content.pairs for s in specs)
    else:
        assert 0.25 < np.mean([s.content.pairs > 0 for s in specs]) < 0.6
        assert "none" in filters
    height = np.array([s.shape[2] * s.spacing[2] for s in specs])
    assert height.max() < 150 and max(s.shape[2] for s in specs) <= 60


def test_without_mimics_nothing_but_microbleeds_is_put_in():
    base = SPEC.changed(mimics=True, microbleeds=3)
    drawn = [
        (draw_kind("swi_phase", n, 4, base), draw_kind("swi_phase", n, 4, replace(base, mimics=False)))
        for n in range(20)
    ]
    for full, alone in drawn:
        assert alone.content.profiles == full.content.profiles and alone.content.air_scale == full.content.air_scale
        assert alone == full.changed(mimics=False, content=alone.content)
    full, alone = next(pair for pair in drawn if pair[0].content.mineral_clusters > 0.1 and pair[0].content.pairs)
    assert {x["kind"] for x in simulate(full).truth["mimics"]} >= {"calcification", "vein"}
    truth = simulate(alone).truth
    assert truth["mimics"] == [] and len(truth["microbleeds"]) == 3


def test_where_microbleeds_lie_is_that_of_the_base():
    base = SPEC.changed(content=Content(anywhere=0.5, lacunes=7))
    for alone in (base, base.changed(mimics=False)):
        assert {draw_kind("t2star", n, 4, alone).content.anywhere for n in range(5)} == {0.5}
    usual = draw_kind("swi_phase", 2, 4, SPEC)
    assert draw_kind("swi_phase", 2, 4, base) == usual.changed(content=replace(usual.content, anywhere=0.5))


def test_names_of_kinds():
    assert chosen("all", False) == list(OUTPUTS_OF)
    assert chosen("all", True) == list(KINDS)
    assert chosen(("t2star", "swi_only"), False) == ["t2star", "swi_only"]
    assert chosen((), True) == chosen("", False) == []
    with pytest.raises(ValueError, match="'epi'; expected some of swi_phase"):
        chosen("epi", False)
    with pytest.raises(ValueError, match="name a folder of them with maps"):
        chosen("map_t2star", False)
    with pytest.raises(ValueError, match="leave maps out, or name some of map_swi_phase"):
        draw_kind("t2star", chi_map="a.nii.gz")


def test_a_cohort_of_kinds_is_reused_and_says_what_it_is(tmp_path):
    base = PhantomSpec(name="base", spacing=(2.0, 2.0, 2.0), shape=(70, 88, 8), microbleeds=2)
    how = {"subjects": 2, "preset": base, "seed": 5, "progress": False, "processes": 1}
    folder = make_cohort(tmp_path / "cohort", kinds="t2star,magnitude_phase", **how)
    written = sorted(str(p.relative_to(folder)) for p in (tmp_path / "cohort" / "Data").rglob("*.nii.gz"))
    assert written == [
        "Data/Magnitude/phantom-002.nii.gz",
        "Data/Phase/phantom-002.nii.gz",
        "Data/T2star/phantom-001.nii.gz",
    ]
    truth = json.loads((tmp_path / "cohort" / "Truth" / "phantom-001.json").read_text())
    assert truth["spec"]["name"] == "t2star"
    assert make_cohort(folder, kinds=["t2star", "magnitude_phase"], **how) == folder
    with pytest.raises(FileExistsError, match="another cohort"):
        make_cohort(folder, kinds="t2star", **how)


def test_a_sheet_of_kinds_is_a_picture(young, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet_kinds, "simulate", lambda spec: young)
    path = sheet_kinds.kinds_sheet(tmp_path / "sheets" / "kinds.png", kinds="swi_only", scans=1, slices=2)
    with Image.open(path) as picture:
        assert picture.width > 300 and picture.height > 500, "one row for each image that the scan has"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profiles": ("ring",)}, "profiles is 'ring'"),
        ({"mineral_clusters": 2.0}, "mineral_clusters is 2.0"),
        ({"anywhere": -0.1}, "anywhere is -0.1"),
        ({"decay": (2.0, 1.0)}, "decay is"),
        ({"diameter_range_mm": (5.0, 2.0)}, "diameter_range_mm is"),
    ],
)
def test_wrong_content_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(Content(), **changes)
