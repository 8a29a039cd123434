"""What flows through a run: batches of images on their way to a model, and the rows that come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import DigitsError
from serving.images.preparation import Preparation

Uint8Array = npt.NDArray[np.uint8]

# A larger file is no image that a model of this kind should be asked about, and would be wholly in memory.
MAX_IMAGE_BYTES = 64 << 20


class UnusableInput(DigitsError):
    """An input that can't be scored as asked: absent, empty, of the wrong kind. Names it."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """The place of an image that could not be had, and why."""

    reason: str


Encoded = Path | bytes | Unreadable


@dataclass(frozen=True, kw_only=True)
class Item:
    """One encoded image of an input.

    Attributes:
        id: Its name in the output.
        image: The file, or its bytes.
        expected: The name of its true label, where it is known.
    """

    id: str
    image: Encoded
    expected: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Consecutive images of one input.

    Attributes:
        ids: Their names in the output.
        images: Raw pixels, uint8 `[n, height, width, channels]`, or n encoded images.
        expected: The names of their true labels, where they are known.
    """

    ids: list[str]
    images: Uint8Array | list[Encoded]
    expected: list[str | None] | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """How much one batch holds: it ends with the image that reaches either.

    Attributes:
        rows: Images.
        encoded_bytes: Bytes of encoded images that are in memory already, as those of archives are.
    """

    rows: int = 1024
    encoded_bytes: int = 16 << 20


def gather(items: Iterable[Item], limits: BatchLimits) -> Iterator[Batch]:
    """Makes batches of single items; where they end depends on the items alone, so that a resumed run cuts alike."""
    gathered: list[Item] = []
    size = 0
    for item in items:
        gathered.append(item)
        size += len(item.image) if isinstance(item.image, bytes) else 0
        if len(gathered) >= limits.rows or size >= limits.encoded_bytes:
            yield _batch(gathered)
            gathered, size = [], 0
    if gathered:
        yield _batch(gathered)


def _batch(items: list[Item]) -> Batch:
    expected = [item.expected for item in items]
    return Batch(
        ids=[item.id for item in items],
        images=[item.image for item in items],
        expected=expected if any(name is not None for name in expected) else None,
    )


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """The model that scores, wherever it runs.

    Attributes:
        name: Its name.
        version: Its version.
        sha256: Digest of its ONNX file.
        labels: Name of each class.
        preparation: How encoded images are made into what it takes.
    """

    name: str
    version: int
    sha256: str
    labels: tuple[str, ...]
    preparation: Preparation

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.preparation.height, self.preparation.width, self.preparation.channels

    def __str__(self) -> str:
        """Which one it is, in words for people."""
        return f"{self.name} version {self.version} ({self.sha256[:12]}…)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a model said of the images of a batch that could be decoded.

    Attributes:
        model: The model that answered.
        labels: int64 `[m]`, the most probable label.
        confidences: float32 `[m]`, its probability.
        probabilities: float32 `[m, classes]` where they were asked for, else None.
    """

    model: ScoringModel
    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredBatch:
    """A batch with its answers, ready to be written.

    Attributes:
        ids: Names of the n images.
        expected: Names of their true labels, where they are known.
        places: int64 `[m]`, which of the n images were decoded.
        errors: Why the others were not, by place.
        scores: The answers for the m.
    """

    ids: list[str]
    expected: list[str | None] | None
    places: npt.NDArray[np.int64]
    errors: dict[int, str]
    scores: Scores

    def __len__(self) -> int:
        return len(self.ids)
