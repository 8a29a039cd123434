"""The crew: all workers that live. They are started, let in once they can serve what the others do, and retired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any

from serving.config import ServerConfig
from serving.rollout.controller import RolloutController
from serving.server.process.shared_number import SharedNumber
from serving.server.process.worker_process import Ready, WorkerFailed, WorkerProcess
from serving.server.telemetry.aggregated_metrics import AggregatedMetrics
from serving.server.telemetry.logs import LogConfig

# What a worker may need beyond its grace period to end.
_EXIT_S = 5.0

_logger = logging.getLogger(__name__)


class WorkerPool:
    """The workers of one server.

    Args:
        logs: How they log.
        metrics: Sums theirs.
        controller: Says what they serve.
        number: Of the rollout that they serve.

    Attributes:
        config: What each of them gets; set before the first is started.
        serving: Those that serve or are about to.
    """

    def __init__(
        self, logs: LogConfig, metrics: AggregatedMetrics, controller: RolloutController, number: SharedNumber
    ) -> None:
        self.config = ServerConfig()
        self._logs = logs
        self._metrics = metrics
        self._controller = controller
        self._number = number
        self._live: set[WorkerProcess] = set()
        self._starting: set[asyncio.Task[WorkerProcess]] = set()
        self.serving: set[WorkerProcess] = set()

    async def spawn(self) -> WorkerProcess:
        """Starts a worker.

        Raises:
            WorkerFailed: The system has no room for a process.
        """
        starting = asyncio.create_task(self._start())
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        return await asyncio.shield(starting)  # who gives up half-way must not leave a process that nobody knows

    async def begin(self, workers: Sequence[WorkerProcess]) -> Ready:
        """Lets the first workers serve what the repository holds; returns once all do.

        Raises:
            WorkerFailed: One of them ended.
            DigitsError: There is nothing to serve; says why.
        """
        self.serving = set(workers)
        await self._controller.update_from_repository()
        for worker in workers:
            worker.listen()
        return (await asyncio.gather(*(worker.ready() for worker in workers)))[0]

    async def join(self, worker: WorkerProcess) -> None:
        """Lets a new worker serve what all others do; returns once it does.

        Raises:
            WorkerFailed: It ended, or can't load what the others have loaded.
        """
        joined = False
        while not joined:
            rollout = self._controller.rollout
            refusals = await worker.prepare(rollout)
            if refusals:
                await worker.kill()
                raise WorkerFailed("; ".join(map(str, refusals)))
            async with self._controller.switch_lock:
                joined = rollout is self._controller.rollout  # else there is a new one, to be prepared first
                if joined:
                    self.serving.add(worker)
                    worker.release(rollout.number)  # which also makes its metrics say what it serves
                    worker.listen()
        await worker.ready()

    def forget(self, worker: WorkerProcess) -> None:
        """A worker has ended."""
        self._live.discard(worker)
        self.serving.discard(worker)
        self._metrics.forget(worker.pid)

    def kill_all(self) -> None:
        """Ends all of them at once."""
        for worker in self._live:
            worker.kill_now()

    async def retire_all(self) -> Collection[int]:
        """Drains all of them, also those that are being started; returns their exit codes."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        return await asyncio.gather(*(self.retire(worker) for worker in self._live))

    async def retire(self, worker: WorkerProcess) -> int:
        """Drains a worker, and kills it where that takes longer than it may; returns its exit code."""
        worker.drain()
        limit_s = self.config.drain_pause_s + self.config.grace_s + _EXIT_S
        try:
            code = await asyncio.wait_for(worker.ended(), limit_s)
        except TimeoutError:
            _logger.error("worker %d did not end within %g s: killing it", worker.pid, limit_s)
            code = await worker.kill()
        self.forget(worker)
        return code if worker.served else 0  # one that never served has dropped nothing, however it ended

    async def _start(self) -> WorkerProcess:
        worker = await WorkerProcess.start(
            self.config, self._logs, self._metrics.environment, self._number.descriptor, self._ask
        )
        self._live.add(worker)
        return worker

    async def _ask(self, action: str, name: str) -> Any:
        """Does what a client asked of a worker."""
        if action == "count":
            return await self._controller.counts()
        await (self._controller.load(name) if action == "load" else self._controller.unload(name))
        return None
