"""Scans from a susceptibility map: a synthetic one with known content, and real ones where they are at hand."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmb_bundle.scripts.phantom import PhantomSpec, Processing, draw_kind, make_cohort, simulate
from cmb_bundle.scripts.phantom.draws import subject_spec
from cmb_bundle.scripts.phantom.maps import MapPose, foci, load_map, map_veins
from cmb_bundle.scripts.phantom.placement import region_of

# Real maps for validation live beside the repository, if anywhere.
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "chi"


def synthetic(path, scale=1.0, flip=False):
    """An ellipsoid brain of 132 x 168 x 100 mm with white matter, a cortex, one vein along z and one ball of iron."""
    step = np.array([2.0, 2.0, 2.5])
    shape = (72, 92, 46)
    x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, step, strict=True)), indexing="ij")
    radius = np.sqrt((x / 66) ** 2 + (y / 84) ** 2 + (z / 50) ** 2)
    rng = np.random.default_rng(0)
    ppm = np.where(radius < 0.8, -0.03, 0.02) + rng.normal(0, 0.002, shape)
    ppm[(np.hypot(x - 31, y - 31) < 2.1) & (np.abs(z) < 20)] = 0.3
    ppm[(x + 25) ** 2 + y**2 + z**2 < 36] = 0.19
    ppm[radius > 1] = 0
    affine = np.diag([*step, 1.0])
    if flip:
        ppm, affine = ppm[::-1], np.diag([-step[0], *step[1:], 1.0])
    nib.save(nib.Nifti1Image((scale * ppm).astype(np.float32), affine), path)
    return str(path)


@pytest.fixture(scope="module")
def chi_file(tmp_path_factory):
    return synthetic(tmp_path_factory.mktemp("maps") / "map.nii.gz")


@pytest.fixture(scope="module")
def spec(chi_file):
    return PhantomSpec(
        name="map", spacing=(1.6, 1.6, 2.0), shape=(104, 124, 8), chi_map=chi_file, seed=2, microbleeds=3, mimics=False
    )


@pytest.fixture(scope="module")
def scan(spec):
    return simulate(spec)


def test_a_map_is_centred_and_measured(chi_file):
    chi = load_map(chi_file)
    assert chi.extent_mm == pytest.approx((132, 168, 100), abs=5)
    middle = chi.grid.index(np.zeros((1, 3)))[0]
    found = [(w.min() + w.max()) / 2 for w in np.nonzero(chi.brain)]
    assert middle == pytest.approx(found, abs=0.01)
    assert chi.ppm.min() == pytest.approx(-0.04, abs=0.01)


def test_a_flipped_map_is_the_same_map(chi_file, tmp_path):
    flipped = load_map(synthetic(tmp_path / "flipped.nii.gz", flip=True))
    assert np.allclose(flipped.ppm, load_map(chi_file).ppm, atol=1e-6)


def test_the_pose_matches_the_boxes_of_both_brains(chi_file):
    pose = MapPose(load_map(chi_file))
    points = np.array([[10.0, -20.0, 5.0], [-40.0, 30.0, -12.0]])
    assert pose.to_scanner(pose.to_template(points.T).T) == pytest.approx(points, abs=1e-3)
    assert region_of(pose.to_template(np.array([[0.0, 20.0, 40.0]]).T))[0] == "lobar"


def test_veins_of_the_map_keep_lesions_away(chi_file, scan):
    veins = map_veins(load_map(chi_file))
    assert (np.hypot(veins.points[:, 0] - 31, veins.points[:, 1] - 31) < 3).sum() > 20
    assert len(scan.truth["microbleeds"]) == 3
    origin = -(np.array(scan.spec.shape) - 1) / 2 * np.array(scan.spec.spacing)
    for lesion in scan.truth["microbleeds"]:
        centre = origin + np.array(lesion["voxel"]) * scan.spec.spacing
        assert np.linalg.norm(veins.points - centre, axis=1).min() > lesion["radius_mm"]


def test_a_vein_of_the_map_along_the_field_has_positive_phase_and_is_dark_on_swi(scan):
    i, j = 51.5 + 31 / 1.6, 61.5 + 31 / 1.6
    where = (round(i), round(j), slice(2, 6))
    beside = (slice(round(i) - 8, round(i) - 4), round(j), slice(2, 6))
    assert scan.phase[where].mean() > scan.phase[beside].mean() + 0.5
    assert scan.swi[where].mean() < 0.7 * scan.swi[beside].mean()


def with_balls(path, balls):
    """A copy of a map with balls of 6 mm: middle in mm from that of the array, ppm."""
    image = nib.load(path)
    ppm, step = image.get_fdata(dtype=np.float32), np.array(image.header.get_zooms())
    places = np.indices(ppm.shape).reshape(3, -1).T
    middle = (np.array(ppm.shape) - 1) / 2
    for centre, value in balls:
        inside = np.linalg.norm((places - middle) * step - centre, axis=1) < 3
        ppm[tuple(places[inside].T)] = value
    nib.save(nib.Nifti1Image(ppm, image.affine), path)
    return str(path)


BALLS = {
    "strong, deep and alone": ((-25.0, 40.0, 5.0), 0.4),
    "weak": ((25.0, 40.0, 5.0), 0.2),
    "of calcium": ((-25.0, -40.0, 5.0), -0.4),
    "at the surface": ((0.0, 81.5, 0.0), 0.4),
    "beside the vein": ((24.0, 31.0, 0.0), 0.4),
}


def test_what_may_be_a_microbleed_of_the_map_is_found(tmp_path):
    """Neither the vein, nor the ball of iron, nor any of the other balls."""
    found = foci(load_map(with_balls(synthetic(tmp_path / "map.nii.gz"), BALLS.values())))
    assert len(found) == 1
    assert found[0].centre == pytest.approx(BALLS["strong, deep and alone"][0], abs=1.3)
    assert found[0].susceptibility == pytest.approx(0.4)
    assert found[0].diameter == pytest.approx(6.0, abs=1.0)


def test_a_focus_of_the_map_is_in_the_truth_and_not_simulated_twice(tmp_path, spec):
    centre, ppm = BALLS["strong, deep and alone"]
    path = with_balls(synthetic(tmp_path / "map.nii.gz"), [(centre, ppm)])
    scan = simulate(spec.changed(chi_map=path, microbleeds=0, centre_mm=(0.0, 0.0, 5.0)))
    (focus,) = scan.truth["mimics"]
    assert (focus["kind"], focus["region"]) == ("focus", "map")
    assert np.linalg.norm(np.array(focus["ras_mm"]) - centre) < 3
    voxel = np.round(focus["voxel"]).astype(int)
    assert voxel == pytest.approx(np.array([51.5 - 25 / 1.6, 61.5 + 40 / 1.6, 3.5]), abs=2)
    assert scan.swi[tuple(voxel)] < 0.7 * np.median(scan.swi[20:80, 20:100, 3])
    below = simulate(spec.changed(chi_map=path, microbleeds=0, centre_mm=(0.0, 0.0, -20.0)))
    assert below.truth["mimics"] == []


def test_truth_names_the_file_and_not_where_it_lies(scan):
    assert scan.truth["spec"]["chi_map"] == "map.nii.gz"


def test_a_stripped_map_leaves_the_brain_alone(spec):
    stripped = simulate(spec.changed(skull_stripped=True, microbleeds=0))
    lit = stripped.magnitude[..., 4] > 0
    expected = np.pi * 66 * 84 / (104 * 124 * 1.6**2)
    assert lit.mean() == pytest.approx(expected, rel=0.12)
    assert lit[52, 62]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((16, 16, 16)), "no brain"),
        (np.full((16, 16, 16), 40.0), "rescale the map"),
        (np.zeros((16, 16)), "expected a volume"),
    ],
)
def test_what_is_no_map_is_refused(tmp_path, content, message):
    nib.save(nib.Nifti1Image(content.astype(np.float32), np.eye(4)), tmp_path / "wrong.nii.gz")
    with pytest.raises(ValueError, match=message):
        load_map(str(tmp_path / "wrong.nii.gz"))


def test_maps_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make_cohort(tmp_path / "cohort", 1, kinds="map_t2star", maps=tmp_path / "nowhere")


def test_maps_that_no_kind_takes_are_refused(tmp_path, chi_file):
    with pytest.raises(ValueError, match="t2star, swi_only, none of which takes susceptibility maps; leave maps out"):
        make_cohort(tmp_path / "cohort", 2, kinds="t2star,swi_only", maps=chi_file)
    assert not (tmp_path / "cohort").exists()


def test_plain_scans_take_the_maps_in_turn_and_end_within_the_brain(tmp_path, chi_file):
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("first", "second"):
        (maps / f"{name}.nii.gz").write_bytes(Path(chi_file).read_bytes())
    preset = PhantomSpec(name="plain", spacing=(2.0, 2.0, 5.0), shape=(40, 40, 90), centre_mm=(3.0, 0.0, 9.0))
    cohort = Path(make_cohort(tmp_path / "cohort", 3, preset, maps=maps, processes=1, progress=False))
    truths = [json.loads(f.read_text()) for f in sorted((cohort / "Truth").glob("*.json"))]
    assert [truth["spec"]["chi_map"] for truth in truths] == ["first.nii.gz", "second.nii.gz", "first.nii.gz"]
    image = nib.load(cohort / "Data" / "SWI" / "phantom-001.nii.gz")
    across, along, height = load_map(chi_file).extent_mm
    # A voxel of the map is 2.5 mm high, a slice 5 mm.
    assert image.header.get_zooms() == (2.0, 2.0, 5.0)
    assert np.array(image.shape) * (2, 2, 5) == pytest.approx((across + 40, along + 40, height - 4), abs=2.5)
    assert set(json.loads((cohort / "cohort.json").read_text())["maps"]) == {"first.nii.gz", "second.nii.gz"}


def test_a_lower_scan_of_a_map_keeps_its_height(chi_file):
    spec = subject_spec(PhantomSpec(spacing=(1.0, 1.0, 2.0), shape=(40, 40, 10)), 0, 1, vary=True, chi_map=chi_file)
    assert (spec.shape[2], spec.centre_mm, spec.chi_map) == (10, (0.0, 0.0, 0.0), chi_file)


def test_scans_of_maps_have_no_sessions(tmp_path, chi_file):
    with pytest.raises(ValueError, match="leave maps out"):
        make_cohort(tmp_path / "cohort", 1, maps=chi_file, sessions=2)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs real susceptibility maps, which {REAL} does not hold")
def test_a_real_map_makes_a_scan_with_veins():
    path = sorted(REAL.glob("*.nii.gz"))[0]
    spec = draw_kind("map_swi_phase", seed=1, chi_map=str(path))
    spec = spec.changed(spacing=(1.2, 1.2, 2.0), shape=(140, 164, 6), centre_mm=(0.0, 0.0, 4.0), microbleeds=3)
    scan = simulate(spec.changed(te_ms=25.0, field_tesla=3.0, skull_stripped=True, processing=Processing()))
    assert len(scan.truth["microbleeds"]) == 3
    assert 0.2 < (scan.magnitude > 0).mean() < 0.9
