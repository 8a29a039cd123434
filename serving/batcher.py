"""The batcher: concurrent requests share inferences, and each gets exactly its own rows back.

One dispatcher task takes whatever whole requests queued while the engine was busy, runs them as one batch on the
engine's thread, and hands each request its slice. Nothing polls: the dispatcher sleeps until a request arrives or a
batch ends. Three rules keep callers from hurting each other: a request that was cancelled or whose deadline passed
never joins a batch; a result is set only on a future that still waits; a batch that fails fails its own requests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.config import BatcherConfig
from serving.errors import DeadlinePassed, InferenceFailed, InvalidRequest, NotReady, QueueFull

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
# uint8 [n, height, width, channels] to float32 probabilities [n, classes]
Infer = Callable[[Uint8Array], FloatArray]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What one request gets back.

    Attributes:
        probabilities: float32 `[n, classes]`, row i for the request's image i.
        queue_s: Time from submission to the start of its batch, in seconds.
        inference_s: Time that its batch took in the engine, in seconds.
    """

    probabilities: FloatArray
    queue_s: float
    inference_s: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Request:
    images: Uint8Array
    future: asyncio.Future[Answer]
    submitted: float
    deadline: float | None


class Batcher:
    """Groups requests into batches for one engine.

    Args:
        infer: Runs a batch; called on the executor, one batch at a time.
        executor: The thread that owns the engine.
        config: Sizes and waiting time.
        clock: Seconds from any fixed moment; deadlines are given on this clock.
    """

    def __init__(
        self,
        infer: Infer,
        executor: Executor,
        config: BatcherConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infer = infer
        self._executor = executor
        self._config = config
        self._clock = clock
        self._pending: deque[_Request] = deque()
        self._pending_rows = 0
        self._changed = asyncio.Event()  # a request arrived, or no more will
        self._accepting = False
        self._seconds_per_row = 0.0
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a batch now."""
        return self._pending_rows

    def start(self) -> None:
        """Starts the dispatcher on the running event loop."""
        self._accepting = True
        self._dispatcher = asyncio.create_task(self._dispatch(), name="batcher")
        self._dispatcher.add_done_callback(self._dispatcher_ended)

    async def aclose(self) -> None:
        """Refuses new requests, answers all that were accepted, and ends the dispatcher."""
        self._accepting = False
        self._changed.set()
        if self._dispatcher is not None:
            await self._dispatcher

    async def submit(self, images: Uint8Array, *, deadline: float | None = None) -> Answer:
        """Runs one request in a batch with others. Cancelling it harms nobody else.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1; must not change until the answer is there.
            deadline: When the caller stops waiting, on the batcher's clock.

        Raises:
            InvalidRequest: More rows than the largest batch.
            QueueFull: The queue has no room for all of its rows; nothing was queued.
            DeadlinePassed: The deadline passed before its batch began.
            InferenceFailed: The engine failed on its batch.
            NotReady: The batcher is not started or is closing.
        """
        rows = len(images)
        if not self._accepting:
            raise NotReady("not accepting requests")
        if rows > self._config.max_batch_rows:
            raise InvalidRequest.of("images", f"{rows} images, but at most {self._config.max_batch_rows} in a request")
        if self._pending_rows + rows > self._config.max_queue_rows:
            raise QueueFull(
                f"{self._pending_rows} images wait already, and {rows} more would exceed {self._config.max_queue_rows}",
                retry_after_s=max(0.01, self._pending_rows * self._seconds_per_row / 2),
            )
        request = _Request(
            images=images,
            future=asyncio.get_running_loop().create_future(),
            submitted=self._clock(),
            deadline=deadline,
        )
        self._pending.append(request)
        self._pending_rows += rows
        self._changed.set()
        try:
            return await request.future
        except asyncio.CancelledError:
            self._forget(request)
            raise

    def _forget(self, request: _Request) -> None:
        """Gives a cancelled request's room in the queue back, if it still waits there."""
        with contextlib.suppress(ValueError):
            self._pending.remove(request)
            self._pending_rows -= len(request.images)

    def _dispatcher_ended(self, dispatcher: asyncio.Task[None]) -> None:
        """Leaves nobody waiting for a dispatcher that is gone."""
        self._accepting = False
        if not dispatcher.cancelled() and dispatcher.exception() is not None:
            _logger.critical("the dispatcher failed; no more requests are accepted", exc_info=dispatcher.exception())
        for request in self._pending:
            if not request.future.done():
                request.future.set_exception(InferenceFailed("the dispatcher ended"))

    async def _dispatch(self) -> None:
        while True:
            while not self._pending:
                if not self._accepting:
                    return
                self._changed.clear()
                await self._changed.wait()
            if self._config.max_wait_ms > 0:
                await self._wait_for_more()
            batch = self._take_batch()
            if batch:
                await self._run(batch)

    async def _wait_for_more(self) -> None:
        """Lets an idle engine wait until a batch is full, or somebody has waited long enough or can't wait longer."""
        while self._accepting and self._pending and self._pending_rows < self._config.max_batch_rows:
            until = self._pending[0].submitted + self._config.max_wait_ms / 1000
            for request in self._pending:  # nobody waits longer than half of the time that they have
                if request.deadline is not None:
                    until = min(until, (request.submitted + request.deadline) / 2)
            remaining = until - self._clock()
            if remaining <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), remaining)
            except TimeoutError:
                return

    def _take_batch(self) -> list[_Request]:
        """Takes whole requests in order of arrival, dropping those that nobody waits for any more."""
        batch: list[_Request] = []
        rows, now = 0, self._clock()
        while self._pending:
            request = self._pending[0]
            gone = request.future.done()
            late = not gone and request.deadline is not None and request.deadline <= now
            if not (gone or late) and rows + len(request.images) > self._config.max_batch_rows:
                break
            self._pending.popleft()
            self._pending_rows -= len(request.images)
            if late:
                request.future.set_exception(DeadlinePassed("the deadline passed while the request was queued"))
            elif not gone:
                batch.append(request)
                rows += len(request.images)
        return batch

    async def _run(self, batch: list[_Request]) -> None:
        rows = sum(len(request.images) for request in batch)
        started = self._clock()
        try:
            images = batch[0].images if len(batch) == 1 else np.concatenate([request.images for request in batch])
            probabilities = await asyncio.get_running_loop().run_in_executor(self._executor, self._infer, images)
            if len(probabilities) != rows:
                raise InferenceFailed(f"{rows} images gave {len(probabilities)} rows")
        except Exception as error:
            _logger.exception("a batch of %d images failed", rows)
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(InferenceFailed(str(error)))
            return
        inference_s = self._clock() - started
        self._seconds_per_row += 0.1 * (inference_s / rows - self._seconds_per_row)
        start = 0
        for request in batch:
            stop = start + len(request.images)
            if not request.future.done():
                request.future.set_result(
                    Answer(
                        probabilities=probabilities[start:stop],
                        queue_s=started - request.submitted,
                        inference_s=inference_s,
                    )
                )
            start = stop
