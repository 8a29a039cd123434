"""Data sets in memory: MNIST, digits drawn by the project, or your own images in a folder or in files."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.images.pixel_arrays import ImageShape
from serving.images.preparation import looks_like_mnist
from training.data_files import find_files, read_files
from training.errors import DatasetError
from training.folder import read_folder
from training.mnist_files import download_mnist, read_mnist
from training.synthetic import draw_digits

Uint8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

SOURCES = ("mnist", "synthetic", "mnist-odd-even", "synthetic-odd-even", "folder:PATH", "file:PATH")

_DIGIT_NAMES = tuple(str(digit) for digit in range(10))
# Of the first images of your own data, most must look like MNIST's if scans are to be prepared as for MNIST.
_SAMPLE, _MOST = 1000, 0.9
_SYNTHETIC_TRAIN, _SYNTHETIC_TEST = 6_000, 1_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels of one classification problem, split into a training and a test set.

    Attributes:
        source: The name that loads it again, of the form of one of `SOURCES`.
        preparation: How a server prepares images for such a network, as in the manifest: `mnist` or `resize`.
        train_images: uint8 `[n, height, width, channels]`.
        train_labels: int64 `[n]`, indices into `label_names`.
        test_images: uint8 `[m, height, width, channels]`.
        test_labels: int64 `[m]`.
        label_names: Name of each class, in the order of the network's outputs.
        options: Further arguments of `load` that decide the content of the data.

    Raises:
        DatasetError: The labels don't match the images or the names.
    """

    source: str
    preparation: str
    train_images: Uint8Array
    train_labels: Int64Array
    test_images: Uint8Array
    test_labels: Int64Array
    label_names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if len(images) != len(labels):
                raise DatasetError(f"{self.source}: {len(images)} {part} images but {len(labels)} labels")
            strange = labels[(labels < 0) | (labels >= len(self.label_names))]
            if len(strange):
                known = f"0 to {len(self.label_names) - 1}"
                raise DatasetError(f"{self.source}: a {part} label is {strange[0]}, but names exist for {known}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def has_mnist_digits(self) -> bool:
        """Whether these are the ten digits, laid out as MNIST's, whatever their source."""
        return self.preparation == "mnist" and self.image_shape == (28, 28, 1) and self.label_names == _DIGIT_NAMES

    @cached_property
    def sha256(self) -> str:
        """Digest of all shapes, pixels and labels: equal for equal data, however they were stored."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def own_source(source: str) -> str | None:
    """Returns the full name of a source that is somebody's own data: `folder:PATH`, or `file:PATH` for files.

    The prefix may be left out. None for the data sets that have names, and for what is neither a path nor a pattern.
    """
    if source.startswith(("folder:", "file:")):
        return source
    if source in SOURCES or not (Path(source).exists() or glob.has_magic(source) or "." in source or "/" in source):
        return None
    path = Path(source)
    has_parquet = any(next(folder.glob("*.parquet"), None) for folder in (path, path / "data"))
    return f"folder:{source}" if path.is_dir() and not has_parquet else f"file:{source}"


def load(
    source: str,
    *,
    data_dir: Path | None = None,
    image_shape: tuple[int, int, int] | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """Loads a data set by name.

    Args:
        source: `mnist` or `synthetic`; each with the suffix `-odd-even` for these two classes; `folder:PATH`, a
            directory with a sub-directory of images for each class; or `file:PATH`, a table or an .npz file with images
            and labels, or a pattern for several. The prefix may be left out.
        data_dir: Directory with MNIST's files; see `read_mnist`. By default they are downloaded once into the user's
            cache directory.
        image_shape: Height, width and channels to which your own images are resized; by default they keep their own,
            which must be the same for all.
        skip_unreadable: Leave out unreadable images of yours, with a warning, instead of refusing the data.

    Raises:
        DatasetError: The name is unknown, a file is missing, damaged or not MNIST's, or your data are no data set.
    """
    family, odd_even = source.removesuffix("-odd-even"), source.endswith("-odd-even")
    if own := own_source(source):
        return _own(own, image_shape, skip_unreadable)
    if family == "mnist":
        data = _mnist(data_dir or download_mnist())
    elif family == "synthetic":
        data = _synthetic()
    else:
        raise DatasetError(f"no data set {source!r}; known are {', '.join(SOURCES)}")
    if not odd_even:
        return data
    return replace(
        data,
        source=source,
        train_labels=data.train_labels % 2,
        test_labels=data.test_labels % 2,
        label_names=("even", "odd"),
    )


def _mnist(directory: Path) -> Dataset:
    arrays = read_mnist(directory)
    return Dataset(
        source="mnist",
        preparation="mnist",
        train_images=arrays["train-images-idx3-ubyte"][..., np.newaxis],
        train_labels=arrays["train-labels-idx1-ubyte"].astype(np.int64),
        test_images=arrays["t10k-images-idx3-ubyte"][..., np.newaxis],
        test_labels=arrays["t10k-labels-idx1-ubyte"].astype(np.int64),
        label_names=_DIGIT_NAMES,
    )


def _own(source: str, image_shape: ImageShape | None, skip_unreadable: bool) -> Dataset:
    kind, _, place = source.partition(":")
    path = Path(place)
    if kind == "folder":
        splits, names = read_folder(path, image_shape=image_shape, skip_unreadable=skip_unreadable)
    else:
        splits, names = read_files(find_files(path), image_shape=image_shape, skip_unreadable=skip_unreadable)
    train_images, train_labels, test_images, test_labels = splits
    return Dataset(
        source=source,
        preparation="mnist" if kind == "file" and _laid_out_as_mnist(train_images) else "resize",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        label_names=names,
        options={"image_shape": train_images.shape[1:], "skip_unreadable": skip_unreadable},
    )


def _laid_out_as_mnist(images: Uint8Array) -> bool:
    """Whether scans must be brought into MNIST's layout for a network that learns from these images."""
    if images.shape[1:] != (28, 28, 1):
        return False
    sample = images[:_SAMPLE, :, :, 0]
    return sum(map(looks_like_mnist, sample)) >= _MOST * len(sample)


@cache  # drawing takes seconds
def _synthetic() -> Dataset:
    train_images, train_labels = draw_digits(_SYNTHETIC_TRAIN, seed=1)
    test_images, test_labels = draw_digits(_SYNTHETIC_TEST, seed=2)
    return Dataset(
        source="synthetic",
        preparation="mnist",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        label_names=_DIGIT_NAMES,
    )
