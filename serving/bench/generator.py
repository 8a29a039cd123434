"""The load generator, in a process that shares its interpreter with nothing that is measured."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from serving.bench.calls import (
    Check,
    StreamCalls,
    UnaryCalls,
    has_labels,
    is_echo,
    open_channel,
    stream_has_labels,
)
from serving.bench.load import Pacer, RequestFailed, Send, run_callers
from serving.bench.measurement import BenchFailed, Measurement
from serving.bench.workload import PreparedRequest


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one generator does in one round of a scenario.

    Attributes:
        address: Address of the server, `host:port`.
        method: Full name of the method, with slashes.
        mode: `unary` or `stream`.
        echo: Whether the server is the echo server.
        requests: Requests with the expected answers, sent in turn.
        callers: Maximum number of requests in flight.
        connections: Connections that the callers share.
        callers_per_stream: Callers that share a stream.
        seconds: How long requests become due.
        timeout_s: Deadline of a call, in seconds.
        rate_per_s: Requests due per second; None for a closed loop.
        phase: See `Pacer`.
    """

    address: str
    method: str
    mode: str
    echo: bool
    requests: Sequence[PreparedRequest]
    callers: int
    connections: int
    callers_per_stream: int
    seconds: float
    timeout_s: float
    rate_per_s: float | None
    phase: float

    @property
    def check(self) -> Check:
        """The function that compares answers with the expected ones."""
        if self.echo:
            return is_echo
        return stream_has_labels if self.mode == "stream" else has_labels


class Generator:
    """Prepares a load, then runs it on request, so that several start together and connecting is not measured."""

    def __init__(self) -> None:
        # epoll rounds waits up to milliseconds, far more than a request takes; select does not.
        self._runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))
        self._load: Load | None = None
        self._channels: list[grpc.aio.Channel] = []
        self._calls: list[UnaryCalls | StreamCalls] = []

    def prepare(self, load: Load) -> None:
        """Connects, opens streams, and sends one request on each of them.

        Raises:
            BenchFailed: The server can't be reached.
        """
        self._load = load
        self._runner.run(self._prepare(load))

    def run(self) -> Measurement:
        """Runs the load, then closes all connections."""
        if self._load is None:
            raise BenchFailed("no load was prepared")
        return self._runner.run(self._run(self._load))

    def close(self) -> None:
        """Closes the event loop."""
        self._runner.close()

    async def _prepare(self, load: Load) -> None:
        self._channels = [open_channel(load.address) for _ in range(min(load.connections, load.callers))]
        try:
            ready = (channel.channel_ready() for channel in self._channels)
            await asyncio.wait_for(asyncio.gather(*ready), load.timeout_s)
        except TimeoutError as error:
            await self._close()
            raise BenchFailed(f"{load.address}: no connection within {load.timeout_s:g} s") from error
        channels = itertools.cycle(self._channels)
        if load.mode == "stream":
            streams = -(-load.callers // load.callers_per_stream)
            lasting_s = 3 * load.seconds + 2 * load.timeout_s
            self._calls = [StreamCalls(next(channels), load.method, lasting_s) for _ in range(streams)]
        else:
            self._calls = [UnaryCalls(channel, load.method, load.timeout_s) for channel in self._channels]
        for send in self._senders(load, len(self._calls)):
            try:
                await send(0)
            except RequestFailed:  # the load will fail too, and counts it
                return

    async def _run(self, load: Load) -> Measurement:
        pacer = Pacer(seconds=load.seconds, rate_per_s=load.rate_per_s, phase=load.phase)
        try:
            return await run_callers(self._senders(load, load.callers), pacer)
        finally:
            await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(calls.aclose() for calls in self._calls))
        await asyncio.gather(*(channel.close() for channel in self._channels))
        self._calls, self._channels, self._load = [], [], None

    def _senders(self, load: Load, count: int) -> list[Send]:
        return [_sender(calls, load) for calls in itertools.islice(itertools.cycle(self._calls), count)]


def _sender(calls: UnaryCalls | StreamCalls, load: Load) -> Send:
    requests, check = load.requests, load.check

    async def send(number: int) -> bool:
        prepared = requests[number % len(requests)]
        return check(await calls.send(prepared.message), prepared.expected)

    return send
