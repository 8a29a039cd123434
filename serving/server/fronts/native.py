"""The gRPC front end on pygrpc-native: HTTP/2 and gRPC run in Rust, outside the GIL.

Unary calls reach Python in batches, as bytes. All other calls, of methods that stream and of unknown methods, are
passed on to a grpcio front end on a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from serving.config import ServerConfig
from serving.server.fronts.direct import DirectMethod, Metadata, Running
from serving.server.fronts.grpcio import GrpcioFront, milliseconds
from serving.server.fronts.native_context import NativeContext
from serving.server.fronts.shared_port import cannot_listen, check_address, format_address

_logger = logging.getLogger(__name__)

_EVENTS_AT_ONCE = 256
# How often a server that stops looks whether all answers have been sent. The library has no event for it.
_LOOK_S = 0.005
# How long it waits until refusals have been sent, in seconds.
_REFUSALS_S = 1.0
# Clients share the connections to grpcio, so each of them may have as many calls as the server has in all.
_MOST_STREAMS = 2_000_000


class NativeFront:
    """Hosts services on one address, without TLS.

    Args:
        methods: The handler of each method, by its full name `/package.Service/Method`.
        config: Its address, port and connections are used.
        max_request_bytes: Larger messages are refused with RESOURCE_EXHAUSTED, once they have arrived.
        share_port: Whether other processes of this user may listen on the same port and share its connections.
        until_idle: Returns once no call is left.
        direct: For some methods, what may answer a call without a task.
    """

    def __init__(
        self,
        methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        config: ServerConfig,
        *,
        max_request_bytes: int,
        share_port: bool,
        until_idle: Callable[[], Coroutine[Any, Any, None]],
        direct: Mapping[str, DirectMethod],
    ) -> None:
        self._config = config
        self._max_request_bytes = max_request_bytes
        self._share_port = share_port
        self._until_idle = until_idle
        unary = {
            name: handler
            for name, handler in methods.items()
            if not handler.request_streaming and not handler.response_streaming
        }
        self._names, self._handlers = list(unary), list(unary.values())
        self._direct = [direct.get(name) for name in unary]
        self._folder = Path(tempfile.mkdtemp(prefix="digits-"))
        self._grpcio = GrpcioFront(
            methods,
            replace(
                config,
                front="grpcio",
                host=f"unix:{self._folder / 'grpc'}",
                workers=1,
                connections=replace(config.connections, max_streams_per_connection=_MOST_STREAMS),
            ),
            max_request_bytes=max_request_bytes,
            share_port=False,
            tls=None,
            until_idle=until_idle,
            direct={},
        )
        self._running: dict[int, Running] = {}
        self._inbox: deque[Sequence[Any]] = deque()
        self._is_told = False  # whether the loop will look into the inbox
        self._stopping = False
        # Calls that arrived since. The library can't tell clients to leave (GOAWAY), so a call that is refused at once
        # comes back on the same connection until its retries are used up.
        self._waiting: dict[int, _Responder] = {}
        self._front: NativeGrpcFront | None = None

    async def start(self) -> str:
        """Binds the address and begins to listen; returns the address with the port that it got.

        Raises:
            StartFailed: The port or the socket is in use, or the address is not this machine's.
        """
        host, connections = self._config.host, self._config.connections
        logging.getLogger("pygrpc_native").setLevel(logging.ERROR)  # it warns of an address that can't be bound
        address = check_address(self._config)
        try:
            self._front = front = NativeGrpcFront(
                address,
                [(name, False) for name in self._names],
                call_details=True,
                io_threads=1,
                metrics=True,
                reuse_port=self._share_port,
                max_concurrent_streams=connections.max_streams_per_connection,
                keepalive_time_ms=milliseconds(connections.keepalive_s),
                keepalive_timeout_ms=milliseconds(connections.keepalive_timeout_s),
            )
        except OSError as error:
            raise cannot_listen(address) from error
        front.set_fallback((await self._grpcio.start()).removeprefix("unix:"))
        front.start()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._receive, args=(front, loop), name="native-front", daemon=True).start()
        return address if self._config.socket_path is not None else format_address(host, front.bound_port)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and cancels those that are still in flight after the grace period, in seconds.

        Calls that arrive from now on are refused just before the connections close.
        """
        self._stopping = True
        try:
            if self._front is None:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._until_idle()
                    await self._until_sent(self._front)
            running = list(self._running.values())
            for call in running:
                call.cancel()
            tasks = [call for call in running if isinstance(call, asyncio.Task)]
            await asyncio.gather(*tasks, self._grpcio.stop(0), return_exceptions=True)
            while self._waiting:
                self._waiting.popitem()[1].fail(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REFUSALS_S):
                    await self._until_sent(self._front)
            await asyncio.to_thread(self._front.close)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _until_sent(self, front: NativeGrpcFront) -> None:
        """Returns once every answer has been sent, but to calls that wait. Closing loses those that have not."""
        while True:
            methods = (front.metrics() or {})["methods"]
            unsent = sum(_unsent(methods[name]) for name in self._names if name in methods)
            if unsent <= len(self._waiting):
                return
            await asyncio.sleep(_LOOK_S)

    def _receive(self, front: NativeGrpcFront, loop: asyncio.AbstractEventLoop) -> None:
        """Passes events on to the loop until the front is closed. Runs in a thread of its own."""
        while (events := front.recv_batch_details(_EVENTS_AT_ONCE)) is not None:
            self._inbox.append(events)
            if self._is_told:
                continue
            self._is_told = True
            try:
                loop.call_soon_threadsafe(self._look)
            except RuntimeError:  # the loop was closed
                front.close()
                return

    def _look(self) -> None:
        self._is_told = False  # before it looks: what arrives from now on is told again
        while self._inbox:
            self._arrived(self._inbox.popleft())

    def _arrived(self, events: Sequence[Any]) -> None:
        assert self._front is not None  # noqa: S101
        for kind, call_id, method, content, _, details in events:
            if kind == EVENT_CANCEL:
                self._waiting.pop(call_id, None)
                if (running := self._running.get(call_id)) is not None:
                    running.cancel()
                continue
            context = NativeContext(*details)
            responder = _Responder(self._front, call_id, self._running, context)
            if self._stopping:
                self._waiting[call_id] = responder
            elif len(content) > self._max_request_bytes:
                sizes = f"{len(content)} vs. {self._max_request_bytes}"  # in grpcio's words
                responder.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({sizes})")
            else:
                call = self._begin(method, content, context, responder)
                if call is None:
                    call = asyncio.ensure_future(_answer(self._handlers[method], content, context, responder))
                    call.add_done_callback(partial(self._ended, call_id, context))
                if not call.done():  # it may have been refused already
                    self._running[call_id] = call

    def _begin(self, method: int, content: bytes, context: NativeContext, responder: _Responder) -> Running | None:
        begin = self._direct[method]
        try:
            return None if begin is None else begin(content, context, responder)
        except Exception:  # the calls that arrived with it must not suffer
            _logger.exception("a call failed on the direct way")
            return None

    def _ended(self, call_id: int, context: NativeContext, _: asyncio.Task[None]) -> None:
        self._running.pop(call_id, None)  # also where it was cancelled before it began
        context.end()


