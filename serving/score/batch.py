"""What passes through a run: batches of images on their way to a model, and the scores on their way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import DigitsError
from serving.images.preparation import Preparation

Uint8Array = npt.NDArray[np.uint8]

# A larger file is not a useful image for these models, and would be read into memory completely.
MAX_IMAGE_BYTES = 64 << 20


class UnusableInput(DigitsError):
    """An input that can't be scored: missing, empty or of the wrong kind. The message names it."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Takes the place of an image that could not be read, and says why."""

    reason: str


Encoded = Path | bytes | Unreadable


@dataclass(frozen=True, kw_only=True)
class Item:
    """One encoded image of an input.

    Attributes:
        id: Its name in the output.
        image: The file, or its bytes.
        expected: The name of its true label, if known.
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
        expected: The names of their true labels, if known.
        errors: By index, why a row of raw pixels can't be read.
    """

    ids: list[str]
    images: Uint8Array | list[Encoded]
    expected: list[str | None] | None
    errors: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Batch:
        """Returns its images from `start` up to `stop`, or to its end."""
        return Batch(
            ids=self.ids[start:stop],
            images=self.images[start:stop],
            expected=None if self.expected is None else self.expected[start:stop],
            errors={index - start: reason for index, reason in self.errors.items() if start <= index < stop},
        )


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """The size of a batch. A batch ends with the image that reaches either limit.

    Attributes:
        rows: Images.
        encoded_bytes: Bytes of encoded images that are already in memory, such as those of archives.
    """

    rows: int = 1024
    encoded_bytes: int = 16 << 20


def make_batches(items: Iterable[Item], limits: BatchLimits) -> Iterator[Batch]:
    """Groups items into batches. A resumed run gets the same batches: their ends depend only on the items."""
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
        labels: The name of each class.
        preparation: How encoded images are prepared for it.
        precision: What it runs in, such as `float32`.
    """

    name: str
    version: int
    sha256: str
    labels: tuple[str, ...]
    preparation: Preparation
    precision: str = "float32"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.preparation.height, self.preparation.width, self.preparation.channels

    def __str__(self) -> str:
        """Name, version and start of the digest, for messages."""
        return f"{self.name} version {self.version} ({self.sha256[:12]}…)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """A model's answers for the images of a batch that could be decoded.

    Attributes:
        model: The model that answered.
        labels: int64 `[m]`, the most probable label.
        confidences: float32 `[m]`, its probability.
        probabilities: float32 `[m, classes]` if requested, else None.
        statuses: int64 `[m]`, numbers of `ImageStatus`; None if nothing was noticed about any image.
    """

    model: ScoringModel
    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None
    statuses: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredBatch:
    """A batch with its answers, ready to be written.

    Attributes:
        ids: The names of the n images.
        expected: The names of their true labels, if known.
        indices: int64 `[m]`, which of the n images were decoded.
        errors: Why each of the others was not, by index.
        scores: The answers for the m images.
    """

    ids: list[str]
    expected: list[str | None] | None
    indices: npt.NDArray[np.int64]
    errors: dict[int, str]
    scores: Scores

    def __len__(self) -> int:
        return len(self.ids)
