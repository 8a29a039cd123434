"""Normalisation: the first layer of every network turns raw pixels into the numbers that the network learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras

NORMALISATIONS = ("rescale", "standardise", "none")


def normalisation_layer(kind: str, training_images: npt.NDArray[np.uint8]) -> keras.layers.Layer:
    """Makes the layer. It has no weights; its constants are exported with the network.

    Args:
        kind: `rescale` divides by 255; `standardise` subtracts each channel's mean and divides by its standard
            deviation; `none` leaves pixels as they are, 0 to 255.
        training_images: uint8 `[n, height, width, channels]`, the training part only: mean and deviation must not
            depend on the images that judge the network.
    """
    from keras import layers

    if kind == "rescale":
        scale, offset = 1 / 255, 0.0
    elif kind == "standardise":
        mean = training_images.mean(axis=(0, 1, 2), dtype=np.float64)
        deviation = training_images.std(axis=(0, 1, 2), dtype=np.float64)
        # A constant channel carries no information; dividing by its deviation, 0, would make it infinite.
        deviation[deviation == 0] = 1
        scale, offset = (1 / deviation).tolist(), (-mean / deviation).tolist()
    elif kind == "none":
        scale, offset = 1.0, 0.0
    else:
        raise ValueError(f"no normalisation {kind!r}; known are {', '.join(NORMALISATIONS)}")
    return layers.Rescaling(scale, offset, name="normalisation")
