"""The catalogue of networks, each as published, from raw uint8 pixels to class probabilities.

A builder stacks the layers behind the normalisation; `build` puts the input and the normalisation in front, so that a
network takes raw pixels wherever it runs. Layers are named after what they are and their place: `conv_1`, `dense_2`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

ImageShape = tuple[int, int, int]
# From the number of classes to the layers between normalisation and output.
Builder = Callable[[int], list[keras.layers.Layer]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the catalogue.

    Attributes:
        name: What `--architecture` calls it.
        summary: What it is, in a line.
        source: Where it comes from.
        image_shape: Height, width and channels that it was published with.
        classes: Number of classes that it was published with.
        parameters: Number of parameters at that size.
        layers: Makes its layers for a number of classes.
    """

    name: str
    summary: str
    source: str
    image_shape: ImageShape
    classes: int
    parameters: int
    layers: Builder

    def build(
        self,
        image_shape: ImageShape | None = None,
        classes: int | None = None,
        *,
        normalisation: keras.layers.Layer | None = None,
    ) -> keras.Sequential:
        """Makes the network, with new weights.

        Args:
            image_shape: Height, width and channels of the images; as published by default.
            classes: Number of classes; as published by default.
            normalisation: First layer, from uint8 to float32; division by 255 by default.

        Returns:
            A model from uint8 `[batch, height, width, channels]` to float32 probabilities `[batch, classes]`.
        """
        return keras.Sequential(
            [
                keras.Input(image_shape or self.image_shape, dtype="uint8", name="images"),
                normalisation or layers.Rescaling(1 / 255, name="normalisation"),
                *_named(self.layers(classes or self.classes)),
            ],
            name=self.name,
        )


_PREFIXES = {
    "Conv2D": "conv",
    "MaxPooling2D": "pool",
    "BatchNormalization": "batch_norm",
    "Activation": "activation",
    "GlobalAveragePooling2D": "global_average_pool",
}


