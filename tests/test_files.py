"""Files are written whole or not at all."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cmb_bundle.scripts.errors import OutputError
from cmb_bundle.scripts.files import check_writable, take_lock, write_csv, write_json, write_whole


def write_half(path):
    path.write_text("half")
    raise OSError("disk full")


def interrupt(path):
    path.write_text("half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(("write", "error"), [(write_half, OSError), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("former", ["old", None])
def test_writer_that_fails_changes_nothing(tmp_path, write, error, former):
    path = tmp_path / "table.csv"
    if former:
        path.write_text(former)
    with pytest.raises(error):
        write_whole(path, write)
    assert [p.name for p in tmp_path.iterdir()] == (["table.csv"] if former else [])
    if former:
        assert path.read_text() == "old"


def test_old_file_stands_while_the_new_one_is_written_beside_it(tmp_path):
    path = tmp_path / "map.nii.gz"
    path.write_text("old")
    seen = []

    def write(aside):
        aside.write_text("new")
        seen.append((aside.parent, aside.name.endswith(".map.nii.gz"), path.read_text()))

    assert write_whole(path, write) == path
    assert seen == [(tmp_path, True, "old")]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_made(tmp_path):
    path = write_whole(str(tmp_path / "a" / "b" / "c.txt"), lambda aside: aside.write_text("x"))
    assert path.read_text() == "x"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_permissions_are_the_usual_ones(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for path in (write_json(tmp_path / "a.json", {}), write_csv(tmp_path / "a.csv", pd.DataFrame({"a": [1]}))):
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float64("nan")])
def test_json_refuses_what_it_cannot_say(tmp_path, number):
    path = write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": [number]})
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_csv_hold_what_was_given(tmp_path):
    content = {"name": "Müller", "none": None, "numbers": [1, 0.5]}
    text = write_json(tmp_path / "a.json", content).read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.endswith("}\n")
    table = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[7, 8])
    assert write_csv(tmp_path / "a.csv", table).read_text() == "a,b\n1,x\n2,\n"


@pytest.mark.parametrize("use", [check_writable, lambda folder: take_lock(folder / "lock")])
def test_a_folder_that_the_system_does_not_make_is_named(monkeypatch, tmp_path, use):
    def refuse(self, **more):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # as of /proc, which is on Linux alone
    with pytest.raises(OutputError, match="cannot be made") as raised:
        use(tmp_path / "x")
    assert str(raised.value) == (
        f"The folder {tmp_path / 'x'} cannot be made (No such file or directory). Give another output_dir, in a folder "
        "that can be written to."
    )
