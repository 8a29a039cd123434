"""The gRPC front end: grpcio's own asyncio server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from serving.config import ConnectionConfig, ServerConfig
from serving.server.fronts.direct import DirectMethod, directly
from serving.server.fronts.shared_port import cannot_listen, check_address, format_address
from serving.server.security.tls import TlsFiles, TlsIdentity

_NO_LIMIT = 2**31 - 1
# How long clients without a call have to close their connections, once they were told to, or to send the rest of a
# request that began to arrive before.
_LEAVE_S = 1.0


class GrpcioFront:
    """Hosts services on one address.

    Args:
        methods: The handler of each method, by its full name `/package.Service/Method`.
        config: Its address, port and connections are used.
        max_request_bytes: gRPC refuses larger messages with RESOURCE_EXHAUSTED.
        share_port: Whether other processes of this user may listen on the same port and share its connections.
        tls: The certificates, loaded; None for plain text.
        interceptors: See every call first.
        until_idle: Returns once no call is left.
        direct: For some methods, what may answer a call on a shorter way.
    """

    def __init__(
        self,
        methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        config: ServerConfig,
        *,
        max_request_bytes: int,
        share_port: bool,
        tls: TlsFiles | None,
        until_idle: Callable[[], Coroutine[Any, Any, None]],
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        direct: Mapping[str, DirectMethod],
    ) -> None:
        self._methods = {**methods, **{name: directly(methods[name], begin) for name, begin in direct.items()}}
        self._config = config
        self._max_request_bytes = max_request_bytes
        self._share_port = share_port
        self._tls = tls
        self._interceptors = interceptors
        self._until_idle = until_idle
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Binds the address and begins to listen; returns the address with the port that it got.

        Raises:
            StartFailed: The port or the socket is in use, or the address is not this machine's.
        """
        logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_header)
        self._server = grpc.aio.server(
            interceptors=self._interceptors,
            options=[
                # On by default. A second server would silently bind the same port and take half of the calls.
                ("grpc.so_reuseport", int(self._share_port)),
                ("grpc.max_receive_message_length", self._max_request_bytes),
                # The batcher limits the queue. gRPC would end some of 1,000 waiting calls with a bare CANCELLED.
                ("grpc.server.max_pending_requests", _NO_LIMIT),
                ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
                *_connection_options(self._config.connections),
            ],
        )
        self._server.add_generic_rpc_handlers((_Methods(self._methods),))
        address = check_address(self._config)
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError as error:
            raise cannot_listen(address) from error
        await self._server.start()
        return address if self._config.socket_path is not None else format_address(self._config.host, port)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and cancels those that are still in flight after the grace period, in seconds.

        By itself, gRPC would also wait that long for connections without a call whose clients say nothing.
        """
        if self._server is None:
            return
        stopping = asyncio.create_task(self._server.stop(grace_s))
        while not stopping.done():
            idle = asyncio.create_task(self._until_idle())
            await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
            if idle.done() and not (await asyncio.wait({stopping}, timeout=_LEAVE_S))[0]:
                still_idle = asyncio.create_task(self._until_idle())
                if (await asyncio.wait({still_idle}, timeout=0))[0]:
                    await self._server.stop(0)
                still_idle.cancel()
            idle.cancel()
        await stopping


class _Methods(grpc.GenericRpcHandler):
    """Finds the handler of a call."""

    def __init__(self, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a method; None if there is no such method."""
        return self._methods.get(handler_call_details.method)


def _shows_no_header(record: logging.LogRecord) -> bool:
    """Filters out grpcio's messages that show a header that is not UTF-8, since it may be a mistyped token."""
    return not record.getMessage().startswith("Invalid encoding")


def _connection_options(config: ConnectionConfig) -> list[tuple[str, int]]:
    """Each option is described in https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h."""
    options = [
        ("grpc.max_concurrent_streams", config.max_streams_per_connection),
        ("grpc.keepalive_time_ms", milliseconds(config.keepalive_s)),
        ("grpc.keepalive_timeout_ms", milliseconds(config.keepalive_timeout_s)),
        # grpcio 1.85 uses this option instead of the one above; its default is a minute.
        ("grpc.http2.ping_timeout_ms", milliseconds(config.keepalive_timeout_s)),
        # Otherwise a client without calls gets only two pings, and the server does not notice when it vanishes later.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # By default gRPC closes connections of clients that ping more than every five minutes, as many clients do.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.server_handshake_timeout_ms", milliseconds(config.handshake_timeout_s)),
    ]
    if config.max_connections:
        options.append(("grpc.max_allowed_incoming_connections", config.max_connections))
    if config.max_connection_age_s:
        options += [
            ("grpc.max_connection_age_ms", milliseconds(config.max_connection_age_s)),
            ("grpc.max_connection_age_grace_ms", milliseconds(config.max_connection_age_grace_s)),
        ]
    return options


def milliseconds(seconds: float) -> int:
    """Returns a time as the gRPC libraries take it."""
    return round(seconds * 1000)


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that check for changed files whenever a client connects."""
    used = files.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if (now := files.current()) is used:
            return None
        used = now
        return _certificate_configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _certificate_configuration(used),
        changed,  # type: ignore[arg-type]  # the stubs don't allow None, which means no change
        require_client_authentication=used.client_ca is not None,
    )


def _certificate_configuration(identity: TlsIdentity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], identity.client_ca)
