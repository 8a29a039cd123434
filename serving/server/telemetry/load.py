"""How full this server is, as the batchers know it, for balancers that spread calls by it."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from serving.server.telemetry.calls import Call

if TYPE_CHECKING:
    from serving.rollout.deployment import Deployment

# A balancer gives a server about its requests per second divided by its utilisation, so both are averaged over the
# same time. It must be longer than the balancer's own interval (a second in Envoy and gRPC), or calls swing to and fro.
_AVERAGED_S = 5.0
_MEASURED_EVERY_S = 0.5
# Waiting this long counts as one more engine that is always busy; each doubling from there adds about one more.
_LONG_QUEUE_S = 0.01
# Calls that end so would have done better on another server. The others are the client's own doing, or answers.
_FAULTS = {"DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"}


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load of a server, on average over some seconds.

    Attributes:
        requests_per_s: Calls, and requests in streams, that a model answered or that failed by the server's fault.
        errors_per_s: Those that failed.
        engine_busy: The share of time in which an engine ran a batch. The engines of several versions share one
            device, so their shares are added.
        queue_s: Mean time that requests waited for their first batch, in seconds.
        queue_pressure: What that counts as, in engines that are always busy.
        processors_busy: The share of this machine's processors that the server may use and did.
    """

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    engine_busy: float = 0.0
    queue_s: float = 0.0
    queue_pressure: float = 0.0
    processors_busy: float = 0.0

    @property
    def utilization(self) -> float:
        """How full the server is. Above 1 its requests queue up.

        The share of busy time does not show that by itself: an engine that always has a next batch is always busy, and
        can still answer many times as many requests in fuller batches. What grows until it can't is the queue time. It
        counts by its logarithm, since it explodes in overload, and a balancer divides by the utilisation.
        """
        return self.engine_busy + self.queue_pressure


class LoadMeter:
    """Measures the load of this process. An observer of calls.

    Args:
        deployments: What the process serves.
        processes: How many processes share the port. They get about as many calls each, so the server has this many
            times the requests of this one.
        clock: Returns seconds since a fixed moment.

    Attributes:
        load: The load of the server.
    """

    def __init__(
        self,
        deployments: Iterable[Deployment],
        *,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployments = deployments
        self._processes = processes
        self._clock = clock
        self._calls = 0
        self._faults = 0
        self._measured_s = clock()
        self._process_s = time.process_time()
        self._engines: WeakKeyDictionary[Deployment, tuple[float, float, float]] = WeakKeyDictionary()
        self._rates = [0.0] * 6
        self.load = Load()

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            await asyncio.sleep(_MEASURED_EVERY_S)
            self.measure()

    def measure(self) -> None:
        """Takes what happened since the last time into the average."""
        now, process_s = self._clock(), time.process_time()
        seconds = now - self._measured_s
        busy_s, queued_s, requests = self._engine_totals()
        queue_s = queued_s / requests if requests else 0.0
        added = [
            *(self._calls / seconds, self._faults / seconds, busy_s / seconds),
            *(queue_s, math.log2(1 + queue_s / _LONG_QUEUE_S), (process_s - self._process_s) / seconds),
        ]
        self._calls, self._faults, self._measured_s, self._process_s = 0, 0, now, process_s
        kept = math.exp(-seconds / _AVERAGED_S)
        self._rates = [kept * rate + (1 - kept) * each for rate, each in zip(self._rates, added, strict=True)]
        calls, faults, busy, queue_s, pressure, processor = self._rates
        self.load = Load(
            requests_per_s=self._processes * calls,
            errors_per_s=self._processes * faults,
            engine_busy=max(0.0, busy),
            queue_s=queue_s,
            queue_pressure=pressure,
            processors_busy=self._processes * processor / len(os.sched_getaffinity(0)),
        )

    def call_ended(self, call: Call, code: str, seconds: float) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        if not call.is_stream:
            self._ended(call.model, code, 1)

    def request_ended(self, request: Call, code: str, seconds: float) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        self._ended(request.model, code, 1)

    def calls_ended(self, method: str, model: str, version: str, code: str, seconds: Sequence[float]) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        self._ended(model, code, len(seconds))

    def _ended(self, model: str, code: str, calls: int) -> None:
        if code in _FAULTS:
            self._faults += calls
        elif not model:
            return
        self._calls += calls

    def _engine_totals(self) -> list[float]:
        """Returns what was added since the last time: seconds of engines, seconds in queues, requests that waited."""
        added = [0.0, 0.0, 0.0]
        for each in self._deployments:
            counts = each.statistics.counts
            # A batch that runs counts already, else an engine that hangs would look idle.
            busy_s = sum(batch.total_s for batch in counts.batches.values()) + each.batch_age_s
            now = busy_s, counts.queued.total_s, counts.queued.count
            before = self._engines.get(each, (0.0, 0.0, 0.0))
            self._engines[each] = now
            added = [total + new - old for total, new, old in zip(added, now, before, strict=True)]
        return added
