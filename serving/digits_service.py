"""`digits.v1.DigitClassifierService`: decodes requests, delegates to a deployment, encodes answers. Nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.boundary import Context
from serving.deployment import Deployment, Deployments
from serving.errors import InvalidRequest, NotReady, Violation
from serving.pending import Answer
from serving.status import status_of

Uint8Array = npt.NDArray[np.uint8]

_STOPPING = "the server is stopping"

# Requests of one stream that may wait for their answers, and never more rows than the largest batch, so that no stream
# fills the queue; then the stream is not read from until the client has read.
_STREAM_REQUESTS = 32


# The label of an image whose best label is less probable than the request's min_confidence.
_UNSURE = -1


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
    """

    DESCRIPTOR = digits_pb2.DESCRIPTOR.services_by_name["DigitClassifierService"]

    def __init__(self, deployments: Deployments, *, max_stream_rows: int) -> None:
        self._deployments = deployments
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
            temperature=manifest.calibration.temperature,
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
                rows = request.request.raw_images.count
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
        _check_min_confidence(request)
        images = _decode_images(request, deployment)
        answer = await deployment.classify(images, deadline=deadline)
        return _encode_answer(answer, request, deployment)


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _check_min_confidence(request: digits_pb2.ClassifyRequest) -> None:
    if not 0 <= request.min_confidence <= 1:  # NaN is not either
        raise InvalidRequest.of("min_confidence", f"must lie between 0 and 1, not {request.min_confidence:g}")


def _decode_images(request: digits_pb2.ClassifyRequest, deployment: Deployment) -> Uint8Array:
    """Views a request's pixels as uint8 `[n, height, width, channels]`, or names everything that is wrong with them."""
    if request.WhichOneof("images") is None:
        raise InvalidRequest.of("raw_images", "no images in the request")
    raw, spec, limit = request.raw_images, deployment.manifest.input, deployment.max_request_images
    violations = []
    if raw.count == 0:
        violations.append(Violation(field="raw_images.count", description="must be at least 1"))
    elif raw.count > limit:
        violations.append(
            Violation(field="raw_images.count", description=f"{raw.count} images, but at most {limit} in a request")
        )
    for name in ("height", "width", "channels"):
        given, expected = getattr(raw, name), getattr(spec, name)
        if given not in (0, expected):
            violations.append(
                Violation(field=f"raw_images.{name}", description=f"{given}, but the model has {expected}")
            )
    if len(raw.pixels) != raw.count * spec.image_bytes:
        violations.append(
            Violation(
                field="raw_images.pixels",
                description=f"{len(raw.pixels)} bytes, but {raw.count} images of "
                f"{spec.height} x {spec.width} x {spec.channels} are {raw.count * spec.image_bytes}",
            )
        )
    if violations:
        raise InvalidRequest(*violations)
    return np.frombuffer(raw.pixels, np.uint8).reshape(raw.count, *spec.shape)


def _encode_answer(
    answer: Answer, request: digits_pb2.ClassifyRequest, deployment: Deployment
) -> digits_pb2.ClassifyResponse:
    probabilities = answer.probabilities
    labels, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    if request.HasField("min_confidence"):
        labels[confidences < np.float32(request.min_confidence)] = _UNSURE
    response = digits_pb2.ClassifyResponse(
        labels=labels.tolist(),
        confidences=confidences.tolist(),
        model_name=deployment.name,
        model_version=deployment.version,
        queue_time_us=int(answer.queue_s * 1e6),
        inference_time_us=int(answer.inference_s * 1e6),
    )
    if request.include_probabilities:
        response.probabilities.extend(probabilities.ravel().tolist())
    if request.top_k:
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, : request.top_k]
        response.top_labels.extend(top.ravel().tolist())
        response.top_confidences.extend(np.take_along_axis(probabilities, top, axis=1).ravel().tolist())
    return response