def _named(stack: Sequence[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """The same layers, each named by its kind and its place among its kind."""
    counts: dict[str, int] = {}
    named = []
    for layer in stack:
        kind = type(layer).__name__
        prefix = _PREFIXES.get(kind, kind.lower())
        counts[prefix] = counts.get(prefix, 0) + 1
        named.append(type(layer).from_config({**layer.get_config(), "name": f"{prefix}_{counts[prefix]}"}))
    return named


def _conv(filters: int, size: int = 3, *, padding: str = "valid", activation: str | None = "relu") -> Any:
    return layers.Conv2D(filters, size, padding=padding, activation=activation)


def _output(classes: int) -> Any:
    return layers.Dense(classes, activation="softmax")


def _mnist_convnet(classes: int) -> list[Any]:
    return [
        _conv(32),
        layers.MaxPooling2D(2),
        _conv(64),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.5),
        _output(classes),
    ]


def _fully_connected(classes: int) -> list[Any]:
    hidden = [
        layer
        for units in (500, 50)
        for layer in (
            layers.Dense(units),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Activation("relu"),
        )
    ]
    return [layers.Flatten(), *hidden, _output(classes)]


def _convnet_one_layer(classes: int) -> list[Any]:
    return [_conv(32, padding="same"), layers.Flatten(), _output(classes)]


def _convnet_batchnorm(classes: int) -> list[Any]:
    blocks: list[Any] = []
    for filters in (32, 64):
        for _ in range(2):
            blocks += [
                _conv(filters, padding="same", activation=None),
                layers.BatchNormalization(),
                layers.Activation("relu"),
            ]
        blocks.append(layers.MaxPooling2D(2))
    return [
        *blocks,
        layers.Flatten(),
        layers.Dense(200),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Activation("relu"),
        _output(classes),
    ]


def _convnet_5x5_binary(classes: int) -> list[Any]:
    return [
        _conv(32, 5),
        layers.MaxPooling2D(2),
        _conv(64, 5),
        layers.MaxPooling2D(2),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Dense(100, activation="relu"),
        layers.Dropout(0.5),
        _output(classes),
    ]


def _kaggle_three_pools(classes: int) -> list[Any]:
    blocks = [
        layer
        for filters in (32, 64, 64)
        for layer in (_conv(filters, padding="same"), layers.MaxPooling2D(2), layers.Dropout(0.25))
    ]
    return [*blocks, layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dropout(0.5), _output(classes)]


def _kaggle_stacked(classes: int) -> list[Any]:
    blocks = [
        layer
        for filters, size in ((32, 5), (64, 3))
        for layer in (
            _conv(filters, size, padding="same"),
            _conv(filters, size, padding="same"),
            layers.MaxPooling2D(2, strides=2),
            layers.Dropout(0.25),
        )
    ]
    return [*blocks, layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dropout(0.5), _output(classes)]


def _color_128_body() -> list[Any]:
    blocks = [
        layer
        for filters in (32, 64, 128)
        for layer in (layers.BatchNormalization(), _conv(filters, padding="same"), layers.MaxPooling2D(2))
    ]
    return [*blocks, layers.BatchNormalization(), _conv(64, padding="same")]


def _color_128_gap(classes: int) -> list[Any]:
    return [*_color_128_body(), layers.GlobalAveragePooling2D(), _output(classes)]


def _color_128_dense(classes: int) -> list[Any]:
    return [*_color_128_body(), layers.Flatten(), _output(classes)]


_MNIST: ImageShape = (28, 28, 1)

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="mnist_convnet",
            summary="two convolutions, each with pooling, dropout, one dense layer",
            source="Keras's Simple MNIST convnet, keras.io/examples/vision/mnist_convnet",
            image_shape=_MNIST,
            classes=10,
            parameters=34_826,
            layers=_mnist_convnet,
        ),
        Architecture(
            name="fully_connected",
            summary="dense layers of 500 and 50 with batch normalisation, no convolution",
            source="users' questions; the dropout rate, 0.5, is ours",
            image_shape=_MNIST,
            classes=10,
            parameters=420_260,
            layers=_fully_connected,
        ),
        Architecture(
            name="convnet_one_layer",
            summary="one convolution and one dense layer",
            source="users' questions",
            image_shape=_MNIST,
            classes=10,
            parameters=251_210,
            layers=_convnet_one_layer,
        ),
        Architecture(
            name="convnet_batchnorm",
            summary="two times two convolutions with batch normalisation, dense 200",
            source="users' questions; the dropout rate, 0.5, is ours",
            image_shape=_MNIST,
            classes=10,
            parameters=695_970,
            layers=_convnet_batchnorm,
        ),
        Architecture(
            name="convnet_5x5_binary",
            summary="two 5 x 5 convolutions with pooling, dense 100, two classes",
            source="users' questions",
            image_shape=_MNIST,
            classes=2,
            parameters=154_798,
            layers=_convnet_5x5_binary,
        ),
        Architecture(
            name="kaggle_three_pools",
            summary="three convolutions, each with pooling and dropout, dense 64",
            source="notebooks of Kaggle's Digit Recognizer",
            image_shape=_MNIST,
            classes=10,
            parameters=93_322,
            layers=_kaggle_three_pools,
        ),
        Architecture(
            name="kaggle_stacked",
            summary="two times two convolutions before each pooling, dense 256",
            source="notebooks of Kaggle's Digit Recognizer",
            image_shape=_MNIST,
            classes=10,
            parameters=887_530,
            layers=_kaggle_stacked,
        ),
        Architecture(
            name="color_128_gap",
            summary="four convolutions with batch normalisation on 128 x 128 colour, global average pooling",
            source="users' questions",
            image_shape=(128, 128, 3),
            classes=13,
            parameters=168_793,
            layers=_color_128_gap,
        ),
        Architecture(
            name="color_128_dense",
            summary="the same without the pooling at its end, for comparison with it",
            source="ours",
            image_shape=(128, 128, 3),
            classes=13,
            parameters=380_953,
            layers=_color_128_dense,
        ),
    )
}
