"""The batcher: concurrent requests share inferences, and each request gets exactly its own rows back.

A single dispatcher task takes the rows that queued while the engine was busy, runs them as one batch, and gives each
request its slice of the result. It never polls: it sleeps until a request arrives or a batch ends. A request larger
than a batch runs in chunks and rejoins the end of the queue after each chunk, so small requests never wait for all of
it. Where the queue fills a batch while another one runs, it is handed over ahead, so that the engine never waits for
the event loop. Three rules protect callers from each other: cancelled and expired requests join no batch; a result is
set only on a future that is still waiting; a failed batch fails only its own requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.config import BatcherConfig
from serving.errors import DeadlinePassed, DeviceLost, InferenceFailed, InvalidRequest, NotReady, QueueFull
from serving.inference.request import InferenceResult, QueuedRequest, ResultFuture

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
# uint8 [n, height, width, channels] to float32 [n, columns], one row per image
Infer = Callable[[Uint8Array], FloatArray]
# Requests, with their images in a batch
Chunks = list[tuple[QueuedRequest, Uint8Array]]

# A batch is handed over ahead only where that costs a small request no more than this, in seconds.
_AHEAD_S = 0.01

_logger = logging.getLogger(__name__)


class BatchObserver:
    """Receives the events of a batcher, on the event loop. This base class ignores them."""

    def queue_changed(self, rows: int) -> None:
        """The queue now has this many images. Called when a batch starts and when a request leaves the queue."""

    def batch_ended(self, results: FloatArray, inference_s: float, queue_s: Sequence[float]) -> None:
        """A batch has run.

        Args:
            results: float32 `[n, columns]`, one row per image in the batch.
            inference_s: Time in the engine, in seconds.
            queue_s: Queue time of each request that started with this batch, in seconds.
        """

    def rejected(self, reason: str) -> None:
        """A request was refused, or dropped before the engine: `queue_full` or `deadline`."""


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch that was handed over.

    Attributes:
        chunks: Its parts, in their order.
        rows: Its images.
        ended: Gets the results and the time that they took, in seconds.
    """

    chunks: Chunks
    rows: int
    ended: asyncio.Future[tuple[FloatArray, float]]


