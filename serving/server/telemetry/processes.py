"""The standard `process_` metrics for a server of several processes: the sum over the supervisor and its workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric, ProcessCollector
from prometheus_client.registry import Collector

# Fields of /proc/PID/stat after the name: the CPU time of children that have ended, in ticks; see proc_pid_stat(5).
_ENDED_CHILDREN = slice(13, 15)


class ServerProcesses(Collector):
    """Collects what prometheus_client's `ProcessCollector` does, added up over a process and its children.

    The start time is that of the process itself. CPU time includes that of children that have ended, so it never
    decreases. Memory that processes share counts once for each of them.

    Args:
        pid: The supervisor.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._proc = Path("/proc") / str(pid)

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics now."""
        found = {metric.name: metric for metric in _collect(self._pid)}
        for pid in self._children():
            for metric in _collect(pid):
                if metric.name in found and metric.name != "process_start_time_seconds":
                    _add(found[metric.name], metric.samples[0].value)
        if "process_cpu_seconds" in found:
            _add(found["process_cpu_seconds"], self._ended_children_s())
        return found.values()

    def _children(self) -> list[int]:
        """Returns the processes that any thread has started."""
        children: list[int] = []
        for file in self._proc.glob("task/*/children"):
            with contextlib.suppress(OSError):  # the thread has just ended
                children += map(int, file.read_text(encoding="ascii").split())
        return children

    def _ended_children_s(self) -> float:
        try:
            fields = (self._proc / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, fields[_ENDED_CHILDREN])) / os.sysconf("SC_CLK_TCK")


def _collect(pid: int) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _add(metric: Metric, value: float) -> None:
    metric.samples[0] = metric.samples[0]._replace(value=metric.samples[0].value + value)
