"""MNIST's files: found under the names that people have them by, verified, downloaded if they are missing."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DatasetError

Uint8Array = npt.NDArray[np.uint8]

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

# The arrays of `mnist.npz`, as Keras keeps it, in the place of each file.
_ARRAYS = dict(zip(MNIST_SHA256, ("x_train", "y_train", "x_test", "y_test"), strict=True))
# Below the directory: where torchvision puts the files, and where unpacking puts them.
_FOLDERS = (".", "raw", "MNIST/raw", "MNIST", "mnist")


def read_mnist(directory: Path) -> dict[str, Uint8Array]:
    """Reads MNIST's four files, or `mnist.npz` as Keras keeps it.

    Args:
        directory: The directory with the files, plain or gzipped, also as `train-images.idx3-ubyte`, and in the
            sub-directories `MNIST/raw` or `raw`.

    Returns:
        Images, uint8 `[n, 28, 28]`, and labels, uint8 `[n]`, by the names of the files.

    Raises:
        DatasetError: A file is missing, damaged or not MNIST's.
    """
    if (npz := directory / "mnist.npz").is_file():
        return _read_npz(npz)
    files = {name: _find(directory, name) for name in MNIST_SHA256}
    return {name: _parse_idx(_read_verified(path, name), path) for name, path in files.items()}


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


def _find(directory: Path, name: str) -> Path:
    stem, kind = name.split("-idx")
    # With a dot, as Kaggle has them; Kaggle's archive also has folders of these names with the file inside.
    names = [f"{each}{suffix}" for each in (name, f"{stem}.idx{kind}") for suffix in ("", ".gz")]
    for folder in _FOLDERS:
        for each in names:
            for candidate in (directory / folder / each, directory / folder / each / each):
                if candidate.is_file():
                    return candidate
    raise DatasetError(
        f"{directory}: has neither {name} nor {stem}.idx{kind}, plain or as .gz, here or in MNIST/raw, nor mnist.npz; "
        "name the right directory with --data-dir or MNIST_DIR"
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


def _read_npz(path: Path) -> dict[str, Uint8Array]:
    arrays = {}
    try:
        with np.load(path) as archive:
            for name, key in _ARRAYS.items():
                arrays[name] = archive[key]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: not the mnist.npz that Keras keeps; delete it and fetch it again") from error
    for name, array in arrays.items():
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        if array.dtype != np.uint8 or hashlib.sha256(header + array.tobytes()).hexdigest() != MNIST_SHA256[name]:
            raise DatasetError(
                f"{path}: {_ARRAYS[name]} is not MNIST's; delete the file and fetch it again, "
                f"or train on it with --data {path}"
            )
    return arrays
