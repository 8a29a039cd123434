"""Label smoothing for integer labels, which Keras has for one-hot labels only."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class SmoothedCrossentropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy against targets that leave a little probability to the other classes.

    Keeps a network from driving its confidence to 1, which on MNIST makes it more often right, and less sure than it
    could be. Source: Christian Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015,
    section 7.

    Args:
        smoothing: Probability that is spread evenly over all classes; 0 is the plain cross-entropy.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_crossentropy")
        self._smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each image, from labels `[n]` or `[n, 1]` and probabilities `[n, classes]`."""
        one_hot = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), y_pred.shape[-1])
        return keras.losses.categorical_crossentropy(one_hot, y_pred, label_smoothing=self._smoothing)
