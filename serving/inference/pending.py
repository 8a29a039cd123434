"""A request on its way through the batcher, and the answer that it ends with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


_NO_LOGITS = np.empty((0, 0), np.float32)


@dataclass(kw_only=True, eq=False)
class Answer:
    """What one request gets back.

    Attributes:
        probabilities: float32 `[n, classes]`, row i for the request's image i.
        queue_s: Time from submission to the start of its first batch, in seconds.
        inference_s: Time that its batches took in the engine, in seconds.
        logits: float32 `[n, classes]` where a deployment answered; the batcher leaves them among the probabilities.
    """

    probabilities: FloatArray
    queue_s: float
    inference_s: float
    logits: FloatArray = field(default_factory=lambda: _NO_LOGITS)


class PendingRequest:
    """One caller's images and what is known of them so far.

    Args:
        images: uint8 `[n, height, width, channels]`.
        future: Gets the answer or the error.
        submitted: When it was submitted, in seconds on the batcher's clock.
        deadline: When its caller stops waiting, on the same clock.
    """

    __slots__ = (
        "answered",
        "deadline",
        "future",
        "images",
        "inference_s",
        "probabilities",
        "queue_s",
        "submitted",
        "taken",
    )

    def __init__(self, images: Uint8Array, future: asyncio.Future[Answer], submitted: float, deadline: float | None):
        self.images = images
        self.future = future
        self.submitted = submitted
        self.deadline = deadline
        self.taken = 0  # rows that a batch has taken
        self.answered = 0  # rows whose probabilities are there
        self.probabilities: FloatArray | None = None
        self.queue_s = 0.0
        self.inference_s = 0.0

    def answer(self, probabilities: FloatArray, inference_s: float) -> None:
        """Takes the rows of one batch; the last ones complete the answer."""
        rows = len(probabilities)
        if rows < len(self.images):
            if self.probabilities is None:
                self.probabilities = np.empty((len(self.images), probabilities.shape[1]), np.float32)
            self.probabilities[self.answered : self.answered + rows] = probabilities
        else:
            self.probabilities = probabilities
        self.answered += rows
        self.inference_s += inference_s
        if self.answered == len(self.images) and not self.future.done():
            assert self.probabilities is not None  # noqa: S101 - set above
            self.future.set_result(
                Answer(probabilities=self.probabilities, queue_s=self.queue_s, inference_s=self.inference_s)
            )

    def fail(self, error: Exception) -> None:
        """Ends the request, if its caller still waits."""
        if not self.future.done():
            self.future.set_exception(error)
