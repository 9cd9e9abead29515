"""Detection from Python gives what the bundle writes, in both ways to import it."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import cmb_bundle
from cmb_bundle.scripts.errors import CheckpointError, InputError, OptionError, SubjectError
from cmb_bundle.scripts.inference import api, detect

from ..helpers import ROOT
from ..helpers.processes import run_code

KINDS = {
    "both": {"swi": "SWI", "phase": "Phase"},
    "alone": {"swi": "SWI"},
    "computed": {"phase": "Phase", "magnitude": "Magnitude"},
}
SUFFIX = {"swi": "swi", "phase": "phase", "magnitude": "mag"}
SUBJECT = "phantom-001.nii.gz"


@pytest.fixture(scope="module")
def scans(tiny_cohort):
    """The same scan as SWI with phase, as SWI alone, and as magnitude with phase: paths by kind."""
    return {
        kind: {name: tiny_cohort / "Data" / folder / SUBJECT for name, folder in folders.items()}
        for kind, folders in KINDS.items()
    }


@pytest.fixture(scope="module")
def written(scans, bundle, tmp_path_factory):
    """What the command line writes for them."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "scans").mkdir()
    for kind, paths in scans.items():
        for name, path in paths.items():
            shutil.copy(path, folder / "scans" / f"{kind}_{SUFFIX[name]}.nii.gz")
    bundle(
        "run", ["inference.json"], folder,
        dataset_dir=folder / "scans", output_dir=folder / "results", operating_point="sensitive", picture=False,
    )  # fmt: skip
    return folder / "results"


def as_json(records):
    return json.loads(json.dumps([asdict(record) for record in records]))


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_the_command_line_writes(kind, scans, written):
    result = detect(**scans[kind], operating_point="sensitive")
    content = json.loads((written / kind / f"{kind}_cmb.json").read_text())
    assert as_json(result.findings) == content["microbleeds"]
    assert as_json(result.candidates) == content["candidates"]
    assert result.notices == content["notices"]
    label_map = nib.load(written / kind / f"{kind}_cmb.nii.gz")
    assert np.array_equal(result.label_map.get_fdata(), label_map.get_fdata())
    assert np.array_equal(result.label_map.affine, label_map.affine)
    assert result.label_map.get_data_dtype() == label_map.get_data_dtype() == np.int16
    assert len(result.candidates) > len(result.findings) > 0
    for number, finding in enumerate(result.findings, 1):
        voxels = np.argwhere(result.label_map.get_fdata() == number)
        assert np.linalg.norm(voxels - finding.voxel, axis=1).min() < 5


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_memory_give_what_their_files_give(kind, scans):
    images = {name: nib.load(path) for name, path in scans[kind].items()}
    result, expected = (detect(**given, operating_point="sensitive") for given in (images, scans[kind]))
    assert (result.findings, result.candidates, result.notices) == (
        expected.findings,
        expected.candidates,
        expected.notices,
    )
    assert np.array_equal(result.label_map.get_fdata(), expected.label_map.get_fdata())
    assert np.array_equal(result.label_map.affine, expected.label_map.affine)


def test_an_image_made_in_memory_keeps_its_values_and_its_affine(scans, tmp_path):
    """Values that no scale of integers holds, an affine that float32 does not hold, axes in another order."""
    images = {}
    for name, path in scans["both"].items():
        file = nib.load(path)
        turned = nib.Nifti1Image(np.moveaxis(file.get_fdata(), 2, 0) * np.pi, file.affine[:, [2, 0, 1, 3]])
        turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.05, -0.2), [1 / 3, -200.1, 7e-3])
        images[name] = nib.Nifti1Image(turned.get_fdata(), turn @ turned.affine)
    images["phase"] = nib.Nifti1Image(images["phase"].get_fdata() / np.pi, images["phase"].affine)
    result = detect(**images, operating_point="sensitive")
    assert np.array_equal(result.label_map.affine, images["swi"].affine)
    assert result.label_map.shape == images["swi"].shape
    upright = detect(**scans["both"], operating_point="sensitive")
    assert len(result.findings) == len(upright.findings) > 0
    assert np.array_equal(np.moveaxis(result.label_map.get_fdata(), 0, 2), upright.label_map.get_fdata())
    for one, other in zip(result.findings, upright.findings, strict=True):
        assert one.voxel == pytest.approx(np.roll(other.voxel, 1), abs=0.05)
        assert one.ras_mm == pytest.approx(nib.affines.apply_affine(images["swi"].affine, one.voxel), abs=0.01)


