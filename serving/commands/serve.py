"""`digits-serve`: runs a server and prints one line on stdout when it serves."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import click
import cloup

from serving.commands.cli import SETTINGS, errors_in_one_line, examples, option, version_option
from serving.commands.server_options import server_options
from serving.commands.variables import doubtful_variables, variables_of
from serving.config import SAMPLES, SecurityConfig, ServerConfig
from serving.server.process import event_loop
from serving.server.telemetry.logs import FORMATS, LEVELS, LogConfig, start_logging

Announce = Callable[[str, str, str, str], Awaitable[None]]

_logger = logging.getLogger(__name__)


@cloup.command(
    context_settings={**SETTINGS, "auto_envvar_prefix": "DIGITS"},
    epilog=examples(
        "digits-serve --provider cpu --demo",
        "digits-serve --host 0.0.0.0 --http-port 8000 --metrics-port 9090 --workers auto",
        "DIGITS_PORT=8001 digits-serve --watch --log-format json",
        note="Each option can also be set by an environment variable, for example --port by DIGITS_PORT.",
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
    """Serves models over gRPC, and optionally over HTTP, until SIGTERM or Ctrl-C."""
    event_loop.open_standard_streams()
    logs = LogConfig(level=log_level, format=log_format)
    start_logging(logs)
    for doubt in doubts():
        _logger.warning(doubt)

    async def announce(models: str, address: str, http_url: str, provider: str) -> None:
        processes = f", {config.workers} workers" if config.workers > 1 else ""
        try:
            click.echo(f"serving {models} on {address} with {provider}{processes}")
            if http_url:
                click.echo(f"http on {http_url}")
        except OSError as error:  # nobody reads stdout, or its disk is full: no reason not to serve
            _logger.warning("could not announce %s on stdout: %s", address, error.strerror)
        if demo:
            await _classify_samples(address, config.security, page_url=http_url if config.page else "")

    try:
        with errors_in_one_line("a server"):
            if config.workers > 1:
                clean = asyncio.run(_supervise(config, logs, announce))
            else:
                clean = event_loop.run(_serve(config, announce))
        if not clean:
            raise click.ClickException("calls in flight were dropped")
    except click.ClickException as error:
        if logs.format == "text":
            raise
        _logger.critical("%s", error.message)
        sys.exit(error.exit_code)


def doubts() -> Iterator[str]:
    """Yields a sentence about variables that are set but have no effect."""
    from serving.commands import classify  # whose variables a container may hold as well

    clients = [param for param in classify.main.params if isinstance(param, click.Option) and param.envvar]
    yield from doubtful_variables(os.environ, variables_of(*main.params, *clients))


async def _serve(config: ServerConfig, announce: Announce) -> bool:
    """Serves in this process."""
    from prometheus_client import CollectorRegistry

    from serving.server.fronts.shared_port import bind_metrics_port
    from serving.server.process.lifecycle import handle_signals, serve
    from serving.server.process.server import Server
    from serving.server.telemetry.metrics import Metrics
    from serving.server.telemetry.metrics_server import MetricsServer

    async def ready(server: Server) -> None:
        providers = ", ".join(sorted({each.runs_on for each in server.deployments}))
        await announce(str(server.deployments.rollout), server.address, server.http_url, providers)

    registry = CollectorRegistry()
    server = Server(config, metrics=Metrics(registry))
    stopping = asyncio.Event()
    handle_signals(stopping, server.reload)
    sockets = bind_metrics_port(config)
    port = MetricsServer(registry, sockets) if sockets else None
    try:
        await serve(server, config, ready=ready, stopping=stopping)
    finally:
        if port:
            port.close()
    return True


async def _supervise(config: ServerConfig, logs: LogConfig, announce: Announce) -> bool:
    """Serves with worker processes."""
    from serving.server.process.supervisor import Supervisor
    from serving.server.process.worker_protocol import Ready

    async def ready(supervisor: Supervisor, first: Ready) -> None:
        await announce(str(supervisor.rollout), supervisor.address, supervisor.http_url, ", ".join(first.providers))

    return await Supervisor(config, logs).run(ready=ready)


async def _classify_samples(address: str, security: SecurityConfig, *, page_url: str) -> None:
    """Prints what a client gets for the sample digits of the package, and where there is a page to draw one on."""
    client = _start_client(address, security)
    try:
        if await asyncio.to_thread(client.wait) == 0:
            click.echo(f"\ndraw a digit on {page_url}" if page_url else "")
            click.echo(f"still serving on {address}; Ctrl-C stops")
    finally:
        client.terminate()
        client.wait()


def _start_client(address: str, security: SecurityConfig) -> subprocess.Popen[bytes]:
    """Runs `digits-classify` in a process of its own, so that the samples travel over the network stack."""
    credentials = []
    if security.tls_certificate is not None and "DIGITS_TLS_CA" not in os.environ:
        credentials += ["--tls-ca", str(security.tls_certificate)]
    if security.token_file is not None:
        credentials += ["--token-file", str(security.token_file)]
    samples = sorted(str(path) for path in SAMPLES.glob("*.png"))
    # Not started by the event loop, since uvloop forks in a way that makes gRPC print a warning.
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "serving", "classify", "--target", address, *credentials, "--picture", *samples],
        start_new_session=True,  # Ctrl-C goes to the server, which then ends this process
    )
