"""One worker of several: a serving process that a supervisor starts, hears from and outlives.

Run as `python -m serving.server.process.worker FD NUMBER_FD`. FD is one end of a socket pair. NUMBER_FD is the memory
that holds the number of the rollout. The supervisor sends the configuration and then commands; it gets a line of JSON
for each change of state and a heartbeat in between. When its end closes, the worker stops.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from serving.config import ServerConfig
from serving.errors import DigitsError
from serving.inference.statistics import Counts
from serving.server.process import event_loop
from serving.server.process.shared_number import SharedNumber
from serving.server.process.worker_messages import Count, Prepare, Release, Reply, listed, receive, receive_first
from serving.server.telemetry.logs import start_logging

if TYPE_CHECKING:
    from serving.rollout.deployments import Deployments

HEARTBEAT_S = 1.0

_logger = logging.getLogger(__name__)


def main(descriptor: int, number_descriptor: int) -> int:
    """Serves as told through the descriptor; returns the process's exit code."""
    control = socket.socket(fileno=descriptor)
    config, logs = receive_first(control)
    start_logging(logs)
    return event_loop.run(_work(control, config, SharedNumber(number_descriptor)))


async def _work(control: socket.socket, config: ServerConfig, number: SharedNumber) -> int:
    from serving.rollout.deployments import Deployments
    from serving.server.process.lifecycle import serve
    from serving.server.process.server import Server
    from serving.server.telemetry.metrics import Metrics

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    # The terminal's signals are the supervisor's, which tells its workers.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    metrics = Metrics(registry=None)
    deployments = Deployments(config, metrics, number=number.get)
    supervisor = _Supervisor(*await asyncio.open_unix_connection(sock=control), deployments)

    async def ready(server: Server) -> None:
        supervisor.tell("ready", providers=sorted({each.provider for each in deployments}))

    obeying, beating = asyncio.create_task(supervisor.obey()), asyncio.create_task(supervisor.beat())
    obeying.add_done_callback(lambda _: stopping.set())
    listening, stopped = asyncio.create_task(supervisor.listen.wait()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({listening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if obeying.done():
            obeying.result()
        if not stopping.is_set():
            server = Server(config, metrics=metrics, deployments=deployments, fleet=supervisor)
            await serve(server, config, ready=ready, stopping=stopping)
    except DigitsError as error:
        await supervisor.tell_failure(str(error))
        return 1
    finally:
        for task in (obeying, beating, listening, stopped):
            task.cancel()
        supervisor.close()
    return 0


class _Supervisor:
    """The supervisor, as its worker hears it and talks to it.

    Args:
        reader: What it says.
        writer: What is said to it.
        deployments: What it changes.

    Attributes:
        listen: Set once the port may be bound.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deployments: Deployments) -> None:
        self._reader = reader
        self._writer = writer
        self._deployments = deployments
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self.listen = asyncio.Event()

    def tell(self, state: str, **facts: Any) -> None:
        """Reports a state."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"state": state, **facts}).encode() + b"\n")

    async def tell_failure(self, reason: str) -> None:
        """Reports that the worker ends, and why; returns once that is sent."""
        self.tell("failed", reason=reason)
        await self._writer.drain()

    async def beat(self) -> None:
        """Gives a sign of life from time to time."""
        while True:
            self.tell("alive")
            await asyncio.sleep(HEARTBEAT_S)

    async def obey(self) -> None:
        """Does what it says until it is gone.

        Raises:
            ProviderUnavailable: It wants models served on what is not here.
        """
        try:
            while True:
                await self._do(await receive(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            _logger.warning("the supervisor is gone: stopping")
            self.close()

    def close(self) -> None:
        """Says nothing more."""
        self._writer.close()

    async def load(self, name: str) -> None:
        """Loads a model in every worker; see `RolloutController.load`."""
        await self._ask("load", name)

    async def unload(self, name: str) -> None:
        """Unloads a model in every worker; see `RolloutController.unload`."""
        await self._ask("unload", name)

    async def counts(self) -> dict[tuple[str, int], Counts]:
        """What all workers have counted."""
        counted: dict[tuple[str, int], Counts] = await self._ask("count", "")
        return counted

    async def _do(self, command: object) -> None:
        if isinstance(command, Prepare):
            refusals = await self._deployments.prepare(command.rollout)
            self.tell("prepared", refusals=[asdict(refusal) for refusal in refusals])
        elif isinstance(command, Release):
            self._deployments.release(command.number)
        elif isinstance(command, Count):
            self.tell("counted", counts=listed(await self._deployments.counts()))
        elif isinstance(command, Reply):
            self._replied(command)
        else:
            self.listen.set()

    async def _ask(self, action: str, name: str) -> Any:
        self._count += 1
        self._asked[self._count] = asked = asyncio.get_running_loop().create_future()
        self.tell("asks", request=self._count, action=action, name=name)
        return await asked

    def _replied(self, reply: Reply) -> None:
        asked = self._asked.pop(reply.request, None)
        if asked is None or asked.done():
            return
        if reply.error is None:
            asked.set_result(reply.result)
        else:
            asked.set_exception(reply.error)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
