"""The networks of both stages, and their weights."""

from .blocks import convolution_block, scaled_channels
from .classifier import PatchClassifier
from .two_stage import TwoStageNetwork
from .weights import fit_weights, initialize, load_weights, read_state, save_weights
from .yolov2 import Stages, YOLOv2Network

__all__ = [
    "PatchClassifier",
    "Stages",
    "TwoStageNetwork",
    "YOLOv2Network",
    "convolution_block",
    "fit_weights",
    "initialize",
    "load_weights",
    "read_state",
    "save_weights",
    "scaled_channels",
]
