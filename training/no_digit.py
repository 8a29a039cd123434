"""Knowing what is no digit, without a parameter more: an eleventh class whose logit is always 0.

Softmax is blind to a constant that is added to all logits, so a network is free to choose that constant. Trained with
one more class of logit 0, it makes its logits large for digits and small for everything else:
p(no digit) = 1 / (1 + sum(exp(logits))). It is the "energy" of Weitang Liu et al., "Energy-based Out-of-distribution
Detection", 2020, here learned as a class.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class _WithNoDigit(keras.layers.Layer):  # type: ignore[misc]
    """The last layer of a network, with the probability of no digit after those of the classes."""

    def __init__(self, last: keras.layers.Dense) -> None:
        super().__init__(name="with_no_digit")
        self.last = last

    def call(self, values: Any) -> Any:
        """Returns probabilities `[n, classes + 1]` from the values `[n, k]` before the last layer."""
        logits = ops.matmul(values, self.last.kernel) + self.last.bias
        return ops.softmax(ops.concatenate([logits, ops.zeros_like(logits[:, :1])], axis=1))


def with_no_digit(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers and weights that gives one more probability, that of no digit.

    Args:
        model: Ends in a dense layer with softmax: float32 `[n, classes]`.

    Returns:
        A model to train, with probabilities `[n, classes + 1]`.
    """
    last = model.layers[-1]
    return keras.Model(model.inputs, _WithNoDigit(last)(last.input), name=model.name)
