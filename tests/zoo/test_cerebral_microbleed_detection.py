"""
Unit tests of the bundle in the form of MONAI's model zoo.

``python -m unittest`` or pytest; the bundle's folder is ``BUNDLE_ROOT`` of the environment, the zoo's
``models/cerebral_microbleed_detection``, or ``cmb_bundle`` of this repository.
"""

import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

from monai.bundle import ConfigWorkflow
from parameterized import parameterized

sys.path.insert(0, str(Path(__file__).parent))
from scans import write_scans

HERE = Path(__file__).resolve()
BUNDLE = Path(os.environ.get("BUNDLE_ROOT") or "models/cerebral_microbleed_detection").resolve()
if not BUNDLE.is_dir():
    BUNDLE = HERE.parents[2] / "cmb_bundle"
CONFIGS = BUNDLE / "configs"

SMALL = {
    "bundle_root": str(BUNDLE),
    "folds": 3,
    "slices_per_subject": 2,
    "slice_size": [64, 64],
    "network_def#detector#network#width": 0.125,
    "network_def#classifier#channels": [4, 8, 16],
}
TRAIN = [{**SMALL, "detector_epochs": 1, "val_interval": 1, "classifier_epochs": 1, "detector_batch_size": 2}]
EVALUATE = [{"bundle_root": str(BUNDLE), "folds": 3, "picture": False}]
INFERENCE = [{"bundle_root": str(BUNDLE), "picture": False}]


class TestCerebralMicrobleedDetection(unittest.TestCase):
    """Train, evaluate and infer on scans made here."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        write_scans(cls.folder / "scans")

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.folder)

    def work(self, override: dict, files: list, workflow_type: str, output: str) -> Path:
        """Check the properties of a workflow and run it; returns its output folder."""
        output_dir = self.folder / output
        workflow = ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=[str(CONFIGS / name) for name in files],
            logging_file=str(CONFIGS / "logging.conf"),
            meta_file=str(CONFIGS / "metadata.json"),
            **override,
            dataset_dir=str(self.folder / "scans"),
            output_dir=str(output_dir),
        )
        workflow.initialize()
        self.assertEqual(workflow.check_properties(), [])
        workflow.run()
        workflow.finalize()
        return output_dir

    @parameterized.expand([TRAIN])
    def test_train_config(self, override):
        output = self.work(override, ["train.json"], "train", "train")
        self.assertTrue((output / "model.pt").is_file())
        self.assertEqual(len((output / "classifier_log.csv").read_text().splitlines()), 2)

    @parameterized.expand([EVALUATE])
    def test_evaluate_config(self, override):
        output = self.work(override, ["inference.json", "evaluate.json"], "infer", "evaluate")
        scores = json.loads((output / "metrics.json").read_text())["end_to_end"]
        self.assertEqual(scores["n_lesions"] % 3, 0)
        self.assertGreater(scores["n_lesions"], 0)

    @parameterized.expand([INFERENCE])
    def test_inference_config(self, override):
        output = self.work(override, ["inference.json"], "infer", "inference")
        folders = sorted(path for path in output.iterdir() if path.is_dir())
        self.assertEqual([path.name for path in folders], [f"subject-{n}" for n in range(5)])
        for folder in folders:
            self.assertIn("candidates", json.loads((folder / f"{folder.name}_cmb.json").read_text()))


if __name__ == "__main__":
    unittest.main()
