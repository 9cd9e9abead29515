import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from cmb_bundle.scripts.annotation import is_served, publish_weights, training_dir
from cmb_bundle.scripts.data.datasets import CohortDataset
from cmb_bundle.scripts.data.layouts import complete_subject
from cmb_bundle.scripts.errors import CheckpointError, SubjectError
from cmb_bundle.scripts.transforms.load import LoadSubjectd

CONFIGS = Path(__file__).parents[1] / "cmb_bundle" / "configs"
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


@pytest.fixture
def served(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("MONAI_LABEL_APP_DIR", str(tmp_path / "app"))
    return tmp_path / "app"


def scan(path, value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).random((8, 9, 5)).astype(np.float32) * value
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return str(path)


@pytest.mark.parametrize(
    ("swi", "phase"),
    [
        ("01.nii.gz", "phase/01.nii.gz"),
        ("01_swi.nii.gz", "Phase/01_phase.nii"),
        ("01_swi.nii.gz", "01_phase.nii.gz"),
        ("SWI/01.nii.gz", "Phase/01.nii.gz"),
        ("SWI/01.nii.gz", "pha/01_ph.mha"),
    ],
)
def test_phase_is_found_by_the_name_of_the_swi(tmp_path, swi, phase):
    for name in (swi, phase, "phase/02.nii.gz", "Magnitude/01.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    subject = complete_subject({"image": str(tmp_path / swi), "label": "l.nii.gz"})
    assert subject == {
        "subject": "01",
        "image": str(tmp_path / swi),
        "phase": str(tmp_path / phase),
        "label": "l.nii.gz",
    }


def test_phase_that_is_not_there_or_there_twice(tmp_path):
    for name in ("01.nii.gz", "phase/02.nii.gz", "02.nii.gz", "02_phase.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert complete_subject({"image": tmp_path / "01.nii.gz"}) == {"subject": "01", "image": tmp_path / "01.nii.gz"}
    twice = complete_subject({"image": str(tmp_path / "02.nii.gz")})
    assert twice["subject"] == "02"
    assert "has 2 phases" in twice["error"]
    with pytest.raises(SubjectError, match="has 2 phases"):
        LoadSubjectd()({"image": str(tmp_path / "02.nii.gz")})


def test_subject_that_is_known_already_is_left_alone(tmp_path):
    scan(tmp_path / "phase" / "01.nii.gz")
    known = {"subject": "01", "image": scan(tmp_path / "01.nii.gz")}
    assert complete_subject(known) == known
    assert complete_subject({"magnitude": "m.nii"}) == {"magnitude": "m.nii"}


def test_swi_alone_brings_its_phase_along(tmp_path):
    image, phase = scan(tmp_path / "01.nii.gz"), scan(tmp_path / "phase" / "01.nii.gz", 3.0)
    loaded = LoadSubjectd()({"image": image, "image_path": image, "description": "of a request"})
    np.testing.assert_array_equal(loaded["phase"][0], nib.load(phase).get_fdata(dtype=np.float32))
    assert loaded["subject"] == "01"
    assert loaded["notices"] == ""
    assert "No phase" in LoadSubjectd()({"image": scan(tmp_path / "other" / "03.nii.gz")})["notices"]


def test_pairs_of_image_and_label_are_subjects(tmp_path):
    pairs = [{"image": scan(tmp_path / f"{n}.nii.gz"), "label": "l.nii.gz"} for n in (1, 2)]
    dataset = CohortDataset(pairs, LoadSubjectd(), progress=False)
    assert [d["subject"] for d in dataset.data] == ["1", "2"]


def test_validation_without_subjects_takes_those_of_training(tmp_path, caplog):
    pairs = [{"image": scan(tmp_path / "1.nii.gz"), "label": "l.nii.gz"}]
    dataset = CohortDataset([], LoadSubjectd(), progress=False, when_empty=pairs)
    assert [d["subject"] for d in dataset.data] == ["1"]
    assert "the training subjects are used for validation" in caplog.text
    with pytest.raises(SubjectError):
        CohortDataset([], LoadSubjectd(), progress=False)


def test_each_training_of_a_server_has_a_folder(served, monkeypatch):
    first, second = Path(training_dir()), Path(training_dir())
    assert first != second
    assert first.parent == second.parent == served / "trainings"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert training_dir() == training_dir() == str(served / "trainings" / "job")


def test_training_without_a_server_writes_where_it_did(monkeypatch, tmp_path):
    monkeypatch.delenv("MONAI_LABEL_APP_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert not is_served()
    assert training_dir() == str(tmp_path / "output")
    assert publish_weights(tmp_path / "absent.pt", tmp_path) is None


def test_retrained_weights_stand_beside_the_shipped(served, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "model.pt").write_bytes(b"shipped")
    for content in (b"first", b"second"):
        (tmp_path / "new.pt").write_bytes(content)
        os.utime(tmp_path / "new.pt", (1, 1))
        path = publish_weights(tmp_path / "new.pt", models)
        assert path == models / "retrained.pt"
        assert path.read_bytes() == content
        assert path.stat().st_mtime > 1
    assert sorted(p.name for p in models.iterdir()) == ["model.pt", "retrained.pt"]
    assert (models / "model.pt").read_bytes() == b"shipped"


def test_models_folder_that_cannot_be_written_to(served, tmp_path):
    (tmp_path / "new.pt").write_bytes(b"new")
    (tmp_path / "models").write_text("a file in its place")
    with pytest.raises(CheckpointError, match=r"retrained weights are in .*new\.pt"):
        publish_weights(tmp_path / "new.pt", tmp_path / "models")


@pytest.mark.parametrize("server", [False, True])
def test_server_reads_its_options_from_displayable_configs(monkeypatch, tmp_path, server):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    monkeypatch.delenv("MONAI_LABEL_APP_DIR", raising=False)
    if server:
        monkeypatch.setenv("MONAI_LABEL_APP_DIR", str(tmp_path))
    parser = ConfigParser(json.loads((CONFIGS / "inference.json").read_text()))
    offered = parser.get_parsed_content("displayable_configs")
    assert offered["number_microbleeds"] is not server
    parser["displayable_configs"].update({"candidate_threshold": 0.25, "probability_threshold": 0.75})
    parser.parse()
    assert parser.get_parsed_content("inferer").candidate_threshold == 0.25
    findings = parser.get_parsed_content("postprocessing").transforms[0]
    assert findings.probability_threshold == 0.75
    assert findings.number is not server


@pytest.mark.parametrize("name", ["train", "inference"])
def test_device_may_be_a_text(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    parser = ConfigParser({"imports": ["$import torch"], "device": "cpu", "amp": config["amp"]})
    assert parser.get_parsed_content("amp") is False


def test_operating_point_of_a_request(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    parser = ConfigParser(json.loads((CONFIGS / "inference.json").read_text()))
    offered, points = parser.get_parsed_content("displayable_configs"), parser["operating_points"]
    assert set(offered["operating_point"]) == set(points)
    for point, thresholds in points.items():
        parser["displayable_configs"].update({**offered, "operating_point": point})
        parser.parse()
        assert parser.get_parsed_content("inferer").candidate_threshold == thresholds["candidate_threshold"]
        findings = parser.get_parsed_content("postprocessing").transforms[0]
        assert findings.probability_threshold == thresholds["probability_threshold"]
