"""The HTTP front end: uvicorn on this process's event loop, HTTP/1.1 in plain text or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import ssl
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.config import ConnectionConfig, ServerConfig
from serving.server.fronts.shared_port import bind, format_address
from serving.server.http.handlers import error_body
from serving.server.security.tls import TlsFiles

_MAX_HEAD_BYTES = 32 << 10
# How long a client that was refused may take to read the answer.
_LINGER_S = 1.0
# How often the Date header is renewed.
_TICK_S = 1.0

_logger = logging.getLogger(__name__)


class HttpFront:
    """Hosts an application on one address.

    Args:
        app: An ASGI application.
        config: Its address, HTTP port and connections are used.
        share_port: Whether other processes of this user may listen on the same port and share its connections.
        tls: The certificates, loaded; None for plain text.
    """

    def __init__(self, app: Any, config: ServerConfig, *, share_port: bool, tls: TlsFiles | None) -> None:
        self._host = config.tcp_host
        self._port = config.http_port or 0
        self._share_port = share_port
        self._scheme = "http" if tls is None else "https"
        self._server = _Server(
            uvicorn.Config(
                _unambiguous(app),
                http=functools.partial(_Connection, limits=config.connections),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="error",  # uvicorn would log what clients do wrong
                access_log=False,
                proxy_headers=False,
                server_header=False,
                workers=1,
                timeout_keep_alive=math.ceil(config.connections.http_timeout_s),
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                ssl_context_factory=None if tls is None else lambda config, default: _context(tls),
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Binds the address and begins to listen; returns the URL with the port that it got.

        Raises:
            StartFailed: The port is in use, or the address is not this machine's.
        """
        sockets = bind(self._host, self._port, share=self._share_port)
        port = sockets[0].getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets))
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            self._serving.result()
        url = f"{self._scheme}://{format_address(self._host, port)}"
        _logger.info("HTTP on %s", url)
        return url

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, closes idle ones now and the others after the grace period, in seconds."""
        if self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]  # a float works too
        self._server.exit_now()
        await self._serving
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals alone and sets an event once it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._exiting = asyncio.Event()

    def exit_now(self) -> None:
        """Makes it stop. uvicorn itself notices `should_exit` at its next tick only."""
        self.should_exit = True
        self._exiting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter += 10  # uvicorn ticks ten times a second, and renews the Date header at every tenth tick
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exiting.wait(), _TICK_S)


class _Connection(H11Protocol):
    """A connection with a time limit for each step: sending a request, reading the answer, sending the next request.

    uvicorn itself waits forever for a request that arrives slowly, and for a client that does not read.
    """

    def __init__(self, *args: Any, limits: ConnectionConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if 0 < self._limits.max_connections < len(self.connections):
            transport.abort()
        else:
            self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_timer()

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._update_timer()

    def on_response_complete(self) -> None:
        self._cancel_timer()  # the next request has its own time limit
        super().on_response_complete()
        self._update_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_timer()
        self._update_timer()

    def send_400_response(self, msg: str) -> None:
        """Answers data that is not HTTP."""
        self._refuse(400, msg)

    def _update_timer(self) -> None:
        """Runs the timer if, and only if, the client must act next."""
        busy = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if self._refused:
            return
        if self.transport.is_closing() or (busy and not self.flow.write_paused):
            self._cancel_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._limits.http_timeout_s, self._timed_out)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        sending = self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY
        if sending and self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._refuse(408, "the request did not arrive in time")
        else:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        headers, body = _closing_error(message)
        with contextlib.suppress(h11.LocalProtocolError):  # the answer has already begun
            events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        # Closing with unread data would reset the connection and lose the answer, so keep reading for a moment.
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._cancel_timer()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.abort)


def _unambiguous(app: Any) -> Any:
    """Wraps the application; refuses requests that state their length in two ways, and closes their connection.

    What this server takes for the next request, a proxy in front of it may take for a part of the body.
    """

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            headers, body = _closing_error("a request can't have both Content-Length and Transfer-Encoding")
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await app(scope, receive, send)

    return checked


def _closing_error(message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Returns headers and body of an error after which the connection is closed."""
    body = error_body(message)
    length = str(len(body)).encode()
    return [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")], body


def _context(files: TlsFiles) -> ssl.SSLContext:
    """A context that checks for changed files whenever a client connects."""
    used = files.current()
    context = first = used.server_context()

    def changed(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        nonlocal used, context
        if (now := files.current()) is not used:
            used, context = now, now.server_context()
        connection.context = context

    first.sni_callback = changed  # also called for clients that name no server
    return first
