"""Small models of Keras."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from keras import layers as kl

PATCH = (16, 32, 16)


def patches(number=4, seed=1):
    return np.random.default_rng(seed).random((number, 1, *PATCH), dtype=np.float32)


FIRST = {"data_format": "channels_first"}


def model_of(layers, shape=(1, *PATCH), functional=False, seed=0):
    """Build a model with random weights and statistics, such that its probabilities spread."""
    if functional:
        inputs = x = keras.Input(shape)
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, x)
    else:
        model = keras.Sequential([keras.Input(shape), *layers])
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.weights:
            name, size = variable.name, variable.shape
            if name in ("gamma", "moving_variance"):
                variable.assign(generator.uniform(0.5, 1.5, size))
            else:
                scale = 0.3 if len(size) == 1 else 2 / np.sqrt(np.prod(size[:-1]))
                variable.assign(generator.normal(0, scale, size))
    last = [layer for layer in model.layers if isinstance(layer, kl.Dense)][-1]
    x = patches() if shape[0] == 1 else np.moveaxis(patches(), 1, -1)
    logits = keras.Model(model.inputs, last.input).predict(x, verbose=0) @ np.array(last.get_weights()[0])
    spread = (logits[:, -1] - logits[:, 0]).std() if logits.shape[1] > 1 else logits.std()
    last.set_weights([last.get_weights()[0] / spread, -logits.mean(0) / spread])
    return model


def small_model(**changes):
    layers = [kl.Conv3D(2, 3, **FIRST), kl.BatchNormalization(), kl.Flatten(), kl.Dense(2, activation="softmax")]
    return model_of(layers, **changes)
