"""The benchmark: measures every scenario, round after round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serving.bench.echo import SERVICE as ECHO
from serving.bench.generator import Load
from serving.bench.measurement import Measurement, merge
from serving.bench.scenario import BenchConfig, Scenario
from serving.bench.target import Target
from serving.bench.worker import Worker
from serving.bench.workload import Workload

_DIGITS = "digits.v1.DigitClassifierService"
_METHODS = {
    ("wire", "unary"): f"/{_DIGITS}/Classify",
    ("wire", "stream"): f"/{_DIGITS}/ClassifyStream",
    ("echo", "unary"): f"/{ECHO}/unary",
    ("echo", "stream"): f"/{ECHO}/stream",
}


@dataclass(frozen=True, kw_only=True)
class CallConfig:
    """How callers reach a server.

    Attributes:
        connections: Connections that all callers share.
        callers_per_stream: Callers that share a stream.
        timeout_s: Deadline of a call, in seconds.
    """

    connections: int = 8
    callers_per_stream: int = 16
    timeout_s: float = 30.0


class Benchmark:
    """Measures scenarios.

    Args:
        config: Which scenarios, and for how long.
        calls: How callers reach servers.
        workload: The requests.
        targets: The servers by `Scenario.target`.
        generators: Processes that generate the load together.
        in_process: The model without network; None if it is not measured.
        about: What is measured, for the report.
    """

    def __init__(
        self,
        config: BenchConfig,
        calls: CallConfig,
        workload: Workload,
        *,
        targets: Mapping[str, Target],
        generators: Sequence[Worker],
        in_process: Worker | None,
        about: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._calls = calls
        self._workload = workload
        self._targets = targets
        self._generators = generators
        self._in_process = in_process
        self.about = about

    def measure(self) -> Iterator[tuple[Scenario, Measurement | None]]:
        """Yields each scenario with None just before its load starts, and with its measurement once it has ended.

        Measures all scenarios once before measuring any again, so that a lasting disturbance affects all alike.

        Raises:
            BenchFailed: A server can't be reached, or a process ended.
        """
        scenarios = self._config.scenarios()
        for _ in range(self._config.rounds):
            for scenario in scenarios:
                if scenario.target in self._targets:
                    target = self._targets[scenario.target]
                    generators = self._prepare(scenario, target)
                    yield scenario, None
                    yield scenario, self._run(target, generators)
                elif self._in_process is not None:
                    yield scenario, None
                    yield scenario, self._in_process.call("run", scenario, self._config.seconds)

    def _prepare(self, scenario: Scenario, target: Target) -> Sequence[Worker]:
        loads = self._loads(scenario, target)
        generators = self._generators[: len(loads)]
        for generator, load in zip(generators, loads, strict=True):
            generator.send("prepare", load)
        for generator in generators:
            generator.receive()
        return generators

    def _run(self, target: Target, generators: Sequence[Worker]) -> Measurement:
        before_s = target.cpu_s()
        for generator in generators:
            generator.send("run")
        measurement = merge([generator.receive() for generator in generators])
        after_s = target.cpu_s()
        cpu_s = None if before_s is None or after_s is None else after_s - before_s
        return replace(measurement, cpu_s=cpu_s, memory_bytes=target.memory_bytes())

    def _loads(self, scenario: Scenario, target: Target) -> list[Load]:
        """Divides the callers, connections and rate of a scenario among the generators."""
        make = self._workload.echo_requests if scenario.layer == "echo" else self._workload.requests
        requests = make(scenario.batch_rows, scenario.mode)
        count = min(len(self._generators), scenario.callers)
        shares = [scenario.callers // count + (index < scenario.callers % count) for index in range(count)]
        return [
            Load(
                address=target.address,
                method=_METHODS[scenario.layer, scenario.mode],
                mode=scenario.mode,
                echo=scenario.layer == "echo",
                requests=requests,
                callers=share,
                connections=max(1, self._calls.connections // count),
                callers_per_stream=self._calls.callers_per_stream,
                seconds=self._config.seconds,
                timeout_s=self._calls.timeout_s,
                rate_per_s=None if scenario.rate_per_s is None else scenario.rate_per_s / count,
                phase=index / count,
            )
            for index, share in enumerate(shares)
        ]
