"""The client of `digits.v1` that blocks; `serving.client.async_client` has the one for asyncio.

Images of any number are split into requests below the server's limits, several of which are on their way at a time; one
version of the model answers all of them. Calls that find the server unavailable are repeated by gRPC itself, up to four
times within about three seconds, as the service config says; a full queue is waited for exactly as long as the server
asks.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from protos.digits.v1 import digits_pb2
from serving.client.base_client import (
    HEALTH_WATCH,
    PLAIN_TEXT,
    REQUESTS_IN_FLIGHT,
    SERVING,
    BaseClient,
    Place,
    remaining,
)
from serving.client.call_errors import CallFailed, call_failed, pause_before_retry
from serving.client.channel_options import channel_options
from serving.client.classification import AnswerOptions, Classification
from serving.client.credentials import Credentials
from serving.client.encoded_contents import FileContents, GivenContents
from serving.client.protocol import Classify, Describe, Steps
from serving.errors import InvalidImage

_T = TypeVar("_T")


class Client(BaseClient):
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
        credentials: Credentials = PLAIN_TEXT,
        model_name: str = "",
        model_version: int = 0,
        max_message_bytes: int = 4 << 20,
    ) -> None:
        super().__init__(
            credentials.channel(address, channel_options(max_message_bytes)),
            credentials,
            model_name=model_name,
            model_version=model_version,
            max_message_bytes=max_message_bytes,
        )

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
        watch: Any = self._channel.unary_stream(HEALTH_WATCH)
        try:
            for health in watch(b"", timeout=timeout_s, metadata=self._metadata, wait_for_ready=True):
                if health == SERVING:
                    return
        except grpc.RpcError as error:
            raise call_failed(error) from error
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server stopped reporting its health")

    def get_model(self, timeout_s: float = 30.0) -> digits_pb2.GetModelResponse:
        """Asks for the model's labels, input size, limits and proof.

        Raises:
            CallFailed: The server refused the call or could not be reached within the time, in seconds.
        """
        return self._carry_out(self._describe(), timeout_s)

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
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence)
        return self._carry_out(self._classify(images, options), timeout_s)

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
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence, explain=explain)
        return self._carry_out(self._classify_encoded(FileContents(paths), prepare, options), timeout_s)

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
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence, explain=explain)
        return self._carry_out(self._classify_encoded(GivenContents(contents), prepare, options), timeout_s)

    def _carry_out(self, steps: Steps[_T], timeout_s: float) -> _T:
        """Takes the steps of a conversation, all within the time."""
        deadline = time.monotonic() + timeout_s
        following = partial(next, steps)
        while True:
            try:
                step = following()
            except StopIteration as ended:
                result: _T = ended.value
                return result
            try:
                following = partial(steps.send, self._take(step, deadline))
            except CallFailed as error:
                following = partial(steps.throw, error)

    def _take(self, step: Describe | Classify, deadline: float) -> Any:
        if isinstance(step, Describe):
            call = self._begin(self._stub.GetModel, step.request, deadline)
            return self._finish(call, self._stub.GetModel, step.request, deadline)
        classify = self._stub.Classify
        in_flight: deque[tuple[Any, Any, digits_pb2.ClassifyRequest]] = deque()
        try:
            for request in step.requests:
                if len(in_flight) == REQUESTS_IN_FLIGHT:
                    step.take(self._finish(*in_flight.popleft(), deadline))
                in_flight.append((self._begin(classify, request, deadline), classify, request))
            while in_flight:
                step.take(self._finish(*in_flight.popleft(), deadline))
        finally:
            for call, _, _ in in_flight:
                call.cancel()
        return None

    def _begin(self, method: Any, request: Message, deadline: float) -> Any:
        return method.future(request, timeout=remaining(deadline), metadata=self._metadata)

    def _finish(self, call: Any, method: Any, request: Message, deadline: float) -> Any:
        """Waits for a call's answer; makes it anew as often as the server asks."""
        while True:
            try:
                return call.result()
            except grpc.RpcError as error:
                time.sleep(pause_before_retry(error, remaining(deadline)))
            call = self._begin(method, request, deadline)
