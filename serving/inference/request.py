"""A request in the batcher's queue, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

_NO_LOGITS = np.empty((0, 0), np.float32)


@dataclass(kw_only=True, eq=False)
class InferenceResult:
    """The result of one request.

    Attributes:
        probabilities: float32 `[n, classes]`; row i belongs to image i of the request.
        queue_s: Time from submission to the start of the first batch, in seconds.
        inference_s: Time that the engine spent on its batches, in seconds.
        logits: float32 `[n, classes]`, set by the deployment; empty in the batcher's own results.
        no_digit: float32 `[n]`, 0 to 1, set by the deployment; None for a model without that output.
        statuses: int64 `[n]`, numbers of `ImageStatus`, set by the deployment; None if nothing was noticed.
    """

    probabilities: FloatArray
    queue_s: float
    inference_s: float
    logits: FloatArray = field(default_factory=lambda: _NO_LOGITS)
    no_digit: FloatArray | None = None
    statuses: npt.NDArray[np.int64] | None = None


class ResultFuture(Protocol):
    """Receives the result of a request: an `asyncio.Future`, or what does without an event loop's turn."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """Receives an `InferenceResult`. Must not raise an error."""

    def set_exception(self, error: Any, /) -> None:
        """Receives the error. Must not raise one."""


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """The images of one caller, and the progress made on them.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        future: Receives the result or the error.
        submitted: When the request was submitted, in seconds on the batcher's clock.
        deadline: When the caller stops waiting, on the same clock.
        rows_taken: Rows that batches have taken so far.
        rows_done: Rows whose probabilities have arrived.
        probabilities: float32 `[n, classes]`, complete up to `rows_done`.
        queue_s: See `InferenceResult`.
        inference_s: See `InferenceResult`.
    """

    images: Uint8Array
    future: ResultFuture
    submitted: float
    deadline: float | None
    rows_taken: int = 0
    rows_done: int = 0
    probabilities: FloatArray | None = None
    queue_s: float = 0.0
    inference_s: float = 0.0

    def add_rows(self, probabilities: FloatArray, inference_s: float) -> None:
        """Adds the rows of one batch. The last rows complete the request."""
        rows = len(probabilities)
        if rows < len(self.images):
            if self.probabilities is None:
                self.probabilities = np.empty((len(self.images), probabilities.shape[1]), np.float32)
            self.probabilities[self.rows_done : self.rows_done + rows] = probabilities
        else:
            self.probabilities = probabilities
        self.rows_done += rows
        self.inference_s += inference_s
        if self.rows_done == len(self.images) and not self.future.done():
            self.future.set_result(
                InferenceResult(probabilities=self.probabilities, queue_s=self.queue_s, inference_s=self.inference_s)
            )

    def fail(self, error: Exception) -> None:
        """Fails the request, if its caller still waits."""
        if not self.future.done():
            self.future.set_exception(error)
