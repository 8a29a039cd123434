"""The methods of both clients. What differs, how calls are made, is in `client` and `async_client`.

Any number of images is split into requests within the server's limits, a few of which are in flight at a time. One
version of the model answers them all.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

import numpy.typing as npt

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import protocol
from serving.client.array_batch import ArrayBatch, as_array
from serving.client.classification import AnswerOptions, Classification
from serving.client.credentials import Credentials
from serving.client.encoded_batch import EncodedBatch
from serving.client.encoded_images import EncodedImage, EncodedImages
from serving.client.model_cache import ModelCache
from serving.client.protocol import Steps
from serving.client.retry import channel_options

PLAIN_TEXT = Credentials()
REQUESTS_IN_FLIGHT = 4

# Who decodes and prepares encoded images.
Place = Literal["server", "client"]

# The health service in wire format: an empty request asks about the whole server, field 1 = 1 means SERVING. Its
# generated stubs need a protobuf that other clients in the same environment can't use.
_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
SERVING = b"\x08\x01"


class Connection:
    """A channel and the calls that are made on it.

    Args:
        channel: A channel of grpc, or one of grpc.aio.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.stub: Any = digits_pb2_grpc.DigitClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        self.watch_health: Any = channel.unary_stream(_HEALTH_WATCH)


# What the methods return: the plain result, or a coroutine for it.
_Classified = TypeVar("_Classified")
_Model = TypeVar("_Model")
_Nothing = TypeVar("_Nothing")


