"""An input: images in an order that is always the same, so that a run can continue at any image."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.score.batch import Batch, BatchLimits, UnusableInput

# Names that a message gives of files that were left out.
EXAMPLES = 5
# What is read of a file to recognise its copies: blocks from its start to its end. Smaller files are read whole.
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known about an input before its images are read.

    Attributes:
        count: Number of images, readable or not.
        fingerprint: Changes if the input changes. Made from names, sizes and modification times, not from pixels.
        copies: The same for all copies of the input that have the same names. Made from names, sizes and, of files that
            hold many images, samples of the bytes.
        left_out: Number of files that are no images by their name, and are therefore not counted.
        examples: The names of some of them.
    """

    count: int
    fingerprint: str
    copies: str
    left_out: int = 0
    examples: tuple[str, ...] = ()


class Source(ABC):
    """Images to score. Keeps nothing open between calls."""

    @abstractmethod
    def survey(self) -> Survey:
        """Counts the images.

        Raises:
            UnusableInput: The input can't be read, or has no images.
        """

    @abstractmethod
    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """Yields the images from index `start` on. Where batches end depends only on the input and the limits.

        Raises:
            UnusableInput: The input is damaged.
        """

    def check_shape(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - encoded images may have any size
        """Raises UnusableInput if raw pixels do not have the height, width and channels that the model takes."""


class Chain(Source):
    """Several inputs, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._counts: list[int] = []

    def survey(self) -> Survey:
        """See `Source.survey`."""
        surveys = [source.survey() for source in self._sources]
        self._counts = [survey.count for survey in surveys]
        return Survey(
            count=sum(self._counts),
            fingerprint=_digest([survey.fingerprint for survey in surveys]),
            copies=_digest([survey.copies for survey in surveys]),
            left_out=sum(survey.left_out for survey in surveys),
            examples=tuple(name for survey in surveys for name in survey.examples)[:EXAMPLES],
        )

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`; call `survey` first. No batch has images of two inputs."""
        for source, count in zip(self._sources, self._counts, strict=True):
            if start < count:
                yield from source.batches(max(0, start), limits)
            start -= count

    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """See `Source.check_shape`."""
        for source in self._sources:
            source.check_shape(shape)


def file_fingerprint(path: Path) -> str:
    """Returns name, size and modification time of a file.

    Raises:
        UnusableInput: The file can't be read.
    """
    status = _status(path)
    return f"{path_text(path)} {status.st_size} {status.st_mtime_ns}"


def copy_fingerprint(path: Path, *, sampled: bool = True) -> str:
    """Returns name and size of a file and, unless it is not sampled, a digest of blocks all over it.

    Raises:
        UnusableInput: The file can't be read.
    """
    size = _status(path).st_size
    digest = hashlib.sha256()
    if sampled:
        last = max(0, size - _SAMPLE_BYTES)
        try:
            with path.open("rb") as file:
                for number in range(_SAMPLES):
                    file.seek(last * number // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
        except OSError as error:
            raise UnusableInput(f"{path}: {error.strerror}") from error
    return f"{path_text(path)} {size} {digest.hexdigest()}"


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UnusableInput(f"{path}: {error.strerror}") from error


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def path_text(path: Path | str) -> str:
    """Returns a path as text that can be encoded as UTF-8; other bytes are escaped."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()
