"""Rows of the output: the columns, and their values for a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.client.classification import UNSURE, UNSURE_NAME, answer_name
from serving.images.image_status import ImageStatus
from serving.score.batch import ScoredBatch

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """The columns of a row: id, label, name, confidence; optional probabilities and true label; status, error, model.

    For Kaggle, a row has the columns that its competitions take: `ImageId`, counted from 1, and `Label`. The label is
    its name where the names of all labels are whole numbers, else its number.

    Attributes:
        labels: Names of the model's labels.
        kaggle: Whether the columns are those for Kaggle.
        probabilities: Whether there is a column for the probability of each label.
        expected: Whether there is a column for the true label.
        min_confidence: Less probable answers get the label -1, "unsure".
        only_digits: Whether images with a status get the label -1, with the status as its name.
    """

    labels: tuple[str, ...]
    kaggle: bool = False
    probabilities: bool = False
    expected: bool = False
    min_confidence: float = 0.0
    only_digits: bool = False

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Name and type of each column: `text`, `integer` or `real`."""
        if self.kaggle:
            return [("ImageId", "integer"), ("Label", "integer")]
        return [
            ("id", "text"),
            ("label", "integer"),
            ("name", "text"),
            ("confidence", "real"),
            *(((f"probability_{name}", "real") for name in self.labels) if self.probabilities else ()),
            *([("expected", "text")] if self.expected else []),
            ("status", "text"),
            ("error", "text"),
            ("model_version", "integer"),
            ("model_sha256", "text"),
        ]

    def kept(self, batch: ScoredBatch) -> npt.NDArray[np.bool_]:
        """Returns which answers keep their label, bool `[m]`. Compares in float32, as servers do."""
        kept: npt.NDArray[np.bool_] = batch.scores.confidences >= np.float32(self.min_confidence)
        if self.only_digits and batch.scores.statuses is not None:
            kept &= batch.scores.statuses == ImageStatus.DIGIT
        return kept

    def values(self, batch: ScoredBatch, kept: npt.NDArray[np.bool_], *, first: int) -> list[list[Any]]:
        """Returns a batch as columns of n values each, None for images without an answer.

        Args:
            batch: n images with their answers.
            kept: bool `[m]`, which answers keep their label.
            first: Index of the batch's first image in the whole input.
        """
        scores, count = batch.scores, len(batch)

        def spread(values: Iterable[_T]) -> list[_T | None]:
            if not batch.errors:
                return list(values)
            column: list[_T | None] = [None] * count
            for index, value in zip(batch.indices.tolist(), values, strict=True):
                column[index] = value
            return column

        labels = np.where(kept, scores.labels, UNSURE).tolist()
        if self.kaggle:
            if all(name.isdecimal() for name in self.labels):
                labels = [UNSURE if label == UNSURE else int(self.labels[label]) for label in labels]
            return [list(range(first + 1, first + count + 1)), spread(labels)]
        names = (*self.labels, UNSURE_NAME)  # the label -1 is the last one
        named = [names[label] for label in labels]
        noticed: list[str | None] = [None] * len(labels)
        if scores.statuses is not None:
            for row in np.flatnonzero(scores.statuses).tolist():
                status = ImageStatus(scores.statuses[row])
                named[row], noticed[row] = answer_name(labels[row], status, self.labels), status.words
        columns: list[list[Any]] = [
            batch.ids,
            spread(labels),
            spread(named),
            spread(scores.confidences.tolist()),
        ]
        if self.probabilities and scores.probabilities is not None:
            columns += [spread(column) for column in scores.probabilities.T.tolist()]
        if self.expected:
            columns.append(batch.expected if batch.expected is not None else [None] * count)
        columns.append(spread(noticed))
        columns.append([batch.errors.get(index) for index in range(count)] if batch.errors else [None] * count)
        columns += [[scores.model.version] * count, [scores.model.sha256] * count]
        return columns
