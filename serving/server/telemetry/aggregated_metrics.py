"""The port that shows a process's metrics, and the sum of all workers' in their supervisor.

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
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.errors import StartFailed

_TMPFS = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it

_logger = logging.getLogger(__name__)


class AggregatedMetrics:
    """The metrics of all workers, and those of their supervisor."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "digits_worker_restarts", "Workers that were started in place of dead ones.", registry=self._registry
        )
        self._directory = ""
        self._port: MetricsServer | None = None

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
            self._port = MetricsServer(self._registry, host=host, port=port)

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


class MetricsServer:
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
