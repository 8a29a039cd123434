"""Rows of the output: which columns there are, and a batch's answers in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.client.classification import UNSURE, UNSURE_NAME
from serving.score.batch import ScoredBatch

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """What a row holds: id, label, name, confidence; by option probabilities and the true label; error and model.

    Attributes:
        labels: Names of the model's labels.
        probabilities: Whether there is a column for the probability of each label.
        expected: Whether there is a column for the true label.
        min_confidence: Answers that are less probable get the label -1, "unsure".
    """

    labels: tuple[str, ...]
    probabilities: bool = False
    expected: bool = False
    min_confidence: float = 0.0

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Name and type of each column: `text`, `integer` or `real`."""
        return [
            ("id", "text"),
            ("label", "integer"),
            ("name", "text"),
            ("confidence", "real"),
            *(((f"probability_{name}", "real") for name in self.labels) if self.probabilities else ()),
            *([("expected", "text")] if self.expected else []),
            ("error", "text"),
            ("model_version", "integer"),
            ("model_sha256", "text"),
        ]

    def sure(self, batch: ScoredBatch) -> npt.NDArray[np.bool_]:
        """Which answers are probable enough, bool `[m]`; compared in float32, as servers do."""
        enough: npt.NDArray[np.bool_] = batch.scores.confidences >= np.float32(self.min_confidence)
        return enough

    def values(self, batch: ScoredBatch, sure: npt.NDArray[np.bool_]) -> list[list[Any]]:
        """A batch as columns of n values each, None where there is no answer."""
        scores, count = batch.scores, len(batch)

        def spread(values: Iterable[_T]) -> list[_T | None]:
            if not batch.errors:
                return list(values)
            placed: list[_T | None] = [None] * count
            for place, value in zip(batch.places.tolist(), values, strict=True):
                placed[place] = value
            return placed

        labels = np.where(sure, scores.labels, UNSURE).tolist()
        names = (*self.labels, UNSURE_NAME)  # -1 is the last
        columns: list[list[Any]] = [
            batch.ids,
            spread(labels),
            spread([names[label] for label in labels]),
            spread(scores.confidences.tolist()),
        ]
        if self.probabilities and scores.probabilities is not None:
            columns += [spread(column) for column in scores.probabilities.T.tolist()]
        if self.expected:
            columns.append(batch.expected if batch.expected is not None else [None] * count)
        columns.append([batch.errors.get(place) for place in range(count)] if batch.errors else [None] * count)
        columns += [[scores.model.version] * count, [scores.model.sha256] * count]
        return columns
