"""Tests of reading models that Keras wrote; Keras itself computes the expected numbers."""

import json
import os
import re
import shlex
import shutil
import sys

os.environ["KERAS_BACKEND"] = "torch"

import h5py
import keras
import nibabel as nib
import numpy as np
import pytest
import torch
from keras import layers as kl
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from monai.bundle import ConfigParser
from torch import nn

from cmb_bundle.scripts.errors import CheckpointError, KerasError
from cmb_bundle.scripts.keras.classifier import keras_classifier
from cmb_bundle.scripts.keras.layers import AxisBatchNorm, SamePadding

from ..helpers import CONFIGS
from ..helpers.commands import commands
from ..helpers.keras import FIRST, PATCH, model_of, patches, small_model
from ..helpers.processes import run_module


def published_layers(activation_layers=True, width=1.0):
    """The layers of the published program, whose tensors have the channels first and whose batch norm is Keras'."""
    layers = [kl.ZeroPadding3D(1, **FIRST)]
    for block in ((32, 64, 64), (128, 128)):
        for filters in block:
            activation = None if activation_layers else "relu"
            layers.append(kl.Conv3D(int(filters * width), 3, activation=activation, **FIRST))
            layers += [kl.Activation("relu")] if activation_layers else []
            layers.append(kl.BatchNormalization())
        layers.append(kl.MaxPooling3D(2, **FIRST))
    return [
        *layers,
        kl.Flatten(),
        kl.Dense(32, activation="relu"),
        kl.Dropout(0.3),
        kl.Dense(8, activation="relu"),
        kl.Dense(2, activation="softmax"),
    ]


def probabilities(classifier, x):
    with torch.no_grad():
        return classifier.eval()(torch.as_tensor(x)).softmax(1).numpy()


def assert_spread(expected):
    """A comparison of saturated or equal probabilities would show nothing."""
    assert 0.001 < expected.min() < expected.max() < 0.999
    assert np.ptp(expected[:, -1]) > 0.01


def keras_2_json(model, as_list=False):
    """The description of a model as Keras 2 wrote it."""
    entries, previous = [], None
    for layer in model.layers:
        config = json.loads(json.dumps(layer.get_config() | {"dtype": "float32"}, default=str))
        if isinstance(layer, kl.BatchNormalization):
            config["axis"] = [len(layer.input.shape) - 1]
        if "batch_shape" in config:
            config["batch_input_shape"] = config.pop("batch_shape")
        inbound = [[[previous, 0, 0, {}]]] if previous else []
        entry = {"class_name": type(layer).__name__, "config": config}
        entries.append(entry | {"name": layer.name, "inbound_nodes": inbound})
        previous = layer.name
    if isinstance(model, keras.Sequential):
        entries = [{key: entry[key] for key in ("class_name", "config")} for entry in entries]
        entries[0]["config"]["batch_input_shape"] = [None, *model.input_shape[1:]]
        config = entries if as_list else {"name": "sequential_3", "layers": entries}
        return json.dumps({"class_name": "Sequential", "config": config, "keras_version": "2.2.4"})
    config = {"name": "model_1", "layers": entries[::-1], "output_layers": [[previous, 0, 0]]}
    return json.dumps({"class_name": "Model", "config": config, "keras_version": "2.2.4"})


def save_keras_2_weights(model, path, chunks=1, renamed=False):
    """Write what save_weights of Keras 2 wrote; names end as TensorFlow's do, and long attributes are in pieces."""
    with h5py.File(path, "w") as file:
        names = [f"{layer.name}_7" if renamed else layer.name for layer in model.layers]
        pieces = np.array_split(np.array([n.encode() for n in names]), chunks)
        for number, piece in enumerate(pieces):
            file.attrs["layer_names" + (str(number) if chunks > 1 else "")] = piece
        for layer, name in zip(model.layers, names, strict=True):
            group = file.create_group(name)
            weights = [f"{name}/{v.name}:0" for v in layer.weights]
            group.attrs["weight_names"] = [w.encode() for w in weights]
            for weight, variable in zip(weights, layer.weights, strict=True):
                group[weight] = keras.ops.convert_to_numpy(variable)


