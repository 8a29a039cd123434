"""The metrics of all workers added up, and of the processes that they are.

The sum is prometheus_client's multiprocess mode: each worker writes its values to files in the directory that
`PROMETHEUS_MULTIPROC_DIR` names, and the collector adds them up. Ours is only the directory, one per run, which the
library leaves to its users. The supervisor sets the variable for its workers, since the library reads it on import.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.errors import StartFailed
from serving.server.telemetry.metrics_server import MetricsServer
from serving.server.telemetry.processes import ServerProcesses

_TMPFS = Path("/dev/shm")  # noqa: S108 - mkdtemp creates a private directory in it


class AggregatedMetrics:
    """The metrics of all workers and of their supervisor."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
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

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Creates the directory, in memory if possible, and serves the sum.

        Args:
            sockets: Bound to the addresses to serve it on; empty for none.

        Raises:
            StartFailed: The directory can't be created.
        """
        in_memory = _TMPFS if os.access(_TMPFS, os.W_OK) else None
        try:
            self._directory = tempfile.mkdtemp(prefix="digits-metrics-", dir=in_memory)
        except OSError as error:
            raise StartFailed(f"can't create a directory for the workers' metrics: {error.strerror}") from error
        MultiProcessCollector(self._registry, path=self._directory)  # type: ignore[no-untyped-call]
        self._registry.register(ServerProcesses(os.getpid()))
        if sockets:
            self._port = MetricsServer(self._registry, sockets)

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
