"""An array of images as requests with raw pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.client.classification import AnswerOptions, Classification, known_statuses
from serving.client.request_batch import ENVELOPE_BYTES, RequestBatch
from serving.errors import InvalidImage
from serving.images.pixel_arrays import to_images

# Modes of Pillow's images whose values are pixels: black and white, gray, colour.
_MODES = ("1", "L", "RGB")


class ArrayBatch(RequestBatch):
    """The requests for an array of images.

    Args:
        images: uint8 `[n, height, width, channels]`, or what `serving.images.pixel_arrays.to_images` makes of it.
        model: See `RequestBatch`.
        selection: See `RequestBatch`.
        max_message_bytes: See `RequestBatch`.
        options: See `RequestBatch`.
        make_request: See `RequestBatch`.

    Raises:
        TypeError: The images are no numbers.
        ValueError: The images do not have the size that the model takes, or their values leave a doubt.
    """

    def __init__(
        self,
        images: npt.NDArray[Any],
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
            statuses=known_statuses(
                number for response in self._responses for number in response.statuses or [0] * len(response.labels)
            ),
        )


def as_array(images: object) -> npt.NDArray[Any]:
    """Returns images of any kind as one array, which is not yet checked.

    Args:
        images: An array, or images one by one: arrays, nested lists, or Pillow's images of mode 1, L or RGB.

    Raises:
        TypeError: They are files, or images whose pixels are not what they show.
        ValueError: They have different sizes.
    """
    if isinstance(images, np.ndarray):
        return images
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview):
        raise TypeError(
            "images must be arrays of pixels; classify_files takes paths, classify_encoded takes the bytes of files"
        )
    alone = not isinstance(images, list | tuple | Iterator)
    given: list[Any] = [images] if alone else list(images)  # type: ignore[call-overload]
    for image in given:
        # A palette's indices, and colours with a transparent background, are no pixels. Mode is an attribute of others.
        mode = image.mode if hasattr(image, "getbands") else "L"
        if mode not in _MODES:
            raise TypeError(f"an image of Pillow's with mode {mode} leaves a doubt: convert it to L or RGB")
    try:
        arrays = [np.asarray(image) for image in given]
        if len({array.dtype.kind for array in arrays}) > 1:  # stacked, True would become 1, which is almost black
            raise TypeError("images of several types leave a doubt: give them all as uint8, or all as floats")
        return arrays[0] if alone else np.asarray(arrays)
    except ValueError as error:
        raise ValueError("images must all have the same size") from error


def _checked(images: npt.NDArray[Any], model: digits_pb2.GetModelResponse) -> npt.NDArray[np.uint8]:
    """Returns images as uint8 `[n, height, width, channels]` of the model's size."""
    shape = (model.height, model.width, model.channels)
    if images.shape == (0,):  # an empty list
        return np.empty((0, *shape), np.uint8)
    if images.dtype == np.uint8 and images.shape[1:] == shape:  # returned without a copy
        return images
    if images.dtype.kind not in "buif":
        raise TypeError(f"images must be numbers from 0 to 255, not {images.dtype}")
    try:
        return to_images(images, shape)
    except InvalidImage as error:
        raise ValueError(f"images must be uint8 [n, {', '.join(map(str, shape))}]: {error}") from error


def _joined(parts: list[Any], dtype: Any) -> Any:
    return np.concatenate([np.empty(0, dtype), *(np.asarray(part, dtype) for part in parts)])
