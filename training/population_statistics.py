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


class PopulationStatistics(keras.callbacks.Callback):  # type: ignore[misc]
    """Recomputes the statistics of batch normalisation before each validation.

    Source: Yuxin Wu and Justin Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 (PreciseBN): with the
    weights held still, the mean and the variance of each layer's input over the training images, from those of batches
    of the size that it was trained with. The images are augmented as in training, because these are what the weights
    were fitted to. Dropout is off, as it is when the network answers: Xiang Li et al., "Understanding the Disharmony
    between Dropout and Batch Normalization by Variance Shift", 2018, section 4.

    Does nothing for a network without batch normalisation, nor where an epoch has `FOLLOWED_STEPS` steps or more.

    Args:
        batches: The batches of one epoch, each a tuple that begins with uint8 images.
    """

    def __init__(self, batches: keras.utils.PyDataset) -> None:
        super().__init__()
        self._batches = batches

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Recomputes them. Keras validates after the last step of an epoch."""
        if len(self._batches) < FOLLOWED_STEPS:
            recompute_statistics(self.model, self._batches)


def recompute_statistics(model: keras.Sequential, batches: keras.utils.PyDataset) -> None:
    """Gives each layer of batch normalisation the mean and the variance of its input over all batches.

    Args:
        model: A chain of layers, at least up to the last one of batch normalisation.
        batches: As for `PopulationStatistics`.
    """
    last = max((place for place, layer in enumerate(model.layers) if _normalises(layer)), default=-1)
    sums: dict[keras.Layer, list[Any]] = {}
    images = 0
    for index in range(len(batches)):
        values = ops.convert_to_tensor(batches[index][0])
        images += len(values)
        for layer in model.layers[: last + 1]:
            if _normalises(layer):
                moments = ops.moments(values, axes=tuple(range(values.ndim - 1)))
                mean, variance = (np.asarray(each, np.float64) for each in moments)
                of_mean, of_square = sums.setdefault(layer, [0.0, 0.0])
                sums[layer] = [of_mean + len(values) * mean, of_square + len(values) * (variance + mean**2)]
            values = layer(values, training=_normalises(layer))
    for layer, (of_mean, of_square) in sums.items():
        layer.moving_mean.assign(of_mean / images)
        layer.moving_variance.assign(of_square / images - (of_mean / images) ** 2)


def _normalises(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)
