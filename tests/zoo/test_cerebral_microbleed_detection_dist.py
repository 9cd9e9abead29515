"""The test of training in several processes, in the form of MONAI's model zoo: NCCL on GPUs, Gloo without."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow
from parameterized import parameterized

sys.path.insert(0, str(Path(__file__).parent))
from scans import write_scans  # noqa: E402 - found beside this file however the tests are started
from test_cerebral_microbleed_detection import CONFIGS, TRAIN  # noqa: E402

PROCESSES = max(2, min(torch.cuda.device_count(), 4)) if torch.cuda.device_count() != 1 else 1


class TestCerebralMicrobleedDetectionDistributed(unittest.TestCase):
    """Train in processes that torchrun starts."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.dataset_dir = os.path.join(self.folder, "scans")
        os.makedirs(self.dataset_dir)
        write_scans(self.dataset_dir, subjects=max(5, 3 * PROCESSES))

    def tearDown(self) -> None:
        shutil.rmtree(self.folder)

    @parameterized.expand([TRAIN])
    def test_train_mgpu_config(self, override):
        override = {
            **override,
            "dataset_dir": self.dataset_dir,
            "output_dir": os.path.join(self.folder, "output"),
            "detector_batch_size": PROCESSES * override["slices_per_subject"],
        }
        files = [str(CONFIGS / "train.json"), str(CONFIGS / "multi_gpu_train.json")]
        trainer = ConfigWorkflow(
            workflow_type="train",
            config_file=files,
            logging_file=str(CONFIGS / "logging.conf"),
            meta_file=str(CONFIGS / "metadata.json"),
            **override,
        )
        path = os.path.join(self.folder, "exported.json")
        trainer.parser.export_config_file(trainer.parser.config, path, indent=2)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
        command += ["-m", "monai.bundle", "run", "--config_file", path]
        command += ["--logging_file", str(CONFIGS / "logging.conf"), "--meta_file", str(CONFIGS / "metadata.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        self.assertEqual(done.returncode, 0, done.stderr[-4000:])
        self.assertTrue((Path(override["output_dir"]) / "model.pt").is_file())


if __name__ == "__main__":
    unittest.main()
