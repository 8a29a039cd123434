"""The headers of array files: what an array holds, and where its values begin."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from serving.errors import InvalidImage
from serving.images.pixel_arrays import Layout
from serving.images.tables.table import list_names
from serving.score.batch import UnusableInput

# SyntaxError and TokenError come from numpy's reading of a damaged header.
DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, SyntaxError),
    *(struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError),
)

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """What the header of an array says.

    Attributes:
        shape: The dimensions.
        dtype: The type of a value.
        offset: Where the values begin in the decompressed file, in bytes.
        in_columns: Whether the values are in Fortran order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    in_columns: bool = False


def image_member(path: Path, wanted: str | None) -> str:
    """Returns the name of the array in an .npz file that has the images.

    Raises:
        UnusableInput: It does not exist, or more than one may be meant.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if wanted is not None:
        if wanted not in names:
            raise UnusableInput(f"{path}: has no array {wanted!r}, only {list_names(names)}")
        return wanted
    if "images" in names:
        return "images"
    fit = [name for name in names if _may_be_images(path, name)]
    fit = [name for name in fit if len(read_header(path, name).shape) > 2] or fit  # rather than rows of values
    if len(fit) != 1:
        raise UnusableInput(
            f"{path}: which of the arrays {list_names(fit or names)} has the images? Name it with --image-column"
        )
    return fit[0]


def _may_be_images(path: Path, name: str) -> bool:
    header = read_header(path, name)
    try:
        Layout.of(header.shape)
    except InvalidImage:
        return False
    return header.dtype.kind in "buif" and len(header.shape) > 1


@contextlib.contextmanager
def opened(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    """Opens a file, decompressed, or an array in an .npz file."""
    if member is not None:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
            yield file
    elif path.suffix == ".gz":
        with gzip.open(path) as unzipped:
            yield unzipped  # type: ignore[misc]  # a GzipFile reads and seeks as any file does
    else:
        with path.open("rb") as plain:
            yield plain


def read_header(path: Path, member: str | None) -> ArrayHeader:
    """Reads the header of a .npy or IDX file, or of an array in an .npz file.

    Raises:
        One of `DAMAGED`: It is no such file.
    """
    with opened(path, member) as file:
        if path.suffix == ".npz" or path.name.removesuffix(".gz").endswith(".npy"):
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_columns, dtype = read(file)
            return ArrayHeader(shape=shape, dtype=dtype, offset=file.tell(), in_columns=in_columns and len(shape) > 1)
        # IDX: two zero bytes, the type, the number of dimensions, big-endian sizes, then the values.
        zeros, kind, rank = struct.unpack(">HBB", file.read(4))
        if zeros or kind not in _IDX_TYPES or not 1 <= rank <= 4:
            raise ValueError("not an IDX file")
        shape = struct.unpack(f">{rank}I", file.read(4 * rank))
        return ArrayHeader(shape=shape, dtype=np.dtype(_IDX_TYPES[kind]), offset=4 + 4 * rank)
