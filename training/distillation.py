"""Distillation: a small network learns what a larger one says of every image, beside the image's label.

Source: Geoffrey Hinton, Oriol Vinyals and Jeff Dean, "Distilling the Knowledge in a Neural Network", 2015. The larger
network's probabilities, softened, tell which other classes an image resembles. It is asked about a fixed number of
changed copies of every image before training begins, since asking it in each epoch would take most of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from training.augmentation import Augmentation

FloatArray = npt.NDArray[np.float32]

_CHUNK = 2000


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a recipe takes from a teacher.

    Attributes:
        teacher: Architecture of the network that is learnt from.
        share: Of the teacher's word in what is learnt, from 0 to 1; the label has the rest.
        temperature: Softens the teacher's probabilities: their logits are divided by it.
        copies: Changed copies of each image, one of which is used in each epoch.
    """

    teacher: str
    share: float
    temperature: float
    copies: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.temperature <= 0 or self.copies < 1:
            raise ValueError("share must lie between 0 and 1, temperature above 0, and copies be at least 1")

    def targets(self, probabilities: FloatArray, labels: npt.NDArray[Any]) -> FloatArray:
        """What a network is to say of images.

        Args:
            probabilities: float32 `[n, classes]`, the teacher's.
            labels: int64 `[n]`.

        Returns:
            float32 `[n, classes]`, each row adding up to 1.
        """
        softened = np.maximum(probabilities, 1e-8) ** (1 / self.temperature)
        softened /= softened.sum(axis=1, keepdims=True)
        return self.share * softened + (1 - self.share) * one_hot(labels, probabilities.shape[1])


class TaughtBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The training part with a teacher's word on it: in another order and another copy each epoch, decided by the seed.

    Args:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`.
        teacher: Gives float32 `[n, classes]` probabilities for such images.
        distillation: What is taken from it.
        augmentation: The random changes of the copies.
        batch_size: Images a step; the last step of an epoch takes what is left.
        seed: Of order and changes.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[Any],
        *,
        teacher: keras.Model,
        distillation: Distillation,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._copies = np.empty((distillation.copies, *images.shape), np.uint8)
        targets = []
        for number, copy in enumerate(self._copies):
            generator = np.random.default_rng([seed, number])
            for start in range(0, len(images), _CHUNK):
                copy[start : start + _CHUNK] = augmentation.apply(images[start : start + _CHUNK], generator)
            targets.append(distillation.targets(teacher.predict(copy, batch_size=256, verbose=0), labels))
        self._targets = np.stack(targets)
        self._order = self._shuffled()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], FloatArray]:
        members = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        copies = (members + self._epoch) % len(self._copies)
        return self._copies[copies, members], self._targets[copies, members]

    def on_epoch_end(self) -> None:
        """Begins the next epoch's order."""
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self._seed, self._epoch]).permutation(self._copies.shape[1])


def one_hot(labels: npt.NDArray[Any], classes: int) -> FloatArray:
    """Labels int64 `[n]` as float32 `[n, classes]`."""
    rows: FloatArray = np.eye(classes, dtype=np.float32)[labels]
    return rows
