"""Encoded images as requests: sent as files, or decoded and prepared here and sent as raw pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.rpc import error_details_pb2

from protos.digits.v1 import digits_pb2
from serving.client.classification import UNSURE, AnswerOptions, Classification, known_statuses
from serving.client.encoded_images import Content, EncodedImages
from serving.client.request_batch import ENVELOPE_BYTES, RequestBatch
from serving.errors import InvalidImage
from serving.images.files import read_image_file
from serving.images.image_status import ImageStatus
from serving.images.preparation import Preparation, PreparedImage

# Tag and length of an image in a request, and the size of a response's `preparations` without the pixels.
_FIELD_BYTES = 8
_PREPARATION_BYTES = 512
# Responses stay below the message limit that gRPC clients have by default.
_MAX_RESPONSE_BYTES = 3 << 20


class EncodedBatch(RequestBatch):
    """The requests for any number of encoded images. An image that can't be read does not fail the others.

    Args:
        images: The images.
        model: See `RequestBatch`.
        selection: See `RequestBatch`.
        prepare: Whether to decode and prepare the images here and send raw pixels.
        max_message_bytes: See `RequestBatch`; a larger image has a request of its own, if the server accepts it.
        options: See `RequestBatch`.
    """

    reads = True

    def __init__(
        self,
        images: EncodedImages,
        model: digits_pb2.GetModelResponse,
        selection: digits_pb2.GetModelRequest,
        *,
        prepare: bool,
        max_message_bytes: int,
        options: AnswerOptions,
    ) -> None:
        super().__init__(model, selection, max_message_bytes=max_message_bytes, options=options)
        self._images = images
        self._preparation = model_preparation(model) if prepare else None
        self._count = 0
        self._errors: dict[int, str] = {}
        self._preparations: dict[int, PreparedImage] = {}
        self._noticed: dict[int, ImageStatus] = {}  # by the preparation here, if it is here
        self._sent: list[list[int]] = []  # the indices of the images in each request

    @property
    def repeatable(self) -> bool:
        """See `RequestBatch.repeatable`."""
        return self._images.repeatable

    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """See `RequestBatch.requests`."""
        images: list[bytes | PreparedImage] = []
        indices: list[int] = []
        size = 0
        for index, encoded in enumerate(self._images):
            self._count = index + 1
            largest = self._model.max_message_bytes - ENVELOPE_BYTES
            try:
                image = self._read(encoded)
                image_bytes = image.pixels.nbytes if isinstance(image, PreparedImage) else len(image) + _FIELD_BYTES
                if image_bytes > largest:
                    raise InvalidImage(f"{image_bytes} bytes, but the server takes {largest}")
            except InvalidImage as error:
                self._errors[index] = str(error)
                continue
            limit = min(self._max_message_bytes - ENVELOPE_BYTES, largest)
            if images and (len(images) >= self._max_rows or size + image_bytes > limit):
                yield self._request(images, indices)
                images, indices, size = [], [], 0
            images.append(image)
            indices.append(index)
            size += image_bytes
        if images:
            yield self._request(images, indices)

    def use_version(self, model: digits_pb2.GetModelResponse) -> bool:
        """See `RequestBatch.use_version`."""
        if self._preparation is not None and not _same_preparation(model, self._model):
            return False
        return super().use_version(model)

    def answer(self) -> Classification:
        """See `RequestBatch.answer`."""
        labels = np.full(self._count, UNSURE, np.int64)
        confidences = np.zeros(self._count, np.float32)
        probabilities = np.zeros((self._count, len(self._model.labels)), np.float32)
        statuses = np.zeros(self._count, np.int64)
        shape = (self._model.height, self._model.width, self._model.channels)
        for indices, response in zip(self._sent, self._responses, strict=True):
            labels[indices] = response.labels
            statuses[indices] = response.statuses or ImageStatus.DIGIT
            confidences[indices] = response.confidences
            if self._options.probabilities:
                probabilities[indices] = np.asarray(response.probabilities, np.float32).reshape(len(indices), -1)
            for error in response.errors:
                self._errors[indices[error.index]] = _description(error)
            for index, prepared in zip(indices, response.preparations, strict=False):
                if prepared.pixels:
                    self._preparations[index] = PreparedImage(
                        pixels=np.frombuffer(prepared.pixels, np.uint8).reshape(shape),
                        steps=tuple(prepared.steps),
                        height=prepared.height,
                        width=prepared.width,
                    )
        for index, status in self._noticed.items():
            statuses[index] = status
            if self._options.only_digits:
                labels[index] = UNSURE
        return Classification(
            labels=labels,
            confidences=confidences,
            probabilities=probabilities if self._options.probabilities else None,
            model_name=self._model.model_name,
            model_version=self._model.model_version,
            label_names=tuple(self._model.labels),
            statuses=known_statuses(statuses.tolist()),
            errors=self._errors,
            preparations=self._preparations,
        )

    @property
    def _max_rows(self) -> int:
        """The most images that fit into one request and its response."""
        model = self._model
        row_bytes = 8 * len(model.labels)
        if self._options.explain:
            row_bytes += model.height * model.width * model.channels + _PREPARATION_BYTES
        return max(1, min(model.max_images_per_request, _MAX_RESPONSE_BYTES // row_bytes))

    def _read(self, encoded: Content) -> bytes | PreparedImage:
        """Reads an image and, if asked to, decodes and prepares it as the server would."""
        content = read_image_file(encoded, self._model.max_message_bytes) if isinstance(encoded, Path) else encoded
        if isinstance(content, InvalidImage):
            raise content
        return content if self._preparation is None else self._preparation.decode(content)

    def _request(self, images: list[bytes | PreparedImage], indices: list[int]) -> digits_pb2.ClassifyRequest:
        self._sent.append(indices)
        request = self._new_request()
        request.per_image_errors = True
        if self._preparation is None:
            request.encoded_images.images.extend(image for image in images if isinstance(image, bytes))
            return request
        prepared = [image for image in images if isinstance(image, PreparedImage)]
        raw = request.raw_images
        raw.pixels, raw.count = b"".join(image.pixels.tobytes() for image in prepared), len(prepared)
        raw.height, raw.width, raw.channels = prepared[0].pixels.shape
        for index, image in zip(indices, prepared, strict=True):
            if image.status is not ImageStatus.DIGIT:
                self._noticed[index] = image.status
            if self._options.explain:
                self._preparations[index] = image
        return request


def model_preparation(model: digits_pb2.GetModelResponse) -> Preparation:
    """Returns how the server prepares encoded images for a model."""
    return Preparation(
        kind=model.preparation,
        height=model.height,
        width=model.width,
        channels=model.channels,
        max_pixels=model.max_image_pixels,
    )


def _same_preparation(one: digits_pb2.GetModelResponse, other: digits_pb2.GetModelResponse) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("preparation", "height", "width", "channels"))


def _description(error: digits_pb2.ImageError) -> str:
    """Returns what is wrong with an image, without its index in a request, which the caller does not know."""
    for packed in error.status.details:
        detail = error_details_pb2.BadRequest()
        if packed.Unpack(detail) and detail.field_violations:
            return str(detail.field_violations[0].description)
    return str(error.status.message)
