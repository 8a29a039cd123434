"""The lifecycle of one serving process: start, signals, watchdog and graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from serving.config import SAME_SIGNAL_S, ServerConfig

if TYPE_CHECKING:  # the supervisor handles signals too, and does not load the server
    from serving.server.process.server import Server

# How long a process that can't go on may take to tell its clients, in seconds.
_LAST_ANSWERS_S = 0.5

_logger = logging.getLogger(__name__)


async def serve(
    server: Server,
    config: ServerConfig,
    *,
    ready: Callable[[Server], Awaitable[None]],
    stopping: asyncio.Event,
) -> None:
    """Serves until `stopping` is set, then shuts down gracefully. Exits the process if an inference hangs.

    Args:
        server: The server to start and close.
        config: Its configuration.
        ready: Awaited once the server reports SERVING.
        stopping: Starts the shutdown.

    Raises:
        DigitsError: The server can't start as configured.
    """
    starting, stopped = asyncio.ensure_future(server.start()), asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # don't wait for a disk that hangs
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    starting.result()
    closed = threading.Event()
    # In a thread, since small batches run on the event loop.
    threading.Thread(
        target=_watchdog, args=(server, config.watchdog_s, closed, asyncio.get_running_loop()), daemon=True
    ).start()
    announcing = asyncio.ensure_future(ready(server))
    try:
        await asyncio.wait({announcing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await stopped
        await server.report_not_serving()
        if config.drain_pause_s:
            _logger.info("stopping: reporting NOT_SERVING, still accepting calls for %g s", config.drain_pause_s)
            await asyncio.sleep(config.drain_pause_s)
        _logger.info("stopping: calls in flight have %g s to finish", config.grace_s)
    finally:
        announcing.cancel()
        stopped.cancel()
        if not await server.aclose():
            _logger.error("calls in flight did not end within %g s and were dropped", config.grace_s)
            exit_now()
        closed.set()


def exit_now() -> None:
    """Exits without waiting for an inference in flight, which would keep the interpreter alive."""
    os._exit(1)


def handle_signals(
    stopping: asyncio.Event, reload: Callable[[], Coroutine[Any, Any, None]], kill: Callable[[], None] = exit_now
) -> None:
    """Sets `stopping` on SIGTERM or SIGINT, kills on a second one, and reloads on SIGHUP."""
    reloads: set[asyncio.Task[None]] = set()

    def start_reload() -> None:
        _logger.info("SIGHUP: rereading the repository")
        task = asyncio.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop = asyncio.get_running_loop()
    first_signal = 0.0

    def stop() -> None:
        nonlocal first_signal
        if not first_signal:
            first_signal = loop.time()
            stopping.set()
        elif loop.time() - first_signal > SAME_SIGNAL_S:
            _logger.warning("second signal: stopping now, calls in flight are dropped")
            kill()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, start_reload)


def _watchdog(server: Server, limit_s: float, closed: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
    """Exits the process if a batch hangs, or if the GPU has failed. Nothing else frees the engine's thread, or CUDA."""
    while not closed.wait(min(1.0, limit_s / 4)):
        age_s = server.deployments.batch_age_s
        if age_s > limit_s:
            _logger.critical("watchdog: a batch has run for %.1f s (limit %g s); exiting", age_s, limit_s)
            _run_on(loop, server.report_not_serving())
            exit_now()
        if error := server.deployments.device_error():
            _logger.critical("watchdog: the GPU has failed: %s; exiting", error)
            _run_on(loop, server.aclose(grace_s=_LAST_ANSWERS_S))  # the calls get UNAVAILABLE, so clients try again
            exit_now()


def _run_on(loop: asyncio.AbstractEventLoop, ending: Coroutine[Any, Any, object]) -> None:
    """Runs a coroutine on a loop of another thread, for a moment."""
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(ending, loop).result(2 * _LAST_ANSWERS_S)
