"""`digits-serve`: options to configuration, one line on stdout when it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from serving import event_loop
from serving.config import (
    BatcherConfig,
    ConnectionConfig,
    DecoderConfig,
    EngineConfig,
    SecurityConfig,
    ServerConfig,
)
from serving.demo import classify_samples
from serving.errors import DigitsError
from serving.logs import FORMATS, LEVELS, LogConfig, start_logging
from serving.model_options import engine_options, model_options
from serving.processors import available_processors
from serving.server_options import connection_options, decoder_options, security_options

Announce = Callable[[str, str, str, str], Awaitable[None]]

_logger = logging.getLogger(__name__)


def _workers(_: click.Context, __: click.Parameter, value: str) -> int:
    """A number, or 0 for auto."""
    if value == "auto":
        return 0
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise click.BadParameter(f"{value!r} is neither a number from 1 to 1024 nor auto")
    return int(value)


_SERVER = ServerConfig()


@click.command(
    context_settings={"show_default": True, "max_content_width": 110, "auto_envvar_prefix": "DIGITS"},
    epilog="Every option is also an environment variable: DIGITS_PORT for --port and so on.",
)
@click.option("--host", default=_SERVER.host, help="Address to listen on.")
@click.option("--port", default=_SERVER.port, type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    show_default="none",
    help="Port of the Open Inference Protocol over HTTP, on the same host; 0: any free one.",
)
@model_options
@engine_options
@click.option(
    "--workers",
    callback=_workers,
    default="1",
    help="Processes that share the port, each with an engine of its own; auto: one for each processor, one on CUDA.",
)
@click.option(
    "--drain-pause-s",
    default=_SERVER.drain_pause_s,
    type=click.FloatRange(0, 3600),
    help="On SIGTERM or SIGINT: how long calls are still taken while health says NOT_SERVING, in seconds.",
)
@click.option(
    "--grace-s",
    default=_SERVER.grace_s,
    type=click.FloatRange(0, 3600),
    help="After that: how long calls in flight may take, in seconds.",
)
@click.option(
    "--watchdog-s",
    default=_SERVER.watchdog_s,
    type=click.FloatRange(1),
    help="A batch that takes longer ends its process, in seconds; with --workers another one starts.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    show_default="none",
    help="Port of Prometheus's /metrics, on the same host; 0: any free one.",
)
@click.option(
    "--traces-endpoint",
    default=_SERVER.traces_endpoint,
    show_default="none",
    help="OpenTelemetry collector, http://HOST:4318, that gets a span for every call; needs the extra otel.",
)
@click.option(
    "--access-log-share",
    default=_SERVER.access_log_share,
    type=click.FloatRange(0, 1),
    help="Share of the calls that are logged with method, code and duration.",
)
@decoder_options
@security_options
@connection_options
@click.option("--demo", is_flag=True, help="Once serving, classify the digits that the package ships, and print them.")
@click.option("--log-level", default="info", type=click.Choice(LEVELS), help="Logs go to stderr.")
@click.option("--log-format", default="text", type=click.Choice(FORMATS), help="json: an object a line.")
def main(
    *,
    host: str,
    port: int,
    http_port: int | None,
    workers: int,
    drain_pause_s: float,
    grace_s: float,
    watchdog_s: float,
    metrics_port: int | None,
    traces_endpoint: str,
    access_log_share: float,
    models: dict[str, Any],
    engine: EngineConfig,
    batcher: BatcherConfig,
    decoder: DecoderConfig,
    security: SecurityConfig,
    connections: ConnectionConfig,
    demo: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Serves models over gRPC, and over HTTP where asked, until SIGTERM or Ctrl-C."""
    logs = LogConfig(level=log_level, format=log_format)
    start_logging(logs)
    try:
        config = ServerConfig(
            host=host,
            port=port,
            http_port=http_port,
            **models,
            workers=workers or _workers_for(engine.provider),
            drain_pause_s=drain_pause_s,
            grace_s=grace_s,
            watchdog_s=watchdog_s,
            metrics_port=metrics_port,
            traces_endpoint=traces_endpoint,
            access_log_share=access_log_share,
            engine=engine,
            batcher=batcher,
            decoder=decoder,
            security=security,
            connections=connections,
        )
    except DigitsError as error:
        raise click.UsageError(str(error)) from error

    async def announce(models: str, address: str, http_url: str, provider: str) -> None:
        processes = f", {config.workers} workers" if config.workers > 1 else ""
        try:
            click.echo(f"serving {models} on {address} with {provider}{processes}")
            if http_url:
                click.echo(f"http on {http_url}")
        except OSError as error:  # nobody reads stdout, or its disk is full: no reason not to serve
            _logger.warning("could not announce %s on stdout: %s", address, error.strerror)
        if demo:
            await classify_samples(address, security)

    try:
        if config.workers > 1:
            clean = asyncio.run(_supervise(config, logs, announce))
        else:
            clean = event_loop.run(_serve(config, announce))
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; a server needs the extra cpu or gpu: pip install 'digits-serving[cpu]'"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
    if not clean:
        raise click.ClickException("calls in flight were dropped")


async def _serve(config: ServerConfig, announce: Announce) -> bool:
    """Serves in this process."""
    from prometheus_client import CollectorRegistry

    from serving.lifecycle import handle_signals, serve
    from serving.metrics import Metrics
    from serving.server import Server
    from serving.summed_metrics import MetricsPort

    async def ready(server: Server) -> None:
        providers = ", ".join(sorted({each.provider for each in server.deployments}))
        await announce(str(server.deployments.rollout), server.address, server.http_url, providers)

    registry = CollectorRegistry()
    server = Server(config, metrics=Metrics(registry))
    stopping = asyncio.Event()
    handle_signals(stopping, server.reload)
    port = None
    if config.metrics_port is not None:
        port = MetricsPort(registry, host=config.host, port=config.metrics_port)
    try:
        await serve(server, config, ready=ready, stopping=stopping)
    finally:
        if port:
            port.close()
    return True


async def _supervise(config: ServerConfig, logs: LogConfig, announce: Announce) -> bool:
    """Serves by workers."""
    from serving.supervisor import Supervisor
    from serving.worker_process import Ready

    async def ready(supervisor: Supervisor, first: Ready) -> None:
        await announce(str(supervisor.rollout), supervisor.address, supervisor.http_url, ", ".join(first.providers))

    return await Supervisor(config, logs).run(ready=ready)


def _workers_for(provider: str) -> int:
    """One on CUDA, where batches scale and processes hardly do; else one for each processor."""
    on_cuda = provider == "cuda" or (provider == "auto" and Path("/dev/nvidia0").exists())
    return 1 if on_cuda else available_processors()
