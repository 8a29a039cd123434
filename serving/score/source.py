"""An input: images in an order that is the same every time, wherever one begins to read."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.score.batch import Batch, BatchLimits, UnusableInput


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known of an input before it is read.

    Attributes:
        count: Number of images, readable or not.
        fingerprint: Changes where the input does: made of names, sizes and times of change, not of the pixels.
    """

    count: int
    fingerprint: str


class Source(ABC):
    """Images to score. A source is a value: it holds nothing open between calls."""

    @abstractmethod
    def survey(self) -> Survey:
        """Counts the images.

        Raises:
            UnusableInput: It can't be read, or holds none.
        """

    @abstractmethod
    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """The images from number `start` on. Where batches end depends on the input and the limits alone.

        Raises:
            UnusableInput: It turns out to be damaged.
        """

    def check_shape(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - encoded images have sizes of their own
        """Raises UnusableInput where raw pixels are not of the height, width and channels that the model takes."""


class Chain(Source):
    """Several inputs, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._counts: list[int] = []

    def survey(self) -> Survey:
        """See `Source.survey`."""
        surveys = [source.survey() for source in self._sources]
        self._counts = [survey.count for survey in surveys]
        digest = hashlib.sha256("\n".join(survey.fingerprint for survey in surveys).encode())
        return Survey(count=sum(self._counts), fingerprint=digest.hexdigest())

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`; needs `survey` before. No batch holds images of two inputs."""
        for source, count in zip(self._sources, self._counts, strict=True):
            if start < count:
                yield from source.batches(max(0, start), limits)
            start -= count

    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """See `Source.check_shape`."""
        for source in self._sources:
            source.check_shape(shape)


def file_fingerprint(path: Path) -> str:
    """Name, size and time of change of one file.

    Raises:
        UnusableInput: It can't be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnusableInput(f"{path}: {error.strerror}") from error
    return f"{text_of(path)} {status.st_size} {status.st_mtime_ns}"


def text_of(path: Path | str) -> str:
    """A path as text that can be written as UTF-8; bytes that are none are escaped."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()
