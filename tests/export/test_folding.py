"""Folding: nothing in the graph that weights can do, and the answers stay the same."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from any_network import as_trained

from export.convert import convert
from training.architectures import ARCHITECTURES
from training.normalisation import NORMALISATIONS, normalisation_layer

RANDOM = np.random.default_rng(0)
SHAPES = {"mnist_convnet": (28, 28, 1), "fully_connected": (10, 7, 3), "convnet_batchnorm": (12, 12, 1)}


def _operators(network: keras.Sequential) -> list[str]:
    """Converts a network, compares its answers with Keras's, and returns the operators of the graph."""
    content = convert(as_trained(network), model_name="any")
    images = RANDOM.integers(0, 256, (20, *network.input_shape[1:]), dtype=np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(["probabilities"], {"images": images})[0], network.predict(images, verbose=0), atol=5e-4
    )
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


@pytest.mark.parametrize("kind", NORMALISATIONS)
@pytest.mark.parametrize("architecture", SHAPES)
def test_neither_normalisation_nor_batch_normalisation_is_left(architecture: str, kind: str) -> None:
    keras.utils.set_random_seed(0)
    shape = SHAPES[architecture]
    training_images = RANDOM.integers(0, 200, (30, *shape), dtype=np.uint8)
    network = ARCHITECTURES[architecture].build(shape, 5, normalisation=normalisation_layer(kind, training_images))
    _make_batch_norms_matter(network)
    operators = _operators(network)
    assert "BatchNormalization" not in operators
    # The zeros of a padded convolution are no pixels, so an offset stays before it.
    padded = architecture == "convnet_batchnorm" and kind == "standardise"
    first = min(operators.index(name) for name in ("Conv", "MatMul") if name in operators)
    assert {"Mul", "Add"} & {*operators[:first]} == ({"Mul", "Add"} if padded else set())


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.BatchNormalization()],
        [keras.layers.DepthwiseConv2D(3), keras.layers.BatchNormalization()],
        [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.BatchNormalization(scale=False, center=False)],
        [keras.layers.Conv2D(9, 1, padding="same"), keras.layers.BatchNormalization(axis=1)],
        [keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.BatchNormalization()],
    ],
    ids=[
        "activation between",
        "depthwise",
        "neither bias nor gamma nor beta",
        "other axis",
        "nothing before",
    ],
)
def test_whatever_surrounds_it_the_answers_stay_the_same(layers: list[keras.Layer]) -> None:
    keras.utils.set_random_seed(1)
    normalisation = keras.layers.Rescaling([0.01, 0.004, 0.002], [-1.0, 0.3, 0.1])
    head = [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    network = keras.Sequential([keras.Input((9, 9, 3), dtype="uint8"), normalisation, *layers, *head])
    _make_batch_norms_matter(network)
    _operators(network)


def _make_batch_norms_matter(network: keras.Sequential) -> None:
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RANDOM.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
