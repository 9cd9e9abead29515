"""Configurations as MONAI merges them."""

import json

from monai.bundle import ConfigParser

from . import CONFIGS


def configuration(*overlays, start="train.json"):
    """The merged configuration, with the package's own name, to be parsed in this process."""
    merged = ConfigParser.load_config_files([str(CONFIGS / name) for name in (start, *overlays)])
    return ConfigParser(json.loads(json.dumps(merged).replace('"scripts.', '"cmb_bundle.scripts.')))
