"""`python -m serving health`: the health check of a container."""

from __future__ import annotations

import click
import cloup

from serving.client import Client
from serving.client.credentials import Credentials
from serving.commands.cli import SETTINGS, examples, option, version_option
from serving.commands.client_options import call_errors_in_one_line, credential_options, target_option


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples("python -m serving health", "python -m serving health --target 127.0.0.1:50051 --timeout-s 60"),
)
@cloup.option_group(
    "Server",
    target_option,
    option(
        "--timeout-s",
        default=3.0,
        type=click.FloatRange(0, 86_400, min_open=True),
        help="How long to wait for the server, in seconds.",
    ),
)
@credential_options
@version_option()
def main(*, target: str, timeout_s: float, credentials: Credentials) -> None:
    """Waits until a server reports SERVING. Exit code 1 if it does not in time."""
    with call_errors_in_one_line(target), Client(target, credentials=credentials) as client:
        client.wait_until_serving(timeout_s)
    click.echo("SERVING")
