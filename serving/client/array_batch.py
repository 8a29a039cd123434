"""An array of images as requests with raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.client.classification import AnswerOptions, Classification
from serving.client.request_batch import ENVELOPE_BYTES, RequestBatch


class ArrayBatch(RequestBatch):
    """The requests for an array of images.

    Args:
        images: uint8 `[n, height, width, channels]`, or `[n, height, width]` for a grayscale model.
        model: See `RequestBatch`.
        selection: See `RequestBatch`.
        max_message_bytes: See `RequestBatch`.
        options: See `RequestBatch`.
        make_request: See `RequestBatch`.

    Raises:
        TypeError: The images are not uint8.
        ValueError: The images do not have the size that the model takes.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        model: digits_pb2.GetModelResponse,
        selection: digits_pb2.GetModelRequest,
        *,
        max_message_bytes: int,
        options: AnswerOptions,
        make_request: Callable[[], digits_pb2.ClassifyRequest] = digits_pb2.ClassifyRequest,
    ) -> None:
        super().__init__(
            model, selection, max_message_bytes=max_message_bytes, options=options, make_request=make_request
        )
        self._images = _checked(images, model)

    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """See `RequestBatch.requests`."""
        _, height, width, channels = self._images.shape
        start = 0
        while start < len(self._images):
            rows = (self._max_message_bytes - ENVELOPE_BYTES) // (height * width * channels)
            part = self._images[start : start + max(1, min(self._model.max_images_per_request, rows))]
            request = self._new_request()
            raw = request.raw_images  # filled in place, which saves a copy of the pixels
            raw.pixels, raw.count = part.tobytes(), len(part)
            # Without the size, a version with another one might accept the same number of bytes.
            raw.height, raw.width, raw.channels = height, width, channels
            start += len(part)
            yield request

    def answer(self) -> Classification:
        """See `RequestBatch.answer`."""
        probabilities = None
        if self._options.probabilities:
            flat = _joined([response.probabilities for response in self._responses], np.float32)
            probabilities = flat.reshape(len(self._images), len(self._model.labels))
        return Classification(
            labels=_joined([response.labels for response in self._responses], np.int64),
            confidences=_joined([response.confidences for response in self._responses], np.float32),
            probabilities=probabilities,
            model_name=self._model.model_name,
            model_version=self._model.model_version,
            label_names=tuple(self._model.labels),
        )


def _checked(images: npt.NDArray[np.uint8], model: digits_pb2.GetModelResponse) -> npt.NDArray[np.uint8]:
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8 from 0 to 255, not {images.dtype}")
    expected = (model.height, model.width, model.channels)
    if images.ndim == 3 and model.channels == 1:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"images must have the shape [n, {', '.join(map(str, expected))}], not {list(images.shape)}")
    return images


def _joined(parts: list[Any], dtype: Any) -> Any:
    return np.concatenate([np.empty(0, dtype), *(np.asarray(part, dtype) for part in parts)])
