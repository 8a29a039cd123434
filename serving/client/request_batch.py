"""A batch of images as requests, and their responses as one answer. Makes no calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from protos.digits.v1 import digits_pb2
from serving.client.classification import AnswerOptions, Classification

# The most that a request holds in addition to its images, in bytes.
ENVELOPE_BYTES = 1024


class RequestBatch(ABC):
    """One attempt to classify images: requests made for one model version, and the responses.

    Args:
        model: The model that the requests are made for.
        selection: Name and version that the requests ask for.
        max_message_bytes: Requests with several images stay below this many bytes.
        options: What the answer should contain.
        make_request: Makes an empty request. A stream makes it in the message that carries it, which saves a copy.

    Attributes:
        reads: Whether making requests reads or decodes files, which takes a while.
    """

    reads = False

    def __init__(
        self,
        model: digits_pb2.GetModelResponse,
        selection: digits_pb2.GetModelRequest,
        *,
        max_message_bytes: int,
        options: AnswerOptions,
        make_request: Callable[[], digits_pb2.ClassifyRequest] = digits_pb2.ClassifyRequest,
    ) -> None:
        self._model = model
        self._selection = selection
        self._max_message_bytes = max_message_bytes
        self._options = options
        self._make_request = make_request
        self._responses: list[digits_pb2.ClassifyResponse] = []

    @property
    def repeatable(self) -> bool:
        """Whether the images can be read again for another attempt."""
        return True

    @property
    def answered_by(self) -> tuple[str, int] | None:
        """Name and version of the model in the first response; None before the first response."""
        if not self._responses:
            return None
        return self._responses[0].model_name, self._responses[0].model_version

    @abstractmethod
    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """Makes the requests one by one, each within the server's limits."""

    def add(self, response: digits_pb2.ClassifyResponse) -> None:
        """Takes the response to the next request."""
        self._responses.append(response)

    def use_version(self, model: digits_pb2.GetModelResponse) -> bool:
        """Makes all further requests ask for the version that answered the first one.

        Returns:
            False if that version needs images prepared in another way, so that its response is wrong.
        """
        self._model, self._selection = model, version_request(model)
        return True

    @abstractmethod
    def answer(self) -> Classification:
        """Joins all responses. If there are any, `use_version` must have been called."""

    def _new_request(self) -> digits_pb2.ClassifyRequest:
        """Makes a request without images."""
        request = self._make_request()
        request.model_name = self._selection.model_name
        request.model_version = self._selection.model_version
        request.include_probabilities = self._options.probabilities
        if self._options.min_confidence is not None:
            request.min_confidence = self._options.min_confidence
        request.only_digits = self._options.only_digits
        request.explain = self._options.explain
        return request


def version_request(model: digits_pb2.GetModelResponse) -> digits_pb2.GetModelRequest:
    """Makes a request for exactly this version."""
    return digits_pb2.GetModelRequest(model_name=model.model_name, model_version=model.model_version)
