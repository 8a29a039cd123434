"""uvicorn, on the event loop of this process: HTTP/1.1, in plain text or TLS."""

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
from serving.server.fronts.shared_port import bind, shown_host
from serving.server.http.handlers import error_body
from serving.server.security.tls import TlsFiles

_MAX_HEAD_BYTES = 32 << 10
# How long a client that is told to go may take to read that.
_FAREWELL_S = 1.0

_logger = logging.getLogger(__name__)


class HttpFront:
    """Hosts an application on one address.

    Args:
        app: An ASGI application.
        config: Has the address, and when connections end.
        port: Port; 0 for any free one.
        share_port: Let other processes of this user listen on the same port, and share its connections with them.
        tls: The certificates, loaded; None for plain text.
    """

    def __init__(self, app: Any, config: ServerConfig, *, port: int, share_port: bool, tls: TlsFiles | None) -> None:
        self._host = config.host
        self._port = port
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
                log_level="error",  # what clients do is logged by us, or not at all
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
        url = f"{self._scheme}://{shown_host(self._host)}:{port}"
        _logger.info("HTTP on %s", url)
        return url

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, ends idle ones, and the others after the grace period, in seconds."""
        if self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]  # a fraction will do
        self._server.should_exit = True
        await self._serving
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server without hands on the process's signals; says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class _Connection(H11Protocol):
    """A connection whose client has so long to send a request, to take an answer, and to send the next request.

    uvicorn itself waits for ever for a head or a body that trickles, and for a client that does not read.
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
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        self._unwatch()  # the next request has its own time
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwatch()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        self._refuse(400, msg)

    def _watch(self) -> None:
        """Sees to it that there is a limit if, and only if, it is the client's turn."""
        ours = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if self._refused:
            return
        if self.transport.is_closing() or (ours and not self.flow.write_paused):
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._limits.http_timeout_s, self._too_slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        sending = self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY
        if sending and self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._refuse(408, "the request did not arrive in time")
        else:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        body = error_body(message)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # the answer has begun already
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        # To close with something unread would take the answer back, so what still comes is read for a moment.
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._unwatch()
        self._timer = self.loop.call_later(_FAREWELL_S, self.transport.abort)


def _unambiguous(app: Any) -> Any:
    """The application, but for requests whose length is said in two ways: no other may follow on their connection.

    What this server takes for the next request may be a part of the body to a proxy before it.
    """

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            body = error_body("Content-Length and Transfer-Encoding exclude each other")
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await app(scope, receive, send)

    return checked


def _context(files: TlsFiles) -> ssl.SSLContext:
    """A context that looks at the files again whenever a client connects."""
    used = files.current()
    context = first = used.server_context()

    def changed(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        nonlocal used, context
        if (now := files.current()) is not used:
            used, context = now, now.server_context()
        connection.context = context

    first.sni_callback = changed  # is called for clients that name no server too
    return first
