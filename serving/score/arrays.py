"""Raw pixels in array files: .npy, .npz and IDX, plain or gzipped. Only one block is in memory at a time.

numpy parses the headers of .npy files. The blocks are ours, since numpy can't map an array in an .npz or .gz file into
memory; and so is IDX, a header of a few bytes that no library here reads.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from serving.score.batch import Batch, BatchLimits, Uint8Array, UnusableInput
from serving.score.source import Source, Survey, file_fingerprint, path_text

_DAMAGED = (OSError, EOFError, ValueError, struct.error, zlib.error, zipfile.BadZipFile, KeyError)
_IDX_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int  # of the first value in the decompressed file


class ArrayFile(Source):
    """One array of images.

    Args:
        path: A .npy, .npz or IDX file; one that ends in .gz is decompressed.
        member: Name of the array in an .npz file; by default `images`, or the only one with three or four dimensions.
        labels: True labels: a file with an array of integers, or the name of such an array in the same .npz file.
    """

    def __init__(self, path: Path, *, member: str | None = None, labels: Path | str | None = None) -> None:
        self._path = path
        self._member = member
        self._labels = labels

    def survey(self) -> Survey:
        """See `Source.survey`."""
        header, member = self._header()
        if header.shape[0] == 0:
            raise UnusableInput(f"{self._path}: has no images")
        if member is None and self._path.suffix != ".gz":
            promised = header.offset + math.prod(header.shape)
            if self._path.stat().st_size < promised:
                raise UnusableInput(f"{self._path}: truncated: the header promises {promised} bytes")
        fingerprint = f"{file_fingerprint(self._path)} {member}"
        if isinstance(self._labels, Path):
            fingerprint += file_fingerprint(self._labels)
        self._read_labels(header.shape[0])
        return Survey(count=header.shape[0], fingerprint=fingerprint)

    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """See `Source.check_shape`."""
        found = self._image_shape(self._header()[0])
        if found != shape:
            sizes = [" x ".join(map(str, size)) for size in (found, shape)]
            raise UnusableInput(f"{self._path}: images of {sizes[0]}, but the model takes {sizes[1]}")

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        header, member = self._header()
        labels = self._read_labels(header.shape[0])
        name = path_text(self._path)
        for first, images in self._blocks(header, member, start, limits.rows):
            last = first + len(images)
            expected: list[str | None] | None = None
            if labels is not None:
                expected = [str(label) for label in labels[first:last].tolist()]
            yield Batch(ids=[f"{name}:{number}" for number in range(first, last)], images=images, expected=expected)

    def _blocks(self, header: _Header, member: str | None, start: int, rows: int) -> Iterator[tuple[int, Uint8Array]]:
        shape, count = self._image_shape(header), header.shape[0]
        size = math.prod(shape)
        if member is None and self._path.suffix != ".gz":
            for first in range(start, count, rows):
                block = (min(rows, count - first), *shape)
                # A map for each block: the pages of earlier blocks do not count as memory of this process.
                yield first, np.memmap(self._path, np.uint8, "r", offset=header.offset + first * size, shape=block)
            return
        try:
            with _opened(self._path, member) as file:
                file.seek(header.offset + start * size)
                for first in range(start, count, rows):
                    content = file.read(min(rows, count - first) * size)
                    if len(content) < min(rows, count - first) * size:
                        raise EOFError
                    yield first, np.frombuffer(content, np.uint8).reshape(-1, *shape)
        except _DAMAGED as error:
            raise UnusableInput(f"{self._path}: truncated or damaged") from error

    def _header(self) -> tuple[_Header, str | None]:
        try:
            member = _image_member(self._path, self._member) if self._path.suffix == ".npz" else None
            header = _read_header(self._path, member)
        except _DAMAGED as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a .npy, .npz or IDX file"
            raise UnusableInput(f"{self._path}: {reason}") from error
        if header.dtype != np.uint8 or len(header.shape) not in (3, 4):
            raise UnusableInput(
                f"{self._path}: {header.dtype} {list(header.shape)}, but images must be uint8 "
                "[n, height, width] or [n, height, width, channels]"
            )
        return header, member

    def _image_shape(self, header: _Header) -> tuple[int, int, int]:
        height, width, channels = (*header.shape[1:], 1)[:3]
        return height, width, channels

    def _read_labels(self, count: int) -> npt.NDArray[np.int64] | None:
        """Reads all labels, a few bytes per image."""
        if self._labels is None:
            return None
        path, member = (self._labels, None) if isinstance(self._labels, Path) else (self._path, self._labels)
        try:
            header = _read_header(path, member)
            with _opened(path, member) as file:
                file.seek(header.offset)
                labels = np.frombuffer(file.read(), header.dtype)
        except _DAMAGED as error:
            raise UnusableInput(f"{path}: has no array of labels {member or ''}".rstrip()) from error
        if header.dtype.kind not in "iu" or len(header.shape) != 1 or len(labels) != count:
            raise UnusableInput(f"{path}: {header.dtype} {list(header.shape)}, but there are {count} images to label")
        return labels.astype(np.int64)


def _image_member(path: Path, wanted: str | None) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if wanted is not None:
        if wanted not in names:
            raise UnusableInput(f"{path}: has no array {wanted!r}, only {', '.join(names)}")
        return wanted
    if "images" in names:
        return "images"
    fit = [name for name in names if len(_read_header(path, name).shape) in (3, 4)]
    if len(fit) != 1:
        raise UnusableInput(
            f"{path}: which of the arrays {', '.join(names)} has the images? Name it with --image-column"
        )
    return fit[0]


@contextlib.contextmanager
def _opened(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    if member is not None:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
            yield file
    elif path.suffix == ".gz":
        with gzip.open(path) as unzipped:
            yield unzipped  # type: ignore[misc]  # a GzipFile reads and seeks as any file does
    else:
        with path.open("rb") as plain:
            yield plain


def _read_header(path: Path, member: str | None) -> _Header:
    with _opened(path, member) as file:
        if path.suffix == ".npz" or path.name.removesuffix(".gz").endswith(".npy"):
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_columns, dtype = read(file)
            if in_columns or dtype.hasobject:
                raise UnusableInput(f"{path}: not stored row by row; save numpy.ascontiguousarray of it")
            return _Header(shape=shape, dtype=dtype, offset=file.tell())
        # IDX: two zero bytes, the type (8 = uint8), the number of dimensions, big-endian sizes, then the values.
        zeros, kind, rank = struct.unpack(">HBB", file.read(4))
        if zeros or kind != _IDX_BYTES or not 1 <= rank <= 4:
            raise ValueError("not an IDX file")
        shape = struct.unpack(f">{rank}I", file.read(4 * rank))
        return _Header(shape=shape, dtype=np.dtype(np.uint8), offset=4 + 4 * rank)