# ------------------------------------------------------------------------------------------- SWI and phase as channels


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("phase_first", [False, True])
def test_models_of_two_channels(data_format, phase_first, tmp_path):
    last = data_format == "channels_last"
    chosen = {"data_format": data_format}
    layers = [
        kl.Conv3D(6, 3, activation="relu", **chosen),
        kl.BatchNormalization(axis=-1 if last else 1),
        kl.MaxPooling3D(2, **chosen),
        kl.Flatten(),
        kl.Dense(2, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((16, 16, 16, 2) if last else (2, 16, 16, 16)), *layers])
    x = np.random.default_rng(2).random((6, 2, 16, 16, 16), dtype=np.float32)
    x[:, 1] **= 2
    theirs = x[:, ::-1] if phase_first else x
    expected = model.predict(np.ascontiguousarray(np.moveaxis(theirs, 1, -1) if last else theirs), verbose=0)
    assert_spread(expected)
    model.save(tmp_path / "model.keras")
    classifier = keras_classifier(tmp_path / "model.keras", phase_first=phase_first)
    np.testing.assert_allclose(probabilities(classifier, x), expected, atol=1e-5)
    beside = np.concatenate([x[:, :1], x[:, 1:]], axis=3)
    np.testing.assert_allclose(probabilities(classifier, beside), expected, atol=1e-5)
    wrong = keras_classifier(tmp_path / "model.keras", phase_first=not phase_first)
    assert np.abs(probabilities(wrong, x) - expected).max() > 1e-3


def test_a_patch_of_two_channels_is_turned_to_the_axes_of_the_model(tmp_path):
    layers = [kl.Conv3D(4, 3, activation="relu"), kl.Flatten(), kl.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((16, 16, 16, 2)), *layers])
    x = np.random.default_rng(3).random((4, 2, 16, 16, 16), dtype=np.float32)
    lps = np.ascontiguousarray(np.moveaxis(x[:, :, ::-1, ::-1], 1, -1))
    expected = model.predict(lps, verbose=0)[:, 0]
    model.save(tmp_path / "model.keras")
    found = probabilities(keras_classifier(tmp_path / "model.keras", axes="LPS"), x)
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-5)
    plain = probabilities(keras_classifier(tmp_path / "model.keras"), x)
    assert np.abs(plain[:, 1] - expected).max() > 1e-3


def test_a_model_of_other_patches_is_told_both_layouts(tmp_path):
    keras.Sequential([keras.Input((20, 20, 20, 2)), kl.Flatten(), kl.Dense(2)]).save(tmp_path / "model.keras")
    with pytest.raises(KerasError, match=r"\(20, 20, 20, 2\); expected \(1, 16, 32, 16\).*\(16, 16, 16, 2\), SWI and"):
        keras_classifier(tmp_path / "model.keras")
    assert keras_classifier(tmp_path / "model.keras", patch_size=(20, 40, 20)).two_channels


# ------------------------------------------------------------------------------------------- the published network


@pytest.fixture(scope="module", params=["sequential", "functional"])
def published(request):
    model = model_of(published_layers(request.param == "sequential"), functional=request.param == "functional")
    expected = model.predict(patches(), verbose=0)
    assert_spread(expected)
    return model, expected


@pytest.mark.parametrize("ending", ["legacy.h5", "whole.h5", "keras", "weights.h5"])
def test_the_published_network_gives_the_probabilities_of_keras(published, tmp_path, ending):
    model, expected = published
    (tmp_path / "model.json").write_text(model.to_json())
    path = tmp_path / f"model.{ending}"
    if ending == "legacy.h5":
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, model)
    elif ending == "weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    found = probabilities(keras_classifier(path, tmp_path / "model.json"), patches())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if ending in ("whole.h5", "keras"):
        np.testing.assert_array_equal(found, probabilities(keras_classifier(path), patches()))


@pytest.mark.parametrize("kind", ["list", "dictionary", "pieces", "renamed", "dumped twice"])
def test_files_in_the_layout_of_keras_2(published, tmp_path, kind):
    model, expected = published
    text = keras_2_json(model, as_list=kind == "list")
    (tmp_path / "model.json").write_text(json.dumps(text) if kind == "dumped twice" else text)
    save_keras_2_weights(model, tmp_path / "model.h5", chunks=3 if kind == "pieces" else 1, renamed=kind == "renamed")
    found = probabilities(keras_classifier(tmp_path / "model.h5", tmp_path / "model.json"), patches())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_batch_normalisation_is_over_the_last_axis_as_in_the_file(published, tmp_path):
    model, _ = published
    model.save(tmp_path / "model.keras")
    norms = [m for m in keras_classifier(tmp_path / "model.keras").modules() if isinstance(m, AxisBatchNorm)]
    assert [(m.num_features, m.axis) for m in norms] == [(16, -1), (14, -1), (12, -1), (4, -1), (2, -1)]
    assert {m.eps for m in norms} == {1e-3}
    assert all(m.momentum == pytest.approx(0.01) for m in norms)


