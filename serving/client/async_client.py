"""The client of `digits.v1` for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from protos.digits.v1 import digits_pb2
from serving.client.base_client import (
    HEALTH_WATCH,
    PLAIN_TEXT,
    REQUESTS_IN_FLIGHT,
    SERVING,
    BaseClient,
    Place,
    remaining,
)
from serving.client.call_errors import CallFailed, call_failed, pause_before_retry
from serving.client.channel_options import channel_options
from serving.client.classification import AnswerOptions, Classification
from serving.client.credentials import Credentials
from serving.client.encoded_contents import FileContents, GivenContents
from serving.client.protocol import Classify, Describe, Steps
from serving.errors import InvalidImage

_T = TypeVar("_T")


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, methods and errors, awaited."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials = PLAIN_TEXT,
        model_name: str = "",
        model_version: int = 0,
        max_message_bytes: int = 4 << 20,
    ) -> None:
        super().__init__(
            credentials.aio_channel(address, channel_options(max_message_bytes)),
            credentials,
            model_name=model_name,
            model_version=model_version,
            max_message_bytes=max_message_bytes,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the connection; calls in flight fail."""
        await self._channel.close()

    async def wait_until_serving(self, timeout_s: float = 30.0) -> None:
        """See `Client.wait_until_serving`."""
        watch: Any = self._channel.unary_stream(HEALTH_WATCH)
        try:
            async for health in watch(b"", timeout=timeout_s, metadata=self._metadata, wait_for_ready=True):
                if health == SERVING:
                    return
        except grpc.RpcError as error:
            raise call_failed(error) from error
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server stopped reporting its health")

    async def get_model(self, timeout_s: float = 30.0) -> digits_pb2.GetModelResponse:
        """See `Client.get_model`."""
        return await self._carry_out(self._describe(), timeout_s)

    async def classify(
        self,
        images: npt.NDArray[np.uint8],
        *,
        probabilities: bool = False,
        min_confidence: float | None = None,
        timeout_s: float = 30.0,
    ) -> Classification:
        """See `Client.classify`."""
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence)
        return await self._carry_out(self._classify(images, options), timeout_s)

    async def classify_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        prepare: Place = "server",
        probabilities: bool = False,
        min_confidence: float | None = None,
        explain: bool = False,
        timeout_s: float = 30.0,
    ) -> Classification:
        """See `Client.classify_files`."""
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence, explain=explain)
        return await self._carry_out(self._classify_encoded(FileContents(paths), prepare, options), timeout_s)

    async def classify_encoded(
        self,
        contents: Iterable[bytes | InvalidImage],
        *,
        prepare: Place = "server",
        probabilities: bool = False,
        min_confidence: float | None = None,
        explain: bool = False,
        timeout_s: float = 30.0,
    ) -> Classification:
        """See `Client.classify_encoded`; takes the contents, and prepares, on another thread."""
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence, explain=explain)
        return await self._carry_out(self._classify_encoded(GivenContents(contents), prepare, options), timeout_s)

    async def _carry_out(self, steps: Steps[_T], timeout_s: float) -> _T:
        """Takes the steps of a conversation, all within the time."""
        deadline = time.monotonic() + timeout_s
        following = partial(next, steps)
        while True:
            try:
                step = following()
            except StopIteration as ended:
                result: _T = ended.value
                return result
            try:
                following = partial(steps.send, await self._take(step, deadline))
            except CallFailed as error:
                following = partial(steps.throw, error)

    async def _take(self, step: Describe | Classify, deadline: float) -> Any:
        if isinstance(step, Describe):
            return await self._call(self._stub.GetModel, step.request, deadline)
        in_flight: deque[asyncio.Task[digits_pb2.ClassifyResponse]] = deque()
        try:
            async for request in _requests(step):
                if len(in_flight) == REQUESTS_IN_FLIGHT:
                    step.take(await in_flight.popleft())
                in_flight.append(asyncio.create_task(self._call(self._stub.Classify, request, deadline)))
            while in_flight:
                step.take(await in_flight.popleft())
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)
        return None

    async def _call(self, method: Any, request: Message, deadline: float) -> Any:
        while True:
            try:
                return await method(request, timeout=remaining(deadline), metadata=self._metadata)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not the caller but `aclose` ended the call.
                raise CallFailed(grpc.StatusCode.CANCELLED, "the client was closed") from None
            except grpc.RpcError as error:
                await asyncio.sleep(pause_before_retry(error, remaining(deadline)))


async def _requests(step: Classify) -> AsyncIterator[digits_pb2.ClassifyRequest]:
    """A step's requests; those that read files or prepare images are made on another thread."""
    if not step.reads:
        for request in step.requests:
            yield request
        return
    while (made := await asyncio.to_thread(next, step.requests, None)) is not None:
        yield made