class Batcher:
    """Groups requests into batches for one engine.

    Args:
        infer: Runs one batch. Called for one batch at a time.
        executor: The thread that runs batches.
        config: Sizes and waiting time.
        batch_rows: Rows per batch; by default the largest request that the configuration allows.
        inline_rows: While the queue is empty, batches of up to this many rows run on the event loop, because handing
            them to the thread would take longer.
        observer: Receives the batcher's events.
        clock: Returns seconds since a fixed moment. Deadlines use this clock.
    """

    def __init__(
        self,
        infer: Infer,
        executor: Executor,
        config: BatcherConfig,
        *,
        batch_rows: int | None = None,
        inline_rows: int = 0,
        observer: BatchObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infer = infer
        self._executor = executor
        self._config = config
        self._batch_rows = batch_rows or config.max_batch_rows
        self._inline_rows = inline_rows
        self._observer = observer or BatchObserver()
        self._clock = clock
        self._queue: deque[QueuedRequest] = deque()
        self._queued_rows = 0
        self._wake_up = asyncio.Event()  # set when a request arrives or the batcher closes
        self._accepting = False
        self._seconds_per_row = 0.0
        self._running: deque[_Batch] = deque()  # the first one is in the engine, the second one follows it
        self._batch_started: float | None = None
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that are waiting for a batch."""
        return self._queued_rows

    @property
    def batch_age_s(self) -> float:
        """Age of the batch that is running, in seconds; 0 if none is. Safe to read from any thread."""
        started = self._batch_started
        return 0.0 if started is None else self._clock() - started

    def start(self) -> None:
        """Starts the dispatcher on the running event loop."""
        self._accepting = True
        self._dispatcher = asyncio.create_task(self._dispatch(), name="batcher")
        self._dispatcher.add_done_callback(self._dispatcher_ended)

    async def aclose(self) -> None:
        """Refuses new requests, answers all accepted ones, and stops the dispatcher."""
        self._accepting = False
        self._wake_up.set()
        if self._dispatcher is not None:
            await self._dispatcher

    async def submit(self, images: Uint8Array, *, deadline: float | None = None) -> InferenceResult:
        """Runs one request, in batches shared with others. Cancelling it does not affect other requests.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1. Must not change until the call returns.
            deadline: When the caller stops waiting, on the batcher's clock.

        Raises:
            DigitsError: As for `enqueue`.
            DeadlinePassed: The deadline passed before the rows ran.
            InferenceFailed: The engine failed on one of its batches.
        """
        future = asyncio.get_running_loop().create_future()
        request = self.enqueue(images, future, deadline=deadline)
        try:
            result: InferenceResult = await future
        except asyncio.CancelledError:
            self.drop(request)
            raise
        return result

    def enqueue(self, images: Uint8Array, future: ResultFuture, *, deadline: float | None = None) -> QueuedRequest:
        """Queues one request whose future gets the result or the error.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1. Must not change until the future is done.
            future: Its methods are called on the event loop.
            deadline: When the caller stops waiting, on the batcher's clock.

        Returns:
            What `drop` takes if the caller stops waiting.

        Raises:
            InvalidRequest: More rows than the configuration allows in one request.
            QueueFull: The queue has no room for all of the rows. None of them was queued.
            DeadlinePassed: The deadline can't be met.
            NotReady: The batcher has not started, or is closing.
        """
        rows, now = len(images), self._clock()
        if not self._accepting:
            raise NotReady("not accepting requests")
        if rows > self._config.max_batch_rows:
            raise InvalidRequest.of("images", f"{rows} images, but at most {self._config.max_batch_rows} in a request")
        if self._queued_rows + rows > self._config.max_queue_rows:
            self._observer.rejected("queue_full")
            raise QueueFull(
                f"{self._queued_rows} images are queued, and {rows} more would exceed {self._config.max_queue_rows}",
                retry_after_s=max(0.01, self._queued_rows * self._seconds_per_row / 2),
            )
        # At least this must run before its last row: its own rows, and one row of each request in front of it.
        if deadline is not None and now + (len(self._queue) + rows) * self._seconds_per_row > deadline:
            self._observer.rejected("deadline")
            raise DeadlinePassed("the queue is too long to meet the deadline")
        request = QueuedRequest(images, future, now, deadline)
        self._queue.append(request)
        self._queued_rows += rows
        self._wake_up.set()
        return request

    def drop(self, request: QueuedRequest) -> None:
        """Returns the queue space of the rows that have not run. Safe to call more than once."""
        self._queued_rows -= len(request.images) - request.rows_taken
        request.rows_taken = len(request.images)
        self._observer.queue_changed(self._queued_rows)

    def _dispatcher_ended(self, dispatcher: asyncio.Task[None]) -> None:
        """Fails the requests that a stopped dispatcher left."""
        self._accepting = False
        if not dispatcher.cancelled() and dispatcher.exception() is not None:
            _logger.critical("the dispatcher failed; no more requests are accepted", exc_info=dispatcher.exception())
        for request in (*self._queue, *(request for batch in self._running for request, _ in batch.chunks)):
            request.fail(InferenceFailed("the dispatcher stopped"))

    async def _dispatch(self) -> None:
        while True:
            while not self._queue and not self._running:
                if not self._accepting:
                    return
                self._wake_up.clear()
                await self._wake_up.wait()
            if self._config.max_wait_ms > 0 and not self._running:
                await self._wait_for_more()
            while len(self._running) < 2 and (not self._running or self._is_worth_handing_over_ahead()):
                if not (chunks := self._take_batch()):
                    break
                self._running.append(self._start_batch(chunks))
            if self._running:
                await self._finish_batch(self._running[0])
                self._running.popleft()

    def _is_worth_handing_over_ahead(self) -> bool:
        return self._queued_rows >= self._batch_rows and self._batch_rows * self._seconds_per_row <= _AHEAD_S

    async def _wait_for_more(self) -> None:
        """Delays the next batch until it is full, or until a request in the queue must not wait longer."""
        while self._accepting and self._queue and self._queued_rows < self._batch_rows:
            until = self._queue[0].submitted + self._config.max_wait_ms / 1000
            for request in self._queue:  # no request waits for more than half of its time
                if request.deadline is not None:
                    until = min(until, (request.submitted + request.deadline) / 2)
            remaining = until - self._clock()
            if remaining <= 0:
                return
            self._wake_up.clear()
            try:
                await asyncio.wait_for(self._wake_up.wait(), remaining)
            except TimeoutError:
                return

    def _take_batch(self) -> Chunks:
        """Takes rows in order of arrival. Drops requests that have expired or were cancelled."""
        batch: Chunks = []
        room, now = self._batch_rows, self._clock()
        while self._queue and room:
            request = self._queue.popleft()
            left = len(request.images) - request.rows_taken
            expired = request.deadline is not None and request.deadline <= now
            if expired or request.future.done():
                self.drop(request)
                if expired:
                    self._observer.rejected("deadline")
                    request.fail(DeadlinePassed("the deadline passed while the request was queued"))
                continue
            if not request.rows_taken:
                request.queue_s = now - request.submitted
            rows = min(left, room)
            batch.append((request, request.images[request.rows_taken : request.rows_taken + rows]))
            request.rows_taken += rows
            self._queued_rows -= rows
            room -= rows
            if rows < left:
                self._queue.append(request)
        return batch

    def _start_batch(self, chunks: Chunks) -> _Batch:
        self._observer.queue_changed(self._queued_rows)
        rows = sum(len(chunk) for _, chunk in chunks)
        loop = asyncio.get_running_loop()
        if rows <= self._inline_rows and not self._queue and not self._running:
            ended = loop.create_future()
            try:
                ended.set_result(self._run(chunks))
            except Exception as error:  # noqa: BLE001 - as the thread does
                ended.set_exception(error)
        else:
            ended = loop.run_in_executor(self._executor, self._run, chunks)
        return _Batch(chunks, rows, ended)

    def _run(self, chunks: Chunks) -> tuple[FloatArray, float]:
        """Runs a batch; returns its results, and the time that it took in seconds."""
        self._batch_started = started = self._clock()
        try:
            images = chunks[0][1] if len(chunks) == 1 else np.concatenate([chunk for _, chunk in chunks])
            return self._infer(images), self._clock() - started
        finally:
            self._batch_started = None

    async def _finish_batch(self, batch: _Batch) -> None:
        rows = batch.rows
        try:
            probabilities, inference_s = await batch.ended
            if probabilities.ndim != 2 or len(probabilities) != rows:
                raise InferenceFailed(f"{rows} images gave a result of shape {list(probabilities.shape)}")
        except Exception as error:
            _logger.exception("a batch of %d images failed", rows)
            for request, _ in batch.chunks:
                request.fail(DeviceLost(error.detail) if isinstance(error, DeviceLost) else InferenceFailed(str(error)))
            return
        if 2 * rows >= self._batch_rows:  # smaller batches cost more per row than a full queue will see
            self._seconds_per_row += 0.1 * (inference_s / rows - self._seconds_per_row)
        start = 0
        for request, chunk in batch.chunks:
            request.add_rows(probabilities[start : start + len(chunk)], inference_s)
            start += len(chunk)
        began = [request.queue_s for request, chunk in batch.chunks if request.rows_done == len(chunk)]
        self._observer.batch_ended(probabilities, inference_s, began)
