"""The classifier of a batch: decode, infer, scores. It works the same in a thread, through a server and on Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.files import read_image_file
from serving.images.image_status import ImageStatus
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


class Classifier(ABC):
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
        decoded = decode_batch(batch, self.model.preparation)
        if len(decoded.images):
            scores = self.infer(decoded.images)
        else:
            scores = Scores(
                model=self.model,
                labels=np.empty(0, np.int64),
                confidences=np.empty(0, np.float32),
                probabilities=np.empty((0, len(self.model.labels)), np.float32),
            )
        if any(decoded.statuses):
            noticed = np.array(decoded.statuses, np.int64)
            if scores.statuses is not None:  # where both noticed something, the preparation's counts
                noticed = np.where(noticed == ImageStatus.DIGIT, scores.statuses, noticed)
            scores = replace(scores, statuses=noticed)
        return ScoredBatch(
            ids=batch.ids, expected=batch.expected, indices=decoded.indices, errors=decoded.errors, scores=scores
        )

    @abstractmethod
    def infer(self, images: Uint8Array) -> Scores:
        """Runs the model on uint8 `[m, height, width, channels]`, m at least 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedBatch:
    """What could be decoded of a batch of n images.

    Attributes:
        images: The m images that could be, uint8 `[m, height, width, channels]`.
        indices: Their indices among the n, int64 `[m]`.
        errors: By index, what is wrong with each of the others.
        statuses: What the preparation noticed about each of the m; empty for raw pixels.
    """

    images: Uint8Array
    indices: npt.NDArray[np.int64]
    errors: dict[int, str] = field(default_factory=dict)
    statuses: list[ImageStatus] = field(default_factory=list)


def decode_batch(batch: Batch, preparation: Preparation) -> DecodedBatch:
    """Decodes and prepares the images of a batch, as servers do; raw pixels stay as they are.

    Args:
        batch: n images.
        preparation: How the model needs them.
    """
    if isinstance(batch.images, np.ndarray):
        if not batch.errors:
            return DecodedBatch(images=batch.images, indices=np.arange(len(batch)))
        readable = np.setdiff1d(np.arange(len(batch)), list(batch.errors))
        return DecodedBatch(images=batch.images[readable], indices=readable, errors=dict(batch.errors))
    pixels, indices, statuses, errors = [], [], [], {}
    for index, image in enumerate(batch.images):
        try:
            prepared = preparation.decode(_content(image))
            pixels.append(prepared.pixels)
            statuses.append(prepared.status)
            indices.append(index)
        except InvalidImage as error:
            errors[index] = str(error)
        except Exception as error:  # noqa: BLE001 - one bad image must not fail the others
            errors[index] = f"damaged image ({type(error).__name__})"
    shape = (preparation.height, preparation.width, preparation.channels)
    return DecodedBatch(
        images=np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8),
        indices=np.array(indices, np.int64),
        errors=errors,
        statuses=statuses,
    )


def _content(image: Encoded) -> bytes:
    if isinstance(image, Unreadable):
        raise InvalidImage(image.reason)
    content = read_image_file(image, MAX_IMAGE_BYTES, recipient="digits-score") if isinstance(image, Path) else image
    if isinstance(content, InvalidImage):
        raise content
    return content
