"""What scanners and converters really write: each folder that lies beside this checkout, found, read and judged."""

import shutil

import pytest

from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.errors import InputError
from cmb_bundle.scripts.transforms import LoadSubjectd

from .helpers import ROOT

DATA = ROOT.parent / "shared" / "data"
READ = {
    "real/gre_crop": ("magnitude + phase", (1, 51, 51, 41)),
    "scanners/philips_classic_swip_header": ("swi + phase", (1, 128, 128, 4)),
}
"""Susceptibility-weighted scans, with what is read of each and its size."""
FIELD_MAPS = (
    "real/head_philips",
    "real/head_siemens",
    "scanners/philips_enhanced_dual_echo",
    "scanners/siemens_d13_field_map",
    "scanners/siemens_xa30_classic",
    "scanners/siemens_xa30_enhanced",
)
"""Field maps of heads, which cannot show a microbleed."""


def read_all(folder):
    """What each subject of a folder is read as, and why it is refused, each with an entry at least."""
    read, refused = [], []
    try:
        subjects = find_subjects(folder)
    except InputError as error:
        return [], [str(error)]
    for subject in subjects:
        try:
            d = LoadSubjectd()(subject)
        except InputError as error:
            refused.append(str(error))
            continue
        if d["doubts"]:
            refused.append(d["doubts"])
        else:
            image = d["image"] if "image" in d else d["magnitude"]
            read.append((d["contrast"], tuple(image.shape)))
    return read, refused


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real scans at {DATA}")
def test_real_scans_are_found():
    there = {
        f"{kind}/{path.name}" for kind in ("real", "scanners") for path in (DATA / kind).iterdir() if path.is_dir()
    }
    assert there == {*READ, *FIELD_MAPS}, "a folder of real scans came or went: say here what is to be read of it"
    for name, expected in READ.items():
        assert read_all(DATA / name) == ([expected], []), name
    for name in FIELD_MAPS:
        read, refused = read_all(DATA / name)
        assert read == [], name
        assert refused, name


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real scans at {DATA}")
@pytest.mark.parametrize("name", ["scanners/siemens_xa30_classic", "scanners/siemens_xa30_enhanced"])
def test_field_maps_say_so(name):
    [reason] = read_all(DATA / name)[1]
    assert reason == "Its header says 'gre_field_mapping', which is a field map."


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real scans at {DATA}")
def test_real_scans_beside_each_other_are_subjects_each(tmp_path):
    for name in ("real/gre_crop", "real/head_philips"):
        shutil.copytree(DATA / name, tmp_path / name.split("/")[1])
    read, refused = read_all(tmp_path)
    assert read == [READ["real/gre_crop"]]
    assert refused == ["Its header says 'fcMRI Field Mapping', which is a field map."]
