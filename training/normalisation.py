"""Normalisation: the first layer of every network, from raw pixels to the numbers that it learns from."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

NORMALISATIONS = ("rescale", "standardise", "none")


def normalisation_layer(kind: str, training_images: npt.NDArray[np.uint8]) -> keras.layers.Layer:
    """Makes the layer; it has no weights, and its constants are exported with the network.

    Args:
        kind: `rescale` divides by 255; `standardise` subtracts each channel's mean and divides by its standard
            deviation; `none` passes pixels on as they are, 0 to 255.
        training_images: uint8 `[n, height, width, channels]`, the training part alone: mean and deviation must know
            nothing of the images that the network is judged by.
    """
    if kind == "rescale":
        scale, offset = 1 / 255, 0.0
    elif kind == "standardise":
        mean = training_images.mean(axis=(0, 1, 2), dtype=np.float64)
        deviation = training_images.std(axis=(0, 1, 2), dtype=np.float64)
        # A channel that never changes carries nothing; dividing by its deviation would make it infinite.
        deviation[deviation == 0] = 1
        scale, offset = (1 / deviation).tolist(), (-mean / deviation).tolist()
    elif kind == "none":
        scale, offset = 1.0, 0.0
    else:
        raise ValueError(f"no normalisation {kind!r}; known are {', '.join(NORMALISATIONS)}")
    return layers.Rescaling(scale, offset, name="normalisation")
