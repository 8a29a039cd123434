"""A batch of encoded images as the requests that carry it, and their responses as one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from google.rpc import error_details_pb2

from protos.digits.v1 import digits_pb2
from serving.client.classification import UNSURE, AnswerOptions, Classification
from serving.client.encoded_contents import EncodedContents
from serving.client.request_batch import ENVELOPE_BYTES, RequestBatch
from serving.errors import InvalidImage
from serving.images.preparation import Preparation, PreparedImage

# A file's bytes; or what was made of them here; or why there are none.
Item = bytes | PreparedImage | InvalidImage

# Tag and length of an image in a request, and what a response tells of it beside pixels.
_FIELD_BYTES = 8
_STEPS_BYTES = 512
# Answers are kept below what gRPC's clients take by default.
_MAX_ANSWER_BYTES = 3 << 20


def _prepared_here(
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


class EncodedBatch(RequestBatch):
    """The requests for encoded images of any number, made as they are sent. One that can't be read fails alone.

    Args:
        contents: The images.
        model: See `RequestBatch`.
        selection: See `RequestBatch`.
        prepare: Whether they are decoded and prepared here, and go as raw pixels.
        max_message_bytes: See `RequestBatch`; an image that is larger goes by itself, if the server takes it.
        options: See `RequestBatch`.
    """

    reads = True

    def __init__(
        self,
        contents: EncodedContents,
        model: digits_pb2.GetModelResponse,
        selection: digits_pb2.GetModelRequest,
        *,
        prepare: bool,
        max_message_bytes: int,
        options: AnswerOptions,
    ) -> None:
        super().__init__(model, selection, max_message_bytes=max_message_bytes, options=options)
        self._contents = contents
        self._prepare = prepare
        self._count = 0
        self._errors: dict[int, str] = {}
        self._preparations: dict[int, PreparedImage] = {}
        self._sent: list[list[int]] = []  # for each request, the places of its images

    @property
    def repeatable(self) -> bool:
        """See `RequestBatch.repeatable`."""
        return self._contents.repeatable

    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """See `RequestBatch.requests`."""
        images: list[bytes | PreparedImage] = []
        places: list[int] = []
        size = 0
        for place, item in enumerate(self._items()):
            self._count = place + 1
            if isinstance(item, InvalidImage):
                self._errors[place] = str(item)
                continue
            largest = self._model.max_message_bytes - ENVELOPE_BYTES
            item_bytes = item.pixels.nbytes if isinstance(item, PreparedImage) else len(item) + _FIELD_BYTES
            if item_bytes > largest:
                self._errors[place] = f"{item_bytes} bytes, but the server takes {largest}"
                continue
            limit = min(self._max_message_bytes - ENVELOPE_BYTES, largest)
            if images and (len(images) >= self._rows or size + item_bytes > limit):
                yield self._request(images, places)
                images, places, size = [], [], 0
            images.append(item)
            places.append(place)
            size += item_bytes
        if images:
            yield self._request(images, places)

    def settle(self, model: digits_pb2.GetModelResponse) -> bool:
        """See `RequestBatch.settle`."""
        if self._prepare and not _prepared_alike(model, self._model):
            return False
        return super().settle(model)

    def answer(self) -> Classification:
        """See `RequestBatch.answer`."""
        labels = np.full(self._count, UNSURE, np.int64)
        confidences = np.zeros(self._count, np.float32)
        probabilities = np.zeros((self._count, len(self._model.labels)), np.float32)
        for places, response in zip(self._sent, self._responses, strict=True):
            labels[places] = response.labels
            confidences[places] = response.confidences
            if self._options.probabilities:
                probabilities[places] = np.asarray(response.probabilities, np.float32).reshape(len(places), -1)
            for error in response.errors:
                self._errors[places[error.index]] = _description(error)
            for place, told in zip(places, response.preparations, strict=False):
                if told.pixels:
                    self._preparations[place] = self._prepared(told)
        return Classification(
            labels=labels,
            confidences=confidences,
            probabilities=probabilities if self._options.probabilities else None,
            model_name=self._model.model_name,
            model_version=self._model.model_version,
            label_names=tuple(self._model.labels),
            errors=self._errors,
            preparations=self._preparations,
        )

    @property
    def _rows(self) -> int:
        """Images of one request, at most."""
        model = self._model
        answer_bytes = 8 * len(model.labels)
        if self._options.explain:
            answer_bytes += model.height * model.width * model.channels + _STEPS_BYTES
        return max(1, min(model.max_images_per_request, _MAX_ANSWER_BYTES // answer_bytes))

    def _items(self) -> Iterator[Item]:
        contents = self._contents.read(self._model.max_message_bytes)
        return _prepared_here(contents, self._model) if self._prepare else contents

    def _request(self, images: list[bytes | PreparedImage], places: list[int]) -> digits_pb2.ClassifyRequest:
        self._sent.append(places)
        request = self._new_request()
        request.per_image_errors = True
        if not self._prepare:
            request.encoded_images.images.extend(image for image in images if isinstance(image, bytes))
            return request
        prepared = [image for image in images if isinstance(image, PreparedImage)]
        raw = request.raw_images
        raw.pixels, raw.count = b"".join(image.pixels.tobytes() for image in prepared), len(prepared)
        raw.height, raw.width, raw.channels = prepared[0].pixels.shape
        if self._options.explain:
            self._preparations.update(zip(places, prepared, strict=True))
        return request

    def _prepared(self, told: digits_pb2.ImagePreparation) -> PreparedImage:
        shape = (self._model.height, self._model.width, self._model.channels)
        return PreparedImage(
            pixels=np.frombuffer(told.pixels, np.uint8).reshape(shape),
            steps=tuple(told.steps),
            height=told.height,
            width=told.width,
        )


def _prepared_alike(one: digits_pb2.GetModelResponse, other: digits_pb2.GetModelResponse) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("preparation", "height", "width", "channels"))


def _description(error: digits_pb2.ImageError) -> str:
    """What is wrong with an image, without its place in a request that the caller knows nothing of."""
    for packed in error.status.details:
        detail = error_details_pb2.BadRequest()
        if packed.Unpack(detail) and detail.field_violations:
            return str(detail.field_violations[0].description)
    return str(error.status.message)
