"""Bidirectional streams: requests are answered concurrently, and responses are sent in the order of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from serving.errors import NotReady
from serving.server.services.handlers import STOPPING, Context

Request = TypeVar("Request")
Response = TypeVar("Response")

# Requests wait in memory. So a request claims at least one row for each 16 KiB, however few images it has.
ROW_BYTES = 16 * 1024

# A stream may have this many requests in flight, with at most as many rows as the largest batch, so that no stream
# fills the queue. Then the server stops reading the stream until the client reads a response.
_MAX_REQUESTS = 32


class _Window:
    """The requests that one stream has in flight. A request larger than the window passes when it is the only one."""

    def __init__(self, max_requests: int, max_rows: int) -> None:
        self._max_requests = max_requests
        self._max_rows = max_rows
        self._requests = 0
        self._rows = 0
        self._released = asyncio.Event()

    async def acquire(self, rows: int) -> None:
        while self._requests and (self._requests >= self._max_requests or self._rows + rows > self._max_rows):
            self._released.clear()
            await self._released.wait()
        self._requests += 1
        self._rows += rows

    def release(self, rows: int) -> None:
        self._requests -= 1
        self._rows -= rows
        self._released.set()


class BidiStreamHandler(Generic[Request, Response]):
    """Answers the streams of one method.

    Args:
        answer: Answers one request, with the context of its stream. An exception ends the stream.
        claimed_rows: Returns how many rows of the window a request takes, 0 or more.
        max_rows: How many rows one stream may have in flight.
    """

    def __init__(
        self,
        answer: Callable[[Request, Context], Awaitable[Response]],
        *,
        claimed_rows: Callable[[Request], int],
        max_rows: int,
    ) -> None:
        self._answer = answer
        self._claimed_rows = claimed_rows
        self._max_rows = max_rows
        self._draining = False
        self._readers: set[asyncio.Task[Exception | None]] = set()

    async def responses(self, requests: AsyncIterator[Request], context: Context) -> AsyncGenerator[Response, None]:
        """Answers a stream of requests, in order. Stops reading it while the window is full.

        Raises:
            NotReady: The server is stopping. All requests that were read before are answered.
        """
        if self._draining:
            raise NotReady(STOPPING)
        answers: asyncio.Queue[tuple[asyncio.Task[Response], int] | Exception | None] = asyncio.Queue()
        window = _Window(_MAX_REQUESTS, self._max_rows)
        reader = asyncio.create_task(self._read(requests, context, answers, window))
        # A callback, since a task that is cancelled before its first step runs none of its own code.
        reader.add_done_callback(
            lambda ended: answers.put_nowait(NotReady(STOPPING) if ended.cancelled() else ended.result())
        )
        self._readers.add(reader)
        try:
            while (answer := await answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                response, rows = answer
                yield await response
                window.release(rows)
        finally:
            self._readers.discard(reader)
            reader.cancel()
            while not answers.empty():
                if isinstance(left := answers.get_nowait(), tuple):
                    left[0].cancel()

    def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, once all requests that were read are answered."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def _read(
        self,
        requests: AsyncIterator[Request],
        context: Context,
        answers: asyncio.Queue[tuple[asyncio.Task[Response], int] | Exception | None],
        window: _Window,
    ) -> Exception | None:
        """Starts requests as the window admits them. Returns the error that ended the stream: answers come first."""
        try:
            async for request in requests:
                rows = self._claimed_rows(request)
                await window.acquire(rows)
                task = asyncio.ensure_future(self._answer(request, context))
                answers.put_nowait((task, rows))
        except Exception as error:  # noqa: BLE001 - raised after the last answer
            return error
        return None