def test_backslashes_in_archives_from_windows(published, tmp_path):
    model, expected = published
    model.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "model.json").write_text(model.to_json())
    with h5py.File(tmp_path / "model.weights.h5") as source, h5py.File(tmp_path / "windows.weights.h5", "w") as file:
        for name, group in source["layers"].items():
            made = file.create_group(f"_layer_checkpoint_dependencies\\{name}").create_group("vars")
            for key, values in group["vars"].items():
                made[key] = values[()]
    found = probabilities(keras_classifier(tmp_path / "windows.weights.h5", tmp_path / "model.json"), patches())
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --------------------------------------------------------------------------------------------------- other networks


def variant(name):
    """Networks that users make of the published one."""
    last = {"data_format": "channels_last"}
    if name == "channels last":
        return [
            kl.Conv3D(4, 3, activation="relu", padding="same", **last),
            kl.BatchNormalization(epsilon=0.01, scale=False),
            kl.MaxPooling3D((2, 3, 2), strides=(2, 2, 3), padding="same", **last),
            kl.ZeroPadding3D(((1, 0), (0, 2), (1, 1)), **last),
            kl.AveragePooling3D(2, **last),
            kl.Flatten(),
            kl.Dense(2, activation="softmax"),
        ]
    if name == "channels normalised":
        return [
            kl.Conv3D(6, (3, 5, 2), strides=(2, 3, 1), padding="same", use_bias=False, **FIRST),
            kl.BatchNormalization(axis=1, center=False),
            kl.LeakyReLU(0.25),
            kl.Conv3D(4, 3, dilation_rate=2, padding="same", groups=2, activation="elu", **FIRST),
            kl.Flatten(**FIRST),
            kl.Dense(8, activation="tanh"),
            kl.BatchNormalization(),
            kl.Dense(2),
            kl.Softmax(),
        ]
    if name == "pooled":
        return [
            kl.Conv3D(4, 3, activation="leaky_relu", **FIRST),
            kl.BatchNormalization(axis=2),
            kl.Conv3D(5, 4, strides=2, padding="same", **FIRST),
            kl.ReLU(),
            kl.GlobalAveragePooling3D(**FIRST),
            kl.Dense(3, activation="softplus"),
            kl.ELU(0.5),
            kl.Dense(2),
            kl.Activation("softmax"),
        ]
    return [
        kl.Conv3D(4, 3, activation="silu", **FIRST),
        kl.GlobalMaxPooling3D(**FIRST),
        kl.Dense(4, activation="softmax"),
        kl.Dense(2),
    ]


@pytest.mark.parametrize("name", ["channels last", "channels normalised", "pooled", "logits"])
def test_other_networks_give_the_numbers_of_keras(name, tmp_path):
    last = name == "channels last"
    model = model_of(variant(name), shape=(*PATCH, 1) if last else (1, *PATCH))
    expected = model.predict(np.moveaxis(patches(), 1, -1) if last else patches(), verbose=0)
    if name == "logits":
        expected = keras.ops.convert_to_numpy(keras.ops.softmax(expected))
    assert_spread(expected)
    model.save(tmp_path / "model.keras")
    found = probabilities(keras_classifier(tmp_path / "model.keras"), patches())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_unit_with_a_sigmoid(tmp_path):
    model = model_of([kl.Conv3D(4, 3, **FIRST), kl.GlobalAveragePooling3D(**FIRST), kl.Dense(1, activation="sigmoid")])
    expected = model.predict(patches(), verbose=0)[:, 0]
    assert_spread(expected[:, None])
    model.save(tmp_path / "model.keras")
    found = probabilities(keras_classifier(tmp_path / "model.keras"), patches())
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-5)
    found = probabilities(keras_classifier(tmp_path / "model.keras", microbleed_class=0), patches())
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


def test_other_order_of_classes_and_of_the_halves(tmp_path):
    model = small_model()
    swapped = np.concatenate([patches()[:, :, :, 16:], patches()[:, :, :, :16]], axis=3)
    expected = model.predict(swapped, verbose=0)
    assert not np.allclose(expected, model.predict(patches(), verbose=0), atol=1e-3)
    model.save(tmp_path / "model.keras")
    classifier = keras_classifier(tmp_path / "model.keras", microbleed_class=0, phase_first=True)
    np.testing.assert_allclose(probabilities(classifier, patches()), expected[:, ::-1], atol=1e-5)


