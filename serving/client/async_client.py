"""The client of `digits.v1` for asyncio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from protos.digits.v1 import digits_pb2
from serving.client.base_client import REQUESTS_IN_FLIGHT, SERVING, BaseClient, Connection, remaining
from serving.client.call_errors import CallFailed
from serving.client.classification import Classification
from serving.client.protocol import Classify, GetModel, Step, Steps, WatchHealth
from serving.client.retry import HealthWait, pause_before_retry

_T = TypeVar("_T")


class AsyncClient(
    BaseClient[
        Coroutine[Any, Any, Classification],
        Coroutine[Any, Any, digits_pb2.GetModelResponse],
        Coroutine[Any, Any, None],
    ]
):
    """`Client` for asyncio: the same arguments, methods and errors, awaited.

    It can be made anywhere, also before an event loop runs, and connects in each loop that it is used in.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connection; calls in flight fail, and no further ones can be made."""
        self._closed = True
        await self._close(list(self._connections))

    def _open(self) -> None:
        self._connections: dict[asyncio.AbstractEventLoop, Connection] = {}
        self._closed = False

    async def _connection(self) -> Connection:
        """Returns the connection of the running event loop, since grpc.aio binds each channel to a loop."""
        if self._closed:
            raise CallFailed(grpc.StatusCode.CANCELLED, "the client was closed")
        loop = asyncio.get_running_loop()
        if loop not in self._connections:
            self._connections[loop] = Connection(self._endpoint.aio_channel())
            await self._close([other for other in list(self._connections) if other.is_closed()])
        return self._connections[loop]

    async def _close(self, loops: Iterable[asyncio.AbstractEventLoop]) -> None:
        for loop in loops:
            connection = self._connections.pop(loop, None)  # None: a loop of another thread has just closed it
            if connection is not None:
                await connection.channel.close()

    async def _run(self, steps: Steps[_T], timeout_s: float) -> _T:
        deadline = time.monotonic() + timeout_s
        resume = partial(next, steps)
        while True:  # as `protocol.run` does
            try:
                step = resume()
            except StopIteration as end:
                result: _T = end.value
                return result
            try:
                resume = partial(steps.send, await self._perform(step, deadline))
            except CallFailed as error:
                resume = partial(steps.throw, error)

    async def _perform(self, step: Step, deadline: float) -> Any:
        if isinstance(step, WatchHealth):
            return await self._is_serving(deadline)
        stub = (await self._connection()).stub
        if isinstance(step, GetModel):
            return await self._call(stub.GetModel, step.request, deadline)
        in_flight: deque[asyncio.Task[digits_pb2.ClassifyResponse]] = deque()
        try:
            async for request in _requests(step):
                if len(in_flight) == REQUESTS_IN_FLIGHT:
                    step.receive(await in_flight.popleft())
                in_flight.append(asyncio.create_task(self._call(stub.Classify, request, deadline)))
            while in_flight:
                step.receive(await in_flight.popleft())
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)
        return None

    async def _is_serving(self, deadline: float) -> bool:
        watch_health = (await self._connection()).watch_health
        wait = HealthWait()
        while True:
            try:
                async for health in watch_health(b"", timeout=remaining(deadline), metadata=self._metadata):
                    wait.answered = True
                    if health == SERVING:
                        return True
                return False
            except grpc.RpcError as error:
                await asyncio.sleep(wait.pause_s(error, remaining(deadline)))

    async def _call(self, method: Any, request: Message, deadline: float) -> Any:
        while True:
            try:
                return await method(request, timeout=remaining(deadline), metadata=self._metadata)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled this task: `aclose` ended the call.
                raise CallFailed(grpc.StatusCode.CANCELLED, "the client was closed") from None
            except grpc.RpcError as error:
                await asyncio.sleep(pause_before_retry(error, remaining(deadline)))


def _coroutine_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method that returns a coroutine, because mocks and frameworks ask `inspect.iscoroutinefunction`."""

    @functools.wraps(method)
    async def wrapper(*arguments: Any, **options: Any) -> Any:
        return await method(*arguments, **options)

    return wrapper


for _name in ("wait_until_serving", "get_model", "classify", "classify_files", "classify_encoded"):
    setattr(AsyncClient, _name, _coroutine_function(getattr(BaseClient, _name)))


async def _requests(step: Classify) -> AsyncIterator[digits_pb2.ClassifyRequest]:
    """Yields the requests of a step; makes them on another thread if that reads files or prepares images."""
    if not step.reads:
        for request in step.requests:
            yield request
        return
    while (made := await asyncio.to_thread(next, step.requests, None)) is not None:
        yield made
