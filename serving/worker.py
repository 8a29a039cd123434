"""One worker of several: a serving process that a supervisor starts, hears from and outlives.

Run as `python -m serving.worker FD`, where FD is one end of a socket pair. The supervisor sends the configuration, and
gets a line of JSON for each change of state and a heartbeat in between. When its end closes, the worker stops.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import signal
import socket
import struct
import sys
from typing import Any

from serving import event_loop
from serving.config import ServerConfig
from serving.errors import DigitsError
from serving.logs import LogConfig, start_logging

HEARTBEAT_S = 1.0

_LENGTH = struct.Struct(">I")

_logger = logging.getLogger(__name__)


def send_configuration(control: socket.socket, config: ServerConfig, logs: LogConfig) -> None:
    """Sends a worker what it is to do; the supervisor's side."""
    content = pickle.dumps((config, logs))
    control.sendall(_LENGTH.pack(len(content)) + content)


def main(descriptor: int) -> int:
    """Serves as told through the descriptor; returns the process's exit code."""
    control = socket.socket(fileno=descriptor)
    with control.makefile("rb") as received:
        (length,) = _LENGTH.unpack(received.read(_LENGTH.size))
        # From our own supervisor, over a socket that nobody else holds.
        config, logs = pickle.loads(received.read(length))  # noqa: S301
    start_logging(logs)
    return event_loop.run(_work(control, config))


async def _work(control: socket.socket, config: ServerConfig) -> int:
    from serving.lifecycle import serve
    from serving.metrics import Metrics
    from serving.server import Server

    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    # The terminal's signals are the supervisor's, which tells its workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = await asyncio.open_unix_connection(sock=control)

    def tell(state: str, **facts: Any) -> None:
        if not writer.is_closing():
            writer.write(json.dumps({"state": state, **facts}).encode() + b"\n")

    async def stop_with_the_supervisor() -> None:
        await reader.read()
        _logger.warning("the supervisor is gone: stopping")
        writer.close()
        stopping.set()

    async def beat() -> None:
        while True:
            tell("alive")
            await asyncio.sleep(HEARTBEAT_S)

    async def ready(server: Server) -> None:
        served = server.deployment
        tell("ready", model=served.name, version=served.version, provider=served.provider)

    tasks = [asyncio.create_task(stop_with_the_supervisor()), asyncio.create_task(beat())]
    try:
        await serve(
            Server(config, metrics=Metrics(registry=None), share_port=True), config, ready=ready, stopping=stopping
        )
    except DigitsError as error:
        tell("failed", reason=str(error))
        await writer.drain()
        return 1
    finally:
        for task in tasks:
            task.cancel()
        writer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
