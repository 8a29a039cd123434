"""Prometheus metrics of this process, and the port that shows them, summed over workers where there are several.

Their sum is prometheus_client's multiprocess mode: each worker keeps its values in files of the directory that
`PROMETHEUS_MULTIPROC_DIR` names, and whoever shows them adds them up. The library reads that variable when it is
imported, so a supervisor sets it in the environment of its workers.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.batch_observer import BatchObserver
from serving.errors import StartFailed

if TYPE_CHECKING:
    from serving.deployment import Deployment
    from serving.rollout import Refusal

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TMPFS = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it

_logger = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one process.

    Args:
        registry: Where they are registered; none in a worker, whose values go to files.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._requests = Counter(
            "digits_requests",
            "Calls that ended, by method and gRPC status code.",
            ("method", "code"),
            registry=registry,
        )
        self._request_s = Histogram(
            "digits_request_duration_seconds",
            "Time from the arrival of a call to its end.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._rejected = Counter(
            "digits_rejected", "Requests that were refused before inference, by reason.", ("reason",), registry=registry
        )
        for reason in ("queue_full", "decoder_full", "deadline", "too_many_calls", "unauthenticated"):
            self._rejected.labels(reason)
        self._queue_s = Histogram(
            "digits_queue_duration_seconds",
            "Time that requests waited for their first batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._inference_s = Histogram(
            "digits_inference_duration_seconds", "Time of a batch in the engine.", buckets=_SECONDS, registry=registry
        )
        self._batch_rows = Histogram("digits_batch_rows", "Images in a batch.", buckets=_ROWS, registry=registry)
        self._queue_rows = Gauge(
            "digits_queue_rows", "Images that wait for a batch.", registry=registry, multiprocess_mode="livesum"
        )
        self._images = Counter("digits_images", "Images that were classified.", ("model", "version"), registry=registry)
        self._model = Gauge(
            "digits_model_info",
            "1 for each model that is served, with its digest and execution provider.",
            ("model", "version", "sha256", "provider"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._refused = Gauge(
            "digits_model_refused",
            "1 for each version in the repository that is not served as it lies there, version 0 for a model's labels.",
            ("model", "version"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._queued_rows = 0
        self._shown: set[Any] = set()
        self._ended: dict[tuple[str, str], tuple[Any, Any]] = {}

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, of all workers where this is one; may block.

        Args:
            accept: The formats that whoever asks can read, as HTTP's header has them; empty for any.

        Returns:
            The text, and the type of its format.
        """
        registry = self._registry
        if registry is None:
            registry = CollectorRegistry()
            if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type

    def rolled_out(self, served: Sequence[Deployment], refusals: Sequence[Refusal]) -> None:
        """Records what is served and what is not."""
        now = {
            self._model.labels(each.name, str(each.version), each.manifest.sha256, each.provider) for each in served
        } | {self._refused.labels(each.name, str(each.version)) for each in refusals}
        for gauge in self._shown - now:
            gauge.set(0)
        for gauge in now:
            gauge.set(1)
        self._shown = now

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """Records the end of a call.

        Args:
            method: Its full name, `/package.Service/Method`.
            code: Name of its gRPC status code.
            seconds: Time since it arrived.
        """
        counters = self._ended.get((method, code))
        if counters is None:  # looking a metric up by its labels costs more than counting
            counters = self._requests.labels(method, code), self._request_s.labels(method)
            self._ended[method, code] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def rejected(self, reason: str) -> None:
        """Records a refusal."""
        self._rejected.labels(reason).inc()

    def batches_of(self, model: str, version: int) -> BatchObserver:
        """Makes the observer of one model's batches."""
        return _Batches(self, self._images.labels(model, str(version)))

    def queue_changed(self, more: int) -> None:
        """Records that so many more images wait, or fewer."""
        self._queued_rows += more
        self._queue_rows.set(self._queued_rows)

    def batch_ended(self, rows: int, inference_s: float, queue_s: Sequence[float]) -> None:
        """Records a batch; see `BatchObserver`."""
        self._batch_rows.observe(rows)
        self._inference_s.observe(inference_s)
        for waited in queue_s:
            self._queue_s.observe(waited)


class _Batches(BatchObserver):
    def __init__(self, metrics: Metrics, images: Any) -> None:
        self._metrics = metrics
        self._images = images
        self._rows = 0

    def queue_changed(self, rows: int) -> None:
        self._metrics.queue_changed(rows - self._rows)
        self._rows = rows

    def batch_ended(self, rows: int, inference_s: float, queue_s: Sequence[float]) -> None:
        self._images.inc(rows)
        self._metrics.batch_ended(rows, inference_s, queue_s)

    def rejected(self, reason: str) -> None:
        self._metrics.rejected(reason)


class SummedMetrics:
    """The metrics of all workers, and those of their supervisor."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "digits_worker_restarts", "Workers that were started in place of dead ones.", registry=self._registry
        )
        self._directory = ""
        self._port: MetricsPort | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What tells workers where to keep their values, if anybody is to see them."""
        return {"PROMETHEUS_MULTIPROC_DIR": self._directory} if self._directory else {}

    def start(self, *, host: str, port: int | None) -> None:
        """Makes the directory of this run, in memory where that can be; shows the sum, if there is a port for it.

        Raises:
            StartFailed: The port is in use, or there is no place for the directory.
        """
        in_memory = _TMPFS if os.access(_TMPFS, os.W_OK) else None
        try:
            self._directory = tempfile.mkdtemp(prefix="digits-metrics-", dir=in_memory)
        except OSError as error:
            raise StartFailed(f"no place for the workers' metrics: {error.strerror}") from error
        MultiProcessCollector(self._registry, path=self._directory)  # type: ignore[no-untyped-call]
        if port is not None:
            self._port = MetricsPort(self._registry, host=host, port=port)

    def worker_restarted(self) -> None:
        """Counts a restart."""
        self._restarts.inc()

    def forget(self, pid: int) -> None:
        """Takes a worker that ended out of what is now; what it counted stays."""
        if self._directory:
            mark_process_dead(pid, path=self._directory)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Stops showing, and removes the directory."""
        if self._port:
            self._port.close()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


class MetricsPort:
    """Shows a registry over HTTP.

    Args:
        registry: What it shows.
        host: Address to listen on.
        port: Port; 0 for any free one.

    Raises:
        StartFailed: The port is in use, or the address is not this machine's.
    """

    def __init__(self, registry: CollectorRegistry, *, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise StartFailed(f"can't show metrics on {host}:{port}: {reason}") from error
        _logger.info("metrics on http://%s:%d/metrics", host, self._server.server_port)

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
