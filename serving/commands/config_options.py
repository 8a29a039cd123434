"""Options that make a server's configuration, for the command that starts it and the one that says whether it would."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from serving.commands.model_options import engine_options, model_options
from serving.commands.server_options import connection_options, decoder_options, security_options
from serving.config import ServerConfig
from serving.errors import InvalidConfig
from serving.inference.processors import available_processors

Command = Callable[..., Any]

_SERVER = ServerConfig()


def _workers(_: click.Context, __: click.Parameter, value: str) -> int:
    """A number, or 0 for auto."""
    if value == "auto":
        return 0
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise click.BadParameter(f"{value!r} is neither a number from 1 to 1024 nor auto")
    return int(value)


def config_options(command: Command) -> Command:
    """Adds the options of `ServerConfig`, which the command gets as `config`."""
    options = (
        click.option("--host", default=_SERVER.host, help="Address to listen on."),
        click.option(
            "--port", default=_SERVER.port, type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one."
        ),
        click.option(
            "--http-port",
            type=click.IntRange(0, 65535),
            show_default="none",
            help="Port of the Open Inference Protocol over HTTP, on the same host; 0: any free one.",
        ),
        model_options,
        engine_options,
        click.option(
            "--workers",
            callback=_workers,
            default="1",
            help="Processes that share the port, each with an engine of its own; "
            "auto: one for each processor, one on CUDA.",
        ),
        click.option(
            "--drain-pause-s",
            default=_SERVER.drain_pause_s,
            type=click.FloatRange(0, 3600),
            help="On SIGTERM or SIGINT: how long calls are still taken while health says NOT_SERVING, in seconds.",
        ),
        click.option(
            "--grace-s",
            default=_SERVER.grace_s,
            type=click.FloatRange(0, 3600),
            help="After that: how long calls in flight may take, in seconds.",
        ),
        click.option(
            "--watchdog-s",
            default=_SERVER.watchdog_s,
            type=click.FloatRange(1),
            help="A batch that takes longer ends its process, in seconds; with --workers another one starts.",
        ),
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            show_default="none",
            help="Port of Prometheus's /metrics, on the same host; 0: any free one.",
        ),
        click.option(
            "--traces-endpoint",
            default=_SERVER.traces_endpoint,
            show_default="none",
            help="OpenTelemetry collector, http://HOST:4318, that gets a span for every call; needs the extra otel.",
        ),
        click.option(
            "--access-log-share",
            default=_SERVER.access_log_share,
            type=click.FloatRange(0, 1),
            help="Share of the calls that are logged with method, code and duration.",
        ),
        decoder_options,
        security_options,
        connection_options,
    )

    @functools.wraps(command)
    def configured(*, models: dict[str, Any], workers: int, **given: Any) -> Any:
        named = {field.name: given.pop(field.name) for field in dataclasses.fields(ServerConfig) if field.name in given}
        workers = workers or _workers_for(named["engine"].provider)
        try:
            config = ServerConfig(**named, **models, workers=workers)
        except InvalidConfig as error:
            raise click.UsageError(str(error)) from error
        return command(**given, config=config)

    decorated: Command = configured
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _workers_for(provider: str) -> int:
    """One on CUDA, where batches scale and processes hardly do; else one for each processor."""
    on_cuda = provider == "cuda" or (provider == "auto" and Path("/dev/nvidia0").exists())
    return 1 if on_cuda else available_processors()
