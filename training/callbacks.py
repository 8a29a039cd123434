"""The Keras callback of every run: it keeps the best weights and stops a run whose loss is no longer finite.

Keras's own EarlyStopping, TerminateOnNaN and History do not give back the best weights of a run that is interrupted.
"""

from __future__ import annotations

import math
from typing import Any

import keras


class NonFiniteLoss(Exception):
    """The loss became NaN or infinite. Says at which step."""


class BestWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the lowest validation loss.

    Attributes:
        history: Metrics of each finished epoch, as Keras reports them.
        best_epoch: The epoch whose weights are kept, counted from 1; 0 before the first epoch ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.best_epoch = 0
        self._epoch = 0
        self._weights: list[Any] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes the number of the epoch."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stops at the first step after which the mean loss is not finite."""
        if logs and not math.isfinite(logs["loss"]):
            raise NonFiniteLoss(f"the loss is not finite after step {batch + 1} of epoch {self._epoch}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps the weights if they are the best so far."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        losses = self.history["val_loss"]
        if losses[-1] == min(losses):
            self.best_epoch = epoch + 1
            self._weights = self.model.get_weights()

    def restore(self) -> None:
        """Gives the model the best weights back."""
        self.model.set_weights(self._weights)
