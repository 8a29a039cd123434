"""The supervisor's handle on a worker that dies at the wrong moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from serving.config import EngineConfig, ServerConfig
from serving.rollout.planner import RolloutPlanner
from serving.server.process.shared_number import SharedNumber
from serving.server.process.worker_process import WorkerFailed, WorkerProcess
from serving.server.telemetry.logs import LogConfig

_CONFIG = ServerConfig(engine=EngineConfig(provider="cpu"))


@pytest.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    """A worker that has not been told to serve."""
    number = SharedNumber()
    started = await WorkerProcess.start(
        _CONFIG, LogConfig(level="error", format="text"), {}, number.descriptor, lambda action, name: asyncio.sleep(0)
    )
    yield started
    started.kill()
    await started.wait()
    number.close()


async def test_one_that_dies_while_it_loads_keeps_nobody_waiting(worker: WorkerProcess) -> None:
    rollout = RolloutPlanner(_CONFIG).plan()
    assert rollout is not None
    os.kill(worker.pid, signal.SIGSTOP)
    loading = asyncio.create_task(worker.prepare(rollout))
    await asyncio.sleep(0)
    worker._reader.feed_eof()  # the socket closes moments before the exit code is known
    assert await asyncio.wait_for(loading, 10) == []
    assert await asyncio.wait_for(worker.prepare(rollout), 10) == []
    worker.kill()
    with pytest.raises(WorkerFailed, match="exit code -9"):
        await asyncio.wait_for(worker.wait_ready(), 10)


async def test_one_that_hangs_keeps_nobody_waiting_who_asks_for_counts(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    assert await asyncio.wait_for(worker.counts(), 10) == {}
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait()
    assert await asyncio.wait_for(worker.counts(), 10) == {}
