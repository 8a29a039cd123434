"""The supervisor: keeps several workers on one port, replaces those that die, restarts all of them one by one.

It serves nothing itself and imports neither gRPC nor ONNX Runtime. The system spreads connections over the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.config import SAME_SIGNAL_S, ServerConfig
from serving.errors import StartFailed
from serving.inference.processors import available_processors
from serving.rollout.controller import RolloutController
from serving.rollout.rollout import Rollout
from serving.server.fronts.shared_port import SharedPort
from serving.server.process.shared_number import SharedNumber
from serving.server.process.worker_pool import WorkerPool
from serving.server.process.worker_process import Ready, WorkerFailed, WorkerProcess
from serving.server.telemetry.aggregated_metrics import AggregatedMetrics
from serving.server.telemetry.logs import LogConfig

# A worker that ran for so long has proven itself: when it dies, the next is started at once.
_PROVEN_S = 5.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 30.0
_FAILED_STARTS = 3

_logger = logging.getLogger(__name__)


class Supervisor:
    """Runs the workers of one server.

    Args:
        config: Of the server; each worker gets it with the port and its share of the processors.
        logs: How the workers log.
    """

    def __init__(self, config: ServerConfig, logs: LogConfig) -> None:
        self._config = config
        self._current: list[WorkerProcess] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self._reload = [asyncio.Event() for _ in range(config.workers)]
        self._one_reload = asyncio.Lock()
        self._failed_starts = 0
        self._first_signal = 0.0
        self._metrics = AggregatedMetrics()
        self._number = SharedNumber()
        self._controller = RolloutController(config, lambda: self._crew.serving, self._number.set)
        self._crew = WorkerPool(logs, self._metrics, self._controller, self._number)
        self.address = ""
        self.http_url = ""

    @property
    def rollout(self) -> Rollout:
        """What every worker serves."""
        return self._controller.rollout

    async def run(self, *, ready: Callable[[Supervisor, Ready], Awaitable[None]]) -> bool:
        """Serves until SIGTERM or SIGINT, or until workers fail to start again and again.

        Args:
            ready: Awaited once every worker serves.

        Returns:
            Whether every worker ended without dropping a call.

        Raises:
            StartFailed: The port is in use, or workers can't start; says why.
        """
        with contextlib.ExitStack() as ports:
            port = SharedPort(self._config.host, self._config.port)
            ports.callback(port.close)
            self.address = port.address
            if self._config.http_port is not None:
                http_port = SharedPort(self._config.host, self._config.http_port)
                ports.callback(http_port.close)
                scheme = "http" if self._config.security.tls_certificate is None else "https"
                self.http_url = f"{scheme}://{http_port.address}"
                self._config = replace(self._config, http_port=http_port.number)
            self._crew.config = self._for_workers(port.number)
            return await self._run(ready)

    async def _run(self, ready: Callable[[Supervisor, Ready], Awaitable[None]]) -> bool:
        tasks: list[asyncio.Future[Any]] = []
        codes: Collection[int] = []
        try:
            shown = self._config.metrics_port is not None or self._config.http_port is not None
            if shown:
                self._metrics.start(host=self._config.host, port=self._config.metrics_port)
            self._handle_signals()
            tasks.append(asyncio.create_task(self._stopping.wait()))
            started = asyncio.create_task(self._start_all())
            await asyncio.wait({started, tasks[0]}, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                tasks += [asyncio.create_task(self._keep(slot)) for slot in range(self._config.workers)]
                tasks.append(asyncio.create_task(self._controller.poll_repository()))
                tasks.append(asyncio.ensure_future(ready(self, started.result())))
                await self._until_stopped(tasks)
            started.cancel()
        finally:
            for task in tasks:
                task.cancel()
            # Also where it fails: those that serve still answer what they have.
            codes = await self._crew.retire_all()
            self._metrics.close()
            self._number.close()
        return not any(codes)

    async def _until_stopped(self, tasks: list[asyncio.Future[Any]]) -> None:
        """Waits for a signal, or for a task that fails; one that just ends has done its work."""
        pending = set(tasks)
        while not self._stopping.is_set():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def _for_workers(self, port: int) -> ServerConfig:
        threads = self._config.engine.threads or max(1, available_processors() // self._config.workers)
        return replace(self._config, port=port, engine=replace(self._config.engine, threads=threads))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        if os.getpid() == 1:
            loop.add_signal_handler(signal.SIGCHLD, reap_orphans)

    def _stop(self) -> None:
        now = time.monotonic()
        if not self._stopping.is_set():
            self._first_signal = now
        elif now - self._first_signal > SAME_SIGNAL_S:
            _logger.warning("second signal: stopping at once, calls in flight are dropped")
            self._crew.kill_all()
        self._stopping.set()

    def _reload_all(self) -> None:
        _logger.info("SIGHUP: reading the repository again, then restarting the workers one by one")
        self._in_background(self._controller.update_from_repository())
        for reload in self._reload:
            reload.set()

    async def _start_all(self) -> Ready:
        """Starts the first generation; one that fails to start ends the start."""
        try:
            self._current = [await self._crew.spawn() for _ in range(self._config.workers)]
            return await self._crew.begin(self._current)
        except WorkerFailed as error:
            raise StartFailed(str(error)) from error

    async def _keep(self, slot: int) -> None:
        """Replaces the worker of one slot when it dies or is to be reloaded.

        Raises:
            StartFailed: Replacements died at their start again and again.
        """
        backoff_s = _FIRST_BACKOFF_S
        while True:
            worker = self._current[slot]
            died, turn = asyncio.create_task(worker.ended()), asyncio.create_task(self._reload_turn(slot))
            await asyncio.wait({died, turn}, return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                died.cancel()
                try:
                    await self._replace(slot)
                finally:
                    self._one_reload.release()
                continue
            turn.cancel()
            self._crew.forget(worker)
            if time.monotonic() - worker.started > _PROVEN_S:
                backoff_s = 0.0
            _logger.error("worker %d ended (%s); another starts in %g s", worker.pid, _told(died.result()), backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(max(_FIRST_BACKOFF_S, 2 * backoff_s), _LONGEST_BACKOFF_S)
            self._metrics.worker_restarted()
            try:
                self._current[slot] = replacement = await self._crew.spawn()
                await self._crew.join(replacement)
                self._failed_starts = 0
            except WorkerFailed as error:
                self._failed_starts += 1
                if self._failed_starts == _FAILED_STARTS:
                    raise StartFailed(
                        f"workers died at their start {_FAILED_STARTS} times in a row: {error}"
                    ) from error

    async def _reload_turn(self, slot: int) -> None:
        """Waits until a slot is to be reloaded and no other is; then its reload has begun."""
        await self._reload[slot].wait()
        await self._one_reload.acquire()
        self._reload[slot].clear()  # what is asked for from now on wants another one

    async def _replace(self, slot: int) -> None:
        """Starts a worker and, once it serves, lets the old one end meanwhile."""
        old = self._current[slot]
        try:
            new = await self._crew.spawn()
            await self._crew.join(new)
        except WorkerFailed as error:
            _logger.error("worker %d stays: its replacement could not start: %s", old.pid, error)
            return
        self._current[slot] = new
        _logger.info("worker %d serves in place of worker %d", new.pid, old.pid)
        self._in_background(self._crew.retire(old))

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _told(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def reap_orphans() -> None:
    """As process 1, waits for what others left behind.

    Our own children are waited for where they were started; each leads a session, which orphans hardly do.
    """
    for pid in map(int, Path("/proc/self/task/1/children").read_text(encoding="ascii").split()):
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.getsid(pid) != pid:
                os.waitpid(pid, os.WNOHANG)
