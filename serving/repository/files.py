"""The files of a version: read whole, checked against a digest, and parsed; every error names the file."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from serving.errors import ModelRejected
from serving.repository.signature import digest_of

T = TypeVar("T")


def read_file(path: Path, *, missing: str = "") -> bytes:
    """Reads a regular file: a pipe would block for ever, and a device may have no end.

    Args:
        path: The file.
        missing: What the error says in addition if there is no such file.

    Raises:
        ModelRejected: It can't be read, or is not a file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelRejected(f"{path}: not a file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelRejected(f"{path}: {error.strerror}{missing}") from error
    except OSError as error:
        raise ModelRejected(f"{path}: {error.strerror}") from error


def checked_content(path: Path, files: Mapping[str, bytes], sha256: str) -> bytes:
    """Returns the content of a file if it has this digest.

    Args:
        path: The file.
        files: Files that were read already, by their names.
        sha256: The digest, in hexadecimal.

    Raises:
        ModelRejected: It has another digest, or can't be read.
    """
    content = files[path.name] if path.name in files else read_file(path)
    digest = digest_of(content)
    if digest != sha256:
        raise ModelRejected(
            f"{path}: sha256 is {digest[:12]}…, but the manifest says {sha256[:12]}…: "
            "the file was changed or damaged after the export"
        )
    return content


def parse_file(path: Path, content: bytes, parse: Callable[[str], T]) -> T:
    """Parses the text of a file.

    Raises:
        ModelRejected: It is not UTF-8, or the parser refuses it.
    """
    try:
        return parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelRejected(f"{path}: not UTF-8") from error
    except ModelRejected as error:
        raise error.within(path) from error


def file_stat(path: Path) -> tuple[int, ...]:
    """Returns times, size and inode of a file; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
