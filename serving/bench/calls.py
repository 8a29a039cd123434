"""Raw gRPC calls: prepared requests as bytes, one call each or many on a stream, and checks of the answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2

from protos.digits.v1 import digits_pb2
from serving.bench.load import PAUSE_S, RequestFailed
from serving.client.call_errors import CallFailed
from serving.client.credentials import Credentials
from serving.client.retry import pause_before_retry

# Compares an answer, the first argument, with the expected one; raises RequestFailed if it contains an error.
Check = Callable[[bytes, bytes], bool]

_LONGEST_PAUSE_S = 1.0
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_RESPONSE_TAG = digits_pb2.ClassifyStreamResponse.RESPONSE_FIELD_NUMBER << 3 | 2
_CLOSING_S = 5.0


def open_channel(address: str) -> grpc.aio.Channel:
    """Opens a channel with its own connection; equal channels would share one, and thus one worker of the server."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return Credentials().endpoint(address, options).aio_channel()


def is_echo(answer: bytes, expected: bytes) -> bool:
    """Returns whether the echo server returned the right bytes."""
    return answer == expected


def has_labels(answer: bytes, expected: bytes) -> bool:
    """Returns whether two ClassifyResponses have equal labels. Parses them only if the first bytes differ."""
    if answer.startswith(expected):
        return True
    found, right = map(digits_pb2.ClassifyResponse.FromString, (answer, expected))
    return list(found.labels) == list(right.labels)


def stream_has_labels(answer: bytes, expected: bytes) -> bool:
    """Returns whether a ClassifyStreamResponse contains a response with the labels of a ClassifyResponse.

    Raises:
        RequestFailed: It contains an error.
    """
    if answer[:1] == bytes([_RESPONSE_TAG]):
        start = 1
        while answer[start] & 0x80:  # the length that follows has 7 bits in each byte but the last
            start += 1
        if answer.startswith(expected, start + 1):
            return True
    message = digits_pb2.ClassifyStreamResponse.FromString(answer)
    if message.WhichOneof("result") == "error":
        raise RequestFailed(_CODES.get(message.error.code, "UNKNOWN"), _pause_s(message.error))
    return has_labels(message.response.SerializeToString(), expected)


class UnaryCalls:
    """One call per request.

    Args:
        channel: Channel to the server.
        method: Full name of the method, with slashes.
        timeout_s: Deadline of a call, in seconds.
    """

    def __init__(self, channel: grpc.aio.Channel, method: str, timeout_s: float) -> None:
        self._call: Any = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
        self._timeout_s = timeout_s

    async def send(self, request: bytes) -> bytes:
        """Sends a request and returns the answer.

        Raises:
            RequestFailed: The call failed.
        """
        try:
            answer: bytes = await self._call(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        return answer

    async def aclose(self) -> None:
        """Does nothing, since nothing is open between calls."""


class StreamCalls:
    """Many requests on one stream, answered in order. Opens a new stream if it fails.

    Args:
        channel: Channel to the server.
        method: Full name of the method, with slashes.
        timeout_s: Deadline of the whole stream, in seconds.
    """

    def __init__(self, channel: grpc.aio.Channel, method: str, timeout_s: float) -> None:
        self._open: Any = channel.stream_stream(method, request_serializer=None, response_deserializer=None)
        self._timeout_s = timeout_s
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._waiting: deque[asyncio.Future[bytes]] = deque()

    async def send(self, request: bytes) -> bytes:
        """Sends a request and returns its answer; several may be in flight.

        Raises:
            RequestFailed: The stream ended first.
        """
        async with self._writing:
            if self._call is None:
                self._call = self._open(timeout=self._timeout_s)
                self._reader = asyncio.create_task(self._read(self._call))
            answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._waiting.append(answered)
            # If the stream has ended, the reader reports why.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.write(request)
        return await answered

    async def aclose(self) -> None:
        """Ends the stream."""
        if self._call is not None and self._reader is not None:
            call, reader = self._call, self._reader
            await call.done_writing()
            await asyncio.wait({reader}, timeout=_CLOSING_S)
            call.cancel()
            await asyncio.wait({reader})

    async def _read(self, call: Any) -> None:
        failure = RequestFailed("UNAVAILABLE")
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._waiting.popleft().set_result(answer)
        except grpc.aio.AioRpcError as error:
            failure = _failure(error)
        except asyncio.CancelledError:
            failure = RequestFailed("CANCELLED")
        finally:
            self._call = None
            while self._waiting:
                self._waiting.popleft().set_exception(failure)


def _failure(error: grpc.aio.AioRpcError) -> RequestFailed:
    try:
        return RequestFailed(error.code().name, max(PAUSE_S, pause_before_retry(error, _LONGEST_PAUSE_S)))
    except CallFailed:  # the server does not ask for a retry
        return RequestFailed(error.code().name)


def _pause_s(status: digits_pb2.Status) -> float:
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            asked_s: float = retry.retry_delay.ToTimedelta().total_seconds()
            return min(max(PAUSE_S, asked_s), _LONGEST_PAUSE_S)
    return PAUSE_S
