"""The catalogue of networks, each as published, from raw uint8 pixels to class probabilities.

A network is described by the Keras classes and arguments of its layers. `Architecture.build` makes the Keras model of
that description, `training.summary` explains it; only the first imports Keras.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        kind: Its class in `keras.layers`.
        config: The arguments of that class, as in Keras's own `get_config`.
    """

    kind: str
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the catalogue.

    Attributes:
        name: Its name for `--architecture`.
        summary: What it is, in one line.
        source: Where it comes from.
        parameters: Number of parameters at the size that it was published with.
        body: The layers between the normalisation and the output.
        image_shape: Height, width and channels that it was published with.
        classes: Number of classes that it was published with.
    """

    name: str
    summary: str
    source: str
    parameters: int
    body: tuple[Layer, ...]
    image_shape: ImageShape = (28, 28, 1)
    classes: int = 10

    def layers(self, classes: int | None = None) -> tuple[Layer, ...]:
        """Describes all layers, each named by its kind and number: `conv_1`, `dense_2`.

        Args:
            classes: Number of classes; as published by default.
        """
        numbers: Counter[str] = Counter()
        named = [Layer("Rescaling", {"scale": 1 / 255, "name": "normalisation"})]
        for layer in (*self.body, _dense(classes or self.classes, "softmax")):
            prefix = _PREFIXES.get(layer.kind, layer.kind.lower())
            numbers[prefix] += 1
            named.append(Layer(layer.kind, {**layer.config, "name": f"{prefix}_{numbers[prefix]}"}))
        return tuple(named)

    def build(
        self,
        image_shape: ImageShape | None = None,
        classes: int | None = None,
        *,
        normalisation: keras.layers.Layer | None = None,
    ) -> keras.Sequential:
        """Makes the Keras model, with new weights.

        Args:
            image_shape: Height, width and channels of the images; as published by default.
            classes: Number of classes; as published by default.
            normalisation: First layer, from uint8 to float32; division by 255 by default.

        Returns:
            A model from uint8 `[batch, height, width, channels]` to float32 probabilities `[batch, classes]`.
        """
        import keras

        # Twice, the first time in vain: each layer draws a number from the seed when it is made, and a seed must keep
        # giving the network that was measured with it.
        for _ in range(2):
            first, *others = (getattr(keras.layers, layer.kind)(**layer.config) for layer in self.layers(classes))
        images = keras.Input(image_shape or self.image_shape, dtype="uint8", name="images")
        return keras.Sequential([images, normalisation or first, *others], name=self.name)


_PREFIXES = {
    "Conv2D": "conv",
    "MaxPooling2D": "pool",
    "BatchNormalization": "batch_norm",
    "GlobalAveragePooling2D": "global_average_pool",
}


def _conv(filters: int, size: int = 3, *, padding: str = "valid", activation: str = "relu") -> Layer:
    config = {"filters": filters, "kernel_size": (size, size), "strides": (1, 1), "padding": padding}
    return Layer("Conv2D", {**config, "activation": activation, "use_bias": True})


def _dense(units: int, activation: str) -> Layer:
    return Layer("Dense", {"units": units, "activation": activation, "use_bias": True})


def _dropout(rate: float) -> Layer:
    return Layer("Dropout", {"rate": rate})


_POOL = Layer("MaxPooling2D", {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"})
_BATCH_NORM = Layer("BatchNormalization", {})
_RELU = Layer("Activation", {"activation": "relu"})
_FLATTEN = Layer("Flatten", {})
_AVERAGE = Layer("GlobalAveragePooling2D", {})


def _conv_batch_norm(filters: int) -> tuple[Layer, ...]:
    return (_conv(filters, padding="same", activation="linear"), _BATCH_NORM, _RELU)


def _dense_batch_norm(units: int) -> tuple[Layer, ...]:
    return (_dense(units, "linear"), _BATCH_NORM, _dropout(0.5), _RELU)


def _stacked(filters: int, size: int, *, convolutions: int) -> tuple[Layer, ...]:
    return (*[_conv(filters, size, padding="same")] * convolutions, _POOL, _dropout(0.25))


_COLOR_128 = (
    *(layer for filters in (32, 64, 128) for layer in (_BATCH_NORM, _conv(filters, padding="same"), _POOL)),
    _BATCH_NORM,
    _conv(64, padding="same"),
)

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="mnist_convnet",
            summary="two convolutions, each with pooling, dropout, one dense layer",
            source="Keras's Simple MNIST convnet, keras.io/examples/vision/mnist_convnet",
            parameters=34_826,
            body=(_conv(32), _POOL, _conv(64), _POOL, _FLATTEN, _dropout(0.5)),
        ),
        Architecture(
            name="fully_connected",
            summary="dense layers of 500 and 50 with batch normalisation, no convolution",
            source="users' questions; the dropout rate, 0.5, is ours",
            parameters=420_260,
            body=(_FLATTEN, *_dense_batch_norm(500), *_dense_batch_norm(50)),
        ),
        Architecture(
            name="convnet_one_layer",
            summary="one convolution and one dense layer",
            source="users' questions",
            parameters=251_210,
            body=(_conv(32, padding="same"), _FLATTEN),
        ),
        Architecture(
            name="convnet_batchnorm",
            summary="two times two convolutions with batch normalisation, dense 200",
            source="users' questions; the dropout rate, 0.5, is ours",
            parameters=695_970,
            body=(
                *(layer for n in (32, 64) for layer in (*_conv_batch_norm(n), *_conv_batch_norm(n), _POOL)),
                _FLATTEN,
                *_dense_batch_norm(200),
            ),
        ),
        Architecture(
            name="convnet_5x5_binary",
            summary="two 5 x 5 convolutions with pooling, dense 100, two classes",
            source="users' questions",
            classes=2,
            parameters=154_798,
            body=(
                *(_conv(32, 5), _POOL, _conv(64, 5), _POOL, _dropout(0.25)),
                *(_FLATTEN, _dense(100, "relu"), _dropout(0.5)),
            ),
        ),
        Architecture(
            name="kaggle_three_pools",
            summary="three convolutions, each with pooling and dropout, dense 64",
            source="notebooks of Kaggle's Digit Recognizer",
            parameters=93_322,
            body=(
                *(layer for filters in (32, 64, 64) for layer in _stacked(filters, 3, convolutions=1)),
                *(_FLATTEN, _dense(64, "relu"), _dropout(0.5)),
            ),
        ),
        Architecture(
            name="kaggle_stacked",
            summary="two times two convolutions before each pooling, dense 256",
            source="notebooks of Kaggle's Digit Recognizer",
            parameters=887_530,
            body=(
                *(*_stacked(32, 5, convolutions=2), *_stacked(64, 3, convolutions=2)),
                *(_FLATTEN, _dense(256, "relu"), _dropout(0.5)),
            ),
        ),
        Architecture(
            name="color_128_gap",
            summary="four convolutions with batch normalisation on 128 x 128 colour, global average pooling",
            source="users' questions",
            image_shape=(128, 128, 3),
            classes=13,
            parameters=168_793,
            body=(*_COLOR_128, _AVERAGE),
        ),
        Architecture(
            name="color_128_dense",
            summary="the same without the pooling at its end, for comparison with it",
            source="ours",
            image_shape=(128, 128, 3),
            classes=13,
            parameters=380_953,
            body=(*_COLOR_128, _FLATTEN),
        ),
    )
}
