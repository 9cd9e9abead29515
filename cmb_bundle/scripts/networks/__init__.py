"""The networks of both stages, and their weights."""

from .blocks import convolution_block, scaled_channels, side_by_side
from .classifier import ContextClassifier, PatchClassifier
from .decision import JointDecision
from .dipole import DipoleEvidence
from .profile import Profile
from .surroundings import Surroundings
from .two_stage import TwoStageNetwork
from .weights import fit_weights, initialize, load_weights, plain_weights, read_state, save_weights
from .yolov2 import Stages, YOLOv2Network

__all__ = [
    "ContextClassifier",
    "DipoleEvidence",
    "JointDecision",
    "PatchClassifier",
    "Profile",
    "Stages",
    "Surroundings",
    "TwoStageNetwork",
    "YOLOv2Network",
    "convolution_block",
    "fit_weights",
    "initialize",
    "load_weights",
    "plain_weights",
    "read_state",
    "save_weights",
    "scaled_channels",
    "side_by_side",
]
