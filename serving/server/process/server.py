"""The server: reads models, binds its port, warms up, serves, and stops without losing an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from serving.config import ServerConfig
from serving.errors import StartFailed
from serving.rollout.controller import RolloutController
from serving.rollout.deployments import Deployments
from serving.server.fronts.grpcio import GrpcioFront
from serving.server.security.admission import AdmissionControl
from serving.server.security.tls import TlsFiles
from serving.server.security.tokens import TokenFile
from serving.server.services.digits_service import DigitClassifierService
from serving.server.services.handlers import generic_handler
from serving.server.services.health import Health
from serving.server.services.oip_service import InferenceService, ModelControl
from serving.server.telemetry.logs import AccessLog
from serving.server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving.server.fronts.http import HttpFront
    from serving.server.telemetry.traces import Traces

_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
# How long calls are refused before connections end: most callers have been told by then, and pause.
_REFUSE_S = 0.1

_logger = logging.getLogger(__name__)


class Server:
    """Serves what the repository holds.

    Args:
        config: What, where and how.
        metrics: Where its calls and batches are counted.
        deployments: What a worker serves, prepared; its supervisor says when what is served changes. None where the
            server sees to that itself.
        fleet: All workers; needed with `deployments` alone.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        metrics: Metrics | None = None,
        deployments: Deployments | None = None,
        fleet: ModelControl | None = None,
    ) -> None:
        self._config = config
        self._metrics = metrics or Metrics(registry=None)
        self._observers = (self._metrics, AccessLog(config.access_log_share))
        self._traces: Traces | None = None
        # The system hands connections to whoever listens, so of several processes each binds once it is warm. One alone
        # binds before, so that a port in use is known at once.
        self._share_port = deployments is not None
        self._number = 0
        self.address = ""
        self.http_url = ""
        self.deployments = deployments or Deployments(config, self._metrics, number=lambda: self._number)
        self._controller = RolloutController(config, lambda: [self.deployments], self._switch)
        self._fleet: ModelControl = fleet or self._controller
        self._watching: asyncio.Task[None] | None = None
        self._front: GrpcioFront | None = None
        self._http: HttpFront | None = None
        self._health: Health | None = None
        self._service: DigitClassifierService | None = None
        self._inference: InferenceService | None = None

    async def start(self) -> None:
        """Reads the models, binds the address, warms up, and reports SERVING.

        Health answers NOT_SERVING and calls get UNAVAILABLE while the models warm up.

        Raises:
            DigitsError: No model may be served, the provider is not to be had, the port is in use, or a file of
                certificates or tokens can't be used.
        """
        tls, tokens = TlsFiles.of(self._config.security), TokenFile.of(self._config.security, self._config.host)
        rollout = self.deployments.rollout if self._share_port else await self._controller.first()
        services = [DigitClassifierService.DESCRIPTOR.full_name, InferenceService.DESCRIPTOR.full_name]
        if self._config.security.reflection:
            services.append(_REFLECTION.full_name)
        self._health = health = Health(tuple(services))
        self._make_fronts(health, services, rollout.max_request_bytes, tls, tokens)
        try:
            if self._share_port:
                await health.set_serving()
                await self._listen()
            else:
                await self._listen()
                await self._controller.update()
                await health.set_serving()
                self._watching = asyncio.create_task(self._controller.watch())
        except BaseException:
            await self.aclose(grace_s=0)
            raise

    async def reload(self) -> None:
        """Reads the repository again, and serves what is to be served now; once it serves at all."""
        if self._watching is not None:
            await self._controller.update()

    def _switch(self, number: int) -> None:
        self._number = number

    def _make_fronts(
        self,
        health: Health,
        services: Sequence[str],
        max_request_bytes: int,
        tls: TlsFiles | None,
        tokens: TokenFile | None,
    ) -> None:
        config, rows = self._config, self._config.batcher.max_batch_rows
        self._service = DigitClassifierService(
            self.deployments, max_stream_rows=rows, max_message_bytes=max_request_bytes
        )
        self._inference = InferenceService(
            self.deployments, max_stream_rows=rows, draining=health.draining, control=self._fleet
        )
        admission = AdmissionControl(
            tokens=tokens,
            max_concurrent_calls=config.connections.max_concurrent_calls,
            on_rejected=self._metrics.rejected,
        )
        # Without a limit on calls: what asks about health is answered under full load.
        health_admission = AdmissionControl(
            tokens=None if config.security.open_health else tokens, on_rejected=self._metrics.rejected
        )
        handlers = [
            generic_handler(self._service.DESCRIPTOR, self._service, admission=admission, observers=self._observers),
            generic_handler(
                self._inference.DESCRIPTOR,
                self._inference,
                admission=admission,
                method_admission={"ServerLive": health_admission, "ServerReady": health_admission},
                observers=self._observers,
            ),
            generic_handler(health.DESCRIPTOR, health, admission=health_admission, observers=self._observers),
        ]
        if config.security.reflection:
            servicer = reflection.ReflectionServicer((*services, health.DESCRIPTOR.full_name))
            handlers.append(
                generic_handler(
                    _REFLECTION,
                    servicer,
                    admission=AdmissionControl(tokens=tokens, on_rejected=self._metrics.rejected),
                    draining=health.draining,
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
            from serving.server.fronts.http import HttpFront
            from serving.server.http.app import HttpApp

            app = HttpApp(
                self._inference,
                admission=admission,
                health_admission=health_admission,
                metrics_admission=AdmissionControl(tokens=tokens, on_rejected=self._metrics.rejected),
                observers=self._observers,
                draining=health.draining,
                max_body_bytes=max_request_bytes,
                metrics=self._metrics.exposition,
            )
            self._http = HttpFront(app, config, port=config.http_port, share_port=self._share_port, tls=tls)

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
        if self._watching is not None:
            self._watching.cancel()
        grace_s = self._config.grace_s if grace_s is None else grace_s
        ends = time.monotonic() + grace_s
        draining = asyncio.create_task(self.deployments.drain(grace_s))
        # Calls that arrive while grpcio shuts down get CANCELLED, which few clients repeat. So those of the next moment
        # are refused with UNAVAILABLE, and their callers pause; then connections are told to go elsewhere, without
        # waiting for what is still in the engine, or the callers would run out of attempts here.
        await asyncio.wait({draining}, timeout=_REFUSE_S)
        left_s = max(0.0, ends - time.monotonic())
        await asyncio.gather(*(front.stop(left_s) for front in (self._front, self._http) if front is not None))
        drained = await draining
        self.deployments.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        return drained

    def _start_traces(self) -> tuple[Any, ...]:
        if not self._config.traces_endpoint:
            return ()
        try:
            from serving.server.telemetry.traces import Traces
        except ModuleNotFoundError as error:
            raise StartFailed(f"{error.name} is not installed; --traces-endpoint needs the extra otel") from error
        self._traces = Traces(self._config.traces_endpoint)
        return (self._traces.interceptor,)
