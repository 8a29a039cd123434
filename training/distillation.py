"""Knowledge distillation: a small network learns a larger network's probabilities as well as the labels.

Source: Geoffrey Hinton, Oriol Vinyals and Jeff Dean, "Distilling the Knowledge in a Neural Network", 2015. The softened
probabilities of the larger network, the teacher, show which other classes an image resembles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError

if TYPE_CHECKING:
    import keras

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a recipe uses a teacher.

    Attributes:
        teacher: Architecture of the teacher.
        share: Weight of the teacher's probabilities in the targets, above 0 and up to 1; the label has the rest.
        temperature: Softens the teacher's probabilities: their logits are divided by it.
    """

    teacher: str
    share: float
    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.temperature <= 0:
            raise ValueError("share must lie between 0 and 1, and temperature above 0")

    def check(self, teacher: keras.Model | None, *, image_shape: tuple[int, int, int], classes: int) -> None:
        """Raises TrainingError if there is no teacher, or one for other images or another number of classes."""
        if teacher is None:
            raise TrainingError(f"this recipe needs a teacher, {self.teacher}")
        if teacher.input_shape[1:] != image_shape or teacher.output_shape[1:] != (classes,):
            raise TrainingError(
                f"the teacher takes images of {teacher.input_shape[1:]} and has {teacher.output_shape[-1]} classes, "
                f"the data have images of {image_shape} and {classes} classes"
            )

    def targets(self, probabilities: FloatArray, labels: FloatArray) -> FloatArray:
        """Computes the targets that the small network learns.

        Args:
            probabilities: The teacher's, float32 `[n, classes]`.
            labels: The true labels, one-hot, float32 `[n, classes]`.

        Returns:
            float32 `[n, classes]`; each row sums to 1.
        """
        softened = np.maximum(probabilities, 1e-8) ** (1 / self.temperature)
        softened /= softened.sum(axis=1, keepdims=True)
        return self.share * softened + (1 - self.share) * labels


def one_hot(labels: npt.NDArray[Any], classes: int) -> FloatArray:
    """Encodes labels, int64 `[n]`, as float32 `[n, classes]`."""
    rows: FloatArray = np.eye(classes, dtype=np.float32)[labels]
    return rows
