"""`digits.v1.DigitClassifierService`: decodes requests, delegates to a deployment, encodes answers. Nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from protos.digits.v1 import digits_pb2
from serving.rollout.deployments import Deployments
from serving.server.services.digits_codec import (
    check_min_confidence,
    encode_answer,
    encode_versions,
    encoded_images,
    raw_images,
    sound_images,
)
from serving.server.services.handlers import Context
from serving.server.services.ordered_stream import OrderedStreams
from serving.server.services.status import status_of

_ROW_BYTES = 16 * 1024


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
        self._streams = OrderedStreams(_weight, self._classify_in_stream, max_stream_rows)

    async def Classify(self, request: digits_pb2.ClassifyRequest, context: Context) -> digits_pb2.ClassifyResponse:  # noqa: N802
        """Classifies the images of one request."""
        return await self._classify(request, _deadline(context))

    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[digits_pb2.ClassifyStreamRequest], context: Context
    ) -> AsyncIterator[digits_pb2.ClassifyStreamResponse]:
        """Classifies a stream of requests, in order."""
        async with aclosing(self._streams.answer(requests, _deadline(context))) as responses:
            async for response in responses:
                yield response

    async def GetModel(self, request: digits_pb2.GetModelRequest, context: Context) -> digits_pb2.GetModelResponse:  # noqa: N802
        """Describes a deployment."""
        deployment = self._deployments.find_for_metadata(request.model_name, request.model_version, request.model_label)
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
            preparation=manifest.input.preparation,
            max_message_bytes=self._max_message_bytes,
            max_image_pixels=deployment.max_image_pixels,
            versions=encode_versions(self._deployments.rollout, deployment.name),
        )

    def drain(self) -> None:
        """Ends every stream once it has answered what it has read; its client gets UNAVAILABLE and can go elsewhere."""
        self._streams.drain()

    async def _classify_in_stream(
        self, request: digits_pb2.ClassifyStreamRequest, deadline: float | None
    ) -> digits_pb2.ClassifyStreamResponse:
        try:
            return digits_pb2.ClassifyStreamResponse(response=await self._classify(request.request, deadline))
        except Exception as error:  # noqa: BLE001 - one bad request must not end the stream
            return digits_pb2.ClassifyStreamResponse(error=status_of(error))

    async def _classify(
        self, request: digits_pb2.ClassifyRequest, deadline: float | None
    ) -> digits_pb2.ClassifyResponse:
        deployment = self._deployments.find(request.model_name, request.model_version, request.model_label)
        check_min_confidence(request)
        if request.WhichOneof("images") != "encoded_images":
            answer = await deployment.classify(raw_images(request, deployment), deadline=deadline)
            return encode_answer(answer, request, deployment)
        prepared = await deployment.prepare(encoded_images(request, deployment), deadline=deadline)
        images = sound_images(prepared, request)
        if images is None:
            return encode_answer(None, request, deployment, prepared)
        answer = await deployment.classify(images, deadline=deadline, prepared=True)
        return encode_answer(answer, request, deployment, prepared)


def _weight(request: digits_pb2.ClassifyStreamRequest) -> int:
    """Rows that a request counts as in its stream's window; large files count as several, since they wait in memory."""
    images = request.request.encoded_images.images
    return request.request.raw_images.count or max(len(images), sum(map(len, images)) // _ROW_BYTES)


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
