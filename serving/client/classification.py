"""A classification: the answers for a batch of images, and what may be asked for with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serving.images.preparation import PreparedImage

# The label of an image whose best label is less probable than the caller's min_confidence, and what it is called.
UNSURE = -1
UNSURE_NAME = "unsure"


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What a caller wants to know.

    Attributes:
        probabilities: Whether to ask for the probability of every label.
        min_confidence: Below it, 0 to 1, labels are -1; None for never.
        explain: Whether to ask what was made of each encoded image.
    """

    probabilities: bool = False
    min_confidence: float | None = None
    explain: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """The answers for a batch of images, in the order of the images, all by one version of one model.

    Attributes:
        labels: int64 `[n]`, the most probable label of each image; -1, `UNSURE`, below `min_confidence`.
        confidences: float32 `[n]`, the probability of the most probable label.
        probabilities: float32 `[n, classes]` where they were asked for, else None.
        model_name: The model that answered; for no images the one that would have.
        model_version: Its version.
        label_names: The names of that version's labels; -1 is none of them.
        errors: For encoded images: the places of those that could not be read, each with the reason. Their label is -1
            and their confidence 0.
        preparations: What was made of each of the others, by their places, where that was asked for.
    """

    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None
    model_name: str
    model_version: int
    label_names: Sequence[str]
    errors: Mapping[int, str] = field(default_factory=dict)
    preparations: Mapping[int, PreparedImage] = field(default_factory=dict)
