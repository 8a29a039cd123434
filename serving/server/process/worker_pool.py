"""The worker pool: starts workers, lets them serve once they can serve what the others do, and stops them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from serving.config import ServerConfig
from serving.rollout.controller import RolloutController
from serving.server.process.shared_number import SharedNumber
from serving.server.process.worker_process import WorkerFailed, WorkerProcess
from serving.server.process.worker_protocol import Ready
from serving.server.telemetry.aggregated_metrics import AggregatedMetrics
from serving.server.telemetry.logs import LogConfig

# How long a worker may take to exit after its grace period.
_EXIT_TIMEOUT_S = 5.0

_logger = logging.getLogger(__name__)


class WorkerPool:
    """The workers of one server.

    Args:
        logs: How they log.
        metrics: Adds up their metrics.
        controller: Decides what they serve.
        number: The number of the rollout that they serve.

    Attributes:
        config: Configuration of each worker; set before the first one is started.
        serving: The workers that serve or are about to.
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
        self._stopping: dict[WorkerProcess, asyncio.Task[int]] = {}
        self.serving: set[WorkerProcess] = set()

    async def spawn(self, slot: int) -> WorkerProcess:
        """Starts the worker of a slot, which does not serve yet.

        Raises:
            WorkerFailed: The system could not start another process.
        """
        starting = asyncio.create_task(self._start(slot))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        return await asyncio.shield(starting)  # a cancelled caller must not leave an untracked process

    async def serve(self, workers: Sequence[WorkerProcess]) -> Ready:
        """Lets the first workers serve what the repository contains; returns once all of them do.

        Raises:
            WorkerFailed: One of them ended.
            DigitsError: There is nothing to serve; gives the reason.
        """
        self.serving = set(workers)
        await self._controller.update_from_repository()
        for worker in workers:
            worker.listen()
        return (await asyncio.gather(*(worker.wait_ready() for worker in workers)))[0]

    async def add(self, worker: WorkerProcess) -> None:
        """Lets a later worker serve what all others do; returns once it does.

        Raises:
            WorkerFailed: It ended, or can't load what the others have loaded.
        """
        joined = False
        while not joined:
            rollout = self._controller.rollout
            refusals = await worker.prepare(rollout)
            if refusals:
                worker.kill()
                await worker.wait()
                raise WorkerFailed("; ".join(map(str, refusals)))
            async with self._controller.switch_lock:
                joined = rollout is self._controller.rollout  # otherwise it must prepare the newer one first
                if joined:
                    self.serving.add(worker)
                    worker.release(rollout.number)  # also updates the worker's metrics
                    worker.listen()
        await worker.wait_ready()

    def remove(self, worker: WorkerProcess) -> None:
        """Removes a worker that has ended."""
        self._live.discard(worker)
        self.serving.discard(worker)
        self._stopping.pop(worker, None)
        self._metrics.remove(worker.pid)

    def kill_all(self) -> None:
        """Kills all workers."""
        for worker in self._live:
            worker.kill()

    async def stop_all(self) -> Collection[int]:
        """Stops all workers gracefully, including those that are starting; returns their exit codes."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        return await asyncio.gather(*(self.stop(worker) for worker in self._live))

    def stop(self, worker: WorkerProcess) -> asyncio.Task[int]:
        """Drains a worker, and kills it if that takes too long; the task returns its exit code, 0 if it never served.

        A worker that is stopping is not signalled again: a second signal would end it at once, like a crash.
        """
        if worker not in self._stopping:
            self._stopping[worker] = asyncio.create_task(self._stop(worker))
        return self._stopping[worker]

    async def _stop(self, worker: WorkerProcess) -> int:
        worker.drain()
        limit_s = self.config.drain_pause_s + self.config.grace_s + _EXIT_TIMEOUT_S
        try:
            code = await asyncio.wait_for(worker.wait(), limit_s)
        except TimeoutError:
            _logger.error("killing worker %d: it did not end within %g s", worker.pid, limit_s)
            worker.kill()
            code = await worker.wait()
        self.remove(worker)
        return code if worker.served else 0  # a worker that never served has dropped no call

    async def _start(self, slot: int) -> WorkerProcess:
        engine = self.config.engine
        engine = replace(engine, devices=(engine.devices[slot % len(engine.devices)],))
        config = replace(self.config, engine=engine)
        worker = await WorkerProcess.start(
            config, self._logs, self._metrics.environment, self._number.descriptor, self._handle_request
        )
        self._live.add(worker)
        return worker

    async def _handle_request(self, action: str, name: str) -> Any:
        """Executes what a client of one worker wants from all workers."""
        if action == "count":
            return await self._controller.counts()
        await (self._controller.load(name) if action == "load" else self._controller.unload(name))
        return None
