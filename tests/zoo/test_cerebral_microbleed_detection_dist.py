"""The test of training in several processes, in the form of MONAI's model zoo: NCCL on GPUs, Gloo without."""

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
from scans import write_scans
from test_cerebral_microbleed_detection import CONFIGS, TRAIN

PROCESSES = max(2, min(torch.cuda.device_count(), 4)) if torch.cuda.device_count() != 1 else 1


class TestCerebralMicrobleedDetectionDistributed(unittest.TestCase):
    """Train in processes that torchrun starts."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        write_scans(self.folder / "scans", subjects=max(5, 3 * PROCESSES))

    def tearDown(self) -> None:
        shutil.rmtree(self.folder)

    @parameterized.expand([TRAIN])
    def test_train_mgpu_config(self, override):
        override = {
            **override,
            "dataset_dir": str(self.folder / "scans"),
            "output_dir": str(self.folder / "output"),
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
        path = str(self.folder / "exported.json")
        trainer.parser.export_config_file(trainer.parser.config, path, indent=2)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
        command += ["-m", "monai.bundle", "run", "--config_file", path]
        command += ["--logging_file", str(CONFIGS / "logging.conf"), "--meta_file", str(CONFIGS / "metadata.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-4000:])
        self.assertTrue((Path(override["output_dir"]) / "model.pt").is_file())


if __name__ == "__main__":
    unittest.main()