def test_no_phase_is_looked_for_where_none_is_given(scans):
    assert "SWI alone" in detect(scans["both"]["swi"]).notices
    assert "SWI alone" not in detect(**scans["both"]).notices


def test_a_folder_is_taken_as_a_dicom_study(scans, tmp_path):
    pytest.importorskip("pydicom")
    from ..helpers.dicom_series import Study, write_dicom_series

    study = Study("P01")
    files = {name: nib.load(path) for name, path in scans["both"].items()}
    swi = np.asarray(files["swi"].dataobj)
    phase = np.round((files["phase"].get_fdata() + np.pi) * 2048 / np.pi).clip(0, 4095).astype(np.int16)
    swi_type, phase_type = r"ORIGINAL\PRIMARY\M\SWI\NORM\ND", r"ORIGINAL\PRIMARY\P\ND"
    write_dicom_series(tmp_path / "7", swi, files["swi"].affine, study, "SWI_Images", 7, swi_type)
    scale = {"slope": 2, "intercept": -4096}
    write_dicom_series(tmp_path / "5", phase, files["phase"].affine, study, "Pha_Images", 5, phase_type, **scale)
    found, expected = (
        detect(tmp_path, operating_point="sensitive"),
        detect(**scans["both"], operating_point="sensitive"),
    )
    assert "SWI alone" not in found.notices
    assert len(found.findings) == len(expected.findings) > 0
    for one, other in zip(found.findings, expected.findings, strict=True):
        assert one.ras_mm == pytest.approx(other.ras_mm, abs=0.05)
        assert one.probability == pytest.approx(other.probability, abs=0.005)
    assert "SWI alone" in detect(tmp_path / "7").notices


def test_networks_are_loaded_once(scans, tmp_path, monkeypatch):
    made = []

    class Counted(api.Detector):
        def __init__(self, **settings):
            made.append(settings)
            super().__init__(**settings)

    monkeypatch.setattr(api, "Detector", Counted)
    weights = Path(shutil.copy(ROOT / "cmb_bundle" / "models" / "model.pt", tmp_path))
    swi = scans["alone"]["swi"]
    for point in ("balanced", "sensitive"):
        assert detect(swi, checkpoint=weights, operating_point=point).candidates is not None
    assert len(made) == 1
    detect(swi, checkpoint=str(weights), device="cpu")
    assert len(made) == 2
    os.utime(weights, (1, 1))  # as of a new training
    detect(swi, checkpoint=weights)
    assert len(made) == 3


def test_thresholds_and_options_are_those_of_the_config(scans):
    sensitive = detect(**scans["both"], operating_point="sensitive")
    config = json.loads((ROOT / "cmb_bundle" / "configs" / "inference.json").read_text(encoding="utf-8"))
    by_hand = detect(**scans["both"], **config["operating_points"]["sensitive"])
    assert sensitive.candidates == by_hand.candidates
    least = min(finding.probability for finding in sensitive.findings)
    fewer = detect(**scans["both"], operating_point="sensitive", probability_threshold=least + 1e-3)
    assert len(fewer.findings) < len(sensitive.findings)
    assert not all(candidate.accepted for candidate in fewer.candidates)
    assert "SWI alone" in detect(**scans["both"], phase_channel="zero").notices
    assert "correlate" not in detect(**scans["both"], phase_sign=1).notices


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        ("both", {"operating_point": "best"}, OptionError, "specific, balanced, sensitive"),
        ("both", {"probability_threshold": 1.5}, OptionError, "number from 0 to 1"),
        ("both", {"phase_sing": 1}, OptionError, "no option phase_sing.*Did you mean phase_sign"),
        ("both", {"phase_sign": 3}, OptionError, "expected 'auto', 1 or -1"),
        ("both", {"seed": object()}, OptionError, "value that a config cannot have"),
        ("both", {"precision": "half"}, OptionError, "auto, float32, bfloat16"),
        ("both", {"device": "abacus"}, OptionError, "abacus"),
        ("both", {"checkpoint": "missing.pt"}, CheckpointError, "missing.pt"),
        ({}, {}, SubjectError, "no SWI, no magnitude with a phase"),
        ({"swi": "missing.nii.gz"}, {}, SubjectError, "missing.nii.gz does not exist"),
        ({"swi": np.zeros((9, 9, 9))}, {}, SubjectError, "ndarray; expected a path or a nibabel image"),
        ({"swi": nib.Nifti1Image(np.zeros((9, 9, 9)), np.eye(4))}, {}, SubjectError, "scan: the SWI in memory has"),
        ({"swi": nib.Nifti1Image(np.eye(9), np.eye(4))}, {}, SubjectError, "dimensions, 9 x 9"),
    ],
)
def test_what_the_caller_can_mend_is_an_input_error(given, options, kind, message, scans):
    with pytest.raises(kind, match=message) as caught:
        detect(**(scans[given] if isinstance(given, str) else given), **options)
    assert isinstance(caught.value, InputError)


