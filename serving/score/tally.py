"""The totals of a run: counts and, if true labels are known, confusion and the worst mistakes.

scikit-learn would need all rows at once and is not a dependency of scoring, so this is ours.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.images.image_status import ImageStatus
from serving.score.batch import ScoredBatch

_WORST = 10
_REASONS = 100
OTHERS = "something else"


@dataclass(frozen=True, kw_only=True, order=True)
class Mistake:
    """An image whose answer is not its true label. The more confident the model was, the worse.

    Attributes:
        confidence: Probability of the answer.
        id: Its name.
        expected: Its true label.
        answer: The label that the model gave it.
    """

    confidence: float
    id: str
    expected: str
    answer: str


@dataclass(kw_only=True)
class Tally:
    """Totals over rows. Those of the parts add up to those of the run, wherever parts end.

    Attributes:
        labels: Names of the model's labels.
        images: Rows.
        errors: Rows without an answer.
        unsure: Rows whose answer is less probable than `min_confidence`, except those with a status.
        statuses: Rows by what was noticed about the image: `no ink` and so on.
        unknown: Rows whose true label the model does not have.
        confusion: int64 `[classes, classes + 1]`, rows by true label and answer; the last column is for the label -1.
        mistakes: The worst mistakes, worst first.
        reasons: Rows without an answer by reason; one entry for all but the first hundred in the alphabet.
    """

    labels: tuple[str, ...]
    images: int = 0
    errors: int = 0
    unsure: int = 0
    unknown: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    confusion: npt.NDArray[np.int64] = field(init=False)
    mistakes: list[Mistake] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.labels), len(self.labels) + 1), np.int64)
        # A table may have the names of labels or their numbers.
        numbers = {str(number): number for number in range(len(self.labels))}
        self._numbers = numbers | {name: number for number, name in enumerate(self.labels)}

    def add(self, batch: ScoredBatch, kept: npt.NDArray[np.bool_]) -> None:
        """Adds a batch; `kept`, bool `[m]`, says which answers keep their label."""
        self.images += len(batch)
        self.errors += len(batch.errors)
        unsure = ~kept
        if (statuses := batch.scores.statuses) is not None:
            unsure &= statuses == ImageStatus.DIGIT
            for status in ImageStatus:
                if status is not ImageStatus.DIGIT and (count := int(np.count_nonzero(statuses == status))):
                    self.statuses[status.words] = self.statuses.get(status.words, 0) + count
        self.unsure += int(np.count_nonzero(unsure))
        self._count(Counter(batch.errors.values()))
        if batch.expected is None:
            return
        names = [batch.expected[index] for index in batch.indices]
        true = np.array([-1 if name is None else self._numbers.get(name, -2) for name in names], np.int64)
        self.unknown += int(np.count_nonzero(true == -2))
        answers = np.where(kept, batch.scores.labels, len(self.labels))
        known = true >= 0
        np.add.at(self.confusion, (true[known], answers[known]), 1)
        wrong = np.flatnonzero(known & kept & (batch.scores.labels != true))
        found = (
            Mistake(
                confidence=round(float(batch.scores.confidences[row]), 6),
                id=batch.ids[batch.indices[row]],
                expected=self.labels[true[row]],
                answer=self.labels[batch.scores.labels[row]],
            )
            for row in wrong
        )
        self.mistakes = heapq.nlargest(_WORST, [*self.mistakes, *found])

    def merge(self, other: Tally) -> None:
        """Adds the totals of another part."""
        self.images += other.images
        self.errors += other.errors
        self.unsure += other.unsure
        self.unknown += other.unknown
        self.confusion += other.confusion
        self.mistakes = heapq.nlargest(_WORST, [*self.mistakes, *other.mistakes])
        self._count(other.reasons)
        for words, count in other.statuses.items():
            self.statuses[words] = self.statuses.get(words, 0) + count

    def to_document(self) -> dict[str, Any]:
        """Returns all totals as a JSON document."""
        return {
            **{name: getattr(self, name) for name in ("images", "errors", "unsure", "unknown")},
            "statuses": dict(sorted(self.statuses.items())),
            "reasons": dict(sorted(self.reasons.items())),
            "confusion": self.confusion.tolist() if self.confusion.any() else None,
            "mistakes": [vars(mistake) for mistake in self.mistakes],
        }

    def _count(self, reasons: Mapping[str, int]) -> None:
        """Counts reasons. Not all are kept apart, since every image may have a reason of its own.

        Which ones are does not depend on where parts end: of the first hundred of all, each is among those of its part.
        """
        found = Counter(self.reasons)
        found.update(reasons)
        others = found.pop(OTHERS, 0)
        kept = sorted(found)[:_REASONS]
        others += found.total() - sum(found[reason] for reason in kept)
        self.reasons = {reason: found[reason] for reason in kept} | ({OTHERS: others} if others else {})

    @classmethod
    def from_document(cls, labels: tuple[str, ...], document: Mapping[str, Any]) -> Tally:
        """Reads what `to_document` returned."""
        tally = cls(labels=labels, **{key: document[key] for key in ("images", "errors", "unsure", "unknown")})
        tally.reasons = dict(document["reasons"])
        tally.statuses = dict(document.get("statuses", {}))  # earlier releases have none
        if document["confusion"] is not None:
            tally.confusion = np.array(document["confusion"], np.int64)
        tally.mistakes = [Mistake(**mistake) for mistake in document["mistakes"]]
        return tally
