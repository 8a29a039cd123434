"""A load: callers that send requests one after the other, as fast as answers come or at a fixed rate."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from serving.bench.outcome import Outcome

# Sends request number n and says whether the answer was right; raises Refused.
Send = Callable[[int], Awaitable[bool]]

# Of one round of one rung in one process: 8 MB of latencies.
MAX_REQUESTS = 1_000_000
# A caller that was refused does not come back at once, or refusing would be all that a server does.
PAUSE_S = 0.01


class Refused(Exception):
    """A request that was not answered.

    Attributes:
        code: gRPC's status code, as its name.
        pause_s: When to send the next, in seconds from now.
    """

    def __init__(self, code: str, pause_s: float = PAUSE_S) -> None:
        self.code = code
        self.pause_s = pause_s
        super().__init__(code)


class Pacer:
    """Says when requests are due: at once, or at fixed moments that don't wait for a server that is slow.

    With a rate, request i is due at the start + (i + phase) / rate. A caller that comes late for it sends at once, and
    the time that it was late is part of the latency: a server that stalls can't make the load wait with it (coordinated
    omission). Requests that nobody has sent after twice the time are given up, and counted.

    Args:
        seconds: How long requests become due.
        rate_per_s: How many each second; None for as soon as somebody asks.
        phase: Between 0 and 1: the place of this load among others with which it shares a rate.
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
        """Begins now; returns the moment, on the monotonic clock, in seconds."""
        self._began_s = time.monotonic()
        return self._began_s

    async def next_due(self) -> float | None:
        """Returns once the next request is due, with the moment at which it was; None when there are no more."""
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


async def drive(senders: Sequence[Send], pacer: Pacer) -> Outcome:
    """Lets callers send until no more requests are due, and all that were sent have ended.

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
            except Refused as refused:
                errors[refused.code] += 1
                await asyncio.sleep(refused.pause_s)
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
    return Outcome(
        latencies_s=np.frombuffer(latencies, np.float64) if latencies else np.empty(0),
        began_s=began_s,
        ended_s=ended_s,
        errors=dict(errors),
        wrong=wrong,
        load_cpu_s=time.process_time() - cpu_s,
    )
