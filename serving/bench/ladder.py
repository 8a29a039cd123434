"""The ladder: every rung under its load, round after round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serving.bench.echo import SERVICE as ECHO
from serving.bench.generator import Load
from serving.bench.outcome import Outcome, merge
from serving.bench.rung import LadderConfig, Rung
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
class WireConfig:
    """How callers reach a server.

    Attributes:
        connections: Connections of all callers together.
        callers_per_stream: Callers that share a stream.
        timeout_s: Deadline of a call, in seconds.
    """

    connections: int = 8
    callers_per_stream: int = 16
    timeout_s: float = 30.0


class Ladder:
    """Measures rungs.

    Args:
        config: Which, and how long.
        wire: How callers reach servers.
        workload: What is sent.
        targets: The servers: `wire`, and `echo` where it is measured.
        generators: Processes that make the load together.
        in_process: The model without network; None where that is not measured.
    """

    def __init__(
        self,
        config: LadderConfig,
        wire: WireConfig,
        workload: Workload,
        *,
        targets: Mapping[str, Target],
        generators: Sequence[Worker],
        in_process: Worker | None,
    ) -> None:
        self._config = config
        self._wire = wire
        self._workload = workload
        self._targets = targets
        self._generators = generators
        self._in_process = in_process

    def measure(self) -> Iterator[tuple[Rung, Outcome | None]]:
        """Yields each rung with None when its load is about to begin, and with its outcome when it has ended.

        All rungs are measured once before any is measured again, so that a disturbance that lasts hits all alike.

        Raises:
            BenchFailed: A server can't be reached, or a process ended.
        """
        rungs = self._config.rungs()
        for _ in range(self._config.rounds):
            for rung in rungs:
                if rung.kind in ("echo", "wire"):
                    target = self._targets[rung.kind]
                    generators = self._prepare(rung, target)
                    yield rung, None
                    yield rung, self._run(target, generators)
                elif self._in_process is not None:
                    yield rung, None
                    yield rung, self._in_process.call("run", rung, self._config.seconds)

    def _prepare(self, rung: Rung, target: Target) -> Sequence[Worker]:
        loads = self._loads(rung, target)
        generators = self._generators[: len(loads)]
        for generator, load in zip(generators, loads, strict=True):
            generator.send("prepare", load)
        for generator in generators:
            generator.receive()
        return generators

    def _run(self, target: Target, generators: Sequence[Worker]) -> Outcome:
        before_s = target.cpu_s()
        for generator in generators:
            generator.send("run")
        outcome = merge([generator.receive() for generator in generators])
        after_s = target.cpu_s()
        return outcome.with_cpu(None if before_s is None or after_s is None else after_s - before_s)

    def _loads(self, rung: Rung, target: Target) -> list[Load]:
        """The rung's callers, connections and rate, shared out among as many generators as have work."""
        make = self._workload.echo_exchanges if rung.kind == "echo" else self._workload.exchanges
        exchanges = make(rung.batch_rows, rung.mode)
        count = min(len(self._generators), rung.callers)
        shares = [rung.callers // count + (index < rung.callers % count) for index in range(count)]
        return [
            Load(
                address=target.address,
                method=_METHODS[rung.kind, rung.mode],
                mode=rung.mode,
                echo=rung.kind == "echo",
                exchanges=exchanges,
                callers=share,
                connections=max(1, self._wire.connections // count),
                callers_per_stream=self._wire.callers_per_stream,
                seconds=self._config.seconds,
                timeout_s=self._wire.timeout_s,
                rate_per_s=None if rung.rate_per_s is None else rung.rate_per_s / count,
                phase=index / count,
            )
            for index, share in enumerate(shares)
        ]
