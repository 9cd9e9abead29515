"""Measure what one HR subject costs with networks that users would otherwise run, on the same machine in one run.

``python benchmarks/peers.py`` prints seconds per scan: of this bundle from files to files, of MONAI's SegResNet, and of
the network that nnU-Net v2 plans for such scans, both in sliding windows over a volume that is already in memory. Their
weights are random, so that the cost alone is compared, and nothing is said about what they would find. nnU-Net's rows
need ``pip install -c constraints.txt nnunetv2`` and are left out without it. A window takes the same time wherever it
lies, so that some are timed and the time is multiplied by their number.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import tempfile
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNet
from speed import ALLOCATOR, best, quietly, simulate, steps

WINDOW = (160, 160, 32)
"""Of SegResNet, in voxels: its three halvings need multiples of 8."""


def seconds_of(network: torch.nn.Module, window: tuple[int, ...], repeats: int) -> float:
    """Seconds of a network on one window of two channels."""
    with torch.inference_mode():
        return best(lambda: network(torch.zeros(1, 2, *window)), repeats)


def segresnet(shape: tuple[int, ...], repeats: int) -> tuple[str, float, int]:
    """MONAI's SegResNet with its default channels: the window, seconds of one, and how many a volume has."""
    seen = []
    SlidingWindowInferer(WINDOW, sw_batch_size=1, overlap=0.25)(
        torch.zeros(1, 1, *shape), lambda window: (seen.append(0), window)[1]
    )
    seconds = seconds_of(SegResNet(in_channels=2, out_channels=2).eval(), WINDOW, repeats)
    return " x ".join(map(str, WINDOW)), seconds, len(seen)


def nnunet(scan: Path, folder: Path, repeats: int) -> tuple[str, float, int]:
    """The same of nnU-Net v2, by its own fingerprint, plan (for 8 GB, its default) and step of half a patch."""
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True)
        os.environ[f"nnUNet_{name}"] = str(folder / name)  # read when it is imported
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    data = folder / "raw" / "Dataset001_CMB"
    for name in ("imagesTr", "labelsTr"):
        (data / name).mkdir(parents=True)
    for channel, kind in enumerate(("SWI", "Phase")):
        (data / "imagesTr" / f"a_000{channel}.nii.gz").symlink_to(next((scan / "Data" / kind).iterdir()))
    image = nib.load(next((scan / "Data" / "SWI").iterdir()))
    labels = np.zeros(image.shape, np.uint8)
    labels[tuple(slice(n // 2 - 2, n // 2 + 2) for n in image.shape)] = 1
    nib.save(nib.Nifti1Image(labels, image.affine), data / "labelsTr" / "a.nii.gz")
    content = {"channel_names": {"0": "SWI", "1": "phase"}, "labels": {"background": 0, "microbleed": 1}}
    (data / "dataset.json").write_text(json.dumps(content | {"numTraining": 1, "file_ending": ".nii.gz"}))
    quietly(lambda: DatasetFingerprintExtractor(1, num_processes=1).run())
    quietly(lambda: ExperimentPlanner(1).plan_experiment())
    plans = json.loads((folder / "preprocessed" / "Dataset001_CMB" / "nnUNetPlans.json").read_text())
    plan = plans["configurations"]["3d_fullres"]
    architecture, patch = plan["architecture"], tuple(plan["patch_size"])
    network = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], 2, 2,
        allow_init=False, deep_supervision=False,
    ).eval()  # fmt: skip
    shape = [max(*both) for both in zip(plan["median_image_size_in_voxels"], patch, strict=True)]
    windows = list(product(*compute_steps_for_sliding_window(tuple(map(int, shape)), patch, 0.5)))
    return " x ".join(map(str, patch)), seconds_of(network, patch, repeats), len(windows)


def main(repeats: int = 2) -> None:
    """Print the table."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        scan = Path(name) / "hr"
        make = get_context("spawn").Process(target=simulate, args=(scan,))
        make.start()
        make.join()
        if make.exitcode:
            raise RuntimeError("The simulation of the subject failed; see above.")
        shape = nib.load(next((scan / "Data" / "SWI").iterdir())).shape
        ours = steps(scan, repeats).loc[["stage 1", "stage 2", "all"], "median"]
        rows = {
            "this bundle, files to files": {"seconds": ours["all"]},
            "this bundle, both networks": {"seconds": ours["stage 1"] + ours["stage 2"]},
        }
        peers = {"SegResNet": segresnet(shape, repeats)}
        if importlib.util.find_spec("nnunetv2"):
            peers["nnU-Net v2, 3d_fullres"] = nnunet(scan, Path(name) / "nnunet", repeats)
        for peer, (window, seconds, windows) in peers.items():
            rows[peer] = {"window": window, "of a window": seconds, "windows": windows, "seconds": seconds * windows}
        if len(peers) > 1:
            last = rows["nnU-Net v2, 3d_fullres"]
            rows["the same, mirrored along all axes (its default)"] = last | {"seconds": 8 * last["seconds"]}
        table = pd.DataFrame(rows).T.astype({"seconds": float, "of a window": float, "windows": float})
        table["/ this bundle"] = table["seconds"] / ours["all"]
        print(f"{torch.get_num_threads()} threads; one subject of {' x '.join(map(str, shape))} voxels")
        print(table.round(2).to_string(na_rep=""))


if __name__ == "__main__":
    if not ALLOCATOR.keys() <= os.environ.keys():  # glibc reads them at process start
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    fire.Fire(main)
