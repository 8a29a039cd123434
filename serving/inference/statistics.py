"""Statistics of one deployment since it started: counts and times, over all protocols."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serving.inference.batcher import BatchObserver, FloatArray
from serving.inference.request import InferenceResult


@dataclass(kw_only=True)
class DurationStatistic:
    """How often something happened, and how long it took in total.

    Attributes:
        count: Number of times.
        total_s: Total time, in seconds.
    """

    count: int = 0
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Adds one occurrence."""
        self.count += 1
        self.total_s += seconds

    def include(self, other: DurationStatistic) -> None:
        """Adds the occurrences of another statistic."""
        self.count += other.count
        self.total_s += other.total_s


DURATIONS = ("succeeded", "failed", "queued", "inferred", "decoded", "encoded")


@dataclass(kw_only=True)
class Counts:
    """Statistics of one model version.

    Attributes:
        succeeded: Successful requests, from submission to result, including the conversions below.
        failed: Failed requests, including cancelled ones. A request that fails to decode does not count.
        queued: Time that successful requests waited for their first batch.
        inferred: Time that their batches took.
        decoded: Time to convert input tensors to images, for requests with tensors.
        encoded: Time to convert their results to output tensors.
        images: Images of successful requests.
        last_inference_s: Time of the last successful request, in seconds since the epoch; 0 if there was none.
        batches: Batches and their time in the engine, keyed by the number of images.
    """

    succeeded: DurationStatistic = field(default_factory=DurationStatistic)
    failed: DurationStatistic = field(default_factory=DurationStatistic)
    queued: DurationStatistic = field(default_factory=DurationStatistic)
    inferred: DurationStatistic = field(default_factory=DurationStatistic)
    decoded: DurationStatistic = field(default_factory=DurationStatistic)
    encoded: DurationStatistic = field(default_factory=DurationStatistic)
    images: int = 0
    last_inference_s: float = 0.0
    batches: dict[int, DurationStatistic] = field(default_factory=dict)

    def include(self, other: Counts) -> None:
        """Adds the statistics of another process."""
        for name in DURATIONS:
            getattr(self, name).include(getattr(other, name))
        for rows, tally in other.batches.items():
            self.batches.setdefault(rows, DurationStatistic()).include(tally)
        self.images += other.images
        self.last_inference_s = max(self.last_inference_s, other.last_inference_s)


class AnswerObserver(BatchObserver):
    """Receives what a deployment answers, and the events of its batcher. This base class ignores them.

    Of a batch's results it gets the probabilities, float32 `[n, classes]`.
    """

    def unsure(self, images: int) -> None:
        """This many images of a request had a confidence below its `min_confidence`; at least one."""

    def noticed(self, statuses: npt.NDArray[np.int64]) -> None:
        """Something was noticed about the images of a request: int64 `[n]`, numbers of `ImageStatus`."""


class Statistics(AnswerObserver):
    """Counts requests and batches. Not thread-safe: use it on the event loop only.

    Args:
        classes: Columns of the batcher's results that are probabilities, the first ones.
        observer: Receives all events too.
        clock: Returns seconds since the epoch.

    Attributes:
        counts: The statistics so far.
    """

    def __init__(
        self, classes: int, observer: AnswerObserver | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._classes = classes
        self._observer = observer or AnswerObserver()
        self._clock = clock
        self.counts = Counts()

    def request_succeeded(self, result: InferenceResult, seconds: float) -> None:
        """Counts a request that returned its result after this time."""
        self.counts.succeeded.add(seconds)
        self.counts.queued.add(result.queue_s)
        self.counts.inferred.add(result.inference_s)
        self.counts.images += len(result.probabilities)
        self.counts.last_inference_s = self._clock()

    def request_failed(self, seconds: float) -> None:
        """Counts a request that failed or was cancelled after this time."""
        self.counts.failed.add(seconds)

    def converted(self, decode_s: float, encode_s: float) -> None:
        """Adds the times of a successful request's conversions from and to tensors."""
        self.counts.succeeded.total_s += decode_s + encode_s
        self.counts.decoded.add(decode_s)
        self.counts.encoded.add(encode_s)

    def queue_changed(self, rows: int) -> None:
        """Passes the event on."""
        self._observer.queue_changed(rows)

    def batch_ended(self, results: FloatArray, inference_s: float, queue_s: Sequence[float]) -> None:
        """Counts the batch and passes the event on."""
        self.counts.batches.setdefault(len(results), DurationStatistic()).add(inference_s)
        self._observer.batch_ended(results[:, : self._classes], inference_s, queue_s)

    def unsure(self, images: int) -> None:
        """Passes the event on."""
        self._observer.unsure(images)

    def noticed(self, statuses: npt.NDArray[np.int64]) -> None:
        """Passes the event on."""
        self._observer.noticed(statuses)

    def rejected(self, reason: str) -> None:
        """Passes the event on."""
        self._observer.rejected(reason)