@pytest.mark.parametrize("microbleed_class", [0, 1])
@pytest.mark.parametrize("end", [{"units": 2, "activation": "softmax"}, {"units": 1, "activation": "sigmoid"}])
def test_the_logit_of_the_microbleed_is_scaled(end, microbleed_class, tmp_path):
    model = model_of([kl.Conv3D(4, 3, **FIRST), kl.GlobalAveragePooling3D(**FIRST), kl.Dense(**end)])
    model.save(tmp_path / "model.keras")
    classifier = keras_classifier(tmp_path / "model.keras", microbleed_class=microbleed_class).eval()
    x = torch.as_tensor(patches())
    with torch.no_grad():
        before = classifier(x).diff(dim=1)
        classifier.scale_logit(0.4, -1.5)
        found = classifier(x).diff(dim=1)
    torch.testing.assert_close(found, 0.4 * before - 1.5, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "layers",
    [[kl.Flatten(), kl.Dense(2, use_bias=False)], [kl.Conv3D(2, 3, **FIRST), kl.GlobalAveragePooling3D(**FIRST)]],
)
def test_a_model_that_cannot_be_scaled_says_so(layers, tmp_path):
    keras.Sequential([keras.Input((1, *PATCH)), *layers]).save(tmp_path / "model.keras")
    classifier = keras_classifier(tmp_path / "model.keras")
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with pytest.raises(KerasError, match=r"last layer with weights is .*; expected a dense layer with a bias"):
        classifier.scale_logit(0.4, -1.5)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize("axes", ["LPS", "PLS", "SAL"])
def test_patches_of_another_orientation(axes, tmp_path):
    """NiBabel turns the patches that Keras is given."""
    cubes = [
        nib.as_closest_canonical(nib.Nifti1Image(half[0], np.eye(4))) for half in np.split(patches(1)[0], 2, axis=2)
    ]
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    turned = [cube.as_reoriented(turn) for cube in cubes]
    assert nib.aff2axcodes(turned[0].affine) == tuple(axes)
    x = np.concatenate([cube.get_fdata(dtype=np.float32) for cube in turned], axis=1)[None, None]
    model = small_model()
    model.save(tmp_path / "model.keras")
    found = probabilities(keras_classifier(tmp_path / "model.keras", axes=axes), patches(1))
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-5)
    assert not np.allclose(found, model.predict(patches(1), verbose=0), atol=1e-3)


def test_training_goes_on_as_in_keras(tmp_path):
    """In training mode the batch's own statistics are used, and the running ones move by Keras' momentum."""
    model = small_model()
    model.save(tmp_path / "model.keras")
    classifier = keras_classifier(tmp_path / "model.keras").train()
    expected = keras.ops.convert_to_numpy(model(patches(), training=True))
    found = classifier(torch.as_tensor(patches())).softmax(1)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)
    norm = next(m for m in classifier.modules() if isinstance(m, AxisBatchNorm))
    np.testing.assert_allclose(
        norm.running_mean.numpy(), keras.ops.convert_to_numpy(model.layers[1].moving_mean), atol=1e-5
    )
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in classifier.parameters())


def test_axis_batch_norm_by_hand():
    norm = AxisBatchNorm(2, axis=-1, eps=0.0, momentum=0.1).eval()
    norm.running_mean[:], norm.running_var[:] = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    nn.init.constant_(norm.weight, 10.0)
    nn.init.constant_(norm.bias, 1.0)
    x = torch.tensor([3.0, 5.0]).expand(1, 3, 2, 2, 2)
    torch.testing.assert_close(norm(x), torch.tensor([11.0, 11.0]).expand(1, 3, 2, 2, 2))
    torch.testing.assert_close(norm(torch.tensor([[1.0, 8.0]])), torch.tensor([[1.0, 21.0]]))


def test_same_padding_puts_the_odd_voxel_at_the_end():
    padded = SamePadding((2, 3, 3), (1, 1, 2), (1, 1, 1), 7.0)(torch.zeros(1, 1, 2, 2, 4))
    assert padded.shape == (1, 1, 3, 4, 5)
    assert (padded[0, 0, 2] == 7).all() and (padded[0, 0, 0, 1:3, :4] == 0).all()
    assert (padded[0, 0, :, [0, 3]] == 7).all() and (padded[0, 0, :, :, 4] == 7).all()


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.fixture
def files(tmp_path):
    """A small model as JSON and weights."""
    model = small_model()
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(tmp_path / "model.weights.h5")
    model.save(tmp_path / "model.keras")
    return tmp_path


