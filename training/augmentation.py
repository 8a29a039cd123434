"""Augmentation: each epoch sees every training image once, a little shifted, turned, scaled and bent."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

FloatArray = npt.NDArray[np.float32]


# Random fields of a batch's images are picked from so many, each smoothed over so many pixels.
_FIELDS, _SMOOTH_PX = 1000, 4.0


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Bounds of the random changes, each drawn evenly between minus and plus its bound.

    Attributes:
        shift_px: Up, down, left and right, in whole pixels.
        rotation_deg: Around the middle, in degrees.
        scale: Relative size: 0.1 for 90 to 110 %.
        elastic_px: How far pixels move in a smooth random field of each image's own, root mean square, in pixels. After
            Simard, Steinkraus and Platt, Best Practices for Convolutional Neural Networks, 2003.
    """

    shift_px: int = 0
    rotation_deg: float = 0.0
    scale: float = 0.0
    elastic_px: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shift_px, self.rotation_deg, self.elastic_px) < 0 or not 0 <= self.scale < 1:
            raise ValueError("bounds of an augmentation must not be negative, and scale must be below 1")

    def apply(self, images: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Changes each image by a map of its own; what comes in from outside is background.

        Args:
            images: uint8 `[n, height, width, channels]`.
            generator: Source of the maps.

        Returns:
            uint8 of the same shape.
        """
        if self == Augmentation():
            return images
        count, height, width = images.shape[:3]

        def draw(bound: float) -> FloatArray:
            return generator.uniform(-bound, bound, (count, 1, 1)).astype(np.float32)

        angle, size = np.radians(draw(self.rotation_deg)), 1 + draw(self.scale)
        shift = generator.integers(-self.shift_px, self.shift_px, (2, count, 1, 1), endpoint=True)
        cosine, sine = np.cos(angle) / size, np.sin(angle) / size
        # From a pixel of the result to its place in the original: around the middle, behind the shift.
        middle_x, middle_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        y, x = y - middle_y - shift[1].astype(np.float32), x - middle_x - shift[0].astype(np.float32)
        y, x = sine * x + cosine * y + middle_y, cosine * x - sine * y + middle_x
        if self.elastic_px:
            fields = _elastic_fields(height, width)
            picked = fields[generator.integers(len(fields), size=(2, count))]
            moves = picked * generator.choice(
                np.array([-self.elastic_px, self.elastic_px], np.float32), (2, count, 1, 1)
            )
            y, x = y + moves[0], x + moves[1]
        return _sample(images, y, x)


@functools.cache
def _elastic_fields(height: int, width: int) -> FloatArray:
    """Smooth random fields of root mean square 1, float32 `[n, height, width]`; the same in every run."""
    margin = round(2 * _SMOOTH_PX)  # beyond which the filter's treatment of borders is not felt
    noise = np.random.default_rng(0).standard_normal((_FIELDS, height + 2 * margin, width + 2 * margin), np.float32)
    fields = gaussian_filter(noise, (0, _SMOOTH_PX, _SMOOTH_PX))[:, margin:-margin, margin:-margin]
    scaled: FloatArray = np.ascontiguousarray(fields / fields.std())
    return scaled


def _sample(images: npt.NDArray[np.uint8], y: FloatArray, x: FloatArray) -> npt.NDArray[np.uint8]:
    """Reads images between their pixels, bilinearly.

    Args:
        images: uint8 `[n, height, width, channels]`.
        y: float32 `[n, height, width]`, the row to read for each pixel.
        x: The column, likewise.
    """
    count, height, width, channels = images.shape
    bordered = np.zeros((count, height + 2, width + 2, channels), np.float32)
    bordered[:, 1:-1, 1:-1] = images
    # Whatever lies further outside than the border is background too.
    y, x = np.clip(y + 1, 0, height + 0.999), np.clip(x + 1, 0, width + 0.999)
    row, column = y.astype(np.int64), x.astype(np.int64)
    below, right = (y - row)[..., np.newaxis], (x - column)[..., np.newaxis]
    pixels = bordered.reshape(-1, channels)
    here = (np.arange(count)[:, np.newaxis, np.newaxis] * (height + 2) + row) * (width + 2) + column
    above = pixels[here] * (1 - right) + pixels[here + 1] * right
    beneath = pixels[here + width + 2] * (1 - right) + pixels[here + width + 3] * right
    read: npt.NDArray[np.uint8] = np.rint(above * (1 - below) + beneath * below).astype(np.uint8)
    return read


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
