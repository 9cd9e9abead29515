"""Read classifiers that Keras wrote."""

from .classifier import KerasClassifier, keras_classifier
from .files import Layer, chain_of_layers, fits, read_architecture, read_weights
from .layers import AxisBatchNorm, ChannelsLast, KerasFlatten, SamePadding, activation, weight_shapes

__all__ = [
    "AxisBatchNorm",
    "ChannelsLast",
    "KerasClassifier",
    "KerasFlatten",
    "Layer",
    "SamePadding",
    "activation",
    "chain_of_layers",
    "fits",
    "keras_classifier",
    "read_architecture",
    "read_weights",
    "weight_shapes",
]
