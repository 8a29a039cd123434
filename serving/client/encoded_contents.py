"""Encoded images as a client gets them: files to read, or bytes; gone through again where they must be sent again."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from serving.errors import InvalidImage
from serving.images.files import read_image_file

# What is kept of an iterator, which can't be gone through again itself.
_KEPT_BYTES = 64 << 20


class EncodedContents(ABC):
    """Encoded images, one at a time."""

    @property
    def repeatable(self) -> bool:
        """Whether `read` can begin with the first image again."""
        return True

    @abstractmethod
    def read(self, max_bytes: int) -> Iterator[bytes | InvalidImage]:
        """The images from the first one on, or why there are none in their places; no file larger than `max_bytes`."""


class FileContents(EncodedContents):
    """Files, read when it is their turn."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self._paths = list(paths)

    def read(self, max_bytes: int) -> Iterator[bytes | InvalidImage]:
        """See `EncodedContents.read`."""
        return (read_image_file(path, max_bytes) for path in self._paths)


class GivenContents(EncodedContents):
    """Bytes that a caller has. Of an iterator the first 64 MiB are kept, so that they can be sent again."""

    def __init__(self, contents: Iterable[bytes | InvalidImage]) -> None:
        self._contents = contents
        self._passes_once = iter(contents) is contents
        self._kept: list[bytes | InvalidImage] = []
        self._kept_bytes = 0

    @property
    def repeatable(self) -> bool:
        """See `EncodedContents.repeatable`."""
        return self._kept_bytes <= _KEPT_BYTES

    def read(self, max_bytes: int) -> Iterator[bytes | InvalidImage]:
        """See `EncodedContents.read`; whatever their size."""
        del max_bytes
        if not self._passes_once:
            yield from self._contents
            return
        yield from tuple(self._kept)
        for content in self._contents:
            self._keep(content)
            yield content

    def _keep(self, content: bytes | InvalidImage) -> None:
        if self.repeatable:
            self._kept_bytes += len(content) if isinstance(content, bytes) else 0
            self._kept.append(content)
        else:
            self._kept.clear()
