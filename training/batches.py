"""The batches that Keras trains on: every image once per epoch, shuffled and augmented as the seed decides."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from training.augmentation import Augmentation
from training.copies import Copies

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


# Copies are few, and a long run would learn them by heart: each epoch moves each of them a little.
_SHIFT = Augmentation(shift_px=1)


class _ShuffledBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Chooses the images of each batch; a seed and an epoch give an order."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        super().__init__()
        self._count = count
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._shuffle()

    def __len__(self) -> int:
        return math.ceil(self._count / self._batch_size)

    def on_epoch_end(self) -> None:
        """Shuffles for the next epoch."""
        self._epoch += 1
        self._shuffle()

    def _members(self, index: int) -> npt.NDArray[np.int64]:
        return self._order[index * self._batch_size : (index + 1) * self._batch_size]

    def _shuffle(self) -> None:
        self._order = np.random.default_rng([self._seed, self._epoch]).permutation(self._count)


class AugmentedBatches(_ShuffledBatches):
    """Images and labels, augmented anew in each epoch.

    Args:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`.
        augmentation: The random changes.
        batch_size: Images per step; the last step of an epoch takes what is left.
        seed: Seed of the order and the changes.
    """

    def __init__(
        self, images: Uint8Array, labels: npt.NDArray[Any], *, augmentation: Augmentation, batch_size: int, seed: int
    ) -> None:
        super().__init__(len(images), batch_size, seed)
        self._images = images
        self._labels = labels
        self._augmentation = augmentation

    def __getitem__(self, index: int) -> tuple[Uint8Array, npt.NDArray[Any]]:
        members = self._members(index)
        generator = np.random.default_rng([self._seed, self._epoch, index])
        return self._augmentation.apply(self._images[members], generator), self._labels[members]


class CopiedBatches(_ShuffledBatches):
    """Copies of the images that were made before training; each epoch uses one copy of each image, shifted by a pixel.

    Args:
        copies: The copies with their targets.
        batch_size: Images per step.
        seed: Seed of the order and the shifts.
    """

    def __init__(self, copies: Copies, *, batch_size: int, seed: int) -> None:
        super().__init__(copies.images.shape[1], batch_size, seed)
        self._copies = copies

    def __getitem__(self, index: int) -> tuple[Uint8Array, FloatArray]:
        members = self._members(index)
        chosen = (members + self._epoch) % len(self._copies.images)
        generator = np.random.default_rng([self._seed, self._epoch, index])
        images = _SHIFT.apply(self._copies.images[chosen, members], generator)
        return images, self._copies.targets[chosen, members]