def test_both_ways_to_import_it_give_the_same(scans, tmp_path):
    """In the bundle's folder, copied elsewhere, the scripts are a package of their own."""
    shutil.copytree(ROOT / "cmb_bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; from scripts.inference import detect\n"
        f"found = detect({str(scans['both']['swi'])!r}, {str(scans['both']['phase'])!r}, operating_point='sensitive')\n"
        "assert 'cmb_bundle' not in sys.modules\n"
        "print(sys.modules['scripts'].__file__, found.candidates, sep='\\n')\n"
    )
    done = run_code(code, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr[-3000:]
    file, candidates = done.stdout.splitlines()[-2:]
    assert file == str(tmp_path / "bundle" / "scripts" / "__init__.py")
    installed = cmb_bundle.detect(**scans["both"], operating_point="sensitive")
    assert candidates == str(installed.candidates)


def test_importing_the_package_is_cheap_until_it_detects():
    code = "import sys, cmb_bundle; cmb_bundle.__version__; assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert cmb_bundle.detect is detect
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = cmb_bundle.detekt


def test_the_python_block_of_the_readme_runs(scans, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if not blocks:
        pytest.skip("README.md has no block of Python")
    for name, kind in re.findall(r"[\"'](\S+_(swi|phase|mag)\.nii(?:\.gz)?)[\"']", blocks[0]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        folder = {"swi": "SWI", "phase": "Phase", "mag": "Magnitude"}[kind]
        shutil.copy(scans["both"]["swi"].parents[1] / folder / SUBJECT, tmp_path / name)
    done = run_code(blocks[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_magnitude_alone_is_read_as_t2star_weighted(scans):
    result = detect(magnitude=scans["computed"]["magnitude"])
    assert result.contrast == "t2star"
    assert result.notices.startswith("A T2*-weighted magnitude without phase was read")
    assert "voxel size in plane is 1.2 mm; T2*-weighted magnitude was tested with 0.4 to 1.1 mm" in result.warnings
    assert detect(**scans["both"]).contrast == "swi + phase"


@pytest.mark.parametrize(
    "option,value,words",
    [
        ("spacing", [0.6, -0.6, 2.0], "expected three lengths of 0.1 to 20 mm"),
        ("spacing", [0.01, 0.6, 2.0], "expected three lengths of 0.1 to 20 mm"),
        ("phase_scale", 0, "expected radians per stored unit, above 0"),
        ("phase_scale", -0.001, "expected radians per stored unit, above 0"),
    ],
)
def test_options_that_no_scan_can_have_are_refused(scans, option, value, words):
    with pytest.raises(OptionError, match=words):
        detect(**scans["both"], **{option: value})


def test_a_complex_image_gives_what_its_magnitude_and_phase_give(scans):
    images = {name: nib.load(path) for name, path in scans["computed"].items()}
    magnitude, phase = (np.asarray(images[name].dataobj, dtype=np.float64) for name in ("magnitude", "phase"))
    assert np.abs(phase).max() <= np.pi
    both = nib.Nifti1Image((magnitude * np.exp(1j * phase)).astype(np.complex64), images["phase"].affine)
    result = detect(magnitude=both, operating_point="sensitive")
    expected = detect(**images, operating_point="sensitive")
    assert len(result.findings) == len(expected.findings) > 0
    for one, other in zip(result.findings, expected.findings, strict=True):
        assert one.ras_mm == pytest.approx(other.ras_mm, abs=0.2)
    assert "complex" in result.notices
