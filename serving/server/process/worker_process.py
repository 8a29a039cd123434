"""A worker as its supervisor sees it: a process that reports its state and can be stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serving.config import ServerConfig
from serving.errors import DigitsError
from serving.inference.statistics import Counts
from serving.rollout.rollout import Refusal, Rollout
from serving.server.process.worker import HEARTBEAT_S
from serving.server.process.worker_messages import Count, Listen, Prepare, Release, Reply, counts_of, framed
from serving.server.telemetry.logs import LogConfig

# From its start to its first word: imports. It gives signs of life from then on.
_FIRST_WORD_S = 30.0
# Until it has loaded what it was told to: models, their warm-up; and until it serves.
_START_S = 120.0

# How long somebody who asks for counts waits for a worker that hangs.
_COUNT_S = 3.0
# Of a worker's reports: counts of batches of a thousand sizes are the longest.
_MAX_LINE_BYTES = 1 << 20

_logger = logging.getLogger(__name__)


class WorkerFailed(Exception):
    """A worker ended before it served. Says why, where the worker knew."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """How a worker serves.

    Attributes:
        providers: The execution providers that run its models.
    """

    providers: tuple[str, ...]


# Loads or unloads the model of this name for every worker, or counts what all have done.
Ask = Callable[[str, str], Awaitable[Any]]


class WorkerProcess:
    """One worker process. Made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        silence_s: float,
        ask: Ask,
    ) -> None:
        self.started = time.monotonic()
        self._silence_s = silence_s
        self._process = process
        self._reader = reader
        self._writer = writer
        self._ask = ask
        self._asking: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._prepared: asyncio.Future[list[Refusal]] | None = None
        self._counted: asyncio.Future[dict[tuple[str, int], Counts]] | None = None
        self._silent = False  # nothing will be heard of it any more
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls, config: ServerConfig, logs: LogConfig, environment: dict[str, str], number_descriptor: int, ask: Ask
    ) -> WorkerProcess:
        """Starts one, in a session of its own: the terminal's signals are the supervisor's.

        Args:
            config: What it serves.
            logs: How it logs.
            environment: Is added to this process's own.
            number_descriptor: Memory that holds the number of the rollout.
            ask: Does what clients ask of it.

        Raises:
            WorkerFailed: The system has no room for a process.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await cls._launch(theirs, number_descriptor, environment)
            ours.sendall(framed((config, logs)))
        except OSError as error:  # one that runs already sees the socket's end and ends too
            ours.close()
            raise WorkerFailed(f"no process could be started: {error.strerror}") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MAX_LINE_BYTES)
        # The watchdog within sees a hanging engine; the one here a hanging event loop.
        silence_s = max(config.watchdog_s, 3 * HEARTBEAT_S)
        return cls(process, reader, writer, silence_s=silence_s, ask=ask)

    @staticmethod
    async def _launch(
        theirs: socket.socket, number_descriptor: int, environment: dict[str, str]
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "serving.server.process.worker",
            str(theirs.fileno()),
            str(number_descriptor),
            pass_fds=(theirs.fileno(), number_descriptor),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def served(self) -> bool:
        """Whether it has ever reported to serve."""
        return self._ready.done() and self._ready.exception() is None

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        """Loads what is new in a rollout; returns the versions that can't be served, none where the worker ended."""
        if self._silent:
            return []
        self._prepared = asyncio.get_running_loop().create_future()
        self._send(Prepare(rollout=rollout))
        try:
            return await asyncio.wait_for(asyncio.shield(self._prepared), _START_S)
        except TimeoutError:
            _logger.error("killing worker %d: it did not load what is new within %g s", self.pid, _START_S)
            self.kill_now()
            return []

    def release(self, number: int) -> None:
        """Lets go what the rollout of this number does not have."""
        self._send(Release(number=number))

    async def counts(self) -> dict[tuple[str, int], Counts]:
        """What it has counted; nothing where it does not say so within some seconds."""
        if self._silent:
            return {}
        if self._counted is None or self._counted.done():
            self._counted = asyncio.get_running_loop().create_future()
            self._send(Count())
        try:
            return await asyncio.wait_for(asyncio.shield(self._counted), _COUNT_S)
        except TimeoutError:
            return {}

    def listen(self) -> None:
        """Lets it bind the port and serve what it has prepared."""
        self._send(Listen())

    async def ready(self) -> Ready:
        """Waits until it serves.

        Raises:
            WorkerFailed: It ended before, or did not serve in time and was killed.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), _START_S)
        except TimeoutError as error:
            await self.kill()
            raise WorkerFailed(f"it did not serve within {_START_S:g} s") from error

    async def ended(self) -> int:
        """Waits for its end; returns its exit code, negative for a signal."""
        code = await self._process.wait()
        await asyncio.wait({self._listening})
        self._writer.close()
        return code

    def drain(self) -> None:
        """Asks it to answer what it has and to end."""
        self._signal(signal.SIGTERM)

    def kill_now(self) -> None:
        """Ends it at once."""
        self._signal(signal.SIGKILL)

    async def kill(self) -> int:
        """Ends it at once and waits for that; returns its exit code."""
        self.kill_now()
        return await self.ended()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _listen(self) -> None:
        """Takes its reports until it ends; one that falls silent is killed."""
        reason, patience_s = "", _FIRST_WORD_S
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), patience_s)
            except TimeoutError:
                reason = f"it said nothing for {patience_s:g} s"
                _logger.error("killing worker %d: %s", self.pid, reason)
                self.kill_now()
                continue
            except ConnectionError:
                line = b""
            if not line:
                break
            patience_s = self._silence_s
            report = json.loads(line)
            if report["state"] == "ready" and not self._ready.done():
                self._ready.set_result(Ready(providers=tuple(report["providers"])))
            elif report["state"] == "prepared" and self._prepared is not None and not self._prepared.done():
                self._prepared.set_result([Refusal(**refusal) for refusal in report["refusals"]])
            elif report["state"] == "counted" and self._counted is not None and not self._counted.done():
                self._counted.set_result(counts_of(report["counts"]))
            elif report["state"] == "asks":
                task = asyncio.create_task(self._do(report["request"], report["action"], report["name"]))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            elif report["state"] == "failed":
                reason = report["reason"]
        self._silent = True
        if self._prepared is not None and not self._prepared.done():
            self._prepared.set_result([])
        if not self._ready.done():
            code = await self._process.wait()
            self._ready.set_exception(WorkerFailed(reason or f"exit code {code}"))
            self._ready.exception()  # somebody may not have asked

    async def _do(self, request: int, action: str, name: str) -> None:
        """Does what a client asked of this worker, and tells it."""
        result, error = None, None
        try:
            result = await self._ask(action, name)
        except (DigitsError, NotImplementedError) as refused:
            error = refused
        self._send(Reply(request=request, result=result, error=error))

    def _send(self, message: object) -> None:
        if not self._writer.is_closing():
            self._writer.write(framed(message))
