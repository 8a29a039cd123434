"""A run: batches from the input through the scorer to the output, in order, a few at a time."""

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
        source: Where images come from; surveyed already.
        scorer: What answers.
        output: Where rows go.
        limits: How much a batch holds.
        mix_models: Whether rows of several models may be in one output.
    """

    source: Source
    scorer: Scorer
    output: Output
    limits: BatchLimits
    mix_models: bool = False

    def execute(self, progress: Callable[[int], object]) -> None:
        """Scores what is not in the output yet. However it ends, what was scored in order is kept.

        Args:
            progress: Is told the number of images in each batch that was written.

        Raises:
            DigitsError: The input is damaged, no server answers, the output can't be written.
        """
        if self.output.finished:
            return
        try:
            for scored in self._scored():
                self._check_model(scored.scores.model)
                self.output.add(scored)
                progress(len(scored))
        except BaseException:
            self.output.stop()
            raise
        self.output.finish()

    def _scored(self) -> Iterator[ScoredBatch]:
        """Answers in the order of the input, while later batches are on their way: one beside each that is scored."""
        on_their_way: deque[Future[ScoredBatch]] = deque()
        pool = ThreadPoolExecutor(max_workers=self.scorer.parallel, thread_name_prefix="score")
        try:
            for batch in self.source.batches(self.output.rows, self.limits):
                on_their_way.append(pool.submit(self.scorer.score, batch))
                if len(on_their_way) > 2 * self.scorer.parallel:
                    yield on_their_way.popleft().result()
            while on_their_way:
                yield on_their_way.popleft().result()
        finally:
            for waiting in on_their_way:
                waiting.cancel()
            self.scorer.close()
            pool.shutdown(cancel_futures=True)

    def _check_model(self, model: ScoringModel) -> None:
        begun = self.scorer.model
        if model.sha256 == begun.sha256 and model.version == begun.version:
            return
        as_before = (begun.labels, begun.shape, begun.preparation.kind)
        if (model.labels, model.shape, model.preparation.kind) != as_before:
            raise ScoringStopped(
                f"{model} came up, with other labels, size or preparation of images than version {begun.version}; "
                "--model-version asks for one"
            )
        if not self.mix_models:
            raise ScoringStopped(
                f"{model} came up in place of version {begun.version} ({begun.sha256[:12]}…); "
                "--model-version asks for one, --mix-models takes both"
            )
