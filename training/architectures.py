"""The catalogue of networks, each as published, from raw uint8 pixels to class probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

ImageShape = tuple[int, int, int]


def mnist_convnet(image_shape: ImageShape, classes: int) -> keras.Model:
    """The convolutional network of Keras's MNIST example: 34,826 parameters for 28 x 28 x 1 and ten classes.

    Source: Francois Chollet, "Simple MNIST convnet", keras.io/examples/vision/mnist_convnet. Dividing by 255 is part
    of the network here, so that it takes raw pixels wherever it runs.

    Args:
        image_shape: Height, width and channels of the images.
        classes: Number of classes.

    Returns:
        A model from uint8 `[batch, height, width, channels]` to float32 probabilities `[batch, classes]`.
    """
    return keras.Sequential(
        [
            keras.Input(image_shape, dtype="uint8", name="images"),
            layers.Rescaling(1 / 255, name="normalisation"),
            layers.Conv2D(32, 3, activation="relu", name="conv_1"),
            layers.MaxPooling2D(2, name="pool_1"),
            layers.Conv2D(64, 3, activation="relu", name="conv_2"),
            layers.MaxPooling2D(2, name="pool_2"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(classes, activation="softmax", name="dense"),
        ],
        name="mnist_convnet",
    )


ARCHITECTURES: dict[str, Callable[[ImageShape, int], Any]] = {"mnist_convnet": mnist_convnet}
