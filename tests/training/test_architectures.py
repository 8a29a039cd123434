"""The catalogue and its explanation: parameter counts as published, and every formula against Keras's own count."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from training.architectures import ARCHITECTURES
from training.normalisation import NORMALISATIONS, normalisation_layer
from training.summary import LayerSummary, render, summarise, summarise_config

# name: parameters, trainable ones, and some layers' own
PUBLISHED = {
    "mnist_convnet": (34_826, 34_826, {"conv_1": 320, "conv_2": 18_496, "dense_1": 16_010}),
    "fully_connected": (420_260, 419_160, {"dense_1": 392_500}),
    "convnet_one_layer": (251_210, 251_210, {}),
    "convnet_batchnorm": (695_970, 695_186, {"dense_1": 627_400}),
    "convnet_5x5_binary": (154_798, 154_798, {"conv_1": 832, "conv_2": 51_264}),
    "kaggle_three_pools": (93_322, 93_322, {}),
    "kaggle_stacked": (887_530, 887_530, {}),
    "color_128_gap": (168_793, 168_339, {}),
    "color_128_dense": (380_953, 380_499, {"dense_1": 213_005}),
}


class _Half(keras.layers.Layer):
    def call(self, images):
        return images / 2


_AS_PYTHON = str.maketrans({"·": "*", "−": "-", "⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")"})


@pytest.fixture(scope="module")
def networks() -> dict[str, keras.Model]:
    return {name: architecture.build() for name, architecture in ARCHITECTURES.items()}


def _explained(name: str) -> tuple[LayerSummary, ...]:
    return summarise(ARCHITECTURES[name].layers(), ARCHITECTURES[name].image_shape)


def test_the_catalogue_is_the_published_one() -> None:
    assert ARCHITECTURES.keys() == PUBLISHED.keys()
    assert {name: architecture.parameters for name, architecture in ARCHITECTURES.items()} == {
        name: counts[0] for name, counts in PUBLISHED.items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(networks: dict[str, keras.Model], name: str) -> None:
    network, (total, trainable, of_layers) = networks[name], PUBLISHED[name]
    assert network.count_params() == total
    assert sum(math.prod(weight.shape) for weight in network.trainable_weights) == trainable
    assert {layer: network.get_layer(layer).count_params() for layer in of_layers} == of_layers


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_formula_computes_keras_s_own_count(networks: dict[str, keras.Model], name: str) -> None:
    network = networks[name]
    assert _explained(name) == summarise_config(network.get_config())
    for layer, row in zip(network.layers, _explained(name), strict=True):
        assert row.parameters == layer.count_params()
        assert row.trainable == sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        assert row.shape == tuple(layer.output.shape[1:])
        assert bool(row.formula) == bool(layer.count_params())
        for text in (row.formula, row.shape_reason):
            written = re.fullmatch(r"(?:valid: |same: )?([\d()·+−/⌊⌋⌈⌉ ]+) = ([\d,]+)", text)
            assert written or "=" not in text
            if written:  # what is written must come out as written
                python = written[1].translate(_AS_PYTHON)
                assert eval(python, {"floor": math.floor, "ceil": math.ceil}) == int(written[2].replace(",", "")), text


def test_the_explanation_has_the_numbers_in_place() -> None:
    text = render(_explained("convnet_5x5_binary"))
    assert "(5·5·32 + 1)·64 = 51,264" in text
    assert "valid: 28 − 5 + 1 = 24" in text
    assert "valid: ⌊(24 − 2) / 2⌋ + 1 = 12" in text
    assert "most of them: dense_1 with 102,500, 66.2%" in text
    text = render(_explained("color_128_gap"))
    assert "trainable 168,339, not trainable 454" in text
    assert "moving mean and variance" in text
    assert "same: 128" in text
    assert "the mean of 16·16 values for each of 64 channels" in text


def test_the_work_of_a_layer_is_counted() -> None:
    macs = {row.name: row.macs for row in _explained("mnist_convnet")}
    assert macs["conv_1"] == 26 * 26 * 32 * 9
    assert macs["conv_2"] == 11 * 11 * 64 * 9 * 32
    assert macs["dense_1"] == 16_000
    assert macs["pool_1"] == macs["dropout_1"] == 0


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [1, 2, (2, 3)])
def test_shapes_and_counts_are_keras_s_own_for_other_networks_too(padding: str, strides: int | tuple[int, int]) -> None:
    network = keras.Sequential(
        [
            keras.Input((23, 17, 3)),
            keras.layers.Conv2D(5, (4, 3), strides=strides, padding=padding, use_bias=False),
            keras.layers.MaxPooling2D(3, strides=strides, padding=padding),
            keras.layers.Flatten(),
            keras.layers.Dense(4, use_bias=False),
        ]
    )
    for layer, row in zip(network.layers, summarise_config(network.get_config()), strict=True):
        assert row.shape == tuple(layer.output.shape[1:])
        assert row.parameters == layer.count_params()


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ([keras.layers.Conv2D(4, 3, groups=2)], "Conv2D with groups = 2"),
        ([keras.layers.Conv2D(4, 3, dilation_rate=2)], r"Conv2D with dilation_rate = \(2, 2\)"),
        ([keras.layers.BatchNormalization(scale=False)], "BatchNormalization with scale = False"),
        ([keras.layers.DepthwiseConv2D(3)], "no explanation is known for a DepthwiseConv2D"),
        ([_Half()], "custom layer _Half is not known here"),
    ],
)
def test_what_the_explanation_would_be_wrong_for_is_refused(layers: list[keras.Layer], problem: str) -> None:
    network = keras.Sequential([keras.Input((8, 8, 2)), *layers])
    with pytest.raises(ValueError, match=problem):
        summarise_config(network.get_config())


def test_a_saved_network_is_explained_too(synthetic_run: Path, command: Callable) -> None:
    done = command("digits-train", "summary", synthetic_run / "model.keras")
    assert done.returncode == 0, done.stderr
    assert "(3·3·32 + 1)·64 = 18,496" in done.stdout
    assert "parameters: 34,826, trainable 34,826, not trainable 0" in done.stdout


def test_a_functional_model_with_models_inside_has_keras_s_own_shapes_and_counts() -> None:
    images = keras.Input((28, 28, 1))
    changed = keras.Sequential([keras.layers.RandomZoom(0.1), keras.layers.Rescaling(1 / 255)])(images)
    left = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(changed)
    right = keras.layers.Conv2D(8, 3, padding="same", trainable=False)(left)
    joined = keras.layers.ReLU()(keras.layers.Add()([left, right]))
    wide = keras.layers.Concatenate()([joined, keras.layers.AveragePooling2D(2, 1, "same")(left)])
    flat = keras.layers.Reshape((-1,))(keras.layers.GlobalMaxPooling2D()(wide))
    network = keras.Model(images, keras.layers.Softmax()(keras.layers.Dense(10)(flat)))
    rows = {row.name: row for row in summarise_config(network.get_config())}
    layers = {layer.name: layer for layer in network._flatten_layers() if layer.name in rows}
    assert layers.keys() == rows.keys()
    assert len(rows) == 12
    for name, layer in layers.items():
        assert (rows[name].shape, rows[name].parameters) == (tuple(layer.output.shape[1:]), layer.count_params())
    assert sum(row.trainable for row in rows.values()) == sum(
        weight.numpy().size for weight in network.trainable_weights
    )


@pytest.mark.parametrize("damage", ["not a zip", "no config", "own class"])
def test_a_file_without_a_network_to_explain_is_named(damage: str, tmp_path: Path, command: Callable) -> None:
    file, problem = tmp_path / "model.keras", "not a .keras file, or a damaged one"
    if damage == "not a zip":
        file.write_text("nonsense")
    elif damage == "no config":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("other", "text")
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("config.json", '{"module": null, "class_name": "Mine", "config": {"units": 3}}')
        problem = "Mine: only Sequential and functional models can be explained"
    done = command("digits-train", "summary", file)
    assert (done.returncode, done.stderr) == (1, f"Error: {file}: {problem}\n")


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_normalisation_is_what_it_is_called(kind: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)
    images[..., 2] = 7  # a channel that never changes
    values = np.asarray(normalisation_layer(kind, images)(images))
    assert values.dtype == np.float32
    if kind == "standardise":
        np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(values.std(axis=(0, 1, 2)), [1, 1, 0], atol=1e-5)
    else:
        np.testing.assert_allclose(values, images / (255 if kind == "rescale" else 1), rtol=1e-6)
