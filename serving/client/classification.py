"""A classification: the answers for a batch of images, and the options that a caller has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serving.images.image_status import ImageStatus
from serving.images.preparation import PreparedImage

# The label, and its name, of an image whose most probable label is less probable than min_confidence. With only_digits
# it is also the label of an image with a status, which then is its name.
UNSURE = -1
UNSURE_NAME = "unsure"


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What an answer should contain.

    Attributes:
        probabilities: Whether to return the probability of every label.
        min_confidence: Less probable labels become -1, 0 to 1; None for no limit.
        only_digits: Whether labels of images with a status become -1.
        explain: Whether to return how each encoded image was prepared.
    """

    probabilities: bool = False
    min_confidence: float | None = None
    only_digits: bool = False
    explain: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """The answers for a batch of images, in the order of the images, all from one version of one model.

    Attributes:
        labels: int64 `[n]`, the most probable label of each image; -1, `UNSURE`, below `min_confidence` and, with
            `only_digits`, for an image with a status.
        confidences: float32 `[n]`, the probability of the most probable label.
        probabilities: float32 `[n, classes]` if requested, else None.
        model_name: The model that answered; for a batch without images, the model that would have answered.
        model_version: Its version.
        label_names: The names of that version's labels. -1 has no name here; see `names`.
        statuses: For each image, why its label may mean nothing: `ImageStatus.DIGIT` if nothing speaks against it.
        errors: For encoded images: the indices of those that could not be read, each with the reason. Their label is
            -1 and their confidence 0.
        preparations: How each of the others was prepared, by index, if requested.
    """

    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None
    model_name: str
    model_version: int
    label_names: Sequence[str]
    statuses: Sequence[ImageStatus]
    errors: Mapping[int, str] = field(default_factory=dict)
    preparations: Mapping[int, PreparedImage] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The name of each image's label. That of -1 is the words of its status, or `unsure`; see `answer_name`."""
        labels = self.labels.tolist()
        return [answer_name(*each, self.label_names) for each in zip(labels, self.statuses, strict=True)]


def answer_name(label: int, status: ImageStatus, label_names: Sequence[str]) -> str:
    """Returns the name of a label; for -1 `no ink`, `several digits` or `no digit`, or else `unsure`."""
    return label_names[label] if label != UNSURE else status.words or UNSURE_NAME


def known_statuses(numbers: Iterable[int]) -> list[ImageStatus]:
    """Returns the statuses with these numbers. One of a newer server that is not known here is `DIGIT`."""
    known = {status.value: status for status in ImageStatus}
    return [known.get(number, ImageStatus.DIGIT) for number in numbers]
