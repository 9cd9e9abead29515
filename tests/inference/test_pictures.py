"""Pictures: circles at the right places, the usual view, and what is left out is said."""

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from scipy import ndimage

from cmb_bundle.scripts.data.labels import LabelConvention
from cmb_bundle.scripts.geometry import to_voxel
from cmb_bundle.scripts.inference.pictures import MAXIMUM_SLICES, draw_findings
from cmb_bundle.scripts.inference.writers import findings_table

AFFINE = np.array([[0.8, 0, 0, -30], [0, 1.0, 0, 12], [0, 0, 2.0, -7], [0, 0, 0, 1]])
SHAPE = (60, 50, 20)


def volume(values=0.4):
    return torch.full((1, *SHAPE), values)


def scan(swi, file_affine=AFFINE, file_shape=SHAPE):
    meta = {"original_affine": file_affine, "spatial_shape": file_shape}
    return MetaTensor(swi, affine=torch.as_tensor(AFFINE), meta=meta)


def result(*voxels, file_affine=AFFINE):
    ras = apply_affine(AFFINE, np.array(voxels, float).reshape(-1, 3))
    stored = to_voxel(file_affine, ras).round(3).tolist()
    more = dict.fromkeys(("diameter_mm", "detector_score", "classifier_probability", "probability"), 0.9)
    return {"microbleeds": [{"ras_mm": r.tolist(), "voxel": v, **more} for r, v in zip(ras, stored, strict=True)]}


def draw(path, swi, findings):
    draw_findings(path, "s1", scan(swi), findings)
    return matplotlib.image.imread(path)[..., :3]


@pytest.fixture
def texts(monkeypatch):
    """The titles of the figure and of its slices, as they are set."""
    found = {"figure": [], "slices": [], "labels": []}
    suptitle, write = Figure.suptitle, Figure.text

    def note_figure(self, text, **more):
        found["figure"].append(text)
        return suptitle(self, text, **more)

    def note_slice(self, x, y, text, **more):
        if text.startswith(("slice", "x ", "y ")):
            found["slices"].append(text)
        if ": 0." in text:
            label = write(self, x, y, text, **more)
            found["labels"].append(label)
            return label
        return write(self, x, y, text, **more)

    monkeypatch.setattr(Figure, "suptitle", note_figure)
    monkeypatch.setattr(Figure, "text", note_slice)
    return found


@pytest.mark.parametrize("voxel", [(5, 45, 7), (54, 5, 0), (25, 25, 19)])
def test_circle_is_around_the_lesion_in_radiological_view(tmp_path, voxel):
    swi = volume()
    swi[:] = torch.linspace(0.3, 0.7, SHAPE[2])
    i, j, k = voxel
    swi[0, :, :, k] = 0.5
    swi[0, i - 1 : i + 2, j - 1 : j + 2, k] = 1.0
    swi[0, :2, :, k] = 0.1
    picture = draw(tmp_path / "a.png", swi, result(voxel))
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    orange = (picture[..., 0] > 0.8) & (picture[..., 2] < 0.35)
    parts, number = ndimage.label(orange, np.ones((3, 3)))
    ring = 1 + np.argmax(ndimage.sum_labels(orange, parts, range(1, number + 1)))
    rows, columns = np.nonzero(parts == ring)
    centre = np.array([rows.min() + rows.max(), columns.min() + columns.max()]) / 2

    # index 0 along i is darker: it is the patient's left, hence on the right of the picture; anterior is up
    grey = np.ptp(picture, axis=2) < 0.05
    tissue = grey & (np.abs(picture[..., 0] - picture[len(picture) // 2, 40, 0]) < 0.02)
    rows, columns = (np.flatnonzero(tissue.sum(axis=axis) > 100) for axis in (1, 0))
    low, high = np.array([rows[0], columns[0]]), np.array([rows[-1], columns[-1]])
    below_titles = np.arange(len(picture))[:, None] > low[0]
    white = np.argwhere(grey & (picture[..., 0] > 0.95) & below_titles).mean(axis=0)
    np.testing.assert_allclose(centre, white, atol=1.2)
    size = high - low
    assert size[0] / size[1] == pytest.approx(50 * 1.0 / (58 * 0.8), rel=0.05)
    down, right = (white - low) / size
    assert down == pytest.approx(1 - (j + 0.5) / 50, abs=0.03)
    assert right == pytest.approx((60 - i - 0.5) / 58, abs=0.03)


def test_title_fits_a_narrow_picture(tmp_path):
    draw_findings(tmp_path / "a.png", "a-subject-with-a-name", scan(volume()), result((10, 10, 3)))
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    assert picture[:60].max() > 0.9
    assert picture[:, [0, 1, -2, -1]].max() == 0


def test_only_slices_with_microbleeds_are_drawn_each_once(tmp_path, texts):
    draw(tmp_path / "a.png", volume(), result((10, 10, 3.2), (30, 30, 2.9), (20, 20, 11)))
    assert texts["slices"] == ["slice 4", "slice 12"]
    assert texts["figure"] == ["s1: 3 microbleeds by the program.\nRight is on the left. Not for diagnosis."]


def test_one_microbleed_is_told_in_the_singular(tmp_path, texts):
    draw(tmp_path / "a.png", volume(), result((10, 10, 3)))
    assert texts["figure"][0].startswith("s1: 1 microbleed by the program.")


def test_subject_without_microbleeds_gets_six_slices_without_a_circle(tmp_path, texts):
    picture = draw(tmp_path / "a.png", volume(), result())
    assert not ((picture[..., 0] > 0.8) & (picture[..., 2] < 0.35)).any()
    assert texts["slices"] == [f"slice {k}" for k in (1, 5, 9, 12, 16, 20)]
    assert texts["figure"][0].startswith("s1: 0 microbleeds by the program.\n")


def test_more_slices_than_fit_are_said(tmp_path, texts):
    draw(tmp_path / "a.png", volume(), result(*[(10, 10, k) for k in range(MAXIMUM_SLICES + 3)]))
    assert len(texts["slices"]) == MAXIMUM_SLICES
    assert ", 3 more slices in the table." in texts["figure"][0]


FROM_ABOVE = AFFINE @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1]]
SAGITTAL = AFFINE[:, [1, 2, 0, 3]]
CONVENTIONS = [LabelConvention(), LabelConvention(index_base=0, flip_slice=True, swap_xy=True)]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("file_affine", "file_shape"), [(AFFINE, SHAPE), (FROM_ABOVE, SHAPE), (SAGITTAL, (50, 20, 60))]
)
def test_a_slice_has_the_number_of_the_table(tmp_path, texts, convention, file_affine, file_shape):
    found = result((10, 10, 3.5), (30, 30, 16), file_affine=file_affine)
    swi = scan(volume(), file_affine, file_shape)
    draw_findings(tmp_path / "a.png", "s1", swi, found, convention=convention)
    table = findings_table(found["microbleeds"], file_shape, convention)
    column = "slice" if file_affine is not SAGITTAL else "x" if convention.swap_xy else "y"
    assert sorted(texts["slices"]) == sorted(f"{column} {number}" for number in table[column])


