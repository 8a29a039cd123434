"""Labelled images in memory: split into a training and a test set, and brought to one size."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.images.decoding import Uint8Array
from serving.images.geometry import resize
from serving.images.pixel_arrays import ImageShape, size_text
from training.errors import DatasetError

Int64Array = npt.NDArray[np.int64]
Splits = tuple[Uint8Array, Int64Array, Uint8Array, Int64Array]
T = TypeVar("T")

_TEST_FRACTION, _VALIDATION_FRACTION = 0.2, 0.1
_TRAIN, _TEST, _VALIDATION = "train", "test", "validation"
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), _TRAIN),
    **dict.fromkeys(("test", "testing"), _TEST),
    **dict.fromkeys(("validation", "valid", "val", "dev"), _VALIDATION),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """Images with their labels.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`, indices into `label_names`.
        keys: What is the same for an image on every machine: its path in its folder, or its number.
        label_names: Names of the classes.
    """

    images: Uint8Array
    labels: Int64Array
    keys: Sequence[str]
    label_names: tuple[str, ...]

    def split(self) -> Splits:
        """Splits into a training and a test set; the same data always give the same split.

        The images of each class are sorted by the digest of their key. The last fifth of each, at least one image, is
        the test set. In the training set the classes alternate, so that its end, which validates, contains each in
        proportion.

        Returns:
            Training images and labels, test images and labels.
        """
        order = self._order()
        is_test = np.zeros(len(order), dtype=bool)
        for label in range(len(self.label_names)):
            members = order[self.labels[order] == label]
            is_test[members[-max(1, round(len(members) * _TEST_FRACTION)) :]] = True
        train, test = order[~is_test[order]], order[is_test[order]]
        return self.images[train], self.labels[train], self.images[test], self.labels[test]

    def with_test_set(self, test: LabelledImages) -> Splits:
        """Returns these images as the training set, beside a test set.

        They keep their order, unless their end, which validates, lacks a class; then they are sorted as in `split`.

        Raises:
            DatasetError: The images of the two sets have different sizes.
        """
        if self.images.shape[1:] != test.images.shape[1:]:
            sizes = [size_text(each.images.shape[1:]) for each in (self, test)]
            raise DatasetError(
                f"images of {sizes[0]} to train on but {sizes[1]} to test; --image-size HEIGHTxWIDTHxCHANNELS resizes "
                "them all"
            )
        end = self.labels[len(self.labels) - max(1, int(len(self.labels) * _VALIDATION_FRACTION)) :]
        order = slice(None) if {*end} == {*self.labels} else self._order()
        return self.images[order], self.labels[order], test.images, test.labels

    def _order(self) -> Int64Array:
        """Positions of the images, each class sorted by digests and spread evenly from the first to the last."""
        digests = [hashlib.sha256(key.encode()).digest() for key in self.keys]
        order = np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)
        place = np.empty(len(order))
        for label in range(len(self.label_names)):
            members = order[self.labels[order] == label]
            place[members] = (np.arange(len(members)) + 0.5) / max(1, len(members))
        return order[np.argsort(place[order], kind="stable")]


def split_of(name: str) -> str | None:
    """Returns the split that a name stands for: `train`, `test` or `validation`; None if it is the name of none."""
    return next((_SPLIT_WORDS[word] for word in re.split(r"[\W\d_]+", name.lower()) if word in _SPLIT_WORDS), None)


def by_split(names: Mapping[str, T]) -> tuple[list[T], list[T]] | None:
    """Sorts what has the names of splits into training and test parts.

    With a test part, a validation part belongs to the training part, whose end validates; without one, it is the test
    part.

    Returns:
        The training parts and the test parts; None unless there are both and every name is that of a split.
    """
    parts: dict[str | None, list[T]] = {}
    for name, part in names.items():
        parts.setdefault(split_of(name), []).append(part)
    train, test, validation = (parts.get(split, []) for split in (_TRAIN, _TEST, _VALIDATION))
    if None in parts or not train or not (test or validation):
        return None
    return (train + validation, test) if test else (train, validation)


def stacked(images: Sequence[Uint8Array], names: Sequence[str], where: object) -> Uint8Array:
    """Returns images of one size as one array.

    Raises:
        DatasetError: They have different sizes.
    """
    first = images[0].shape
    for image, name in zip(images, names, strict=True):
        if image.shape != first:
            raise DatasetError(
                f"{where}: images of different sizes: {names[0]} has {size_text(first)}, "
                f"{name} has {size_text(image.shape)}; --image-size HEIGHTxWIDTHxCHANNELS resizes them all"
            )
    return np.stack(images)


def fitted(images: Uint8Array, shape: ImageShape | None) -> Uint8Array:
    """Returns images in another size and with other channels, as they would be read from files.

    Args:
        images: uint8 `[n, height, width, channels]`.
        shape: The new height, width and channels; None to leave the images as they are.
    """
    if shape is None or images.shape[1:] == tuple(shape):
        return images
    if images.shape[3] != shape[2]:
        images = images.repeat(3, axis=3) if shape[2] == 3 else np.stack([_gray(image) for image in images])
    return np.stack([resize(image, *shape[:2]) for image in images])


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the labels that occur, each once: sorted as numbers if all are whole numbers, else as text."""
    names = set(labels)
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _gray(image: Uint8Array) -> Uint8Array:
    return np.asarray(Image.fromarray(image).convert("L"), np.uint8)[..., np.newaxis]
