"""Clients of `digits.v1`, one that blocks and one for asyncio.

Images of any number are split into requests below the server's limits, several of which are on their way at a time.
Calls that find the server unavailable are repeated by gRPC itself, up to four times within about two seconds, as the
service config below says; a full queue is waited for exactly as long as the server asks.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.call_errors import CallFailed, call_failed, pause_before_retry
from serving.classification import Classification, ClassificationBatch
from serving.credentials import Credentials

__all__ = ["AsyncClient", "CallFailed", "Classification", "Client", "Credentials"]

# CANCELLED is what grpcio's server tells calls that no handler has seen when it shuts down (grpc/grpc#41785). Pauses of
# 0.1, 0.3, 0.9 and 2 seconds outlast a worker's start.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "digits.v1.DigitClassifierService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }
)


def _options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Options of the channel.

    gRPC repeats a call only while it holds the whole request, by default up to 256 KiB: a larger one whose server dies
    would fail at once. There are never more than a few on their way. And by default it waits a second before it
    connects again, then ever longer, which is most of the time that calls are repeated for.
    """
    return [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + _ENVELOPE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


_PLAIN_TEXT = Credentials()
_REQUESTS_IN_FLIGHT = 4
# What a message has beside its pixels, at most.
_ENVELOPE_BYTES = 64 * 1024

# The health service's messages in wire form: an empty request asks for the whole server, field 1 = 1 is SERVING. Its
# generated stubs want a protobuf that other clients in the same environment can't live with.
_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_SERVING = b"\x08\x01"


class Client:
    """Calls a server; blocks. Safe to use from several threads.

    Args:
        address: `host:port`.
        credentials: TLS and token; by default plain text and none.
        model_name: The model to use; the server's default where empty.
        model_version: Its version; the current one where 0.
        max_message_bytes: Requests are kept below this many bytes; 4 MiB is what gRPC servers take by default.

    Raises:
        InvalidConfig: A token would go to another machine in plain text.
        UnusableFile: A file of the credentials can't be read.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials = _PLAIN_TEXT,
        model_name: str = "",
        model_version: int = 0,
        max_message_bytes: int = 4 << 20,
    ) -> None:
        self._channel = credentials.channel(address, _options(max_message_bytes))
        self._metadata = credentials.metadata
        self._stub: Any = digits_pb2_grpc.DigitClassifierServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._selection = digits_pb2.GetModelRequest(model_name=model_name, model_version=model_version)
        self._max_message_bytes = max_message_bytes
        self._model: digits_pb2.GetModelResponse | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        self._channel.close()

    def wait_until_serving(self, timeout_s: float = 30.0) -> None:
        """Returns once the server reports SERVING, however late it starts.

        Raises:
            CallFailed: It did not within the time, in seconds, or it is stopping.
        """
        watch: Any = self._channel.unary_stream(_HEALTH_WATCH)
        try:
            for health in watch(b"", timeout=timeout_s, metadata=self._metadata, wait_for_ready=True):
                if health == _SERVING:
                    return
        except grpc.RpcError as error:
            raise call_failed(error) from error
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server stopped reporting its health")

    def get_model(self, timeout_s: float = 30.0) -> digits_pb2.GetModelResponse:
        """Asks for the model's labels, input size, limits and proof.

        Raises:
            CallFailed: The server refused the call or could not be reached within the time, in seconds.
        """
        deadline = time.monotonic() + timeout_s
        call = self._begin(self._stub.GetModel, self._selection, deadline)
        model: digits_pb2.GetModelResponse = self._finish(call, self._stub.GetModel, self._selection, deadline)
        self._model = model
        return model

    def classify(
        self,
        images: npt.NDArray[np.uint8],
        *,
        probabilities: bool = False,
        min_confidence: float | None = None,
        timeout_s: float = 30.0,
    ) -> Classification:
        """Classifies images.

        Args:
            images: uint8 `[n, height, width]` for a gray model, or `[n, height, width, channels]`; any n.
            probabilities: Whether to return the probability of every label.
            min_confidence: An image whose most probable label is less probable than this, 0 to 1, gets the label -1.
            timeout_s: For the whole batch, in seconds.

        Raises:
            TypeError: The images are not uint8.
            ValueError: They have not the model's size.
            CallFailed: A request failed; nothing is returned for the others.
        """
        deadline = time.monotonic() + timeout_s
        batch = ClassificationBatch(
            images,
            self._model or self.get_model(timeout_s),
            self._selection,
            max_message_bytes=self._max_message_bytes,
            include_probabilities=probabilities,
            min_confidence=min_confidence,
        )
        classify = self._stub.Classify
        in_flight: deque[tuple[Any, Any, digits_pb2.ClassifyRequest]] = deque()
        try:
            for request in batch.requests():
                if len(in_flight) == _REQUESTS_IN_FLIGHT:
                    batch.add(self._finish(*in_flight.popleft(), deadline))
                in_flight.append((self._begin(classify, request, deadline), classify, request))
            while in_flight:
                batch.add(self._finish(*in_flight.popleft(), deadline))
        except CallFailed:
            self._model = None  # perhaps since it has changed
            raise
        finally:
            for call, _, _ in in_flight:
                call.cancel()
        if batch.answered_by_another_model:
            self._model = None  # it may have other labels and limits: ask again next time
        return batch.answer()

    def _begin(self, method: Any, request: Message, deadline: float) -> Any:
        return method.future(request, timeout=_remaining(deadline), metadata=self._metadata)

    def _finish(self, call: Any, method: Any, request: Message, deadline: float) -> Any:
        """Waits for a call's answer; makes it anew as often as the server asks."""
        while True:
            try:
                return call.result()
            except grpc.RpcError as error:
                time.sleep(pause_before_retry(error, _remaining(deadline)))
            call = self._begin(method, request, deadline)


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors, awaited."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials = _PLAIN_TEXT,
        model_name: str = "",
        model_version: int = 0,
        max_message_bytes: int = 4 << 20,
    ) -> None:
        self._channel = credentials.aio_channel(address, _options(max_message_bytes))
        self._metadata = credentials.metadata
        self._stub: Any = digits_pb2_grpc.DigitClassifierServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._selection = digits_pb2.GetModelRequest(model_name=model_name, model_version=model_version)
        self._max_message_bytes = max_message_bytes
        self._model: digits_pb2.GetModelResponse | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the connection; calls in flight fail."""
        await self._channel.close()

    async def wait_until_serving(self, timeout_s: float = 30.0) -> None:
        """See `Client.wait_until_serving`."""
        watch: Any = self._channel.unary_stream(_HEALTH_WATCH)
        try:
            async for health in watch(b"", timeout=timeout_s, metadata=self._metadata, wait_for_ready=True):
                if health == _SERVING:
                    return
        except grpc.RpcError as error:
            raise call_failed(error) from error
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server stopped reporting its health")

    async def get_model(self, timeout_s: float = 30.0) -> digits_pb2.GetModelResponse:
        """See `Client.get_model`."""
        deadline = time.monotonic() + timeout_s
        model: digits_pb2.GetModelResponse = await self._call(self._stub.GetModel, self._selection, deadline)
        self._model = model
        return model

    async def classify(
        self,
        images: npt.NDArray[np.uint8],
        *,
        probabilities: bool = False,
        min_confidence: float | None = None,
        timeout_s: float = 30.0,
    ) -> Classification:
        """See `Client.classify`."""
        deadline = time.monotonic() + timeout_s
        batch = ClassificationBatch(
            images,
            self._model or await self.get_model(timeout_s),
            self._selection,
            max_message_bytes=self._max_message_bytes,
            include_probabilities=probabilities,
            min_confidence=min_confidence,
        )
        in_flight: deque[asyncio.Task[digits_pb2.ClassifyResponse]] = deque()
        try:
            for request in batch.requests():
                if len(in_flight) == _REQUESTS_IN_FLIGHT:
                    batch.add(await in_flight.popleft())
                in_flight.append(asyncio.create_task(self._call(self._stub.Classify, request, deadline)))
            while in_flight:
                batch.add(await in_flight.popleft())
        except CallFailed:
            self._model = None  # perhaps since it has changed
            raise
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)
        if batch.answered_by_another_model:
            self._model = None
        return batch.answer()

    async def _call(self, method: Any, request: Message, deadline: float) -> Any:
        while True:
            try:
                return await method(request, timeout=_remaining(deadline), metadata=self._metadata)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not the caller but `aclose` ended the call.
                raise CallFailed(grpc.StatusCode.CANCELLED, "the client was closed") from None
            except grpc.RpcError as error:
                await asyncio.sleep(pause_before_retry(error, _remaining(deadline)))


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
