"""grpcio's own asyncio server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import grpc
import grpc.aio

from serving.config import ConnectionConfig
from serving.errors import StartFailed
from serving.server.security.tls import TlsFiles, TlsIdentity

_NO_LIMIT = 2**31 - 1


class GrpcioFront:
    """Hosts services on one address.

    Args:
        handlers: The services.
        host: Address to listen on.
        port: Port; 0 for any free one.
        max_request_bytes: Larger messages are refused by gRPC itself with RESOURCE_EXHAUSTED.
        share_port: Let other processes of this user listen on the same port, and share its connections with them.
        connections: How many, and when they end.
        tls: The certificates, loaded; None for plain text.
        interceptors: See every call first.
    """

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        *,
        host: str,
        port: int,
        max_request_bytes: int,
        share_port: bool,
        connections: ConnectionConfig,
        tls: TlsFiles | None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        self._handlers = handlers
        self._host = host
        self._port = port
        self._max_request_bytes = max_request_bytes
        self._share_port = share_port
        self._connections = connections
        self._tls = tls
        self._interceptors = interceptors
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Binds the address and begins to listen; returns the address with the port that it got.

        Raises:
            StartFailed: The port is in use, or the address is not this machine's.
        """
        logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_no_header)
        self._server = grpc.aio.server(
            interceptors=self._interceptors,
            options=[
                # On by default: a second server on the port would bind in silence and take half of the calls.
                ("grpc.so_reuseport", int(self._share_port)),
                ("grpc.max_receive_message_length", self._max_request_bytes),
                # Admission is the batcher's: gRPC would answer a bare CANCELLED to some of 1,000 waiting calls.
                ("grpc.server.max_pending_requests", _NO_LIMIT),
                ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
                *_connection_options(self._connections),
            ],
        )
        self._server.add_generic_rpc_handlers(tuple(self._handlers))
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise StartFailed(f"can't listen on {host}:{self._port}: no address is known for {self._host!r}") from error
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(f"{host}:{self._port}")
            else:
                port = self._server.add_secure_port(f"{host}:{self._port}", _credentials(self._tls))
        except RuntimeError as error:
            raise StartFailed(
                f"can't listen on {host}:{self._port}: the port is in use or the address is not this machine's"
            ) from error
        await self._server.start()
        return f"{host}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and cancels those that are still in flight after the grace period, in seconds."""
        if self._server is not None:
            await self._server.stop(grace_s)


def _tells_no_header(record: logging.LogRecord) -> bool:
    """Keeps grpcio from logging the values of headers that are not UTF-8: one may be a token with a slip in it."""
    return not record.getMessage().startswith("Invalid encoding")


def _connection_options(config: ConnectionConfig) -> list[tuple[str, int]]:
    """For what each means: https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h."""
    options = [
        ("grpc.max_concurrent_streams", config.max_streams_per_connection),
        ("grpc.keepalive_time_ms", _milliseconds(config.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _milliseconds(config.keepalive_timeout_s)),
        # What grpcio 1.85 really goes by; a minute by default, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", _milliseconds(config.keepalive_timeout_s)),
        # Else a client without a call is asked twice, and its end is never noticed after that.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC ends connections of clients that ping more often than every five minutes; many proxies and clients do.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.server_handshake_timeout_ms", _milliseconds(config.handshake_timeout_s)),
    ]
    if config.max_connections:
        options.append(("grpc.max_allowed_incoming_connections", config.max_connections))
    if config.max_connection_age_s:
        options += [
            ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_age_s)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(config.max_connection_age_grace_s)),
        ]
    return options


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that look at the files again whenever a client connects."""
    used = files.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if (now := files.current()) is used:
            return None
        used = now
        return _certificate_configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _certificate_configuration(used),
        changed,  # type: ignore[arg-type]  # the stubs don't know that None stands for no change
        require_client_authentication=used.client_ca is not None,
    )


def _certificate_configuration(identity: TlsIdentity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], identity.client_ca)
