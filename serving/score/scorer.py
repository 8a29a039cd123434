"""Whatever answers for images: engines in this process, servers, or actors of a Ray cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from serving.errors import DigitsError
from serving.score.batch import Batch, ScoredBatch, Scores, ScoringModel, Uint8Array
from serving.score.decode import decode_batch


class ScoringStopped(DigitsError):
    """A run that can't go on now. What was scored is kept; `--resume` goes on from there."""


class VersionGone(ScoringStopped):
    """The version that a run was begun with is not served, or not any more."""


class Scorer(ABC):
    """Answers for batches, several at a time.

    Attributes:
        model: The model that answered when the scorer was made.
        parallel: How many batches are scored at a time.
    """

    model: ScoringModel
    parallel: int

    @abstractmethod
    def score(self, batch: Batch) -> ScoredBatch:
        """Decodes and scores a batch; called from `parallel` threads.

        Raises:
            ScoringStopped: It can't be had, also after trying again.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends what was started; batches that are waited for fail."""


class PixelScorer(Scorer):
    """A scorer that decodes in the thread that calls it."""

    @abstractmethod
    def infer(self, images: Uint8Array) -> Scores:
        """Scores uint8 `[m, height, width, channels]`, m at least 1."""

    def score(self, batch: Batch) -> ScoredBatch:
        """See `Scorer.score`."""
        images, places, errors = decode_batch(batch, self.model.preparation)
        if len(images):
            scores = self.infer(images)
        else:
            nothing = np.empty(0, np.float32)
            no_rows = np.empty((0, len(self.model.labels)), np.float32)
            scores = Scores(model=self.model, labels=np.empty(0, np.int64), confidences=nothing, probabilities=no_rows)
        return ScoredBatch(ids=batch.ids, expected=batch.expected, places=places, errors=errors, scores=scores)
