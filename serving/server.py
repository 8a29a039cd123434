"""The server: one process that reads a model, binds its port, warms up, serves, and stops without losing an answer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from serving.addresses import is_loopback
from serving.boundary import service_handler
from serving.config import SecurityConfig, ServerConfig
from serving.deployment import Deployment, Deployments
from serving.digits_service import DigitClassifierService
from serving.errors import InvalidConfig
from serving.fronts.grpcio import GrpcioFront
from serving.guard import Guard
from serving.health import Health
from serving.repository import Repository
from serving.tls_files import TlsFiles
from serving.tokens import TokenFile

_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
# Room in a message for everything but pixels: names, options, tags.
_ENVELOPE_BYTES = 64 * 1024

# Launchers such as timeout(1) signal a process and then its group: the same request, twice within a moment.
_SAME_SIGNAL_S = 0.5

_logger = logging.getLogger(__name__)


class Server:
    """Serves one version of one model.

    Args:
        config: What, where and how.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.address = ""
        self._deployment: Deployment | None = None
        self._front: GrpcioFront | None = None
        self._health: Health | None = None
        self._service: DigitClassifierService | None = None

    @property
    def deployment(self) -> Deployment:
        """What is served, once `start` has returned."""
        if self._deployment is None:
            raise RuntimeError("the server was not started")
        return self._deployment

    async def start(self) -> None:
        """Reads the model, binds the address, warms up, and reports SERVING.

        Health answers NOT_SERVING and calls get UNAVAILABLE while the model warms up.

        Raises:
            DigitsError: The model may not be served, the provider is not to be had, the port is in use, or a file of
                certificates or tokens can't be used.
        """
        config = self._config
        tls, tokens = _tls_files(config.security), _token_file(config)
        repository = Repository(config.repository)
        stored = repository.load(*repository.choose(config.model, config.version))
        max_request_bytes = stored.manifest.input.image_bytes * config.batcher.max_batch_rows + _ENVELOPE_BYTES
        if max_request_bytes >= 2**31:
            raise InvalidConfig(
                f"max_batch_rows: {config.batcher.max_batch_rows} images of {stored.manifest.input.image_bytes} bytes "
                "are more than gRPC's largest message, 2 GiB"
            )
        self._deployment = Deployment(stored, config.engine, config.batcher)
        self._service = DigitClassifierService(
            Deployments(self._deployment), max_stream_rows=config.batcher.max_batch_rows
        )
        services = [self._service.DESCRIPTOR.full_name]
        if config.security.reflection:
            services.append(_REFLECTION.full_name)
        self._health = Health(tuple(services))
        guard = Guard(tokens=tokens, max_concurrent_calls=config.connections.max_concurrent_calls)
        # Without a limit on calls: these two answer under full load.
        health_guard = Guard(tokens=None if config.security.open_health else tokens)
        handlers = [
            service_handler(self._service.DESCRIPTOR, self._service, guard=guard),
            service_handler(self._health.DESCRIPTOR, self._health, guard=health_guard),
        ]
        if config.security.reflection:
            servicer = reflection.ReflectionServicer((*services, self._health.DESCRIPTOR.full_name))
            handlers.append(
                service_handler(_REFLECTION, servicer, guard=Guard(tokens=tokens), until=self._health.draining)
            )
        self._front = GrpcioFront(
            handlers,
            host=config.host,
            port=config.port,
            max_request_bytes=max_request_bytes,
            connections=config.connections,
            tls=tls,
        )
        try:
            self.address = await self._front.start()
            await self._deployment.start()
        except BaseException:
            await self.aclose(grace_s=0)
            raise
        await self._health.set_serving()

    async def aclose(self, grace_s: float | None = None) -> bool:
        """Reports NOT_SERVING, takes no new calls, answers those in flight, and lets the model go.

        Args:
            grace_s: How long calls in flight may take, in seconds; the configuration's by default.

        Returns:
            Whether every inference that was accepted has ended. Where not, one may still hold its thread.
        """
        if self._health is not None:
            await self._health.drain()
        if self._service is not None:
            self._service.drain()
        grace_s = self._config.grace_s if grace_s is None else grace_s
        ends = time.monotonic() + grace_s
        # The model before the front end: until that stops, new calls get UNAVAILABLE, which clients repeat elsewhere;
        # those that arrive while grpcio itself shuts down get CANCELLED.
        drained = self._deployment is None or await self._deployment.drain(grace_s)
        if self._front is not None:
            await self._front.stop(max(0.0, ends - time.monotonic()))
        if self._deployment is not None:
            self._deployment.close()
        return drained


def _tls_files(security: SecurityConfig) -> TlsFiles | None:
    if security.tls_certificate is None or security.tls_key is None:
        return None
    files = TlsFiles(security.tls_certificate, security.tls_key, security.tls_client_ca)
    files.load()
    return files


def _token_file(config: ServerConfig) -> TokenFile | None:
    if config.security.token_file is None:
        return None
    file = TokenFile(config.security.token_file)
    file.load()
    if config.security.tls_certificate is None and not is_loopback(config.host):
        _logger.warning(
            "tokens come to %s in plain text, for anyone on the way to read: give a certificate", config.host
        )
    return file


async def serve(config: ServerConfig, *, ready: Callable[[Server], Awaitable[None]]) -> None:
    """Serves until SIGTERM or SIGINT, then stops gracefully; a second signal stops at once.

    Args:
        config: What, where and how.
        ready: Awaited once the server reports SERVING.

    Raises:
        DigitsError: The server can't start as configured.
    """
    stopping = asyncio.Event()
    server = Server(config)
    loop = asyncio.get_running_loop()
    first_signal = 0.0

    def stop() -> None:
        nonlocal first_signal
        if not stopping.is_set():
            first_signal = loop.time()
            stopping.set()
        elif loop.time() - first_signal > _SAME_SIGNAL_S:
            _logger.warning("second signal: stopping at once, calls in flight are dropped")
            os._exit(1)  # an inference in flight would keep the interpreter until it ends

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.start()
    announcing = asyncio.ensure_future(ready(server))
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({announcing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await stopped
        _logger.info("stopping: calls in flight have %g s", config.grace_s)
    finally:
        announcing.cancel()
        stopped.cancel()
        if not await server.aclose():
            _logger.error("calls in flight did not end within %g s and were dropped", config.grace_s)
            os._exit(1)  # the thread that hangs in an inference would keep the interpreter
