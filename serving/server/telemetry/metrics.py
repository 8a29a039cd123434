"""Prometheus metrics of one process."""

from __future__ import annotations

import collections
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from serving.inference.statistics import AnswerObserver
from serving.server.telemetry.answer_metrics import AnswerMetrics, ModelAnswers
from serving.server.telemetry.processes import ServerProcesses

if TYPE_CHECKING:
    from serving.repository.repository import StoredModel
    from serving.rollout.deployment import Deployment
    from serving.rollout.rollout import Refusal
    from serving.server.telemetry.calls import Call

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Taken from the repository and never from a client, so there are no more series than versions that were served.
_VERSION = ("model", "version")
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one process.

    Args:
        registry: Contains the metrics; None in a worker, which writes them to files (see `aggregated_metrics`).
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        if registry is not None:
            ProcessCollector(registry=registry)
        self._registry = registry
        self._requests = Counter(
            "digits_requests",
            "Number of finished calls and finished requests in streams, by method and gRPC status code.",
            ("method", "code", *_VERSION),
            registry=registry,
        )
        self._request_s = Histogram(
            "digits_request_duration_seconds",
            "Time from the arrival of a call, or of a request in a stream, to its end, in seconds.",
            ("method", *_VERSION),
            buckets=_SECONDS,
            registry=registry,
        )
        self._rejected = Counter(
            "digits_rejected", "Number of requests refused before inference, by reason.", ("reason",), registry=registry
        )
        for reason in ("queue_full", "decoder_full", "deadline", "too_many_calls", "unauthenticated"):
            self._rejected.labels(reason)
        self._queue_s = Histogram(
            "digits_queue_duration_seconds",
            "Time that requests waited for their first batch, in seconds.",
            _VERSION,
            buckets=_SECONDS,
            registry=registry,
        )
        self._inference_s = Histogram(
            "digits_inference_duration_seconds",
            "Time of a batch in the engine, in seconds.",
            _VERSION,
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "digits_batch_rows", "Number of images in a batch.", _VERSION, buckets=_ROWS, registry=registry
        )
        self._queue_rows = Gauge(
            "digits_queue_rows",
            "Number of images waiting for a batch.",
            _VERSION,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._images = Counter("digits_images", "Number of classified images.", _VERSION, registry=registry)
        self._model = Gauge(
            "digits_model_info",
            "1 for each served model version, with its digest, execution provider and precision.",
            (*_VERSION, "sha256", "provider", "precision"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._refused = Gauge(
            "digits_model_refused",
            "1 for each version that is refused as it is in the repository; version 0 for a model's labels.",
            _VERSION,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._answers = AnswerMetrics(registry)
        self._shown: set[Any] = set()
        self._ended: dict[tuple[str, ...], tuple[Any, Any]] = {}

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Formats the metrics, in a worker those of all workers. May block.

        Args:
            accept: HTTP's Accept header; empty for any format.

        Returns:
            The text and its media type.
        """
        registry = self._registry
        if registry is None:
            registry = CollectorRegistry()
            if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
                registry.register(ServerProcesses(os.getppid()))
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type

    def rolled_out(self, served: Sequence[Deployment], refusals: Sequence[Refusal]) -> None:
        """Records which versions are served and which are refused."""
        now = {
            self._model.labels(each.name, str(each.version), each.manifest.sha256, each.provider, each.precision)
            for each in served
        } | {self._refused.labels(each.name, str(each.version)) for each in refusals}
        for gauge in self._shown - now:
            gauge.set(0)
        for gauge in now:
            gauge.set(1)
        self._shown = now

    def call_ended(self, call: Call, code: str, seconds: float) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        stream = call.is_stream
        self.calls_ended(call.method, "" if stream else call.model, "" if stream else call.version, code, (seconds,))

    def request_ended(self, request: Call, code: str, seconds: float) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        self.calls_ended(request.method, request.model, request.version, code, (seconds,))

    def calls_ended(self, method: str, model: str, version: str, code: str, seconds: Sequence[float]) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        counters = self._ended.get((method, code, model, version))
        if counters is None:  # looking up a metric by its labels costs more than counting
            counters = (
                self._requests.labels(method, code, model, version),
                self._request_s.labels(method, model, version),
            )
            self._ended[method, code, model, version] = counters
        counters[0].inc(len(seconds))
        _observe(counters[1], seconds)

    def rejected(self, reason: str) -> None:
        """Counts a refused request."""
        self._rejected.labels(reason).inc()

    def answers_of(self, stored: StoredModel) -> AnswerObserver:
        """Returns an observer for the batches and answers of one model version."""
        return _Version(self, stored.name, str(stored.version), self._answers.of(stored))


class _Version(AnswerObserver):
    """Records batches and answers of one model version.

    Two deployments of one version share its series, so the queue is added. Looking up the series once saves time for
    each batch.
    """

    def __init__(self, metrics: Metrics, model: str, version: str, answers: ModelAnswers) -> None:
        self._metrics = metrics
        self._answers = answers
        self._images = metrics._images.labels(model, version)
        self._batch_rows = metrics._batch_rows.labels(model, version)
        self._inference_s = metrics._inference_s.labels(model, version)
        self._queue_s = metrics._queue_s.labels(model, version)
        self._queue_rows = metrics._queue_rows.labels(model, version)
        self._rows = 0

    def queue_changed(self, rows: int) -> None:
        self._queue_rows.inc(rows - self._rows)
        self._rows = rows

    def batch_ended(self, results: npt.NDArray[np.float32], inference_s: float, queue_s: Sequence[float]) -> None:
        self._images.inc(len(results))
        self._batch_rows.observe(len(results))
        self._inference_s.observe(inference_s)
        _observe(self._queue_s, queue_s)
        self._answers.add(results)

    def unsure(self, images: int) -> None:
        self._answers.add_unsure(images)

    def noticed(self, statuses: npt.NDArray[np.int64]) -> None:
        self._answers.add_statuses(statuses)

    def rejected(self, reason: str) -> None:
        self._metrics.rejected(reason)


def _observe(histogram: Any, values: Sequence[float]) -> None:
    """Adds values to a histogram, with few steps for many: `Histogram.observe` takes as long for each as for all."""
    if len(values) < 3:
        for value in values:
            histogram.observe(value)
        return
    counts = collections.Counter(bisect_left(histogram._upper_bounds, value) for value in values)
    histogram._sum.inc(sum(values))
    for bucket, count in counts.items():
        histogram._buckets[bucket].inc(count)
