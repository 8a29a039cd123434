"""A pool of classifiers, which scores several batches at a time."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from serving.errors import DigitsError
from serving.score.batch import Batch, ScoredBatch, ScoringModel


class ScoringStopped(DigitsError):
    """A run that can't continue now. What was scored is kept; `--resume` continues from there."""


class VersionGone(ScoringStopped):
    """The version that a run started with is not served, or not any more."""


class Scorer:
    """A pool of classifiers.

    Args:
        model: The model that the run starts with.
        classifiers: Functions that classify a batch. Each is called by one thread at a time, so a function that several
            threads may call occurs several times.

    Attributes:
        model: The model that the run starts with.
        parallel: How many batches are scored at a time.
    """

    def __init__(self, model: ScoringModel, classifiers: Sequence[Callable[[Batch], ScoredBatch]]) -> None:
        self.model = model
        self.parallel = len(classifiers)
        self._idle: queue.SimpleQueue[Callable[[Batch], ScoredBatch]] = queue.SimpleQueue()
        for classify in classifiers:
            self._idle.put(classify)

    def score(self, batch: Batch) -> ScoredBatch:
        """Scores a batch with the next idle classifier; called from `parallel` threads.

        Raises:
            ScoringStopped: There is no answer, even after retries.
        """
        classify = self._idle.get()
        try:
            return classify(batch)
        finally:
            self._idle.put(classify)

    def close(self) -> None:
        """Releases what the classifiers hold; batches that are being scored fail. May be called again."""
