"""Finds and reads image files: files, folders, globs and standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from serving.errors import InvalidImage

STDIN = "-"
_SERVER = "the server"

# Suffixes of images in folders. A file that the user names may have any suffix.
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".heic", ".heif"}


def find_images(arguments: Iterable[str]) -> Iterator[tuple[str, InvalidImage | None]]:
    """Yields the name of each image, with an error if there is no such image.

    Args:
        arguments: Each is a file; a folder, for all images in it and its sub-folders except hidden ones, sorted; a
            glob, if no file has that name; or `-` for standard input.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == STDIN or path.is_file():
            yield argument, None
        elif path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if _is_listed(file, path))
            yield from ((name, None) for name in found)
            if not found:
                yield argument, InvalidImage("no images in this folder")
        elif found := sorted(
            name
            for name in glob.glob(argument, recursive=True)  # noqa: PTH207 - a path may be absolute
            if Path(name).is_file()
        ):
            yield from ((name, None) for name in found)
        elif glob.has_magic(argument):
            yield argument, InvalidImage("no file matches")
        else:
            yield argument, None  # reading it reports what is wrong


def read_images(found: Iterable[tuple[str, InvalidImage | None]], max_bytes: int) -> Iterator[bytes | InvalidImage]:
    """Reads images one at a time, as the caller asks for them.

    Args:
        found: The images, as `find_images` yields them.
        max_bytes: Size limit of one image.

    Yields:
        The contents of each image, or an error.
    """
    for name, error in found:
        if error is not None:
            yield error
        elif name == STDIN:
            yield _read(sys.stdin.buffer, max_bytes, _SERVER)
        else:
            yield read_image_file(name, max_bytes)


def read_image_file(name: str | os.PathLike[str], max_bytes: int, *, recipient: str = _SERVER) -> bytes | InvalidImage:
    """Returns the contents of a file, or an error. The size limit is that of the recipient, whom the error names."""
    try:
        path = Path(name)
        if path.exists() and not path.is_file():  # reading a pipe or a device might never end
            return InvalidImage("Is a directory" if path.is_dir() else "not a regular file")
        with path.open("rb") as file:
            return _read(file, max_bytes, recipient)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return InvalidImage(getattr(error, "strerror", None) or "can't be read")


def _read(stream: BinaryIO, max_bytes: int, recipient: str) -> bytes | InvalidImage:
    content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        return InvalidImage(f"more than the {max_bytes:,} bytes that {recipient} takes")
    return content


def _is_listed(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower() in _SUFFIXES and file.is_file()
