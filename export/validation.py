"""The validation images of a trained network: those that training held out, and what the served network answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from export.answers import answers_of
from serving.inference.engine import Engine
from serving.repository.manifest import ValidationAnswers
from training.datasets import Dataset

if TYPE_CHECKING:
    from export.trained_model import TrainedModel


def validation_part(trained: TrainedModel, data: Dataset) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images and labels at the end of the training images, held out by the training; none if its record names none."""
    recorded = trained.record["data"]
    fitted, held_out = recorded.get("train_images"), recorded.get("validation_images")
    if not isinstance(fitted, int) or not isinstance(held_out, int) or fitted + held_out > len(data.train_images):
        return data.train_images[:0], data.train_labels[:0]
    part = slice(fitted, fitted + held_out)
    return data.train_images[part], data.train_labels[part]


def validation_answers(
    engine: Engine, images: npt.NDArray[np.uint8], *, threshold: float | None = None
) -> ValidationAnswers | None:
    """Has the engine that serves answer.

    Args:
        engine: A started engine with the exported model.
        images: uint8 `[n, height, width, channels]`.
        threshold: Of the output `no_digit`; None for a model without it.

    Returns:
        Its answers, summed up; None if there are no images.
    """
    if len(images) == 0:
        return None
    found = answers_of(engine, images)
    probabilities, no_digit = found.probabilities, found.no_digit
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return ValidationAnswers(
        images=len(images),
        labels=tuple((counts / len(images)).tolist()),
        confidence=float(probabilities.max(axis=1).mean(dtype=np.float64)),
        no_digit=None if no_digit is None or threshold is None else float((no_digit > threshold).mean()),
    )