def test_a_slice_of_a_file_from_above_has_the_number_that_a_viewer_of_the_file_shows(tmp_path, texts):
    swi = scan(volume(), FROM_ABOVE)
    draw_findings(tmp_path / "a.png", "s1", swi, result((10, 10, 3), file_affine=FROM_ABOVE))
    draw_findings(tmp_path / "a.png", "s1", swi, result())
    assert texts["slices"] == ["slice 17", *(f"slice {number}" for number in (20, 16, 12, 9, 5, 1))]


def test_labels_of_neighbours_cover_neither_each_other_nor_a_circle(tmp_path, texts):
    voxels = [(30, 25, 3), (31, 25, 3), (33, 27, 3), (28, 24, 3), (36, 22, 3), (1, 48, 3)]
    picture = draw(tmp_path / "a.png", volume(), result(*voxels))
    boxes = [label.get_window_extent() for label in texts["labels"]]
    assert len(boxes) == 6
    for n, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[n + 1 :])
        assert one.x0 >= 0 and one.x1 <= picture.shape[1]


@pytest.mark.parametrize("values", [0.0, 1.0])
def test_flat_volume_can_be_drawn(tmp_path, values):
    assert draw(tmp_path / "a.png", volume(values), result((10, 10, 3))).size > 0


def test_place_beyond_the_last_slice_is_drawn_on_it(tmp_path, texts):
    draw(tmp_path / "a.png", volume(), result((10, 10, 20.4)))
    assert texts["slices"] == ["slice 20"]


@pytest.mark.parametrize("voxels", [[(10, 10, 3)], [(10, 10, k) for k in range(5)]])
def test_warnings_are_written_below_the_slices_and_cover_none(tmp_path, voxels):
    grey = volume(1.0)
    grey[:, :2] = 0.1
    swi, found = scan(grey), result(*voxels)
    words = "The echo time is 60 ms; SWI was tested with 15 to 45 ms only, so that these results may be worse."
    draw_findings(tmp_path / "a.png", "s1", swi, found)
    draw_findings(tmp_path / "b.png", "s1", swi, found, f"{words} {words}")
    plain, warned = (matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3] for name in "ab")
    red = (warned[..., 0] > 0.5) & (warned[..., 1] < 0.5) & (warned[..., 2] > 0.25)
    assert not ((plain[..., 0] > 0.5) & (plain[..., 1] < 0.5) & (plain[..., 2] > 0.25)).any()
    rows, columns = np.nonzero(red)
    assert len(warned) > len(plain) and warned.shape[1] == plain.shape[1]
    assert columns.min() > 2 and columns.max() < warned.shape[1] - 3, "no letter is cut off"
    tissue = np.flatnonzero((warned.min(axis=2) > 0.9).sum(axis=1) > 100)
    assert len(tissue) > 100 and rows.min() > tissue[-1]
