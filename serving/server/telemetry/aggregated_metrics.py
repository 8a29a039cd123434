"""The metrics port of a process, and the metrics of all workers added up.

The sum is prometheus_client's multiprocess mode: each worker writes its values to files in the directory that
`PROMETHEUS_MULTIPROC_DIR` names, and the collector adds them up. Ours is only the directory, one per run, which the
library leaves to its users. The supervisor sets the variable for its workers, since the library reads it on import.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.errors import StartFailed

_TMPFS = Path("/dev/shm")  # noqa: S108 - mkdtemp creates a private directory in it

_logger = logging.getLogger(__name__)


class AggregatedMetrics:
    """The metrics of all workers and of their supervisor."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "digits_worker_restarts", "Number of workers restarted after they died.", registry=self._registry
        )
        self._directory = ""
        self._port: MetricsServer | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variable that tells workers where to write their values; empty if no port shows them."""
        return {"PROMETHEUS_MULTIPROC_DIR": self._directory} if self._directory else {}

    def start(self, *, host: str, port: int | None) -> None:
        """Creates the directory, in memory if possible, and serves the sum if there is a port for it.

        Raises:
            StartFailed: The port is in use, or the directory can't be created.
        """
        in_memory = _TMPFS if os.access(_TMPFS, os.W_OK) else None
        try:
            self._directory = tempfile.mkdtemp(prefix="digits-metrics-", dir=in_memory)
        except OSError as error:
            raise StartFailed(f"can't create a directory for the workers' metrics: {error.strerror}") from error
        MultiProcessCollector(self._registry, path=self._directory)  # type: ignore[no-untyped-call]
        if port is not None:
            self._port = MetricsServer(self._registry, host=host, port=port)

    def worker_restarted(self) -> None:
        """Counts a restart."""
        self._restarts.inc()

    def remove(self, pid: int) -> None:
        """Removes the gauges of a worker that has ended; its counters remain in the sum."""
        if self._directory:
            mark_process_dead(pid, path=self._directory)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Closes the port, and deletes the directory."""
        if self._port:
            self._port.close()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


class MetricsServer:
    """Serves the metrics of a registry over HTTP.

    Args:
        registry: The metrics.
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
            raise StartFailed(f"can't serve metrics on {host}:{port}: {reason}") from error
        _logger.info("metrics on http://%s:%d/metrics", host, self._server.server_port)

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
