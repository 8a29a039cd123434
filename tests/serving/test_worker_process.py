"""A worker as its supervisor sees it, when it dies at the wrong moment."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from serving.config import EngineConfig, ServerConfig
from serving.logs import LogConfig
from serving.rollout_planner import RolloutPlanner
from serving.shared_number import SharedNumber
from serving.worker_process import WorkerFailed, WorkerProcess


async def test_one_that_dies_while_it_loads_keeps_nobody_waiting() -> None:
    config = ServerConfig(engine=EngineConfig(provider="cpu"))
    rollout = RolloutPlanner(config).plan()
    assert rollout is not None
    number = SharedNumber()
    worker = await WorkerProcess.start(
        config, LogConfig(level="error", format="text"), {}, number.descriptor, lambda action, name: asyncio.sleep(0)
    )
    try:
        os.kill(worker.pid, signal.SIGSTOP)
        loading = asyncio.create_task(worker.prepare(rollout))
        await asyncio.sleep(0)
        worker._reader.feed_eof()  # its end of the socket is closed some moments before its exit code is known
        assert await asyncio.wait_for(loading, 10) == []
        assert await asyncio.wait_for(worker.prepare(rollout), 10) == []
        worker.kill_now()
        with pytest.raises(WorkerFailed, match="exit code -9"):
            await asyncio.wait_for(worker.ready(), 10)
    finally:
        await worker.kill()
        number.close()
