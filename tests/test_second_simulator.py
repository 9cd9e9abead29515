"""The benchmark's own forward model, against what physics says of a sphere."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import second_simulator


def test_sphere_fills_its_volume():
    voxel = np.array([0.5, 0.5, 1.0])
    share = second_simulator.sphere((40, 40, 20), voxel, np.array([9.7, 10.1, 9.8]), 3.0)
    assert share.sum() * voxel.prod() == pytest.approx(4 / 3 * np.pi * 27, rel=0.02)
    assert (share * np.arange(40)[:, None, None]).sum() / share.sum() * 0.5 == pytest.approx(9.7, abs=0.02)


def test_field_of_a_sphere_is_a_dipole():
    """Outside: chi / 3 * (radius / r) ** 3 * (3 cos^2 - 1); inside, 0 with Lorentz' correction."""
    voxel, chi, radius = np.array([0.5, 0.5, 0.5]), 1.5, 4.0
    middle = np.full(3, 20.0)
    source = second_simulator.sphere((81, 81, 81), voxel, middle, radius) * chi
    field = second_simulator.field_of(source, voxel)
    for along, factor in (((0, 0, 1), 2.0), ((1, 0, 0), -1.0), ((0, 1, 0), -1.0)):
        place = tuple(((middle + 8.0 * np.array(along)) / voxel).astype(int))
        assert field[place] == pytest.approx(chi / 3 * (radius / 8.0) ** 3 * factor, abs=0.012)
    assert field[40, 40, 40] == pytest.approx(0.0, abs=0.012)


def test_scan_has_a_label_at_each_dark_spot(tmp_path):
    """A uniform map: the label lies where the magnitude is darkest, and the phase of a microbleed is paramagnetic."""
    ppm = np.zeros((60, 60, 20), np.float32)
    ppm[5:-5, 5:-5, 2:-2] = 0.015
    path = tmp_path / "map.nii.gz"
    nib.save(nib.Nifti1Image(ppm, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    for seed in range(20):
        images, affine, truth = second_simulator.simulate(path, "swi_phase", np.random.default_rng(seed))
        if images["Label"].any():
            break
    swi, label = images["Data/SWI"].astype(float), images["Label"] > 0
    parts, count = ndimage.label(label)
    middles = ndimage.center_of_mass(label, parts, range(1, count + 1)) @ affine[:3, :3] + affine[:3, 3]
    told = np.array([microbleed["ras_mm"] for microbleed in truth["microbleeds"]])
    assert cdist(told, middles).min(axis=1) == pytest.approx(np.zeros(count), abs=1.0)
    assert truth["mimics"] == []
    assert affine.diagonal()[:3] == pytest.approx([0.5, 0.5, 2.0])
    brain = np.s_[30:-30, 30:-30, 8:-8]
    assert swi[label].min() < 0.6 * np.median(swi[brain])
    dark = label & (swi < 0.7 * np.median(swi[brain]))
    assert images["Data/Phase"][dark].mean() > 2100
    assert set(second_simulator.simulate(path, "t2star", np.random.default_rng(0))[0]) == {"Data/T2star", "Label"}


@pytest.mark.parametrize("kind", ["swi_phase", "t2star"])
def test_a_focus_of_the_map_is_told_where_the_scan_is_dark(tmp_path, kind):
    ppm = np.zeros((60, 60, 20), np.float32)
    ppm[5:-5, 5:-5, 2:-2] = 0.015
    ppm[24:27, 31:34, 9:11] = 1.0
    path = tmp_path / "map.nii.gz"
    nib.save(nib.Nifti1Image(ppm, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    images, affine, truth = second_simulator.simulate(path, kind, np.random.default_rng(0))
    (focus,) = truth["mimics"]
    i, j, k = np.linalg.solve(affine, [*focus["ras_mm"], 1.0])[:3]
    assert (i, j) == pytest.approx((2 * 25 + 0.5 + 12, 2 * 32 + 0.5 + 12), abs=0.1)
    scan = next(iter(images.values())).astype(float)
    here = scan[round(i) - 2 : round(i) + 3, round(j) - 2 : round(j) + 3, round(k)]
    assert here.min() < 0.5 * np.median(scan[40:-40, 40:-40, round(k)])
