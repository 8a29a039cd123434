"""grpcio's own asyncio server."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import grpc
import grpc.aio

from serving.errors import StartFailed

_NO_LIMIT = 2**31 - 1


class GrpcioFront:
    """Hosts services on one address.

    Args:
        handlers: The services.
        host: Address to listen on.
        port: Port; 0 for any free one.
        max_request_bytes: Larger messages are refused by gRPC itself with RESOURCE_EXHAUSTED.
        share_port: Let other processes of this user listen on the same port, and share its connections with them.
    """

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        *,
        host: str,
        port: int,
        max_request_bytes: int,
        share_port: bool,
    ) -> None:
        self._handlers = handlers
        self._host = host
        self._port = port
        self._max_request_bytes = max_request_bytes
        self._share_port = share_port
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Binds the address and begins to listen; returns the address with the port that it got.

        Raises:
            StartFailed: The port is in use, or the address is not this machine's.
        """
        self._server = grpc.aio.server(
            options=[
                # On by default: a second server on the port would bind in silence and take half of the calls.
                ("grpc.so_reuseport", int(self._share_port)),
                ("grpc.max_receive_message_length", self._max_request_bytes),
                # Admission is the batcher's: gRPC would answer a bare CANCELLED to some of 1,000 waiting calls.
                ("grpc.server.max_pending_requests", _NO_LIMIT),
                ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
            ]
        )
        self._server.add_generic_rpc_handlers(tuple(self._handlers))
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise StartFailed(f"can't listen on {host}:{self._port}: no address is known for {self._host!r}") from error
        try:
            port = self._server.add_insecure_port(f"{host}:{self._port}")
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
