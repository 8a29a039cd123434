"""MNIST's files are read, verified and downloaded; wrong files are refused with a clear message."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from training import mnist_files
from training.datasets import load
from training.errors import DatasetError
from training.mnist_files import download_mnist


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four gzipped IDX files of a few random images, published under their own digests."""
    generator = np.random.default_rng(0)
    directory = tmp_path / "published"
    directory.mkdir()
    digests = {}
    for name in mnist_files.MNIST_SHA256:
        count = 20 if name.startswith("train") else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        content = _idx(generator.integers(0, 10, shape, dtype=np.uint8))
        (directory / f"{name}.gz").write_bytes(gzip.compress(content))
        digests[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(mnist_files, "MNIST_SHA256", digests)
    return directory


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(small_mnist: Path) -> Iterator[str]:
    """A local HTTP server with the four files."""
    handler = functools.partial(_Handler, directory=str(small_mnist))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_mnist_has_the_published_shapes_and_first_labels(mnist_dir: Path) -> None:
    data = load("mnist", data_dir=mnist_dir)
    assert data.train_images.shape == (60000, 28, 28, 1)
    assert data.test_images.shape == (10000, 28, 28, 1)
    assert data.train_images.dtype == np.uint8
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(data.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_plain_and_gzipped_files_give_the_same_data(small_mnist: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in small_mnist.iterdir():
        (plain / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    assert load("mnist", data_dir=plain).sha256 == load("mnist", data_dir=small_mnist).sha256


def _dotted(folder: Path, name: str) -> Path:
    return folder / name.replace("-idx", ".idx")


def _as_torchvision(folder: Path, name: str) -> Path:
    return folder / "MNIST" / "raw" / name


def _as_kaggle_unpacks(folder: Path, name: str) -> Path:
    return folder / name / name


@pytest.mark.parametrize("place", [_dotted, _as_torchvision, _as_kaggle_unpacks])
def test_the_files_are_found_under_other_names(small_mnist: Path, tmp_path: Path, place) -> None:
    for file in small_mnist.iterdir():
        path = place(tmp_path / "theirs", file.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.decompress(file.read_bytes()))
    assert load("mnist", data_dir=tmp_path / "theirs").sha256 == load("mnist", data_dir=small_mnist).sha256


def test_keras_s_file_is_the_same_data_and_is_verified(small_mnist: Path, tmp_path: Path) -> None:
    data = load("mnist", data_dir=small_mnist)
    arrays = {
        "x_train": data.train_images[..., 0],
        "y_train": data.train_labels.astype(np.uint8),
        "x_test": data.test_images[..., 0],
        "y_test": data.test_labels.astype(np.uint8),
    }
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    assert load("mnist", data_dir=tmp_path).sha256 == data.sha256
    np.savez(tmp_path / "mnist.npz", **{**arrays, "y_test": arrays["y_test"][::-1]})
    with pytest.raises(DatasetError, match="y_test is not MNIST's; delete the file"):
        load("mnist", data_dir=tmp_path)


def _missing(file: Path) -> None:
    file.unlink()


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _no_gzip(file: Path) -> None:
    file.write_bytes(b"<html>not found</html>")


def _one_pixel_off(file: Path) -> None:
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] ^= 1
    file.write_bytes(gzip.compress(bytes(content)))


def _another_file(file: Path) -> None:
    shutil.copy(file.with_name("t10k-images-idx3-ubyte.gz"), file)


@pytest.mark.parametrize("damage", [_missing, _truncated, _no_gzip, _one_pixel_off, _another_file])
def test_a_damaged_file_is_named_with_what_to_do(small_mnist: Path, damage: object) -> None:
    damage(small_mnist / "train-images-idx3-ubyte.gz")
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.*(delete it|--data-dir)"):
        load("mnist", data_dir=small_mnist)


def test_a_download_lands_in_the_cache_once(mirror: str, small_mnist: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert download_mnist(cache, mirrors=(mirror,)) == cache
    assert sorted(path.name for path in cache.iterdir()) == sorted(path.name for path in small_mnist.iterdir())
    # without any mirror, the cache must be enough
    assert load("mnist", data_dir=download_mnist(cache, mirrors=())).train_images.shape == (20, 28, 28, 1)


def test_a_mirror_with_wrong_bytes_is_passed_over(mirror: str, small_mnist: Path, tmp_path: Path) -> None:
    bad = small_mnist / "bad"
    bad.mkdir()
    for file in small_mnist.glob("*.gz"):
        shutil.copy(file, bad)
    _one_pixel_off(bad / "train-images-idx3-ubyte.gz")
    _truncated(bad / "t10k-images-idx3-ubyte.gz")
    cache = download_mnist(tmp_path / "cache", mirrors=(f"{mirror}bad/", mirror))
    assert load("mnist", data_dir=cache).sha256 == load("mnist", data_dir=small_mnist).sha256


def test_without_a_good_mirror_the_cache_stays_clean_and_the_option_is_named(
    mirror: str, small_mnist: Path, tmp_path: Path
) -> None:
    _one_pixel_off(small_mnist / "train-images-idx3-ubyte.gz")
    cache = tmp_path / "cache"
    unreachable = "http://127.0.0.1:1/"
    with pytest.raises(DatasetError, match=r"not the published bytes.*127\.0\.0\.1:1/.*--data-dir.*--data synthetic"):
        download_mnist(cache, mirrors=(mirror, unreachable))
    assert list(cache.iterdir()) == []


def test_an_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="mnist, synthetic, mnist-odd-even"):
        load("cifar")


def test_the_digest_changes_with_a_single_label() -> None:
    data = load("synthetic")
    labels = data.test_labels.copy()
    labels[0] = (labels[0] + 1) % 10
    assert dataclasses.replace(data, test_labels=labels).sha256 != data.sha256


def test_odd_and_even_are_the_digits_labels_in_two() -> None:
    digits, parity = load("synthetic"), load("synthetic-odd-even")
    assert parity.label_names == ("even", "odd")
    assert np.array_equal(parity.test_labels, digits.test_labels % 2)
    assert np.array_equal(parity.train_images, digits.train_images)
    assert parity.sha256 != digits.sha256


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"test_labels": np.zeros(3, np.int64)}, "1000 test images but 3 labels"),
        ({"train_labels": np.full(6000, 10, np.int64)}, "a training label is 10, but names exist for 0 to 9"),
        ({"train_labels": np.full(6000, -1, np.int64)}, "a training label is -1, but names exist for 0 to 9"),
    ],
)
def test_labels_that_do_not_match_are_refused(change: dict, problem: str) -> None:
    with pytest.raises(DatasetError, match=f"^synthetic: {problem}$"):
        dataclasses.replace(load("synthetic"), **change)
