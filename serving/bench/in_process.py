"""The model in its own process, without network: the baseline for servers."""

from __future__ import annotations

import asyncio
import time
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.bench.load import Pacer, Send, run_callers
from serving.bench.measurement import BenchFailed, Measurement
from serving.bench.scenario import Scenario
from serving.bench.workload import Workload
from serving.config import BatcherConfig, EngineConfig
from serving.repository.engines import start_engine
from serving.repository.repository import Repository
from serving.rollout.deployment import Deployment


class InProcess:
    """The engine alone, and the engine behind a batcher.

    Args:
        repository: Directory of the model repository.
        model: Name of the model; None for the only one.
        version: Version of the model; None for the newest.
        engine: How to run the model.
        max_queue_rows: Images that may wait in the batcher.

    Raises:
        DigitsError: The model may not be served, or the provider is unavailable.
    """

    def __init__(
        self, repository: Path, model: str | None, version: int | None, engine: EngineConfig, max_queue_rows: int
    ) -> None:
        models = Repository(repository)
        self._stored = models.load(*models.choose(model, version))
        self._engine, _ = start_engine(self._stored, engine)
        self._deployment = Deployment(
            self._stored,
            engine,
            BatcherConfig(max_batch_rows=engine.max_batch_rows, max_queue_rows=max_queue_rows),
        )
        self._runner = asyncio.Runner()
        self._runner.run(self._deployment.start())
        self._workload: Workload | None = None

    def describe(self) -> tuple[str, str, tuple[int, int, int]]:
        """Returns the name and digest of the model, and height, width and channels of its images."""
        return self._stored.name, self._stored.manifest.sha256, self._stored.manifest.input.shape

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Classifies images: float32 `[n, classes]`."""
        return self._engine.infer(images).probabilities

    def use(self, workload: Workload) -> None:
        """Sets the images for the following scenarios."""
        self._workload = workload

    def run(self, scenario: Scenario, seconds: float) -> Measurement:
        """Measures one round of an `engine` or `batcher` scenario, in seconds.

        Raises:
            BenchFailed: `use` was not called.
            InferenceFailed: ONNX Runtime failed.
        """
        if self._workload is None:
            raise BenchFailed("there are no images yet")
        cpu_s = time.process_time()
        if scenario.layer == "engine":
            measurement = self._run_engine(self._workload, scenario, seconds)
        else:
            measurement = self._runner.run(self._run_batcher(self._workload, scenario, seconds))
        return replace(measurement, cpu_s=time.process_time() - cpu_s)

    def close(self) -> None:
        """Stops the batcher and the engine."""
        self._runner.run(self._deployment.drain(0))
        self._deployment.close()
        self._runner.close()

    def _run_engine(self, workload: Workload, scenario: Scenario, seconds: float) -> Measurement:
        batches = range(workload.count(scenario.batch_rows))
        images = [workload.images[workload.rows(number, scenario.batch_rows)] for number in batches]
        latencies = array("d")
        began_s = now = time.monotonic()
        while now - began_s < seconds:
            self._engine.infer(images[len(latencies) % len(images)])
            before, now = now, time.monotonic()
            latencies.append(now - before)
        return Measurement(latencies_s=np.frombuffer(latencies, np.float64), began_s=began_s, ended_s=now)

    async def _run_batcher(self, workload: Workload, scenario: Scenario, seconds: float) -> Measurement:
        batches = [workload.rows(number, scenario.batch_rows) for number in range(workload.count(scenario.batch_rows))]
        images = [workload.images[rows] for rows in batches]
        labels = [workload.labels[rows] for rows in batches]

        async def send(number: int) -> bool:
            number %= len(images)
            answer = await self._deployment.classify(images[number])
            return np.array_equal(answer.probabilities.argmax(axis=1), labels[number])

        senders: list[Send] = [send] * scenario.callers
        return await run_callers(senders, Pacer(seconds=seconds, rate_per_s=scenario.rate_per_s))
