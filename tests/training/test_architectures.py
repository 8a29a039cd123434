"""The catalogue and its explanation: parameter counts as published, and every formula against Keras's own count."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from training.architectures import ARCHITECTURES
from training.normalisation import NORMALISATIONS, normalisation_layer
from training.summary import render, summarise

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


_AS_PYTHON = str.maketrans({"·": "*", "−": "-", "⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")"})


@pytest.fixture(scope="module")
def networks() -> dict[str, keras.Model]:
    return {name: architecture.build() for name, architecture in ARCHITECTURES.items()}


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
    for layer, row in zip(network.layers, summarise(network), strict=True):
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


def test_the_explanation_has_the_numbers_in_place(networks: dict[str, keras.Model]) -> None:
    text = render(summarise(networks["convnet_5x5_binary"]))
    assert "(5·5·32 + 1)·64 = 51,264" in text
    assert "valid: 28 − 5 + 1 = 24" in text
    assert "valid: ⌊(24 − 2) / 2⌋ + 1 = 12" in text
    assert "most of them: dense_1 with 102,500, 66.2%" in text
    text = render(summarise(networks["color_128_gap"]))
    assert "trainable 168,339, not trainable 454" in text
    assert "moving mean and variance" in text
    assert "same: 128" in text
    assert "the mean of 16·16 values for each of 64 channels" in text


def test_the_work_of_a_layer_is_counted(networks: dict[str, keras.Model]) -> None:
    macs = {row.name: row.macs for row in summarise(networks["mnist_convnet"])}
    assert macs["conv_1"] == 26 * 26 * 32 * 9
    assert macs["conv_2"] == 11 * 11 * 64 * 9 * 32
    assert macs["dense_1"] == 16_000
    assert macs["pool_1"] == macs["dropout_1"] == 0


def test_a_saved_network_is_explained_too(synthetic_run: Path, command: Callable) -> None:
    done = command("digits-train", "summary", synthetic_run / "model.keras")
    assert done.returncode == 0, done.stderr
    assert "(3·3·32 + 1)·64 = 18,496" in done.stdout
    assert "parameters: 34,826, trainable 34,826, not trainable 0" in done.stdout


def test_the_list_names_all(command: Callable) -> None:
    done = command("digits-train", "--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(PUBLISHED)
    assert done.stderr == ""  # TensorFlow's chatter would hide what matters


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
