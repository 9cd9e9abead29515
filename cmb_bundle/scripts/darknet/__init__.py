"""Read and write darknet's files, and train as darknet does."""

from .augmentation import RandExposured, RandJitterd
from .cfg import Section, read_cfg, write_cfg
from .detector import darknet_detector, export_detector, fold_input_channels, read_weights, write_weights
from .layers import Convolution, MaxPool, Reorg, Route, Shortcut
from .network import DarknetNetwork, Shape
from .schedule import DarknetSchedule, epochs_of, learning_rate_factor, parameter_groups

__all__ = [
    "Convolution",
    "DarknetNetwork",
    "DarknetSchedule",
    "MaxPool",
    "RandExposured",
    "RandJitterd",
    "Reorg",
    "Route",
    "Section",
    "Shape",
    "Shortcut",
    "darknet_detector",
    "epochs_of",
    "export_detector",
    "fold_input_channels",
    "learning_rate_factor",
    "parameter_groups",
    "read_cfg",
    "read_weights",
    "write_cfg",
    "write_weights",
]
