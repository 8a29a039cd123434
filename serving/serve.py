"""`digits-serve`: options to configuration, one line on stdout when it serves."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import click

from serving.config import (
    PRETRAINED,
    PROVIDERS,
    BatcherConfig,
    ConnectionConfig,
    EngineConfig,
    SecurityConfig,
    ServerConfig,
)
from serving.errors import DigitsError
from serving.server_options import connection_options, security_options

SAMPLES = Path(__file__).parent / "samples"

_logger = logging.getLogger(__name__)

_ENGINE, _BATCHER, _SERVER = EngineConfig(), BatcherConfig(), ServerConfig()


@click.command(
    context_settings={"show_default": True, "max_content_width": 110, "auto_envvar_prefix": "DIGITS"},
    epilog="Every option is also an environment variable: DIGITS_PORT for --port and so on.",
)
@click.option("--host", default=_SERVER.host, help="Address to listen on.")
@click.option("--port", default=_SERVER.port, type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.")
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
    help="Images in the largest batch and in the largest request.",
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
    "--grace-s",
    default=_SERVER.grace_s,
    type=click.FloatRange(0, 3600),
    help="On SIGTERM or SIGINT: how long calls in flight may take, in seconds.",
)
@security_options
@connection_options
@click.option("--demo", is_flag=True, help="Once serving, classify the digits that the package ships, and print them.")
@click.option(
    "--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]), help="Logs go to stderr."
)
def main(
    *,
    host: str,
    port: int,
    provider: str,
    device: int,
    repository: Path,
    model: str | None,
    version: int | None,
    threads: int,
    max_batch_rows: int,
    max_queue_rows: int,
    max_wait_ms: float,
    grace_s: float,
    security: SecurityConfig,
    connections: ConnectionConfig,
    demo: bool,
    log_level: str,
) -> None:
    """Serves a model over gRPC until SIGTERM or Ctrl-C."""
    logging.basicConfig(
        stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        from serving.server import Server, serve
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; a server needs the extra cpu or gpu: pip install 'digits-serving[cpu]'"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    try:
        config = ServerConfig(
            host=host,
            port=port,
            repository=repository,
            model=model,
            version=version,
            grace_s=grace_s,
            engine=EngineConfig(provider=provider, threads=threads, max_batch_rows=max_batch_rows, device=device),
            batcher=BatcherConfig(
                max_batch_rows=max_batch_rows, max_queue_rows=max_queue_rows, max_wait_ms=max_wait_ms
            ),
            security=security,
            connections=connections,
        )
    except DigitsError as error:
        raise click.UsageError(str(error)) from error

    async def ready(server: Server) -> None:
        served = server.deployment
        try:
            click.echo(f"serving {served.name} version {served.version} on {server.address} with {served.provider}")
        except OSError as error:  # nobody reads stdout, or its disk is full: no reason not to serve
            _logger.warning("could not announce %s on stdout: %s", server.address, error.strerror)
        if demo:
            await _classify_samples(server.address, security)

    try:
        asyncio.run(serve(config, ready=ready))
    except DigitsError as error:
        raise click.ClickException(str(error)) from error


async def _classify_samples(address: str, security: SecurityConfig) -> None:
    """Runs the real command line in a process of its own, so that what it shows has been over the wire."""
    credentials = []
    if security.tls_certificate is not None and "DIGITS_TLS_CA" not in os.environ:
        credentials += ["--tls-ca", str(security.tls_certificate)]
    if security.token_file is not None:
        credentials += ["--token-file", str(security.token_file)]
    samples = sorted(str(path) for path in SAMPLES.glob("*.png"))
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "serving", "classify", "--target", address, *credentials, "--picture", *samples),
        start_new_session=True,  # a Ctrl-C is the server's, which ends this process with itself
    )
    try:
        if await client.wait() == 0:
            click.echo(f"\nstill serving on {address}; Ctrl-C stops")
    finally:
        if client.returncode is None:
            client.terminate()
            await client.wait()
