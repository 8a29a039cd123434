"""`digits.v1.DigitClassifierService`: decodes requests, delegates to a deployment, encodes responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from protos.digits.v1 import digits_pb2
from serving.errors import InvalidImage
from serving.images.image_status import ImageStatus
from serving.images.preparation import PreparedImage
from serving.rollout.deployment import Deployment
from serving.rollout.deployments import Deployments
from serving.server.services.bidi_stream import ROW_BYTES, BidiStreamHandler
from serving.server.services.digits_codec import (
    check_min_confidence,
    encode_error,
    encode_model,
    encode_response,
    encoded_images,
    raw_images,
    readable_images,
    unsure_images,
)
from serving.server.services.handlers import Context, deadline_of
from serving.server.services.status import code_of
from serving.server.telemetry.calls import current_call


@dataclass(frozen=True, kw_only=True, eq=False)
class Classified:
    """A response, and what it was made of.

    Attributes:
        response: The response.
        deployment: The deployment that answered.
        prepared: The result of preparation for each encoded image; empty for raw images.
    """

    response: digits_pb2.ClassifyResponse
    deployment: Deployment
    prepared: Sequence[PreparedImage | InvalidImage]


class DigitClassifierService:
    """The servicer. It uses only the remaining time of its context, so that any front end can host it.

    Args:
        deployments: The deployments to choose from.
        max_stream_rows: How many rows one stream may have in flight.
        max_message_bytes: The largest message that the front end accepts.
    """

    DESCRIPTOR = digits_pb2.DESCRIPTOR.services_by_name["DigitClassifierService"]

    def __init__(self, deployments: Deployments, *, max_stream_rows: int, max_message_bytes: int) -> None:
        self._deployments = deployments
        self._max_message_bytes = max_message_bytes
        self._streams = BidiStreamHandler(
            self._classify_in_stream, claimed_rows=_claimed_rows, max_rows=max_stream_rows
        )

    async def Classify(self, request: digits_pb2.ClassifyRequest, context: Context) -> digits_pb2.ClassifyResponse:  # noqa: N802
        """Classifies the images of one request."""
        return (await self.classify(request, context)).response

    async def classify(self, request: digits_pb2.ClassifyRequest, context: Context) -> Classified:
        """Classifies the images of one request, for interfaces that answer in another form."""
        deadline = deadline_of(context)
        deployment = self._deployments.find(request.model_name, request.model_version, request.model_label)
        call = current_call()
        call.routed_to(deployment.name, deployment.version)
        check_min_confidence(request)
        prepared: Sequence[PreparedImage | InvalidImage] = ()
        noticed: Sequence[ImageStatus] | None = None
        if request.WhichOneof("images") == "encoded_images":
            contents = encoded_images(request, deployment)
            call.images = len(contents)
            prepared = await deployment.prepare(contents, deadline=deadline)
            images = readable_images(prepared, request)
            noticed = [image.status for image in prepared if isinstance(image, PreparedImage)]
        else:
            images = raw_images(request, deployment)
            call.images = len(images)
        answer = None
        if images is not None:
            answer = await deployment.classify(images, deadline=deadline, prepared=noticed)
            if (unsure := unsure_images(answer, request)) is not None and unsure.any():
                deployment.statistics.unsure(int(np.count_nonzero(unsure)))
        response = encode_response(answer, request, deployment, prepared)
        return Classified(response=response, deployment=deployment, prepared=prepared)

    def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[digits_pb2.ClassifyStreamRequest], context: Context
    ) -> AsyncIterator[digits_pb2.ClassifyStreamResponse]:
        """Classifies a stream of requests, in order."""
        return self._streams.responses(requests, context)

    async def GetModel(self, request: digits_pb2.GetModelRequest, context: Context) -> digits_pb2.GetModelResponse:  # noqa: N802
        """Describes a model."""
        deployment = self._deployments.find_for_metadata(request.model_name, request.model_version, request.model_label)
        current_call().routed_to(deployment.name, deployment.version)
        return encode_model(deployment, self._deployments.rollout, max_message_bytes=self._max_message_bytes)

    def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, once all requests that were read are answered."""
        self._streams.drain()

    async def _classify_in_stream(
        self, request: digits_pb2.ClassifyStreamRequest, context: Context
    ) -> digits_pb2.ClassifyStreamResponse:
        call, code = current_call().request(), grpc.StatusCode.CANCELLED
        try:
            response = digits_pb2.ClassifyStreamResponse(response=await self.Classify(request.request, context))
            code = grpc.StatusCode.OK
        except Exception as error:  # noqa: BLE001 - one bad request must not end the stream
            status = encode_error(error)
            response, code = digits_pb2.ClassifyStreamResponse(error=status), code_of(status)
        finally:
            call.end(code.name)
        return response


def _claimed_rows(request: digits_pb2.ClassifyStreamRequest) -> int:
    images = request.request.encoded_images.images
    return request.request.raw_images.count or max(len(images), sum(map(len, images)) // ROW_BYTES)
