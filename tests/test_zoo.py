"""What the model zoo checks of a bundle: its files, its metadata, its shapes, and its exports."""

import ast
import copy
import json
import re
import shlex
import sys
from pathlib import Path

import fire
import jsonschema
import monai.bundle
import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser

from .helpers import CONFIGS

BUNDLE = CONFIGS.parent
METADATA = json.loads((CONFIGS / "metadata.json").read_text())
IMAGE = METADATA["network_data_format"]["inputs"]["image"]
PATCH = METADATA["classifier_data_format"]["inputs"]["image"]
STRIDE = int(IMAGE["spatial_shape"][0].split("*")[0])
SIZES = [(1, STRIDE * 8, STRIDE * 8), (2, STRIDE * 6, STRIDE * 9), (3, STRIDE * 12, STRIDE * 5)]
PAGE = (BUNDLE.parent / "docs" / "reference" / "zoo.md").read_text(encoding="utf-8")
SCHEMA = json.loads((Path(__file__).parent / "metadata_schema.json").read_text())


def test_metadata_fits_the_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(METADATA, SCHEMA)
    assert METADATA["version"] in METADATA["changelog"]
    assert METADATA["version"] == max(METADATA["changelog"], key=lambda v: [int(n) for n in v.split(".")])


def without(key):
    return lambda data: data.pop(key)


@pytest.mark.parametrize(
    "spoil",
    [
        *(without(key) for key in SCHEMA["required"]),
        lambda data: data.update(numpy_version=">=2"),
        lambda data: data.update(optional_packages_version={}),
        lambda data: data["network_data_format"]["inputs"]["image"].pop("dtype"),
        lambda data: data["classifier_data_format"]["outputs"]["pred"].update(num_channels=0),
    ],
)
def test_the_schema_refuses_what_the_zoo_refuses(spoil):
    data = copy.deepcopy(METADATA)
    spoil(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


def test_every_file_of_the_zoo_is_there():
    names = ["metadata.json", "train.json", "inference.json", "evaluate.json", "multi_gpu_train.json", "logging.conf"]
    paths = [f"configs/{name}" for name in names]
    paths += ["LICENSE", "models/model.pt", "docs/README.md", "docs/data_license.txt", "scripts/__init__.py"]
    assert [path for path in paths if not (BUNDLE / path).is_file()] == []
    assert [path.name for path in (BUNDLE / "models").iterdir()] == ["model.pt"]
    assert max(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) < 25e6
    assert "Apache License" in (BUNDLE / "LICENSE").read_text()
    for path in CONFIGS.glob("*.json"):
        assert isinstance(json.loads(path.read_text()), dict), path


def test_the_model_card_has_the_sections_of_the_zoo():
    text = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    sections = ["Model Overview", "Data", "Training configuration", "Performance", "MONAI Bundle Commands"]
    sections += ["Limitations", "References", "License"]
    assert [heading for heading in headings if heading in sections] == sections
    training = text.split("## Training configuration")[1].split("\n## ")[0]
    assert [word for word in ("GPU", "Memory", "Input", "Output") if f"- {word}:" not in training] == []


def test_every_package_that_is_imported_is_named():
    named = {"torch", "monai", "numpy", *METADATA["required_packages_version"]}
    imported_as = {"pytorch-ignite": "ignite", "scikit-image": "skimage", "pillow": "PIL"}
    known = {imported_as.get(name, name) for name in named}
    optional = {
        "dask",
        "dask_jobqueue",
        "distributed",
        "yaml",
        "h5py",
        "pydicom",
        "highdicom",
        "keras",
        "cv2",
        "onnxruntime",
        "mlflow",
    }
    imported = set()
    for path in (BUNDLE / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) - known - optional == set()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the bundle's files, where a user starts the commands of the page."""
    for name in ("configs", "models", "scripts"):
        (tmp_path / name).symlink_to(BUNDLE / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(BUNDLE))
    return tmp_path


def run_command(name, **changes):
    """Run the page's command as ``python -m monai.bundle`` does, in this process; ``changes`` add or replace."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"python -m monai.bundle {name} "))
    words = shlex.split(line)[4:]
    for key, value in changes.items():
        words += [f"--{key}", str(value)]
    fire.Fire(getattr(monai.bundle, name), command=words, name=name)


@pytest.fixture
def network(folder):
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load("models/model.pt", weights_only=True))
    return network.eval()


def slices(batch, rows, columns):
    return torch.rand(batch, IMAGE["num_channels"], rows, columns, generator=torch.Generator().manual_seed(rows))


def test_network_fits_the_metadata(folder):
    run_command("verify_net_in_out", device="cpu")
    run_command("verify_net_in_out", device="cpu", n=3)
    with pytest.raises(ValueError, match="output channel number"):
        run_command("verify_net_in_out", **{"_meta_#network_data_format#outputs#pred#num_channels": 1000})


def test_torchscript_gives_the_same_tensors(network, folder):
    run_command("ckpt_export")
    exported = torch.jit.load(str(folder / "model.ts"))
    patches = torch.rand(5, PATCH["num_channels"], *PATCH["spatial_shape"])
    with torch.no_grad():
        for size in SIZES:
            raw = network(slices(*size))
            assert raw.shape[1] == METADATA["network_data_format"]["outputs"]["pred"]["num_channels"]
            torch.testing.assert_close(exported(slices(*size)), raw, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(exported.classifier(patches), network.classifier(patches), rtol=1e-5, atol=1e-5)


def test_onnx_gives_the_same_tensors(network, folder):
    run_command("onnx_export")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for size in SIZES:
        (found,) = session.run(["pred"], {"image": slices(*size).numpy()})
        with torch.no_grad():
            expected = network(slices(*size)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
