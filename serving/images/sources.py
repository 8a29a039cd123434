"""Where a command's images come from: files, folders, globs, standard input."""

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

# What is looked for in folders; files that are named are read whatever their names end in.
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"}


def image_sources(arguments: Iterable[str]) -> Iterator[tuple[str, InvalidImage | None]]:
    """Names of images, each with the reason where it stands for none.

    Args:
        arguments: A file; a folder, for every image in it and its sub-folders, sorted, but for hidden ones; a glob,
            where no file has that name; or `-` for standard input.
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
            yield argument, InvalidImage("no file is named so")
        else:
            yield argument, None  # reading it will say what is wrong


def read_sources(sources: Iterable[tuple[str, InvalidImage | None]], max_bytes: int) -> Iterator[bytes | InvalidImage]:
    """Reads images, one at a time as they are asked for.

    Args:
        sources: As `image_sources` yields them.
        max_bytes: A larger one is not taken.

    Yields:
        The bytes of each, or why there are none.
    """
    for name, reason in sources:
        if reason is not None:
            yield reason
        elif name == STDIN:
            yield _read(sys.stdin.buffer, max_bytes, _SERVER)
        else:
            yield read_image_file(name, max_bytes)


def read_image_file(name: str | os.PathLike[str], max_bytes: int, *, taker: str = _SERVER) -> bytes | InvalidImage:
    """The bytes of a file, or why it can't be read; `taker` is who takes no more than so many."""
    try:
        path = Path(name)
        if path.exists() and not path.is_file():  # a pipe might never end, a device neither
            return InvalidImage("Is a directory" if path.is_dir() else "not a regular file")
        with path.open("rb") as file:
            return _read(file, max_bytes, taker)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return InvalidImage(getattr(error, "strerror", None) or "can't be read")


def _read(stream: BinaryIO, max_bytes: int, taker: str) -> bytes | InvalidImage:
    content = stream.read(max_bytes + 1)
    return (
        InvalidImage(f"more than the {max_bytes:,} bytes that {taker} takes") if len(content) > max_bytes else content
    )


def _is_listed(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower() in _SUFFIXES and file.is_file()
