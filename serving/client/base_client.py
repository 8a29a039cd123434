"""What both clients have: a channel, a model that was chosen, and what they say."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client.array_batch import ArrayBatch
from serving.client.classification import AnswerOptions, Classification
from serving.client.credentials import Credentials
from serving.client.encoded_batch import EncodedBatch
from serving.client.encoded_contents import EncodedContents
from serving.client.model_cache import ModelCache
from serving.client.protocol import Steps, classification, description

PLAIN_TEXT = Credentials()
REQUESTS_IN_FLIGHT = 4

# Who decodes and prepares encoded images.
Place = Literal["server", "client"]

# The health service's messages in wire form: an empty request asks for the whole server, field 1 = 1 is SERVING. Its
# generated stubs want a protobuf that other clients in the same environment can't live with.
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
SERVING = b"\x08\x01"


class BaseClient:
    """The part of a client that needs not know whether it blocks.

    Args:
        channel: To the server.
        credentials: Metadata of every call.
        model_name: See `Client`.
        model_version: See `Client`.
        max_message_bytes: See `Client`.
    """

    def __init__(
        self, channel: Any, credentials: Credentials, *, model_name: str, model_version: int, max_message_bytes: int
    ) -> None:
        self._channel = channel
        self._metadata = credentials.metadata
        self._stub: Any = digits_pb2_grpc.DigitClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        self._selection = digits_pb2.GetModelRequest(model_name=model_name, model_version=model_version)
        self._max_message_bytes = max_message_bytes
        self._known = ModelCache()

    def _describe(self) -> Steps[digits_pb2.GetModelResponse]:
        return description(self._selection, self._known)

    def _classify(self, images: npt.NDArray[np.uint8], options: AnswerOptions) -> Steps[Classification]:
        make = partial(ArrayBatch, images, max_message_bytes=self._max_message_bytes, options=options)
        return classification(make, self._selection, self._known)

    def _classify_encoded(
        self, contents: EncodedContents, prepare: Place, options: AnswerOptions
    ) -> Steps[Classification]:
        make = partial(
            EncodedBatch,
            contents,
            prepare=prepare == "client",
            max_message_bytes=self._max_message_bytes,
            options=options,
        )
        return classification(make, self._selection, self._known)


def remaining(deadline: float) -> float:
    """How long it is until a moment on the clock of `time.monotonic`, in seconds, at least 0."""
    return max(0.0, deadline - time.monotonic())