def _unsent(method: Mapping[str, Any]) -> int:
    return int(method["started"] - sum(ended["count"] for ended in method["status"].values()))


class _Responder:
    """Ends one call."""

    __slots__ = ("_call_id", "_context", "_front", "_running")

    def __init__(
        self, front: NativeGrpcFront, call_id: int, running: dict[int, Running], context: NativeContext
    ) -> None:
        self._front = front
        self._call_id = call_id
        self._running = running
        self._context = context

    def respond(self, content: bytes, metadata: Metadata | None = None) -> None:
        self._front.respond(self._call_id, content, None, metadata or None)
        self._end()

    def fail(self, code: grpc.StatusCode, message: str, metadata: Metadata | None = None) -> None:
        self._front.fail(self._call_id, code.value[0], message, metadata)
        self._end()

    def _end(self) -> None:
        self._running.pop(self._call_id, None)
        self._context.end()


async def _answer(handler: Any, content: bytes, context: NativeContext, responder: _Responder) -> None:
    try:
        response = handler.response_serializer(await handler.unary_unary(content, context))
    except grpc.aio.AbortError:
        responder.fail(context.code(), context.details, context.trailing_metadata)
    except asyncio.CancelledError:
        responder.fail(grpc.StatusCode.CANCELLED, "")
        raise
    except Exception:
        _logger.exception("a call failed outside its service")
        responder.fail(grpc.StatusCode.INTERNAL, "internal error")
    else:
        responder.respond(response, context.trailing_metadata)
