"""One ClassifyStream call to one server: a request, its response, the next request."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import protocol
from serving.client.array_batch import ArrayBatch
from serving.client.call_errors import CallFailed, call_failed
from serving.client.classification import AnswerOptions
from serving.client.credentials import Credentials
from serving.client.encoded_batch import model_preparation
from serving.client.model_cache import ModelCache
from serving.client.protocol import Classify, GetModel, Step
from serving.score.batch import Scores, ScoringModel, Uint8Array

# Every server accepts messages of 4 MiB.
_MAX_MESSAGE_BYTES = 4 << 20
_GET_MODEL_TIMEOUT_S = 20.0

# The stream has no deadline, so only pings can tell a server that vanished from one that is busy.
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, which another worker process may get
]


class Stream:
    """Classifies through one server, one request at a time. Used by one thread, closed by any.

    Args:
        address: `host:port`.
        credentials: TLS and token.
        model_name: The model to use; by default the server's default model.
        model_version: The version to use; 0 for the current one.
        probabilities: Whether to request the probability of every label.
    """

    def __init__(
        self, address: str, credentials: Credentials, *, model_name: str, model_version: int, probabilities: bool
    ) -> None:
        self._selection = digits_pb2.GetModelRequest(model_name=model_name, model_version=model_version)
        self._options = AnswerOptions(probabilities=probabilities)
        self._cache = ModelCache()
        self._metadata = credentials.metadata
        self._channel = credentials.endpoint(address, _OPTIONS).channel()
        self._stub: Any = digits_pb2_grpc.DigitClassifierServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._requests: queue.SimpleQueue[digits_pb2.ClassifyStreamRequest | None] = queue.SimpleQueue()
        self._message = digits_pb2.ClassifyStreamRequest()
        self._responses: Any = None

    def get_model(self) -> ScoringModel:
        """Asks the server for the model.

        Raises:
            CallFailed: The server can't be reached or refused the call.
        """
        return _scoring_model(protocol.run(protocol.get_model(self._selection, self._cache), self._perform))

    def infer(self, images: Uint8Array) -> Scores:
        """Classifies uint8 `[m, height, width, channels]` with one version of the model, in one or more requests.

        Raises:
            CallFailed: The server refused or went away. After that, the stream can't be used any more.
            ValueError: The model now takes images of another size.
        """
        make_batch = partial(
            ArrayBatch,
            images,
            max_message_bytes=_MAX_MESSAGE_BYTES,
            options=self._options,
            make_request=self._make_request,
        )
        answer = protocol.run(protocol.classify(make_batch, self._selection, self._cache), self._perform)
        model = self._cache.current
        assert model is not None  # noqa: S101 - the model that answered
        return Scores(
            model=_scoring_model(model),
            labels=answer.labels,
            confidences=answer.confidences,
            probabilities=answer.probabilities,
            statuses=np.array(answer.statuses, np.int64) if any(answer.statuses) else None,
        )

    def close(self) -> None:
        """Closes the connection."""
        self._requests.put(None)
        self._channel.close()

    def _perform(self, step: Step) -> Any:
        try:
            if isinstance(step, GetModel):
                return self._stub.GetModel(step.request, timeout=_GET_MODEL_TIMEOUT_S, metadata=self._metadata)
            assert isinstance(step, Classify)  # noqa: S101
            for _ in step.requests:
                step.receive(self._exchange())
        except grpc.RpcError as error:
            raise call_failed(error) from error
        return None

    def _make_request(self) -> digits_pb2.ClassifyRequest:
        """Makes the request of the next message, in that message."""
        self._message = digits_pb2.ClassifyStreamRequest()
        return self._message.request

    def _exchange(self) -> digits_pb2.ClassifyResponse:
        """Sends the message whose request was made last, and returns the response."""
        if self._responses is None:
            self._responses = self._stub.ClassifyStream(self._outgoing(), metadata=self._metadata)
        self._requests.put(self._message)
        try:
            answer: digits_pb2.ClassifyStreamResponse = next(self._responses)
        except StopIteration:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server ended the stream") from None
        if answer.HasField("error"):
            code = next(code for code in grpc.StatusCode if code.value[0] == answer.error.code)
            # Without the violations: with them, the protocol would switch to another version instead of stopping.
            raise CallFailed(code, answer.error.message)
        return answer.response

    def _outgoing(self) -> Iterator[digits_pb2.ClassifyStreamRequest]:
        while (message := self._requests.get()) is not None:
            yield message


def _scoring_model(model: digits_pb2.GetModelResponse) -> ScoringModel:
    return ScoringModel(
        name=model.model_name,
        version=model.model_version,
        sha256=model.sha256,
        labels=tuple(model.labels),
        preparation=model_preparation(model),
        precision=model.precision or "float32",  # earlier releases do not say
    )
