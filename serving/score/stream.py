"""One stream to one server: a request, its answer, the next request."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client.call_errors import CallFailed, call_failed
from serving.client.credentials import Credentials
from serving.client.model_cache import ModelCache
from serving.images.preparation import Preparation
from serving.score.batch import Scores, ScoringModel, Uint8Array

# 4 MiB is what servers take at least; the rest of a request is some bytes.
_MAX_PIXEL_BYTES = (4 << 20) - 4096
_OPEN_TIMEOUT_S = 20.0

# Pings tell a machine that vanished from one that thinks; a call without a deadline would wait for ever.
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, which another worker process may get
]


class Stream:
    """Answers of one server, one request at a time. Used by one thread, closed by any.

    Args:
        address: `host:port`.
        credentials: TLS and token.
        model_name: The model to use; the server's default where empty.
        model_version: Its version; the current one where 0.
        probabilities: Whether to ask for the probability of every label.

    Attributes:
        model: What answers, or did when the stream was opened.

    Raises:
        CallFailed: The server can't be reached or refused.
    """

    def __init__(
        self, address: str, credentials: Credentials, *, model_name: str, model_version: int, probabilities: bool
    ) -> None:
        self._selection = digits_pb2.GetModelRequest(model_name=model_name, model_version=model_version)
        self._probabilities = probabilities
        self._metadata = credentials.metadata
        self._channel = credentials.channel(address, _OPTIONS)
        self._stub: Any = digits_pb2_grpc.DigitClassifierServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._requests: queue.SimpleQueue[digits_pb2.ClassifyStreamRequest | None] = queue.SimpleQueue()
        self._known = ModelCache()
        try:
            self.model = _scoring_model(self._get_model(self._selection))
            self._answers: Any = self._stub.ClassifyStream(self._outgoing(), metadata=self._metadata)
        except BaseException:
            self._channel.close()
            raise

    def infer(self, images: Uint8Array) -> Scores:
        """Scores uint8 `[m, height, width, channels]`, in as many requests as the server's limits ask for.

        All are answered by one version: where none was chosen, by the one that answers the first request.

        Raises:
            CallFailed: The server refused, or went away: then this stream is of no more use. ABORTED where that version
                was unloaded meanwhile.
        """
        rows = max(1, min(self._max_rows, _MAX_PIXEL_BYTES // images[0].nbytes))
        responses = [self._ask(images[:rows], self._selection)]
        name, version = responses[0].model_name, responses[0].model_version
        answered_by = digits_pb2.GetModelRequest(model_name=name, model_version=version)
        try:
            responses += [
                self._ask(images[start : start + rows], answered_by) for start in range(rows, len(images), rows)
            ]
            model = _scoring_model(self._known.find(name, version) or self._get_model(answered_by))
        except CallFailed as error:
            if error.code is grpc.StatusCode.NOT_FOUND and not self._selection.model_version:
                raise CallFailed(grpc.StatusCode.ABORTED, f"version {version} of {name!r} was unloaded") from error
            raise
        probabilities = None
        if self._probabilities:
            probabilities = np.concatenate([np.array(r.probabilities, np.float32) for r in responses])
            probabilities = probabilities.reshape(len(images), -1)
        return Scores(
            model=model,
            labels=np.concatenate([np.array(response.labels, np.int64) for response in responses]),
            confidences=np.concatenate([np.array(response.confidences, np.float32) for response in responses]),
            probabilities=probabilities,
        )

    def close(self) -> None:
        """Ends the connection."""
        self._requests.put(None)
        self._channel.close()

    def _ask(self, images: Uint8Array, selection: digits_pb2.GetModelRequest) -> digits_pb2.ClassifyResponse:
        message = digits_pb2.ClassifyStreamRequest()
        request = message.request  # filled in place: making it apart would copy the pixels once more
        request.model_name, request.model_version = selection.model_name, selection.model_version
        raw = request.raw_images
        raw.pixels, raw.count = images.tobytes(), len(images)
        _, raw.height, raw.width, raw.channels = images.shape  # checked there: another version may take another size
        request.include_probabilities = self._probabilities
        self._requests.put(message)
        try:
            answer: digits_pb2.ClassifyStreamResponse = next(self._answers)
        except StopIteration:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server ended the stream") from None
        except grpc.RpcError as error:
            raise call_failed(error) from error
        if answer.HasField("error"):
            code = next(code for code in grpc.StatusCode if code.value[0] == answer.error.code)
            raise CallFailed(code, answer.error.message)
        return answer.response

    def _outgoing(self) -> Iterator[digits_pb2.ClassifyStreamRequest]:
        while (message := self._requests.get()) is not None:
            yield message

    def _get_model(self, selection: digits_pb2.GetModelRequest) -> digits_pb2.GetModelResponse:
        try:
            found: digits_pb2.GetModelResponse = self._stub.GetModel(
                selection, timeout=_OPEN_TIMEOUT_S, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise call_failed(error) from error
        self._known.add(found)
        self._max_rows = found.max_images_per_request
        return found


def _scoring_model(found: digits_pb2.GetModelResponse) -> ScoringModel:
    return ScoringModel(
        name=found.model_name,
        version=found.model_version,
        sha256=found.sha256,
        labels=tuple(found.labels),
        preparation=Preparation(
            kind=found.preparation,
            height=found.height,
            width=found.width,
            channels=found.channels,
            max_pixels=found.max_image_pixels,
        ),
    )
