"""Augmentation: each epoch sees every training image once, a little shifted, turned and scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Bounds of the random changes, each drawn evenly between minus and plus its bound.

    Attributes:
        shift_px: Up, down, left and right, in whole pixels.
        rotation_deg: Around the middle, in degrees.
        scale: Relative size: 0.1 for 90 to 110 %.
    """

    shift_px: int = 0
    rotation_deg: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        if self.shift_px < 0 or self.rotation_deg < 0 or not 0 <= self.scale < 1:
            raise ValueError("bounds of an augmentation must not be negative, and scale must be below 1")

    def apply(self, images: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Changes each image by an affine map of its own; what comes in from outside is background.

        Args:
            images: uint8 `[n, height, width, channels]`.
            generator: Source of the maps.

        Returns:
            uint8 of the same shape.
        """
        if self == Augmentation():
            return images
        count, height, width = images.shape[:3]
        angle = np.radians(generator.uniform(-self.rotation_deg, self.rotation_deg, count))
        size = 1 + generator.uniform(-self.scale, self.scale, count)
        shift = generator.integers(-self.shift_px, self.shift_px, (2, count), endpoint=True)
        cosine, sine = np.cos(angle) / size, np.sin(angle) / size
        # From a pixel of the result to its place in the original: around the middle, behind the shift.
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        x, y = middle_x + shift[0], middle_y + shift[1]
        zero = np.zeros(count)
        maps = np.stack(
            [
                cosine,
                -sine,
                middle_x - cosine * x + sine * y,
                sine,
                cosine,
                middle_y - sine * x - cosine * y,
                zero,
                zero,
            ],
            axis=1,
        )
        changed: npt.NDArray[np.float32] = tf.raw_ops.ImageProjectiveTransformV3(
            images=images.astype(np.float32),  # on bytes the operation cuts off in place of rounding
            transforms=tf.constant(maps, tf.float32),
            output_shape=tf.constant([height, width]),
            fill_value=tf.constant(0.0),
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        ).numpy()
        return np.rint(changed).astype(np.uint8)


class AugmentedBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The training part, in another order and changed in another way each epoch, both decided by the seed.

    Args:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`.
        augmentation: The random changes.
        batch_size: Images a step; the last step of an epoch takes what is left.
        seed: Of order and changes.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[Any],
        *,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._images = images
        self._labels = labels
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._order = self._shuffled()

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
        members = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        generator = np.random.default_rng([self._seed, self._epoch, index])
        return self._augmentation.apply(self._images[members], generator), self._labels[members]

    def on_epoch_end(self) -> None:
        """Begins the next epoch's order."""
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self._seed, self._epoch]).permutation(len(self._images))
