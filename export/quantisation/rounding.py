"""Rounding of weights to int8, so that the sums that they are part of change least.

To round each weight to the nearest step is not best: the errors of one sum may add up, or cancel. Which do is known
from the second moments of the inputs. This is the objective of AdaRound (Nagel et al., "Up or Down? Adaptive Rounding
for Post-Training Quantization", 2020, section 3), here minimised greedily, one weight at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HIGHEST = 127  # of an int8 with a zero point of 0; -128 would have no opposite

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

_ROUNDS_PER_WEIGHT = 20


def scales_of(weights: FloatArray) -> FloatArray:
    """One step per output channel, float32 `[outputs]`, of weights `[outputs, ...]`."""
    highest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    scales: FloatArray = np.where(highest > 0, highest / HIGHEST, 1).astype(np.float32)
    return scales


def round_weights(weights: FloatArray, scales: FloatArray, moments: Float64Array) -> npt.NDArray[np.int8]:
    """Rounds weights to multiples of their scales.

    Starts at the nearest ones, and then moves, in each output channel, the weight whose step by one lowers the expected
    squared error of the sum most, until no step lowers it.

    Args:
        weights: float32 `[outputs, ...]`.
        scales: float32 `[outputs]`.
        moments: float64 `[inputs, inputs]`, the mean of x xᵀ over the inputs x of the sums, ordered as the
            weights.

    Returns:
        int8, of the shape of the weights.
    """
    exact = weights.reshape(len(weights), -1).astype(np.float64)
    step = scales.astype(np.float64)[:, np.newaxis]
    rounded = np.clip(np.rint(exact / step), -HIGHEST, HIGHEST)
    gradient = (exact - rounded * step) @ moments
    cost = step**2 * np.diag(moments)
    rows = np.arange(len(exact))
    for _ in range(_ROUNDS_PER_WEIGHT * exact.shape[1]):
        direction = np.where(gradient < 0, -1, 1)
        gain = 2 * step * np.abs(gradient) - cost
        gain[np.abs(rounded + direction) > HIGHEST] = 0
        best = gain.argmax(axis=1)
        moved = rows[gain[rows, best] > 0]
        if len(moved) == 0:
            break
        weight = best[moved]
        by = direction[moved, weight]
        rounded[moved, weight] += by
        gradient[moved] -= (by * step[moved, 0])[:, np.newaxis] * moments[weight]
    return rounded.reshape(weights.shape).astype(np.int8)
