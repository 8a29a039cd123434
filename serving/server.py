"""The server: reads a model, binds its port, warms up, serves, and stops without losing an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from serving.addresses import is_loopback
from serving.boundary import service_handler
from serving.config import SecurityConfig, ServerConfig
from serving.deployment import Deployment, Deployments
from serving.digits_service import DigitClassifierService
from serving.errors import InvalidConfig, StartFailed
from serving.fronts.grpcio import GrpcioFront
from serving.guard import Guard
from serving.health import Health
from serving.inference_service import InferenceService
from serving.logs import AccessLog
from serving.metrics import Metrics
from serving.repository import Repository
from serving.tls_files import TlsFiles
from serving.tokens import TokenFile

if TYPE_CHECKING:
    from serving.fronts.http import HttpFront
    from serving.traces import Traces

_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
# Room in a message for everything but pixels: names, options, tags.
_ENVELOPE_BYTES = 64 * 1024
# Tag and length of each encoded image.
_FIELD_BYTES = 8
# How long calls are refused before connections end: most callers have been told by then, and pause.
_REFUSE_S = 0.1

_logger = logging.getLogger(__name__)


class Server:
    """Serves one version of one model.

    Args:
        config: What, where and how.
        metrics: Where its calls and batches are counted.
        share_port: Whether other workers listen on the same port. Then it is bound once the model is warm, since the
            system hands connections to whoever listens; else before, so that a port in use is known at once.
    """

    def __init__(self, config: ServerConfig, *, metrics: Metrics | None = None, share_port: bool = False) -> None:
        self._config = config
        self._metrics = metrics or Metrics(registry=None)
        self._observers = (self._metrics, AccessLog(config.access_log_share))
        self._traces: Traces | None = None
        self._share_port = share_port
        self.address = ""
        self.http_url = ""
        self._deployment: Deployment | None = None
        self._front: GrpcioFront | None = None
        self._http: HttpFront | None = None
        self._health: Health | None = None
        self._service: DigitClassifierService | None = None
        self._inference: InferenceService | None = None

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
        rows = config.batcher.max_batch_rows
        raw_bytes = stored.manifest.input.image_bytes * rows
        encoded_bytes = config.decoder.max_encoded_bytes + _FIELD_BYTES * rows
        max_request_bytes = max(raw_bytes, encoded_bytes) + _ENVELOPE_BYTES
        if max_request_bytes >= 2**31:
            raise InvalidConfig(
                f"max_batch_rows: {rows} images of {stored.manifest.input.image_bytes} bytes, or max_encoded_bytes: "
                f"{config.decoder.max_encoded_bytes}, are more than gRPC's largest message, 2 GiB"
            )
        self._deployment = Deployment(
            stored,
            config.engine,
            config.batcher,
            config.decoder,
            observer=self._metrics.batches_of(stored.name, stored.version),
        )
        deployments = Deployments(self._deployment)
        self._service = DigitClassifierService(deployments, max_stream_rows=rows, max_message_bytes=max_request_bytes)
        services = [self._service.DESCRIPTOR.full_name, InferenceService.DESCRIPTOR.full_name]
        if config.security.reflection:
            services.append(_REFLECTION.full_name)
        self._health = Health(tuple(services))
        self._inference = InferenceService(deployments, max_stream_rows=rows, draining=self._health.draining)
        guard = Guard(
            tokens=tokens,
            max_concurrent_calls=config.connections.max_concurrent_calls,
            rejected=self._metrics.rejected,
        )
        # Without a limit on calls: what asks about health is answered under full load.
        health_guard = Guard(tokens=None if config.security.open_health else tokens, rejected=self._metrics.rejected)
        handlers = [
            service_handler(self._service.DESCRIPTOR, self._service, guard=guard, observers=self._observers),
            service_handler(
                self._inference.DESCRIPTOR,
                self._inference,
                guard=guard,
                guards={"ServerLive": health_guard, "ServerReady": health_guard},
                observers=self._observers,
            ),
            service_handler(self._health.DESCRIPTOR, self._health, guard=health_guard, observers=self._observers),
        ]
        if config.security.reflection:
            servicer = reflection.ReflectionServicer((*services, self._health.DESCRIPTOR.full_name))
            handlers.append(
                service_handler(
                    _REFLECTION,
                    servicer,
                    guard=Guard(tokens=tokens, rejected=self._metrics.rejected),
                    until=self._health.draining,
                    observers=self._observers,
                )
            )
        self._front = GrpcioFront(
            handlers,
            host=config.host,
            port=config.port,
            max_request_bytes=max_request_bytes,
            connections=config.connections,
            share_port=self._share_port,
            tls=tls,
            interceptors=self._start_traces(),
        )
        if config.http_port is not None:
            from serving.fronts.http import HttpFront
            from serving.http_service import HttpService

            service = HttpService(
                self._inference,
                guard=guard,
                health_guard=health_guard,
                metrics_guard=Guard(tokens=tokens, rejected=self._metrics.rejected),
                observers=self._observers,
                draining=self._health.draining,
                max_body_bytes=max_request_bytes,
                metrics=self._metrics.exposition,
            )
            self._http = HttpFront(service.app, config, port=config.http_port, share_port=self._share_port, tls=tls)
        try:
            if self._share_port:
                await self._deployment.start()
                await self._health.set_serving()
                await self._listen()
            else:
                await self._listen()
                await self._deployment.start()
                await self._health.set_serving()
        except BaseException:
            await self.aclose(grace_s=0)
            raise
        self._metrics.model_served(
            stored.name, stored.version, sha256=stored.manifest.sha256, provider=self._deployment.provider
        )

    async def _listen(self) -> None:
        if self._front is not None:
            self.address = await self._front.start()
        if self._http is not None:
            self.http_url = await self._http.start()

    async def announce_end(self) -> None:
        """Reports NOT_SERVING while calls are still taken."""
        if self._health is not None:
            await self._health.drain()

    async def aclose(self, grace_s: float | None = None) -> bool:
        """Reports NOT_SERVING, takes no new calls, answers those in flight, and lets the model go.

        Args:
            grace_s: How long calls in flight may take, in seconds; the configuration's by default.

        Returns:
            Whether every inference that was accepted has ended. Where not, one may still hold its thread.
        """
        if self._health is not None:
            await self._health.drain()
        for service in (self._service, self._inference):
            if service is not None:
                service.drain()
        grace_s = self._config.grace_s if grace_s is None else grace_s
        ends = time.monotonic() + grace_s
        drained = True
        if self._deployment is not None:
            draining = asyncio.create_task(self._deployment.drain(grace_s))
            # Calls that arrive while grpcio shuts down get CANCELLED, which few clients repeat. So those of the next
            # moment are refused with UNAVAILABLE, and their callers pause; then connections are told to go elsewhere,
            # without waiting for what is still in the engine, or the callers would run out of attempts here.
            await asyncio.wait({draining}, timeout=_REFUSE_S)
            left_s = max(0.0, ends - time.monotonic())
            await asyncio.gather(*(front.stop(left_s) for front in (self._front, self._http) if front is not None))
            drained = await draining
            self._deployment.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        return drained

    def _start_traces(self) -> tuple[Any, ...]:
        if not self._config.traces_endpoint:
            return ()
        try:
            from serving.traces import Traces
        except ModuleNotFoundError as error:
            raise StartFailed(f"{error.name} is not installed; --traces-endpoint needs the extra otel") from error
        self._traces = Traces(self._config.traces_endpoint)
        return (self._traces.interceptor,)


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
