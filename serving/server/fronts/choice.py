"""The choice of the gRPC front end: grpcio, or pygrpc-native where it is installed and can do what is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import grpc
import grpc.aio

from serving.config import ServerConfig, is_loopback
from serving.errors import StartFailed, install_hint
from serving.server.fronts.direct import DirectMethod
from serving.server.fronts.grpcio import GrpcioFront
from serving.server.security.tls import TlsFiles

_logger = logging.getLogger(__name__)


class Front(Protocol):
    """A front end."""

    async def start(self) -> str:
        """Binds the address and begins to listen; returns the address with the port that it got.

        Raises:
            StartFailed: The port or the socket is in use, or the address is not this machine's.
        """

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and ends those that are still in flight after the grace period, in seconds."""


def make_front(
    methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
    config: ServerConfig,
    *,
    max_request_bytes: int,
    share_port: bool,
    tls: TlsFiles | None,
    until_idle: Callable[[], Coroutine[Any, Any, None]],
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    direct: Mapping[str, DirectMethod],
) -> Front:
    """Makes the gRPC front end that the configuration asks for; see `GrpcioFront` and `NativeFront` for the arguments.

    Raises:
        StartFailed: pygrpc-native is asked for, and not installed.
    """
    installed = find_spec("pygrpc_native") is not None
    if config.front == "native" and not installed:
        raise StartFailed(
            f"pygrpc-native is not installed; --front native needs the extra native: {install_hint('native')}"
        )
    if config.front == "grpcio" or not installed or config.needs_grpcio:
        if config.front == "auto":
            reason = f"{config.needs_grpcio[0]} needs it" if installed else "pygrpc-native is not installed"
            _logger.info("front end: grpcio, since %s", reason)
        return GrpcioFront(
            methods,
            config,
            max_request_bytes=max_request_bytes,
            share_port=share_port,
            tls=tls,
            until_idle=until_idle,
            interceptors=interceptors,
            direct=direct,
        )
    from serving.server.fronts.native import NativeFront

    if config.front == "auto":
        _logger.info("front end: native")
    if not is_loopback(config.host):
        _logger.warning("front end native: a message is refused for its size only once it has arrived and fills memory")
    return NativeFront(
        methods,
        config,
        max_request_bytes=max_request_bytes,
        share_port=share_port,
        until_idle=until_idle,
        direct=direct,
    )
