"""A load: callers that send requests one after another, as fast as answers arrive or at a fixed rate."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from serving.bench.measurement import Measurement

# Sends the request with this number and returns whether the answer was right; raises RequestFailed.
Send = Callable[[int], Awaitable[bool]]

# Limit for one round of one scenario in one process: 8 MB of latencies.
MAX_REQUESTS = 1_000_000
# A refused caller waits before it sends again, or the server would do nothing but refuse.
PAUSE_S = 0.01


class RequestFailed(Exception):
    """A request without an answer.

    Attributes:
        code: Name of the gRPC status code.
        pause_s: How long to wait before the next request, in seconds.
    """

    def __init__(self, code: str, pause_s: float = PAUSE_S) -> None:
        self.code = code
        self.pause_s = pause_s
        super().__init__(code)


class Pacer:
    """Decides when requests are due: at once, or at fixed times that don't wait for a slow server.

    With a rate, request i is due at the start + (i + phase) / rate. A caller that is late sends at once, and the delay
    counts as latency, so that a server that stalls can't slow the load down (coordinated omission). Requests that no
    caller has sent after twice the time are given up and counted.

    Args:
        seconds: How long requests become due.
        rate_per_s: Requests due per second; None if a request is due whenever a caller is free.
        phase: From 0 to 1: offset of this load among others that share a rate.
    """

    def __init__(self, *, seconds: float, rate_per_s: float | None = None, phase: float = 0.0) -> None:
        self._seconds = seconds
        self._rate_per_s = rate_per_s
        self._phase = phase
        self._began_s = 0.0
        due = math.inf if rate_per_s is None else math.ceil(seconds * rate_per_s - phase)
        self._requests = min(due, MAX_REQUESTS)
        self._taken = 0
        self.not_sent = 0

    def start(self) -> float:
        """Starts now; returns the time on the monotonic clock, in seconds."""
        self._began_s = time.monotonic()
        return self._began_s

    async def next_due(self) -> float | None:
        """Waits until the next request is due and returns the time at which it was; None if there are no more."""
        elapsed_s = time.monotonic() - self._began_s
        if self._taken >= self._requests:
            return None
        if self._rate_per_s is None:
            self._taken += 1
            return self._began_s + elapsed_s if elapsed_s < self._seconds else None
        if elapsed_s > 2 * self._seconds:
            self.not_sent = int(self._requests) - self._taken
            self._requests = self._taken
            return None
        due_s = (self._taken + self._phase) / self._rate_per_s
        self._taken += 1
        if due_s > elapsed_s:
            await asyncio.sleep(due_s - elapsed_s)
        return self._began_s + due_s


async def run_callers(senders: Sequence[Send], pacer: Pacer) -> Measurement:
    """Lets callers send until no more requests are due and all sent requests have ended.

    Args:
        senders: One for each caller.
        pacer: When requests are due.
    """
    latencies = array("d")
    errors: Counter[str] = Counter()
    wrong = 0

    async def call(first: int, send: Send) -> None:
        nonlocal wrong
        number = first
        while (due_s := await pacer.next_due()) is not None:
            try:
                right = await send(number)
            except RequestFailed as failure:
                errors[failure.code] += 1
                await asyncio.sleep(failure.pause_s)
            else:
                latencies.append(time.monotonic() - due_s)
                wrong += not right
            number += len(senders)

    cpu_s = time.process_time()
    began_s = pacer.start()
    await asyncio.gather(*(call(first, send) for first, send in enumerate(senders)))
    ended_s = time.monotonic()
    if pacer.not_sent:
        errors["NOT_SENT"] = pacer.not_sent
    return Measurement(
        latencies_s=np.frombuffer(latencies, np.float64) if latencies else np.empty(0),
        began_s=began_s,
        ended_s=ended_s,
        errors=dict(errors),
        wrong=wrong,
        load_cpu_s=time.process_time() - cpu_s,
    )
