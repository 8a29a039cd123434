"""A stream of requests answered in order: how many are in flight, who waits for whom, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from serving.errors import NotReady

Request = TypeVar("Request")
Response = TypeVar("Response")

_STOPPING = "the server is stopping"

# Requests of one stream that may wait for their answers, and never more rows than the largest batch, so that no stream
# fills the queue; then the stream is not read from until the client has read.
_STREAM_REQUESTS = 32


class _Window:
    """What one stream may have in flight. A request larger than the whole window passes when nothing else is."""

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


class OrderedStreams(Generic[Request, Response]):
    """Answers the streams of one method.

    Args:
        rows: How many images a request claims to have, 0 or more.
        answer: Answers one request, also one that fails: an exception ends the stream.
        max_rows: Images that one stream may have in flight.
    """

    def __init__(
        self,
        rows: Callable[[Request], int],
        answer: Callable[[Request, float | None], Awaitable[Response]],
        max_rows: int,
    ) -> None:
        self._rows = rows
        self._answer = answer
        self._max_rows = max_rows
        self._draining = False
        self._readers: set[asyncio.Task[Exception | None]] = set()

    async def answer(self, requests: AsyncIterator[Request], deadline: float | None) -> AsyncGenerator[Response, None]:
        """Answers a stream of requests, in order; a full window stops reading, which stops the client.

        Args:
            requests: The stream.
            deadline: Passed on with each of its requests.

        Raises:
            NotReady: The server is stopping; what was read before is answered.
        """
        if self._draining:
            raise NotReady(_STOPPING)
        answers: asyncio.Queue[tuple[asyncio.Task[Response], int] | Exception | None] = asyncio.Queue()
        window = _Window(_STREAM_REQUESTS, self._max_rows)
        reader = asyncio.create_task(self._read(requests, deadline, answers, window))
        # A callback, since a task that is cancelled before its first step runs no code of its own.
        reader.add_done_callback(
            lambda ended: answers.put_nowait(NotReady(_STOPPING) if ended.cancelled() else ended.result())
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
        """Ends every stream once it has answered what it has read; its client gets UNAVAILABLE and can go elsewhere."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def _read(
        self,
        requests: AsyncIterator[Request],
        deadline: float | None,
        answers: asyncio.Queue[tuple[asyncio.Task[Response], int] | Exception | None],
        window: _Window,
    ) -> Exception | None:
        """Starts requests as the window admits them; returns what ended the stream, which must not overtake answers."""
        try:
            async for request in requests:
                rows = self._rows(request)
                await window.acquire(rows)
                task = asyncio.ensure_future(self._answer(request, deadline))
                answers.put_nowait((task, rows))
        except Exception as error:  # noqa: BLE001 - raised again behind the last answer
            return error
        return None
