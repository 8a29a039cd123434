"""The supervisor's handle on one worker: starts the process, sends commands, receives reports, stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from serving.config import ServerConfig
from serving.errors import DigitsError
from serving.inference.statistics import Counts
from serving.rollout.rollout import Refusal, Rollout
from serving.server.process import worker_protocol as protocol
from serving.server.telemetry.logs import LogConfig

# From the start of the process to its first report. It only imports modules in this time.
_FIRST_REPORT_TIMEOUT_S = 30.0
# For loading and warming models, and for starting to serve.
_START_TIMEOUT_S = 120.0
_COUNT_TIMEOUT_S = 3.0

T = TypeVar("T")

# Executes what a client wants from all workers: an action of `Request`, and the name of a model.
RequestHandler = Callable[[str, str], Awaitable[Any]]

_logger = logging.getLogger(__name__)


class WorkerFailed(Exception):
    """A worker ended before it served. Gives the reason, if the worker reported one."""


class WorkerProcess:
    """One worker process. Created by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        heartbeat_timeout_s: float,
        handle_request: RequestHandler,
    ) -> None:
        self.started = time.monotonic()
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._process = process
        self._reader = reader
        self._writer = writer
        self._handle_request = handle_request
        self._requests: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Future[protocol.Ready] = asyncio.get_running_loop().create_future()
        self._prepared: asyncio.Future[list[Refusal]] | None = None
        self._counted: asyncio.Future[dict[tuple[str, int], Counts]] | None = None
        self._disconnected = False
        self._reading = asyncio.create_task(self._read_reports())

    @classmethod
    async def start(
        cls,
        config: ServerConfig,
        logs: LogConfig,
        environment: dict[str, str],
        number_descriptor: int,
        handle_request: RequestHandler,
    ) -> WorkerProcess:
        """Starts a process, in its own session so that the terminal's signals reach only the supervisor.

        Args:
            config: What it serves.
            logs: How it logs.
            environment: Variables to add to this process's own.
            number_descriptor: Shared memory that contains the number of the current rollout.
            handle_request: Executes what clients want from all workers.

        Raises:
            WorkerFailed: The system could not start another process.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
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
            ours.sendall(protocol.encode_command(protocol.Start(config=config, logs=logs)))
        except OSError as error:  # a process that did start sees the closed socket, and ends
            ours.close()
            raise WorkerFailed(f"can't start a process: {error.strerror}") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=protocol.MAX_REPORT_BYTES)
        # The worker's own watchdog detects a stuck engine. Missing heartbeats show a stuck event loop.
        timeout_s = max(config.watchdog_s, 3 * protocol.HEARTBEAT_S)
        return cls(process, reader, writer, heartbeat_timeout_s=timeout_s, handle_request=handle_request)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def served(self) -> bool:
        """Whether it has ever reported `Ready`."""
        return self._ready.done() and self._ready.exception() is None

    async def prepare(self, rollout: Rollout) -> list[Refusal]:
        """Loads the new versions of a rollout; returns the versions that can't be served, none if the worker ended."""
        if self._disconnected:
            return []
        self._prepared = asyncio.get_running_loop().create_future()
        self._send(protocol.Prepare(rollout=rollout))
        try:
            return await asyncio.wait_for(asyncio.shield(self._prepared), _START_TIMEOUT_S)
        except TimeoutError:
            _logger.error("killing worker %d: it did not load the new versions within %g s", self.pid, _START_TIMEOUT_S)
            self.kill()
            return []

    def release(self, number: int) -> None:
        """Unloads every version that the rollout with this number does not contain."""
        self._send(protocol.Release(number=number))

    async def counts(self) -> dict[tuple[str, int], Counts]:
        """Asks for its counts, by model name and version; empty if it does not answer within a few seconds."""
        if self._disconnected:
            return {}
        if self._counted is None or self._counted.done():
            self._counted = asyncio.get_running_loop().create_future()
            self._send(protocol.Count())
        try:
            return await asyncio.wait_for(asyncio.shield(self._counted), _COUNT_TIMEOUT_S)
        except TimeoutError:
            return {}

    def listen(self) -> None:
        """Makes it bind the port and serve what it has prepared."""
        self._send(protocol.Listen())

    async def wait_ready(self) -> protocol.Ready:
        """Waits until it serves.

        Raises:
            WorkerFailed: It ended first, or did not serve in time and was killed.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), _START_TIMEOUT_S)
        except TimeoutError as error:
            self.kill()
            await self.wait()
            raise WorkerFailed(f"it did not serve within {_START_TIMEOUT_S:g} s") from error

    async def wait(self) -> int:
        """Waits until it ends; returns its exit code, or the negative number of the signal that killed it."""
        code = await self._process.wait()
        await asyncio.wait({self._reading})
        self._writer.close()
        return code

    def drain(self) -> None:
        """Asks it to answer the calls in flight and to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _read_reports(self) -> None:
        """Handles reports until the worker ends; kills it if its heartbeats stop."""
        reason, timeout_s = "", _FIRST_REPORT_TIMEOUT_S
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), timeout_s)
            except TimeoutError:
                reason = f"no heartbeat for {timeout_s:g} s"
                _logger.error("killing worker %d: %s", self.pid, reason)
                self.kill()
                continue
            except ConnectionError:
                line = b""
            if not line:
                break
            timeout_s = self._heartbeat_timeout_s
            report = protocol.decode_report(line)
            if isinstance(report, protocol.Failed):
                reason = report.reason
            else:
                self._handle(report)
        self._disconnected = True
        _resolve(self._prepared, [])
        if not self._ready.done():
            code = await self._process.wait()
            self._ready.set_exception(WorkerFailed(reason or f"exit code {code}"))
            self._ready.exception()  # marks it as retrieved, since nothing may wait for it

    def _handle(self, report: protocol.Report) -> None:
        match report:
            case protocol.Ready():
                _resolve(self._ready, report)
            case protocol.Prepared():
                _resolve(self._prepared, report.refusals)
            case protocol.Counted():
                _resolve(self._counted, {(name, version): counts for name, version, counts in report.counts})
            case protocol.Request():
                task = asyncio.create_task(self._reply(report))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)

    async def _reply(self, request: protocol.Request) -> None:
        result, error = None, None
        try:
            result = await self._handle_request(request.action, request.name)
        except (DigitsError, NotImplementedError) as refused:
            error = refused
        self._send(protocol.Reply(request=request.number, result=result, error=error))

    def _send(self, command: protocol.Command) -> None:
        if not self._writer.is_closing():
            self._writer.write(protocol.encode_command(command))


def _resolve(future: asyncio.Future[T] | None, result: T) -> None:
    if future is not None and not future.done():
        future.set_result(result)
