"""A folder of images as a data set, with one sub-folder for each class, named after the class."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.decoding import Uint8Array, load_image
from serving.images.geometry import resize
from training.errors import DatasetError

Int64Array = npt.NDArray[np.int64]

_TEST_FRACTION = 0.2
_LISTED = 5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """A folder's images.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`, indices into `label_names`.
        paths: Path of each image, relative to the folder.
        label_names: Names of the sub-folders, sorted.
    """

    images: Uint8Array
    labels: Int64Array
    paths: tuple[str, ...]
    label_names: tuple[str, ...]

    def split(self) -> tuple[Uint8Array, Int64Array, Uint8Array, Int64Array]:
        """Splits into a training and a test set; the same files always give the same split.

        Images are sorted by the digest of their path. The last fifth of each class, at least one image, is the test
        set. The training set keeps that order, so that its end, which validates, contains every class.

        Returns:
            Training images and labels, test images and labels.
        """
        order = np.array(sorted(range(len(self.paths)), key=lambda i: hashlib.sha256(self.paths[i].encode()).digest()))
        is_test = np.zeros(len(order), dtype=bool)
        for label in range(len(self.label_names)):
            members = order[self.labels[order] == label]
            is_test[members[-max(1, round(len(members) * _TEST_FRACTION)) :]] = True
        train, test = order[~is_test[order]], order[is_test[order]]
        return self.images[train], self.labels[train], self.images[test], self.labels[test]


def read_folder(
    path: Path, *, image_shape: tuple[int, int, int] | None = None, skip_unreadable: bool = False
) -> ImageFolder:
    """Reads all images of a folder into memory.

    Args:
        path: The folder.
        image_shape: Height, width and channels to which images are resized, without keeping their proportions. By
            default they keep their own, which must be the same for all.
        skip_unreadable: Leave out files that are not images, with a warning, instead of refusing the folder.

    Raises:
        DatasetError: Fewer than two classes, a class with fewer than two images, unreadable files or different sizes.
    """
    try:
        classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if len(classes) < 2:
        raise DatasetError(f"{path}: {len(classes)} sub-folders, but a data set needs at least two, one for each class")
    images: list[Uint8Array] = []
    labels: list[int] = []
    paths: list[str] = []
    unreadable: list[str] = []
    for label, directory in enumerate(classes):
        for file in sorted(entry for entry in directory.rglob("*") if entry.is_file() and entry.name[0] != "."):
            try:
                image = load_image(file, channels=image_shape[2] if image_shape else None)
            except InvalidImage as error:
                unreadable.append(str(error))
                continue
            images.append(resize(image, *image_shape[:2]) if image_shape else image)
            labels.append(label)
            paths.append(file.relative_to(path).as_posix())
    _check_readable(path, unreadable, skip_unreadable)
    for label, directory in enumerate(classes):
        if labels.count(label) < 2:
            raise DatasetError(f"{directory}: {labels.count(label)} images, but a class needs at least two")
    return ImageFolder(
        images=_stacked(images, paths, path),
        labels=np.array(labels, dtype=np.int64),
        paths=tuple(paths),
        label_names=tuple(directory.name for directory in classes),
    )


def _check_readable(path: Path, unreadable: list[str], skip: bool) -> None:
    if not unreadable:
        return
    listed = "\n  ".join([*unreadable[:_LISTED], *(["…"] if len(unreadable) > _LISTED else [])])
    if not skip:
        raise DatasetError(
            f"{path}: {len(unreadable)} files are not readable images (--skip-unreadable leaves them out):\n  {listed}"
        )
    _logger.warning("%s: left out %d files that are not readable images:\n  %s", path, len(unreadable), listed)


def _stacked(images: list[Uint8Array], paths: list[str], folder: Path) -> Uint8Array:
    first = images[0].shape
    for image, path in zip(images, paths, strict=True):
        if image.shape != first:
            raise DatasetError(
                f"{folder}: images of different sizes: {paths[0]} has {_size(first)}, {path} has {_size(image.shape)}; "
                "--image-size HEIGHTxWIDTHxCHANNELS resizes them all"
            )
    return np.stack(images)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
