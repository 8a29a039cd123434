"""Options of `digits-serve` that make a configuration of their own: who may call, how many at a time, decoding."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from serving.config import ConnectionConfig, DecoderConfig, SecurityConfig
from serving.errors import InvalidConfig

Command = Callable[..., Any]

_CONNECTIONS, _DECODER, _SECURITY = ConnectionConfig(), DecoderConfig(), SecurityConfig()
_FILE = click.Path(path_type=Path, dir_okay=False)
_SECONDS = click.FloatRange(0.001, 2_000_000)


def security_options(command: Command) -> Command:
    """Adds the options of `SecurityConfig`, which the command gets as `security`."""
    return _with(
        command,
        SecurityConfig,
        "security",
        click.option(
            "--tls-certificate",
            type=_FILE,
            show_default="plain text",
            help="The server's certificate, PEM, read again when it changes.",
        ),
        click.option("--tls-key", type=_FILE, help="Its private key, PEM, not encrypted."),
        click.option(
            "--tls-client-ca",
            type=_FILE,
            show_default="any client",
            help="Take clients with a certificate of these authorities, PEM.",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            show_default="anyone may call",
            help="Bearer tokens, one a line; a call needs one of them. Read again when it changes.",
        ),
        click.option(
            "--open-health/--no-open-health",
            default=_SECURITY.open_health,
            help="Whether health answers without a token.",
        ),
        click.option(
            "--reflection/--no-reflection", default=_SECURITY.reflection, help="Whether the server describes its API."
        ),
    )


def connection_options(command: Command) -> Command:
    """Adds the options of `ConnectionConfig`, which the command gets as `connections`."""
    return _with(
        command,
        ConnectionConfig,
        "connections",
        click.option(
            "--max-concurrent-calls",
            default=_CONNECTIONS.max_concurrent_calls,
            type=click.IntRange(1, 2_000_000),
            help="Calls and streams at a time; one beyond is refused at once. Health and reflection don't count.",
        ),
        click.option(
            "--max-connections",
            default=_CONNECTIONS.max_connections,
            type=click.IntRange(0, 2_000_000),
            help="Connections at a time; one beyond is closed at once. 0: no limit.",
        ),
        click.option(
            "--max-streams-per-connection",
            default=_CONNECTIONS.max_streams_per_connection,
            type=click.IntRange(1, 2_000_000),
            help="Calls on one connection at a time. gRPC refuses none beyond: its client makes them wait.",
        ),
        click.option(
            "--max-connection-age-s",
            default=_CONNECTIONS.max_connection_age_s,
            type=click.FloatRange(0, 2_000_000),
            help="When a client is asked to connect anew, in seconds; 0: never. "
            "Behind a load balancer 300 spreads clients over servers that were added.",
        ),
        click.option(
            "--max-connection-age-grace-s",
            default=_CONNECTIONS.max_connection_age_grace_s,
            type=click.FloatRange(0, 2_000_000),
            help="How long calls on such a connection may still take, in seconds.",
        ),
        click.option(
            "--keepalive-s",
            default=_CONNECTIONS.keepalive_s,
            type=_SECONDS,
            help="When a silent client is asked for a sign of life, in seconds.",
        ),
        click.option(
            "--keepalive-timeout-s",
            default=_CONNECTIONS.keepalive_timeout_s,
            type=_SECONDS,
            help="How long it may take to give one before its connection is closed, in seconds.",
        ),
        click.option(
            "--handshake-timeout-s",
            default=_CONNECTIONS.handshake_timeout_s,
            type=_SECONDS,
            help="When a client that connected and says nothing is closed, in seconds.",
        ),
        click.option(
            "--http-timeout-s",
            default=_CONNECTIONS.http_timeout_s,
            type=_SECONDS,
            help="How long a client may take over HTTP to send a request, or to take its answer, in seconds.",
        ),
    )


def decoder_options(command: Command) -> Command:
    """Adds the options of `DecoderConfig`, which the command gets as `decoder`."""
    return _with(
        command,
        DecoderConfig,
        "decoder",
        click.option(
            "--decoder-threads",
            default=_DECODER.decoder_threads,
            type=click.IntRange(1, 1024),
            help="Encoded images that are decoded at a time; each takes up to seven bytes a pixel.",
        ),
        click.option(
            "--max-encoded-bytes",
            default=_DECODER.max_encoded_bytes,
            type=click.IntRange(1),
            help="Encoded images of one request, together; a message may be as large.",
        ),
        click.option(
            "--max-image-pixels",
            default=_DECODER.max_image_pixels,
            type=click.IntRange(1),
            help="Pixels of the largest encoded image; one of more, or a WebP of two fifths, is not decoded.",
        ),
        click.option(
            "--max-queue-images",
            default=_DECODER.max_queue_images,
            type=click.IntRange(1),
            help="Encoded images that may wait for a decoder; a request beyond is refused at once.",
        ),
        click.option(
            "--max-queue-bytes",
            default=_DECODER.max_queue_bytes,
            type=click.IntRange(1),
            help="Bytes of encoded images that may wait for a decoder.",
        ),
    )


def _with(command: Command, config: type, name: str, *options: Callable[[Command], Command]) -> Command:
    fields = [field.name for field in dataclasses.fields(config)]

    @functools.wraps(command)
    def configured(**given: Any) -> Any:
        try:
            made = config(**{field: given.pop(field) for field in fields})
        except InvalidConfig as error:
            raise click.UsageError(str(error)) from error
        return command(**given, **{name: made})

    decorated: Command = configured
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
