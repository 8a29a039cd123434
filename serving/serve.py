"""`digits-serve`: options to configuration, one line on stdout when it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from serving import event_loop
from serving.config import (
    PRETRAINED,
    PROVIDERS,
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
from serving.processors import available_processors
from serving.server_options import connection_options, decoder_options, security_options

Announce = Callable[[str, int, str, str, str], Awaitable[None]]

_logger = logging.getLogger(__name__)


def _workers(_: click.Context, __: click.Parameter, value: str) -> int:
    """A number, or 0 for auto."""
    if value == "auto":
        return 0
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise click.BadParameter(f"{value!r} is neither a number from 1 to 1024 nor auto")
    return int(value)


_ENGINE, _BATCHER, _SERVER = EngineConfig(), BatcherConfig(), ServerConfig()


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
@click.option(
    "--provider",
    default=_ENGINE.provider,
    type=click.Choice(PROVIDERS),
    help="cuda: the whole model on CUDA or no start; cpu; auto: CUDA where it works, else the CPU.",
)
@click.option("--device", default=_ENGINE.device, type=click.IntRange(0), help="Index of the CUDA device.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=PRETRAINED,
    show_default="the model that the package ships",
    help="Directory of the model repository.",
)
@click.option("--model", show_default="the only one", help="Name of the model.")
@click.option("--version", type=click.IntRange(1), show_default="the newest", help="Version of the model.")
@click.option(
    "--threads", default=_ENGINE.threads, type=click.IntRange(0), help="Threads of one inference on the CPU; 0: all."
)
@click.option(
    "--max-batch-rows",
    default=_BATCHER.max_batch_rows,
    type=click.IntRange(1),
    help="Images in the largest request, and in the largest batch on CUDA.",
)
@click.option(
    "--max-queue-rows",
    default=_BATCHER.max_queue_rows,
    type=click.IntRange(1),
    help="Images that may wait; a request beyond is refused at once.",
)
@click.option(
    "--max-wait-ms",
    default=_BATCHER.max_wait_ms,
    type=click.FloatRange(0, 60_000),
    help="How long an idle engine waits for a fuller batch, in milliseconds.",
)
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
    provider: str,
    device: int,
    repository: Path,
    model: str | None,
    version: int | None,
    threads: int,
    max_batch_rows: int,
    max_queue_rows: int,
    max_wait_ms: float,
    workers: int,
    drain_pause_s: float,
    grace_s: float,
    watchdog_s: float,
    metrics_port: int | None,
    traces_endpoint: str,
    access_log_share: float,
    decoder: DecoderConfig,
    security: SecurityConfig,
    connections: ConnectionConfig,
    demo: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Serves a model over gRPC, and over HTTP where asked, until SIGTERM or Ctrl-C."""
    logs = LogConfig(level=log_level, format=log_format)
    start_logging(logs)
    try:
        config = ServerConfig(
            host=host,
            port=port,
            http_port=http_port,
            repository=repository,
            model=model,
            version=version,
            workers=workers or _workers_for(provider),
            drain_pause_s=drain_pause_s,
            grace_s=grace_s,
            watchdog_s=watchdog_s,
            metrics_port=metrics_port,
            traces_endpoint=traces_endpoint,
            access_log_share=access_log_share,
            engine=EngineConfig(provider=provider, threads=threads, max_batch_rows=max_batch_rows, device=device),
            batcher=BatcherConfig(
                max_batch_rows=max_batch_rows, max_queue_rows=max_queue_rows, max_wait_ms=max_wait_ms
            ),
            decoder=decoder,
            security=security,
            connections=connections,
        )
    except DigitsError as error:
        raise click.UsageError(str(error)) from error

    async def announce(model: str, version: int, address: str, http_url: str, provider: str) -> None:
        processes = f", {config.workers} workers" if config.workers > 1 else ""
        try:
            click.echo(f"serving {model} version {version} on {address} with {provider}{processes}")
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

    from serving.lifecycle import serve, stop_on_signals
    from serving.metrics import Metrics, MetricsPort
    from serving.server import Server

    async def ready(server: Server) -> None:
        served = server.deployment
        await announce(served.name, served.version, server.address, server.http_url, served.provider)

    stopping = asyncio.Event()
    stop_on_signals(stopping)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    port = None
    if config.metrics_port is not None:
        port = MetricsPort(registry, host=config.host, port=config.metrics_port)
    try:
        await serve(Server(config, metrics=metrics), config, ready=ready, stopping=stopping)
    finally:
        if port:
            port.close()
    return True


async def _supervise(config: ServerConfig, logs: LogConfig, announce: Announce) -> bool:
    """Serves by workers."""
    from serving.supervisor import Supervisor
    from serving.worker_process import Ready

    async def ready(supervisor: Supervisor, first: Ready) -> None:
        await announce(first.model, first.version, supervisor.address, supervisor.http_url, first.provider)

    return await Supervisor(config, logs).run(ready=ready)


def _workers_for(provider: str) -> int:
    """One on CUDA, where batches scale and processes hardly do; else one for each processor."""
    on_cuda = provider == "cuda" or (provider == "auto" and Path("/dev/nvidia0").exists())
    return 1 if on_cuda else available_processors()
