"""Targets: servers to measure, and the processor time and memory that they use."""

from __future__ import annotations

import contextlib
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from serving.bench.measurement import BenchFailed

_STARTING_S = 120.0
_STOPPING_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server to measure.

    Attributes:
        address: Address of the server, `host:port`.
        pid: Its main process; None if it is unknown or on another machine.
    """

    address: str
    pid: int | None = None

    def cpu_s(self) -> float | None:
        """Returns the user and system time of the process tree so far, in seconds; None if it can't be read.

        Includes processes that have ended, once their parent has waited for them.
        """
        # User, system, and the same of children that were waited for
        return self._sum(lambda process: sum(process.cpu_times()[:4]))

    def memory_bytes(self) -> float | None:
        """Returns the resident memory of the process tree; None if it can't be read.

        Memory that several processes share counts in each of them.
        """
        return self._sum(lambda process: process.memory_info().rss)

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float | None:
        if self.pid is None:
            return None
        try:
            first = psutil.Process(self.pid)
            tree = [first, *first.children(recursive=True)]
        except psutil.Error:
            return None
        figures = []
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                figures.append(figure(process))
        return sum(figures) if figures else None


@contextlib.contextmanager
def digits_server(options: Sequence[str]) -> Iterator[Target]:
    """Runs `digits-serve` on a free port of this machine.

    Args:
        options: More options; the last one wins.

    Raises:
        BenchFailed: It does not start.
    """
    first = ["--host", "127.0.0.1", "--port", "0", "--log-level", "warning"]
    with _announcing(["serving", "serve", *first, *options]) as target:
        yield target


@contextlib.contextmanager
def echo_server() -> Iterator[Target]:
    """Runs `serving.bench.echo`.

    Raises:
        BenchFailed: It does not start.
    """
    with _announcing(["serving.bench.echo"]) as target:
        yield target


@contextlib.contextmanager
def _announcing(module: Sequence[str]) -> Iterator[Target]:
    """Runs a module that prints its address on stdout; ends it with SIGTERM, then with SIGKILL if necessary."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", *module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            found = re.search(r" on (\S+) with ", _first_line(process))
            if not found:
                process.kill()
                process.wait()
                stderr.seek(0)
                said = stderr.read().strip().splitlines() or ["it printed nothing"]
                raise BenchFailed(f"{' '.join(module[:2])} did not start: {said[-1]}")
            yield Target(address=found[1], pid=process.pid)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOPPING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _first_line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        return ""
    readable, _, _ = select.select([process.stdout], [], [], _STARTING_S)
    return process.stdout.readline() if readable else ""
