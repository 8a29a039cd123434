"""The one-cycle learning rate: up to its peak and down to nothing over one whole run."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_RISE = 0.3
_START_DIVISOR = 25.0


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Rises along a half cosine to the peak in the first 30 % of the steps, then falls along another to zero.

    Source: Leslie N. Smith and Nicholay Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates", 2017; the cosine shape and the 30 % are fast.ai's.

    Args:
        peak: Highest learning rate; the first step has a 25th of it.
        steps: Steps of the whole run.
    """

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self._peak = peak
        self._steps = steps

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0."""
        done = ops.cast(step, "float32") / max(1, self._steps)
        rising = ops.minimum(done / _RISE, 1.0)
        falling = ops.clip((done - _RISE) / (1 - _RISE), 0.0, 1.0)
        lowest = self._peak / _START_DIVISOR
        up = lowest + (self._peak - lowest) * (1 - ops.cos(rising * 3.141592653589793)) / 2
        down = self._peak * (1 + ops.cos(falling * 3.141592653589793)) / 2
        return ops.where(done < _RISE, up, down)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same schedule."""
        return {"peak": self._peak, "steps": self._steps}
