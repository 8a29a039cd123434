"""The classifier of a batch: decode, infer, scores. It works the same in a thread, through a server and on Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.files import read_image_file
from serving.images.preparation import Preparation
from serving.score.batch import (
    MAX_IMAGE_BYTES,
    Batch,
    Encoded,
    ScoredBatch,
    Scores,
    ScoringModel,
    Uint8Array,
    Unreadable,
)


class BatchClassifier(ABC):
    """Classifies one batch at a time; sub-classes say what runs the model.

    Attributes:
        model: The model that decides how images are prepared.
    """

    model: ScoringModel

    def classify(self, batch: Batch) -> ScoredBatch:
        """Decodes a batch and classifies what could be decoded.

        Raises:
            ScoringStopped: There is no answer, even after retries.
        """
        images, indices, errors = decode_batch(batch, self.model.preparation)
        if len(images):
            scores = self.infer(images)
        else:
            scores = Scores(
                model=self.model,
                labels=np.empty(0, np.int64),
                confidences=np.empty(0, np.float32),
                probabilities=np.empty((0, len(self.model.labels)), np.float32),
            )
        return ScoredBatch(ids=batch.ids, expected=batch.expected, indices=indices, errors=errors, scores=scores)

    @abstractmethod
    def infer(self, images: Uint8Array) -> Scores:
        """Runs the model on uint8 `[m, height, width, channels]`, m at least 1."""


def decode_batch(batch: Batch, preparation: Preparation) -> tuple[Uint8Array, npt.NDArray[np.int64], dict[int, str]]:
    """Decodes and prepares the images of a batch, as servers do; raw pixels stay as they are.

    Args:
        batch: n images.
        preparation: How the model needs them.

    Returns:
        The m images that could be decoded, uint8 `[m, height, width, channels]`; their indices among the n, int64
        `[m]`; and by index what is wrong with each of the others.
    """
    if isinstance(batch.images, np.ndarray):
        if not batch.errors:
            return batch.images, np.arange(len(batch)), {}
        readable = np.setdiff1d(np.arange(len(batch)), list(batch.errors))
        return batch.images[readable], readable, dict(batch.errors)
    pixels, indices, errors = [], [], {}
    for index, image in enumerate(batch.images):
        try:
            pixels.append(preparation.decode(_content(image)).pixels)
            indices.append(index)
        except InvalidImage as error:
            errors[index] = str(error)
        except Exception as error:  # noqa: BLE001 - one bad image must not fail the others
            errors[index] = f"damaged image ({type(error).__name__})"
    shape = (preparation.height, preparation.width, preparation.channels)
    return np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8), np.array(indices, np.int64), errors


def _content(image: Encoded) -> bytes:
    if isinstance(image, Unreadable):
        raise InvalidImage(image.reason)
    content = read_image_file(image, MAX_IMAGE_BYTES, recipient="digits-score") if isinstance(image, Path) else image
    if isinstance(content, InvalidImage):
        raise content
    return content
