"""The worker: a serving process that a supervisor starts and controls.

The supervisor runs it as `python -m serving.server.process.worker FD NUMBER_FD`. FD is the worker's end of a socket
pair that carries `worker_protocol`. NUMBER_FD is the shared memory that contains the number of the current rollout.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from serving.errors import DigitsError
from serving.inference.statistics import Counts
from serving.server.process import event_loop
from serving.server.process import worker_protocol as protocol
from serving.server.process.shared_number import SharedNumber
from serving.server.telemetry.logs import start_logging

if TYPE_CHECKING:
    from serving.rollout.deployments import Deployments

_logger = logging.getLogger(__name__)


async def main(descriptor: int, number_descriptor: int) -> int:
    """Serves until SIGTERM or until the supervisor ends; returns the exit code."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    start = await protocol.receive_command(reader)
    config = start.config
    start_logging(start.logs)

    from serving.rollout.deployments import Deployments
    from serving.server.process.lifecycle import serve
    from serving.server.process.server import Server
    from serving.server.telemetry.metrics import Metrics

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    # The supervisor handles these and tells its workers.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    metrics = Metrics(registry=None)
    deployments = Deployments(config, metrics, number=SharedNumber(number_descriptor).get)
    supervisor = SupervisorConnection(reader, writer, deployments)

    async def ready(server: Server) -> None:
        supervisor.report(protocol.Ready(providers=sorted({each.runs_on for each in deployments})))

    commands, heartbeats = asyncio.create_task(supervisor.run()), asyncio.create_task(supervisor.send_heartbeats())
    commands.add_done_callback(lambda _: stopping.set())
    listening, stopped = asyncio.create_task(supervisor.listen.wait()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({listening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if commands.done():
            commands.result()
        if not stopping.is_set():
            server = Server(config, metrics=metrics, deployments=deployments, control=supervisor)
            await serve(server, config, ready=ready, stopping=stopping)
    except DigitsError as error:
        supervisor.report(protocol.Failed(reason=str(error)))
        await writer.drain()
        return 1
    finally:
        for task in (commands, heartbeats, listening, stopped):
            task.cancel()
        writer.close()
    return 0


class SupervisorConnection:
    """Executes the supervisor's commands, and passes on what clients want from all workers.

    Args:
        reader: Receives commands.
        writer: Sends reports.
        deployments: The versions that this worker serves.

    Attributes:
        listen: Set once the worker may bind the port.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deployments: Deployments) -> None:
        self._reader = reader
        self._writer = writer
        self._deployments = deployments
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0
        self.listen = asyncio.Event()

    async def run(self) -> None:
        """Executes commands until the supervisor ends.

        Raises:
            ProviderUnavailable: The execution provider can't run the first models.
        """
        try:
            while True:
                await self._execute(await protocol.receive_command(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            _logger.warning("the supervisor has ended: stopping")
            self._writer.close()

    async def send_heartbeats(self) -> None:
        """Sends heartbeats at intervals until cancelled."""
        while True:
            self.report(protocol.Heartbeat())
            await asyncio.sleep(protocol.HEARTBEAT_S)

    def report(self, report: protocol.Report) -> None:
        """Sends a report."""
        if not self._writer.is_closing():
            self._writer.write(protocol.encode_report(report))

    async def load(self, name: str) -> None:
        """Loads a model in every worker; see `RolloutController.load`."""
        await self._request("load", name)

    async def unload(self, name: str) -> None:
        """Unloads a model in every worker; see `RolloutController.unload`."""
        await self._request("unload", name)

    async def counts(self) -> dict[tuple[str, int], Counts]:
        """Adds up the counts of all workers, by model name and version."""
        counts: dict[tuple[str, int], Counts] = await self._request("count")
        return counts

    async def _execute(self, command: object) -> None:
        match command:
            case protocol.Prepare():
                self.report(protocol.Prepared(refusals=await self._deployments.prepare(command.rollout)))
            case protocol.Listen():
                self.listen.set()
            case protocol.Release():
                self._deployments.release(command.number)
            case protocol.Count():
                counts = await self._deployments.counts()
                self.report(protocol.Counted(counts=[(*which, counted) for which, counted in counts.items()]))
            case protocol.Reply():
                self._finish(command)

    async def _request(self, action: str, name: str = "") -> Any:
        self._last_request += 1
        self._requests[self._last_request] = reply = asyncio.get_running_loop().create_future()
        self.report(protocol.Request(number=self._last_request, action=action, name=name))
        return await reply

    def _finish(self, reply: protocol.Reply) -> None:
        request = self._requests.pop(reply.request, None)
        if request is None or request.done():  # the client may have cancelled its call
            return
        if reply.error is None:
            request.set_result(reply.result)
        else:
            request.set_exception(reply.error)


if __name__ == "__main__":
    sys.exit(event_loop.run(main(int(sys.argv[1]), int(sys.argv[2]))))
