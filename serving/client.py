"""Clients of `digits.v1`, one that blocks and one for asyncio.

Images of any number are split into requests below the server's limits, several of which are on their way at a time.
Calls that find the server unavailable are repeated by gRPC itself, up to four times within about two seconds, as the
service config says; a full queue is waited for exactly as long as the server asks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal, Self

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.call_errors import CallFailed, call_failed, pause_before_retry
from serving.channel_options import channel_options
from serving.classification import Classification, ClassificationBatch
from serving.credentials import Credentials
from serving.encoded_batch import EncodedBatch, prepared_here
from serving.errors import InvalidImage
from serving.image_sources import read_image_file

__all__ = ["AsyncClient", "CallFailed", "Classification", "Client", "Credentials"]

_PLAIN_TEXT = Credentials()
_REQUESTS_IN_FLIGHT = 4

# Who decodes and prepares encoded images.
Place = Literal["server", "client"]
_Batch = ClassificationBatch | EncodedBatch

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
        self._channel = credentials.channel(address, channel_options(max_message_bytes))
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
        return self._answer(batch, deadline)

    def classify_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        prepare: Place = "server",
        probabilities: bool = False,
        min_confidence: float | None = None,
        explain: bool = False,
        timeout_s: float = 30.0,
    ) -> Classification:
        """Classifies image files, read as they are sent; one that can't be read is among the answer's `errors`.

        Args:
            paths: Any number of files, whatever their names.
            prepare: See `classify_encoded`.
            probabilities: Whether to return the probability of every label.
            min_confidence: See `classify`.
            explain: Whether to return what was made of each image.
            timeout_s: For all files, in seconds.

        Raises:
            CallFailed: A request failed; nothing is returned for the others.
        """
        deadline = time.monotonic() + timeout_s
        model = self._model or self.get_model(timeout_s)
        return self.classify_encoded(
            (read_image_file(path, model.max_message_bytes) for path in paths),
            prepare=prepare,
            probabilities=probabilities,
            min_confidence=min_confidence,
            explain=explain,
            timeout_s=_remaining(deadline),
        )

    def classify_encoded(
        self,
        contents: Iterable[bytes | InvalidImage],
        *,
        prepare: Place = "server",
        probabilities: bool = False,
        min_confidence: float | None = None,
        explain: bool = False,
        timeout_s: float = 30.0,
    ) -> Classification:
        """Classifies encoded images: PNG, JPEG, WebP, BMP, TIFF or GIF, of any size up to the server's limits.

        Args:
            contents: The bytes of a file each, any number, taken as they are sent. An `InvalidImage` among them stands
                for a file that could not be read.
            prepare: Who decodes and prepares: the server; or the client, by the same code, which sends raw pixels.
            probabilities: Whether to return the probability of every label.
            min_confidence: See `classify`.
            explain: Whether to return what was made of each image.
            timeout_s: For all images, in seconds.

        Raises:
            CallFailed: A request failed; nothing is returned for the others. An image that can't be read fails alone.
        """
        deadline = time.monotonic() + timeout_s
        model = self._model or self.get_model(timeout_s)
        batch = EncodedBatch(
            contents if prepare == "server" else prepared_here(contents, model),
            model,
            self._selection,
            max_message_bytes=self._max_message_bytes,
            include_probabilities=probabilities,
            min_confidence=min_confidence,
            explain=explain,
        )
        return self._answer(batch, deadline)

    def _answer(self, batch: _Batch, deadline: float) -> Classification:
        """Sends a batch, several requests at a time."""
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
        self._channel = credentials.aio_channel(address, channel_options(max_message_bytes))
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
        return await self._answer(batch, deadline)

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
        deadline = time.monotonic() + timeout_s
        model = self._model or await self.get_model(timeout_s)
        return await self.classify_encoded(
            (read_image_file(path, model.max_message_bytes) for path in paths),
            prepare=prepare,
            probabilities=probabilities,
            min_confidence=min_confidence,
            explain=explain,
            timeout_s=_remaining(deadline),
        )

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
        deadline = time.monotonic() + timeout_s
        model = self._model or await self.get_model(timeout_s)
        batch = EncodedBatch(
            contents if prepare == "server" else prepared_here(contents, model),
            model,
            self._selection,
            max_message_bytes=self._max_message_bytes,
            include_probabilities=probabilities,
            min_confidence=min_confidence,
            explain=explain,
        )
        return await self._answer(batch, deadline)

    async def _answer(self, batch: _Batch, deadline: float) -> Classification:
        in_flight: deque[asyncio.Task[digits_pb2.ClassifyResponse]] = deque()
        try:
            async for request in _requests(batch):
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


async def _requests(batch: _Batch) -> AsyncIterator[digits_pb2.ClassifyRequest]:
    """A batch's requests; those that read files or prepare images are made on another thread."""
    requests = batch.requests()
    if isinstance(batch, ClassificationBatch):
        for request in requests:
            yield request
        return
    while (made := await asyncio.to_thread(next, requests, None)) is not None:
        yield made


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
