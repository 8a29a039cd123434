"""A classification: the answers for a batch of images, and the options that a caller has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serving.images.preparation import PreparedImage

# The label, and its name, of an image whose most probable label is less probable than min_confidence.
UNSURE = -1
UNSURE_NAME = "unsure"


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What an answer should contain.

    Attributes:
        probabilities: Whether to return the probability of every label.
        min_confidence: Less probable labels become -1, 0 to 1; None for no limit.
        explain: Whether to return how each encoded image was prepared.
    """

    probabilities: bool = False
    min_confidence: float | None = None
    explain: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """The answers for a batch of images, in the order of the images, all from one version of one model.

    Attributes:
        labels: int64 `[n]`, the most probable label of each image; -1, `UNSURE`, below `min_confidence`.
        confidences: float32 `[n]`, the probability of the most probable label.
        probabilities: float32 `[n, classes]` if requested, else None.
        model_name: The model that answered; for a batch without images, the model that would have answered.
        model_version: Its version.
        label_names: The names of that version's labels. -1 has no name here.
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
    errors: Mapping[int, str] = field(default_factory=dict)
    preparations: Mapping[int, PreparedImage] = field(default_factory=dict)
