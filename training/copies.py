"""Changed copies of the training images, made once before training, with the targets that a network learns from them.

To change images in each epoch anew would take longer than the training itself, and so would asking a teacher.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from training.augmentation import Augmentation
from training.corruption import corrupt
from training.datasets import Dataset
from training.distillation import Distillation, one_hot
from training.lettering import draw_hand, draw_print
from training.non_digits import draw_non_digits
from training.recipe import Recipe
from training.sending import sent
from training.styles import add_strokes, enlarge, fit, restyle
from training.variety import Variety

if TYPE_CHECKING:
    import keras

Uint8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

# The label of a picture of no digit.
NO_DIGIT = -1
# Share of the 1s and 7s that get a flag, a foot or a bar, of the sent digits that are restyled first, of the drawn
# digits that are printed, and of the drawn ones that are not sent.
_ADDED, _RESTYLED_FIRST, _PRINTED, _DRAWN_CLEAN = 0.4, 0.6, 0.25, 0.5
# Images that are augmented at once: bounds the memory of their float32 copies.
_CHUNK = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """Copies of a training set.

    Attributes:
        images: uint8 `[copies, n, height, width, channels]`.
        targets: float32 `[copies, n, classes]`; each row sums to 1.
        with_no_digit: Whether there are pictures of no digit, which have a last class of their own.
    """

    images: Uint8Array
    targets: FloatArray
    with_no_digit: bool = False

    def taught_by(self, teacher: keras.Model, distillation: Distillation) -> Copies:
        """Returns the same images with a teacher's share in the targets. Pictures of no digit keep theirs.

        Args:
            teacher: Gives float32 `[n, classes]` probabilities for such images.
            distillation: How a recipe uses the teacher.
        """
        targets, classes = self.targets.copy(), teacher.output_shape[-1]
        for images, rows in zip(self.images, targets, strict=True):
            known = rows[:, :classes].any(axis=1)
            probabilities = teacher.predict(images[known], batch_size=256, verbose=0)
            rows[known, :classes] = distillation.targets(probabilities, rows[known, :classes])
        return replace(self, targets=targets)


def copies_of(dataset: Dataset, *, recipe: Recipe, limit: int | None, seed: int) -> Copies:
    """Makes the copies that a recipe asks for.

    Args:
        dataset: The data. The recipe's variety is used where they are digits laid out as MNIST's.
        recipe: A recipe with copies.
        limit: Use only this many training images, as in `train`.
        seed: Seed of all changes.

    Raises:
        TrainingError: There are too few images.
    """
    fitted = recipe.fitted_images(len(dataset.train_images[:limit]))
    images, labels, classes = dataset.train_images[:fitted], dataset.train_labels[:fitted], len(dataset.label_names)
    seeds = [[seed, number] for number in range(recipe.copies)]
    changed = [_augmented(images, recipe.augmentation, np.random.default_rng(each)) for each in seeds]
    if recipe.variety and dataset.has_mnist_digits:
        arguments = [(copy, images, labels, recipe.variety, each) for copy, each in zip(changed, seeds, strict=True)]
        # Drawing takes one core some minutes. TensorFlow's threads do not survive a fork.
        with multiprocessing.get_context("spawn").Pool(initializer=_end_with_parent) as processes:
            made = processes.starmap(_varied, arguments, chunksize=1)
        rows = [one_hot(np.where(copied == NO_DIGIT, classes, copied), classes + 1) for _, copied in made]
        return Copies(images=np.stack([copy for copy, _ in made]), targets=np.stack(rows), with_no_digit=True)
    return Copies(images=np.stack(changed), targets=np.stack([one_hot(labels, classes)] * len(seeds)))


def _end_with_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends this process as soon as the parent has ended, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _augmented(images: Uint8Array, augmentation: Augmentation, generator: np.random.Generator) -> Uint8Array:
    copy = np.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        copy[start : start + _CHUNK] = augmentation.apply(images[start : start + _CHUNK], generator)
    return copy


def _varied(
    copies: Uint8Array, images: Uint8Array, labels: Int64Array, variety: Variety, seed: list[int]
) -> tuple[Uint8Array, Int64Array]:
    """Makes one copy of a training set of digits.

    Args:
        copies: uint8 `[n, 28, 28, 1]`, augmented. Some stay as they are, some are corrupted.
        images: uint8 `[n, 28, 28, 1]`, of which the other digits are made.
        labels: int64 `[n]`, the digits 0 to 9.
        variety: Shares of the changes.
        seed: Seed of all choices.

    Returns:
        Images, uint8 `[m, 28, 28, 1]`, and labels, int64 `[m]`, some `NO_DIGIT`. The first n belong to `images`.
    """
    generator = np.random.default_rng(seed)
    digits, copies, count = images[..., 0], copies[..., 0], len(images)
    shares = (variety.restyled, variety.sent, variety.corrupted)
    ways = generator.choice(4, count, p=(*shares, 1 - sum(shares)))
    for index in np.flatnonzero(ways <= 1).tolist():
        picture = enlarge(digits[index])
        if ways[index] == 0 or generator.random() < _RESTYLED_FIRST:
            if generator.random() < _ADDED:
                picture = add_strokes(picture, int(labels[index]), generator)
            picture = restyle(picture, generator)
        copied = fit(picture) if ways[index] == 0 else sent(picture, generator)
        copies[index] = copied if copied.any() else fit(picture)  # a picture without ink is no digit
    chosen = np.flatnonzero(ways == 2)
    copies[chosen] = corrupt(copies[chosen], generator)
    drawn_labels = generator.integers(0, 10, round(variety.drawn * count))
    drawn = np.empty((len(drawn_labels), 28, 28), np.uint8)
    for index, digit in enumerate(drawn_labels.tolist()):
        printed = generator.random() < _PRINTED
        picture = draw_print(str(digit), generator) if printed else draw_hand(digit, generator)
        picture = restyle(picture, generator)
        drawn[index] = fit(picture) if generator.random() < _DRAWN_CLEAN else sent(picture, generator)
    strange = draw_non_digits(digits, round(variety.non_digits * count), generator)
    all_labels = np.concatenate([labels, drawn_labels, np.full(len(strange), NO_DIGIT)])
    return np.concatenate([copies, drawn, strange])[..., np.newaxis], all_labels
