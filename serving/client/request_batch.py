"""A batch of images as the requests that carry it, and their responses as one answer. Knows nothing of channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from protos.digits.v1 import digits_pb2
from serving.client.classification import AnswerOptions, Classification

# What a request has beside its images, at most, in bytes.
ENVELOPE_BYTES = 1024


class RequestBatch(ABC):
    """One attempt to have images classified: requests made for one description of a model, answered by one version.

    Args:
        model: What the server said of its model.
        selection: Name and version that the requests ask for.
        max_message_bytes: A request of several images is kept below this many bytes.
        options: What is asked for.

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
    ) -> None:
        self._model = model
        self._selection = selection
        self._max_message_bytes = max_message_bytes
        self._options = options
        self._responses: list[digits_pb2.ClassifyResponse] = []

    @property
    def repeatable(self) -> bool:
        """Whether the same images can be had again for another attempt."""
        return True

    @property
    def answered_by(self) -> tuple[str, int] | None:
        """Name and version of the model that made the first response; None before there is one."""
        if not self._responses:
            return None
        return self._responses[0].model_name, self._responses[0].model_version

    @abstractmethod
    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """The requests, each below the server's limits."""

    def add(self, response: digits_pb2.ClassifyResponse) -> None:
        """Takes the response to the next request."""
        self._responses.append(response)

    def settle(self, model: digits_pb2.GetModelResponse) -> bool:
        """Has all further requests ask for the version that made the first response.

        Returns:
            False where the images were prepared for a version that wants them otherwise, so that its answer is none.
        """
        self._model, self._selection = model, selection_of(model)
        return True

    @abstractmethod
    def answer(self) -> Classification:
        """All responses as one; `settle` was called where there are any."""

    def _new_request(self) -> digits_pb2.ClassifyRequest:
        """A request without images."""
        return digits_pb2.ClassifyRequest(
            model_name=self._selection.model_name,
            model_version=self._selection.model_version,
            include_probabilities=self._options.probabilities,
            min_confidence=self._options.min_confidence,
            explain=self._options.explain,
        )


def selection_of(model: digits_pb2.GetModelResponse) -> digits_pb2.GetModelRequest:
    """What asks for exactly this version."""
    return digits_pb2.GetModelRequest(model_name=model.model_name, model_version=model.model_version)
