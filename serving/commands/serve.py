"""`digits-serve`: options to configuration, one line on stdout when it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import click
import cloup

from serving.commands.demo import classify_samples
from serving.commands.help import SETTINGS, examples, option, version_option
from serving.commands.server_options import server_options
from serving.config import ServerConfig
from serving.errors import DigitsError
from serving.server.process import event_loop
from serving.server.telemetry.logs import FORMATS, LEVELS, LogConfig, start_logging

Announce = Callable[[str, str, str, str], Awaitable[None]]

_logger = logging.getLogger(__name__)


@cloup.command(
    context_settings={**SETTINGS, "auto_envvar_prefix": "DIGITS"},
    epilog=examples(
        "digits-serve --port 0 --provider cpu --demo",
        "digits-serve --host 0.0.0.0 --http-port 8000 --metrics-port 9090 --workers auto",
        "DIGITS_PORT=8001 digits-serve --watch --log-format json",
        note="Every option can also be set by an environment variable: --port by DIGITS_PORT and so on.",
    ),
)
@server_options
@cloup.option_group(
    "Logs",
    option("--log-level", default="info", type=click.Choice(LEVELS), help="Least severe messages to log, on stderr."),
    option("--log-format", default="text", type=click.Choice(FORMATS), help="json: one JSON object per line."),
)
@option("--demo", is_flag=True, help="Once serving, classify the sample digits of the package and print the result.")
@version_option()
def main(*, config: ServerConfig, demo: bool, log_level: str, log_format: str) -> None:
    """Serves models over gRPC, and over HTTP where asked, until SIGTERM or Ctrl-C."""
    logs = LogConfig(level=log_level, format=log_format)
    start_logging(logs)

    async def announce(models: str, address: str, http_url: str, provider: str) -> None:
        processes = f", {config.workers} workers" if config.workers > 1 else ""
        try:
            click.echo(f"serving {models} on {address} with {provider}{processes}")
            if http_url:
                click.echo(f"http on {http_url}")
        except OSError as error:  # nobody reads stdout, or its disk is full: no reason not to serve
            _logger.warning("could not announce %s on stdout: %s", address, error.strerror)
        if demo:
            await classify_samples(address, config.security)

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

    from serving.server.process.lifecycle import handle_signals, serve
    from serving.server.process.server import Server
    from serving.server.telemetry.aggregated_metrics import MetricsServer
    from serving.server.telemetry.metrics import Metrics

    async def ready(server: Server) -> None:
        providers = ", ".join(sorted({each.provider for each in server.deployments}))
        await announce(str(server.deployments.rollout), server.address, server.http_url, providers)

    registry = CollectorRegistry()
    server = Server(config, metrics=Metrics(registry))
    stopping = asyncio.Event()
    handle_signals(stopping, server.reload)
    port = None
    if config.metrics_port is not None:
        port = MetricsServer(registry, host=config.host, port=config.metrics_port)
    try:
        await serve(server, config, ready=ready, stopping=stopping)
    finally:
        if port:
            port.close()
    return True


async def _supervise(config: ServerConfig, logs: LogConfig, announce: Announce) -> bool:
    """Serves by workers."""
    from serving.server.process.supervisor import Supervisor
    from serving.server.process.worker_process import Ready

    async def ready(supervisor: Supervisor, first: Ready) -> None:
        await announce(str(supervisor.rollout), supervisor.address, supervisor.http_url, ", ".join(first.providers))

    return await Supervisor(config, logs).run(ready=ready)
