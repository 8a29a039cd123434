"""Batch normalisation on small data: means and variances of the training images, in place of moving averages.

Keras's moving averages remember about a hundred steps. Where an epoch has only a few, they follow neither the weights
nor the images, and a network that learns well validates, and is saved, at chance level.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

# In so many steps a moving average of momentum 0.99 forgets 95 % of where it began.
FOLLOWED_STEPS = 300
# More would take long and change little: the error of a mean falls with the root of their number.
IMAGES = 2_048


class PopulationStatistics(keras.callbacks.Callback):  # type: ignore[misc]
    """Recomputes the statistics of batch normalisation before each validation.

    Source: Yuxin Wu and Justin Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 (PreciseBN): with the
    weights held still, the mean and the variance of each layer's input over the training images, combined from batches
    of the size that the network learnt with. The images are augmented as in training, because these are what the
    weights were fitted to. Dropout is off, as it is when the network answers: Xiang Li et al., "Understanding the
    Disharmony between Dropout and Batch Normalization by Variance Shift", 2018.

    Does nothing for a network without batch normalisation, nor where an epoch has `FOLLOWED_STEPS` steps or more.

    Args:
        batches: The batches of one epoch, each a tuple that begins with uint8 images.
    """

    def __init__(self, batches: keras.utils.PyDataset) -> None:
        super().__init__()
        self._batches = batches

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Recomputes them. Keras validates after the last step of an epoch, so the last ones are what is saved."""
        if len(self._batches) < FOLLOWED_STEPS:
            recompute_statistics(self.model, self._batches)


def recompute_statistics(model: keras.Model, batches: keras.utils.PyDataset) -> None:
    """Gives each layer of batch normalisation the mean and the variance of its input.

    Args:
        model: A chain of layers, at least up to the last one of batch normalisation.
        batches: As for `PopulationStatistics`; as many as hold `IMAGES` images are used, or all.
    """
    normalising = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not normalising:
        return
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    chain = layers[: layers.index(normalising[-1]) + 1]
    means: dict[keras.Layer, Any] = dict.fromkeys(normalising, 0.0)
    squares = dict(means)
    images = index = 0
    while index < len(batches) and images < IMAGES:
        values = ops.convert_to_tensor(batches[index][0])
        count = len(values)
        for layer in chain:
            if layer in means:
                moments = ops.moments(values, axes=tuple(range(values.ndim - 1)))
                mean, variance = (np.asarray(each, np.float64) for each in moments)
                means[layer] += count * mean
                squares[layer] += count * (variance + mean**2)
            values = layer(values, training=layer in means)
        images, index = images + count, index + 1
    for layer in normalising:
        layer.moving_mean.assign(means[layer] / images)
        layer.moving_variance.assign(squares[layer] / images - (means[layer] / images) ** 2)
