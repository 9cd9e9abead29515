"""What several test files use."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "cmb_bundle" / "configs"
REAL = ROOT.parent / "shared" / "data" / "real"
TINY_CONFIG = ROOT / "tests" / "configs" / "tiny.json"
STRIDE_8_STAGES = [
    [[3, 32]],
    [[3, 64]],
    [[3, 128], [1, 64], [3, 128]],
    [[3, 256], [1, 128], [3, 256], [1, 128], [3, 256], [3, 256], [3, 256]],
]
