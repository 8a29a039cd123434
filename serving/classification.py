"""A batch of images as the requests that carry it, and their responses as one answer. Knows nothing of channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.preparation import PreparedImage

_ENVELOPE_BYTES = 1024

# The label of an image whose best label is less probable than the caller's min_confidence, and what it is called.
UNSURE = -1
UNSURE_NAME = "unsure"


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """The answers for a batch of images, in the order of the images.

    Attributes:
        labels: int64 `[n]`, the most probable label of each image; -1, `UNSURE`, below `min_confidence`.
        confidences: float32 `[n]`, the probability of the most probable label.
        probabilities: float32 `[n, classes]` where they were asked for, else None.
        model_name: The model that answered.
        model_version: Its version; that of the last image, where a new one was taken up in the middle.
        errors: For encoded images: the places of those that could not be read, each with the reason. Their label is -1
            and their confidence 0.
        preparations: What was made of each of the others, by their places, where that was asked for.
    """

    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None
    model_name: str
    model_version: int
    errors: Mapping[int, str] = field(default_factory=dict)
    preparations: Mapping[int, PreparedImage] = field(default_factory=dict)


class ClassificationBatch:
    """The requests for one batch of images, and the answer made of their responses.

    Args:
        images: uint8 `[n, height, width, channels]`, or `[n, height, width]` for a gray model.
        model: What the server said of its model.
        selection: Name and version of the model, as the caller chose them.
        max_message_bytes: A request is kept below this many bytes.
        include_probabilities: Whether to ask for the probability of every label.
        min_confidence: Below it, 0 to 1, labels are -1; None for never.

    Raises:
        TypeError: The images are not uint8.
        ValueError: They have not the model's size.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        model: digits_pb2.GetModelResponse,
        selection: digits_pb2.GetModelRequest,
        *,
        max_message_bytes: int,
        include_probabilities: bool,
        min_confidence: float | None = None,
    ) -> None:
        self._images = _checked(images, model)
        self._model = model
        self._selection = selection
        self._include_probabilities = include_probabilities
        self._min_confidence = min_confidence
        image_bytes = model.height * model.width * model.channels
        self._rows = max(1, min(model.max_images_per_request, (max_message_bytes - _ENVELOPE_BYTES) // image_bytes))
        self._responses: list[digits_pb2.ClassifyResponse] = []

    def requests(self) -> Iterator[digits_pb2.ClassifyRequest]:
        """The requests, each below the server's limits."""
        for start in range(0, len(self._images), self._rows):
            part = self._images[start : start + self._rows]
            yield digits_pb2.ClassifyRequest(
                model_name=self._selection.model_name,
                model_version=self._selection.model_version,
                raw_images=digits_pb2.RawImages(pixels=part.tobytes(), count=len(part)),
                include_probabilities=self._include_probabilities,
                min_confidence=self._min_confidence,
            )

    def add(self, response: digits_pb2.ClassifyResponse) -> None:
        """Takes the response to the next request."""
        self._responses.append(response)

    @property
    def answered_by_another_model(self) -> bool:
        """Whether some response came from another model or version than the requests were made for."""
        made_for = (self._model.model_name, self._model.model_version)
        return any((response.model_name, response.model_version) != made_for for response in self._responses)

    def answer(self) -> Classification:
        """All responses as one."""
        last = self._responses[-1] if self._responses else self._model
        probabilities = None
        if self._include_probabilities:
            flat = _joined([response.probabilities for response in self._responses], np.float32)
            probabilities = (
                flat.reshape(len(self._images), -1) if flat.size else flat.reshape(0, len(self._model.labels))
            )
        return Classification(
            labels=_joined([response.labels for response in self._responses], np.int64),
            confidences=_joined([response.confidences for response in self._responses], np.float32),
            probabilities=probabilities,
            model_name=last.model_name,
            model_version=last.model_version,
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
