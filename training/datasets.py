"""Data sets in memory: MNIST from its IDX files, digits drawn by the project, or a folder of your own images."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import DatasetError
from training.folder import read_folder
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

    @cached_property
    def sha256(self) -> str:
        """Digest of all shapes, pixels and labels: equal for equal data, however they were stored."""
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
        source: `mnist` or `synthetic`; each with the suffix `-odd-even` for these two classes; or `folder:PATH`, a
            directory with a sub-directory of images for each class.
        data_dir: Directory with MNIST's four IDX files, plain or gzipped. By default they are downloaded once into the
            user's cache directory.
        image_shape: Height, width and channels to which a folder's images are resized; by default they keep their own,
            which must be the same for all.
        skip_unreadable: Leave out unreadable files of a folder, with a warning, instead of refusing the folder.

    Raises:
        DatasetError: The name is unknown, a file is missing, damaged or not MNIST's, or the folder is not a data set.
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
    """Downloads those of MNIST's four files that are missing; only complete, verified files reach the cache.

    Args:
        cache_dir: Directory for the files; by default in the user's cache directory.
        mirrors: Base URLs, tried in turn.

    Returns:
        The directory with the four gzipped files.

    Raises:
        DatasetError: No mirror has the right bytes. Names the option that reads local files.
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
        "name their directory with --data-dir or MNIST_DIR; or train with --data synthetic"
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
    path = Path(source.removeprefix("folder:"))
    folder = read_folder(path, image_shape=image_shape, skip_unreadable=skip_unreadable)
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
    raise DatasetError(
        f"{directory}: neither {name} nor {name}.gz is there; name the right directory with --data-dir or MNIST_DIR"
    )


def _read_verified(path: Path, name: str) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: truncated or not a gzip file; delete it and fetch it again") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
        raise DatasetError(
            f"{path}: not MNIST's {name} (its sha256 differs from the published file's); delete it and fetch it again"
        )
    return content


def _parse_idx(content: bytes, path: Path) -> Uint8Array:
    """Parses the IDX format: two zero bytes, the type (8 = uint8), the rank, big-endian sizes, then the bytes."""
    zeros, kind, rank = struct.unpack_from(">HBB", content)
    if zeros or kind != 8:
        raise DatasetError(f"{path}: not an IDX file of bytes")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


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
