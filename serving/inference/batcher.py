"""The batcher: concurrent requests share inferences, and each gets exactly its own rows back.

One dispatcher task takes the rows that queued while the engine was busy, runs them as one batch, and hands each request
its slice. Nothing polls: the dispatcher sleeps until a request arrives or a batch ends. A request larger than a batch
is run in pieces and goes to the end of the queue after each, so that small ones never wait for its whole length.
Three rules keep callers from hurting each other: a request that was cancelled or whose deadline passed joins no batch;
a result is set only on a future that still waits; a batch that fails fails its own requests only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from serving.config import BatcherConfig
from serving.errors import DeadlinePassed, InferenceFailed, InvalidRequest, NotReady, QueueFull
from serving.inference.pending import Answer, PendingRequest

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
# uint8 [n, height, width, channels] to float32 probabilities [n, classes]
Infer = Callable[[Uint8Array], FloatArray]

_logger = logging.getLogger(__name__)


class BatchObserver:
    """Is told what the batcher does; does nothing by itself. Called on the event loop."""

    def queue_changed(self, rows: int) -> None:
        """So many images wait now; told when a batch begins and when somebody gives up."""

    def batch_ended(self, rows: int, inference_s: float, queue_s: Sequence[float]) -> None:
        """A batch was run.

        Args:
            rows: Images in it.
            inference_s: Time in the engine, in seconds.
            queue_s: For each request that began with it, the time that it had waited, in seconds.
        """

    def rejected(self, reason: str) -> None:
        """A request was refused or dropped before the engine: `queue_full` or `deadline`."""


class Batcher:
    """Groups requests into batches for one engine.

    Args:
        infer: Runs a batch; called for one batch at a time.
        executor: The thread that runs batches.
        config: Sizes and waiting time.
        batch_rows: Rows of a batch; the configuration's largest request by default.
        inline_rows: A batch of so few rows runs on the event loop where nobody else waits: a hand-over takes longer.
        observer: Is told of every batch.
        clock: Seconds from any fixed moment; deadlines are given on this clock.
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
        self._pending: deque[PendingRequest] = deque()
        self._pending_rows = 0
        self._changed = asyncio.Event()  # a request arrived, or no more will
        self._accepting = False
        self._seconds_per_row = 0.0
        self._batch_started: float | None = None
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a batch now."""
        return self._pending_rows

    @property
    def batch_age_s(self) -> float:
        """How long the engine has been in its present batch, in seconds; 0 between batches. Any thread may ask."""
        started = self._batch_started
        return 0.0 if started is None else self._clock() - started

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
        """Runs one request in batches with others. Cancelling it harms nobody else.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1; must not change until the answer is there.
            deadline: When the caller stops waiting, on the batcher's clock.

        Raises:
            InvalidRequest: More rows than a request may have.
            QueueFull: The queue has no room for all of its rows; nothing was queued.
            DeadlinePassed: The deadline passed before its rows were run, or can't be met.
            InferenceFailed: The engine failed on one of its batches.
            NotReady: The batcher is not started or is closing.
        """
        rows, now = len(images), self._clock()
        if not self._accepting:
            raise NotReady("not accepting requests")
        if rows > self._config.max_batch_rows:
            raise InvalidRequest.of("images", f"{rows} images, but at most {self._config.max_batch_rows} in a request")
        if self._pending_rows + rows > self._config.max_queue_rows:
            self._observer.rejected("queue_full")
            raise QueueFull(
                f"{self._pending_rows} images wait already, and {rows} more would exceed {self._config.max_queue_rows}",
                retry_after_s=max(0.01, self._pending_rows * self._seconds_per_row / 2),
            )
        # The least that must run before its last row: all of its own and one of everybody before it.
        if deadline is not None and now + (len(self._pending) + rows) * self._seconds_per_row > deadline:
            self._observer.rejected("deadline")
            raise DeadlinePassed("the deadline is too near for what waits already")
        request = PendingRequest(images, asyncio.get_running_loop().create_future(), now, deadline)
        self._pending.append(request)
        self._pending_rows += rows
        self._changed.set()
        try:
            return await request.future
        except asyncio.CancelledError:
            self._give_up(request)
            raise

    def _give_up(self, request: PendingRequest) -> None:
        """Frees the room of what has not been run of a request; once, however often it is said."""
        self._pending_rows -= len(request.images) - request.taken
        request.taken = len(request.images)
        self._observer.queue_changed(self._pending_rows)

    def _dispatcher_ended(self, dispatcher: asyncio.Task[None]) -> None:
        """Leaves nobody waiting for a dispatcher that is gone."""
        self._accepting = False
        if not dispatcher.cancelled() and dispatcher.exception() is not None:
            _logger.critical("the dispatcher failed; no more requests are accepted", exc_info=dispatcher.exception())
        for request in self._pending:
            request.fail(InferenceFailed("the dispatcher ended"))

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
        while self._accepting and self._pending and self._pending_rows < self._batch_rows:
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

    def _take_batch(self) -> list[tuple[PendingRequest, Uint8Array]]:
        """Takes rows in order of arrival, passing over requests that nobody waits for any more."""
        batch: list[tuple[PendingRequest, Uint8Array]] = []
        room, now = self._batch_rows, self._clock()
        while self._pending and room:
            request = self._pending.popleft()
            left = len(request.images) - request.taken
            late = request.deadline is not None and request.deadline <= now
            if late or request.future.done():
                self._give_up(request)
                if late:
                    self._observer.rejected("deadline")
                    request.fail(DeadlinePassed("the deadline passed while the request was queued"))
                continue
            if not request.taken:
                request.queue_s = now - request.submitted
            rows = min(left, room)
            batch.append((request, request.images[request.taken : request.taken + rows]))
            request.taken += rows
            self._pending_rows -= rows
            room -= rows
            if rows < left:
                self._pending.append(request)
        return batch

    async def _run(self, batch: list[tuple[PendingRequest, Uint8Array]]) -> None:
        rows = sum(len(piece) for _, piece in batch)
        self._batch_started = started = self._clock()
        self._observer.queue_changed(self._pending_rows)
        try:
            images = batch[0][1] if len(batch) == 1 else np.concatenate([piece for _, piece in batch])
            if rows <= self._inline_rows and not self._pending:
                probabilities = self._infer(images)
            else:
                probabilities = await asyncio.get_running_loop().run_in_executor(self._executor, self._infer, images)
            if probabilities.ndim != 2 or len(probabilities) != rows:
                raise InferenceFailed(f"{rows} images gave an answer of shape {list(probabilities.shape)}")
        except Exception as error:
            _logger.exception("a batch of %d images failed", rows)
            for request, _ in batch:
                request.fail(InferenceFailed(str(error)))
            return
        finally:
            self._batch_started = None
        inference_s = self._clock() - started
        if 2 * rows >= self._batch_rows:  # small batches cost more for each row than what a full queue will see
            self._seconds_per_row += 0.1 * (inference_s / rows - self._seconds_per_row)
        start = 0
        for request, piece in batch:
            request.answer(probabilities[start : start + len(piece)], inference_s)
            start += len(piece)
        began = [request.queue_s for request, piece in batch if request.answered == len(piece)]
        self._observer.batch_ended(rows, inference_s, began)
