"""A shard: one of several parts of an input, each scored by a run of its own, on any machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from serving.score.batch import Batch, BatchLimits
from serving.score.source import Source, Survey


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of the input a run scores.

    Attributes:
        index: Its number, from 0 to `count` - 1.
        count: Number of shards.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads `INDEX/COUNT`.

        Raises:
            ValueError: It is something else, or there is no such shard.
        """
        found = re.fullmatch(r"(\d{1,6})/([1-9]\d{0,5})", text, re.ASCII)
        if not found:
            raise ValueError(f"{text!r} is not a shard: give INDEX/COUNT, such as 0/16 for the first of 16")
        index, count = map(int, found.groups())
        if index >= count:
            raise ValueError(f"there is no shard {text}: shards count from 0, so the last one is {count - 1}/{count}")
        return cls(index=index, count=count)

    def images(self, total: int) -> range:
        """Returns the indices of its images in an input of `total` images. Together, shards have each exactly once."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)

    def __str__(self) -> str:
        """Returns `INDEX/COUNT`."""
        return f"{self.index}/{self.count}"


class ShardSource(Source):
    """Some consecutive images of a source.

    Args:
        source: The source; already surveyed.
        images: The indices of the images.
    """

    def __init__(self, source: Source, images: range) -> None:
        self._source = source
        self._images = images

    def survey(self) -> Survey:
        """Returns the survey of the whole source."""
        return self._source.survey()

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`; `start` counts from the first image of the part."""
        missing = len(self._images) - start
        if missing <= 0:
            return
        for batch in self._source.batches(self._images.start + start, limits):
            yield batch if len(batch) <= missing else batch.part(0, missing)
            missing -= len(batch)
            if missing <= 0:
                return

    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """See `Source.check_shape`."""
        self._source.check_shape(shape)
