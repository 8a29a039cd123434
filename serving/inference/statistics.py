"""What one deployment has done since it started, counted and timed, over every protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.inference.batcher import BatchObserver
from serving.inference.pending import Answer


@dataclass(kw_only=True)
class Tally:
    """How often something happened, and how long it took in all.

    Attributes:
        count: How often.
        total_s: In seconds, added up.
    """

    count: int = 0
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts once more."""
        self.count += 1
        self.total_s += seconds

    def include(self, other: Tally) -> None:
        """Adds what another has counted."""
        self.count += other.count
        self.total_s += other.total_s


TALLIES = ("succeeded", "failed", "queued", "inferred", "decoded", "encoded")


@dataclass(kw_only=True)
class Counts:
    """What was counted of one version.

    Attributes:
        succeeded: Requests that were answered, from submission to answer, with the conversions named below.
        failed: Requests that were not, cancelled ones among them. What is refused while it is decoded is no request.
        queued: How long the answered ones waited for their first batch.
        inferred: How long their batches took.
        decoded: How long it took to make images of tensors, for requests that came as such.
        encoded: How long it took to make tensors of their answers.
        images: Images that were answered.
        last_inference_s: When a request was last answered, in seconds since the epoch; 0 for never.
        batches: Batches and their time in the engine, by their number of images.
    """

    succeeded: Tally = field(default_factory=Tally)
    failed: Tally = field(default_factory=Tally)
    queued: Tally = field(default_factory=Tally)
    inferred: Tally = field(default_factory=Tally)
    decoded: Tally = field(default_factory=Tally)
    encoded: Tally = field(default_factory=Tally)
    images: int = 0
    last_inference_s: float = 0.0
    batches: dict[int, Tally] = field(default_factory=dict)

    def include(self, other: Counts) -> None:
        """Adds what another process has counted."""
        for name in TALLIES:
            getattr(self, name).include(getattr(other, name))
        for rows, tally in other.batches.items():
            self.batches.setdefault(rows, Tally()).include(tally)
        self.images += other.images
        self.last_inference_s = max(self.last_inference_s, other.last_inference_s)


class Statistics(BatchObserver):
    """Counts requests and batches. Used on the event loop alone.

    Args:
        then: Is told of batches too.
        clock: Seconds since the epoch.

    Attributes:
        counts: What was counted.
    """

    def __init__(self, then: BatchObserver | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._then = then or BatchObserver()
        self._clock = clock
        self.counts = Counts()

    def request_succeeded(self, answer: Answer, seconds: float) -> None:
        """Counts a request that was answered after so many seconds."""
        self.counts.succeeded.add(seconds)
        self.counts.queued.add(answer.queue_s)
        self.counts.inferred.add(answer.inference_s)
        self.counts.images += len(answer.probabilities)
        self.counts.last_inference_s = self._clock()

    def request_failed(self, seconds: float) -> None:
        """Counts a request that failed, or was given up, after so many seconds."""
        self.counts.failed.add(seconds)

    def converted(self, decode_s: float, encode_s: float) -> None:
        """Counts the conversions from and to tensors of one request that succeeded, in seconds."""
        self.counts.succeeded.total_s += decode_s + encode_s
        self.counts.decoded.add(decode_s)
        self.counts.encoded.add(encode_s)

    def queue_changed(self, rows: int) -> None:
        """Passed on."""
        self._then.queue_changed(rows)

    def batch_ended(self, rows: int, inference_s: float, queue_s: Sequence[float]) -> None:
        """Counts a batch, and passes it on."""
        self.counts.batches.setdefault(rows, Tally()).add(inference_s)
        self._then.batch_ended(rows, inference_s, queue_s)

    def rejected(self, reason: str) -> None:
        """Passed on."""
        self._then.rejected(reason)
