"""Records: to a file and back, truth files, crops."""

import json

import numpy as np
import pytest

from cmb_bundle.scripts.errors import LabelError, RecordsError
from cmb_bundle.scripts.evaluation.records import (
    Candidate,
    Crop,
    Lesion,
    Mimic,
    SubjectRecord,
    load_records,
    save_records,
)
from cmb_bundle.scripts.evaluation.truth import Truth, complete, read_truth
from cmb_bundle.scripts.report.handlers import cut_crop


def full_record():
    crop = Crop(np.random.default_rng(0).integers(0, 256, (2, 7, 7)).astype(np.uint8), 24.0)
    return SubjectRecord(
        "s1",
        [Lesion((1.5, -2.0, 3.25), 2.5, "deep", crop), Lesion((0.0, 0.0, 0.0))],
        [
            Candidate((1.0, 2.0, 3.0), 0.75, 0.5, True, 3.0, "accepted", crop),
            Candidate((9.0, 9.0, 9.0), 12.5, None, False, None, "not classified"),
        ],
        "a system",
        [Mimic((4.0, 5.0, 6.0), "vein", 3.0)],
        (0.5, 0.5, 2.0),
        3,
        "model.pt",
        0.1,
        0.5,
        True,
        "No phase was found.",
    )


def same(a, b):
    """Equality down to the pixels of crops."""
    if isinstance(a, Crop):
        return (
            a.size_mm == b.size_mm and a.channels.dtype == b.channels.dtype and np.array_equal(a.channels, b.channels)
        )
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return a == b and type(a) is type(b)


def test_records_come_back_as_they_were(tmp_path):
    records = [full_record(), SubjectRecord("s2", [], [])]
    path = save_records(tmp_path / "records.json", records)
    assert same(load_records(path), records)
    assert same(load_records(tmp_path), records)
    assert same(load_records([str(path)]), records)


def test_numbers_of_numpy_and_what_is_no_number(tmp_path):
    record = SubjectRecord("s", [Lesion(tuple(np.array([1.0, 2, 3])), np.float32(2.5))], [], fold=np.int64(1))
    back = load_records(save_records(tmp_path / "records.json", [record]))[0]
    assert (back.lesions[0].diameter_mm, back.fold) == (2.5, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        save_records(tmp_path / "bad.json", [SubjectRecord("s", [Lesion((np.nan, 0.0, 0.0))], [])])
    assert not (tmp_path / "bad.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ('{"records": []}', "KeyError: 'format'"),
        ('{"format": 99, "records": []}', "format 99, expected 1"),
        ('{"format": 1, "records": [{"subject": "s"}]}', "KeyError: 'lesions'"),
    ],
)
def test_what_is_no_file_of_records_is_told(tmp_path, text, reason):
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(RecordsError, match=rf"records.json: is not a file of records \(.*{reason}.*Expected the"):
        load_records(tmp_path)
    with pytest.raises(RecordsError, match="FileNotFoundError"):
        load_records(tmp_path / "nowhere.json")


def test_the_same_subject_in_two_files_is_refused(tmp_path):
    for name in ("0", "1"):
        save_records(tmp_path / name / "records.json", [full_record()])
    with pytest.raises(RecordsError, match="subject s1 is there twice"):
        load_records([tmp_path / "0", tmp_path / "1"])


# ------------------------------------------------------------------------------------------------------------ truth


def test_truth_of_a_phantom(tiny_cohort):
    paths = sorted((tiny_cohort / "Truth").iterdir())
    for path in paths:
        content, truth = json.loads(path.read_text()), read_truth(path)
        assert truth.simulated
        assert [m.ras_mm for m in truth.microbleeds] == [tuple(m["ras_mm"]) for m in content["microbleeds"]]
        assert {m.region for m in truth.microbleeds} <= {"lobar", "deep", "infratentorial"}
        assert [m.kind for m in truth.mimics] == [m["kind"] for m in content["mimics"]]


@pytest.mark.parametrize("text", ["[]", "nonsense", '{"microbleeds": [{"ras_mm": [1, 2]}]}', '{"microbleeds": [3]}'])
def test_unreadable_truth_is_told(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(LabelError, match=r"t.json: cannot be read as a truth file .* Expected JSON"):
        read_truth(tmp_path / "t.json")


def test_truth_without_lists(tmp_path):
    (tmp_path / "t.json").write_text("{}")
    assert read_truth(tmp_path / "t.json") == Truth([], None, False)


def test_labelled_lesions_get_what_the_nearest_microbleed_of_the_truth_has():
    truth = Truth([Lesion((0.0, 0, 0), 2.0, "lobar"), Lesion((2.5, 0, 0), 4.0, "deep")], None, True)
    lesions = [Lesion((1.0, 0, 0)), Lesion((0.0, 0, 0), 9.0, "own"), Lesion((30.0, 0, 0))]
    found = complete(lesions, truth)
    # one to one: the one at 0 has the first, so the one at 1 has the second
    assert [(x.ras_mm[0], x.diameter_mm, x.region) for x in found] == [
        (1.0, 4.0, "deep"),
        (0.0, 9.0, "own"),
        (30.0, None, None),
    ]
    assert complete([], truth) == []
    assert complete(lesions, Truth([], None, False)) == lesions


# ------------------------------------------------------------------------------------------------------------ crops


def test_crop_is_in_radiological_view_with_the_place_in_the_middle():
    volume = np.zeros((2, 41, 41, 5))
    affine = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 2, 0], [0, 0, 0, 1]])
    # at RAS (3, -4, 4): voxel (23, 26, 2); a bright voxel 2 mm to the right and one 3 mm in front of it
    volume[0, 25, 26, 2] = volume[1, 23, 29, 2] = 1.0
    crop = cut_crop(volume, affine, (3.0, -4.0, 4.4), size_mm=11, pixel_mm=1.0)
    assert crop.channels.shape == (2, 11, 11) and crop.channels.dtype == np.uint8 and crop.size_mm == 11
    assert np.argwhere(crop.channels[0]).tolist() == [[5, 3]], "the patient's right is on the left"
    assert np.argwhere(crop.channels[1]).tolist() == [[2, 5]], "anterior is up"
    assert crop.channels[0, 5, 3] == 255
    nearest = cut_crop(volume, affine, (3.0, -4.0, 5.2), size_mm=11, pixel_mm=1.0)
    assert not nearest.channels.any(), "the slice at 6 mm"


def test_crop_beyond_the_volume_is_black_and_keeps_its_size():
    volume = np.full((2, 10, 10, 3), 0.5)
    crop = cut_crop(volume, np.eye(4), (0.0, 0.0, 90.0), size_mm=6, pixel_mm=0.5)
    assert crop.channels.shape == (2, 12, 12)
    # the place is a voxel's centre: 5.5 pixels of 0.5 mm to each side, and linear interpolation ends with the voxels
    assert (crop.channels[:, :6, :6] == 128).all()
    assert not crop.channels[:, 7:].any() and not crop.channels[:, :, 7:].any()