def refused(match, weights, architecture=None, **arguments):
    with pytest.raises(KerasError, match=match) as error:
        keras_classifier(weights, architecture, **arguments)
    assert isinstance(error.value, CheckpointError), "so that a run ends with its sentence"


def changed(files, **changes):
    model = json.loads((files / "model.json").read_text())
    for key, value in changes.items():
        number, name = key.split("__")
        model["config"]["layers"][int(number[1:])]["config"][name] = value
    (files / "changed.json").write_text(json.dumps(model))
    return files / "changed.json"


def test_missing_extra(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(r"pip install 'cmb-bundle\[keras\]'", files / "model.weights.h5", files / "model.json")


def test_files_that_are_not_there_or_of_another_kind(files):
    refused("No Keras model was given. Give its files by --keras_weights", None)
    refused(r"nowhere\.h5 does not exist", files / "nowhere.h5")
    refused(r"is a folder; expected a file", files)
    refused(r"nowhere\.json does not exist", files / "model.weights.h5", files / "nowhere.json")
    refused(r"model\.weights\.h5 holds only weights.*--keras_architecture", files / "model.weights.h5")
    (files / "text.h5").write_text("no weights")
    refused("neither HDF5 nor a .keras archive", files / "text.h5", files / "model.json")
    refused(r"text\.h5 is not JSON", files / "text.h5")
    shutil.make_archive(str(files / "other"), "zip", files, "model.json")
    refused("is an archive without model.weights.h5", files / "other.zip", files / "model.json")
    (files / "other.json").write_text('{"class_name": "Bert"}')
    refused("describes a Bert; expected a Sequential", files / "model.keras", files / "other.json")


def test_file_that_lacks_what_it_names(files):
    model = small_model()
    save_keras_2_weights(model, files / "model.h5")
    with h5py.File(files / "model.h5", "a") as file:
        del file[model.layers[1].name]
    refused(r"model\.h5 is incomplete: .*object", files / "model.h5", files / "model.json")


def test_layers_that_are_not_supported(files):
    model = model_of([kl.Conv3D(2, 3, **FIRST), kl.GaussianNoise(0.1, name="noisy"), kl.Flatten(), kl.Dense(2)])
    model.save(files / "noise.keras")
    refused("Layer noisy is a GaussianNoise, which is not supported; supported are Activation", files / "noise.keras")
    weights = files / "model.weights.h5"
    refused(r"Layer conv3d\w* \(Conv3D\) .* activation is 'exp'", weights, changed(files, n1__activation="exp"))
    refused(r"padding is 'causal'; expected 'valid' or 'same'", weights, changed(files, n1__padding="causal"))
    refused(r"normalises over the axes \[1, 4\]", weights, changed(files, n2__axis=[1, 4]))
    refused("activation 'relu'; expected softmax", weights, changed(files, n4__activation="relu"))


def test_networks_that_are_no_chain(files):
    inputs = keras.Input((1, *PATCH))
    first, second = kl.Flatten(name="first")(inputs), kl.Flatten(name="second")(inputs)
    keras.Model(inputs, kl.Dense(2)(kl.Add(name="sum")([first, second]))).save(files / "joined.keras")
    refused("first and second both follow input_layer.*; expected one chain", files / "joined.keras")
    both = kl.Flatten()(kl.Concatenate(name="joined")([inputs, inputs]))
    keras.Model(inputs, kl.Dense(2)(both)).save(files / "joined.keras")
    refused("layer joined joins input_layer", files / "joined.keras")


def test_weights_that_do_not_fit(files):
    weights = files / "model.weights.h5"
    refused(
        r"of layer conv3d\w* \(Conv3D\) have the shapes \[\(3, 3, 3, 1, 2\), \(2,\)\]; expected kernel "
        r"\(3, 3, 3, 'any', 5\), bias \(5,\)",
        weights,
        changed(files, n1__filters=5),
    )
    refused(r"of layer batch_norm.*expected beta \('any',\), moving", weights, changed(files, n2__scale=False))
    model = model_of([kl.Flatten(), kl.Dense(2)])
    with h5py.File(files / "other.h5", "w") as file:
        save_weights_to_hdf5_group(file, model)
    refused("holds weights of 1 layers, the description has 3", files / "other.h5", files / "model.json")


def test_patches_and_classes_that_do_not_fit(files):
    keras_file = files / "model.keras"
    refused(r"takes patches of \(1, 16, 32, 16\); expected \(1, 20, 40, 20\)", keras_file, patch_size=(20, 40, 20))
    refused("microbleed_class is 2; expected 0 or 1", keras_file, microbleed_class=2)
    refused("phase_first is 'false'; expected True or False", keras_file, phase_first="false")
    for axes in ("RA", "RLS", "RASL", "xyz", None):
        refused("expected one of L and R, one of A and P and one of I and S", keras_file, axes=axes)
    for units, activation in ((3, "softmax"), (2, "sigmoid"), (1, "softmax")):
        model_of([kl.Flatten(), kl.Dense(units, activation=activation)]).save(files / "units.keras")
        refused(rf"ends with \({units},\) values and {activation}; expected two classes", files / "units.keras")
    json_file = changed(files, n1__strides=[2, 2, 2])
    refused(
        r"Layer 01_batch_norm\w+ does not accept the output of the layer before, \(1, 2, 7, 15, 7\)",
        keras_file,
        json_file,
    )


# --------------------------------------------------------------------------------------------------------- workflow


def run_command(command, folder):
    done = run_module(shlex.split(command)[2:], folder)
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"


def test_commands_of_the_page(files, tiny_cohort):
    """The overlay infers, trains on and infers with what was trained; quick settings are added to the commands."""
    model = small_model()
    (files / "model.json").write_text(keras_2_json(model))
    save_keras_2_weights(model, files / "model.h5")
    (files / "cmb_bundle").symlink_to(CONFIGS.parent)
    (files / "scans").symlink_to(tiny_cohort)
    infer, train, infer_trained = commands(CONFIGS.parents[1] / "docs" / "reference" / "keras.md")
    quick = " --detector_epochs 1 --classifier_epochs 1 --val_interval 1 --slices_per_subject 2 --folds 3"
    one = " --subjects \"['phantom-001']\" --candidate_threshold 0.0 --picture False"
    run_command(train + quick, files)
    start = keras_classifier(files / "model.h5", files / "model.json").state_dict()
    trained = torch.load(files / "training" / "classifier_best.pt", weights_only=True)
    assert start.keys() == trained.keys()
    change = {key: (trained[key].float() - start[key].float()).abs().max() for key in start if "num_batches" not in key}
    assert all(0 < value < 0.3 for value in change.values()), change

    found = {}
    for output, command in {
        "results": infer + " --checkpoint training/detector_best.pt",
        "results_trained": infer_trained,
    }.items():
        run_command(command + one, files)
        result = json.loads(next((files / output).glob("*/*_cmb.json")).read_text())
        found[output] = {(*c["voxel"], c["detector_score"]): c["probability"] for c in result["candidates"]}
    assert found["results"]
    # the detector is the same; of how many candidates stage 2 looks at is its own affair
    fewer, more = sorted(found.values(), key=len)
    both = [key for key in fewer if key in more]
    assert len(both) == len(fewer) >= 60
    assert [fewer[key] for key in both] != [more[key] for key in both]


def test_no_checkpoint_is_needed_where_stage_1_is_imported_too(files):
    texts = [(CONFIGS / name).read_text() for name in ("inference.json", "keras.json")]
    for name, text in zip(("inference.json", "keras.json"), texts, strict=True):
        (files / name).write_text(text.replace('"scripts.', '"cmb_bundle.scripts.'))
    parser = ConfigParser()
    parser.read_config([files / "inference.json", files / "keras.json"])
    parser.update(
        {
            "detector_from_checkpoint": False,
            "checkpoint": str(files / "nowhere.pt"),
            "keras_weights": str(files / "model.keras"),
        }
    )
    network = parser.get_parsed_content("loaded_network")
    expected = keras_classifier(files / "model.keras")
    np.testing.assert_array_equal(probabilities(network.classifier, patches()), probabilities(expected, patches()))


def test_keys_of_the_page_are_those_of_the_overlay():
    keys = json.loads((CONFIGS / "keras.json").read_text())
    rows = re.findall(
        r"^\| `(\w+)` \|", (CONFIGS.parents[1] / "docs" / "reference" / "keras.md").read_text(), re.MULTILINE
    )
    assert rows == [key for key in keys if "#" not in key]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = small_model()
    kernel, bias = model.layers[0].get_weights()
    kernel[1, 1, 1, 0, 0] = np.nan
    model.layers[0].set_weights([kernel, bias])
    model.save(tmp_path / "model.keras")
    with pytest.raises(KerasError, match="its weight has values that are not finite"):
        keras_classifier(tmp_path / "model.keras")
