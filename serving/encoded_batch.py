"""A batch of encoded images as the requests that carry it, and their responses as one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from google.rpc import error_details_pb2

from protos.digits.v1 import digits_pb2
from serving.classification import Classification
from serving.errors import InvalidImage
from serving.preparation import Preparation, PreparedImage

# A file's bytes; or what was made of them here; or why there are none.
Item = bytes | PreparedImage | InvalidImage

_ENVELOPE_BYTES = 1024
# Tag and length of an image in a request, and what a response tells of it beside pixels.
_FIELD_BYTES = 8
_STEPS_BYTES = 512
# Answers are kept below what gRPC's clients take by default.
_MAX_ANSWER_BYTES = 3 << 20


def prepared_here(
    contents: Iterable[bytes | InvalidImage], model: digits_pb2.GetModelResponse
) -> Iterator[PreparedImage | InvalidImage]:
    """Decodes and prepares images as the server would, one at a time as they are asked for."""
    preparation = Preparation(
        kind=model.preparation,
        height=model.height,
        width=model.width,
        channels=model.channels,
        max_pixels=model.max_image_pixels,
    )
    for content in contents:
        if isinstance(content, InvalidImage):
            yield content
            continue
        try:
            yield preparation.decode(content)
        except InvalidImage as error:
            yield error


class EncodedBatch:
    """The requests for images of any number, made as they are sent, and the answer made of their responses.

    Args:
        items: The images.
        model: What the server said of its model.
        selection: Name and version of the model, as the caller chose them.
        max_message_bytes: A request of several images is kept below this many bytes; an image that is larger goes by
            itself, if the server takes it.
        include_probabilities: Whether to ask for the probability of every label.
        min_confidence: Below it, 0 to 1, labels are -1; None for never.
        explain: Whether to ask what was made of each image.
    """

    def __init__(
        self,
        items: Iterable[Item],
        model: digits_pb2.GetModelResponse,
        selection: digits_pb2.GetModelRequest,
        *,
        max_message_bytes: int,
        include_probabilities: bool,
        min_confidence: float | None,
        explain: bool,
    ) -> None:
        self._items = items
        self._model = model
        self._selection = selection
        self._max_message_bytes = min(max_message_bytes, model.max_message_bytes) - _ENVELOPE_BYTES
        self._max_image_bytes = model.max_message_bytes - _ENVELOPE_BYTES
        self._image_bytes = model.height * model.width * model.channels
        answer_bytes = 8 * len(model.labels) + (self._image_bytes + _STEPS_BYTES if explain else 0)
        self._rows = max(1, min(model.max_images_per_request, _MAX_ANSWER_BYTES // answer_bytes))
        self._include_probabilities = include_probabilities
        self._min_confidence = min_confidence
        self._explain = explain
        self._count = 0
        self._errors: dict[int, str] = {}
        self._preparations: dict[int, PreparedImage] = {}
        self._sent: list[list[int]] = []  # for each request, the places of its images
        self._responses: list[digits_pb2.ClassifyResponse] = []

    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """The requests, each below the server's limits."""
        images: list[bytes | PreparedImage] = []
        places: list[int] = []
        size = 0
        for place, item in enumerate(self._items):
            self._count = place + 1
            if isinstance(item, InvalidImage):
                self._errors[place] = str(item)
                continue
            item_bytes = self._image_bytes if isinstance(item, PreparedImage) else len(item) + _FIELD_BYTES
            if item_bytes > self._max_image_bytes:
                self._errors[place] = f"{item_bytes} bytes, but the server takes {self._max_image_bytes}"
                continue
            if images and (len(images) == self._rows or size + item_bytes > self._max_message_bytes):
                yield self._request(images, places)
                images, places, size = [], [], 0
            images.append(item)
            places.append(place)
            size += item_bytes
        if images:
            yield self._request(images, places)

    def _request(self, images: list[bytes | PreparedImage], places: list[int]) -> digits_pb2.ClassifyRequest:
        self._sent.append(places)
        request = digits_pb2.ClassifyRequest(
            model_name=self._selection.model_name,
            model_version=self._selection.model_version,
            include_probabilities=self._include_probabilities,
            min_confidence=self._min_confidence,
            per_image_errors=True,
            explain=self._explain,
        )
        for place, image in zip(places, images, strict=True):
            if isinstance(image, PreparedImage):
                request.raw_images.count += 1
                if self._explain:
                    self._preparations[place] = image
            else:
                request.encoded_images.images.append(image)
        if request.raw_images.count:
            pixels = [image.pixels.tobytes() for image in images if isinstance(image, PreparedImage)]
            request.raw_images.pixels = b"".join(pixels)
        return request

    def add(self, response: digits_pb2.ClassifyResponse) -> None:
        """Takes the response to the next request."""
        places = self._sent[len(self._responses)]
        self._responses.append(response)
        for error in response.errors:
            self._errors[places[error.index]] = _description(error)
        shape = (self._model.height, self._model.width, self._model.channels)
        for place, told in zip(places, response.preparations, strict=False):
            if told.pixels:
                self._preparations[place] = PreparedImage(
                    pixels=np.frombuffer(told.pixels, np.uint8).reshape(shape),
                    steps=tuple(told.steps),
                    height=told.height,
                    width=told.width,
                )

    @property
    def answered_by_another_model(self) -> bool:
        """Whether some response came from another model or version than the requests were made for."""
        made_for = (self._model.model_name, self._model.model_version)
        return any((response.model_name, response.model_version) != made_for for response in self._responses)

    def answer(self) -> Classification:
        """All responses as one."""
        last = self._responses[-1] if self._responses else self._model
        labels = np.full(self._count, -1, np.int64)
        confidences = np.zeros(self._count, np.float32)
        probabilities = np.zeros((self._count, len(self._model.labels)), np.float32)
        for places, response in zip(self._sent, self._responses, strict=True):
            labels[places] = response.labels
            confidences[places] = response.confidences
            if self._include_probabilities:
                probabilities[places] = np.asarray(response.probabilities, np.float32).reshape(len(places), -1)
        return Classification(
            labels=labels,
            confidences=confidences,
            probabilities=probabilities if self._include_probabilities else None,
            model_name=last.model_name,
            model_version=last.model_version,
            errors=self._errors,
            preparations=self._preparations,
        )


def _description(error: digits_pb2.ImageError) -> str:
    """What is wrong with an image, without its place in a request that the caller knows nothing of."""
    for packed in error.status.details:
        detail = error_details_pb2.BadRequest()
        if packed.Unpack(detail) and detail.field_violations:
            return str(detail.field_violations[0].description)
    return str(error.status.message)