class BaseClient(ABC, Generic[_Classified, _Model, _Nothing]):
    """Calls a server.

    Args:
        address: `host:port`, or `host` for port 50051, or `unix:path`; see `serving.client.endpoint.dialled`.
        credentials: TLS and token; by default plain text and no token.
        model_name: The model to use; by default the server's default model.
        model_version: The version to use; 0 for the current one.
        max_message_bytes: Requests stay below this many bytes. 4 MiB is the default limit of gRPC servers.

    Raises:
        InvalidConfig: The address is none, or a token would go to another machine in plain text.
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
        self._endpoint = credentials.endpoint(address, channel_options(max_message_bytes))
        self._metadata = credentials.metadata
        self._selection = digits_pb2.GetModelRequest(model_name=model_name, model_version=model_version)
        self._max_message_bytes = max_message_bytes
        self._cache = ModelCache()
        self._open()

    def wait_until_serving(self, timeout_s: float = 30.0) -> _Nothing:
        """Waits until the server reports SERVING, even if it has not started yet.

        Args:
            timeout_s: How long to wait, in seconds.

        Raises:
            CallFailed: The server did not report SERVING within the time, or it is stopping.
        """
        return self._run(protocol.wait_until_serving(), timeout_s)

    def get_model(self, timeout_s: float = 30.0) -> _Model:
        """Gets the model's labels, input size, limits and proof.

        Args:
            timeout_s: How long to try, in seconds.

        Raises:
            CallFailed: The server refused the call or could not be reached within the time.
        """
        return self._run(protocol.get_model(self._selection, self._cache), timeout_s)

    def classify(
        self,
        images: npt.ArrayLike | Iterable[Any],
        *,
        probabilities: bool = False,
        min_confidence: float | None = None,
        only_digits: bool = False,
        timeout_s: float = 30.0,
    ) -> _Classified:
        """Classifies images.

        Args:
            images: uint8 `[n, height, width]` for a grayscale model, or `[n, height, width, channels]`; any n, also 0.
                Other arrays, lists of images, and images of Pillow's are taken if there is only one way to read them;
                see `serving.images.pixel_arrays`.
            probabilities: Whether to return the probability of every label.
            min_confidence: An image whose most probable label is less probable than this, 0 to 1, gets the label -1.
            only_digits: Whether an image with a status gets the label -1: an empty page, several digits, no digit.
            timeout_s: Time limit for the whole batch, in seconds.

        Raises:
            TypeError: The images are no numbers.
            ValueError: The images do not have the model's size, or their values leave a doubt.
            CallFailed: A request failed; there is no result for the others.
        """
        options = AnswerOptions(probabilities=probabilities, min_confidence=min_confidence, only_digits=only_digits)
        make_batch = partial(ArrayBatch, as_array(images), max_message_bytes=self._max_message_bytes, options=options)
        return self._run(protocol.classify(make_batch, self._selection, self._cache), timeout_s)

    def classify_files(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        prepare: Place = "server",
        probabilities: bool = False,
        min_confidence: float | None = None,
        only_digits: bool = False,
        explain: bool = False,
        timeout_s: float = 30.0,
    ) -> _Classified:
        """Classifies image files. Each is read when it is sent; one that can't be read is in the answer's `errors`.

        Args:
            paths: One file, or any number of files, with any names.
            prepare: See `classify_encoded`.
            probabilities: Whether to return the probability of every label.
            min_confidence: See `classify`.
            only_digits: See `classify`.
            explain: Whether to return how each image was prepared.
            timeout_s: Time limit for all files, in seconds.

        Raises:
            TypeError: Something is not a path.
            CallFailed: A request failed; there is no result for the others.
        """
        options = AnswerOptions(
            probabilities=probabilities, min_confidence=min_confidence, only_digits=only_digits, explain=explain
        )
        return self._run(self._classify_encoded(_as_paths(paths), prepare, options), timeout_s)

    def classify_encoded(
        self,
        contents: EncodedImage | Iterable[EncodedImage],
        *,
        prepare: Place = "server",
        probabilities: bool = False,
        min_confidence: float | None = None,
        only_digits: bool = False,
        explain: bool = False,
        timeout_s: float = 30.0,
    ) -> _Classified:
        """Classifies encoded images: PNG, JPEG, WebP, BMP, TIFF or GIF, of any size up to the server's limits.

        Args:
            contents: The bytes of one file, or of any number of files, taken as they are sent: bytes, bytearrays,
                memoryviews or flat arrays of uint8. An `InvalidImage` stands for a file that could not be read.
                `AsyncClient` iterates and prepares them on another thread.
            prepare: Who decodes and prepares the images: the server, or the client, which uses the same code and sends
                raw pixels.
            probabilities: Whether to return the probability of every label.
            min_confidence: See `classify`.
            only_digits: See `classify`.
            explain: Whether to return how each image was prepared.
            timeout_s: Time limit for all images, in seconds.

        Raises:
            TypeError: Something is not bytes.
            CallFailed: A request failed; there is no result for the others. An image that can't be read is in the
                answer's `errors` instead.
        """
        options = AnswerOptions(
            probabilities=probabilities, min_confidence=min_confidence, only_digits=only_digits, explain=explain
        )
        return self._run(self._classify_encoded(contents, prepare, options), timeout_s)

    def _classify_encoded(
        self, images: EncodedImage | Iterable[EncodedImage], prepare: Place, options: AnswerOptions
    ) -> Steps[Classification]:
        make_batch = partial(
            EncodedBatch,
            EncodedImages(images),
            prepare=prepare == "client",
            max_message_bytes=self._max_message_bytes,
            options=options,
        )
        return (yield from protocol.classify(make_batch, self._selection, self._cache))

    @abstractmethod
    def _open(self) -> None:
        """Makes the connection, or prepares for making it later."""

    @overload
    def _run(self, steps: Steps[Classification], timeout_s: float) -> _Classified: ...
    @overload
    def _run(self, steps: Steps[digits_pb2.GetModelResponse], timeout_s: float) -> _Model: ...
    @overload
    def _run(self, steps: Steps[None], timeout_s: float) -> _Nothing: ...
    @abstractmethod
    def _run(self, steps: Any, timeout_s: float) -> Any:
        """Performs the steps of a conversation within the time, in seconds."""


def _as_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Returns the paths. A single one is not taken for a sequence of letters."""
    if isinstance(paths, bytes | bytearray | memoryview):
        raise TypeError("classify_files takes paths; classify_encoded takes the bytes of files")
    return map(Path, (paths,) if isinstance(paths, str | os.PathLike) else paths)


def remaining(deadline: float) -> float:
    """Returns the time until a deadline on the clock of `time.monotonic`, in seconds, at least 0."""
    return max(0.0, deadline - time.monotonic())
