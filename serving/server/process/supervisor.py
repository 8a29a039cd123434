"""The supervisor: runs several workers on one port, restarts those that die, and reloads all of them one by one.

A dead worker is restarted in `_keep_alive`. The supervisor itself serves nothing and imports neither gRPC nor ONNX
Runtime. The kernel spreads connections over the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.config import ServerConfig
from serving.errors import StartFailed
from serving.inference.processors import available_processors
from serving.rollout.controller import RolloutController
from serving.rollout.rollout import Rollout
from serving.server.fronts.shared_port import SharedPort, bind_metrics_port
from serving.server.process.lifecycle import handle_signals
from serving.server.process.shared_number import SharedNumber
from serving.server.process.worker_pool import WorkerPool
from serving.server.process.worker_process import WorkerFailed, WorkerProcess
from serving.server.process.worker_protocol import Ready
from serving.server.telemetry.aggregated_metrics import AggregatedMetrics
from serving.server.telemetry.logs import LogConfig

# A worker that dies after running for this long is restarted at once; others wait for the backoff.
_STABLE_S = 5.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 30.0
_MAX_FAILED_STARTS = 3

_logger = logging.getLogger(__name__)


class Supervisor:
    """Runs the workers of one server.

    Args:
        config: Configuration of the server. Each worker gets it with the bound port and its share of the processors.
        logs: How the workers log.

    Attributes:
        address: Address of the gRPC port, once it is bound.
        http_url: URL of the HTTP port, once it is bound; empty if there is none.
    """

    def __init__(self, config: ServerConfig, logs: LogConfig) -> None:
        self._config = config
        self._current: list[WorkerProcess] = []
        self._stopping = asyncio.Event()
        self._reload = [asyncio.Event() for _ in range(config.workers)]
        self._one_reload = asyncio.Lock()
        self._failed_starts = 0
        self._metrics = AggregatedMetrics()
        self._number = SharedNumber()
        self._controller = RolloutController(config, lambda: self._pool.serving, self._number.set)
        self._pool = WorkerPool(logs, self._metrics, self._controller, self._number)
        self.address = ""
        self.http_url = ""

    @property
    def rollout(self) -> Rollout:
        """What every worker serves."""
        return self._controller.rollout

    async def run(self, *, ready: Callable[[Supervisor, Ready], Awaitable[None]]) -> bool:
        """Serves until SIGTERM or SIGINT, or until workers repeatedly fail to start.

        Args:
            ready: Awaited once every worker serves.

        Returns:
            Whether every worker ended without dropping a call.

        Raises:
            StartFailed: The port is in use, or workers can't start; gives the reason.
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
            self._pool.config = self._for_workers(port.number)
            return await self._run(ready)

    async def _run(self, ready: Callable[[Supervisor, Ready], Awaitable[None]]) -> bool:
        tasks: list[asyncio.Future[Any]] = []
        try:
            if self._config.metrics_port is not None or self._config.http_port is not None:
                self._metrics.start(bind_metrics_port(self._config))
            handle_signals(self._stopping, self._reload_all, self._pool.kill_all)
            if os.getpid() == 1:
                asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap_orphans)
            tasks.append(asyncio.create_task(self._stopping.wait()))
            started = asyncio.create_task(self._start_all())
            await asyncio.wait({started, tasks[0]}, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                tasks += [asyncio.create_task(self._keep_alive(slot)) for slot in range(self._config.workers)]
                tasks.append(asyncio.create_task(self._controller.poll_repository()))
                tasks.append(asyncio.ensure_future(ready(self, started.result())))
                await self._until_stopped(tasks)
            started.cancel()
        finally:
            for task in tasks:
                task.cancel()
            # Even after a failure, the workers that serve answer their calls in flight.
            codes = await self._pool.stop_all()
            self._metrics.close()
            self._number.close()
        return not any(codes)

    async def _until_stopped(self, tasks: list[asyncio.Future[Any]]) -> None:
        """Waits for a signal; raises the error of the first task that fails before that."""
        pending = set(tasks)
        while not self._stopping.is_set():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def _for_workers(self, port: int) -> ServerConfig:
        threads = self._config.engine.threads or max(1, available_processors() // self._config.workers)
        return replace(self._config, port=port, engine=replace(self._config.engine, threads=threads))

    async def _reload_all(self) -> None:
        _logger.info("restarting the workers one by one")
        for reload in self._reload:
            reload.set()
        await self._controller.update_from_repository()

    async def _start_all(self) -> Ready:
        """Starts the first workers; if one of them fails, the server does not start."""
        try:
            self._current = [await self._pool.spawn(slot) for slot in range(self._config.workers)]
            return await self._pool.serve(self._current)
        except WorkerFailed as error:
            raise StartFailed(str(error)) from error

    async def _keep_alive(self, slot: int) -> None:
        """Restarts the worker in a slot whenever it dies, and replaces it when it must reload.

        Raises:
            StartFailed: Workers failed to start several times in a row.
        """
        backoff_s = _FIRST_BACKOFF_S
        while True:
            worker = self._current[slot]
            died, reload = asyncio.create_task(worker.wait()), asyncio.create_task(self._reload_due(slot))
            await asyncio.wait({died, reload}, return_when=asyncio.FIRST_COMPLETED)
            if reload.done():
                died.cancel()
                try:
                    await self._replace(slot)
                finally:
                    self._one_reload.release()
                continue
            reload.cancel()
            self._pool.remove(worker)
            if time.monotonic() - worker.started > _STABLE_S:
                backoff_s = 0.0
            _logger.error("worker %d ended (%s): restarting in %g s", worker.pid, _exit_text(died.result()), backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(max(_FIRST_BACKOFF_S, 2 * backoff_s), _LONGEST_BACKOFF_S)
            self._metrics.worker_restarted()
            try:
                self._current[slot] = replacement = await self._pool.spawn(slot)
                await self._pool.add(replacement)
                self._failed_starts = 0
            except WorkerFailed as error:
                self._failed_starts += 1
                if self._failed_starts == _MAX_FAILED_STARTS:
                    text = f"workers failed to start {_MAX_FAILED_STARTS} times in a row: {error}"
                    raise StartFailed(text) from error

    async def _reload_due(self, slot: int) -> None:
        """Waits until a slot must reload and no other slot does; returns with `_one_reload` locked."""
        await self._reload[slot].wait()
        await self._one_reload.acquire()
        self._reload[slot].clear()  # a SIGHUP from now on requests another reload

    async def _replace(self, slot: int) -> None:
        """Starts a new worker and, once it serves, stops the old one in the background."""
        old = self._current[slot]
        try:
            new = await self._pool.spawn(slot)
            await self._pool.add(new)
        except WorkerFailed as error:
            _logger.error("keeping worker %d: its replacement failed to start: %s", old.pid, error)
            return
        self._current[slot] = new
        _logger.info("worker %d has replaced worker %d", new.pid, old.pid)
        self._pool.stop(old)


def _exit_text(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def _reap_orphans() -> None:
    """Reaps processes that process 1 has inherited.

    The supervisor's own children are waited for elsewhere. Each of them leads a session, which orphans rarely do.
    """
    for pid in map(int, Path("/proc/self/task/1/children").read_text(encoding="ascii").split()):
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.getsid(pid) != pid:
                os.waitpid(pid, os.WNOHANG)
