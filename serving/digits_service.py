"""`digits.v1.DigitClassifierService`: decodes requests, delegates to a deployment, encodes answers. Nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from protos.digits.v1 import digits_pb2
from serving.boundary import Context
from serving.deployment import Deployments
from serving.digits_messages import encode_answer, encoded_images, raw_images, sound_images
from serving.errors import NotReady
from serving.status import status_of

_STOPPING = "the server is stopping"

# Requests of one stream that may wait for their answers, and never more rows than the largest batch, so that no stream
# fills the queue; then the stream is not read from until the client has read.
_STREAM_REQUESTS = 32
_ROW_BYTES = 16 * 1024


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


class DigitClassifierService:
    """The servicer. Uses of its context the remaining time alone, so that any front end can host it.

    Args:
        deployments: Where models are found.
        max_stream_rows: Rows that one stream may have in flight.
        max_message_bytes: The largest message that the front end takes.
    """

    DESCRIPTOR = digits_pb2.DESCRIPTOR.services_by_name["DigitClassifierService"]

    def __init__(self, deployments: Deployments, *, max_stream_rows: int, max_message_bytes: int) -> None:
        self._deployments = deployments
        self._max_message_bytes = max_message_bytes
        self._max_stream_rows = max_stream_rows
        self._draining = False
        self._readers: set[asyncio.Task[Exception | None]] = set()

    async def Classify(self, request: digits_pb2.ClassifyRequest, context: Context) -> digits_pb2.ClassifyResponse:  # noqa: N802
        """Classifies the images of one request."""
        return await self._classify(request, _deadline(context))

    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[digits_pb2.ClassifyStreamRequest], context: Context
    ) -> AsyncIterator[digits_pb2.ClassifyStreamResponse]:
        """Classifies a stream of requests, in order; a full window stops reading, which stops the client."""
        if self._draining:
            raise NotReady(_STOPPING)
        answers: asyncio.Queue[tuple[asyncio.Task[digits_pb2.ClassifyStreamResponse], int] | Exception | None]
        answers = asyncio.Queue()
        window = _Window(_STREAM_REQUESTS, self._max_stream_rows)
        reader = asyncio.create_task(self._read_stream(requests, _deadline(context), answers, window))
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

    async def GetModel(self, request: digits_pb2.GetModelRequest, context: Context) -> digits_pb2.GetModelResponse:  # noqa: N802
        """Describes a deployment."""
        deployment = self._deployments.find(request.model_name, request.model_version)
        manifest, provider = deployment.manifest, deployment.provider
        figures = manifest.parity.get(provider)
        return digits_pb2.GetModelResponse(
            model_name=deployment.name,
            model_version=deployment.version,
            labels=manifest.labels,
            height=manifest.input.height,
            width=manifest.input.width,
            channels=manifest.input.channels,
            max_images_per_request=deployment.max_request_images,
            sha256=manifest.sha256,
            execution_provider=provider,
            test_accuracy=manifest.accuracy.onnx,
            parity_max_difference=figures.probabilities_max_difference if figures else None,
            preparation=manifest.input.preparation,
            max_message_bytes=self._max_message_bytes,
            max_image_pixels=deployment.max_image_pixels,
        )

    def drain(self) -> None:
        """Ends every stream once it has answered what it has read; its client gets UNAVAILABLE and can go elsewhere."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def _read_stream(
        self,
        requests: AsyncIterator[digits_pb2.ClassifyStreamRequest],
        deadline: float | None,
        answers: asyncio.Queue[Any],
        window: _Window,
    ) -> Exception | None:
        """Starts requests as the window admits them; returns what ended the stream, which must not overtake answers."""
        try:
            async for request in requests:
                rows = _weight(request.request)
                await window.acquire(rows)
                task = asyncio.create_task(self._classify_in_stream(request.request, deadline))
                answers.put_nowait((task, rows))
        except Exception as error:  # noqa: BLE001 - raised again behind the last answer
            return error
        return None

    async def _classify_in_stream(
        self, request: digits_pb2.ClassifyRequest, deadline: float | None
    ) -> digits_pb2.ClassifyStreamResponse:
        try:
            return digits_pb2.ClassifyStreamResponse(response=await self._classify(request, deadline))
        except Exception as error:  # noqa: BLE001 - one bad request must not end the stream
            return digits_pb2.ClassifyStreamResponse(error=status_of(error))

    async def _classify(
        self, request: digits_pb2.ClassifyRequest, deadline: float | None
    ) -> digits_pb2.ClassifyResponse:
        deployment = self._deployments.find(request.model_name, request.model_version)
        if request.WhichOneof("images") != "encoded_images":
            answer = await deployment.classify(raw_images(request, deployment), deadline=deadline)
            return encode_answer(answer, request, deployment)
        prepared = await deployment.prepare(encoded_images(request, deployment), deadline=deadline)
        images = sound_images(prepared, request)
        if images is None:
            return encode_answer(None, request, deployment, prepared)
        answer = await deployment.classify(images, deadline=deadline, prepared=True)
        return encode_answer(answer, request, deployment, prepared)


def _weight(request: digits_pb2.ClassifyRequest) -> int:
    """Rows that a request counts as in its stream's window; large files count as several, since they wait in memory."""
    images = request.encoded_images.images
    return request.raw_images.count or max(len(images), sum(map(len, images)) // _ROW_BYTES)


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
