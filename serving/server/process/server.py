"""The server: composes services, admission control and front ends; starts, and stops without losing an answer."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from serving.config import ServerConfig
from serving.errors import StartFailed, install_hint
from serving.rollout.controller import RolloutController
from serving.rollout.deployments import Deployments
from serving.server.fronts.choice import Front, make_front
from serving.server.process.memory import MemoryTrimmer
from serving.server.security.admission import AdmissionControl
from serving.server.security.tls import TlsFiles
from serving.server.security.tokens import TokenFile
from serving.server.services import direct_methods, reflection
from serving.server.services.digits_service import DigitClassifierService
from serving.server.services.direct_calls import DirectCalls
from serving.server.services.handlers import method_handlers
from serving.server.services.health import Health
from serving.server.services.load_reports import LoadReports
from serving.server.services.message_limits import MessageLimits
from serving.server.services.oip_service import InferenceService, ModelControl
from serving.server.services.open_calls import OpenCalls
from serving.server.telemetry.load import LoadMeter
from serving.server.telemetry.logs import AccessLog
from serving.server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving.server.fronts.http import HttpFront
    from serving.server.telemetry.traces import Traces

# How long calls are refused before connections close: most clients have noticed by then, and back off.
_REFUSE_S = 0.1


class Server:
    """Serves the models of a repository.

    Args:
        config: What to serve, where and how.
        metrics: Counts calls and batches.
        deployments: In a worker, the versions that its supervisor made it prepare. None without a supervisor; then the
            server chooses and loads versions itself.
        control: In a worker, the connection to all workers.

    Attributes:
        address: Address of the gRPC port, once it is bound.
        http_url: URL of the HTTP port, once it is bound; empty if there is none.
        deployments: The versions that this process serves.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        metrics: Metrics | None = None,
        deployments: Deployments | None = None,
        control: ModelControl | None = None,
    ) -> None:
        self._config = config
        self._metrics = metrics or Metrics(registry=None)
        self._memory = MemoryTrimmer()
        self._traces: Traces | None = None
        self._is_worker = deployments is not None
        self._rollout_number = 0
        self.address = ""
        self.http_url = ""
        self.deployments = deployments or Deployments(config, self._metrics, number=lambda: self._rollout_number)
        self._load = LoadMeter(self.deployments, processes=config.workers)
        self._observers = (self._metrics, AccessLog(config.access_log_share), self._memory, self._load)
        self._controller = RolloutController(config, lambda: [self.deployments], self._switch)
        self._control: ModelControl = control or self._controller
        self._watching: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._service_names = [DigitClassifierService.DESCRIPTOR.full_name, InferenceService.DESCRIPTOR.full_name]
        if config.security.reflection:
            self._service_names += reflection.NAMES
        self._health = Health(tuple(self._service_names))
        self._services: tuple[DigitClassifierService | InferenceService, ...] = ()
        self._front: Front | None = None
        self._http: HttpFront | None = None

    async def start(self) -> None:
        """Reads the models, binds the address, warms up, and reports SERVING.

        Health answers NOT_SERVING and calls get UNAVAILABLE while the models warm up.

        Raises:
            DigitsError: No model can be served, the execution provider is unavailable, the port is in use, or a file
                of certificates or tokens is unusable.
        """
        security = self._config.security
        tls, tokens = TlsFiles.of(security), TokenFile.of(security, self._config.host)
        rollout = self.deployments.rollout if self._is_worker else await self._controller.plan_first()
        self._make_fronts(rollout.max_request_bytes, tls, tokens)
        try:
            if self._is_worker:
                # The kernel gives connections to every process that listens, so a worker binds once it is warm.
                await self._health.set_serving()
                await self._listen()
            else:
                # A single process binds first, to fail early if the port is in use.
                await self._listen()
                await self._controller.update_from_repository()
                await self._health.set_serving()
                self._watching = asyncio.create_task(self._controller.poll_repository())
        except BaseException:
            await self.aclose(grace_s=0)
            raise
        self._memory.start()
        self._measuring = asyncio.create_task(self._load.run())

    async def reload(self) -> None:
        """Rereads the repository and serves what it contains now; does nothing until the server has started."""
        if self._watching is not None:
            await self._controller.update_from_repository()

    def _switch(self, number: int) -> None:
        self._rollout_number = number

    def _make_fronts(self, max_request_bytes: int, tls: TlsFiles | None, tokens: TokenFile | None) -> None:
        """Composes services, admission and handlers, and the front ends that host them."""
        config = self._config
        rows, rejected, draining = config.batcher.max_batch_rows, self._metrics.rejected, self._health.draining

        digits = DigitClassifierService(self.deployments, max_stream_rows=rows, max_message_bytes=max_request_bytes)
        inference = InferenceService(
            self.deployments,
            max_stream_rows=rows,
            draining=draining,
            control=self._control,
            model_control=config.model_control,
        )
        self._services = (digits, inference)

        # gRPC and HTTP share admission. Health, metrics and reflection have no limit, so they work under full load.
        limit = config.connections.max_concurrent_calls
        admission = AdmissionControl(tokens=tokens, max_concurrent_calls=limit, on_rejected=rejected)
        unlimited = AdmissionControl(tokens=tokens, on_rejected=rejected)
        open_health = config.security.open_health
        health_admission = AdmissionControl(tokens=None, on_rejected=rejected) if open_health else unlimited

        open_calls = OpenCalls()
        limits = MessageLimits(max_images=rows, max_message_bytes=max_request_bytes)
        load_reports = LoadReports(lambda: self._load.load, draining)
        handlers = partial(
            method_handlers,
            limits=limits,
            observers=self._observers,
            open_calls=open_calls,
            load_report=load_reports.metadata,
        )
        health_methods = {"ServerLive": health_admission, "ServerReady": health_admission}
        methods = {
            **handlers(digits.DESCRIPTOR, digits, admission=admission),
            **handlers(inference.DESCRIPTOR, inference, admission=admission, method_admission=health_methods),
            **handlers(self._health.DESCRIPTOR, self._health, admission=health_admission),
            **handlers(load_reports.DESCRIPTOR, load_reports, name=load_reports.NAME, admission=health_admission),
        }
        if config.security.reflection:
            described = digits.DESCRIPTOR.full_name, inference.DESCRIPTOR.full_name, Health.DESCRIPTOR.full_name
            servicer = reflection.servicer(described)
            for name in reflection.NAMES:
                methods |= handlers(reflection.DESCRIPTOR, servicer, name=name, admission=unlimited, draining=draining)

        direct = {
            method.name: DirectCalls(
                method,
                admission=admission,
                limits=limits,
                observers=self._observers,
                open_calls=open_calls,
                load_report=load_reports.metadata,
            ).begin
            for method in (direct_methods.Classify(self.deployments), direct_methods.ModelInfer(inference))
        }
        self._front = make_front(
            methods,
            config,
            max_request_bytes=max_request_bytes,
            share_port=self._is_worker,
            tls=tls,
            interceptors=self._start_traces(),
            until_idle=open_calls.until_none,
            direct={} if config.access_log_share else direct,
        )
        if config.http_port is not None:
            from serving.server.fronts.http import HttpFront
            from serving.server.http.app import HttpApp

            app = HttpApp(
                inference,
                digits,
                admission=admission,
                health_admission=health_admission,
                metrics_admission=unlimited,
                page_admission=AdmissionControl(tokens=None) if config.page else None,
                cors_origins=config.security.cors_origins,
                observers=self._observers,
                load_report=load_reports.metadata,
                draining=draining,
                max_body_bytes=max_request_bytes,
                max_images=rows,
                metrics=self._metrics.exposition,
            )
            self._http = HttpFront(app, config, share_port=self._is_worker, tls=tls)

    async def _listen(self) -> None:
        if self._front is not None:
            self.address = await self._front.start()
        if self._http is not None:
            self.http_url = await self._http.start()

    async def report_not_serving(self) -> None:
        """Makes health report NOT_SERVING while calls are still accepted."""
        await self._health.drain()

    async def aclose(self, grace_s: float | None = None) -> bool:
        """Reports NOT_SERVING, refuses new calls, answers those in flight, and unloads the models.

        Args:
            grace_s: How long calls in flight may take, in seconds; the configured time by default.

        Returns:
            Whether every accepted inference has ended. If not, one may still occupy its thread.
        """
        await self._health.drain()
        for service in self._services:
            service.drain()
        for task in (self._watching, self._measuring):
            if task is not None:
                task.cancel()
        grace_s = self._config.grace_s if grace_s is None else grace_s
        ends = time.monotonic() + grace_s
        draining = asyncio.create_task(self.deployments.drain(grace_s))
        # Calls that arrive while grpcio shuts down get CANCELLED, which few clients retry. So new calls first get
        # UNAVAILABLE for a moment, and their clients back off. Then the front ends close their connections, without
        # waiting for the engine: otherwise the clients would use up their retries here.
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
            raise StartFailed(
                f"{error.name} is not installed; --traces-endpoint needs the extra otel: {install_hint('otel')}"
            ) from error
        self._traces = Traces(self._config.traces_endpoint)
        return (self._traces.interceptor,)
