"""What a run adds up to: counts, and with true labels known, accuracy, confusion and the worst mistakes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.score.batch import ScoredBatch

_WORST = 10
_OTHERS = "something else"


@dataclass(frozen=True, kw_only=True, order=True)
class Mistake:
    """An image that got another label than its own; the surer the model was, the worse.

    Attributes:
        confidence: Probability of the label that it got.
        id: Its name.
        expected: Its label.
        answer: The label that it got.
    """

    confidence: float
    id: str
    expected: str
    answer: str


@dataclass(kw_only=True)
class Tally:
    """Sums over rows; those of parts add up to those of the whole.

    Attributes:
        labels: Names of the model's labels.
        images: Rows.
        errors: Rows without an answer.
        unsure: Rows whose answer is less probable than was asked for.
        unknown: Rows whose true label is none of the model's.
        confusion: int64 `[classes, classes + 1]`: rows by true label and answer, the last column for unsure ones.
        mistakes: The worst, worst first.
        reasons: Rows by what was wrong with them; the first few reasons, the others together.
    """

    labels: tuple[str, ...]
    images: int = 0
    errors: int = 0
    unsure: int = 0
    unknown: int = 0
    confusion: npt.NDArray[np.int64] = field(init=False)
    mistakes: list[Mistake] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.labels), len(self.labels) + 1), np.int64)
        # A column of a table may hold a label's name or its number.
        numbers = {str(number): number for number in range(len(self.labels))}
        self._numbers = numbers | {name: number for number, name in enumerate(self.labels)}

    def add(self, batch: ScoredBatch, sure: npt.NDArray[np.bool_]) -> None:
        """Counts a batch; `sure`, bool `[m]`, tells of each answer whether it is probable enough."""
        self.images += len(batch)
        self.errors += len(batch.errors)
        self.unsure += int(len(sure) - np.count_nonzero(sure))
        for reason in batch.errors.values():
            self._count(reason, 1)
        if batch.expected is None:
            return
        names = [batch.expected[place] for place in batch.places]
        true = np.array([-1 if name is None else self._numbers.get(name, -2) for name in names], np.int64)
        self.unknown += int(np.count_nonzero(true == -2))
        answers = np.where(sure, batch.scores.labels, len(self.labels))
        known = true >= 0
        np.add.at(self.confusion, (true[known], answers[known]), 1)
        wrong = np.flatnonzero(known & sure & (batch.scores.labels != true))
        found = [
            Mistake(
                confidence=round(float(batch.scores.confidences[row]), 6),
                id=batch.ids[batch.places[row]],
                expected=self.labels[true[row]],
                answer=self.labels[batch.scores.labels[row]],
            )
            for row in wrong[np.argsort(-batch.scores.confidences[wrong], kind="stable")[:_WORST]]
        ]
        self.mistakes = heapq.nlargest(_WORST, [*self.mistakes, *found])

    def merge(self, other: Tally) -> None:
        """Takes the sums of another part."""
        self.images += other.images
        self.errors += other.errors
        self.unsure += other.unsure
        self.unknown += other.unknown
        self.confusion += other.confusion
        self.mistakes = heapq.nlargest(_WORST, [*self.mistakes, *other.mistakes])
        for reason, count in other.reasons.items():
            self._count(reason, count)

    def to_document(self) -> dict[str, Any]:
        """All sums as JSON has them."""
        return {
            **{name: getattr(self, name) for name in ("images", "errors", "unsure", "unknown", "reasons")},
            "confusion": self.confusion.tolist() if self.confusion.any() else None,
            "mistakes": [vars(mistake) for mistake in self.mistakes],
        }

    def _count(self, reason: str, count: int) -> None:
        """Counts a reason; a few different ones are kept apart, since each image may have one of its own."""
        if reason not in self.reasons and len(self.reasons) >= _WORST:
            reason = _OTHERS
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    @classmethod
    def of_document(cls, labels: tuple[str, ...], document: Mapping[str, Any]) -> Tally:
        """What `to_document` gave."""
        made = cls(labels=labels, **{key: document[key] for key in ("images", "errors", "unsure", "unknown")})
        made.reasons = dict(document["reasons"])
        if document["confusion"] is not None:
            made.confusion = np.array(document["confusion"], np.int64)
        made.mistakes = [Mistake(**mistake) for mistake in document["mistakes"]]
        return made
