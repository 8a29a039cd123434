"""Raw pixels in array files: .npy, .npz and IDX, plain or gzipped. Only one block is in memory at a time.

numpy parses the headers of .npy files. The blocks are ours, since numpy can't map an array in an .npz or .gz file into
memory; and so is IDX, a header of a few bytes that no library here reads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.pixel_arrays import ImageShape, Layout, PixelScale, count_images
from serving.images.tables.cells import label_text
from serving.score.array_header import DAMAGED, ArrayHeader, image_member, opened, read_header
from serving.score.batch import Batch, BatchLimits, UnusableInput
from serving.score.source import Source, Survey, copy_fingerprint, file_fingerprint, path_text

_SURVEYED_VALUES = 1 << 20


class ArrayFile(Source):
    """One array of images, in one of the layouts and with values that `serving.images.pixel_arrays` takes.

    An array in Fortran order, in a compressed file, is in memory as a whole.

    Args:
        path: A .npy, .npz or IDX file; one that ends in .gz is decompressed.
        member: Name of the array in an .npz file; by default `images`, or the only one that may be images.
        labels: True labels: a file with an array of labels, or the name of such an array in the same .npz file.
    """

    def __init__(self, path: Path, *, member: str | None = None, labels: Path | str | None = None) -> None:
        self._path = path
        self._member = member
        self._labels = labels
        self._scale = PixelScale()
        self._shape: ImageShape | None = None

    def survey(self) -> Survey:
        """See `Source.survey`. Reads all values, unless they are bytes, to find out what they mean."""
        header, member = self._header()
        if not math.prod(header.shape):
            raise UnusableInput(f"{self._path}: has no images")
        if member is None and self._path.suffix != ".gz":
            promised = header.offset + math.prod(header.shape) * header.dtype.itemsize
            if self._path.stat().st_size < promised:
                raise UnusableInput(f"{self._path}: truncated: the header promises {promised} bytes")
        fingerprint = f"{file_fingerprint(self._path)} {member}"
        copies = f"{copy_fingerprint(self._path)} {member}"
        if isinstance(self._labels, Path):
            fingerprint += file_fingerprint(self._labels)
            copies += copy_fingerprint(self._labels)
        with self._doubts():
            count = count_images(header.shape)
            self._read_labels(count)
            if header.dtype not in (np.uint8, np.bool_):
                rows = max(1, _SURVEYED_VALUES * count // math.prod(header.shape))
                for _, values in self._blocks(header, member, 0, rows):
                    self._scale.look_at(values)
                self._scale.check()
        return Survey(count=count, fingerprint=fingerprint, copies=copies)

    def check_shape(self, shape: ImageShape) -> None:
        """See `Source.check_shape`."""
        found = self._header()[0].shape
        with self._doubts():
            single = Layout.of(found, shape).single
            if (1 if single else found[0]) != count_images(found):
                raise InvalidImage(f"{list(found)} may be one image or several; save it as [n, height, width]")
        self._shape = shape

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`; call `survey` and `check_shape` first."""
        header, member = self._header()
        layout, count = Layout.of(header.shape, self._shape), count_images(header.shape)
        labels = self._read_labels(count)
        name = path_text(self._path)
        for first, values in self._blocks(header, member, start, limits.rows):
            images = np.ascontiguousarray(layout.arrange(self._scale.to_bytes(values)))
            last = first + len(images)
            expected = None if labels is None else [label_text(label) for label in labels[first:last].tolist()]
            yield Batch(ids=[f"{name}:{number}" for number in range(first, last)], images=images, expected=expected)

    def _blocks(
        self, header: ArrayHeader, member: str | None, start: int, rows: int
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yields blocks of up to `rows` images as they are stored, each with the index of its first image."""
        count = count_images(header.shape)
        stored = header.shape if count != header.shape[0] else header.shape[1:]
        size = math.prod(stored) * header.dtype.itemsize
        is_mapped = member is None and self._path.suffix != ".gz"
        try:
            if header.in_columns:
                whole = self._in_columns(header, member, is_mapped).reshape(count, *stored, order="F")
                for first in range(start, count, rows):
                    yield first, whole[first : first + rows]
            elif is_mapped:
                for first in range(start, count, rows):
                    block = (min(rows, count - first), *stored)
                    # A map for each block: the pages of earlier blocks do not count as memory of this process.
                    yield first, np.memmap(self._path, header.dtype, "r", header.offset + first * size, block)
            else:
                with opened(self._path, member) as file:
                    file.seek(header.offset + start * size)
                    for first in range(start, count, rows):
                        content = file.read(min(rows, count - first) * size)
                        if len(content) < min(rows, count - first) * size:
                            raise EOFError
                        yield first, np.frombuffer(content, header.dtype).reshape(-1, *stored)
        except DAMAGED as error:
            raise UnusableInput(f"{self._path}: truncated or damaged") from error

    def _in_columns(self, header: ArrayHeader, member: str | None, is_mapped: bool) -> npt.NDArray[Any]:
        if is_mapped:
            return np.memmap(self._path, header.dtype, "r", header.offset, header.shape, "F")
        with opened(self._path, member) as file:
            file.seek(header.offset)
            return np.frombuffer(file.read(), header.dtype).reshape(header.shape, order="F")

    def _header(self) -> tuple[ArrayHeader, str | None]:
        try:
            member = image_member(self._path, self._member) if self._path.suffix == ".npz" else None
            header = read_header(self._path, member)
        except DAMAGED as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a .npy, .npz or IDX file"
            raise UnusableInput(f"{self._path}: {reason}") from error
        with self._doubts():
            self._scale.check_dtype(header.dtype)
        return header, member

    @contextlib.contextmanager
    def _doubts(self) -> Iterator[None]:
        """Names the file where its array can't be taken for images."""
        try:
            yield
        except InvalidImage as error:
            raise UnusableInput(f"{self._path}: {error}") from error

    def _read_labels(self, count: int) -> npt.NDArray[Any] | None:
        """Reads all labels, a few bytes per image."""
        if self._labels is None:
            return None
        path, member = (self._labels, None) if isinstance(self._labels, Path) else (self._path, self._labels)
        try:
            header = read_header(path, member)
            with opened(path, member) as file:
                file.seek(header.offset)
                labels = np.frombuffer(file.read(), header.dtype)
        except DAMAGED as error:
            raise UnusableInput(f"{path}: has no array of labels {member or ''}".rstrip()) from error
        if header.dtype.kind not in "iufU" or header.shape not in ((count,), (count, 1)) or len(labels) != count:
            raise UnusableInput(f"{path}: {header.dtype} {list(header.shape)}, but there are {count} images to label")
        return labels
