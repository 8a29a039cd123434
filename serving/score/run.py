"""A run: batches go from the input through the scorer to the output, in order, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from serving.score.batch import BatchLimits, ScoredBatch, ScoringModel
from serving.score.output import Output
from serving.score.scorer import Scorer, ScoringStopped
from serving.score.source import Source


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that a run needs.

    Attributes:
        source: Where images come from; already surveyed.
        scorer: What scores them.
        output: Where rows go.
        limits: The size of a batch.
        mix_models: Whether the output may contain rows from several models.
    """

    source: Source
    scorer: Scorer
    output: Output
    limits: BatchLimits
    mix_models: bool = False

    def execute(self, progress: Callable[[int], object]) -> None:
        """Scores the images that are not in the output yet. Keeps what was scored, even if it fails.

        Args:
            progress: Called with the number of images in each batch that was written.

        Raises:
            DigitsError: The input is damaged, no server answers, or the output can't be written.
        """
        if self.output.finished:
            return
        try:
            # Python raises KeyboardInterrupt in the main thread only: a thread of its own writes each batch whole.
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="write") as writer:
                for scored in self._scored():
                    self._check_model(scored.scores.model)
                    writer.submit(self.output.add, scored).result()
                    progress(len(scored))
        except BaseException:
            self.output.stop()
            raise
        self.output.finish()

    def _scored(self) -> Iterator[ScoredBatch]:
        """Yields scored batches in order. For each batch that is being scored, one more is read in advance."""
        pending: deque[Future[ScoredBatch]] = deque()
        pool = ThreadPoolExecutor(max_workers=self.scorer.parallel, thread_name_prefix="score")
        try:
            for batch in self.source.batches(self.output.rows, self.limits):
                pending.append(pool.submit(self.scorer.score, batch))
                if len(pending) > 2 * self.scorer.parallel:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            self.scorer.close()
            pool.shutdown(cancel_futures=True)

    def _check_model(self, model: ScoringModel) -> None:
        first = self.scorer.model
        if model.sha256 == first.sha256 and model.version == first.version:
            return
        expected = (first.labels, first.shape, first.preparation.kind)
        if (model.labels, model.shape, model.preparation.kind) != expected:
            raise ScoringStopped(
                f"{model} came up, with labels, image size or preparation that differ from version {first.version}; "
                "choose one version with --model-version"
            )
        if not self.mix_models:
            raise ScoringStopped(
                f"{model} came up in place of version {first.version} ({first.sha256[:12]}…); "
                "choose one version with --model-version, or allow both with --mix-models"
            )
