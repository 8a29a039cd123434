"""Data sets in memory: MNIST from its IDX files, digits drawn here, or a folder of your own images."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.folder import FolderError, read_folder
from training.synthetic import draw_digits

Uint8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

SOURCES = ("mnist", "synthetic", "mnist-odd-even", "synthetic-odd-even", "folder:PATH")

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# sha256 of the decompressed files: mirrors compress them differently.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_DIGIT_NAMES = tuple(str(digit) for digit in range(10))
_SYNTHETIC_TRAIN, _SYNTHETIC_TEST = 6_000, 1_000


class DatasetError(Exception):
    """Data that can't be had or is not what it should be. Names the file and says what to do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels of one classification problem, training and test part apart.

    Attributes:
        source: How to load it again, of the form of one of `SOURCES`.
        options: What else `load` was given that decides what the data are.
        preparation: How other images are made into such, as the manifest has it: `mnist` or `resize`.
        train_images: uint8 `[n, height, width, channels]`.
        train_labels: int64 `[n]`, indices into `label_names`.
        test_images: uint8 `[m, height, width, channels]`.
        test_labels: int64 `[m]`.
        label_names: Name of each class, in the order of the network's outputs.

    Raises:
        DatasetError: Labels that don't match the images or the names.
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
                raise DatasetError(f"{self.source}: a {part} label is {strange[0]}, the names are for {known}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @cached_property
    def sha256(self) -> str:
        """Digest of every shape, pixel and label: equal for equal data, however it was stored."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(
    source: str,
    *,
    data_dir: Path | None = None,
    image_shape: tuple[int, int, int] | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """Loads a data set by name.

    Args:
        source: `mnist` or `synthetic`, either with `-odd-even` behind it for these two classes; or `folder:` and the
            path of a directory with a sub-directory of images for each class.
        data_dir: Directory with MNIST's four IDX files, plain or gzipped. Without it they are downloaded once into
            the user's cache directory.
        image_shape: Height, width and channels that a folder's images are brought to; by default their own, which must
            be the same for all.
        skip_unreadable: Leave a folder's unreadable files out, with a warning, in place of refusing it.

    Raises:
        DatasetError: An unknown name, a file that is missing, damaged or not MNIST's, or a folder that is no data set.
    """
    family, odd_even = source.removesuffix("-odd-even"), source.endswith("-odd-even")
    if source.startswith("folder:"):
        return _folder(source, image_shape, skip_unreadable)
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


def download_mnist(cache_dir: Path | None = None, *, mirrors: tuple[str, ...] = MIRRORS) -> Path:
    """Downloads what is missing of MNIST's four files; each appears in the cache whole and verified, or not at all.

    Args:
        cache_dir: Where the files are kept; the user's cache directory by default.
        mirrors: Base addresses, tried in turn.

    Returns:
        The directory that now holds the four gzipped files.

    Raises:
        DatasetError: No mirror gave the right bytes. Names the option that reads local files instead.
    """
    import pooch

    directory = cache_dir or Path(pooch.os_cache("digits-serving")) / "mnist"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{directory}: can't make the cache directory: {error.strerror}") from error
    for name in MNIST_SHA256:
        if not (directory / f"{name}.gz").exists():
            _download(name, directory, mirrors)
    return directory


def _download(name: str, directory: Path, mirrors: tuple[str, ...]) -> None:
    import pooch

    failures = []
    for mirror in mirrors:
        url = f"{mirror}{name}.gz"
        with tempfile.TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
            try:
                arrived = Path(
                    pooch.retrieve(
                        url,
                        known_hash=None,
                        fname=f"{name}.gz",
                        path=incoming,
                        downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
                    )
                )
                _read_verified(arrived, name)
            except (OSError, ValueError, DatasetError) as error:  # requests' errors are OSErrors
                reason = "not the published bytes" if isinstance(error, DatasetError) else type(error).__name__
                failures.append(f"{url} ({reason})")
                continue
            arrived.replace(directory / arrived.name)
            return
    raise DatasetError(
        f"could not download {name}.gz from {' or '.join(failures)}; if you have MNIST's four files, "
        "name their directory with --data-dir or MNIST_DIR, or train with --data synthetic"
    )


def _mnist(directory: Path) -> Dataset:
    arrays = {}
    for name in MNIST_SHA256:
        path = _find(directory, name)
        arrays[name] = _parse_idx(_read_verified(path, name), path)
    return Dataset(
        source="mnist",
        preparation="mnist",
        train_images=arrays["train-images-idx3-ubyte"][..., np.newaxis],
        train_labels=arrays["train-labels-idx1-ubyte"].astype(np.int64),
        test_images=arrays["t10k-images-idx3-ubyte"][..., np.newaxis],
        test_labels=arrays["t10k-labels-idx1-ubyte"].astype(np.int64),
        label_names=_DIGIT_NAMES,
    )


def _folder(source: str, image_shape: tuple[int, int, int] | None, skip_unreadable: bool) -> Dataset:
    try:
        folder = read_folder(
            Path(source.removeprefix("folder:")), image_shape=image_shape, skip_unreadable=skip_unreadable
        )
    except FolderError as error:
        raise DatasetError(str(error)) from error
    train_images, train_labels, test_images, test_labels = folder.split()
    return Dataset(
        source=source,
        preparation="resize",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        label_names=folder.label_names,
        options={"image_shape": train_images.shape[1:], "skip_unreadable": skip_unreadable},
    )


def _find(directory: Path, name: str) -> Path:
    for candidate in (directory / name, directory / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DatasetError(f"{directory}: neither {name} nor {name}.gz is there (--data-dir or MNIST_DIR names the place)")


def _read_verified(path: Path, name: str) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: truncated or no gzip file; delete it and fetch it again") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
        raise DatasetError(
            f"{path}: not MNIST's {name} (its sha256 differs from the published file's); delete it and fetch it again"
        )
    return content


def _parse_idx(content: bytes, path: Path) -> Uint8Array:
    """The IDX format: two zero bytes, the type (8 = uint8), the rank, big-endian sizes, then the bytes."""
    zeros, kind, rank = struct.unpack_from(">HBB", content)
    if zeros or kind != 8:
        raise DatasetError(f"{path}: no IDX file of bytes")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


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
